"""One data center's Kafka cluster: its connections, and the ports they serve."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from confluent_kafka import Producer

from adapters.kafka.fence import KafkaProduceFence
from adapters.kafka.groups import KafkaConsumerGroups
from adapters.kafka.ledger import LANE as LEDGER_LANE
from adapters.kafka.ledger import KafkaLedger
from adapters.kafka.logs import KafkaLogs
from adapters.kafka.marker_fence import KafkaMarkerFence
from adapters.kafka.positions import LANE as POSITIONS_LANE
from adapters.kafka.positions import KafkaMirrorPositions
from adapters.kafka.tail import WARM
from adapters.kafka.transactions import KafkaTransactions
from adapters.kafka.wire import ACT, LOOK, REQUEST_TIMEOUT, Wire, secret
from dcdr.errors import DcdrError
from dcdr.settings import ConnectSettings, Credentials, Fence, KafkaSettings

log = logging.getLogger(__name__)

KEEP_UP: Final = timedelta(milliseconds=250)
"""Between two reads of the mirror's positions: what a call inside the outage finds unread is not older than this."""
KEEP_CONNECTED: Final = timedelta(seconds=20)
"""Between two looks at the connections: brokers close idle ones after ten minutes, and a cut link is found early."""


class KafkaCluster:
    """All Kafka ports of one data center; they share connections, metadata and one close.

    Call `warm` when the worker starts, `close` when it ends, both on the event loop that uses the ports.
    Ports: `fence`, `logs`, `transactions`, `groups`, `ledger`, `positions`.
    """

    def __init__(
        self,
        dc: str,
        settings: KafkaSettings,
        connect: ConnectSettings,
        fence: Fence = Fence.ACL,
        *,
        timeout: timedelta = REQUEST_TIMEOUT,
    ) -> None:
        self._dc = dc
        self._settings = settings
        self._wire = Wire(dc, settings.bootstrap, self._user(settings.admin), timeout=timeout)

        def speaking_as(canary: Credentials, client_id: str) -> Wire:
            user = self._user(canary)
            return Wire(dc, settings.bootstrap, user, timeout=timeout, client_id=client_id, directory=self._wire)

        canary = speaking_as(settings.canary, "dcdr-canary")
        mirror = speaking_as(settings.mirror_canary, "dcdr-mirror-canary") if settings.mirror_canary else None
        self._canaries = [canary, *([mirror] if mirror else [])]
        kind = KafkaProduceFence if fence is Fence.ACL else KafkaMarkerFence
        self.fence = kind(self._wire, canary, settings.canary_topic, mirror)
        self.logs = KafkaLogs(self._wire)
        self.transactions = KafkaTransactions(self._wire)
        self.groups = KafkaConsumerGroups(self._wire)
        self.ledger = KafkaLedger(self._wire, settings.ledger_topic, self._producer)
        self.positions = KafkaMirrorPositions(self._wire, connect.offsets_topic)
        self._watched = (settings.canary_topic, settings.ledger_topic, connect.offsets_topic)
        self._background: set[asyncio.Task[None]] = set()
        self._problems: tuple[str, ...] = ()
        self.is_warm = False
        """The last look at the connections and tails found all of them working."""

    async def warm(self) -> None:
        """Connect, read the tails to their ends, and keep all of it warm from now on, also when this attempt fails.

        Raises: UnreachableError when no broker answers; MisconfiguredError when a topic is missing or a user refused.
        """
        if not self._background:
            for name, interval, work in (
                ("positions", KEEP_UP, self.positions.keep_up),
                ("connections", KEEP_CONNECTED, self._warm),
            ):
                self._background.add(asyncio.create_task(self._repeat(work, interval), name=f"{self._dc} {name}"))
        await self._warm()

    async def close(self) -> None:
        tasks, self._background = self._background, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.ledger.close()
        for canary in self._canaries:
            await canary.close()
        await self._wire.close()

    async def _warm(self) -> None:
        self.is_warm = False
        problems = await self._wire.warm((LOOK, ACT, LEDGER_LANE, POSITIONS_LANE))
        # Their ids too: a tail starts over when somebody has created its topic anew.
        await self._wire.metadata(self._watched)
        for canary in self._canaries:
            problems += await canary.warm((LOOK,))
        if problems != self._problems:
            for problem in problems:
                log.warning("%s", problem)
            self._problems = problems
        await self.ledger.warm(WARM)
        await self.positions.keep_up(WARM)
        self.is_warm = not problems

    async def _repeat(self, work: Any, interval: timedelta) -> None:
        """For ever: trouble is said once, and again when it is over, not at every round."""
        said = ""
        while True:
            await asyncio.sleep(interval.total_seconds())
            try:
                await work()
            except DcdrError as error:
                if not said:
                    log.warning("%s: not warm: %s", self._dc, error)
                said = str(error)
            else:
                if said:
                    log.info("%s: warm again", self._dc)
                said = ""

    def _user(self, credentials: Credentials) -> Credentials | None:
        return credentials if self._settings.security_protocol == "SASL_PLAINTEXT" else None

    def _producer(self, more: Mapping[str, Any]) -> Producer:
        values: dict[str, Any] = {
            "bootstrap.servers": ",".join(self._settings.bootstrap),
            "security.protocol": self._settings.security_protocol,
            "client.id": "dcdr-ledger",
            "log_level": 0,  # what goes wrong comes back with the delivery; librdkafka would repeat it on stderr
            **more,
        }
        if (admin := self._user(self._settings.admin)) is not None:
            values |= {
                "sasl.mechanism": "PLAIN",
                "sasl.username": admin.username,
                "sasl.password": secret(self._dc, admin).decode(),
            }
        return Producer(values)
