"""The tail on a real Temporal server, over the stand-in world: the old side is dark, left behind, back, and read."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from activities import tail as steps_of_tail
from dcdr import drain
from dcdr.model import (
    Fork,
    ForkRow,
    KeysRequest,
    LeaseRecord,
    LossBound,
    LossReport,
    LostKeys,
    LostRows,
    Operation,
    OperationKind,
    Phase,
    TailCase,
    TailRequest,
    TailResult,
    TopicPartition,
)
from tests.workflows.harness import RUN_SECONDS, Case, Forks
from workflows import steps
from workflows.tail import TailKeysWorkflow, TailWorkflow
from workflows.temporal import tail_id

A_TO_B, B_TO_A = "mm2-source.dc-a-to-dc-b", "mm2-source.dc-b-to-dc-a"


async def fail_over(case: Case, *, exactly_once: bool = True, journal: bool = True) -> Fork:
    """What a failover from dc-a leaves behind: dc-a dark and closed, the Fork entry, the lease at dc-b, OPEN.

    Precondition: the mirror stands still, or has copied what there is.
    """
    scope = case.world.directory().scope(case.scope)
    old, new = scope.member("dc-a"), scope.member("dc-b")
    before = await old.logs.topics()
    case.world.set_rules("dc-a", users_denied=True, groups_denied=True)  # what a dead agent's brokers do by themselves
    case.world.cut_off("dc-a")
    await new.transactions.fence([f"connect-dc-b-{A_TO_B}-{task}" for task in range(2)])
    case.world.pump(2)
    operation = Operation(
        scope=case.scope, id="fo-1", epoch=1, turn=1, source="dc-a", target="dc-b", kind=OperationKind.FAILOVER
    )
    topics = drain.mirrored_topics(await new.logs.topics(), new.reserved_topics)
    places = drain.partitions_of(topics)
    mirrored = await new.positions.current(A_TO_B)
    ends = await new.logs.ends(places)
    assert all(at.settled for at in ends.values())
    fork = Fork(
        operation=operation,
        taken_at=datetime.now(UTC),
        rows=tuple(
            ForkRow(
                topic=place.topic,
                partition=place.partition,
                target_topic_id=topics[place.topic].topic_id,
                target_end=ends[place].leo,
                mirrored=mirrored.get(place),
                source_topic_id=before[place.topic].topic_id if journal else None,
            )
            for place in places
        ),
        bound=LossBound(records=1000, known=10, assumed=990),
        exactly_once=exactly_once,
    )
    reference = fork.reference()
    await new.ledger.put(reference.key, fork.body())
    case.world.set_connector("dc-b", A_TO_B, state=None, tasks=[])
    record = LeaseRecord(
        scope=case.scope,
        holder="dc-b",
        epoch=2,
        turn=2,
        phase=Phase.OPEN,
        ledger=reference.digest,
        mirrored=False,
        behind="dc-a",
    )
    case.world.set_lease(record.model_dump_json())
    case.world.set_rules("dc-b", users_denied=False, groups_denied=False)
    return fork


def come_back(case: Case) -> None:
    """dc-a answers again, closed."""
    case.world.cut_off("dc-a", away=False)


async def begin(case: Case, **more: Any) -> WorkflowHandle[TailWorkflow, TailResult]:
    return await case.client.start_workflow(
        TailWorkflow.run, TailRequest(scope=case.scope, **more), id=tail_id(case.scope), task_queue=case.queue
    )


async def computed(case: Case, **more: Any) -> TailResult:
    handle = await begin(case, **more)
    return await asyncio.wait_for(handle.result(), RUN_SECONDS)


async def refused(case: Case, **more: Any) -> str:
    with pytest.raises(WorkflowFailureError) as caught:
        await computed(case, **more)
    cause: BaseException = caught.value.cause
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert isinstance(cause, ApplicationError), cause
    return cause.message


def by_place(result: TailResult) -> dict[TopicPartition, LostRows]:
    return {TopicPartition(row.topic, row.partition): row for row in result.rows}


def reported(case: Case, result: TailResult) -> LossReport:
    """The entry the result names, from the survivor's ledger."""
    body = case.world.ledger("dc-b")[result.entry.key]
    assert hashlib.sha256(body).hexdigest() == result.entry.digest
    return LossReport.from_body(body)


@pytest.fixture
def quiet(build: Callable[..., Case]) -> Case:
    """A world without an open transaction: the mirror has everything."""
    return build(open_transaction=False)


async def test_a_mirror_that_had_everything_leaves_no_tail(quiet: Case) -> None:
    fork = await fail_over(quiet)
    come_back(quiet)
    async with quiet.worker():
        result = await computed(quiet)
    assert result.cases == {TailCase.NONE: len(fork.rows)}
    assert (result.records, result.bytes, result.rows) == (0, 0, ())
    assert (result.operation_id, result.source, result.target, result.bound) == ("fo-1", "dc-a", "dc-b", fork.bound)
    report = reported(quiet, result)
    assert (report.checked, report.rows, report.operation) == (len(fork.rows), (), fork.operation)


async def test_what_was_accepted_and_never_mirrored_is_the_tail_record_by_record(quiet: Case) -> None:
    quiet.world.mirror_rate(0)
    quiet.world.produce("dc-a", "orders", 0, ["lost-1", "lost-22"])
    quiet.world.begin("dc-a", "app-9")
    quiet.world.produce("dc-a", "payments", 1, ["aborted"], txn="app-9")
    quiet.world.end("dc-a", "app-9", commit=False)
    quiet.world.begin("dc-a", "app-9")
    quiet.world.produce("dc-a", "payments", 1, ["committed"], txn="app-9")
    quiet.world.end("dc-a", "app-9", commit=True)
    quiet.world.create_topic("dc-a", "newborn", 2)
    quiet.world.produce("dc-a", "newborn", 1, ["young"])
    first = quiet.world.ends("dc-a", "orders", 0).leo - 2
    await fail_over(quiet)
    quiet.world.produce("dc-b", "orders", 0, ["after the failover"])
    come_back(quiet)
    async with quiet.worker():
        result = await computed(quiet)
    rows = by_place(result)
    assert set(rows) == {("orders", 0), ("payments", 1), ("newborn", 1)}
    orders = rows[TopicPartition("orders", 0)]
    assert (orders.case, orders.first, orders.last, orders.records, orders.bytes) == (
        TailCase.TAIL,
        first,
        first + 1,
        2,
        13,
    )
    assert orders.first_at == datetime.fromtimestamp(first, UTC)
    assert orders.last_at == datetime.fromtimestamp(first + 1, UTC)
    payments = rows[TopicPartition("payments", 1)]
    assert (payments.records, payments.first, payments.last) == (1, payments.last, payments.first)
    assert rows[TopicPartition("newborn", 1)].note == "never mirrored"
    assert result.cases[TailCase.TAIL] == 3
    assert (result.records, result.bytes) == (4, 13 + len("committed") + len("young"))
    assert reported(quiet, result).rows == result.rows


async def test_a_side_that_lost_records_the_target_has_is_behind(quiet: Case) -> None:
    fork = await fail_over(quiet)
    come_back(quiet)
    quiet.world.lose_last("dc-a", "orders", 1, 3)
    async with quiet.worker():
        result = await computed(quiet)
    (row,) = result.rows
    mirrored = fork.by_partition[TopicPartition("orders", 1)].mirrored
    assert (row.topic, row.partition, row.case, row.records) == ("orders", 1, TailCase.BEHIND, 0)
    assert f"had copied offset {mirrored}" in row.note


async def test_another_topic_under_the_same_name_has_diverged(quiet: Case) -> None:
    await fail_over(quiet)
    come_back(quiet)
    quiet.world.recreate_topic("dc-a", "orders")
    async with quiet.worker():
        result = await computed(quiet)
    assert {(row.topic, row.case) for row in result.rows} == {("orders", TailCase.DIVERGED)}
    assert "another topic under this name" in result.rows[0].note
    assert result.records == 0


async def test_other_content_at_the_last_copied_offset_has_diverged(quiet: Case) -> None:
    await fail_over(quiet, journal=False)
    come_back(quiet)
    quiet.world.overwrite_last("dc-a", "orders", 2, "somebody else's")
    async with quiet.worker():
        result = await computed(quiet)
    (row,) = result.rows
    assert (row.topic, row.partition, row.case) == ("orders", 2, TailCase.DIVERGED)
    assert "their histories differ" in row.note


@pytest.mark.parametrize("copied", [0, 1, 3])
async def test_without_exactly_once_what_was_copied_beyond_m_is_found_by_content(quiet: Case, copied: int) -> None:
    place = TopicPartition("orders", 0)
    quiet.world.mirror_rate(0)
    values = ["one", "three", "seven"]
    quiet.world.produce("dc-a", *place, values)
    end_of_log = quiet.world.ends("dc-a", *place).leo
    quiet.world.copy_unrecorded("dc-b", *place, values[:copied])
    await fail_over(quiet, exactly_once=False)
    come_back(quiet)
    async with quiet.worker():
        result = await computed(quiet)
    left = 3 - copied
    assert result.records == left
    if left:
        row = by_place(result)[place]
        assert (row.case, row.records, row.first, row.last) == (TailCase.TAIL, left, end_of_log - left, end_of_log - 1)
        assert row.bytes == sum(map(len, values[copied:]))
    assert not reported(quiet, result).exactly_once


async def test_without_exactly_once_content_that_does_not_follow_has_diverged(quiet: Case) -> None:
    place = TopicPartition("orders", 0)
    quiet.world.mirror_rate(0)
    quiet.world.produce("dc-a", *place, ["one", "two"])
    quiet.world.copy_unrecorded("dc-b", *place, ["two", "one"])
    await fail_over(quiet, exactly_once=False)
    come_back(quiet)
    async with quiet.worker():
        result = await computed(quiet)
    assert by_place(result)[place].case is TailCase.DIVERGED
    assert result.records == 0


async def test_the_tail_waits_until_the_old_side_is_closed_and_settled(quiet: Case) -> None:
    """Users let in, an open transaction: its tail could still grow. The first is set right, the second awaited."""
    quiet.world.begin("dc-a", "app-9")
    quiet.world.mirror_rate(0)
    quiet.world.produce("dc-a", "payments", 0, ["undecided"], txn="app-9")
    await fail_over(quiet)
    come_back(quiet)
    quiet.world.set_rules("dc-a", users_denied=False)
    async with quiet.worker():
        handle = await begin(quiet)
        await _attempt_failed(handle, "payments-0: log end")
        rules = await quiet.world.directory().scope(quiet.scope).member("dc-a").fence.rules()
        assert (rules.users_denied, rules.groups_denied) == (True, True)
        quiet.world.end("dc-a", "app-9", commit=True)
        result = await asyncio.wait_for(handle.result(), RUN_SECONDS)
    assert [(row.topic, row.records) for row in result.rows] == [("payments", 1)]


async def _attempt_failed(handle: WorkflowHandle[Any, Any], why: str) -> None:
    async with asyncio.timeout(RUN_SECONDS):
        while True:
            pending = (await handle.describe()).raw_description.pending_activities
            if any(why in activity.last_failure.message for activity in pending):
                return
            await asyncio.sleep(0.05)


async def test_keys_of_lost_records_are_told_on_request(quiet: Case) -> None:
    quiet.world.mirror_rate(0)
    quiet.world.produce("dc-a", "orders", 0, ["ada=1", "bob=1", "ada=2"])
    quiet.world.produce("dc-a", "orders", 2, ["eve=1"])
    await fail_over(quiet)
    come_back(quiet)

    async def keys(**more: Any) -> LostKeys:
        request = KeysRequest(scope=quiet.scope, **more)
        run = quiet.client.execute_workflow(
            TailKeysWorkflow.run, request, id=f"{tail_id(quiet.scope)}-keys", task_queue=quiet.queue
        )
        return await asyncio.wait_for(run, RUN_SECONDS)

    async with quiet.worker():
        await computed(quiet)
        assert await keys(topic="orders") == LostKeys(topic="orders", keys=("ada", "bob", "eve"), more=False)
        assert await keys(topic="orders", limit=2) == LostKeys(topic="orders", keys=("ada", "bob"), more=True)
        with pytest.raises(WorkflowFailureError) as caught:
            await keys(topic="payments")
    assert "names no tail of topic payments" in str(caught.value.cause.__cause__)


async def test_a_scope_without_a_failover_has_no_tail(case: Case) -> None:
    async with case.worker():
        assert "no side that a failover left behind" in await refused(case)
        assert "0 Fork entries of failover nobody" in await refused(case, operation_id="nobody")


async def test_an_altered_fork_entry_is_not_believed(quiet: Case) -> None:
    fork = await fail_over(quiet)
    come_back(quiet)
    new = quiet.world.directory().scope(quiet.scope).member("dc-b")
    await new.ledger.put(fork.reference().key, fork.body() + b" ")
    async with quiet.worker():
        assert "it was altered" in await refused(quiet)


async def test_a_tail_runs_under_its_own_id_only(client: Client, quiet: Case) -> None:
    async with quiet.worker():
        handle = await client.start_workflow(
            TailWorkflow.run, TailRequest(scope=quiet.scope), id=f"other-{quiet.scope}", task_queue=quiet.queue
        )
        with pytest.raises(WorkflowFailureError) as caught:
            await asyncio.wait_for(handle.result(), RUN_SECONDS)
    assert isinstance(caught.value.cause, ApplicationError)
    assert tail_id(quiet.scope) in caught.value.cause.message


async def test_a_retry_goes_on_behind_the_last_batch(quiet: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The survivor's ledger fails at the third batch: the first two are not read again, and nothing is told twice."""
    monkeypatch.setattr(steps_of_tail, "BATCH", 2)
    quiet.world.mirror_rate(0)
    for partition in range(3):
        quiet.world.produce("dc-a", "orders", partition, count=2)
    fork = await fail_over(quiet)
    come_back(quiet)
    quiet.world.fail("ledger.put", dc="dc-b", after=2)
    before = len(quiet.world.calls())
    async with quiet.worker():
        result = await computed(quiet)
    calls = quiet.world.calls()[before:]
    batches = -(-len(fork.rows) // 2)
    assert calls.count("dc-a/logs.measure") == batches + 1  # the third one twice
    assert result.records == 6
    assert result.cases == {TailCase.NONE: len(fork.rows) - 3, TailCase.TAIL: 3}


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_worker_that_dies_in_the_computation_is_replaced(quiet: Case, forks: Forks, moment: str) -> None:
    quiet.world.mirror_rate(0)
    quiet.world.produce("dc-a", "orders", 0, count=5)
    await fail_over(quiet)
    come_back(quiet)
    doomed = await quiet.spawn(forks, f"{steps.TAIL.name}:{moment}:kill")
    try:
        handle = await begin(quiet)
        await asyncio.wait_for(doomed.wait(), RUN_SECONDS)
        async with quiet.worker():
            result = await asyncio.wait_for(handle.result(), RUN_SECONDS)
    finally:
        await doomed.end()
    assert result.records == 5
    assert len([key for key in quiet.world.ledger("dc-b") if "/loss/" in key]) <= 2


async def test_beside_closing_the_old_side_the_computation_changes_nothing_but_the_survivors_ledger(
    quiet: Case,
) -> None:
    quiet.world.mirror_rate(0)
    quiet.world.produce("dc-a", "orders", 0, count=5)
    await fail_over(quiet)
    come_back(quiet)
    before = len(quiet.world.calls())
    async with quiet.worker():
        await computed(quiet)
    looks = ("read", "topics", "ends", "visible", "measure", "find", "get", "connectors", "groups")
    gates = ("users_gates", "mirror_gates", "group_gates")
    others = {call for call in quiet.world.calls()[before:] if call.rpartition(".")[2] not in (*looks, *gates)}
    closing = {"dc-a/fence.close_users", "dc-a/fence.freeze_groups", "dc-a/groups.expel"}
    assert others == {"dc-b/ledger.put", *closing}
