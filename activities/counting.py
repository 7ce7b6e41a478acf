"""Where a position of the source lies on the target, by counting batches back from the ends: no record is unpacked but
those at the position, so a group may lag by a million records and be placed in the time it takes to fetch them.

Both logs end with the same records (`mirror.close` compared them); where the record at the counted place and those
behind it are the same too, the place is right. What cannot be told this way (compacted batches, a mirror that copied
twice) is left to the content of everything ahead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from dcdr import translate
from dcdr.model import CutRow, OffsetRange, Span, Spans, TopicPartition, VisibleRecords
from dcdr.ports import Logs

LOOK_OFFSETS, LOOK_RECORDS = 64, 3
"""What is compared at a position that was found; offsets that are no record lie between."""


class Position(NamedTuple):
    """The next offset to read of one partition on the source."""

    place: TopicPartition
    offset: int


class Counted(NamedTuple):
    """Visible records ahead of a position, and its offset on the target."""

    ahead: int
    offset: int


Rows = Mapping[TopicPartition, CutRow]
AskSpans = Callable[[Mapping[TopicPartition, OffsetRange]], Awaitable[Mapping[TopicPartition, Spans] | None]]
AskVisible = Callable[
    [Mapping[TopicPartition, OffsetRange], int], Awaitable[Mapping[TopicPartition, VisibleRecords] | None]
]


async def count(
    wanted: Mapping[TopicPartition, set[int]], rows: Rows, spans: AskSpans, visible: AskVisible, target: Logs
) -> dict[Position, Counted]:
    """Those of the `wanted` source offsets that counting places. `spans`, `visible`: the source, None where it is gone.

    Precondition: each offset lies between its row's start and end, and each row's target end is known.
    """
    if not wanted:
        return {}
    ours = await spans({place: OffsetRange(min(offsets), rows[place].end) for place, offsets in wanted.items()})
    if ours is None:
        return {}
    counts = {
        Position(place, offset): ahead
        for place, offsets in wanted.items()
        for offset in offsets
        if ours[place].complete and (ahead := translate.count_ahead(ours[place].spans, offset))
    }
    furthest: dict[TopicPartition, int] = {}
    for position, ahead in counts.items():
        furthest[position.place] = max(ahead, furthest.get(position.place, 0))
    theirs = await _behind(furthest, rows, target)
    placed = {}
    for position, ahead in counts.items():
        offset = translate.count_back(theirs[position.place], ahead)
        if offset is not None:
            placed[position] = Counted(ahead, offset)
    return await _shown(placed, rows, visible, target)


async def _behind(
    wanted: Mapping[TopicPartition, int], rows: Rows, target: Logs
) -> dict[TopicPartition, tuple[Span, ...]]:
    """The target's last visible batches, with at least `wanted` records where there are so many.

    Its offsets hold transaction markers between the records, so the read starts further back and is widened.
    """
    ends = await target.ends(list(wanted)) if wanted else {}
    found: dict[TopicPartition, tuple[Span, ...]] = {}
    reach = {place: 2 * records + 64 for place, records in wanted.items()}
    while left := [place for place in wanted if place not in found]:
        last = {place: rows[place].target_end or 0 for place in left}
        ranges = {place: OffsetRange(max(ends[place].start, last[place] - reach[place]), last[place]) for place in left}
        for place, seen in (await target.spans(ranges)).items():
            enough = sum(span.records for span in seen.spans) >= wanted[place]
            if enough or not seen.complete or ranges[place].first <= ends[place].start:
                found[place] = seen.spans if seen.complete else ()
            reach[place] *= 4
    return found


async def _shown(
    placed: Mapping[Position, Counted], rows: Rows, visible: AskVisible, target: Logs
) -> dict[Position, Counted]:
    """Those of `placed` whose first records are the same on both sides; one position of each partition a round."""
    shown: dict[Position, Counted] = {}
    left = dict(placed)
    while left:
        turn = {position.place: position for position in reversed(left)}
        ours = {p: OffsetRange(at.offset, min(rows[p].end, at.offset + LOOK_OFFSETS)) for p, at in turn.items()}
        theirs = {
            p: OffsetRange(left[at].offset, min(rows[p].target_end or 0, left[at].offset + LOOK_OFFSETS))
            for p, at in turn.items()
        }
        here = await visible(ours, LOOK_RECORDS)
        if here is None:
            return {}
        there = await target.visible(theirs, LOOK_RECORDS)
        for place, position in turn.items():
            found = left.pop(position)
            mine, other = here[place].records, there[place].records
            same = [record.digest for record in mine] == [record.digest for record in other[: len(mine)]]
            if mine and other and other[0].offset == found.offset and same:
                shown[position] = found
    return shown
