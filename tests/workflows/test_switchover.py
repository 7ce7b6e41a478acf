"""The order of steps on a real Temporal server, over the stand-in world: what ends as done, what ends as before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from activities import groups
from activities.failpoints import Failpoint
from adapters.memory import Produced, memory_directory
from dcdr.model import (
    AbortRequest,
    ConnectorState,
    GroupVerdict,
    Outcome,
    Phase,
    RecoveryRequest,
    StepState,
    TransitionReport,
)
from dcdr.settings import MirrorSettings
from starter.client import abort, ended
from tests.workflows.harness import RUN_SECONDS, Case
from worker.finder import look
from workflows import steps
from workflows.transition import transition_id

BEFORE_THE_HANDOVER = [step.name for step in steps.TO_THE_HANDOVER[:-1]]


REREADS = ("group-rereads: slow", "group-rereads: reports")
"""Groups that lagged, where the old side's contents could not be read any more."""


async def result(handle: WorkflowHandle[Any, TransitionReport]) -> TransitionReport:
    return await asyncio.wait_for(handle.result(), RUN_SECONDS)


async def failure(handle: WorkflowHandle[Any, Any]) -> ApplicationError:
    with pytest.raises(WorkflowFailureError) as caught:
        await asyncio.wait_for(handle.result(), RUN_SECONDS)
    cause = caught.value.cause
    assert isinstance(cause, ApplicationError), cause
    return cause


def states(report: TransitionReport) -> dict[str, StepState]:
    return {step.name: step.state for step in report.steps}


async def test_a_switchover_loses_nothing_and_reports_every_step(case: Case) -> None:
    async with case.worker():
        report = await result(await case.start())
    assert report.outcome is Outcome.DONE
    assert (report.active, report.epoch) == ("dc-b", 2)
    assert all(states(report)[step.name] is StepState.DONE for step in steps.SWITCHOVER)
    assert report.ledger is not None
    assert report.outage is not None
    assert report.outage.total_seconds() > 0
    assert report.groups
    assert case.judge() == []
    record = case.lease
    assert (record.holder, record.epoch, record.phase, record.op_id) == ("dc-b", 2, Phase.OPEN, None)
    assert record.ledger == report.ledger.digest


async def test_there_and_back_twice_neither_loses_nor_doubles(case: Case) -> None:
    async with case.worker():
        for round_trip, target in enumerate(("dc-b", "dc-a", "dc-b", "dc-a"), 2):
            other = "dc-a" if target == "dc-b" else "dc-b"
            report = await result(await case.start(target))
            assert (report.outcome, report.epoch) == (Outcome.DONE, round_trip)
            case.world.members(other, "reports", 0)  # they were refused there and went to the endpoint
            assert case.world.produce(target, "orders", 0, count=5) is Produced.ACKED
            assert case.judge() == []


async def test_a_dry_run_changes_nothing(case: Case) -> None:
    before = case.lease
    async with case.worker():
        report = await result(await case.start(dry_run=True))
    assert report.outcome is Outcome.PLANNED
    assert [(group.group, group.verdict) for group in report.groups] == [
        ("connect-dc-a", GroupVerdict.SKIPPED),
        ("shares", GroupVerdict.SKIPPED),
    ]
    assert case.lease == before
    assert case.judge() == []


async def test_groups_are_carried_over_exactly_or_named(case: Case) -> None:
    async with case.worker():
        report = await result(await case.start())
    verdicts = {group.group: (group.verdict, group.bound) for group in report.groups}
    assert verdicts["billing"] == (GroupVerdict.EXACT, 0)
    assert verdicts["reports"] == (GroupVerdict.EXACT, 0), "it lags, and its records can be compared"
    skipped = {group.group: group.note for group in report.groups if group.verdict is GroupVerdict.SKIPPED}
    assert skipped == {"connect-dc-a": "the workers of dc-a's Connect", "shares": "a share group"}


async def test_an_old_side_that_dies_after_the_handover_keeps_no_consumer_waiting(
    build: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "OLD_SIDE_SECONDS", 1.0)
    case = build(records=100)
    case.world.commit_group("dc-a", "slow", "orders", 0, 10)
    hold = Failpoint(steps.OPEN.name, "before", "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        case.world.cut_off("dc-a")
        (case.marks / "release").touch()
        async with asyncio.timeout(RUN_SECONDS):
            while case.world.groups_frozen("dc-b"):  # noqa: ASYNC110 - the world is all there is to look at
                await asyncio.sleep(0.05)
        assert case.world.calls().count("dc-b/fence.thaw_groups") == 1
        case.world.cut_off("dc-a", away=False)  # the reverse mirror runs there, so the run needs it after all
        report = await result(handle)
    assert report.outcome is Outcome.DONE
    found = {group.group: group for group in report.groups}
    assert found["billing"].verdict is GroupVerdict.EXACT, "it had read everything"
    assert {found[name].verdict for name in ("reports", "slow")} == {GroupVerdict.APPROXIMATE}
    assert found["slow"].note == "not placed exactly: dc-a did not answer; the mirror's own checkpoint"
    assert [line for line in case.judge() if not line.startswith(REREADS)] == []


@pytest.mark.parametrize("held", [steps.PLACE, steps.START], ids=["groups shut out", "groups let in"])
async def test_a_recovery_finds_the_groups_positions_and_reports_every_group(
    build: Callable[..., Case], monkeypatch: pytest.MonkeyPatch, held: steps.Step
) -> None:
    monkeypatch.setattr(groups, "OLD_SIDE_SECONDS", 1.0)
    case = build(records=100)
    case.world.commit_group("dc-a", "slow", "orders", 0, 10)
    hold = Failpoint(held.name, "before", "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        await handle.terminate("by hand")  # the held attempt learns it from its next heartbeat, and is cancelled
        assert case.world.groups_frozen("dc-b") == (held is steps.PLACE)
        # The positions are still known, the contents on the old side are not.
        case.world.fail("logs.visible", times=-1, dc="dc-a")
        case.world.fail("groups.committed", times=-1, dc="dc-a")
        recovery = await case.client.start_workflow(
            "Recovery",
            RecoveryRequest(scope=case.scope),
            id=transition_id(case.scope),
            task_queue=case.queue,
            result_type=list[str],
        )
        said = await asyncio.wait_for(recovery.result(), RUN_SECONDS)
    assert "finished" in said[0]
    named = [line.partition(": ")[2] for line in said[1:]]
    assert [line.split(",")[0] for line in named] == ["group reports: approximate", "group slow: approximate"]
    if held is steps.PLACE:
        assert all("not placed exactly: dc-a did not answer" in line for line in named)
        assert [line for line in case.judge() if not line.startswith(REREADS)] == []
    else:
        assert all("consumers were let in already" in line for line in named)
        assert case.judge() == []


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", BEFORE_THE_HANDOVER)
async def test_an_abort_before_the_handover_leaves_everything_as_before(case: Case, step: str, moment: str) -> None:
    hold = Failpoint(step, moment, "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        await abort(case.client, case.scope, AbortRequest(by="ana", reason="changed my mind"))
        report = await result(handle)
    assert report.outcome is Outcome.AS_BEFORE
    assert report.why == "aborted by ana: changed my mind"
    assert report.active == "dc-a"
    record = case.lease
    assert (record.holder, record.epoch, record.phase, record.op_id) == ("dc-a", 1, Phase.OPEN, None)
    assert case.judge() == []


async def test_an_abort_after_the_handover_is_refused_and_the_switchover_finishes(case: Case) -> None:
    hold = Failpoint(steps.HAND_OVER.name, "after", "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        with pytest.raises(Exception, match="only goes forward"):
            await abort(case.client, case.scope, AbortRequest(by="ana"))
        (case.marks / "release").touch()
        report = await result(handle)
    assert report.outcome is Outcome.DONE
    assert case.judge() == []


async def test_a_cancelled_workflow_is_undone_before_the_handover(case: Case) -> None:
    hold = Failpoint(steps.DRAIN.name, "before", "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        await handle.cancel()
        report = await result(handle)
    assert report.outcome is Outcome.AS_BEFORE
    assert case.judge() == []


async def test_a_cancelled_workflow_goes_forward_after_the_handover(case: Case) -> None:
    hold = Failpoint(steps.RETIRE.name, "before", "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        await handle.cancel()
        (case.marks / "release").touch()
        report = await result(handle)
    assert report.outcome is Outcome.DONE
    assert case.judge() == []


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_handover_whose_answer_is_lost_ends_right_both_ways(case: Case, moment: str) -> None:
    async with case.worker(Failpoint(steps.HAND_OVER.name, moment, "lose")):
        report = await result(await case.start())
    assert report.outcome is Outcome.DONE
    assert case.lease.epoch == 2
    assert case.judge() == []


async def test_a_handover_that_committed_before_its_step_failed_for_good_goes_forward(case: Case) -> None:
    async with case.worker(Failpoint(steps.HAND_OVER.name, "after", "fail")):
        report = await result(await case.start())
    assert report.outcome is Outcome.DONE
    assert case.judge() == []


@pytest.mark.parametrize("step", BEFORE_THE_HANDOVER)
async def test_a_step_that_fails_for_good_before_the_handover_is_undone(case: Case, step: str) -> None:
    async with case.worker(Failpoint(step, "after", "fail")):
        handle = await case.start()
        end = await asyncio.wait_for(ended(handle), RUN_SECONDS)
    assert end.report is not None
    assert end.report.outcome is Outcome.AS_BEFORE
    assert "failed for good" in end.failure
    assert case.judge() == []


@pytest.mark.parametrize("step", [step.name for step in steps.SWITCHOVER])
async def test_a_step_whose_answer_is_lost_is_run_again_without_harm(case: Case, step: str) -> None:
    async with case.worker(Failpoint(step, "after", "lose")):
        report = await result(await case.start())
    assert report.outcome is Outcome.DONE
    assert case.judge() == []


@pytest.mark.parametrize("step", [step.name for step in steps.SWITCHOVER])
async def test_a_terminated_run_is_rolled_back_or_forward_by_the_next_start(case: Case, step: str) -> None:
    hold = Failpoint(step, "before", "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        await handle.terminate("by hand")  # the held attempt learns it from its next heartbeat, and is cancelled
        moved = case.lease.holder == "dc-b"
        begun = case.lease.op_id is not None
        if moved:
            case.world.members("dc-a", "reports", 0)
        report = await result(await case.start("dc-a" if moved else "dc-b"))
    assert report.outcome is Outcome.DONE
    assert bool(report.recovered) == begun
    if begun:
        assert ("finished" if moved else "undid") in report.recovered[0]
    assert case.judge() == []


async def test_a_mirror_that_was_seeded_ran_and_was_stopped_by_hand_copies_nothing_twice(case: Case) -> None:
    hold = Failpoint(steps.FINISH.name, "before", "hold")
    name = MirrorSettings().source_connector.format(source="dc-b", target="dc-a")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        await handle.terminate("by hand")
        assert case.world.produce("dc-b", "orders", 0, count=5) is Produced.ACKED
        while len(case.world.values("dc-a", "orders", 0)) < len(case.world.values("dc-b", "orders", 0)):
            case.world.pump()
        case.world.set_connector("dc-a", name, state=ConnectorState.STOPPED, tasks=())
        case.world.members("dc-a", "reports", 0)
        report = await result(await case.start("dc-a"))
    assert "finished" in report.recovered[0]
    assert case.judge() == []


@pytest.mark.parametrize("gated", [False, True], ids=["ungated", "gated"])
async def test_a_record_accepted_after_the_cut_is_found_by_the_last_look(
    build: Callable[..., Case], gated: bool
) -> None:
    case = build(gated=gated)
    hold = Failpoint(steps.HAND_OVER.name, "before", "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        case.world.late_append("dc-a", "orders", 1, ["late-1", "late-2", "late-3"])
        (case.marks / "release").touch()
        report = await result(handle)
    assert report.outcome is Outcome.DONE
    assert report.tail == ()
    assert case.judge() == []


async def test_an_abort_behind_the_mirrors_closed_gate_lets_the_mirror_in_again(build: Callable[..., Case]) -> None:
    case = build(gated=True)
    hold = Failpoint(steps.CLOSE_MIRROR.name, "after", "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        closed = case.lease
        await abort(case.client, case.scope, AbortRequest(by="ana", reason="changed my mind"))
        report = await result(handle)
    assert report.outcome is Outcome.AS_BEFORE
    assert (closed.mirrored, case.lease.mirrored) == (False, True)
    assert case.judge() == []


async def test_a_topic_created_after_the_cut_is_found_by_the_last_look(case: Case) -> None:
    hold = Failpoint(steps.HAND_OVER.name, "before", "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        case.world.create_topic("dc-a", "born-late", 2, principal="admin")
        (case.marks / "release").touch()
        report = await result(handle)
    assert report.outcome is Outcome.DONE
    assert case.judge() == []


async def test_a_record_accepted_after_the_handover_is_reported_as_a_tail(case: Case) -> None:
    hold = Failpoint(steps.OPEN.name, "before", "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        case.world.late_append("dc-a", "orders", 1, ["late-1", "late-2"])
        (case.marks / "release").touch()
        report = await result(handle)
    assert report.outcome is Outcome.DONE
    assert sum(row.end - row.first for row in report.tail) == 2


async def test_a_drain_that_misses_its_deadline_reopens_the_source_fence(build: Callable[..., Case]) -> None:
    case = build(drain_deadline=timedelta(seconds=2))
    hold = Failpoint(steps.CLOSE.name, "before", "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        case.world.mirror_rate(0)
        assert case.world.produce("dc-a", "orders", 0, count=3) is Produced.ACKED
        (case.marks / "release").touch()
        end = await asyncio.wait_for(ended(handle), RUN_SECONDS)
    assert end.report is not None
    assert end.report.outcome is Outcome.AS_BEFORE
    assert "not drained" in end.failure
    case.world.mirror_rate(None)
    assert case.judge() == []


async def test_a_start_under_another_workflow_id_fails_before_its_first_step(case: Case) -> None:
    async with case.worker():
        handle = await case.client.start_workflow(
            "Switchover", {"scope": case.scope, "target": "dc-b"}, id=f"mine-{case.scope}", task_queue=case.queue
        )
        cause = await failure(handle)
    assert cause.type == "InvalidRequestError"
    assert transition_id(case.scope) in cause.message
    history = await handle.fetch_history()
    assert not [event for event in history.events if event.HasField("activity_task_scheduled_event_attributes")]


@pytest.mark.parametrize(
    "payload",
    [
        {"scope": "lab"},
        {"scope": "lab", "target": "dc-b", "typo": 1},
        {"scope": "../x", "target": "dc-b"},
        ["lab", "dc-b"],
        "dc-b",
        None,
        {"scope": "lab\n", "target": "dc-b"},
    ],
    ids=["missing", "unknown-key", "bad-scope", "list", "text", "null", "newline"],
)
async def test_malformed_input_fails_the_run_at_once(case: Case, payload: object) -> None:
    async with case.worker():
        handle = await case.client.start_workflow(
            "Switchover", payload, id=transition_id(case.scope), task_queue=case.queue
        )
        with pytest.raises(WorkflowFailureError):
            await asyncio.wait_for(handle.result(), RUN_SECONDS)


async def test_an_unknown_workflow_type_fails_with_the_types_there_are(case: Case) -> None:
    async with case.worker():
        handle = await case.client.start_workflow(
            "Switchoverr", {"scope": case.scope}, id=transition_id(case.scope), task_queue=case.queue
        )
        assert "there are Switchover, Failover, Recovery, LeaseWatch, Tail" in (await failure(handle)).message


@pytest.mark.parametrize(
    ("target", "says"),
    [("dc-c", "arbiter"), ("dc-x", "no data center"), ("dc-a", "already active")],
)
async def test_a_target_that_cannot_be_one_is_refused_with_a_reason(case: Case, target: str, says: str) -> None:
    async with case.worker():
        cause = await failure(await case.start(target))
    assert says in cause.message
    assert case.judge() == []


async def test_two_starts_at_once_give_one_run(case: Case) -> None:
    async with case.worker():
        starts = await asyncio.gather(*(case.start() for _ in range(10)), return_exceptions=True)
        handles = [handle for handle in starts if not isinstance(handle, BaseException)]
        assert len(handles) == 1
        assert (await result(handles[0])).outcome is Outcome.DONE


async def test_the_finder_recovers_what_was_left_past_its_deadline(build: Callable[..., Case]) -> None:
    case = build(operation_deadline=timedelta(seconds=5))
    hold = Failpoint(steps.OPEN.name, "before", "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        await handle.terminate("by hand")  # the held attempt learns it from its next heartbeat, and is cancelled
        directory = memory_directory(case.path)
        async with asyncio.timeout(RUN_SECONDS):
            while not await look(case.client, directory, case.scope, task_queue=case.queue):  # noqa: ASYNC110 - the finder looks, too
                await asyncio.sleep(0.1)
        said = await case.client.get_workflow_handle(transition_id(case.scope), result_type=list[str]).result()
    assert "finished" in said[0]
    assert case.lease.holder == "dc-b"
    assert case.judge() == []
