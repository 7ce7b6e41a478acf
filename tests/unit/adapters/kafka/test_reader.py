"""From a Fetch answer to what a reader takes of it."""

from __future__ import annotations

from types import SimpleNamespace

from adapters.kafka.reader import Position, Slice, unpack
from tests.unit.adapters.kafka.test_records import Plain, batch, marker


def answer(data: bytes, lso: int) -> SimpleNamespace:
    return SimpleNamespace(records=data, aborted_transactions=None, last_stable_offset=lso, log_start_offset=0)


def numbered(count: int, base: int = 0, skip: int = 0) -> bytes:
    return batch([Plain(1, None, b"%d" % n, []) for n in range(count)], base, skip=skip)


def test_a_range_within_a_batch_takes_only_its_own() -> None:
    read = unpack(answer(numbered(10), 10), Position(3, 6))
    assert [r.offset for r in read.records] == [3, 4, 5]
    assert read.next >= 6


def test_the_limit_stops_at_the_record_that_is_next() -> None:
    read = unpack(answer(numbered(10), 10), Position(2, 9, 3))
    assert [r.offset for r in read.records] == [2, 3, 4]
    assert read.next == 5


def test_holes_move_the_position_past_the_batch() -> None:
    # Offsets 0, 2, 4; the batch ends at 5.
    read = unpack(answer(numbered(3, skip=1), 6), Position(1))
    assert [r.offset for r in read.records] == [2, 4]
    assert read.next == 5


def test_markers_are_passed_over() -> None:
    read = unpack(answer(numbered(2) + marker(2, 7, commit=True), 3), Position(2, 3))
    assert (read.records, read.next) == ((), 3)


def test_a_batch_behind_the_end_ends_the_range() -> None:
    read = unpack(answer(numbered(1) + numbered(3, base=8), 11), Position(0, 5))
    assert [r.offset for r in read.records] == [0]
    assert read.next >= 5


def test_an_empty_answer_moves_nothing() -> None:
    assert unpack(answer(b"", 9), Position(4)) == Slice((), 4, 9, 0)
