"""The judge passes clean histories and sees every kind of anomaly planted into one."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lab.check.judge import judge
from lab.check.model import Attempt, Committed, Demands, Kind, Outcome, Read, Seen
from tests.unit.check.histories import COMPACTED, History, acknowledged, change, clean, where

ERAS = (("dc-a",), ("dc-a", "dc-b"), ("dc-a", "dc-b", "dc-a"), ("dc-a", "dc-b", "dc-a", "dc-b", "dc-a"))
FAST = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@FAST
@given(seed=st.integers(0, 10_000), eras=st.sampled_from(ERAS), leave=st.integers(0, 5))
def test_a_clean_history_of_any_number_of_switchovers_passes(seed: int, eras: tuple[str, ...], leave: int) -> None:
    demands = Demands(switchovers=len(eras) - 1, standby_complete=leave == 0)
    verdict = judge(clean(seed, eras, leave=leave).build(), demands)
    assert not verdict.samples
    assert verdict.vacuous == []
    assert verdict.exit_code == 0


# --- planted anomalies: each takes a clean history and spoils one thing; False if this history has no room for it ---

Plant = Callable[[History, random.Random], bool]


def _visible_ok(history: History, rng: random.Random, dc: str) -> tuple[int, Attempt]:
    return rng.choice([(n, a) for n, a in acknowledged(history) if any(True for _ in _at(history, dc, n))])


def _at(history: History, dc: str, number: int) -> list[Seen]:
    attempt = history.attempts[number]
    return [seen for seen in history.logs[dc][(attempt.topic, attempt.partition)] if seen.attempt == number]


def lose_on_both(history: History, rng: random.Random) -> bool:
    number, _ = _visible_ok(history, rng, history.active)
    for dc in history.logs:
        tp, index = where(history, dc, number)
        del history.logs[dc][tp][index]
    return True


def lose_on_active(history: History, rng: random.Random) -> bool:
    number, _ = _visible_ok(history, rng, history.active)
    tp, index = where(history, history.active, number)
    del history.logs[history.active][tp][index]
    return True


def lose_unanswered_on_active(history: History, rng: random.Random) -> bool:
    """Its producer was told nothing: no loss of an acknowledged record, yet left behind on the old side."""
    found = [
        number
        for number, attempt in history.attempts.items()
        if attempt.outcome is Outcome.INFO and attempt.topic not in COMPACTED and not attempt.txn
        and any(seen.attempt == number for records in history.logs[history.active].values() for seen in records)
    ]  # fmt: skip
    if not found:
        return False
    tp, index = where(history, history.active, rng.choice(found))
    del history.logs[history.active][tp][index]
    return True


def lose_on_standby(history: History, rng: random.Random) -> bool:
    number, _ = _visible_ok(history, rng, history.standby)
    tp, index = where(history, history.standby, number)
    del history.logs[history.standby][tp][index]
    return True


def double(side: str) -> Plant:
    def plant(history: History, rng: random.Random) -> bool:
        dc = getattr(history, side)
        number, _ = _visible_ok(history, rng, dc)
        tp, index = where(history, dc, number)
        records = history.logs[dc][tp]
        records.append(records[index]._replace(offset=records[-1].offset + 1))
        return True

    return plant


def swap(side: str) -> Plant:
    def plant(history: History, rng: random.Random) -> bool:
        dc = getattr(history, side)
        tp = rng.choice([tp for tp, records in history.logs[dc].items() if tp[0] not in COMPACTED and len(records) > 2])
        records = history.logs[dc][tp]
        index = rng.randrange(len(records) - 1)
        one, two = records[index], records[index + 1]
        records[index], records[index + 1] = two._replace(offset=one.offset), one._replace(offset=two.offset)
        return True

    return plant


def swap_one_key_on_both(history: History, rng: random.Random) -> bool:
    """Both sides agree, and still a key's later record stands first."""
    by_key: dict[str, list[int]] = {}
    for number, attempt in acknowledged(history, ("orders",)):
        by_key.setdefault(attempt.key or "", []).append(number)
    pairs = [numbers for numbers in by_key.values() if len(numbers) > 1]
    if not pairs:
        return False
    first, second = rng.choice(pairs)[:2]
    for dc, log in history.logs.items():
        (tp, one), (_, two) = where(history, dc, first), where(history, dc, second)
        records = log[tp]
        offsets = records[one].offset, records[two].offset
        records[one], records[two] = records[two]._replace(offset=offsets[0]), records[one]._replace(offset=offsets[1])
    return True


def alter(side: str, field: str) -> Plant:
    def plant(history: History, rng: random.Random) -> bool:
        dc = getattr(history, side)
        number, _ = _visible_ok(history, rng, dc)
        tp, index = where(history, dc, number)
        change(history, dc, tp, index, **{field: "other" if field == "key" else 17})
        return True

    return plant


def empty_a_value(history: History, rng: random.Random) -> bool:
    number, _ = _visible_ok(history, rng, history.active)
    tp, index = where(history, history.active, number)
    change(history, history.active, tp, index, value=-1)
    return True


def change_partition(history: History, rng: random.Random) -> bool:
    number, attempt = rng.choice(acknowledged(history, ("orders",)))
    tp, index = where(history, history.active, number)
    seen = history.logs[history.active][tp].pop(index)
    elsewhere = history.logs[history.active][(attempt.topic, (attempt.partition + 1) % 3)]
    elsewhere.append(seen._replace(offset=elsewhere[-1].offset + 1 if elsewhere else 0))
    return True


def change_partition_of_an_unanswered_one(history: History, rng: random.Random) -> bool:
    """Nobody was told a partition; the two sides still have to agree."""
    visible = {seen.attempt for records in history.logs[history.active].values() for seen in records}
    found = [
        number
        for number, attempt in history.attempts.items()
        if attempt.outcome is Outcome.INFO and attempt.topic == "orders" and number in visible
    ]
    if not found:
        return False
    tp, index = where(history, history.active, rng.choice(found))
    seen = history.logs[history.active][tp].pop(index)
    elsewhere = history.logs[history.active][(tp[0], (tp[1] + 1) % 3)]
    elsewhere.append(seen._replace(offset=elsewhere[-1].offset + 1 if elsewhere else 0))
    return True


def move(history: History, rng: random.Random) -> bool:
    """The log of the side that acknowledged was rewritten: same records, other offsets."""
    _, attempt = _visible_ok(history, rng, history.active)
    dc = attempt.dc
    records = history.logs[dc][(attempt.topic, attempt.partition)]
    records[:] = [seen._replace(offset=seen.offset + 1) for seen in records]
    return True


def show_a_failed_one(history: History, rng: random.Random) -> bool:
    failed = [(n, a) for n, a in history.attempts.items() if a.outcome is Outcome.FAIL and a.topic not in COMPACTED]
    if not failed:
        return False
    number, attempt = rng.choice(failed)
    for log in history.logs.values():
        records = log[(attempt.topic, max(0, attempt.partition))]
        offset = records[-1].offset + 1 if records else 0
        records.append(Seen(offset, number, attempt.key, attempt.value, attempt.headers, attempt.timestamp))
    return True


def show_an_unknown_one(history: History, rng: random.Random) -> bool:
    tp = rng.choice(list(history.logs[history.active]))
    records = history.logs[history.active][tp]
    records.append(Seen(records[-1].offset + 1 if records else 0, None, "who", 1, 1, 1))
    return True


def show_an_old_value_last(history: History, rng: random.Random) -> bool:
    """A compacted key's earlier value comes back."""
    by_key: dict[str, list[int]] = {}
    for number, attempt in acknowledged(history, ("profiles",)):
        by_key.setdefault(attempt.key or "", []).append(number)
    several = [numbers for numbers in by_key.values() if len(numbers) > 1]
    if not several:
        return False
    numbers = rng.choice(several)
    old, last = history.attempts[numbers[0]], history.attempts[numbers[-1]]
    records = history.logs[history.active][("profiles", last.partition)]
    records[:] = [seen for seen in records if seen.key != last.key]
    records.append(Seen(10_000, numbers[0], old.key, old.value, old.headers, old.timestamp))
    return True


def lose_a_last_value(history: History, rng: random.Random) -> bool:
    last: dict[str, int] = {}
    for number, attempt in history.attempts.items():
        if attempt.topic in COMPACTED and attempt.outcome is Outcome.OK:
            last[attempt.key or ""] = number
    hopeless = {a.key for a in history.attempts.values() if a.topic in COMPACTED and a.outcome is Outcome.INFO}
    found = [n for key, n in last.items() if not history.attempts[n].tombstone and key not in hopeless]
    if not found:
        return False
    attempt = history.attempts[rng.choice(found)]
    records = history.logs[history.active][("profiles", attempt.partition)]
    records[:] = [seen for seen in records if seen.key != attempt.key]
    return True


def tear_a_transaction(history: History, rng: random.Random) -> bool:
    visible = {seen.attempt for records in history.logs[history.active].values() for seen in records}
    found = [n for n, a in history.attempts.items() if a.txn and a.outcome is Outcome.INFO and n in visible]
    if not found:
        return False
    number = rng.choice(found)
    for dc in history.logs:
        tp, index = where(history, dc, number)
        del history.logs[dc][tp][index]
    return True


def write_on_the_other_side(history: History, rng: random.Random) -> bool:
    """A producer that stayed behind is acknowledged there while the others are acknowledged here."""
    series = sorted((a for a in history.attempts.values() if a.producer == "p0"), key=lambda a: a.settled_ns)
    found = [
        after.sent_ns - 3
        for before, after in pairwise(series)
        if before.outcome is after.outcome is Outcome.OK and before.dc == after.dc == history.active
    ]
    if not found:
        return False
    at = rng.choice(found)
    number = max(history.attempts) + 1
    attempt = Attempt("pin", "clicks", None, 0, 1, 2, 3, at + 1, Outcome.OK, history.standby, 0, 9_000, at + 2)
    history.attempts[number] = attempt
    history.pinned = frozenset({"pin"})
    for log in history.logs.values():
        log[("clicks", 0)].append(Seen(9_000, number, None, 2, 3, 1))
    return True


def _reads(history: History, group: str) -> list[Read]:
    return [event for event in history.groups if isinstance(event, Read) and event.group == group]


def skip_a_record(history: History, rng: random.Random) -> bool:
    """A group never received one record, and received a later one."""
    last: dict[tuple[str, int], Read] = {}
    first: dict[tuple[str, int], int] = {}
    for event in _reads(history, "live"):
        last[(event.topic, event.partition)] = event
        first.setdefault((event.topic, event.partition), event.attempt or 0)
    found = [
        event.attempt
        for event in _reads(history, "live")
        if event.topic not in COMPACTED
        and event.attempt not in (last[(event.topic, event.partition)].attempt, first[(event.topic, event.partition)])
    ]
    if not found:
        return False
    gone = rng.choice(found)
    history.groups = [
        e for e in history.groups if not (isinstance(e, Read) and e.group == "live" and e.attempt == gone)
    ]
    return True


def read_a_committed_record_again(history: History, rng: random.Random) -> bool:
    commits = [e for e in history.groups if isinstance(e, Committed) and e.group == "live" and e.offset > 0]
    visible = {seen.attempt for records in history.logs[history.active].values() for seen in records}
    for commit in rng.sample(commits, len(commits)):
        before = [
            e for e in _reads(history, "live")
            if (e.topic, e.partition) == (commit.topic, commit.partition)
            and e.at_ns < commit.at_ns and e.dc == commit.dc and e.offset < commit.offset and e.attempt in visible
        ]  # fmt: skip
        if before:
            again = rng.choice(before)
            history.groups.append(again._replace(at_ns=max(e.at_ns for e in history.groups) + 1))
            return True
    return False


PLANTS: dict[str, tuple[Plant, Kind]] = {
    "an acknowledged record lost on both sides": (lose_on_both, Kind.MISSING),
    "an acknowledged record lost on the active side": (lose_on_active, Kind.MISSING),
    "... which is also left behind on the other": (lose_on_active, Kind.OLD_ONLY),
    "an unanswered record left behind": (lose_unanswered_on_active, Kind.OLD_ONLY),
    "an acknowledged record lost on a complete standby": (lose_on_standby, Kind.STANDBY_MISSING),
    "a record twice on the active side": (double("active"), Kind.DUPLICATED),
    "a record twice on the standby": (double("standby"), Kind.DUPLICATED),
    "two neighbours swapped on the active side": (swap("active"), Kind.REORDERED),
    "two neighbours swapped on the standby": (swap("standby"), Kind.REORDERED),
    "a key's records swapped on both sides": (swap_one_key_on_both, Kind.REORDERED),
    "another key": (alter("active", "key"), Kind.ALTERED),
    "another value": (alter("active", "value"), Kind.ALTERED),
    "other headers": (alter("active", "headers"), Kind.ALTERED),
    "another timestamp": (alter("active", "timestamp"), Kind.ALTERED),
    "another value on the standby": (alter("standby", "value"), Kind.ALTERED),
    "other headers on the standby": (alter("standby", "headers"), Kind.ALTERED),
    "a value turned into a tombstone": (empty_a_value, Kind.ALTERED),
    "a record in another partition": (change_partition, Kind.ALTERED),
    "an unanswered record in another partition": (change_partition_of_an_unanswered_one, Kind.ALTERED),
    "acknowledged offsets that are not there any more": (move, Kind.MOVED),
    "a refused or aborted record": (show_a_failed_one, Kind.PHANTOM),
    "a record nobody sent": (show_an_unknown_one, Kind.PHANTOM),
    "an old value last in a compacted topic": (show_an_old_value_last, Kind.STALE),
    "a compacted key gone": (lose_a_last_value, Kind.STALE),
    "half a transaction": (tear_a_transaction, Kind.TORN),
    "a writer on the other side": (write_on_the_other_side, Kind.TWO_WRITERS),
    "a group that skipped": (skip_a_record, Kind.SKIPPED),
    "a group that was set back": (read_a_committed_record_again, Kind.REREAD),
}


def test_there_is_a_plant_for_every_kind() -> None:
    of_a_loss_report = {Kind.NOT_LOST, Kind.HOLE, Kind.MISREPORTED, Kind.BEYOND_BOUND}  # see test_loss.py
    assert {kind for _, kind in PLANTS.values()} == set(Kind) - of_a_loss_report


@pytest.mark.parametrize("name", PLANTS)
@settings(FAST, max_examples=10)
@given(seed=st.integers(0, 10_000), eras=st.sampled_from(ERAS[1:]))
def test_one_planted_anomaly_is_seen(name: str, seed: int, eras: tuple[str, ...]) -> None:
    plant, kind = PLANTS[name]
    history = clean(seed, eras)
    assume(plant(history, random.Random(seed)))
    verdict = judge(history.build(), Demands(standby_complete=True))
    assert verdict.counts[kind] > 0
    assert verdict.exit_code == 1
    assert any(sample.kind is kind for sample in verdict.samples)


@FAST
@given(seed=st.integers(0, 10_000), name=st.sampled_from(sorted(PLANTS)))
def test_any_single_anomaly_fails_the_whole(seed: int, name: str) -> None:
    plant, _ = PLANTS[name]
    history = clean(seed, ERAS[2])
    assume(plant(history, random.Random(seed)))
    assert not judge(history.build(), Demands(standby_complete=True)).clean


# --- what must not be called an anomaly ---


def test_an_unanswered_record_that_is_nowhere_is_no_loss() -> None:
    history = clean(3)
    number, attempt = acknowledged(history, ("clicks",))[-1]
    for dc in history.logs:
        tp, index = where(history, dc, number)
        del history.logs[dc][tp][index]
    history.groups = [event for event in history.groups if getattr(event, "attempt", None) != number]
    attempt.outcome = Outcome.INFO
    assert judge(history.build()).counts[Kind.MISSING] == 0


def test_a_standby_that_lags_is_no_loss_unless_it_must_be_complete() -> None:
    history = clean(4, leave=4)
    assert judge(history.build()).clean
    assert judge(history.build(), Demands(standby_complete=True)).counts[Kind.STANDBY_MISSING] > 0


def test_a_compacted_tombstone_may_be_gone() -> None:
    history = clean(5, steps=200)
    last = {a.key: n for n, a in history.attempts.items() if a.topic in COMPACTED and a.outcome is Outcome.OK}
    gone = [n for n in last.values() if history.attempts[n].tombstone]
    assert gone, "this seed has no key that ends with a tombstone"
    for number in gone:
        key = history.attempts[number].key
        for log in history.logs.values():
            for tp, records in log.items():
                records[:] = [seen for seen in records if tp[0] not in COMPACTED or seen.key != key]
    assert judge(history.build()).counts[Kind.STALE] == 0


def test_a_timestamp_written_by_the_broker_is_not_compared() -> None:
    history = clean(6)
    number, _ = acknowledged(history)[0]
    tp, index = where(history, history.active, number)
    change(history, history.active, tp, index, timestamp=None)
    assert judge(history.build()).clean


def test_records_of_others_are_allowed_on_request_and_counted() -> None:
    history = clean(7)
    show_an_unknown_one(history, random.Random(1))
    verdict = judge(history.build(), Demands(foreign=True))
    assert verdict.clean
    assert verdict.facts["foreign records"] == {history.active: 1}


def test_a_group_may_be_given_a_bound_for_reading_again() -> None:
    history = clean(8)
    assert read_a_committed_record_again(history, random.Random(1))
    assert judge(history.build()).counts[Kind.REREAD] == 1
    assert judge(history.build(), Demands(rereads={"live": 1})).clean


def test_uncommitted_records_read_again_are_no_anomaly_and_counted() -> None:
    history = clean(9)
    latest = max((e for e in history.groups if isinstance(e, Read) and e.group == "live"), key=lambda e: e.at_ns)
    history.groups = [
        e for e in history.groups
        if not (isinstance(e, Committed) and e.at_ns > latest.at_ns)
    ]  # fmt: skip
    history.groups.append(latest._replace(at_ns=latest.at_ns + 10))
    assert judge(history.build()).clean


def test_a_producer_that_slept_through_an_era_is_no_second_writer() -> None:
    history = clean(10, ERAS[2])
    for attempt in history.attempts.values():
        if attempt.producer == "p1" and (attempt.dc == "dc-b" or attempt.outcome is not Outcome.OK):
            attempt.producer = "p0"
    # dc-a acknowledged p1 before and after; in between it was idle for longer than half a second
    later = [a for a in history.attempts.values() if a.dc == "dc-a" and a.sent_ns > _first_on(history, "dc-b")]
    for attempt in later:
        attempt.sent_ns += 10**9
        attempt.settled_ns += 10**9
    assert judge(history.build()).counts[Kind.TWO_WRITERS] == 0


def _first_on(history: History, dc: str) -> int:
    return min(attempt.sent_ns for attempt in history.attempts.values() if attempt.dc == dc)


# --- a check that proves nothing does not pass ---


def test_no_acknowledgement_at_all_proves_nothing() -> None:
    history = History(logs={"dc-a": {}, "dc-b": {}})
    assert judge(history.build()).exit_code == 3


def test_too_few_acknowledgements_on_a_side_prove_nothing() -> None:
    history = clean(11)
    assert judge(history.build(), Demands(min_acks=10)).exit_code == 0
    assert judge(history.build(), Demands(min_acks=100_000)).exit_code == 3


@pytest.mark.parametrize(("eras", "expected"), [(ERAS[0], 1), (ERAS[1], 0), (ERAS[1], 2)])
def test_another_number_of_switchovers_than_expected_proves_nothing(eras: tuple[str, ...], expected: int) -> None:
    verdict = judge(clean(12, eras).build(), Demands(switchovers=expected))
    assert verdict.exit_code == 3
    assert any("changed sides" in reason for reason in verdict.vacuous)


def test_a_switchover_without_a_refusal_proves_nothing() -> None:
    history = clean(13)
    for number in [n for n, a in history.attempts.items() if a.code == "TOPIC_AUTHORIZATION_FAILED"]:
        del history.attempts[number]
    verdict = judge(history.build(), Demands(switchovers=1))
    assert verdict.exit_code == 3
    assert any("refusals" in reason for reason in verdict.vacuous)


def test_a_log_that_ends_in_an_open_transaction_proves_nothing() -> None:
    history = clean(14)
    history.blocked = {"dc-b": [("payments", 0)]}
    assert judge(history.build()).exit_code == 3


def test_a_group_that_read_on_one_side_only_proves_nothing() -> None:
    history = clean(15)
    history.groups = [event for event in history.groups if event.dc == "dc-a" or event.group != "lag"]
    verdict = judge(history.build(), Demands(switchovers=1))
    assert any("group lag" in reason for reason in verdict.vacuous)


def test_anomalies_count_for_more_than_doubts() -> None:
    history = clean(16)
    lose_on_both(history, random.Random(1))
    assert judge(history.build(), Demands(switchovers=5)).exit_code == 1


def test_only_the_first_of_many_are_kept_and_all_are_counted() -> None:
    history = clean(17)
    for records in history.logs[history.active].values():
        records.clear()
    verdict = judge(history.build(), Demands(samples=3))
    assert verdict.counts[Kind.MISSING] == len(acknowledged(history))
    assert sum(sample.kind is Kind.MISSING for sample in verdict.samples) == 3


def test_an_active_side_that_was_not_read_is_refused() -> None:
    history = clean(18)
    history.active = "dc-x"
    with pytest.raises(ValueError, match="dc-x"):
        judge(history.build())
