"""The guard around every step: refused before, put right after, whatever the effect did."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from activities import step
from activities.step import Steps, settle_groups, settle_users, until_gates
from dcdr import settle
from dcdr.errors import MisconfiguredError, NotYetError, PermanentError, SupersededError, UnreachableError
from dcdr.lease import Standing
from dcdr.model import Gate, LeaseRecord
from tests.unit.activities.worlds import (
    DRAINING,
    MOVED,
    OPEN_A,
    OPERATION,
    UNDONE,
    FakeFence,
    FakeLease,
    OneScope,
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "CORRECT_SECONDS", 0.05)
    monkeypatch.setattr(step, "LONGEST_CORRECTION_WAIT", 0.005)


class Try:
    """One attempt of a step that closes users on dc-a and knows how to put that right."""

    def __init__(self, lease: FakeLease, *, fails: BaseException | None = None) -> None:
        self.lease, self.fence, self.fails = lease, FakeFence(), fails
        self.corrected: list[LeaseRecord] = []

    async def correct(self, record: LeaseRecord) -> None:
        self.corrected.append(record)
        await settle_users(self.fence.port, record, "dc-a")

    async def run(self, meanwhile: LeaseRecord | None = None) -> None:
        steps = Steps(OneScope(self.lease).port)
        async with steps.holding(OPERATION, Standing.DRAINING, correct=self.correct):
            await self.fence.close_users()
            if meanwhile is not None:
                self.lease.becomes(meanwhile)
            if self.fails is not None:
                raise self.fails


async def test_an_attempt_whose_turn_it_is_acts_once_and_corrects_nothing() -> None:
    attempt = Try(FakeLease(DRAINING))
    await attempt.run()
    assert (attempt.fence.calls, attempt.corrected) == (["close users"], [])


@pytest.mark.parametrize("record", [OPEN_A, MOVED, UNDONE], ids=["not begun", "moved", "undone"])
async def test_a_late_attempt_is_refused_before_its_effect(record: LeaseRecord) -> None:
    attempt = Try(FakeLease(record))
    with pytest.raises(SupersededError, match="came too late"):
        await attempt.run()
    assert (attempt.fence.calls, attempt.corrected) == ([], [])


async def test_an_attempt_that_was_overtaken_sets_things_to_what_the_record_says() -> None:
    attempt = Try(FakeLease(DRAINING))
    with pytest.raises(SupersededError, match="names dc-a, epoch 1, phase OPEN"):
        await attempt.run(meanwhile=UNDONE)
    assert attempt.fence.calls == ["close users", "open users"]


async def test_an_attempt_that_was_overtaken_by_the_handover_leaves_the_old_side_closed() -> None:
    attempt = Try(FakeLease(DRAINING))
    with pytest.raises(SupersededError):
        await attempt.run(meanwhile=MOVED)
    assert attempt.fence.calls == ["close users", "close users"]


@pytest.mark.parametrize(
    "failure", [NotYetError("slow"), PermanentError("no"), KeyError("x"), asyncio.CancelledError()]
)
async def test_an_effect_that_failed_halfway_is_put_right_too(failure: BaseException) -> None:
    attempt = Try(FakeLease(DRAINING), fails=failure)
    with pytest.raises(SupersededError):
        await attempt.run(meanwhile=UNDONE)
    assert attempt.fence.calls == ["close users", "open users"]


async def test_an_effect_that_failed_in_its_own_turn_fails_as_it_did() -> None:
    attempt = Try(FakeLease(DRAINING), fails=NotYetError("slow"))
    with pytest.raises(NotYetError, match="slow"):
        await attempt.run()
    assert attempt.corrected == []


async def test_a_correction_is_tried_again_because_no_later_attempt_would() -> None:
    attempt = Try(FakeLease(DRAINING))

    async def run() -> None:
        steps = Steps(OneScope(attempt.lease).port)
        async with steps.holding(OPERATION, Standing.DRAINING, correct=attempt.correct):
            await attempt.fence.close_users()
            attempt.lease.becomes(UNDONE)
            attempt.fence.trouble = [UnreachableError("cut"), UnreachableError("cut")]

    with pytest.raises(SupersededError):
        await run()
    assert attempt.fence.calls == ["close users", *["open users"] * 3]


async def test_a_correction_follows_the_record_when_the_next_operation_begins_meanwhile() -> None:
    begun = UNDONE.model_copy(update={"phase": DRAINING.phase, "closed": True, "op_id": "op-2", "seq": 4})
    attempt = Try(FakeLease(DRAINING, {3: begun}))  # reads: before, after, and the one that checks the correction
    with pytest.raises(SupersededError):
        await attempt.run(meanwhile=UNDONE)
    assert attempt.fence.calls == ["close users", "open users", "close users"]
    assert attempt.corrected == [UNDONE, begun]


async def test_a_correction_that_stays_impossible_ends_with_its_trouble_and_is_retried_from_outside() -> None:
    attempt = Try(FakeLease(DRAINING))

    async def run() -> None:
        steps = Steps(OneScope(attempt.lease).port)
        async with steps.holding(OPERATION, Standing.DRAINING, correct=attempt.correct):
            attempt.lease.becomes(UNDONE)
            attempt.fence.trouble = [UnreachableError("cut")] * 1000

    with pytest.raises(UnreachableError):
        await run()
    assert len(attempt.fence.calls) > 1


async def test_a_scope_without_a_lease_record_says_how_an_operator_makes_one() -> None:
    with pytest.raises(MisconfiguredError, match="scope lab has no lease record; an operator creates it once"):
        await Try(FakeLease(None)).run()


@pytest.mark.parametrize(
    ("record", "dc", "calls"),
    [
        (OPEN_A, "dc-a", ["open users", "thaw groups"]),
        (OPEN_A, "dc-b", ["close users", "freeze groups"]),
        (DRAINING, "dc-a", ["close users", "freeze groups"]),
        (MOVED, "dc-b", ["open users", "thaw groups"]),
        (MOVED, "dc-a", ["close users", "freeze groups"]),
    ],
)
async def test_both_gates_of_a_side_follow_the_record(record: LeaseRecord, dc: str, calls: list[str]) -> None:
    fence = FakeFence()
    await settle_users(fence.port, record, dc)
    await settle_groups(fence.port, record, dc)
    assert fence.calls == calls


class Brokers:
    """Answers of all brokers, one set after the other; the last one stays."""

    def __init__(self, *answers: Mapping[int, Gate]) -> None:
        self.answers, self.asked = list(answers), 0

    async def __call__(self) -> Mapping[int, Gate]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


OPEN, CLOSED, UNKNOWN = Gate.OPEN, Gate.CLOSED, Gate.UNKNOWN


async def test_a_gate_is_closed_when_every_broker_has_said_so_in_one_look() -> None:
    brokers = Brokers({1: OPEN, 2: CLOSED}, {1: CLOSED, 2: OPEN}, {1: CLOSED, 2: UNKNOWN}, {1: CLOSED, 2: CLOSED})
    assert await until_gates(brokers, CLOSED, "users") == 2
    assert brokers.asked == 4


@pytest.mark.parametrize("wanted", [OPEN, CLOSED])
async def test_no_answer_is_never_taken_for_the_wanted_one(wanted: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "CONFIRM_SECONDS", 0.02)
    with pytest.raises(NotYetError, match=rf"users: not {wanted} on every broker after 0 s \(broker 2 unknown\)"):
        await until_gates(Brokers({1: wanted, 2: UNKNOWN}), wanted, "users")


async def test_a_cluster_without_brokers_is_neither_open_nor_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "CONFIRM_SECONDS", 0.02)
    with pytest.raises(NotYetError, match="no broker"):
        await until_gates(Brokers({}), CLOSED, "users")
