"""Intents: obeyed in order, once, and never after their time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcdr import intent as intents
from dcdr.errors import DcdrError, PlanRefusedError, SupersededError
from dcdr.intent import Ask, Intent
from dcdr.model import LeaseRecord, Operation, OperationKind, Pause, Phase
from dcdr.tenure import renewal, takeover

DEADLINE = datetime(2026, 11, 21, 12, tzinfo=UTC)
FIRST = LeaseRecord(scope="lab", holder="dc-a", epoch=1)
OPERATION = Operation(scope="lab", id="one", epoch=1, source="dc-a", target="dc-b")


def wish(ask: Ask, operation: Operation = OPERATION, *, ledger: str = "digest", cuts: int = 0) -> Intent:
    return Intent(operation=operation, ask=ask, deadline=DEADLINE, ledger=ledger, cuts=cuts)


def after(*asks: Ask, record: LeaseRecord = FIRST) -> LeaseRecord:
    for ask in asks:
        record = intents.obey(record, wish(ask))
    return record


WHOLE = (Ask.BEGIN, Ask.CLOSE, Ask.CLOSE_MIRROR, Ask.HAND_OVER, Ask.ADMIT, Ask.FINISH)


def test_a_whole_switchover_by_intents() -> None:
    record = after(*WHOLE)
    assert (record.holder, record.epoch, record.phase, record.op_id) == ("dc-b", 2, Phase.OPEN, None)
    assert record.mirrored
    assert record.turn == 1


@pytest.mark.parametrize("number", range(len(WHOLE)))
def test_an_intent_that_is_obeyed_twice_changes_nothing_the_second_time(number: int) -> None:
    record = after(*WHOLE[: number + 1])
    assert intents.obey(record, wish(WHOLE[number])) == record


@pytest.mark.parametrize("ask", [Ask.CLOSE, Ask.CLOSE_MIRROR, Ask.EXTEND, Ask.HAND_OVER, Ask.REOPEN, Ask.ADMIT])
def test_what_was_never_begun_or_is_over_is_refused(ask: Ask) -> None:
    for record in (FIRST, after(*WHOLE), after(Ask.BEGIN, Ask.REOPEN, Ask.FINISH)):
        with pytest.raises(SupersededError):
            intents.obey(record, wish(ask))


def test_an_operation_that_was_undone_cannot_begin_again() -> None:
    with pytest.raises(PlanRefusedError):
        intents.obey(after(Ask.BEGIN, Ask.REOPEN, Ask.FINISH), wish(Ask.BEGIN))


def test_a_handover_that_looked_before_the_cut_was_taken_again_is_refused() -> None:
    record = after(Ask.BEGIN, Ask.CLOSE, Ask.CLOSE_MIRROR, Ask.EXTEND)
    assert record.mirrored, "the mirror has to bring over what came late"
    with pytest.raises(SupersededError, match="taken again"):
        intents.obey(record, wish(Ask.HAND_OVER, cuts=0))
    assert intents.obey(record, wish(Ask.HAND_OVER, cuts=1)).holder == "dc-b"


def test_a_wish_to_close_the_mirror_from_before_the_cut_was_taken_again_is_refused() -> None:
    record = after(Ask.BEGIN, Ask.CLOSE, Ask.CLOSE_MIRROR, Ask.EXTEND)
    with pytest.raises(SupersededError, match="taken again"):
        intents.obey(record, wish(Ask.CLOSE_MIRROR, cuts=0))
    assert not intents.obey(record, wish(Ask.CLOSE_MIRROR, cuts=1)).mirrored


def test_nothing_is_handed_over_by_a_side_that_was_never_closed_to_its_users() -> None:
    with pytest.raises(PlanRefusedError, match="dc-a was never closed"):
        intents.obey(after(Ask.BEGIN), wish(Ask.HAND_OVER))


def test_an_extension_that_is_repeated_counts_once() -> None:
    record = after(Ask.BEGIN, Ask.EXTEND)
    assert intents.obey(record, wish(Ask.EXTEND, cuts=0)) == record
    assert intents.obey(record, wish(Ask.EXTEND, cuts=1)).cuts == 2


@pytest.mark.parametrize(
    ("ask", "lacks"),
    [
        (Ask.BEGIN, "deadline"),
        (Ask.HAND_OVER, "ledger"),
        (Ask.HAND_OVER, "cuts"),
        (Ask.TAKE_OVER, "deadline"),
        (Ask.TAKE_UP, "deadline"),
        (Ask.OPEN_UP, "ledger"),
    ],
)
def test_an_intent_that_lacks_what_it_needs_is_no_intent(ask: Ask, lacks: str) -> None:
    with pytest.raises(ValueError, match="lacks"):
        intents.obey(FIRST, wish(ask).model_copy(update={lacks: None}))


def test_past_the_deadline_the_holder_opens_again_by_itself_before_the_handover_only() -> None:
    draining = after(Ask.BEGIN, Ask.CLOSE, Ask.CLOSE_MIRROR)
    assert intents.overdue(draining, DEADLINE - timedelta(seconds=1)) is None
    opened = intents.overdue(draining, DEADLINE)
    assert opened is not None
    assert (opened.phase, opened.holder, opened.op_id, opened.mirrored) == (Phase.OPEN, "dc-a", "one", True)
    assert intents.overdue(opened, DEADLINE) is None
    assert intents.overdue(after(Ask.BEGIN, Ask.CLOSE, Ask.HAND_OVER), DEADLINE) is None
    assert intents.overdue(FIRST, DEADLINE) is None


def test_a_takeover_that_never_opened_is_given_back_once_and_nothing_else_is() -> None:
    taken = takeover(FIRST, "dc-b", floor=0)
    back = Operation(scope="lab", id="back", epoch=2, turn=1, source="dc-b", target="dc-a")
    given = intents.obey(taken, wish(Ask.HAND_BACK, back))
    assert (given.holder, given.epoch, given.phase, given.mirrored) == ("dc-a", 3, Phase.OPEN, True)
    assert intents.obey(given, wish(Ask.HAND_BACK, back)) == given
    opened = taken.model_copy(update={"phase": Phase.OPEN})
    for record in (FIRST, opened, after(Ask.BEGIN)):
        with pytest.raises(PlanRefusedError, match="switchover"):
            intents.obey(record, wish(Ask.HAND_BACK, back))


ASKS = st.builds(wish, st.sampled_from(Ask), cuts=st.integers(0, 2), ledger=st.sampled_from(["digest", "other"]))


@given(wishes=st.lists(ASKS, max_size=30))
def test_whatever_is_asked_in_whatever_order_the_lease_moves_once_and_epochs_never_fall(wishes: list[Intent]) -> None:
    record, moves = FIRST, 0
    for one in wishes:
        try:
            changed = intents.obey(record, one)
        except DcdrError:
            continue
        moves += changed.holder != record.holder
        assert changed.epoch >= record.epoch
        assert (changed == record) or changed.seq == record.seq + 1
        record = changed
    assert moves <= 1


@pytest.mark.parametrize(
    ("asks", "dc", "late", "its"),
    [
        ((Ask.BEGIN, Ask.CLOSE, Ask.HAND_OVER), "dc-b", intents.GRACE, True),
        ((Ask.BEGIN, Ask.CLOSE, Ask.HAND_OVER, Ask.ADMIT), "dc-b", intents.GRACE, True),
        ((Ask.BEGIN, Ask.CLOSE, Ask.HAND_OVER), "dc-b", intents.GRACE - timedelta(seconds=1), False),
        ((Ask.BEGIN, Ask.CLOSE, Ask.HAND_OVER), "dc-a", intents.GRACE, False),
        ((Ask.BEGIN,), "dc-b", intents.GRACE, False),
        ((Ask.BEGIN, Ask.REOPEN), "dc-a", intents.GRACE, True),
        ((Ask.BEGIN, Ask.REOPEN), "dc-a", timedelta(0), False),
        ((Ask.BEGIN, Ask.REOPEN), "dc-b", intents.GRACE, False),
        (WHOLE, "dc-b", intents.GRACE, False),
    ],
)
def test_what_was_left_behind_is_the_holders_affair(asks: tuple[Ask, ...], dc: str, late: timedelta, its: bool) -> None:
    assert intents.left_behind(after(*asks), dc, DEADLINE + late) == (OPERATION if its else None)


TAKEN = takeover(FIRST, "dc-b", floor=0)
FAILOVER = Operation(scope="lab", id="lost", epoch=1, turn=1, source="dc-a", target="dc-b", kind=OperationKind.FAILOVER)
BACK = Operation(scope="lab", id="back", epoch=2, turn=1, source="dc-b", target="dc-a")


def failed_over(*asks: Ask) -> LeaseRecord:
    record = TAKEN
    for ask in asks:
        record = intents.obey(record, wish(ask, FAILOVER))
    return record


def test_a_whole_failover_by_intents_leaves_the_source_behind_and_the_mirror_out() -> None:
    record = failed_over(Ask.TAKE_UP, Ask.OPEN_UP, Ask.FINISH)
    assert (record.holder, record.epoch, record.phase, record.op_id) == ("dc-b", 2, Phase.OPEN, None)
    assert (record.behind, record.mirrored, record.turn, record.ledger) == ("dc-a", False, 2, "digest")


@pytest.mark.parametrize("number", range(3))
def test_a_failovers_intent_that_is_obeyed_twice_changes_nothing_the_second_time(number: int) -> None:
    asks = (Ask.TAKE_UP, Ask.OPEN_UP, Ask.FINISH)[: number + 1]
    record = failed_over(*asks)
    assert intents.obey(record, wish(asks[-1], FAILOVER)) == record


def test_a_failover_that_holds_ends_when_the_lease_is_handed_back_and_cannot_open_any_more() -> None:
    back = intents.obey(failed_over(Ask.TAKE_UP), wish(Ask.HAND_BACK, BACK))
    assert (back.holder, back.epoch, back.phase, back.op_id, back.mirrored) == ("dc-a", 3, Phase.OPEN, None, True)
    for late in (Ask.TAKE_UP, Ask.OPEN_UP):
        with pytest.raises(DcdrError):
            intents.obey(back, wish(late, FAILOVER))
    assert intents.obey(back, wish(Ask.FINISH, FAILOVER)) == back


def test_a_pause_is_kept_until_it_is_ended_whoever_signs_of_life_come_from() -> None:
    paused = Pause(until=DEADLINE, reason="CHG-1")
    asked = wish(Ask.PAUSE).model_copy(update={"pause": paused})
    record = intents.obey(FIRST, asked)
    assert record.pause == paused
    assert intents.obey(renewal(record), asked) == renewal(record)
    assert intents.obey(record, wish(Ask.PAUSE)).pause is None


def test_whoever_holds_the_lease_does_nothing_for_a_wish_to_take_it_over() -> None:
    assert intents.obey(FIRST, wish(Ask.TAKE_OVER)) == FIRST


@pytest.mark.parametrize(
    ("record", "asked", "dc", "wants"),
    [
        (FIRST, wish(Ask.TAKE_OVER), "dc-b", True),
        (renewal(FIRST), wish(Ask.TAKE_OVER), "dc-b", True),
        (after(Ask.BEGIN, Ask.CLOSE), wish(Ask.TAKE_OVER), "dc-b", True),
        (FIRST, wish(Ask.TAKE_OVER), "dc-a", False),
        (FIRST, wish(Ask.BEGIN), "dc-b", False),
        (FIRST, None, "dc-b", False),
        (after(*WHOLE), wish(Ask.TAKE_OVER), "dc-b", False),
        (TAKEN, wish(Ask.TAKE_OVER), "dc-b", False),
        (intents.obey(TAKEN, wish(Ask.HAND_BACK, BACK)), wish(Ask.TAKE_OVER), "dc-b", False),
    ],
    ids=["asked", "a sign of life later", "while it drains", "another's", "another wish", "no wish", "moved", "taken",
         "handed back"],
)  # fmt: skip
def test_a_takeover_is_wished_of_the_candidate_from_the_tenure_that_was_seen(
    record: LeaseRecord, asked: Intent | None, dc: str, wants: bool
) -> None:
    assert intents.wants_takeover(record, asked, dc, DEADLINE - timedelta(seconds=1)) is wants


def test_a_wish_to_take_over_does_not_wait_for_the_holders_next_bad_day() -> None:
    asked = wish(Ask.TAKE_OVER)
    assert not intents.wants_takeover(FIRST, asked, "dc-b", DEADLINE)
    forever = asked.model_copy(update={"deadline": None})
    assert not intents.wants_takeover(FIRST, forever, "dc-b", DEADLINE - timedelta(days=1))


@pytest.mark.parametrize("asks", [(Ask.TAKE_UP,), (Ask.TAKE_UP, Ask.OPEN_UP)])
def test_a_failover_that_nobody_finished_in_time_is_not_finished_like_a_switchover(asks: tuple[Ask, ...]) -> None:
    record, late = failed_over(*asks), DEADLINE + 2 * intents.GRACE
    assert intents.left_behind(record, "dc-b", late) is None
    assert intents.left_behind(record, "dc-a", late) is None
    assert intents.overdue(record, late) is None, "nor does it open either side by itself"
