"""The content witness: equal sides never alarm, and what the target lacks or holds otherwise is seen."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from dcdr import witness
from dcdr.model import RecordDigest
from dcdr.witness import Likeness, compare
from tests.unit.core.logs import Copies, copies


def ends(log: Copies, more: int) -> tuple[list[RecordDigest], list[RecordDigest]]:
    """What the step reads: the source's last records, and the target's last ones, or more of them."""
    return log.ahead(0)[-witness.LAST :], log.there(witness.LAST, more)


@given(copies(), st.integers(0, 20), st.booleans())
def test_the_same_records_are_the_same(log: Copies, more: int, whole: bool) -> None:
    ours, theirs = ends(log, more)
    found = compare(ours, theirs, target_is_whole=whole, compacted=False)
    assert found is (Likeness.SAME if ours else Likeness.UNKNOWN)


@given(copies(compacted=True), st.integers(0, 20))
def test_cleaners_that_came_to_different_places_make_no_alarm(log: Copies, more: int) -> None:
    ours, theirs = ends(log, more)
    assert compare(ours, theirs, target_is_whole=True, compacted=True) is not Likeness.DIFFERENT


@given(copies(), st.integers(0, 20), st.integers(1, 12))
def test_a_target_that_lacks_the_last_records_is_told(log: Copies, more: int, lost: int) -> None:
    assume(len(log.target) >= lost)
    short = Copies(log.records, log.source, log.target[:-lost], log.target_end)
    ours, theirs = ends(short, more)
    found = compare(ours, theirs, target_is_whole=True, compacted=False)
    # Of an application that repeats itself, records moved by one place can look the same: nobody could tell.
    same = [r.digest for r in theirs[-len(ours) :]] == [r.digest for r in ours]
    assert found is (Likeness.SAME if same else Likeness.DIFFERENT)


def record(offset: int, name: str, key: str = "k") -> RecordDigest:
    return RecordDigest(offset, name.encode(), key.encode())


A, B, C, X = (record(n, name, name) for n, name in enumerate("abcx"))


def test_one_record_that_differs_is_enough() -> None:
    assert compare([A, B, C], [A, X, C], target_is_whole=False, compacted=False) is Likeness.DIFFERENT


def test_where_retention_took_the_targets_older_records_the_rest_is_compared() -> None:
    assert compare([A, B, C], [C], target_is_whole=False, compacted=False) is Likeness.SAME
    assert compare([A, B, C], [B], target_is_whole=False, compacted=False) is Likeness.DIFFERENT
    assert compare([A, B, C], [], target_is_whole=False, compacted=False) is Likeness.UNKNOWN
    assert compare([A, B, C], [C], target_is_whole=True, compacted=False) is Likeness.DIFFERENT


def test_of_a_compacted_topic_the_latest_record_of_a_key_decides() -> None:
    old, new = record(0, "old"), record(5, "new")
    assert compare([A, new], [old, A, new], target_is_whole=True, compacted=True) is Likeness.SAME
    assert compare([A, new], [A, old], target_is_whole=True, compacted=True) is Likeness.DIFFERENT
    assert compare([A, new], [new], target_is_whole=True, compacted=True) is Likeness.UNKNOWN


def test_where_the_source_shows_nothing_there_is_nothing_to_compare() -> None:
    assert compare([], [A], target_is_whole=True, compacted=False) is Likeness.UNKNOWN
