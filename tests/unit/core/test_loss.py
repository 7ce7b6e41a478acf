"""What is lost at most: the journal, the bound that is never too small, and who may go on with it."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcdr import loss
from dcdr.bounds import PRESETS, LeaseTiming, Preset
from dcdr.errors import MisconfiguredError
from dcdr.loss import JournalKeeper, Look
from dcdr.model import (
    FailoverMode,
    FailoverPolicy,
    LeaseRecord,
    LogEnds,
    LossAcceptance,
    LossBound,
    Phase,
    TopicPartition,
    Watermarks,
)

T0 = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
EVERY = timedelta(seconds=2)
TIMING: LeaseTiming = PRESETS[Preset.TEST]
BELIEVED = TIMING.validity * (1 + TIMING.clock_rate_error) + TIMING.pause
POLICY = FailoverPolicy()
P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def keeper(before: Watermarks | None = None, epoch: int = 1) -> JournalKeeper:
    return JournalKeeper("lab", "dc-a", "dc-b", epoch, EVERY, before)


def look(
    seconds: float,
    ends: Mapping[TopicPartition, int],
    mirrored: Mapping[TopicPartition, int] = {},
    *,
    took: float = 0.1,
    start: int = 0,
    topic_id: str = "id-1",
) -> Look:
    return Look(
        at=at(seconds),
        began=seconds,
        ended=seconds + took,
        topic_ids={place.topic: topic_id for place in ends},
        ends={place: LogEnds(start, end, end, end) for place, end in ends.items()},
        mirrored=mirrored,
    )


def taken(last_sign: float, *, epoch: int = 2, after: float = 7.0) -> LeaseRecord:
    """dc-b took over; the old holder was last heard of at `last_sign`."""
    return LeaseRecord(
        scope="lab",
        holder="dc-b",
        epoch=epoch,
        phase=Phase.ACQUIRED,
        acquired_at=at(last_sign + after),
        acquired_after_s=after,
    )


def journal(known: int = 0, peak: float = 100.0, seconds: float = 10) -> Watermarks:
    """1,000 offsets a second apart from `known`, caught up two seconds before."""
    return Watermarks(
        scope="lab",
        source="dc-a",
        target="dc-b",
        epoch=1,
        taken_at=at(seconds),
        topic_ids={"orders": "id-1"},
        ends={"orders": {0: 1000}},
        mirrored={"orders": {0: 999 - known}},
        since=at(seconds - 2),
        peak_per_s=peak,
        every_s=2.0,
    )


def test_what_the_journal_saw_beyond_the_mirror_is_known_and_the_rest_assumed() -> None:
    found = loss.bound(journal(40), {P0: 959}, taken(10), TIMING, POLICY)
    assert found.known == 40
    assert found.until == at(10 + BELIEVED)
    whole_looks = 8  # of two seconds are six and a bit that A may have gone on for
    assert found.assumed == whole_looks * 100 * 1.5
    assert found.records == 40 + found.assumed
    assert found.since == at(8)
    assert found.seconds == pytest.approx(2 + BELIEVED)


def test_a_mirror_that_has_moved_on_since_the_last_look_owes_nothing_of_it() -> None:
    found = loss.bound(journal(40), {P0: 1200}, taken(10), TIMING, POLICY)
    assert (found.known, found.since) == (0, at(10))


def test_a_partition_that_was_never_copied_is_lost_from_its_first_record_on() -> None:
    log = keeper()
    log.add(look(0, {P0: 500, P1: 70}, {P0: 499}, start=20))
    seen = log.add(look(2, {P0: 500, P1: 70}, {P0: 499}, start=20))
    assert loss.bound(seen, {P0: 499}, taken(2), TIMING, POLICY).known == 50


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"epoch": 4}, "epoch 4"),
        ({"target": "dc-a", "source": "dc-b"}, "dc-b -> dc-a"),
        ({"scope": "other"}, "of other"),
        ({"peak_per_s": None}, "one look only"),
        ({"taken_at": at(10) - timedelta(minutes=10)}, "says nothing about so long a gap"),
    ],
)
def test_nobody_knows_without_a_journal_of_this_very_tenure(change: dict[str, object], why: str) -> None:
    found = loss.bound(journal().model_copy(update=change), {P0: 999}, taken(10), TIMING, POLICY)
    assert found.records is None
    assert why in found.why
    assert why in loss.hold(found, POLICY, True)


def test_nobody_knows_without_a_journal_or_the_time_of_the_takeover() -> None:
    assert "no journal" in loss.bound(None, {}, taken(10), TIMING, POLICY).why
    undated = taken(10).model_copy(update={"acquired_at": None})
    assert loss.bound(journal(), {P0: 999}, undated, TIMING, POLICY).records is None


def test_a_journal_that_stopped_before_the_death_still_counts_and_says_so() -> None:
    found = loss.bound(journal(), {P0: 999}, taken(200), TIMING, POLICY)
    assert found.records is not None
    assert found.records >= 190 * 100 * 1.5
    assert "stopped 190 s before" in found.why


# --- the journal ----------------------------------------------------------------------------------------------------


def test_since_is_the_last_look_whose_every_end_the_mirror_has_passed() -> None:
    log = keeper()
    assert log.add(look(0, {P0: 10, P1: 10}, {P0: 4})).since is None
    assert log.add(look(2, {P0: 20, P1: 10}, {P0: 9})).since is None, "P1 is missing"
    assert log.add(look(4, {P0: 30, P1: 10}, {P0: 9, P1: 9})).since == at(0)
    assert log.add(look(6, {P0: 40, P1: 10}, {P0: 29, P1: 9})).since == at(4)
    assert log.add(look(8, {P0: 40, P1: 10}, {P0: 29, P1: 9})).since == at(4), "it does not go back"
    assert log.add(look(10, {P0: 40, P1: 10}, {P0: 39, P1: 9})).since == at(10)


def test_a_long_lag_is_remembered_in_bounded_memory() -> None:
    log = keeper()
    for second in range(0, 2000, 2):
        seen = log.add(look(second, {P0: 10 + second}, {P0: 0}))
    assert len(log._pending) <= loss.PENDING_LOOKS
    assert seen.since is None
    seen = log.add(look(2000, {P0: 3000}, {P0: 1900}))
    assert seen.since is not None
    assert at(0) <= seen.since <= at(1890)


def test_the_peak_is_the_highest_rate_between_two_looks_and_is_forgotten_in_time() -> None:
    log = keeper()
    assert log.add(look(0, {P0: 0})).peak_per_s is None
    assert log.add(look(2, {P0: 190}, took=0)).peak_per_s == pytest.approx(100), "the first look took 0.1 s"
    seen = log.add(look(4, {P0: 200}))
    assert seen.peak_per_s == pytest.approx(100)
    for second in range(6, 610, 2):
        seen = log.add(look(second, {P0: 200}))
    assert seen.peak_per_s == 0


def test_a_topic_that_appears_or_is_made_anew_counts_as_growth() -> None:
    log = keeper()
    log.add(look(0, {P0: 100}, took=0))
    assert log.add(look(2, {P0: 100, P1: 50}, took=0)).peak_per_s == 25
    assert log.add(look(4, {P0: 90, P1: 50}, took=0, topic_id="id-2")).peak_per_s == 70


def test_what_ends_with_a_marker_is_looked_at_once_it_stands_still() -> None:
    log = keeper()
    first = look(0, {P0: 10}, {P0: 8})
    assert log.doubtful(first) == {}
    log.add(first)
    second = look(2, {P0: 10}, {P0: 8})
    assert log.doubtful(second) == {P0: (9, 10)}
    seen = log.add(second, {P0: None})
    assert (seen.since, loss.lag(seen, at(2))) == (at(2), (0, 0.0))
    third = look(4, {P0: 10}, {P0: 8})
    assert log.doubtful(third) == {}, "it was looked at"
    assert log.add(third).since == at(4)
    assert loss.bound(seen, {P0: 8}, taken(2), TIMING, POLICY).known == 0
    assert loss.bound(seen, {P0: 5}, taken(2), TIMING, POLICY).known == 4, "set back, it owes what lies between"


def test_a_record_that_is_really_missing_is_not_looked_at_again_and_again() -> None:
    log = keeper()
    log.add(look(0, {P0: 10}, {P0: 3}))
    again = look(2, {P0: 10}, {P0: 3})
    assert log.doubtful(again) == {P0: (4, 10)}
    seen = log.add(again, {P0: 7})
    assert loss.lag(seen, at(2)).records == 3
    assert log.doubtful(look(4, {P0: 10}, {P0: 3})) == {}


def test_a_topic_made_anew_owes_all_it_holds() -> None:
    log = keeper()
    log.add(look(0, {P0: 10}, {P0: 8}))
    log.add(look(2, {P0: 10}, {P0: 8}), {P0: None})
    seen = log.add(look(4, {P0: 6}, {P0: 8}, topic_id="id-2"))
    assert loss.lag(seen, at(4)).records == 6, "the stored offset is another log's"
    assert loss.bound(seen, {P0: 8}, taken(4), TIMING, POLICY).known == 6
    assert loss.bound(seen, {P0: 2}, taken(4), TIMING, POLICY).known == 3, "the mirror began anew"


def test_a_process_that_starts_goes_on_from_the_journal_it_finds() -> None:
    log = keeper()
    log.add(look(0, {P0: 0}, took=0))
    old = log.add(look(2, {P0: 400}, {P0: 399}, took=0))
    seen = keeper(old).add(look(5, {P0: 500}, {P0: 420}))
    assert (seen.since, seen.peak_per_s) == (at(2), 200)
    other = keeper(old, epoch=3).add(look(5, {P0: 500}, {P0: 420}))
    assert (other.since, other.peak_per_s) == (None, None), "another tenure's says nothing"
    late = keeper(old).add(look(700, {P0: 500}, {P0: 420}))
    assert late.peak_per_s is None


def test_the_journal_reads_back_as_it_was_written() -> None:
    log = keeper()
    log.add(look(0, {P0: 10, P1: 30}, {P0: 8}))
    seen = log.add(look(2, {P0: 10, P1: 30}, {P0: 8}), {P0: None})
    assert loss.unpack(loss.pack(seen)) == seen


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 50, zlib.compress(b"[1]"), zlib.compress(b'{"ends":{}}')])
def test_what_is_no_journal_is_refused(body: bytes) -> None:
    with pytest.raises(MisconfiguredError, match="journal cannot be read"):
        loss.unpack(body)


def test_ten_thousand_partitions_fit() -> None:
    rng = random.Random(6)
    places = [TopicPartition(f"team-{n % 40}.events.{n:04d}.v1", p) for n in range(1000) for p in range(10)]
    ends = {place: rng.randrange(10**10) for place in places}
    mirrored = {place: max(0, end - 1 - rng.randrange(200)) for place, end in ends.items()}
    ids = {place.topic: "".join(rng.choices("ABCDEFGHIJKLMNOPabcdefghijklmnop0123456789-_", k=22)) for place in places}
    seen = keeper().add(look(0, ends, mirrored)).model_copy(update={"topic_ids": ids})
    assert len(loss.pack(seen)) < 200_000


# --- the bound is never too small -----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 3), st.integers(1, 60))
def test_the_bound_is_never_too_small(seed: int, partitions: int, most: int) -> None:
    """A source that grows by up to `most` a look's length, at once or spread; markers among its records; a mirror that
    stalls and is set back; looks that fail. The first look's length shows the source at its fastest."""
    rng = random.Random(seed)
    places = [TopicPartition("orders", number) for number in range(partitions)]
    logs: dict[TopicPartition, list[tuple[float, bool]]] = {place: [] for place in places}
    mirrored: dict[TopicPartition, int] = {}
    log, seen, last = keeper(), None, None

    def grow(seconds: float, count: int) -> None:
        for _ in range(count):
            logs[rng.choice(places)].append((seconds, rng.random() < 0.7))

    def copy() -> None:
        for place in places:
            visible = [offset for offset, (_, shown) in enumerate(logs[place]) if shown]
            ahead = [offset for offset in visible if offset > mirrored.get(place, -1)]
            if ahead and rng.random() < 0.7:
                mirrored[place] = rng.choice(ahead[-3:])
            elif visible and rng.random() < 0.05:
                mirrored[place] = rng.choice(visible)

    rounds = rng.randrange(2, 12)
    for number in range(rounds):
        now = number * 2.0
        if number < 2 or rng.random() < 0.7:
            stored = dict(mirrored)
            if rng.random() < 0.5:
                copy()  # what was copied between the question for M and that for the ends
            last = look(now, {place: len(rows) for place, rows in logs.items()}, stored, took=0)
            firsts = {
                place: next((o for o in range(*span) if logs[place][o][1]), None)
                for place, span in log.doubtful(last).items()
            }
            seen = log.add(last, firsts)
        grow(now + rng.random(), most if number == 0 else rng.randrange(most + 1))
        copy()
    dies = rng.uniform((rounds - 1) * 2.0, rounds * 2.0 + BELIEVED)
    for number in range(rounds, int(dies // 2) + 1):
        grow(number * 2.0, rng.randrange(most + 1))
        copy()
    last_sign = max(0.0, dies - rng.uniform(0, BELIEVED))
    found = loss.bound(seen, mirrored, taken(last_sign), TIMING, FailoverPolicy(rate_factor=1.0))
    lost = [
        when
        for place, rows in logs.items()
        for offset, (when, shown) in enumerate(rows)
        if shown and offset > mirrored.get(place, -1)
    ]
    assert found.records is not None
    assert found.records >= len(lost)
    assert found.since is None or all(when >= (found.since - T0).total_seconds() for when in lost)


# --- who may go on --------------------------------------------------------------------------------------------------

SMALL = LossBound(records=10, known=4, assumed=6, since=at(0), until=at(5), journal_at=at(4))


def test_inside_the_budget_it_goes_on_by_itself() -> None:
    assert loss.hold(SMALL, POLICY, True) == ""
    assert loss.hold(SMALL, FailoverPolicy(max_lost_records=10, max_lost_seconds=5), True) == ""
    endless = FailoverPolicy(max_lost_records=None, max_lost_seconds=None)
    assert loss.hold(SMALL.model_copy(update={"records": 10**9, "since": None}), endless, True) == ""


@pytest.mark.parametrize(
    ("policy", "bound", "gated", "why"),
    [
        (FailoverPolicy(mode=FailoverMode.NEVER), SMALL, True, r"never.*at most 10 records"),
        (FailoverPolicy(mode=FailoverMode.ASK), SMALL, True, r"ask.*at most 10 records.*of 5 s \(4 seen, 6 assumed\)"),
        (FailoverPolicy(max_lost_records=9), SMALL, True, "budget of 9 records"),
        (FailoverPolicy(max_lost_seconds=4.5), SMALL, True, r"budget of 4\.5 s"),
        (POLICY, SMALL.model_copy(update={"since": None}), True, "never seen caught up"),
        (POLICY, LossBound(records=None, why="no journal"), True, "not known: no journal"),
        (
            FailoverPolicy(max_lost_records=None, max_lost_seconds=None),
            LossBound(records=None, why="no journal"),
            True,
            "not known",
        ),
        (POLICY, SMALL, False, "ACLs"),
        (FailoverPolicy(even_behind_acls="we know", max_lost_records=9), SMALL, False, "budget"),
    ],
)
def test_else_it_holds_and_says_why(policy: FailoverPolicy, bound: LossBound, gated: bool, why: str) -> None:
    assert re.search(why, loss.hold(bound, policy, gated))


def test_behind_acls_it_goes_on_only_by_the_owners_words() -> None:
    assert loss.hold(SMALL, FailoverPolicy(even_behind_acls="the link is a dark fibre we own"), False) == ""


@pytest.mark.parametrize(
    ("accepted", "bound", "refused"),
    [
        (10, SMALL, ""),
        (11, SMALL, ""),
        (9, SMALL, "more than the 9 accepted"),
        (None, SMALL, "known by now: 10 records"),
        (None, LossBound(records=None, why="no journal"), ""),
        (10**9, LossBound(records=None, why="no journal"), "records null"),
    ],
)
def test_an_acceptance_covers_what_it_names(accepted: int | None, bound: LossBound, refused: str) -> None:
    found = loss.accepts(LossAcceptance(records=accepted), bound)
    assert (found == "") == (refused == "")
    assert refused in found


def test_lag_is_what_is_missing_and_the_age_of_the_oldest_that_may_be() -> None:
    assert loss.lag(journal(40), at(12)) == (40, 4.0)
    assert loss.lag(journal(40).model_copy(update={"since": None}), at(12)) == (40, None)


@pytest.mark.parametrize(
    ("seen", "there", "why"),
    [
        (journal(40), {"orders", "more"}, ""),
        (None, {"orders"}, "no journal"),
        (journal(40).model_copy(update={"since": None}), {"orders"}, "never seen caught up (40 offsets behind)"),
        (journal(40), {"others"}, "lacks 1 topics of dc-a (orders)"),
    ],
)
def test_a_standby_is_ready_once_it_caught_up_and_has_every_topic(
    seen: Watermarks | None, there: set[str], why: str
) -> None:
    found = loss.ready(seen, there, at(12))
    assert (found == "") == (why == "")
    assert why in found
