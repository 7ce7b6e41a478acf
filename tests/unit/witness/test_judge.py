"""The judge passes what may have been lawful, sees every kind of anomaly by every witness, and no proof in nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.witness.judge import STALL_NS, Closing, Evidence, Kind, Trace, Verdict, judge, overlaps
from lab.witness.probes import MIRROR, USERS, Info, Outcome
from tests.unit.witness.days import END, LANES, MOVED, MS, START, TICK, Day, at, clean, said


def seen(verdict: Verdict) -> set[tuple[Kind, str]]:
    return {(finding.kind, finding.witness) for finding in verdict.findings}


def test_a_clean_day_is_clean_and_tells_what_it_saw() -> None:
    verdict = judge(clean().build(), [Closing("dc-a", at(MOVED - 400), 1.0)])
    assert verdict.findings == []
    assert verdict.not_proven == []
    assert verdict.exit_code == 0
    assert verdict.open_times["users of dc-a"] == [(START, at(MOVED))]
    assert verdict.lanes["kafka-dc-b-1 as users"] == {"acked": 196, "refused": 204, "unknown": 0}
    assert verdict.load == {"dc-a": 500, "dc-b": 489}
    (closed,) = verdict.closings
    assert (closed.last_sent_s, closed.last_answered_s, closed.gate_s) == pytest.approx((0.39, 0.392, 0.4))
    assert verdict.pauses == []


def test_a_pause_of_all_writers_is_told() -> None:
    day = clean()
    day.forget("dc-b", USERS, 7000, 7500)
    day.load = [write for write in day.load or [] if not at(7000) <= write.sent_ns < at(7500)]
    (pause,) = judge(day.build()).pauses
    assert (pause.before, pause.after) == ("dc-b", "dc-b")
    assert pause.seconds == pytest.approx(0.51, abs=0.03)


# --- two at once, by each witness ---


def untraced(day: Day) -> Day:
    """Only acknowledgements of users are left to judge by."""
    day.traces = {}
    day.probes = [probe for probe in day.probes if probe.who == USERS]
    return day


def test_gates_that_were_open_at_once_are_seen_by_the_gates_alone() -> None:
    day = clean()
    day.traces["dc-b"] = said((-9000, "started"), (-8000, MIRROR), (4000, "nobody"), (MOVED - 60, USERS))
    verdict = judge(replace(day.build(), load=None, probes=untraced(clean()).probes))
    assert (Kind.TWO_WRITABLE, "gates") in seen(verdict)
    assert verdict.exit_code == 1


def test_one_gate_of_many_is_enough() -> None:
    day = clean()
    kept = [change for change in day.traces["dc-a"] if change.process != "controller" or change.mono_ns < at(MOVED)]
    day.traces["dc-a"] = kept
    assert (Kind.TWO_WRITABLE, "gates") in seen(judge(day.build()))


def test_gates_that_overlap_for_no_longer_than_a_thread_may_stall_are_no_finding_and_no_proof() -> None:
    day = clean()
    day.traces["dc-b"] = said((-9000, "started"), (-8000, MIRROR), (MOVED - 100, "nobody"), (MOVED - 20, USERS))
    verdict = judge(day.build())
    assert verdict.findings == []
    assert any("too short to be certain" in why for why in verdict.not_proven)
    assert verdict.exit_code == 3


def test_a_probe_that_was_acknowledged_between_two_of_the_other_side_is_seen_by_the_probes_alone() -> None:
    day = untraced(clean())
    day.load = None
    day.probe("dc-b", USERS, 3004, Outcome.ACKED)
    assert seen(judge(day.build())) == {(Kind.TWO_WRITABLE, "probes")}


def test_a_record_that_was_acknowledged_between_two_of_the_other_side_is_seen_by_the_load_alone() -> None:
    day = untraced(clean())
    day.write("dc-b", 3004)
    day.forget("dc-a", USERS, 0, MOVED)
    assert seen(judge(day.build())) == {(Kind.TWO_WRITABLE, "load")}


def test_a_probe_between_two_records_of_the_other_side_is_seen_by_both_together() -> None:
    day = untraced(clean())
    day.forget("dc-a", USERS, 2000, 4000)
    day.probe("dc-b", USERS, 3004, Outcome.ACKED)
    assert seen(judge(day.build())) == {(Kind.TWO_WRITABLE, "load and probes")}


@pytest.mark.parametrize("witness", ["load", "probes"])
def test_a_write_on_one_side_while_the_gate_of_the_other_was_open_is_seen(witness: str) -> None:
    day = clean()
    if witness == "load":
        day.write("dc-a", 8001)
    else:
        day.probe("dc-a", USERS, 8001, Outcome.ACKED)
    found = seen(judge(day.build()))
    assert {(Kind.TWO_WRITABLE, f"{witness} and gates"), (Kind.PAST_ITS_GATE, f"{witness} and gates")} <= found


@pytest.mark.parametrize("took", [2.0, 700.0])
def test_a_late_answer_of_the_old_side_is_no_anomaly(took: float) -> None:
    day = clean()
    day.write("dc-a", MOVED - 3, took)
    day.probe("dc-a", USERS, MOVED - 3, Outcome.ACKED, took)
    assert judge(day.build()).exit_code == 0


def test_there_and_back_with_time_to_move_twice_is_no_anomaly() -> None:
    day = untraced(clean())
    day.load, day.probes = None, []
    for ms in day.ticks():
        dc = "dc-b" if 4000 <= ms < 4900 else "dc-a"
        if not 3900 <= ms < 5000:
            day.probe(dc, USERS, ms, Outcome.ACKED)
    for ms in (4300, 4600):
        day.probe("dc-b", USERS, ms, Outcome.ACKED)
    assert judge(day.build()).findings == []
    day.probe("dc-a", USERS, 4450, Outcome.ACKED)
    assert seen(judge(day.build())) == {(Kind.TWO_WRITABLE, "probes")}


def test_users_and_mirror_on_one_side_are_seen_by_gates_and_by_probes() -> None:
    day = clean()
    controller = [change for change in day.traces["dc-b"] if change.process == "controller"]
    slow = [change for change in controller if change.mono_ns < at(MOVED - 100)]
    day.traces["dc-b"] = [change for change in day.traces["dc-b"] if change.process == "broker"] + slow
    assert (Kind.BOTH_GATES, "gates") in seen(judge(day.build()))
    day = clean()
    day.probe("dc-a", MIRROR, 3004, Outcome.ACKED)
    assert {(Kind.BOTH_GATES, "probes"), (Kind.BOTH_GATES, "probes and gates")} <= seen(judge(day.build()))


# --- brokers that die or stand still ---


def test_a_gate_whose_process_was_killed_is_not_held_for_open_until_its_successor_speaks() -> None:
    day = clean()
    day.forget("dc-a", USERS, 3000, MOVED)
    day.load = [write for write in day.load or [] if not at(3000) <= write.sent_ns < at(MOVED)]
    day.traces["dc-a"] = said((-9000, "started"), (-8000, USERS), (8000, "started"), (8200, MIRROR))
    day.forget("dc-a", MIRROR, 0, 8200)
    verdict = judge(day.build())
    assert verdict.findings == []
    assert verdict.not_proven == []
    assert len(verdict.unheard) == 2


def test_but_what_it_acknowledges_meanwhile_is_seen() -> None:
    day = clean()
    day.traces["dc-a"] = said((-9000, "started"), (-8000, USERS), (8000, "started"), (8200, MIRROR))
    day.probe("dc-a", USERS, 7004, Outcome.ACKED)
    assert (Kind.TWO_WRITABLE, "probes and gates") in seen(judge(day.build()))


def test_a_gate_that_ran_out_counts_to_the_end_of_its_validity() -> None:
    day = clean()
    day.traces["dc-a"] = said((-9000, "started"), (-8000, USERS), (MOVED + 400, "expired"))
    assert (Kind.TWO_WRITABLE, "gates") in seen(judge(day.build()))


def test_the_last_words_of_a_process_that_runs_hold_and_those_of_one_that_does_not_say_nothing_of_later() -> None:
    day = clean()
    day.traces["dc-a"] = said((-9000, "started"), (-8000, USERS))
    evidence = day.build()
    assert (Kind.TWO_WRITABLE, "gates") in seen(judge(evidence))
    down = [trace._replace(heard_ns=None) if trace.member == "dc-a" else trace for trace in evidence.traces]
    assert (Kind.TWO_WRITABLE, "gates") not in seen(judge(replace(evidence, traces=down)))


# --- closing in time ---

IN_TIME = Closing("dc-a", at(MOVED - 400), 1.0)
TOO_LATE = Closing("dc-a", at(MOVED - 400), 0.2)


def test_a_closing_after_its_bound_is_seen_by_every_witness() -> None:
    verdict = judge(clean().build(), [TOO_LATE])
    late = {(Kind.CLOSED_LATE, witness) for witness in ("gates", "load", "probes")}
    assert seen(verdict) == late


def test_a_single_late_write_is_seen() -> None:
    day = clean()
    day.probe("dc-a", USERS, MOVED + 601, Outcome.ACKED)
    assert (Kind.CLOSED_LATE, "probes") in seen(judge(day.build(), [IN_TIME]))


def test_a_side_that_opens_again_counts_until_it_may() -> None:
    day = clean()
    assert judge(day.build(), [Closing("dc-b", at(MOVED + 200), 0.5)]).exit_code == 1
    day.load = [write for write in day.load or [] if not at(7000) <= write.sent_ns < at(8000)]
    day.forget("dc-b", USERS, 7000, 8000)
    opening = ((-9000, "started"), (-8000, MIRROR), (MOVED - 100, "nobody"), (MOVED + 100, USERS))
    day.traces["dc-b"] = said(*opening, (7000, "expired"), (8000, USERS))
    assert judge(day.build(), [Closing("dc-b", at(6900), 0.5, at(8000))]).exit_code == 0
    assert judge(day.build(), [Closing("dc-b", at(6900), 0.5)]).exit_code == 1


@pytest.mark.parametrize(
    ("closing", "why"),
    [
        (Closing("dc-a", at(MOVED - 400), 60.0), "did not see all"),
        (Closing("dc-a", START - MS, 6.0), "did not see all"),
        (Closing("dc-a", at(8000), 1.0), "nothing was closed"),
        (Closing("dc-c", at(8000), 1.0), "no such member"),
        (Closing("dc-a", at(MOVED - 400), 0.39), "too near to the bound"),
    ],
)
def test_a_closing_that_was_not_seen_is_no_proof(closing: Closing, why: str) -> None:
    day = clean()
    if closing.within_s == 0.39:  # only the gate is near the bound
        day.load, day.probes = None, [one for one in day.probes if not at(4970) < one.sent_ns < at(5020)]
    verdict = judge(day.build(), [closing])
    assert verdict.findings == []
    assert any(why in reason for reason in verdict.not_proven), verdict.not_proven
    assert verdict.exit_code == 3


def test_a_write_that_was_sent_before_the_bound_and_answered_after_it_is_no_proof() -> None:
    day = clean()
    day.write("dc-a", MOVED - 3, 800)
    verdict = judge(day.build(), [IN_TIME])
    assert verdict.findings == []
    assert any("answered after the bound only" in reason for reason in verdict.not_proven)


# --- evidence that is none ---


def no_probe_answered(day: Day) -> None:
    day.forget("dc-b", USERS, 0, 10_000)


def a_gap(day: Day) -> None:
    day.probes = [one for one in day.probes if not at(2000) <= one.sent_ns < at(2200)]


def one_lane_pauses(day: Day) -> None:
    day.probes = [
        one for one in day.probes if one.lane != LANES[2] or not at(2000) <= one.sent_ns < at(2200)
    ]  # fmt: skip


def an_early_end(day: Day) -> None:
    day.probes = [one for one in day.probes if one.sent_ns < at(9700)]


def killed(day: Day) -> None:
    day.ended_ns = None


def nobody_writes(day: Day) -> None:
    day.load = None
    day.probes = [one._replace(outcome=Outcome.REFUSED) if one.who == USERS else one for one in day.probes]


def an_empty_load(day: Day) -> None:
    day.load = []


def a_load_elsewhere(day: Day) -> None:
    day.write("another-cluster", 100)


def no_trace(day: Day) -> None:
    del day.traces["dc-a"]


def a_trace_of_the_broker_only(day: Day) -> None:
    day.traces["dc-a"] = [change for change in day.traces["dc-a"] if change.process == "broker"]


def a_trace_that_was_wiped_since(day: Day) -> None:
    day.traces["dc-a"] = said((11_000, "started"), (12_000, USERS))


def lost_lines(day: Day) -> None:
    day.traces["dc-a"][3] = day.traces["dc-a"][3]._replace(lines_lost=2)


def read_too_soon(day: Day) -> None:
    day.heard_ns = END - MS


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (no_probe_answered, "kafka-dc-b-1 as users: no probe was answered"),
        (a_gap, "kafka-dc-a-1 as mirror: no probe for 225.0 ms"),
        (one_lane_pauses, "kafka-dc-b-1 as users: no probe for 225.0 ms"),
        (an_early_end, "no probe for 325.0 ms"),
        (killed, "was killed"),
        (nobody_writes, "nobody was writable"),
        (an_empty_load, "no acknowledgement"),
        (a_load_elsewhere, "no member of this lab"),
        (no_trace, "no trace of its broker and controller"),
        (a_trace_of_the_broker_only, "no trace of its controller"),
        (a_trace_that_was_wiped_since, "no trace of its broker and controller from before"),
        (lost_lines, "its trace lacks 2 lines"),
        (read_too_soon, "read too soon"),
    ],
)
def test_a_day_that_was_not_fully_witnessed_proves_nothing(spoil: Callable[[Day], None], why: str) -> None:
    day = clean()
    spoil(day)
    verdict = judge(day.build())
    assert verdict.findings == []
    assert any(why in reason for reason in verdict.not_proven), verdict.not_proven
    assert verdict.exit_code == 3


# --- soundness ---

LATENCY = st.integers(0, 5) | st.integers(0, 3000)


@settings(max_examples=60, deadline=None)
@given(
    moves=st.lists(st.integers(1000, 1900), min_size=1, max_size=5),
    instants=st.lists(
        st.tuples(st.integers(0, 9999), LATENCY, LATENCY, st.sampled_from(("load", "probes"))), max_size=120
    ),
    noticed=st.integers(0, STALL_NS // MS),
)
def test_no_lawful_day_is_called_an_anomaly(
    moves: list[int], instants: list[tuple[int, int, int, str]], noticed: int
) -> None:
    """One writable side at any instant, there and back in a second at the least, answers late by up to three seconds,
    gates read up to a stall after they changed."""
    turns = [0, *accumulate(moves), 10_000]
    day = Day({}, {"dc-a": said((-9000, "started")), "dc-b": said((-9000, "started"))})
    eras = [(first, last, ("dc-a", "dc-b")[index % 2]) for index, (first, last) in enumerate(pairwise(turns))]
    for first, last, dc in eras:
        day.traces[dc] += said((first, USERS), (last + noticed, "nobody"))
    for instant, before, after, witness in instants:
        dc = next(dc for first, last, dc in eras if first <= instant < last)
        if witness == "load":
            day.write(dc, instant - before, before + after)
        else:
            day.probe(dc, USERS, instant - before, Outcome.ACKED, before + after)
    assert judge(day.build()).findings == []


@given(st.lists(st.integers(0, 60), max_size=12), st.lists(st.integers(0, 60), max_size=12))
def test_overlaps_are_the_common_moments(one: list[int], two: list[int]) -> None:
    def times(cuts: list[int]) -> list[tuple[int, int]]:
        ordered = sorted(set(cuts))
        return list(zip(ordered[::2], ordered[1::2], strict=False))

    def moments(of: list[tuple[int, int]]) -> set[int]:
        return {moment for first, last in of for moment in range(first, last)}

    common = overlaps(times(one), times(two))
    assert moments(common) == moments(times(one)) & moments(times(two))


def test_an_empty_witness_is_judged_too() -> None:
    verdict = judge(Evidence(Info(TICK, LANES, START, END), [], None, [Trace("dc-a", "kafka-dc-a-1", (), None)], END))
    assert verdict.findings == []
    assert verdict.exit_code == 3
