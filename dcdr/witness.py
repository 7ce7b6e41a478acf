"""The second witness of a drain: the last visible records of both sides, compared by content.

The first proof rests on one stored number a partition. Were that number wrong (another cluster's offsets under the same
name, a restored offsets topic, a tool that wrote it by hand), the proof would hold and the records would not be there.
Source: the last records' key, value, headers and timestamp, which a mirror with byte-array converters keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from dcdr.model import RecordDigest

LAST = 3
"""Records a partition that are compared; one would be met by chance where an application repeats a value."""


class Likeness(StrEnum):
    """What the last records of one partition say."""

    SAME = "same"
    UNKNOWN = "unknown"
    DIFFERENT = "different"


def compare(
    source: Sequence[RecordDigest], target: Sequence[RecordDigest], *, target_is_whole: bool, compacted: bool
) -> Likeness:
    """Compare the source's last visible records before the cut with the target's last ones, both oldest first.

    `source` holds at most `LAST`, fewer only where there are no more; `target` at least as many where it has them.
    `target_is_whole`: nothing was ever deleted from the target's log, so what is not there never came. `compacted`:
    the two cleaners need not have come equally far, so keys are compared by their latest record.
    """
    if not source:
        return Likeness.UNKNOWN
    if compacted:
        ours, theirs = _latest(source), _latest(target)
        if any(theirs.get(key, value) != value for key, value in ours.items()):
            return Likeness.DIFFERENT
        return Likeness.SAME if ours.keys() <= theirs.keys() else Likeness.UNKNOWN
    there = target[-len(source) :]
    if len(there) < len(source) and target_is_whole:
        return Likeness.DIFFERENT
    if not there:
        return Likeness.UNKNOWN
    ends = source[-len(there) :]
    same = all(ours.digest == theirs.digest for ours, theirs in zip(ends, there, strict=True))
    return Likeness.SAME if same else Likeness.DIFFERENT


def _latest(records: Sequence[RecordDigest]) -> dict[bytes, bytes]:
    return {record.key: record.digest for record in records}
