"""The cut, the drain proof and the looks at the ends."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcdr import drain
from dcdr.errors import MisconfiguredError
from dcdr.model import Cut, LogEnds, OffsetRange, TailRow, Topic, TopicPartition, Verdict
from tests.unit.core.logs import OPERATION, Kind, Log, logs

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)


def at(end: int, start: int = 0, epoch: int = 3) -> LogEnds:
    return LogEnds(start, end, end, end, epoch)


def cut_of(ends: dict[TopicPartition, LogEnds]) -> Cut:
    topics: dict[str, Topic] = {}
    for place in ends:
        count = sum(other.topic == place.topic for other in ends)
        topics[place.topic] = Topic(place.topic, f"id-{place.topic}", count)
    return drain.take_cut(OPERATION, topics, ends, NOW)


def same_topics(cut: Cut) -> dict[str, Topic]:
    counts = {row.topic: sum(other.topic == row.topic for other in cut.rows) for row in cut.rows}
    return {row.topic: Topic(row.topic, row.topic_id, counts[row.topic]) for row in cut.rows}


def ledger_of(target_ends: dict[TopicPartition, int]) -> Cut:
    cut = cut_of({place: at(5) for place in target_ends})
    topics = {name: Topic(name, f"there-{name}", topic.partitions) for name, topic in same_topics(cut).items()}
    shown = dict.fromkeys(target_ends, Verdict.COMPARED)
    return drain.prove(cut, {}, topics, {place: at(end) for place, end in target_ends.items()}, shown)


def drained(log: Log, mirrored: int | None, cut_at: int | None = None) -> bool:
    """The product's rule, asked as the step asks it: one visible record is enough to say no."""
    cut = cut_of({P0: at(log.end if cut_at is None else cut_at, log.start)})
    ranges = drain.unproven(cut, {} if mirrored is None else {P0: mirrored})
    return all(seen.complete and not seen.records for seen in (log.read(r, limit=1) for r in ranges.values()))


@given(logs(), st.data())
def test_drained_means_that_no_visible_record_lies_between_the_mirror_and_the_cut(
    log: Log, data: st.DataObject
) -> None:
    mirrored = data.draw(st.none() | st.integers(0, max(0, log.end - 1)), "M") if log.end else None
    left = log.visible(0 if mirrored is None else mirrored + 1, log.end)
    assert drained(log, mirrored) == (not left)


@given(logs())
def test_a_mirror_at_the_last_visible_record_is_drained_whatever_trails_it(log: Log) -> None:
    seen = log.visible(0, log.end)
    assert drained(log, seen[-1] if seen else None)
    if seen:
        assert not drained(log, seen[-2] if len(seen) > 1 else None)


def test_a_log_whose_records_were_all_deleted_is_drained_without_a_stored_offset() -> None:
    assert drain.unproven(cut_of({P0: at(40, start=40), P1: at(0)}), {}) == {}


def test_a_partition_that_was_never_copied_is_read_from_its_start() -> None:
    assert drain.unproven(cut_of({P0: at(40, start=12)}), {}) == {P0: OffsetRange(12, 40)}


def test_a_stored_offset_before_the_log_start_is_read_from_the_start_and_named_as_lost_to_retention() -> None:
    cut = cut_of({P0: at(40, start=12), P1: at(40, start=12)})
    mirrored = {P0: 3, P1: 11}
    assert drain.unproven(cut, mirrored) == {P0: OffsetRange(12, 40), P1: OffsetRange(12, 40)}
    assert drain.lost_to_retention(cut, mirrored) == [
        "orders-0: 8 offsets before 12 were deleted before they were copied"
    ]


@pytest.mark.parametrize("mirrored", [40, 41, 9_000])
def test_a_stored_offset_that_this_log_never_had_is_refused(mirrored: int) -> None:
    cut = cut_of({P0: at(40)})
    for ends in (None, {P0: at(40)}):
        with pytest.raises(
            MisconfiguredError, match=rf"stored offset {mirrored} of orders-0 .* log end 40.*reset this"
        ):
            drain.unproven(cut, {P0: mirrored}, ends)


def test_a_late_record_that_was_copied_already_is_no_foreign_offset() -> None:
    cut = cut_of({P0: at(40), P1: at(7)})
    mirrored = {P0: 40, P1: 6}
    assert drain.beyond(cut, mirrored) == [P0]
    assert drain.unproven(cut, mirrored, {P0: at(41)}) == {}
    assert drain.changes(cut, same_topics(cut), {P0: at(41), P1: at(7)}) == [
        "orders-0: cut at 40, now log end 41, high watermark 41, stable 41"
    ]


def test_the_last_offset_before_the_cut_is_not_beyond_it() -> None:
    cut = cut_of({P0: at(40), P1: at(0)})
    assert drain.beyond(cut, {P0: 39, P1: 5}) == []
    assert drain.unproven(cut, {P0: 39, P1: 5}) == {}


@pytest.mark.parametrize(
    ("ends", "settled"),
    [
        (LogEnds(0, 5, 5, 5), True),
        (LogEnds(0, 6, 5, 5), False),  # a follower has not fetched it yet: ordinary looks say 5
        (LogEnds(0, 5, 5, 3), False),  # an open transaction
    ],
)
def test_settled_needs_log_end_high_watermark_and_stable_offset_to_agree(ends: LogEnds, settled: bool) -> None:
    said = drain.unsettled({P1: LogEnds(0, 1, 1, 1), P0: ends})
    assert (said == []) == settled
    assert settled or said == [f"orders-0: log end {ends.leo}, high watermark {ends.hw}, last stable {ends.lso}"]


def test_the_same_ends_and_ids_are_no_change() -> None:
    cut = cut_of({P0: at(4), P1: at(0)})
    assert drain.changes(cut, same_topics(cut), {P0: at(4), P1: at(0)}) == []


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (at(5), "orders-0: cut at 4, now log end 5"),
        (LogEnds(0, 5, 4, 4, 3), "orders-0: cut at 4, now log end 5, high watermark 4"),
        (LogEnds(0, 4, 4, 2, 3), "stable 2"),
        (at(3), "orders-0: cut at 4, now log end 3"),
        (at(4, epoch=4), "the leader changed after the cut (epoch 3 to 4)"),
        (None, "orders-0: nobody told its ends"),
    ],
)
def test_the_last_look_finds_what_moved_on_the_source(now: LogEnds | None, said: str) -> None:
    cut = cut_of({P0: at(4)})
    found = drain.changes(cut, same_topics(cut), {} if now is None else {P0: now})
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    ("topics", "said"),
    [
        ({}, "orders-0: the topic was deleted or recreated after the cut"),
        ({"orders": Topic("orders", "other-id", 1)}, "orders-0: the topic was deleted or recreated after the cut"),
        ({"orders": Topic("orders", "id-orders", 2)}, "orders: 1 partitions at the cut, 2 now"),
        (
            {"orders": Topic("orders", "id-orders", 1), "late": Topic("late", "id-late", 3)},
            "late: 0 partitions at the cut, 3 now",
        ),
    ],
    ids=["deleted", "recreated", "grown", "new"],
)
def test_the_last_look_finds_topics_that_are_not_those_of_the_cut(topics: dict[str, Topic], said: str) -> None:
    cut = cut_of({P0: at(4)})
    assert said in drain.changes(cut, topics, {P0: at(4)})


def test_a_target_that_grew_after_the_ledger_is_told_by_partition() -> None:
    ledger = ledger_of({P0: 10, P1: 7})
    assert drain.target_changes(ledger, {P0: at(10), P1: at(7)}) == []
    assert drain.target_changes(ledger, {P0: at(11)}) == [
        "orders-0: the ledger says 10, the target is at 11",
        "orders-1: the ledger says 7, the target is at unknown",
    ]


def test_what_the_old_side_took_after_the_cut_is_a_tail_by_offsets() -> None:
    cut = cut_of({P0: at(4), P1: at(9, start=2)})
    topics = same_topics(cut) | {"late": Topic("late", "id", 1)}
    late = TopicPartition("late", 0)
    assert drain.tail(cut, same_topics(cut), {P0: at(4), P1: at(9)}) == ()
    assert drain.tail(cut, topics, {P0: at(6), P1: at(9), late: at(3, start=1)}) == (
        TailRow(topic="late", partition=0, first=1, end=3),
        TailRow(topic="orders", partition=0, first=4, end=6),
    )


def test_the_reverse_direction_starts_behind_what_the_target_holds() -> None:
    stale = TopicPartition("deleted-last-year", 2)
    ledger = ledger_of({P0: 10, P1: 0})
    assert drain.seed(ledger, [P0, P1, stale]) == {P0: 9, P1: None, stale: None}


@given(st.dictionaries(st.integers(0, 5), st.integers(0, 50), min_size=1), st.sets(st.integers(0, 9)))
def test_a_seeded_direction_reads_nothing_of_what_was_there(ends: dict[int, int], stored: set[int]) -> None:
    numbers = {number: ends.get(number, 0) for number in range(max(ends) + 1)}
    ledger = ledger_of({TopicPartition("orders", n): end for n, end in numbers.items()})
    seeds = drain.seed(ledger, [TopicPartition("orders", n) for n in stored])
    assert set(seeds) == {TopicPartition("orders", n) for n in {*numbers, *stored}}
    for place, offset in seeds.items():
        resumes_at = 0 if offset is None else offset + 1
        assert resumes_at == numbers.get(place.partition, 0)


def test_an_entry_without_its_proof_seeds_nothing() -> None:
    with pytest.raises(MisconfiguredError, match="no target end for orders-0: not complete"):
        drain.seed(cut_of({P0: at(4)}), [])


def test_the_ledger_holds_the_cut_its_proof_and_both_topic_ids() -> None:
    cut = cut_of({P0: at(4, start=1), P1: at(0)})
    shown = {P0: Verdict.COMPARED, P1: Verdict.EMPTY}
    ledger = drain.prove(cut, {P0: 3}, {"orders": Topic("orders", "there", 2)}, {P0: at(6), P1: at(0)}, shown)
    first, second = ledger.rows
    assert (first.start, first.end, first.mirrored, first.target_end) == (1, 4, 3, 6)
    assert (first.topic_id, first.target_topic_id) == ("id-orders", "there")
    assert (second.mirrored, second.target_end) == (None, 0)
    assert (first.verdict, second.verdict) == (Verdict.COMPARED, Verdict.EMPTY)
    assert ledger.complete
    assert not cut.complete


def test_a_ledger_entry_is_named_by_its_content_and_kept_apart_from_the_cut() -> None:
    cut = cut_of({P0: at(4)})
    topics, shown = {"orders": Topic("orders", "x", 1)}, {P0: Verdict.COMPARED}
    ledger, other = (drain.prove(cut, {}, topics, {P0: at(end)}, shown) for end in (6, 7))
    names = {entry.reference().key for entry in (cut, ledger, other)}
    assert len(names) == 3
    assert all(name.startswith("lab/op-1/") for name in names)
    assert Cut.from_body(ledger.body()).reference() == ledger.reference()


@pytest.mark.parametrize(
    ("topic", "internal"),
    [
        ("orders", False),
        ("connect-clicks", False),
        ("dr-test-20261121", False),
        ("dcdr-clicks", False),
        ("device-heartbeats", False),
        ("my-internal", False),
        ("internal", False),
        ("connect-configs", True),  # reserved by name
        ("dcdr-ledger.internal", True),
        ("anything.internal", True),
        ("__consumer_offsets", True),
        ("heartbeats", True),
    ],
)
def test_only_exact_names_and_the_internal_ending_are_left_out(topic: str, internal: bool) -> None:
    assert drain.is_internal(topic, {"connect-configs"}) is internal
    known = {topic: Topic(topic, "id", 2)}
    assert (drain.mirrored_topics(known, {"connect-configs"}) == {}) is internal


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 3), max_size=4))
def test_the_cut_has_one_row_for_each_partition(counts: dict[str, int]) -> None:
    topics = {name: Topic(name, f"id-{name}", count) for name, count in counts.items()}
    places = drain.partitions_of(topics)
    cut = drain.take_cut(OPERATION, topics, {place: at(9) for place in places}, NOW)
    assert sorted(cut.by_partition) == places
    assert len(places) == sum(counts.values())


def test_markers_alone_are_never_waited_for() -> None:
    """The trap of comparing M + 1 with the end: a transactional source never reaches it."""
    log = Log(0, (Kind.DATA, Kind.MARKER, Kind.ABORTED, Kind.MARKER))
    assert drained(log, 0)
