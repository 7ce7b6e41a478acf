"""What one partition of the old side is: by its ends, by its topic's id, and by content."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcdr import tail
from dcdr.model import ForkRow, LogEnds, LostRows, Measured, OffsetRange, RecordDigest, TailCase, TopicPartition
from dcdr.tail import Old

PLACE = TopicPartition("orders", 1)


def fork(mirrored: int | None = 9, source_topic_id: str | None = "id-a") -> ForkRow:
    return ForkRow(
        topic="orders",
        partition=1,
        target_topic_id="id-b",
        target_end=20,
        mirrored=mirrored,
        source_topic_id=source_topic_id,
    )


def old(end: int = 10, start: int = 0, topic_id: str = "id-a") -> Old:
    return Old(topic_id, LogEnds(start, end, end, end))


@pytest.mark.parametrize(
    ("row", "there", "case", "note"),
    [
        (fork(), old(9), TailCase.BEHIND, "ends at 9, the mirror had copied offset 9"),
        (fork(), old(0), TailCase.BEHIND, "lost records"),
        (fork(), None, TailCase.BEHIND, "no such partition: deleted there, or lost"),
        (fork(None), None, TailCase.NONE, "nothing of it was ever mirrored"),
        (fork(), old(10, topic_id="id-z"), TailCase.DIVERGED, "id id-z, it was id-a"),
        (fork(), old(3, topic_id="id-z"), TailCase.DIVERGED, "another topic"),
        (None, None, TailCase.NONE, ""),
        (None, old(0), TailCase.NONE, ""),
        (None, old(7, start=7), TailCase.NONE, ""),
    ],
)
def test_the_ends_and_the_id_say_it_without_reading(
    row: ForkRow | None, there: Old | None, case: TailCase, note: str
) -> None:
    found = tail.by_offsets(PLACE, row, there, "dc-a")
    assert found is not None
    assert (found.topic, found.partition, found.case, found.records) == ("orders", 1, case, 0)
    assert note in found.note


@pytest.mark.parametrize(
    ("row", "there"),
    [
        (fork(), old(10)),
        (fork(), old(12)),
        (fork(None), old(0)),
        (fork(source_topic_id=None), old(10, topic_id="any")),
        (None, old(1)),
    ],
)
def test_otherwise_the_logs_are_read(row: ForkRow | None, there: Old) -> None:
    assert tail.by_offsets(PLACE, row, there, "dc-a") is None


def test_a_tail_can_lie_behind_m_only_and_never_before_the_log_starts() -> None:
    assert tail.beyond(fork(9), old(15)) == OffsetRange(10, 15)
    assert tail.beyond(fork(9), old(10)) == OffsetRange(10, 10)
    assert tail.beyond(fork(9), old(30, start=20)) == OffsetRange(20, 30)
    assert tail.beyond(fork(None), old(5, start=2)) == OffsetRange(2, 5)
    assert tail.beyond(None, old(5)) == OffsetRange(0, 5)


def test_a_tail_is_told_with_its_offsets_sizes_and_times() -> None:
    seen = Measured(3, 120, 10, 14, 1_000, 61_000, b"x", True)
    row = tail.lost(PLACE, fork(), old(15), seen, "dc-a")
    assert (row.case, row.first, row.last, row.records, row.bytes, row.note) == (TailCase.TAIL, 10, 14, 3, 120, "")
    assert row.first_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert row.last_at == datetime(1970, 1, 1, 0, 1, 1, tzinfo=UTC)


def test_markers_alone_are_no_tail() -> None:
    assert tail.lost(PLACE, fork(), old(12), Measured(complete=True), "dc-a").case is TailCase.NONE


def test_what_retention_took_before_anybody_read_it_is_never_called_none() -> None:
    row = tail.lost(PLACE, fork(9), old(15, start=15), Measured(complete=True), "dc-a")
    assert (row.case, row.records, row.first) == (TailCase.TAIL, 0, None)
    assert "offsets 10 to 14 were deleted on dc-a" in row.note


def test_a_time_that_no_calendar_holds_is_left_out() -> None:
    seen = Measured(1, 1, 10, 10, 2**62, 2**62, b"x", True)
    row = tail.lost(PLACE, fork(), old(11), seen, "dc-a")
    assert (row.records, row.first_at, row.last_at) == (1, None, None)


def digests(content: Sequence[str], first: int = 0) -> list[RecordDigest]:
    return [RecordDigest(first + n, text.encode()) for n, text in enumerate(content)]


@given(data=st.data(), repeating=st.booleans())
def test_content_finds_what_was_copied_beyond_m_or_says_that_it_cannot(data: st.DataObject, repeating: bool) -> None:
    """The old side holds `content`, the target a part of it: M says less than is there, never more."""
    size = data.draw(st.integers(0, 12))
    content = [data.draw(st.sampled_from("ab")) if repeating else f"r{n}" for n in range(size)]
    copied = data.draw(st.integers(0, size))
    told = data.draw(st.integers(0, copied))
    reach_first = data.draw(st.integers(0, max(0, told - 1)))  # as far back as the anchor at least
    ours, theirs = digests(content)[told:], digests(content[:copied], 100)[reach_first:]
    anchor = digests(content)[told - 1] if told else None
    found = tail.copied(anchor, ours, theirs, theirs_whole=reach_first == 0, ours_whole=True)
    if found.records is not None:
        assert found.records == copied - told
    else:
        assert found.why
        assert repeating


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        ("mxy", "is not what follows on the old side"),  # y before x on the old side
        ("myxyx", "is not what follows"),  # copied twice
        ("zz", "is not among the last 2"),
    ],
)
def test_what_does_not_follow_is_told_and_not_guessed(theirs: str, why: str) -> None:
    found = tail.copied(digests("m")[0], digests("yxz", 1), digests(theirs), theirs_whole=True, ours_whole=True)
    assert found.records is None
    assert why in found.why


def test_records_that_repeat_leave_it_open() -> None:
    found = tail.copied(digests("a")[0], digests("aaa", 1), digests("aa"), theirs_whole=True, ours_whole=True)
    assert found.records is None
    assert "0 to 1" in found.why


def test_without_a_record_to_hold_on_to_the_targets_whole_log_must_be_the_beginning() -> None:
    assert tail.copied(None, digests("xyz"), digests("xy"), theirs_whole=True, ours_whole=True).records == 2
    assert tail.copied(None, digests("xyz"), digests("xy"), theirs_whole=False, ours_whole=True).records is None


def test_the_last_copied_record_is_the_targets_last_one() -> None:
    anchor = digests("m", 9)[0]
    assert tail.ends_alike(anchor, digests("km"), compacted=False) is True
    assert tail.ends_alike(anchor, digests("mk"), compacted=False) is False
    assert tail.ends_alike(None, digests("mk"), compacted=False) is None
    assert tail.ends_alike(anchor, [], compacted=False) is None
    assert tail.ends_alike(anchor, digests("mk"), compacted=True) is None


def test_partitions_are_counted_by_case_and_those_without_a_tail_are_not_listed() -> None:
    rows = [
        LostRows(topic="b", partition=0, case=TailCase.TAIL, records=2),
        LostRows(topic="a", partition=1, case=TailCase.NONE),
        LostRows(topic="a", partition=0, case=TailCase.BEHIND),
    ]
    told = tail.worth_telling(rows)
    assert [(row.topic, row.partition) for row in told] == [("a", 0), ("b", 0)]
    assert tail.cases(told, 7) == {TailCase.NONE: 5, TailCase.TAIL: 1, TailCase.BEHIND: 1}
