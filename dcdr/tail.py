"""The tail that a failover left on the old side: what one partition is, from offsets and from content. Nobody is asked.

M is the offset, on the old side, of the last record that the target holds. Where the mirror's records and M are atomic
(exactly-once), the visible records beyond M are the tail, exactly. Where they are not, the target may hold more than M
says, by what a mirror copies between two of its commits: those are found by content, because a mirror keeps order and
content. What does not fit is told as such and left to a person; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from dcdr.model import ForkRow, LogEnds, LostRows, Measured, OffsetRange, RecordDigest, TailCase, TopicPartition

LISTED = 100
"""Of the rows, what a result lists: Temporal's payloads are bounded, and the ledger's entry has all."""


class Old(NamedTuple):
    """One partition as the old side has it, its fence closed and its log settled."""

    topic_id: str
    ends: LogEnds


class Copied(NamedTuple):
    """How many records beyond M the target holds; None where content does not tell, and why."""

    records: int | None
    why: str = ""


def row(place: TopicPartition, case: TailCase, note: str = "") -> LostRows:
    """A row without a tail."""
    return LostRows(topic=place.topic, partition=place.partition, case=case, note=note)


def beyond(fork: ForkRow | None, old: Old) -> OffsetRange:
    """Where a tail may lie: offsets of the old side that the mirror had not copied, as far as M tells."""
    mirrored = None if fork is None else fork.mirrored
    first = old.ends.start if mirrored is None else max(old.ends.start, mirrored + 1)
    return OffsetRange(first, max(first, old.ends.leo))


def by_offsets(place: TopicPartition, fork: ForkRow | None, old: Old | None, source: str) -> LostRows | None:
    """What the ends and the topic's id say by themselves; None where the logs have to be read.

    `source`: the old side's name, for the notes.
    """
    if fork is None:
        # Created after the mirror's last look for topics: whatever it holds was never copied.
        if old is None or old.ends.start == old.ends.leo:
            return row(place, TailCase.NONE)
        return None
    if old is None:
        if fork.mirrored is None:
            return row(place, TailCase.NONE, f"{source} has no such partition, and nothing of it was ever mirrored")
        return row(place, TailCase.BEHIND, f"{source} has no such partition: deleted there, or lost")
    if fork.source_topic_id is not None and fork.source_topic_id != old.topic_id:
        return row(
            place,
            TailCase.DIVERGED,
            f"{source} has another topic under this name: id {old.topic_id}, it was {fork.source_topic_id}",
        )
    if fork.mirrored is not None and old.ends.leo <= fork.mirrored:
        return row(
            place,
            TailCase.BEHIND,
            f"{source} ends at {old.ends.leo}, the mirror had copied offset {fork.mirrored}: {source} lost records",
        )
    return None


def lost(
    place: TopicPartition, fork: ForkRow | None, old: Old, seen: Measured, source: str, note: str = ""
) -> LostRows:
    """The row of a partition whose visible records beyond the last copied one are `seen`."""
    notes = [note] if note else []
    if fork is None and seen.records:
        notes.append("never mirrored")
    mirrored = old.ends.start - 1 if fork is None or fork.mirrored is None else fork.mirrored
    deleted = old.ends.start > mirrored + 1
    if deleted:
        # Nobody can tell any more what they were, so this is never called "none".
        notes.append(f"offsets {mirrored + 1} to {old.ends.start - 1} were deleted on {source} before this look")
    case = TailCase.TAIL if seen.records or deleted else TailCase.NONE
    return LostRows(
        topic=place.topic,
        partition=place.partition,
        case=case,
        first=seen.first,
        last=seen.last,
        records=seen.records,
        bytes=seen.size,
        first_at=_time(seen.earliest_ms),
        last_at=_time(seen.latest_ms),
        note="; ".join(notes),
    )


def ends_alike(anchor: RecordDigest | None, theirs: Sequence[RecordDigest], *, compacted: bool) -> bool | None:
    """Whether the target ends with the last record the mirror copied; None where that cannot be told.

    `anchor`: the old side's last visible record up to M. `theirs`: the target's last visible ones before the fork,
    oldest first. Only with exactly-once: else the target may hold more. Cleaners of two compacted logs need not have
    come equally far.
    """
    if anchor is None or not theirs or compacted:
        return None
    return theirs[-1].digest == anchor.digest


def copied(
    anchor: RecordDigest | None,
    ours: Sequence[RecordDigest],
    theirs: Sequence[RecordDigest],
    *,
    theirs_whole: bool,
    ours_whole: bool,
) -> Copied:
    """How many of `ours` stand on the target already, by content.

    `anchor`: the old side's last visible record up to M, None where there is none. `ours`: its visible records beyond
    M, as many as `theirs` or all there are (`ours_whole`). `theirs`: the target's last visible records before the
    fork, oldest first; `theirs_whole` when those are all it has.

    Precondition: `theirs` reaches back to the anchor's image, which is as far as a mirror copies between two of its
    commits. With the image found at some place of `theirs`, everything behind it must be the beginning of `ours`.
    """
    if anchor is None:
        if not theirs_whole:
            return Copied(None, f"nothing to hold the last {len(theirs)} records of the target against")
        starts = [0]
    else:
        starts = [n + 1 for n, record in enumerate(theirs) if record.digest == anchor.digest]
        if not starts:
            return Copied(None, f"the last record copied is not among the last {len(theirs)} of the target")
    mine = [record.digest for record in ours]
    fits = []
    for start in starts:
        behind = [record.digest for record in theirs[start:]]
        if len(behind) > len(mine) and not ours_whole:
            continue
        if behind == mine[: len(behind)]:
            fits.append(len(behind))
    if not fits:
        return Copied(None, "what the target holds behind the last record copied is not what follows on the old side")
    if len(fits) > 1:
        return Copied(None, f"records repeat: {min(fits)} to {max(fits)} of them may have been copied")
    return Copied(fits[0])


def worth_telling(rows: Iterable[LostRows]) -> list[LostRows]:
    """What a report lists: every partition but those without a tail, sorted."""
    return sorted((r for r in rows if r.case is not TailCase.NONE), key=lambda r: (r.topic, r.partition))


def cases(rows: Iterable[LostRows], checked: int) -> dict[TailCase, int]:
    """Partitions by case; `rows` as in `worth_telling`, of `checked` partitions in all."""
    counts = dict.fromkeys(TailCase, 0)
    for found in rows:
        counts[found.case] += 1
    counts[TailCase.NONE] = checked - sum(n for case, n in counts.items() if case is not TailCase.NONE)
    return {case: n for case, n in counts.items() if n}


def _time(ms: int | None) -> datetime | None:
    """A record's timestamp; None where there is none, or one that no calendar holds (the application's own)."""
    if ms is None:
        return None
    try:
        return datetime.fromtimestamp(ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None
