"""Consumer groups: frozen on the source, placed and read back on the target."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from temporalio import activity

from activities.counting import Counted, Position, count
from activities.step import Steps, Stopwatch, both
from dcdr import drain, translate
from dcdr.book import LedgerBook
from dcdr.errors import ConflictError, InvalidRequestError, PermanentError, TransientError
from dcdr.lease import Standing
from dcdr.model import (
    CommittedOffset,
    Cut,
    CutRow,
    GroupKind,
    GroupPositions,
    GroupResult,
    GroupsResult,
    GroupVerdict,
    LogEnds,
    OffsetRange,
    RecordDigest,
    Spans,
    StepInput,
    TopicPartition,
    VisibleRecords,
)
from dcdr.plan import carried, skipped
from dcdr.ports import Directory, Member, Scope
from dcdr.settle import FIRST_WAIT

OLD_SIDE_SECONDS = 20.0
"""After the handover the old side may die. Silent for this long in total, it is not asked any more: consumers wait."""
LONGEST_PAUSE = 1.0
NOTES = 5
"""Of the remarks on a group, which may have one for each of its partitions, so many are told."""

T = TypeVar("T")
Positions = Mapping[TopicPartition, CommittedOffset]


class GroupActivities(Steps):
    """`keep`, `place`: every group resumes at its exact position, or the report names it and the bound."""

    def __init__(self, directory: Directory, book: LedgerBook) -> None:
        super().__init__(directory)
        self._book = book

    @activity.defn(name="groups.keep")
    async def keep(self, step: StepInput) -> GroupsResult:
        """Before the handover: write where the groups stand, frozen, to the target's ledger topic.

        So what follows does not depend on the source. Nothing is placed yet: that needs the ledger entry, and
        producers need not wait for it. The groups' gate on the target stays closed until it is done.
        """
        async with self.holding(step.operation, Standing.DRAINING, lasting=False) as scope:
            watch = Stopwatch()
            source, _ = both(scope, step.operation)
            found = _kept(step, *(await _standing(scope, source)))
            entry = await self._book.keep(scope, found)
            groups = len(found.committed)
            note = f"{groups} groups" + (f", {len(found.skipped)} skipped" if found.skipped else "")
            return GroupsResult(**watch.so_far(), entry=entry, note=note, counts={"groups": groups})

    @activity.defn(name="groups.place")
    async def place(self, step: StepInput) -> GroupsResult:
        """After the opening, before consumers are let in: place and report every group, with the whole budget.

        The positions are those that `keep` wrote, and only the contents are asked of the old side, which may be
        dead: then MM2's own value counts. A repeated step that finds the gate open touches nothing, for positions
        belong to the consumers from then on; it reports what can still be seen.
        """
        async with self.holding(step.operation, Standing.MOVED) as scope:
            watch = Stopwatch()
            if step.entry is None:
                raise InvalidRequestError("groups.place needs the ledger entry the handover named")
            source, target = both(scope, step.operation)
            open_already = not (await target.fence.rules()).groups_denied
            ledger = await self._book.read(scope, step.operation, step.entry)
            old = _OldSide(source, OLD_SIDE_SECONDS)
            known = await self._book.positions(scope, step.operation)
            if known is None and (stand := await old.ask(lambda: _standing(scope, source))) is not None:
                known = _kept(step, *stand)
            if known is None or open_already:
                results = await _seen(
                    scope, target, ledger, known, "consumers were let in already" if open_already else old.why
                )
            else:
                placer = _Placer(old, target, ledger, scope.timing.lagging_group_budget)
                placed = await placer.place(known.by_group)
                if not (await target.fence.rules()).groups_denied:
                    raise ConflictError(f"consumers were let in on {target.name} meanwhile: no position is touched")
                await _write(target, placed.offsets)
                results = [placed.results[name] for name in sorted(placed.results)]
            left_out = known.skipped if known is not None else skipped(scope, await target.groups.groups())
            exact = sum(result.verdict is GroupVerdict.EXACT for result in results)
            counts = {"groups": len(results), "exact": exact, "skipped": len(left_out)}
            note = "; ".join(
                [
                    f"{exact} of {len(results)} groups exact",
                    *([f"{len(left_out)} skipped"] if left_out else []),
                    *(["consumers were let in already"] if open_already else []),
                    *([old.why] if old.why else []),
                ]
            )
            return GroupsResult(
                **watch.so_far(), entry=step.entry, groups=(*results, *left_out), note=note, counts=counts
            )


async def _standing(scope: Scope, source: Member) -> tuple[Mapping[str, Positions], tuple[GroupResult, ...]]:
    """Where the carried groups stand on the source, and those that are not carried."""
    groups = await source.groups.groups()
    names = [group.name for group in carried(scope, groups) if group.kind is GroupKind.CONSUMER]
    return await source.groups.committed(names), skipped(scope, groups)


def _kept(step: StepInput, committed: Mapping[str, Positions], left_out: tuple[GroupResult, ...]) -> GroupPositions:
    rows: dict[str, dict[str, dict[int, CommittedOffset]]] = {}
    for name, positions in sorted(committed.items()):
        topics = rows.setdefault(name, {})
        for place, position in sorted(positions.items()):
            topics.setdefault(place.topic, {})[place.partition] = position
    return GroupPositions(operation=step.operation, committed=rows, skipped=left_out)


class _OldSide:
    """The source as the placing of groups asks it. With `patience` (seconds) it may be dead: then `why` says so.

    A question that is being answered takes the time it needs; every request of it has its own deadline.
    """

    def __init__(self, source: Member, patience: float | None = None) -> None:
        self._source, self._patience = source, patience
        self._began = time.monotonic()
        self.why = ""

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T | None:
        """The answer; None once the patience is at its end, or where the old side cannot answer at all."""
        wait = FIRST_WAIT
        while not self.why:
            try:
                return await question()
            except TransientError:
                if self._patience is None:
                    raise
                if time.monotonic() - self._began >= self._patience:
                    self.why = f"{self._source.name} did not answer"
            except PermanentError as error:  # the step must not fail for good any more: consumers wait for it
                if self._patience is None:
                    raise
                self.why = str(error)
            await asyncio.sleep(0 if self.why else wait)
            wait = min(wait * 1.5, LONGEST_PAUSE)
        return None

    async def visible(
        self, ranges: Mapping[TopicPartition, OffsetRange], limit: int
    ) -> Mapping[TopicPartition, VisibleRecords] | None:
        return await self.ask(lambda: self._source.logs.visible(ranges, limit=limit))

    async def spans(self, ranges: Mapping[TopicPartition, OffsetRange]) -> Mapping[TopicPartition, Spans] | None:
        return await self.ask(lambda: self._source.logs.spans(ranges))


async def _seen(scope: Scope, target: Member, ledger: Cut, known: GroupPositions | None, why: str) -> list[GroupResult]:
    """The groups by what the target holds for them, where nothing is placed any more, or can be.

    Shown is a group that stood at the log end and stands at the target's or beyond. Without known positions nobody can
    say where a group stood; shown is then one that has nothing left to read.
    """
    if known is not None:
        positions: Mapping[str, Positions] = known.by_group
        there = await target.groups.committed(list(positions))
    else:
        groups = carried(scope, await target.groups.groups())
        positions = there = await target.groups.committed([g.name for g in groups if g.kind is GroupKind.CONSUMER])
    results = []
    for name, offsets in sorted(positions.items()):
        rows = {place: row for place, row in ledger.by_partition.items() if place in offsets}
        open_ends = []
        for place, row in rows.items():
            at = there.get(name, {}).get(place)
            read_all = known is None or drain.read_all(row, offsets[place].offset)
            if not read_all or at is None or row.target_end is None or at.offset < row.target_end:
                open_ends.append(row)
        results.append(
            GroupResult(
                group=name,
                verdict=GroupVerdict.APPROXIMATE if open_ends else GroupVerdict.EXACT,
                partitions=len(rows),
                lag=0 if known is None else sum(max(0, row.end - offsets[place].offset) for place, row in rows.items()),
                bound=sum(row.end - row.start for row in open_ends),
                note=f"{why}: where it was placed cannot be shown again"
                if open_ends
                else f"read back on {target.name}",
            )
        )
    return results


async def _write(target: Member, offsets: Mapping[str, Positions]) -> None:
    """Write and read back."""
    await asyncio.gather(*(target.groups.write(name, positions) for name, positions in offsets.items() if positions))
    await _read_back(target, offsets)


async def _read_back(target: Member, wanted: Mapping[str, Positions]) -> None:
    """Raises: ConflictError when the target's coordinator says something else than was written."""
    found = await target.groups.committed([name for name, offsets in wanted.items() if offsets])
    for name, offsets in wanted.items():
        for place, position in offsets.items():
            there = found.get(name, {}).get(place)
            if there is None or there.offset != position.offset:
                raise ConflictError(
                    f"group {name} on {target.name}: wrote {position.offset} for {place}, read back {there}"
                )


@dataclass
class _Placed:
    offsets: dict[str, dict[TopicPartition, CommittedOffset]] = field(default_factory=dict)
    results: dict[str, GroupResult] = field(default_factory=dict)


class _Placer:
    """Places all groups at once, so that each partition of each side is read once, however many groups it has."""

    def __init__(self, old: _OldSide, target: Member, ledger: Cut, budget: int) -> None:
        self._old, self._target, self._budget = old, target, budget
        self._rows = ledger.by_partition
        self._unanswered: frozenset[TopicPartition] = frozenset()
        self._counted: Mapping[Position, Counted] = {}

    async def place(self, committed: Mapping[str, Positions]) -> _Placed:
        self._counted = await count(
            self._open_positions(committed), self._rows, self._old.spans, self._old.visible, self._target.logs
        )
        lowest = self._lowest(committed)
        ahead = await self._ahead(lowest)
        behind = await self._behind(ahead)
        starts, theirs = await self._fallbacks(committed, ahead)
        placed = _Placed()
        for name, positions in committed.items():
            offsets: dict[TopicPartition, CommittedOffset] = {}
            lag, bound, notes, verdict = 0, 0, set(), GroupVerdict.EXACT
            for place, position in positions.items():
                row = self._rows.get(place)
                if row is None or row.target_end is None:
                    continue
                mm2 = theirs.get(name, {}).get(place)
                start = starts[place].start if place in starts else 0
                if position.offset > row.end:
                    verdict = GroupVerdict.APPROXIMATE
                    more, note = translate.beyond_end(position.offset, row, mm2.offset if mm2 else None, start)
                    bound += more
                    notes.add(f"{place}: {note}")
                    continue
                if note := translate.below_start(position.offset, row):
                    notes.add(f"{place}: {note}")
                found, unread = None, self._unread(ahead, place, position)
                counted = self._counted.get(Position(place, max(position.offset, row.start)))
                if counted is not None:
                    lag += counted.ahead
                    found = translate.Placement(counted.offset, GroupVerdict.EXACT, 0)
                elif unread is not None:
                    lag += len(unread)
                    found = translate.place(unread, behind.get(place, ()), row.target_end)
                else:
                    lag += row.end - max(position.offset, row.start)
                if found is None and unread is None and place in self._unanswered:
                    notes.add(f"not placed exactly: {self._old.why}")
                if found is None:
                    found = translate.fallback(mm2.offset if mm2 else None, start, row.target_end)
                if found.verdict is not GroupVerdict.EXACT:
                    verdict = found.verdict
                if found.note:
                    notes.add(found.note)
                bound += found.bound
                offsets[place] = CommittedOffset(found.offset, position.metadata)
            placed.offsets[name] = offsets
            placed.results[name] = GroupResult(
                group=name,
                verdict=verdict,
                partitions=len(offsets),
                lag=lag,
                bound=bound,
                note=_remarks(notes),
            )
        return placed

    def _open_positions(self, committed: Mapping[str, Positions]) -> dict[TopicPartition, set[int]]:
        """Where groups stand that have something left to read, within the budget: one far behind spoils no other."""
        found: dict[TopicPartition, set[int]] = {}
        for positions in committed.values():
            for place, position in positions.items():
                row = self._rows.get(place)
                if row is None or drain.read_all(row, position.offset):
                    continue
                first = max(position.offset, row.start)
                if 0 < row.end - first <= self._budget:
                    found.setdefault(place, set()).add(first)
        return found

    def _lowest(self, committed: Mapping[str, Positions]) -> dict[TopicPartition, int]:
        """Where reading content begins: at the lowest position that could not be placed by counting."""
        return {
            place: min(left)
            for place, positions in self._open_positions(committed).items()
            if (left := {offset for offset in positions if Position(place, offset) not in self._counted})
        }

    def _unread(
        self, ahead: Mapping[TopicPartition, tuple[RecordDigest, ...]], place: TopicPartition, position: CommittedOffset
    ) -> list[RecordDigest] | None:
        """The visible records from `position` to the cut; None where they are not known, or it is beyond the end."""
        row = self._rows[place]
        if drain.read_all(row, position.offset):
            return []
        if position.offset > row.end or row.end - max(position.offset, row.start) > self._budget or place not in ahead:
            return None
        return [record for record in ahead[place] if record.offset >= position.offset]

    async def _ahead(self, lowest: Mapping[TopicPartition, int]) -> dict[TopicPartition, tuple[RecordDigest, ...]]:
        """Visible records of the source from there to the cut, as far as they could be read."""
        ranges = {place: OffsetRange(first, self._rows[place].end) for place, first in lowest.items()}
        found = await self._old.visible(ranges, self._budget) if ranges else {}
        if found is None:
            self._unanswered = frozenset(ranges)
            return {}
        return {place: seen.records for place, seen in found.items() if seen.complete}

    async def _behind(
        self, ahead: Mapping[TopicPartition, tuple[RecordDigest, ...]]
    ) -> dict[TopicPartition, tuple[RecordDigest, ...]]:
        """The target's last visible records, at least as many a partition as a group there may still have to read.

        Offsets of the target hold transaction markers between the records, so the read starts further back and is
        widened until enough were found, or the log's start is reached.
        """
        wanted = {place: len(records) for place, records in ahead.items() if records}
        if not wanted:
            return {}
        ends = await self._target.logs.ends(list(wanted))
        found: dict[TopicPartition, tuple[RecordDigest, ...]] = {}
        reach = {place: 2 * count + 64 for place, count in wanted.items()}
        open_still = set(wanted)
        while open_still:
            ranges = {
                place: OffsetRange(max(ends[place].start, self._end(place) - reach[place]), self._end(place))
                for place in open_still
            }
            for place, seen in (await self._target.logs.visible(ranges, limit=8 * self._budget)).items():
                enough = len(seen.records) >= wanted[place]
                if not seen.complete or enough or ranges[place].first <= ends[place].start:
                    found[place] = seen.records if seen.complete else ()
                    open_still.discard(place)
                reach[place] *= 4
        return found

    def _end(self, place: TopicPartition) -> int:
        row: CutRow = self._rows[place]
        return row.target_end or 0

    async def _fallbacks(
        self, committed: Mapping[str, Positions], ahead: Mapping[TopicPartition, tuple[RecordDigest, ...]]
    ) -> tuple[Mapping[TopicPartition, LogEnds], Mapping[str, Positions]]:
        """The target's log starts and MM2's own values, asked for only where a group is not at the end."""
        lagging: dict[str, list[TopicPartition]] = {}
        for name, positions in committed.items():
            places = [p for p, at in positions.items() if p in self._rows and self._unread(ahead, p, at) != []]
            if places:
                lagging[name] = places
        if not lagging:
            return {}, {}
        places = list({place for found in lagging.values() for place in found})
        starts, theirs = await asyncio.gather(
            self._target.logs.ends(places), self._target.groups.committed(list(lagging))
        )
        return starts, theirs


def _remarks(notes: Collection[str]) -> str:
    told = sorted(notes)
    more = [f"and {len(told) - NOTES} more"] if len(told) > NOTES else []
    return "; ".join(told[:NOTES] + more)
