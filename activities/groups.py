"""Consumer groups: frozen on the source, placed and read back on the target."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from temporalio import activity

from activities.book import LedgerBook
from activities.step import Steps, Stopwatch, both
from dcdr import translate
from dcdr.errors import ConflictError
from dcdr.lease import Standing
from dcdr.model import (
    CommittedOffset,
    Cut,
    CutRow,
    GroupKind,
    GroupResult,
    GroupsResult,
    GroupVerdict,
    LogEnds,
    OffsetRange,
    RecordDigest,
    StepInput,
    TopicPartition,
)
from dcdr.plan import carried, skipped
from dcdr.ports import Directory, Member, Scope

AT_END_BUDGET = 64
"""Offsets behind a position that are looked at inside the outage: trailing transaction markers, and little more."""

Positions = Mapping[TopicPartition, CommittedOffset]


class GroupActivities(Steps):
    """`carry_over`: every group resumes at its exact position, or the report names it and the bound."""

    def __init__(self, directory: Directory, book: LedgerBook) -> None:
        super().__init__(directory)
        self._book = book

    @activity.defn(name="groups.carry_over")
    async def carry_over(self, step: StepInput) -> GroupsResult:
        """Before the handover: the groups that stand at the end of the log, which is what most of them do.

        Groups that lag wait for `carry_lagging`: placing them reads as many records as they lag, and producers need
        not wait for that. Their gate on the target stays closed until then.
        """
        async with self.holding(step.operation, Standing.DRAINING) as scope:
            watch = Stopwatch()
            _, target = both(scope, step.operation)
            ledger = await self._book.read(scope, step.operation, step.entry)
            placed, _ = await self._place(scope, ledger, AT_END_BUDGET)
            exact = {
                name: offsets
                for name, offsets in placed.offsets.items()
                if placed.results[name].verdict is GroupVerdict.EXACT
            }
            await _write(target, exact)
            later = len(placed.offsets) - len(exact)
            note = f"{len(exact)} groups exact" + (f", {later} lag and follow after the opening" if later else "")
            counts = {"groups": len(placed.offsets), "exact": len(exact)}
            results = tuple(placed.results[name] for name in sorted(exact))
            return GroupsResult(**watch.so_far(), entry=step.entry, groups=results, note=note, counts=counts)

    @activity.defn(name="groups.carry_lagging")
    async def carry_lagging(self, step: StepInput) -> GroupsResult:
        """After the opening, before consumers are let in: place and report every group, with the whole budget.

        A repeated step finds the gate open and touches nothing: positions belong to the consumers from then on.
        """
        async with self.holding(step.operation, Standing.MOVED) as scope:
            watch = Stopwatch()
            _, target = both(scope, step.operation)
            if not (await target.fence.rules()).groups_denied:
                return GroupsResult(**watch.so_far(), entry=step.entry, note="consumers were let in already")
            ledger = await self._book.read(scope, step.operation, step.entry)
            placed, left_out = await self._place(scope, ledger, scope.timing.lagging_group_budget)
            await _write(target, placed.offsets)
            results = [placed.results[name] for name in sorted(placed.results)]
            exact = sum(result.verdict is GroupVerdict.EXACT for result in results)
            counts = {"groups": len(results), "exact": exact, "skipped": len(left_out)}
            note = f"{exact} of {len(results)} groups exact" + (f"; {len(left_out)} skipped" if left_out else "")
            return GroupsResult(
                **watch.so_far(), entry=step.entry, groups=(*results, *left_out), note=note, counts=counts
            )

    async def _place(self, scope: Scope, ledger: Cut, budget: int) -> tuple[_Placed, tuple[GroupResult, ...]]:
        source, target = both(scope, ledger.operation)
        groups = await source.groups.groups()
        names = [group.name for group in carried(scope, groups) if group.kind is GroupKind.CONSUMER]
        committed = await source.groups.committed(names)
        return await _Placer(source, target, ledger, budget).place(committed), skipped(scope, groups)


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

    def __init__(self, source: Member, target: Member, ledger: Cut, budget: int) -> None:
        self._source, self._target, self._budget = source, target, budget
        self._rows = ledger.by_partition

    async def place(self, committed: Mapping[str, Positions]) -> _Placed:
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
                records = ahead.get(place)
                found = None
                if records is not None:
                    unread = [record for record in records if record.offset >= position.offset]
                    lag += len(unread)
                    found = translate.place(unread, behind.get(place, ()), row.target_end)
                else:
                    lag += row.end - position.offset
                if found is None:
                    mm2 = theirs.get(name, {}).get(place)
                    start = starts[place].start if place in starts else 0
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
                note="; ".join(sorted(notes)),
            )
        return placed

    def _lowest(self, committed: Mapping[str, Positions]) -> dict[TopicPartition, int]:
        lowest: dict[TopicPartition, int] = {}
        for positions in committed.values():
            for place, position in positions.items():
                row = self._rows.get(place)
                if row is not None:
                    first = max(position.offset, row.start)
                    lowest[place] = min(first, lowest.get(place, first))
        return lowest

    async def _ahead(
        self, lowest: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, tuple[RecordDigest, ...] | None]:
        """Visible records of the source from the lowest committed position to the cut; None beyond the budget."""
        ranges = {
            place: OffsetRange(first, self._rows[place].end)
            for place, first in lowest.items()
            if first < self._rows[place].end and self._rows[place].end - first <= self._budget
        }
        found = await self._source.logs.visible(ranges, limit=self._budget) if ranges else {}
        ahead: dict[TopicPartition, tuple[RecordDigest, ...] | None] = {}
        for place, first in lowest.items():
            if first >= self._rows[place].end:
                ahead[place] = ()
            elif place in found and found[place].complete:
                ahead[place] = found[place].records
            else:
                ahead[place] = None
        return ahead

    async def _behind(
        self, ahead: Mapping[TopicPartition, tuple[RecordDigest, ...] | None]
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
        self, committed: Mapping[str, Positions], ahead: Mapping[TopicPartition, object]
    ) -> tuple[Mapping[TopicPartition, LogEnds], Mapping[str, Positions]]:
        """The target's log starts and MM2's own values, asked for only where a group lags."""
        lagging = [place for place, records in ahead.items() if records != ()]
        if not lagging:
            return {}, {}
        names = [name for name, positions in committed.items() if any(place in positions for place in lagging)]
        starts, theirs = await asyncio.gather(self._target.logs.ends(lagging), self._target.groups.committed(names))
        return starts, theirs
