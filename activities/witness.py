"""Reading the last records of both sides: what the content witness compares."""

from __future__ import annotations

from collections.abc import Mapping

from dcdr import witness
from dcdr.errors import MirrorContentError
from dcdr.model import Cut, LogEnds, OffsetRange, RecordDigest, TopicPartition, Verdict
from dcdr.ports import Logs, Member
from dcdr.witness import Likeness

FIRST_REACH = 16
"""Offsets looked at first: the last records, and the transaction markers between them."""
LONGEST_REACH = 4096
"""Further back nobody looks for the last records: so many markers and aborted records in a row are not seen in life."""

Tails = Mapping[TopicPartition, tuple[RecordDigest, ...]]


async def last_visible(logs: Logs, ranges: Mapping[TopicPartition, OffsetRange], wanted: int) -> Tails:
    """The last visible records of each range, oldest first: at least `wanted` where there are so many in reach."""
    reach = FIRST_REACH
    found: dict[TopicPartition, tuple[RecordDigest, ...]] = dict.fromkeys(ranges, ())
    left = {place: whole for place, whole in ranges.items() if whole.first < whole.end}
    while left:
        asked = {place: OffsetRange(max(whole.first, whole.end - reach), whole.end) for place, whole in left.items()}
        for place, seen in (await logs.visible(asked, limit=reach)).items():
            found[place] = seen.records
            if len(seen.records) >= wanted or asked[place].first == left[place].first or reach >= LONGEST_REACH:
                del left[place]
        reach *= 8
    return found


async def source_tails(source: Member, cut: Cut) -> Tails:
    """The last `witness.LAST` visible records of every source partition before the cut."""
    ranges = {place: OffsetRange(row.start, row.end) for place, row in cut.by_partition.items()}
    tails = await last_visible(source.logs, ranges, witness.LAST)
    return {place: records[-witness.LAST :] for place, records in tails.items()}


async def target_tails(target: Member, ends: Mapping[TopicPartition, LogEnds]) -> Tails:
    """The last visible records of every target partition as it stands settled at `ends`, and some more."""
    return await last_visible(
        target.logs, {place: OffsetRange(at.start, at.leo) for place, at in ends.items()}, witness.LAST
    )


async def verdicts(
    target: Member, ends: Mapping[TopicPartition, LogEnds], ours: Tails, theirs: Tails
) -> Mapping[TopicPartition, Verdict]:
    """What the last records of each partition of `ends` say; one that `ours` leaves out is not compared.

    Raises: MirrorContentError, naming partitions, when what stands on the target is something else.
    """
    likeness = {
        place: _compare(tail, theirs[place], ends[place], compacted=False) for place, tail in ours.items() if tail
    }
    if Likeness.DIFFERENT in likeness.values():  # only now: asking for the topics' settings takes a while
        topics = await target.logs.topics(configs=True)
        for place, found in likeness.items():
            policy = topics[place.topic].config.get("cleanup.policy", "") if place.topic in topics else ""
            if found is Likeness.DIFFERENT and "compact" in policy:
                likeness[place] = _compare(ours[place], theirs[place], ends[place], compacted=True)
    different = sorted(place for place, found in likeness.items() if found is Likeness.DIFFERENT)
    if different:
        raise MirrorContentError(
            f"the last records of {len(different)} partitions on {target.name} are not the source's (for example "
            f"{', '.join(map(str, different[:5]))}), although the mirror's stored offsets say that all was copied: "
            "the stored offsets are not this mirror's, somebody else writes there, or an earlier report named a tail "
            "there. Re-seed these topics"
        )
    shown = {Likeness.SAME: Verdict.COMPARED, Likeness.UNKNOWN: Verdict.UNCOMPARED}
    empty = {place for place, tail in ours.items() if not tail}
    return {place: Verdict.EMPTY if place in empty else shown[likeness.get(place, Likeness.UNKNOWN)] for place in ends}


def _compare(
    source: tuple[RecordDigest, ...], target: tuple[RecordDigest, ...], at: LogEnds, *, compacted: bool
) -> Likeness:
    return witness.compare(source, target, target_is_whole=at.start == 0, compacted=compacted)
