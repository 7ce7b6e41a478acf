"""A world with agents where dc-a can be lost: dc-b's keeper, its journal, and time that a test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from adapters.memory import MemoryWorld, memory_directory
from adapters.memory.ports import MemoryIntentStore, MemoryLeaseStore
from adapters.memory.store import WorldFile
from agent.failover import LoneFailover
from agent.journal import Journal
from agent.keeper import Keeper
from dcdr import tenure
from dcdr.bounds import PRESETS, Preset
from dcdr.model import LeaseRecord, Operation, OperationKind, Phase
from dcdr.ports import Scope

T0 = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
FAILOVER = Operation(scope="lab", id="op-6", epoch=1, turn=1, source="dc-a", target="dc-b", kind=OperationKind.FAILOVER)
SOURCE_MIRROR, CHECKPOINTS = "mm2-source.dc-a-to-dc-b", "mm2-checkpoint.dc-a-to-dc-b"
HEARTBEATS = "mm2-heartbeat.dc-a-to-dc-b"


class Failing:
    """Not `gated`: the scope's fence is ACLs, although agents keep its lease."""

    def __init__(
        self, path: Path, *, after: timedelta | None = timedelta(seconds=30), gated: bool = True, **world: Any
    ) -> None:
        self.world = MemoryWorld.create(path, open_transaction=False, agents=True, gated=gated, **world)
        self.directory, self.file = memory_directory(path), WorldFile(path)
        self.time, self.opened = 0.0, 0
        self.keeper = Keeper(
            "dc-b", "lab", MemoryLeaseStore(self.file), MemoryIntentStore(self.file), PRESETS[Preset.TEST],
            clock=lambda: self.time, now=self.now,
        )  # fmt: skip
        self.journal = Journal(
            "dc-b", self.keeper, self.connected, timedelta(seconds=2), now=self.now, clock=lambda: self.time
        )
        self.alone = LoneFailover("dc-b", "dc-a", self.keeper, self.connected, after, now=self.now)

    def now(self) -> datetime:
        return T0 + timedelta(seconds=self.time)

    @property
    def scope(self) -> Scope:
        return self.directory.scope("lab")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Scope]:
        self.opened += 1
        yield self.scope

    @property
    def record(self) -> LeaseRecord:
        record = self.world.lease()
        assert record is not None
        return record

    async def beat(self) -> None:
        while await self.keeper.beat(True):
            pass

    async def looks(self, count: int = 2) -> None:
        """The standby's agent looks, two seconds apart."""
        for _ in range(count):
            self.time += 2.0
            await self.beat()
            await self.journal.look()

    async def lost(self) -> None:
        """dc-a is cut off for good, and dc-b's agent has taken the lease."""
        self.world.cut_off("dc-a")
        self.world.set_rules("dc-a", users_denied=True)  # it is dead, or has closed by itself
        self.time += 7.0
        self.world.set_lease(tenure.takeover(self.record, "dc-b", 1, self.now(), 7.0).model_dump_json())
        await self.beat()

    async def take_up(self) -> None:
        """As the workflow's first step leaves the record."""
        taken = self.record.model_copy(
            update={
                "op_id": FAILOVER.id, "op_source": "dc-a", "op_target": "dc-b", "op_kind": OperationKind.FAILOVER,
                "deadline": self.now() + timedelta(minutes=1), "seq": self.record.seq + 1,
            }
        )  # fmt: skip
        self.world.set_lease(taken.model_dump_json())
        await self.beat()

    async def alone_looks(self) -> None:
        """The agent looks after an abandoned failover while its keeper beats beside it, and opens users when told to:
        the stand-in has no authorizer that would follow the marker."""
        beats = asyncio.create_task(self.keeper.keep(lambda: True))
        try:
            await self.alone.look()
        finally:
            beats.cancel()
            with suppress(asyncio.CancelledError):
                await beats

    @property
    def open(self) -> tuple[Phase, bool, bool, str | None]:
        """(phase, users of dc-b, their consumers, where clients are sent)."""
        world = self.world
        return self.record.phase, world.users_open("dc-b"), not world.groups_frozen("dc-b"), world.endpoint().dc
