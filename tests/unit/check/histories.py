"""A small world that makes histories: two data centers, a mirror, producers and groups, and nothing going wrong.

`build` turns a history into evidence. A test takes a clean history, changes one thing in it and wants the judge
to see it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lab.check.loss import Claim, Loss
from lab.check.model import Attempt, Committed, Evidence, Outcome, Read, Seen, TopicPartition

STEP_NS = 1_000_000
TOPICS = {"orders": 3, "clicks": 2, "profiles": 2, "payments": 2}
COMPACTED = frozenset({"profiles"})


@dataclass
class History:
    """Evidence that can still be changed."""

    attempts: dict[int, Attempt] = field(default_factory=dict)
    logs: dict[str, dict[TopicPartition, list[Seen]]] = field(default_factory=dict)
    active: str = "dc-a"
    groups: list[Read | Committed] = field(default_factory=list)
    pinned: frozenset[str] = frozenset()
    blocked: dict[str, list[TopicPartition]] = field(default_factory=dict)

    def build(self) -> Evidence:
        names = tuple(sorted({event.group for event in self.groups}))
        return Evidence(
            self.attempts, self.logs, self.active, COMPACTED, list(self.groups), names, self.pinned, self.blocked
        )

    @property
    def standby(self) -> str:
        return next(dc for dc in self.logs if dc != self.active)


@dataclass
class _Side:
    name: str
    rng: random.Random
    records: dict[TopicPartition, list[Seen]]
    ends: defaultdict[TopicPartition, int] = field(default_factory=lambda: defaultdict(int))

    def append(self, tp: TopicPartition, seen: Seen) -> int:
        """Some offsets are taken by markers and aborted records, differently on each side."""
        self.ends[tp] += self.rng.choice((0, 0, 0, 1, 3))
        offset = self.ends[tp]
        self.records[tp].append(seen._replace(offset=offset))
        self.ends[tp] = offset + 1
        return offset


class World:
    """Makes a clean history, one era after the other."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.history = History()
        places = [(topic, partition) for topic, count in TOPICS.items() for partition in range(count)]
        self.sides = {
            name: _Side(name, self.rng, self.history.logs.setdefault(name, {tp: [] for tp in places}))
            for name in ("dc-a", "dc-b")
        }
        self.now = 1_000_000_000
        self.numbers = 0
        self.txns = 0
        self.seqs: defaultdict[tuple[str, str | None], int] = defaultdict(int)
        self.copied: dict[str, dict[TopicPartition, int]] = {name: dict.fromkeys(places, 0) for name in self.sides}
        self.read_up_to: dict[tuple[str, TopicPartition], int] = {}

    # --- producing ---

    def era(self, active: str, steps: int) -> None:
        """Producers write to `active`, the groups read there."""
        self.history.active = active
        for _ in range(steps):
            topic = self.rng.choice(("orders", "orders", "clicks", "profiles", "payments"))
            if topic == "payments":
                self._transaction(active)
            else:
                self._write(active, topic)
            if self.rng.random() < 0.2:
                self._read("live", active, behind=0)
            if self.rng.random() < 0.1:
                self._read("lag", active, behind=3)
        self._read("live", active, behind=0)
        self._read("lag", active, behind=1)

    def switchover(self, target: str) -> None:
        """Refusals, a drain, groups carried over; the mirror turns round."""
        source = self.history.active
        for _ in range(self.rng.randint(1, 4)):
            self._attempt(
                "p0", self.rng.choice(("orders", "clicks")), outcome=Outcome.FAIL, code="TOPIC_AUTHORIZATION_FAILED"
            )
        self.mirror(source, target)
        # What a side received by mirroring is not copied back.
        for tp, records in self.history.logs[target].items():
            self.copied[target][tp] = len(records)
        self.now += 100 * STEP_NS
        self.history.active = target

    def mirror(self, source: str, target: str, leave: int = 0) -> None:
        """Copy what `target` lacks, but for the last `leave` records of each partition."""
        for tp, records in self.history.logs[source].items():
            for seen in records[self.copied[source][tp] : max(0, len(records) - leave)]:
                self.sides[target].append(tp, seen)
                self.copied[source][tp] += 1

    def failover(self, target: str) -> None:
        """The active side is lost with a tail on some partitions; groups go on where they were some records ago."""
        source = self.history.active
        for tp, records in self.history.logs[source].items():
            leave = self.rng.choice((0, 1, 2, 4))
            for seen in records[self.copied[source][tp] : max(self.copied[source][tp], len(records) - leave)]:
                self.sides[target].append(tp, seen)
            there = self.history.logs[target][tp]
            self.copied[target][tp] = len(there)
            for group in ("live", "lag"):
                early = max(0, len(there) - self.rng.randint(0, 3))
                self.read_up_to[(group, tp)] = min(self.read_up_to.get((group, tp), 0), early)
        self.now += 1000 * STEP_NS
        self.history.active = target

    def compact(self, side: str) -> None:
        """Drop some of the records that a later one of the same key replaced."""
        for tp, records in self.history.logs[side].items():
            if tp[0] not in COMPACTED:
                continue
            last = {seen.key: index for index, seen in enumerate(records)}
            kept = [seen for index, seen in enumerate(records) if last[seen.key] == index or self.rng.random() < 0.5]
            gone = len(records) - len(kept)
            records[:] = kept
            self.copied[side][tp] = max(0, self.copied[side][tp] - gone)

    def _write(self, dc: str, topic: str) -> None:
        producer = self.rng.choice(("p0", "p1"))
        roll = self.rng.random()
        if roll < 0.04:
            written = self.rng.random() < 0.5
            number, attempt = self._attempt(producer, topic, outcome=Outcome.INFO, code="_MSG_TIMED_OUT")
            if written:
                self._place(dc, number, attempt)
            # The application tries the same record again.
            number, attempt = self._attempt(producer, topic, outcome=Outcome.OK, again=attempt)
        else:
            number, attempt = self._attempt(producer, topic, outcome=Outcome.OK)
        attempt.dc, attempt.partition = dc, self._partition(attempt)
        attempt.offset = self._place(dc, number, attempt)

    def _transaction(self, dc: str) -> None:
        self.txns += 1
        outcome = self.rng.choice((Outcome.OK, Outcome.OK, Outcome.OK, Outcome.FAIL, Outcome.INFO))
        visible = outcome is Outcome.OK or (outcome is Outcome.INFO and self.rng.random() < 0.5)
        for _ in range(3):
            number, attempt = self._attempt(
                "t0", "payments", outcome=outcome, code="" if outcome is Outcome.OK else "aborted"
            )
            attempt.txn = f"t0/{self.txns}"
            attempt.dc, attempt.partition = dc, self._partition(attempt)
            if visible:
                attempt.offset = self._place(dc, number, attempt)
            else:
                side = self.sides[dc]
                attempt.offset = side.ends[(attempt.topic, attempt.partition)]
                side.ends[(attempt.topic, attempt.partition)] += 1

    def _attempt(
        self, producer: str, topic: str, outcome: Outcome, code: str = "", again: Attempt | None = None
    ) -> tuple[int, Attempt]:
        self.numbers += 1
        self.now += STEP_NS
        if again is not None:
            key, seq = again.key, again.seq
        else:
            key = None if topic == "clicks" else f"{producer}-{topic}-{self.rng.randrange(4)}"
            seq = self.seqs[(topic, key)]
            if outcome is not Outcome.FAIL or producer == "t0":
                self.seqs[(topic, key)] += 1
        value = -1 if topic in COMPACTED and self.rng.random() < 0.2 else 1000 + self.numbers
        attempt = Attempt(
            producer, topic, key, seq, 5_000 + self.numbers, value, 70_000 + self.numbers, self.now, outcome, code=code
        )
        self.now += STEP_NS
        attempt.settled_ns = self.now
        self.history.attempts[self.numbers] = attempt
        return self.numbers, attempt

    def _partition(self, attempt: Attempt) -> int:
        count = TOPICS[attempt.topic]
        return sum(attempt.key.encode()) % count if attempt.key else attempt.timestamp % count

    def _place(self, dc: str, number: int, attempt: Attempt) -> int:
        seen = Seen(0, number, attempt.key, attempt.value, attempt.headers, attempt.timestamp)
        return self.sides[dc].append((attempt.topic, self._partition(attempt)), seen)

    # --- groups ---

    def _read(self, group: str, dc: str, behind: int) -> None:
        """Read on to `behind` records before the end and commit, or not commit and read that again."""
        for tp, records in self.history.logs[dc].items():
            start = self.read_up_to.get((group, tp), 0)
            for seen in records[start : max(start, len(records) - behind)]:
                self.now += 1
                self.history.groups.append(Read(self.now, group, dc, *tp, seen.offset, seen.attempt))
                start += 1
            if self.rng.random() < 0.7:
                self.now += 1
                end = records[start - 1].offset + 1 if start else 0
                self.history.groups.append(Committed(self.now, group, dc, *tp, end))
                self.read_up_to[(group, tp)] = start


def clean(seed: int = 1, eras: Sequence[str] = ("dc-a", "dc-b"), steps: int = 60, leave: int = 0) -> History:
    """A history in which everything went well; `leave` records a partition are not on the standby yet."""
    world = World(seed)
    for index, dc in enumerate(eras):
        if index:
            world.switchover(dc)
        world.era(dc, steps)
    active = world.history.active
    standby = next(side for side in world.sides if side != active)
    world.mirror(active, standby, leave)
    for group in ("live", "lag"):
        world._read(group, active, behind=0)
    world.compact("dc-a")
    world.compact("dc-b")
    return world.history


def failed_over(seed: int = 1, steps: int = 60) -> tuple[History, Loss]:
    """A history in which dc-a was lost and came back, and the report that tells exactly what it had for itself."""
    world = World(seed)
    world.era("dc-a", steps)
    world.failover("dc-b")
    world.era("dc-b", steps)
    for group in ("live", "lag"):
        world._read(group, "dc-b", behind=0)
    world.compact("dc-a")
    world.compact("dc-b")
    history = world.history
    return history, true_loss(history)


def true_loss(history: History) -> Loss:
    """What dc-a holds behind the last record of each partition that dc-b has too."""
    tails: dict[TopicPartition, Claim] = {}
    mirrored = {seen.attempt for records in history.logs["dc-b"].values() for seen in records}
    for tp, records in history.logs["dc-a"].items():
        common = max((n for n, seen in enumerate(records) if seen.attempt in mirrored), default=-1)
        if tail := records[common + 1 :]:
            tails[tp] = Claim(tail[0].offset, tail[-1].offset, len(tail))
    return Loss("dc-a", "dc-b", tails, bound=sum(claim.records for claim in tails.values()))


def change(history: History, dc: str, tp: TopicPartition, index: int, **fields: object) -> None:
    """Alter one record of one log."""
    records = history.logs[dc][tp]
    records[index] = records[index]._replace(**fields)  # type: ignore[arg-type]


def acknowledged(
    history: History, topics: Sequence[str] = ("orders", "clicks", "payments")
) -> list[tuple[int, Attempt]]:
    return [
        (number, attempt)
        for number, attempt in history.attempts.items()
        if attempt.outcome is Outcome.OK and attempt.topic in topics
    ]


def where(history: History, dc: str, number: int) -> tuple[TopicPartition, int]:
    """(partition, index) of an attempt in a log."""
    for tp, records in history.logs[dc].items():
        for index, seen in enumerate(records):
            if seen.attempt == number:
                return tp, index
    raise LookupError(f"attempt {number} is not on {dc}")


__all__ = [
    "COMPACTED",
    "History",
    "World",
    "acknowledged",
    "change",
    "clean",
    "failed_over",
    "replace",
    "true_loss",
    "where",
]
