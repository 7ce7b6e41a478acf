"""Just enough world for the steps' guard: a lease that changes when a test says so, and a fence that remembers."""

from __future__ import annotations

from typing import cast

from dcdr.errors import DcdrError
from dcdr.model import LeaseRecord, Operation, Phase, StoredLease
from dcdr.ports import Directory, LeaseStore, ProduceFence, Scope

OPERATION = Operation(scope="lab", id="op-1", epoch=1, source="dc-a", target="dc-b")
OPEN_A = LeaseRecord(scope="lab", holder="dc-a", epoch=1)
DRAINING = OPEN_A.model_copy(
    update={
        "phase": Phase.DRAINING,
        "op_id": "op-1",
        "op_source": "dc-a",
        "op_target": "dc-b",
        "closed": True,
        "seq": 1,
    }
)
MOVED = DRAINING.model_copy(
    update={"phase": Phase.OPEN, "holder": "dc-b", "epoch": 2, "closed": False, "seq": 2, "ledger": "d"}
)
UNDONE = OPEN_A.model_copy(update={"seq": 3, "turn": 1})


class FakeLease:
    """A lease store of one record; `script` changes it, or fails, at the reads it names (counted from 1)."""

    def __init__(self, record: LeaseRecord | None, script: dict[int, LeaseRecord | DcdrError] | None = None) -> None:
        self.record, self.revision, self.reads = record, 1, 0
        self.script = script or {}

    def becomes(self, record: LeaseRecord) -> None:
        self.record, self.revision = record, self.revision + 1

    async def read(self, scope: str) -> StoredLease | None:
        self.reads += 1
        planned = self.script.get(self.reads)
        if isinstance(planned, DcdrError):
            raise planned
        if planned is not None:
            self.becomes(planned)
        return None if self.record is None else StoredLease(self.record, self.revision)


class FakeFence:
    """The users' and the groups' gate of one data center, and every call so far; `trouble` makes the next ones fail."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.trouble: list[DcdrError] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.trouble:
            raise self.trouble.pop(0)

    async def close_users(self) -> None:
        self._call("close users")

    async def open_users(self) -> None:
        self._call("open users")

    async def freeze_groups(self) -> None:
        self._call("freeze groups")

    async def thaw_groups(self) -> None:
        self._call("thaw groups")

    @property
    def port(self) -> ProduceFence:
        return cast(ProduceFence, self)


class OneScope:
    """A directory of one scope that has a lease and nothing else."""

    def __init__(self, lease: FakeLease) -> None:
        self._scope = cast(Scope, _Bare(cast(LeaseStore, lease)))

    def scope(self, name: str) -> Scope:
        return self._scope

    def names(self) -> tuple[str, ...]:
        return ("lab",)

    @property
    def port(self) -> Directory:
        return cast(Directory, self)


class _Bare:
    name = "lab"

    def __init__(self, lease: LeaseStore) -> None:
        self.lease = lease
