"""Synthetic partition logs for the property tests: what is in them, and what a read_committed reader sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations_with_replacement, product

from hypothesis import strategies as st

from dcdr.model import OffsetRange, Operation, RecordDigest, VisibleRecords

OPERATION = Operation(scope="lab", id="op-1", epoch=1, source="dc-a", target="dc-b")


class Kind(StrEnum):
    DATA = "data"
    MARKER = "marker"
    ABORTED = "aborted"
    HOLE = "hole"
    """Compacted away: the offset exists no more."""


@dataclass(frozen=True)
class Log:
    """Offsets `start, start + 1, ...`, one kind each; the log end follows the last one."""

    start: int
    kinds: tuple[Kind, ...]

    @property
    def end(self) -> int:
        return self.start + len(self.kinds)

    def visible(self, first: int, end: int) -> list[int]:
        """Offsets of the records a read_committed consumer gets from `[first, end)`."""
        return [
            self.start + i for i, kind in enumerate(self.kinds) if kind is Kind.DATA and first <= self.start + i < end
        ]

    def read(self, asked: OffsetRange, limit: int) -> VisibleRecords:
        """As `Logs.visible` of one partition."""
        offsets = self.visible(asked.first, asked.end)
        records = tuple(RecordDigest(offset, b"") for offset in offsets[:limit])
        return VisibleRecords(records, complete=len(offsets) <= limit)


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Runs of data, markers, aborted records and holes, so that logs often end in something invisible."""
    start = draw(st.sampled_from([0, 0, 1, 7]))
    runs = draw(st.lists(st.tuples(st.sampled_from(Kind), st.integers(1, 4)), max_size=6))
    return Log(start, tuple(kind for kind, length in runs for _ in range(length)))


@dataclass(frozen=True)
class Record:
    """A record as an application wrote it; two with the same content cannot be told apart."""

    key: str
    value: int

    @property
    def digest(self) -> bytes:
        return f"{self.key}={self.value}".encode()

    def at(self, offset: int) -> RecordDigest:
        return RecordDigest(offset, self.digest, self.key.encode())


Side = tuple[tuple[int, int], ...]
"""What a side holds, oldest first: (the record's number, its offset there)."""


@dataclass(frozen=True)
class Copies:
    """The same records on two sides, and where the target's log ends."""

    records: tuple[Record, ...]
    source: Side
    target: Side
    target_end: int

    def ahead(self, position: int) -> list[RecordDigest]:
        """What a group that has read the records before number `position` finds on the source."""
        return [self.records[number].at(offset) for number, offset in self.source if number >= position]

    def there(self, at_least: int, more: int) -> list[RecordDigest]:
        """The target's last `at_least + more` records, as the step reads them."""
        last = self.target[max(0, len(self.target) - at_least - more) :]
        return [self.records[number].at(offset) for number, offset in last]


def cleaned(records: Sequence[Record], to: int) -> list[int]:
    """Numbers of the records left after the cleaner ran over the first `to`: the last one of each key there stays."""
    last = {record.key: number for number, record in enumerate(records[:to])}
    return [number for number, record in enumerate(records) if number >= to or last[record.key] == number]


@st.composite
def copies(draw: st.DrawFn, *, compacted: bool = False, replayed: bool = False) -> Copies:
    """One log on two sides, with markers at other places.

    `compacted`: each side cleaned to its own extent. `replayed`: a mirror without exactly-once went back once and
    copied a run of records again; the target may have been cleaned after that.
    """
    content = st.tuples(st.sampled_from("abc"), st.integers(0, 1))
    records = tuple(Record(key, value) for key, value in draw(st.lists(content, max_size=12)))

    def placed(numbers: Sequence[int]) -> tuple[Side, int]:
        offset, side = draw(st.integers(0, 3)), []
        for number in numbers:
            offset += draw(st.sampled_from([0, 0, 0, 1, 2]))
            side.append((number, offset))
            offset += 1
        return tuple(side), offset + draw(st.integers(0, 2))

    def extent() -> int:
        return draw(st.integers(0, len(records))) if compacted else 0

    source, _ = placed(cleaned(records, extent()))
    there = cleaned(records, extent())
    if replayed and there:
        failed = draw(st.integers(1, len(there)))
        there = there[:failed] + there[draw(st.integers(0, failed)) :]
        if compacted:
            kept = cleaned([records[number] for number in there], draw(st.integers(0, len(there))))
            there = [there[at] for at in kept]
    target, end = placed(there)
    return Copies(records, source, target, end)


def every_log(length: int, *, distinct: bool) -> Iterator[tuple[Record, ...]]:
    """Every log of so many records over three keys, up to their names. `distinct`: no two with the same content."""

    def longer(log: tuple[Record, ...]) -> Iterator[tuple[Record, ...]]:
        if len(log) == length:
            yield log
            return
        keys = len({record.key for record in log})
        for key in "abc"[: keys + 1]:
            values = {record.value for record in log if record.key == key}
            for value in [len(log)] if distinct else range(min(len(values) + 1, 2)):
                yield from longer((*log, Record(key, value)))

    return longer(())


def every_copy(length: int, returns: int, *, compacted: bool = False, distinct: bool = False) -> Iterator[Copies]:
    """Every log of so many records, and all that a mirror which went back up to `returns` times makes of it.

    `compacted`: the source is cleaned between the mirror's runs and after the last one, and the target at any time.
    """
    extents = range(length + 1) if compacted else (0,)
    for records in every_log(length, distinct=distinct):
        views = [cleaned(records, extent) for extent in extents]
        sides = set()
        for stages in combinations_with_replacement(views, returns + 2):
            seen, last = stages[:-1], stages[-1]
            for failed, again in product(product(range(length + 1), repeat=returns), repeat=2):
                runs = list(zip((0, *again), (*failed, length), seen, strict=True))
                if any(back > reached for reached, back in zip(failed, again, strict=True)):
                    continue
                there = [number for first, end, view in runs for number in view if first <= number < end]
                for extent in range(len(there) + 1) if compacted else (0,):
                    left = cleaned([records[number] for number in there], extent)
                    sides.add((tuple(last), tuple(there[at] for at in left)))
        for source, target in sorted(sides):
            side = tuple((number, at) for at, number in enumerate(target))
            yield Copies(records, tuple((number, number) for number in source), side, len(side))
