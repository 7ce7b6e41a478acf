"""Where a group resumes: never behind a record it has not read, and exactly where the contents show it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dcdr import translate
from dcdr.model import CutRow, GroupVerdict, RecordDigest, Span
from tests.unit.core.logs import Copies, Record, copies, every_copy


def place(log: Copies, position: int, more: int) -> translate.Placement | None:
    ahead = log.ahead(position)
    return translate.place(ahead, log.there(len(ahead), more), log.target_end)


def unread(log: Copies, position: int) -> set[int]:
    return {number for number, _ in log.source if number >= position}


def resumed(log: Copies, offset: int) -> list[int]:
    """Numbers of the records a consumer reads on the target from `offset` on."""
    return [number for number, at in log.target if at >= offset]


@given(copies(), st.integers(0, 12), st.integers(0, 20))
def test_where_both_sides_hold_the_same_records_every_group_is_placed_exactly(
    log: Copies, position: int, more: int
) -> None:
    found = place(log, position, more)
    assert found is not None
    assert (found.verdict, found.bound, found.note) == (GroupVerdict.EXACT, 0, "")
    assert resumed(log, found.offset) == sorted(unread(log, position))


@given(copies(compacted=True), st.integers(0, 12), st.integers(0, 20))
def test_of_a_compacted_log_a_group_misses_only_what_a_later_record_of_its_key_replaces(
    log: Copies, position: int, more: int
) -> None:
    found = place(log, position, more)
    if found is None:
        return
    again = resumed(log, found.offset)
    assert all(number >= position for number in again), "exact, and yet something is read twice"
    for number in unread(log, position) - set(again):
        later = {log.records[other].key for other in again if other > number}
        assert log.records[number].key in later


@given(copies(compacted=True), st.integers(0, 12))
def test_of_a_compacted_log_the_last_value_of_every_key_is_read(log: Copies, position: int) -> None:
    found = place(log, position, 20)
    if found is None:
        return
    last = {log.records[number].key: number for number in sorted(unread(log, position))}
    assert set(last.values()) <= set(resumed(log, found.offset))


def unreplaced(log: Copies, position: int, offset: int) -> Counter[bytes]:
    """What a group at `position` had still to read, and does not from `offset` on, nor a later record of its key.

    By content: of records that are the same in key, value, headers and time nobody can say which one is which.
    """
    again = resumed(log, offset)
    missed = Counter(log.records[number].digest for number in unread(log, position))
    missed -= Counter(log.records[number].digest for number in again)
    last = {log.records[number].key: number for number in sorted(again)}
    for number in unread(log, position) - set(again):
        if number < last.get(log.records[number].key, -1):
            missed[log.records[number].digest] -= 1
    return +missed


def skipped(log: Copies, position: int, offset: int) -> Counter[bytes]:
    """The same where nothing was compacted: a later record of the key makes up for none."""
    missed = Counter(log.records[number].digest for number in unread(log, position))
    return missed - Counter(log.records[number].digest for number in resumed(log, offset))


COPIED_TWICE = Copies(
    (Record("a", 0), Record("a", 1), Record("b", 0)), ((0, 0), (1, 1), (2, 2)),
    ((0, 0), (1, 1), (2, 2), (2, 3)), 4,
)  # fmt: skip
MISSING_BEFORE = Copies(
    (Record("a", 0), Record("b", 0), Record("a", 1)), ((0, 0), (1, 1), (2, 2)),
    ((0, 0), (1, 1), (2, 2), (1, 3), (2, 4)), 5,
)  # fmt: skip
"""The target's last three records are `a1 b0 a1`: `a0` stands before them, and could pass for compacted away."""


@example(COPIED_TWICE, 0, 0)
@example(MISSING_BEFORE, 0, 0)
@given(copies(replayed=True), st.integers(0, 12), st.integers(0, 20))
def test_a_mirror_that_copied_twice_makes_no_group_skip(log: Copies, position: int, more: int) -> None:
    found = place(log, position, more)
    assert found is None or not skipped(log, position, found.offset)


@given(copies(compacted=True, replayed=True), st.integers(0, 12), st.integers(0, 20))
def test_of_a_compacted_log_copied_twice_a_group_misses_only_what_is_replaced(
    log: Copies, position: int, more: int
) -> None:
    found = place(log, position, more)
    assert found is None or not unreplaced(log, position, found.offset)


def test_what_may_stand_before_the_second_copy_is_not_taken_for_compacted_away() -> None:
    assert place(MISSING_BEFORE, 0, 0) is None
    seen = place(MISSING_BEFORE, 0, 2)
    assert seen is not None
    assert (seen.offset, seen.note) == (0, "")


@pytest.mark.parametrize(("length", "returns", "compacted"), [(3, 2, False), (4, 1, False), (4, 1, True)])
def test_no_mirror_that_went_back_makes_a_group_skip_in_any_small_log(
    length: int, returns: int, *, compacted: bool
) -> None:
    missed = unreplaced if compacted else skipped
    for log in every_copy(length, returns, compacted=compacted):
        for position in range(length):
            for more in range(max(1, len(log.target) - len(log.ahead(position)) + 1)):
                found = place(log, position, more)
                assert found is None or not missed(log, position, found.offset), (log, position, more)


@pytest.mark.parametrize("length", range(1, 6))
def test_where_no_two_records_are_the_same_every_group_of_a_small_compacted_log_is_placed_exactly(length: int) -> None:
    """Cleaned further on the target, however little of it is read; on the source, where enough is read to find it."""
    for log in every_copy(length, 0, compacted=True, distinct=True):
        for position in range(length):
            for more in range(0 if len(log.target) <= len(log.source) else length, length + 1):
                found = place(log, position, more)
                assert found is not None, (log, position, more)
                assert found.verdict is GroupVerdict.EXACT
                assert all(number >= position for number in resumed(log, found.offset))
                assert not unreplaced(log, position, found.offset)


@given(copies(), st.integers(0, 12), st.integers(0, 20), st.data())
def test_a_record_the_target_lost_is_never_skipped_and_called_exact(
    log: Copies, position: int, more: int, data: st.DataObject
) -> None:
    """Not compacted: retention on the target, or worse. Whatever is missing has nothing that replaces it."""
    lost = data.draw(st.sets(st.sampled_from(log.target), min_size=1)) if log.target else set()
    keyless = Copies(log.records, log.source, tuple(held for held in log.target if held not in lost), log.target_end)
    ahead = [RecordDigest(record.offset, record.digest) for record in keyless.ahead(position)]
    found = translate.place(ahead, keyless.there(len(ahead), more), log.target_end)
    if found is not None and ahead:
        first = resumed(keyless, found.offset)[0]
        assert log.records[first].digest == ahead[0].digest, "something unread was skipped"


@st.composite
def batched(draw: st.DrawFn) -> tuple[list[Span], list[int]]:
    """Visible batches, some with holes as compaction leaves them, and the offsets of their records."""
    spans, offsets, at = [], [], draw(st.integers(0, 3))
    for _ in range(draw(st.integers(0, 6))):
        at += draw(st.integers(0, 2))
        length = draw(st.integers(1, 4))
        kept = draw(st.sets(st.integers(0, length - 1), min_size=1)) if draw(st.booleans()) else set(range(length))
        spans.append(Span(at, at + length, len(kept)))
        offsets += [at + number for number in sorted(kept)]
        at += length
    return spans, offsets


@given(batched(), st.integers(0, 30))
def test_records_ahead_are_counted_right_or_not_at_all(log: tuple[list[Span], list[int]], position: int) -> None:
    spans, offsets = log
    found = translate.count_ahead(spans, position)
    assert found in {None, sum(offset >= position for offset in offsets)}
    inside = any(s.first < position < s.end and s.records < s.end - s.first for s in spans)
    assert (found is None) == inside


@given(batched(), st.integers(1, 30))
def test_counting_back_leads_to_the_record_or_to_the_beginning_of_its_batch(
    log: tuple[list[Span], list[int]], count: int
) -> None:
    spans, offsets = log
    found = translate.count_back(spans, count)
    if count > len(offsets):
        assert found is None
    elif found is not None:
        # From a batch's first offset on the same records come, where compaction took the one that stood there too.
        assert [offset for offset in offsets if offset >= found] == offsets[-count:]


def record(offset: int, name: str, key: str = "k") -> RecordDigest:
    return RecordDigest(offset, name.encode(), key.encode())


def test_a_group_at_the_end_resumes_at_the_end_whatever_the_target_holds() -> None:
    assert translate.place([], [record(3, "x")], 17) == translate.Placement(17, GroupVerdict.EXACT, 0)


def test_a_group_is_placed_at_the_first_record_the_cleaner_left_and_says_so() -> None:
    ahead = [record(4, "old"), record(9, "other", "o"), record(12, "new")]
    found = translate.place(ahead, [record(40, "read", "r"), record(41, "other", "o"), record(45, "new")], 46)
    assert found is not None
    assert (found.offset, found.verdict) == (41, GroupVerdict.EXACT)
    assert found.note == "1 records ahead of it were compacted away on the target"


@pytest.mark.parametrize(
    ("ahead", "there"),
    [
        ([record(1, "a")], []),
        ([record(1, "a")], [record(1, "b")]),
        # its replacement is on the source only
        ([record(1, "a", "lost"), record(2, "b")], [record(1, "z"), record(2, "b")]),
        # the same content twice: which of the two is it?
        ([record(1, "a"), record(2, "b")], [record(1, "a"), record(2, "a"), record(3, "c")]),
        ([record(1, "a"), record(2, "a"), record(3, "b")], [record(7, "a"), record(8, "c")]),
        # records without a key replace nothing
        ([record(1, "a", ""), record(2, "b", "")], [record(1, "z", ""), record(2, "b", "")]),
    ],
    ids=["empty target", "other content", "lost key", "twice there", "twice to come", "no keys"],
)
def test_what_the_contents_do_not_show_is_not_guessed(ahead: list[RecordDigest], there: list[RecordDigest]) -> None:
    assert translate.place(ahead, there, 99) is None


@given(st.none() | st.integers(0, 30), st.integers(0, 10), st.integers(0, 20))
def test_without_proof_the_mirrors_own_value_counts_and_never_one_outside_the_log(
    mm2: int | None, start: int, length: int
) -> None:
    found = translate.fallback(mm2, start, start + length)
    inside = mm2 is not None and start <= mm2 <= start + length
    assert found.offset == (mm2 if inside else start)
    assert found.verdict is GroupVerdict.APPROXIMATE
    assert found.bound == start + length - found.offset
    assert found.note == ("the mirror's own checkpoint" if inside else "no checkpoint: from the start")


ROW = CutRow(topic="orders", partition=0, topic_id="t", start=20, end=50, target_end=90)


@pytest.mark.parametrize("mm2", [None, 59, 91], ids=["none", "below the target's start", "beyond the target's end"])
def test_a_group_beyond_the_log_end_resets_on_the_target_as_it_would_have_on_the_source(mm2: int | None) -> None:
    said = "its position 51 lies beyond the log end 50: it will reset by its own policy"
    assert translate.beyond_end(51, ROW, mm2, 60) == (30, said)


@pytest.mark.parametrize("mm2", [60, 90])
def test_a_position_inside_the_targets_log_keeps_a_group_beyond_the_end_from_resetting(mm2: int) -> None:
    bound, note = translate.beyond_end(51, ROW, mm2, 60)
    assert bound == 90 - mm2
    assert note.endswith(f": it will resume at {mm2}, which the target held for it already")


@given(st.integers(0, 60))
def test_only_a_position_below_the_log_start_is_remarked(position: int) -> None:
    note = translate.below_start(position, ROW)
    assert bool(note) == (position < 20)
    assert not note or note.startswith(f"its position {position} lies below the log start 20: ")
