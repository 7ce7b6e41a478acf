"""The lease record under operations and takeovers whose answers get lost and whose attempts come late."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from dcdr import lease, tenure
from dcdr.bounds import PRESETS, Preset
from dcdr.errors import DcdrError, PlanRefusedError, SupersededError
from dcdr.lease import Standing
from dcdr.model import LeaseRecord, Operation, OperationKind, Pause, Phase, StoredLease

DEADLINE = datetime(2026, 11, 21, 12, tzinfo=UTC)
TIMING = PRESETS[Preset.TEST]


def op(name: str = "one", epoch: int = 1, source: str = "dc-a", target: str = "dc-b", turn: int = 0) -> Operation:
    return Operation(scope="lab", id=name, epoch=epoch, turn=turn, source=source, target=target)


def opened(epoch: int = 1, holder: str = "dc-a") -> LeaseRecord:
    return LeaseRecord(scope="lab", holder=holder, epoch=epoch)


Change = Callable[[LeaseRecord, Operation], LeaseRecord]
CHANGES: dict[str, Change] = {
    "begin": lambda record, operation: lease.begin(record, operation, DEADLINE),
    "close": lease.close,
    "extend": lease.extend,
    "hand over": lambda record, operation: lease.hand_over(record, operation, "ledger-" + operation.id),
    "reopen": lease.reopen,
    "admit": lease.admit,
    "take up": lambda record, operation: lease.take_up(record, operation, DEADLINE),
    "open up": lambda record, operation: lease.open_up(record, operation, "ledger-" + operation.id),
    "finish": lease.finish,
}

PATHS = [
    ("begin", "close", "hand over", "finish"),
    ("begin", "reopen", "finish"),
    ("begin", "close", "extend", "hand over", "admit", "finish"),
    ("take up", "open up", "finish"),
]
FIRSTS = {OperationKind.SWITCHOVER: "begin", OperationKind.FAILOVER: "take up"}
OTHER = {"dc-a": "dc-b", "dc-b": "dc-a"}


class Store:
    """A compare-and-swap cell."""

    def __init__(self) -> None:
        self.record, self.revision = opened(), 1
        self.written = [self.record]

    def swap(self, revision: int, record: LeaseRecord) -> bool:
        if revision != self.revision:
            return False
        self.record, self.revision = record, self.revision + 1
        self.written.append(record)
        return True


class Pending:
    """An attempt that has read and decided, and has not written yet: it may stay on its way for any time."""

    def __init__(self, name: str, operation: Operation, revision: int, record: LeaseRecord) -> None:
        self.name, self.operation, self.revision, self.record = name, operation, revision, record


def failover(record: LeaseRecord, name: str = "lost") -> Operation:
    """The failover that goes on from a takeover."""
    return op(name, record.epoch - 1, OTHER[record.holder], record.holder, record.turn).model_copy(
        update={"kind": OperationKind.FAILOVER}
    )


def hand_back(record: LeaseRecord, to: str) -> Operation:
    return op("back", record.epoch, record.holder, to, record.turn)


class TwoOperations(RuleBasedStateMachine):
    """Two switchovers at a time, takeovers and failovers whenever they come, and late attempts of those before.

    An attempt is a read with its decision and, at any later time, once or more, a write. Nobody learns what became of
    a write, so every change is tried again and again: a lost answer and a retry are the same thing here.
    """

    attempts: Bundle[Pending] = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.names = iter(range(1_000_000))
        self.operations: list[Operation] = []
        self.won: dict[str, str] = {}
        self.cleared: set[str] = set()

    @initialize()
    def plan_two(self) -> None:
        self.operations = [self._planned(), self._planned()]

    def _planned(self) -> Operation:
        """What preflight would plan from the record as it stands, whoever owns it just now."""
        record, name = self.store.record, f"op-{next(self.names)}"
        if record.phase is Phase.ACQUIRED:
            return failover(record, name)
        return op(name, record.epoch, record.holder, OTHER[record.holder], record.turn)

    @precondition(lambda self: any(o.id in self.cleared for o in self.operations))
    @rule()
    def plan_another(self) -> None:
        self.operations += [self._planned()]

    @rule(target=attempts, number=st.integers(0, 9), name=st.sampled_from(sorted(CHANGES)))
    def start_an_attempt(self, number: int, name: str) -> Pending:
        return self.read_and_decide(number, name)

    @rule(target=attempts)
    def time_is_over_for_the_holder(self) -> Pending:
        record = self.store.record
        candidate = OTHER[record.holder]
        known = tenure.saw(tenure.Tenure(candidate), StoredLease(record, 1), now=0)
        may = tenure.may_take_over(known, TIMING.wait, TIMING)
        assert may == (record.behind != candidate)
        taken = tenure.takeover(record, candidate, 0) if may else record
        return Pending("take over", op("takeover"), self.store.revision, taken)

    @rule(target=attempts, to=st.sampled_from(sorted(OTHER)))
    def somebody_hands_back(self, to: str) -> Pending:
        record = self.store.record
        operation = hand_back(record, to)
        try:
            wanted = lease.hand_back(record, operation)
        except PlanRefusedError:
            assert record.phase is not Phase.ACQUIRED or record.last_open != to
            wanted = record
        return Pending("hand back", operation, self.store.revision, wanted)

    @rule(hours=st.sampled_from([None, 1, 2]))
    def somebody_pauses(self, hours: int | None) -> None:
        wish = None if hours is None else Pause(until=DEADLINE + timedelta(hours=hours))
        paused = lease.pause(self.store.record, wish)
        if paused != self.store.record:
            self.store.swap(self.store.revision, paused)

    def read_and_decide(self, number: int, name: str) -> Pending:
        operation, record = self.operations[-1 - number % len(self.operations)], self.store.record
        stands = lease.standing(record, operation)
        try:
            wanted = CHANGES[name](record, operation)
        except DcdrError:
            wanted = record
            early = name == "hand over" and not record.closed
            left = record.behind == (operation.source if name == "admit" else operation.target)
            other = name in FIRSTS.values() and name != FIRSTS[operation.kind]
            assert (
                early
                or left
                or other
                or (name, stands)
                not in {
                    ("begin", Standing.NOT_BEGUN),
                    ("take up", Standing.NOT_BEGUN),
                    ("open up", Standing.TAKEN),
                    ("admit", Standing.MOVED),
                    ("close", Standing.DRAINING),
                    ("extend", Standing.DRAINING),
                    ("hand over", Standing.DRAINING),
                    ("reopen", Standing.DRAINING),
                    ("finish", Standing.MOVED),
                    ("finish", Standing.REOPENED),
                }
            ), "refused although it was its turn"
        if stands is Standing.OVER or (stands is Standing.NOT_BEGUN and name != FIRSTS[operation.kind]):
            assert wanted == record, "an operation that does not own the record changed it"
        if operation.id in self.cleared:
            assert wanted == record, "an operation that has ended came back"
        return Pending(name, operation, self.store.revision, wanted)

    @rule(number=st.integers(0, 2), path=st.sampled_from(PATHS), steps=st.integers(1, 5))
    def run_undisturbed(self, number: int, path: tuple[str, ...], steps: int) -> None:
        for name in path[:steps]:
            self.write_now_or_later(self.read_and_decide(number, name))

    @rule(attempt=attempts)
    def finish_an_attempt(self, attempt: Pending) -> None:
        self.write_now_or_later(attempt)

    def write_now_or_later(self, attempt: Pending) -> None:
        if attempt.record == self.store.record:
            return
        before = self.store.record
        if not self.store.swap(attempt.revision, attempt.record):
            return
        key = attempt.operation.id
        if attempt.name in ("hand over", "reopen", "open up"):
            assert before.phase is (Phase.ACQUIRED if attempt.name == "open up" else Phase.DRAINING)
            assert before.op_id == key
            assert key not in self.won, f"{attempt.name} won although {self.won[key]} had"
            self.won[key] = attempt.name
        if attempt.name == "finish":
            assert key in self.won, "finished without having moved or reopened"
            self.cleared.add(key)
        if attempt.name in ("take over", "hand back"):
            self.cleared |= {before.op_id} if before.op_id else set()
            self.operations += [self._planned()]

    @invariant()
    def epochs_grow_with_the_holder_and_only_with_it(self) -> None:
        for before, after in pairwise(self.store.written):
            home = before.phase is Phase.ACQUIRED and after.phase is Phase.OPEN and after.turn > before.turn
            assert after.epoch - before.epoch == (after.holder != before.holder or home)
            assert after.seq == before.seq + 1

    @invariant()
    def the_id_stays_until_it_is_cleared_last(self) -> None:
        for before, after in pairwise(self.store.written):
            taken_over = after.phase is Phase.ACQUIRED and after.holder != before.holder
            handed_back = before.phase is Phase.ACQUIRED and after.holder == before.last_open
            paused = after.pause != before.pause
            if paused:
                assert after == before.model_copy(update={"seq": after.seq, "pause": after.pause})
            elif before.op_id is None:
                assert after.phase in (Phase.DRAINING, Phase.ACQUIRED) or handed_back
            elif after.op_id is None and not (taken_over or handed_back):
                assert (after.holder, after.epoch, after.phase) == (before.holder, before.epoch, before.phase)
                assert after.phase is Phase.OPEN
            elif after.op_id is None:
                assert after.turn == before.turn + 1
            else:
                assert after.op_id == before.op_id

    @invariant()
    def the_record_names_its_operation(self) -> None:
        record = self.store.record
        assert (record.operation is None) == (record.op_id is None)
        if record.operation is not None:
            assert record.operation in self.operations

    @invariant()
    def a_moved_record_names_its_ledger_entry(self) -> None:
        record = self.store.record
        if record.operation and lease.standing(record, record.operation) is Standing.MOVED:
            assert record.ledger == f"ledger-{record.op_id}"

    @invariant()
    def whoever_was_left_behind_holds_nothing_and_the_mirror_is_kept_from_it(self) -> None:
        for before, after in pairwise(self.store.written):
            assert after.behind is None or (after.behind != after.holder and not after.mirrored)
            assert before.behind in (None, after.behind)
            assert (after.behind != before.behind) == (
                before.phase is Phase.ACQUIRED
                and after.ledger != before.ledger
                and after.phase is Phase.OPEN
                and not before.behind
            )

    @invariant()
    def what_was_taken_over_opens_with_its_fork_or_where_it_was_open_last(self) -> None:
        for before, after in pairwise(self.store.written):
            if before.phase is Phase.ACQUIRED and after.phase is not Phase.ACQUIRED:
                forked = after.holder == before.holder and after.behind is not None and after.ledger is not None
                assert forked or after.holder == before.last_open


TestTwoOperations = TwoOperations.TestCase
TestTwoOperations.settings = settings(max_examples=80, stateful_step_count=25)


def through(*names: str) -> LeaseRecord:
    """The record after operation `one` went through these changes."""
    record = opened()
    for name in names:
        record = CHANGES[name](record, op())
    return record


@pytest.mark.parametrize(
    ("path", "stands"),
    [
        ((), Standing.NOT_BEGUN),
        (("begin",), Standing.DRAINING),
        (("begin", "extend"), Standing.DRAINING),
        (("begin", "reopen"), Standing.REOPENED),
        (("begin", "close", "hand over"), Standing.MOVED),
        (("begin", "close", "hand over", "finish"), Standing.OVER),
    ],
)
def test_the_record_alone_tells_where_an_operation_stands(path: tuple[str, ...], stands: Standing) -> None:
    assert lease.standing(through(*path), op()) is stands
    assert lease.standing(through(*path), op("two")) is (Standing.OVER if path else Standing.NOT_BEGUN)


@pytest.mark.parametrize("between", [0, 1, 5])
def test_an_operation_that_was_undone_can_not_begin_again_however_late(between: int) -> None:
    record = through("begin", "reopen", "finish")
    for number in range(between):
        following = op(f"next-{number}", turn=record.turn)
        for name in ("begin", "reopen", "finish"):
            record = CHANGES[name](record, following)
    with pytest.raises(PlanRefusedError, match="none ended meanwhile"):
        lease.begin(record, op(), DEADLINE)


@pytest.mark.parametrize("path", [("begin",), ("begin", "close"), ("begin", "reopen"), ("begin", "close", "hand over")])
def test_a_change_whose_answer_was_lost_changes_nothing_the_second_time(path: tuple[str, ...]) -> None:
    record = through(*path)
    assert CHANGES[path[-1]](record, op()) is record


@pytest.mark.parametrize("path", [("begin", "reopen", "finish"), ("begin", "close", "hand over", "finish")])
def test_a_second_finish_changes_nothing_and_leaves_the_next_operation_alone(path: tuple[str, ...]) -> None:
    record = through(*path)
    assert lease.finish(record, op()) == record
    following = op("two", record.epoch, record.holder, "dc-a" if record.holder == "dc-b" else "dc-b", 1)
    drained = lease.begin(record, following, DEADLINE)
    assert lease.finish(drained, op()) == drained


def test_an_operation_cannot_be_finished_while_it_drains() -> None:
    with pytest.raises(SupersededError, match="is draining"):
        lease.finish(through("begin"), op())


@pytest.mark.parametrize("late", ["extend", "hand over"])
def test_after_an_undo_the_handover_is_refused_with_what_the_record_says(late: str) -> None:
    for path in (("begin", "reopen"), ("begin", "reopen", "finish")):
        with pytest.raises(SupersededError, match=r"names dc-a, epoch 1, phase OPEN.*came too late"):
            CHANGES[late](through(*path), op())


@pytest.mark.parametrize("late", ["extend", "reopen"])
def test_after_the_handover_the_way_back_is_refused(late: str) -> None:
    for path in (("begin", "close", "hand over"), ("begin", "close", "hand over", "finish")):
        with pytest.raises(SupersededError, match="names dc-b, epoch 2"):
            CHANGES[late](through(*path), op())


def test_a_handover_with_another_ledger_entry_than_the_committed_one_is_refused() -> None:
    with pytest.raises(SupersededError, match="moved already, with ledger entry ledger-one"):
        lease.hand_over(through("begin", "close", "hand over"), op(), "another")


@pytest.mark.parametrize(
    "record",
    [
        through("begin"),
        opened(epoch=2),
        opened(holder="dc-b"),
        opened().model_copy(update={"phase": Phase.ACQUIRED}),
        through("begin", "close", "hand over"),
    ],
    ids=["drained by another", "later epoch", "other holder", "not open", "moved"],
)
def test_an_operation_planned_from_another_record_does_not_begin(record: LeaseRecord) -> None:
    with pytest.raises(PlanRefusedError, match=r"cannot begin: .*Run preflight again"):
        lease.begin(record, op("two"), DEADLINE)


@pytest.mark.parametrize(
    "path", [("begin",), ("begin", "extend"), ("begin", "reopen"), ("begin", "close", "hand over")]
)
def test_whoever_finds_an_operation_in_the_record_finds_all_of_it(path: tuple[str, ...]) -> None:
    stored = LeaseRecord.model_validate_json(through(*path).model_dump_json())
    assert stored.operation == op()
    assert stored.deadline == DEADLINE


@pytest.mark.parametrize(
    ("path", "a_open", "b_open"),
    [
        ((), True, False),
        (("begin",), True, False),
        (("begin", "close"), False, False),
        (("begin", "close", "reopen"), True, False),
        (("begin", "reopen"), True, False),
        (("begin", "close", "hand over"), False, True),
        (("begin", "close", "hand over", "finish"), False, True),
    ],
)
def test_never_more_than_one_side_may_be_written_to(path: tuple[str, ...], a_open: bool, b_open: bool) -> None:
    record = through(*path)
    assert (lease.users_may_write(record, "dc-a"), lease.users_may_write(record, "dc-b")) == (a_open, b_open)


def test_a_lease_taken_over_but_not_opened_lets_nobody_write() -> None:
    assert not lease.users_may_write(opened().model_copy(update={"phase": Phase.ACQUIRED}), "dc-a")


TAKEN = tenure.takeover(opened(), "dc-b", floor=0)
LOST = failover(TAKEN)


def failed_over(*names: str) -> LeaseRecord:
    record = TAKEN
    for name in names:
        record = CHANGES[name](record, LOST)
    return record


@pytest.mark.parametrize(
    ("path", "stands"),
    [
        ((), Standing.NOT_BEGUN),
        (("take up",), Standing.TAKEN),
        (("take up", "open up"), Standing.MOVED),
        (("take up", "open up", "finish"), Standing.OVER),
    ],
)
def test_the_record_alone_tells_where_a_failover_stands(path: tuple[str, ...], stands: Standing) -> None:
    assert lease.standing(failed_over(*path), LOST) is stands
    assert lease.standing(opened(), LOST) is Standing.OVER


@pytest.mark.parametrize(("path", "b_open"), [((), False), (("take up",), False), (("take up", "open up"), True)])
def test_nobody_writes_before_a_failover_opens_and_nobody_on_the_old_side_ever(
    path: tuple[str, ...], b_open: bool
) -> None:
    record = failed_over(*path)
    assert (lease.users_may_write(record, "dc-a"), lease.users_may_write(record, "dc-b")) == (False, b_open)
    assert not record.mirrored


@pytest.mark.parametrize(
    "record",
    [opened(), through("begin"), failed_over("take up"), tenure.takeover(TAKEN, "dc-a", 0), failed_over(*PATHS[-1])],
    ids=["open", "draining", "taken up by another", "taken over again", "failed over"],
)
def test_a_failover_that_was_planned_from_another_record_is_not_taken_up(record: LeaseRecord) -> None:
    with pytest.raises(PlanRefusedError, match="the failover another cannot begin"):
        lease.take_up(record, LOST.model_copy(update={"id": "another"}), DEADLINE)


def test_a_switchover_does_not_begin_from_a_takeover_nor_a_failover_like_a_switchover() -> None:
    with pytest.raises(PlanRefusedError, match="cannot begin"):
        lease.begin(TAKEN, op("two", TAKEN.epoch, "dc-b", "dc-a", TAKEN.turn), DEADLINE)
    with pytest.raises(PlanRefusedError, match="cannot begin"):
        lease.begin(TAKEN, LOST, DEADLINE)
    with pytest.raises(PlanRefusedError, match="cannot begin"):
        lease.take_up(TAKEN, LOST.model_copy(update={"kind": OperationKind.SWITCHOVER}), DEADLINE)


def test_a_failover_opens_with_one_entry_and_never_with_another() -> None:
    opened_up = failed_over("take up", "open up")
    assert lease.open_up(opened_up, LOST, "ledger-lost") == opened_up
    with pytest.raises(SupersededError, match="opened already, with ledger entry ledger-lost"):
        lease.open_up(opened_up, LOST, "another")


@pytest.mark.parametrize("between", ["taken over again", "handed back", "handed back and taken over again"])
def test_an_opening_that_comes_too_late_is_refused(between: str) -> None:
    record = failed_over("take up")
    if between == "taken over again":
        record = tenure.takeover(record, "dc-a", 0)
    else:
        record = lease.hand_back(record, hand_back(record, "dc-a"))
    if between.endswith("and taken over again"):
        record = tenure.takeover(record, "dc-b", 0)
    with pytest.raises(SupersededError, match="came too late"):
        lease.open_up(record, LOST, "ledger-lost")


def test_no_switchover_begins_towards_the_side_that_a_failover_left() -> None:
    record = failed_over("take up", "open up", "finish")
    with pytest.raises(PlanRefusedError, match=r"dc-a was left by a failover.*failed back first"):
        lease.begin(record, op("two", record.epoch, "dc-b", "dc-a", record.turn), DEADLINE)


def test_after_a_failover_the_mirror_is_not_let_in_as_after_a_switchover() -> None:
    with pytest.raises(PlanRefusedError, match="what was lost stands there only"):
        lease.admit(failed_over("take up", "open up"), LOST)


def test_handing_back_ends_a_failover_that_has_not_opened_and_only_that() -> None:
    record = failed_over("take up")
    back = lease.hand_back(record, hand_back(record, "dc-a"))
    assert (back.holder, back.epoch, back.phase, back.op_id, back.behind) == ("dc-a", 3, Phase.OPEN, None, None)
    assert lease.standing(back, LOST) is Standing.OVER
    record = failed_over("take up", "open up")
    with pytest.raises(PlanRefusedError, match="use a switchover"):
        lease.hand_back(record, hand_back(record, "dc-a"))


def test_after_two_takeovers_the_lease_goes_back_to_the_side_that_was_open_last() -> None:
    twice = tenure.takeover(TAKEN, "dc-a", 0)
    with pytest.raises(PlanRefusedError, match="dc-a was open last, and may hold what never came over"):
        lease.hand_back(twice, hand_back(twice, "dc-b"))
    back = lease.hand_back(twice, hand_back(twice, "dc-a"))
    assert (back.holder, back.epoch, back.phase) == ("dc-a", 4, Phase.OPEN)
    assert lease.hand_back(back, hand_back(twice, "dc-a")) == back


def test_a_pause_that_is_there_already_changes_nothing() -> None:
    wish = Pause(until=DEADLINE, maintenance=True, by="me", reason="CHG-1")
    paused = lease.pause(opened(), wish)
    assert (paused.pause, paused.seq) == (wish, 1)
    assert lease.pause(paused, wish) is paused
    assert lease.pause(lease.pause(paused, None), None).pause is None
    assert LeaseRecord.model_validate_json(paused.model_dump_json()) == paused
