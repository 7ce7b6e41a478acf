"""Where a consumer group resumes on the target: the position that has the same records ahead of it.

After a proven drain both logs end with the same visible records, in the same order. So the group's position on the
target is found by counting visible records back from the end, and shown to be right by comparing their content.
Offsets of the two clusters are never compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from dcdr.model import CutRow, GroupVerdict, RecordDigest, Span


class Placement(NamedTuple):
    """An offset on the target, whether it was shown to be exact, and how many records may be read twice."""

    offset: int
    verdict: GroupVerdict
    bound: int
    note: str = ""


def at_end(target_end: int) -> Placement:
    """A group with no visible record ahead of it on the source resumes at the target's end."""
    return Placement(target_end, GroupVerdict.EXACT, 0)


def place(source: Sequence[RecordDigest], target: Sequence[RecordDigest], target_end: int) -> Placement | None:
    """Place a group that has `source` (all its visible records ahead, oldest first) still to read.

    `target` holds the target's visible records, oldest first, up to its end; at least as many as `source` where the
    target has that many. Returns None when the content cannot show where the group stands.
    """
    if not source:
        return at_end(target_end)
    ahead = target[len(target) - len(source) :] if len(target) >= len(source) else ()
    if ahead and all(ours.digest == theirs.digest for ours, theirs in zip(source, ahead, strict=True)):
        return Placement(ahead[0].offset, GroupVerdict.EXACT, 0)
    # A compacted topic may have been cleaned further on one side. The first record still to read that the target kept
    # decides, if it stands there once and comes once: two of the same content could be taken for each other. What is
    # missing before it must have a later record of its key there; else it is lost, and nobody may skip it silently.
    coming = Counter(record.digest for record in source)
    places: dict[bytes, list[int]] = {}
    for record in target:
        places.setdefault(record.digest, []).append(record.offset)
    for skipped, record in enumerate(source):
        offsets = places.get(record.digest, [])
        if not offsets:
            continue
        if len(offsets) > 1 or coming[record.digest] > 1:
            return None
        kept = [other for other in target if other.offset >= offsets[0]]
        later = {other.key for other in kept}
        if any(not gone.key or gone.key not in later for gone in source[:skipped]):
            return None
        before = target[: len(target) - len(kept)]
        if skipped and (len(kept) > len(source) - skipped or (before and before[-1].digest in coming)):
            # A mirror may have copied twice, and what is missing here may stand before. It goes back and then on in
            # order: right before this record comes its predecessor, which is missing, or where it went back, one that
            # follows: one still to read. `target` holds that one: as no more is kept than the source has, it begins
            # before the place, or it is the whole log, which misses nothing that was copied.
            return None
        note = f"{skipped} records ahead of it were compacted away on the target" if skipped else ""
        return Placement(offsets[0], GroupVerdict.EXACT, 0, note)
    return None


def count_ahead(spans: Sequence[Span], position: int) -> int | None:
    """Visible records from `position` on. None where that lies inside a batch with holes: headers do not tell them."""
    count = 0
    for span in spans:
        if span.end <= position:
            continue
        if span.first >= position:
            count += span.records
        elif span.records == span.end - span.first:
            count += span.end - position
        else:
            return None
    return count


def count_back(spans: Sequence[Span], count: int) -> int | None:
    """Offset of the `count`-th visible record from the end. None where there are not so many, or headers do not tell.

    A batch with holes keeps its first offset even where the record there is gone: what stands at the offset is looked
    at before anybody relies on it.
    """
    left = count
    for span in reversed(spans):
        if left <= span.records:
            whole = span.records == span.end - span.first
            return span.end - left if whole else span.first if left == span.records else None
        left -= span.records
    return None


def fallback(mm2: int | None, target_start: int, target_end: int) -> Placement:
    """MM2's own value where it wrote one, else the beginning of the target's log: re-read, never skip."""
    if mm2 is not None and target_start <= mm2 <= target_end:
        return Placement(mm2, GroupVerdict.APPROXIMATE, target_end - mm2, "the mirror's own checkpoint")
    return Placement(target_start, GroupVerdict.APPROXIMATE, target_end - target_start, "no checkpoint: from the start")


def beyond_end(position: int, row: CutRow, mm2: int | None, target_start: int) -> tuple[int, str]:
    """A position above the log end (a topic recreated, a log truncated): nothing can be placed, and nothing is written.

    On the source the consumer would reset by its own policy (`auto.offset.reset`), which is not ours to know. On the
    target it does the same, unless that side holds a position of its own inside the log.

    Returns: how many records may be read twice, and the note.
    """
    said = f"its position {position} lies beyond the log end {row.end}"
    target_end = row.target_end or 0
    if mm2 is not None and target_start <= mm2 <= target_end:
        return target_end - mm2, f"{said}: it will resume at {mm2}, which the target held for it already"
    return row.end - row.start, f"{said}: it will reset by its own policy"


def below_start(position: int, row: CutRow) -> str:
    """The note on a position below the log start, empty for any other: what lay between was deleted, unread.

    A consumer resets there, too. We place it at the oldest record kept: what `earliest` does; after `latest` it would
    have skipped all that is left, and nobody asked for that.
    """
    if position >= row.start:
        return ""
    return (
        f"its position {position} lies below the log start {row.start}: it does not reset by its own policy, "
        "but goes on with the oldest record kept"
    )
