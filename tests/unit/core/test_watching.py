"""What the watch decides: every kind of record, and sequences of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcdr import watching
from dcdr.model import LeaseRecord, OperationKind, Phase
from dcdr.watching import NOTHING, Action, Kind, Seen, Sight, WatchState, decide

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
IDLE = WatchState(scope="lab")


def record(**more: Any) -> LeaseRecord:
    return LeaseRecord(**{"scope": "lab", "holder": "dc-a", "epoch": 1, **more})


ACQUIRED = record(holder="dc-b", epoch=2, phase=Phase.ACQUIRED)
TAKEN_UP = ACQUIRED.model_copy(update={"op_id": "f-1", "op_kind": OperationKind.FAILOVER})
OPENED = TAKEN_UP.model_copy(update={"phase": Phase.OPEN, "behind": "dc-a"})
FINISHED = record(holder="dc-b", epoch=2, behind="dc-a")
DRAINING = record(phase=Phase.DRAINING, op_id="s-1")
HANDED = record(holder="dc-b", epoch=2, op_id="s-1")
FAIL_OVER = Action(Kind.FAILOVER, 2, "dc-b")


@pytest.mark.parametrize("found", [record(), DRAINING, HANDED, record(op_id="s-1")])
def test_a_lease_that_nobody_took_over_asks_for_nothing(found: LeaseRecord) -> None:
    assert decide(IDLE, found, NOW) == NOTHING


@pytest.mark.parametrize("found", [ACQUIRED, TAKEN_UP, OPENED])
def test_a_takeover_that_nobody_carries_on_asks_for_a_failover(found: LeaseRecord) -> None:
    assert decide(IDLE, found, NOW) == FAIL_OVER


def test_a_failover_that_runs_is_left_alone() -> None:
    running = watching.started(IDLE, FAIL_OVER, NOW)
    for found in (ACQUIRED, TAKEN_UP, OPENED):
        assert decide(running, found, NOW) == NOTHING


def test_what_runs_beside_a_takeover_is_superseded_once() -> None:
    busy = watching.taken(IDLE)
    action = decide(busy, ACQUIRED, NOW)
    assert action == Action(Kind.SUPERSEDE, 2, "dc-b")
    told = watching.told(busy, action, NOW)
    assert decide(told, ACQUIRED, NOW) == NOTHING
    assert decide(watching.ended(told, NOW), ACQUIRED, NOW) == FAIL_OVER


def test_a_failover_of_an_earlier_takeover_is_superseded_too() -> None:
    running = watching.started(IDLE, FAIL_OVER, NOW)
    back = record(holder="dc-a", epoch=3, phase=Phase.ACQUIRED)
    assert decide(running, back, NOW) == Action(Kind.SUPERSEDE, 3, "dc-a")


@pytest.mark.parametrize("found", [TAKEN_UP, OPENED])
def test_somebody_elses_failover_that_has_begun_is_not_disturbed(found: LeaseRecord) -> None:
    assert decide(watching.taken(IDLE), found, NOW) == NOTHING


def test_a_failover_that_ended_unfinished_is_started_again_after_a_pause_that_grows() -> None:
    state, now, pauses = IDLE, NOW, []
    for _ in range(8):
        assert decide(state, TAKEN_UP, now) == FAIL_OVER
        state = watching.ended(watching.started(state, FAIL_OVER, now), now)
        assert state.not_before is not None
        assert decide(state, TAKEN_UP, state.not_before - timedelta(microseconds=1)) == NOTHING
        pauses.append(state.not_before - now)
        now = state.not_before
    assert pauses[0] == watching.FIRST_PAUSE
    assert pauses == sorted(pauses)
    assert pauses[-1] == watching.LONGEST_PAUSE


def test_the_pause_of_one_takeover_does_not_hold_up_the_next_one() -> None:
    state = watching.ended(watching.started(IDLE, FAIL_OVER, NOW), NOW)
    assert decide(state, record(holder="dc-a", epoch=3, phase=Phase.ACQUIRED), NOW).kind is Kind.FAILOVER


def test_the_tail_of_a_failover_is_asked_for_once() -> None:
    action = decide(IDLE, FINISHED, NOW)
    assert action == Action(Kind.TAIL, 2, "dc-b")
    after = watching.tailing(IDLE, action, NOW)
    assert decide(after, FINISHED, NOW) == NOTHING
    assert decide(after, FINISHED.model_copy(update={"epoch": 5}), NOW).kind is Kind.TAIL


def test_the_tail_does_not_wait_for_the_run_that_writes_its_report() -> None:
    assert decide(watching.started(IDLE, FAIL_OVER, NOW), FINISHED, NOW).kind is Kind.TAIL


def seen(found: LeaseRecord, revision: int) -> Seen:
    return Seen(record=found, revision=revision, at=NOW, sites=("dc-a", "dc-b"))


def test_renewals_and_what_is_told_twice_are_no_changes() -> None:
    state = watching.saw(IDLE, seen(record(), 5))
    assert (state.changes, state.sites) == (1, ("dc-a", "dc-b"))
    for again in (seen(record(), 5), seen(record(seq=9), 9), seen(ACQUIRED, 4)):
        state = watching.saw(state, again)
    assert (state.changes, state.duplicates) == (1, 3)
    assert state.record == record()


def test_a_read_back_is_believed_even_where_the_store_counts_anew() -> None:
    state = watching.trust(watching.saw(IDLE, seen(ACQUIRED, 500)), seen(record(), 3))
    assert (state.record, state.revision, state.changes) == (record(), 3, 2)


def test_what_is_carried_over_comes_back_as_it_was() -> None:
    state = watching.told(watching.taken(watching.saw(IDLE, seen(TAKEN_UP, 7))), FAIL_OVER, NOW)
    state = watching.ended(watching.started(watching.tailing(state, FAIL_OVER, NOW), FAIL_OVER, NOW), NOW)
    assert WatchState.model_validate_json(state.model_dump_json()) == state
    assert watching.next_run(state).runs == state.runs + 1


def test_a_sight_reads_like_a_sentence() -> None:
    assert str(Sight.of(OPENED)) == "dc-b OPEN, epoch 2, failover f-1, dc-a behind"


MOVES = ("take over", "take up", "open", "finish", "other starts", "run ends", "late news", "later")


@given(st.lists(st.sampled_from(MOVES), max_size=40))
def test_of_every_takeover_one_failover_and_one_supersession_and_none_is_lost(moves: list[str]) -> None:
    """A world of one lease and one transition id; the watch judges after every move, sometimes on old news."""
    lease, revision, now = record(), 1, NOW
    state = watching.saw(IDLE, seen(lease, revision))
    runs: str | None = None
    acts: list[tuple[Kind, int, int]] = []
    """Kind, epoch, and how many runs of ours had ended for it before."""
    ours_ended: dict[int, int] = {}
    news = [seen(lease, revision)]

    def act() -> None:
        nonlocal state, runs
        while (action := decide(state, lease, now)) != NOTHING:
            if action.kind is Kind.FAILOVER and runs is not None:
                state = watching.taken(state)
                continue
            acts.append((action.kind, action.epoch, ours_ended.get(action.epoch, 0)))
            if action.kind is Kind.FAILOVER:
                runs = f"ours {action.epoch}"
                state = watching.started(state, action, now)
            elif action.kind is Kind.SUPERSEDE:
                state = watching.told(state, action, now)
            else:
                state = watching.tailing(state, action, now)

    def end() -> None:
        nonlocal state, runs
        if runs is not None and runs.startswith("ours"):
            epoch = int(runs.split()[1])
            ours_ended[epoch] = ours_ended.get(epoch, 0) + 1
        if runs is not None and state.busy:
            state = watching.ended(state, now)
        runs = None

    for move in moves:
        change: dict[str, Any] = {}
        match move:
            case "take over":
                to = "dc-b" if lease.holder == "dc-a" else "dc-a"
                change = {"holder": to, "epoch": lease.epoch + 1, "phase": Phase.ACQUIRED, "op_id": None}
            case "take up" if lease.phase is Phase.ACQUIRED and lease.op_id is None:
                change = {"op_id": f"f-{lease.epoch}", "op_kind": OperationKind.FAILOVER}
            case "open" if lease.phase is Phase.ACQUIRED and lease.op_id:
                change = {"phase": Phase.OPEN, "behind": "dc-a" if lease.holder == "dc-b" else "dc-b"}
            case "finish" if lease.phase is Phase.OPEN and lease.op_id:
                change = {"op_id": None, "op_kind": OperationKind.SWITCHOVER}
            case "other starts" if runs is None:
                runs = "other"
            case "run ends":
                end()
            case "late news":
                state = watching.saw(state, news[0])
            case "later":
                now += watching.LONGEST_PAUSE
        if change:
            revision += 1
            lease = lease.model_copy(update=change)
            news.append(seen(lease, revision))
            state = watching.saw(state, news[-1])
        assert state.record == lease
        act()

    assert len(acts) == len(set(acts)), "the same twice"
    assert all(acts.count((kind, epoch, n)) <= 1 for kind, epoch, n in acts)
    for kind in (Kind.SUPERSEDE, Kind.TAIL):
        epochs = [epoch for found, epoch, _ in acts if found is kind]
        assert len(epochs) == len(set(epochs))
    # None lost: once whatever runs has ended, and pauses are over, an open question has been asked.
    end()
    now += 2 * watching.LONGEST_PAUSE
    act()
    unfinished = lease.phase is Phase.ACQUIRED or (lease.op_id is not None and lease.op_kind is OperationKind.FAILOVER)
    assert (runs == f"ours {lease.epoch}") is unfinished
    if not unfinished and lease.behind is not None:
        assert (Kind.TAIL, lease.epoch) in {(kind, epoch) for kind, epoch, _ in acts}
