"""What an agent does for the mirror towards its data center: start again what died of something that has passed.

The mirror's gate closes wherever the lease cannot be confirmed. Connect's tasks take the refusal for final and stay
FAILED, so the mirror would stand still after the lease is back until a person looks. The same goes for a transaction
that the broker and the task's producer do not agree on: a new producer begins with a clean one, and with exactly-once
the task goes on where its last commit ended.
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
PASSING = ("AuthorizationException", "InvalidTxnStateException")
"""In a task's trace (Kafka 4.3.1, `org.apache.kafka.common.errors`): every refusal of an authorizer ends in the first;
the second met a task half a second after its start, whose commit found its transaction committed already."""


class MirrorKeeper:
    """Restarts what a restart mends of `connectors`, which `connect` runs, while `keeper` lets the mirror in.

    What failed for another reason is left as it is: that is for people, and preflight names it.
    """

    def __init__(self, dc: str, keeper: Keeper, connect: MirrorControl, connectors: Collection[str]) -> None:
        self._dc, self._keeper, self._connect, self._connectors = dc, keeper, connect, connectors

    async def watch(self) -> None:
        """Look for ever."""
        await for_ever(self.look, LOOK_SECONDS, log, f"{self._dc}: the mirror was not looked at")

    async def look(self) -> None:
        """Restart once what failed in passing. An operation has the connectors to itself: nothing is done meanwhile.

        Raises: DcdrError when Connect cannot be asked; looking again goes on.
        """
        record = self._keeper.known.record
        if record is None or record.op_id is not None or self._keeper.marker().role is not Role.STANDBY:
            return
        known = await self._connect.connectors()
        for name in self._connectors:
            if name in known and (why := passed(known[name])):
                log.warning("%s: %s failed with %s: restarting it", self._dc, name, why)
                await self._connect.restart(name, only_failed=True)


def passed(connector: Connector) -> str | None:
    """Which of `PASSING` made `connector` or a task of it fail, if any. One that is stopped is left alone."""
    return next((why for why in PASSING if why in connector.trace), None) if connector.failed else None
