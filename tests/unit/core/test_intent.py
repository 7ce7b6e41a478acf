"""Intents: obeyed in order, once, and never after their time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcdr import intent as intents
from dcdr.errors import DcdrError, PlanRefusedError, SupersededError
from dcdr.intent import Ask, Intent
from dcdr.model import LeaseRecord, Operation, Phase
from dcdr.tenure import takeover

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


@pytest.mark.parametrize("lacks", ["deadline", "ledger", "cuts"])
def test_an_intent_that_lacks_what_it_needs_is_no_intent(lacks: str) -> None:
    ask = Ask.BEGIN if lacks == "deadline" else Ask.HAND_OVER
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
