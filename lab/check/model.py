"""What the judge reads: attempts, logs and what groups saw, as plain values.

Times are nanoseconds of one monotonic clock. Data centers are names, topics too; an attempt is known by a number
that is unique in all runs judged together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

TopicPartition = tuple[str, int]


class Outcome(StrEnum):
    """What a producer was told about an attempt.

    OK: acknowledged (and committed). FAIL: certainly not written, or certainly aborted. INFO: it may have been written.
    """

    OK = "ok"
    FAIL = "fail"
    INFO = "info"


@dataclass(slots=True)
class Attempt:
    """One send of one record. `dc`, `partition` and `offset` are where it was acknowledged; `settled_ns` is when."""

    producer: str
    topic: str
    key: str | None
    seq: int
    timestamp: int
    value: int
    headers: int
    sent_ns: int
    outcome: Outcome = Outcome.INFO
    dc: str = ""
    partition: int = -1
    offset: int = -1
    settled_ns: int = 0
    txn: str = ""
    code: str = ""

    @property
    def tombstone(self) -> bool:
        return self.value == -1


class Seen(NamedTuple):
    """One visible record of a log. `attempt` is None when the record does not name one of the runs judged.

    `timestamp` is None where the broker writes its own (LogAppendTime).
    """

    offset: int
    attempt: int | None
    key: str | None
    value: int
    headers: int
    timestamp: int | None


class Read(NamedTuple):
    """A group member received a record."""

    at_ns: int
    group: str
    dc: str
    topic: str
    partition: int
    offset: int
    attempt: int | None


class Committed(NamedTuple):
    """A commit of a group was acknowledged; `offset` is the next one to read."""

    at_ns: int
    group: str
    dc: str
    topic: str
    partition: int
    offset: int


Log = Mapping[TopicPartition, Sequence[Seen]]


@dataclass(frozen=True)
class Evidence:
    """Everything there is to judge by.

    `logs` holds, for each data center, every partition's records that a read-committed reader sees, in order.
    `compacted` names the topics judged by the last value of each key. `pinned` are producers that do not follow the
    endpoint. `blocked` are partitions whose log could not be read to its end because a transaction is open in it.
    """

    attempts: Mapping[int, Attempt]
    logs: Mapping[str, Log]
    active: str
    compacted: frozenset[str] = frozenset()
    groups: Sequence[Read | Committed] = ()
    group_names: tuple[str, ...] = ()
    pinned: frozenset[str] = frozenset()
    blocked: Mapping[str, Sequence[TopicPartition]] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)

    def label(self, attempt: int | None) -> str:
        return "-" if attempt is None else self.labels.get(attempt, str(attempt))


@dataclass(frozen=True)
class Demands:
    """What the judge is to insist on.

    switchovers: how often the acknowledgements must have changed sides; None: not said.
    min_acks: acknowledgements wanted in every stretch on one side, so that a check of nothing does not pass.
    standby_complete: the other side must hold everything too.
    rereads: for each group, how many committed records it may receive again (default: none).
    foreign: records that no judged run wrote are counted but allowed.
    """

    switchovers: int | None = None
    min_acks: int = 1
    standby_complete: bool = False
    rereads: Mapping[str, int] = field(default_factory=dict)
    foreign: bool = False
    samples: int = 10


class Kind(StrEnum):
    """Kinds of anomaly."""

    MISSING = "missing"
    STANDBY_MISSING = "standby-missing"
    DUPLICATED = "duplicated"
    REORDERED = "reordered"
    ALTERED = "altered"
    MOVED = "moved"
    OLD_ONLY = "old-only"
    PHANTOM = "phantom"
    STALE = "stale"
    TORN = "torn"
    TWO_WRITERS = "two-writers"
    SKIPPED = "skipped"
    REREAD = "re-read"
    NOT_LOST = "not-lost"
    HOLE = "hole"
    MISREPORTED = "misreported"
    BEYOND_BOUND = "beyond-bound"


MEANING = {
    Kind.MISSING: "acknowledged, and not on the active side",
    Kind.STANDBY_MISSING: "acknowledged, and not on the standby that must be complete",
    Kind.DUPLICATED: "one attempt more than once in one log",
    Kind.REORDERED: "against the order of its key, or of the other side's log",
    Kind.ALTERED: "key, value, headers, timestamp or partition differ from what was sent",
    Kind.MOVED: "not at the offset where it was acknowledged",
    Kind.OLD_ONLY: "visible on the standby, and not on the active side",
    Kind.PHANTOM: "visible, though refused, aborted or never sent",
    Kind.STALE: "compacted topic: the last value of a key is not the last acknowledged one",
    Kind.TORN: "only a part of a transaction is visible",
    Kind.TWO_WRITERS: "acknowledged on one side while the other was acknowledging too",
    Kind.SKIPPED: "a group went past it without receiving it",
    Kind.REREAD: "a group received it again after committing it",
    Kind.NOT_LOST: "the loss report names it, and it is on the active side",
    Kind.HOLE: "left behind, although a later record of its partition was not",
    Kind.MISREPORTED: "the old side's log does not hold what the loss report says of this partition",
    Kind.BEYOND_BOUND: "lost beyond the bound that was told before the active side opened",
}


class Anomaly(NamedTuple):
    """One offending record."""

    kind: Kind
    dc: str
    topic: str
    partition: int
    offset: int
    attempt: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind} {self.dc} {self.topic}-{self.partition}@{self.offset} {self.attempt}: {self.detail}"


@dataclass
class Verdict:
    """What the judge found. `counts` has every kind; `samples` the first of each; `vacuous` why nothing was proven."""

    counts: dict[Kind, int]
    samples: list[Anomaly]
    vacuous: list[str]
    facts: dict[str, object]

    @property
    def clean(self) -> bool:
        return not any(self.counts.values()) and not self.vacuous

    @property
    def exit_code(self) -> int:
        """0 clean, 1 anomalies, 3 nothing wrong was found and nothing was proven."""
        if any(self.counts.values()):
            return 1
        return 3 if self.vacuous else 0
