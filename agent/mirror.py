"""What an agent does for the mirror towards its data center: let its tasks in again that the gate had shut out.

The mirror's gate closes wherever the lease cannot be confirmed. Connect's tasks take the refusal for final and stay
FAILED, so the mirror would stand still after the lease is back until a person looks.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from agent.keeper import Keeper
from agent.looking import for_ever
from dcdr.marker import Role
from dcdr.model import Connector
from dcdr.ports import MirrorControl

log = logging.getLogger("dcdr.mirror")

LOOK_SECONDS = 15.0
REFUSAL = "AuthorizationException"
"""In a task's trace: every refusal of an authorizer ends in this word (Kafka 4.3.1,
`org.apache.kafka.common.errors`)."""


class MirrorKeeper:
    """Restarts what the gate had shut out of `connectors`, which `connect` runs, while `keeper` lets the mirror in.

    What failed for another reason is left as it is: that is for people, and preflight names it.
    """

    def __init__(self, dc: str, keeper: Keeper, connect: MirrorControl, connectors: Collection[str]) -> None:
        self._dc, self._keeper, self._connect, self._connectors = dc, keeper, connect, connectors

    async def watch(self) -> None:
        """Look for ever."""
        await for_ever(self.look, LOOK_SECONDS, log, f"{self._dc}: the mirror was not looked at")

    async def look(self) -> None:
        """Restart once what was shut out. An operation has the connectors to itself: nothing is done while one runs.

        Raises: DcdrError when Connect cannot be asked; looking again goes on.
        """
        record = self._keeper.known.record
        if record is None or record.op_id is not None or self._keeper.marker().role is not Role.STANDBY:
            return
        known = await self._connect.connectors()
        for name in self._connectors:
            if name in known and shut_out(known[name]):
                log.warning("%s: %s was shut out while the lease was not confirmed: restarting it", self._dc, name)
                await self._connect.restart(name, only_failed=True)


def shut_out(connector: Connector) -> bool:
    """Whether an authorizer's refusal made `connector` or a task of it fail. One that is stopped is left alone."""
    return connector.failed and REFUSAL in connector.trace
