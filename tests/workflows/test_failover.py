"""An unplanned failover on a real Temporal server, over the stand-in world: what goes by itself, and what asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from activities.failpoints import Failpoint
from adapters.memory import Produced, memory_directory
from dcdr import fork, lease
from dcdr.book import LedgerBook
from dcdr.errors import PlanRefusedError
from dcdr.model import (
    AbortRequest,
    FailoverMode,
    FailoverPolicy,
    GroupVerdict,
    Holding,
    LossAcceptance,
    Operation,
    OperationKind,
    Outcome,
    Phase,
    RecoveryRequest,
    StepState,
    TransitionReport,
)
from dcdr.settings import MirrorSettings
from starter import cli
from starter.client import abort, accept_loss, ended, holding
from tests.workflows.harness import BY_ITSELF, RUN_SECONDS, Case
from worker.finder import look
from workflows import steps
from workflows.transition import transition_id

MIRROR = MirrorSettings().source_connector.format(source="dc-a", target="dc-b")
ASKS = BY_ITSELF.model_copy(update={"max_lost_records": 1})


async def result(handle: WorkflowHandle[Any, TransitionReport]) -> TransitionReport:
    return await asyncio.wait_for(handle.result(), RUN_SECONDS)


async def refusal(handle: WorkflowHandle[Any, Any]) -> ApplicationError:
    with pytest.raises(WorkflowFailureError) as caught:
        await asyncio.wait_for(handle.result(), RUN_SECONDS)
    assert isinstance(caught.value.cause, ApplicationError), caught.value.cause
    return caught.value.cause


async def held(case: Case) -> Holding:
    """What the failover holds for, once it does."""
    async with asyncio.timeout(RUN_SECONDS):
        while (found := await holding(case.client, case.scope)) is None:  # noqa: ASYNC110 - a query is all there is
            await asyncio.sleep(0.05)
    return found


async def until_phase(case: Case, phase: str) -> None:
    """Until the run shows `phase`; the search attribute is what people look for."""
    handle = case.client.get_workflow_handle(transition_id(case.scope))
    async with asyncio.timeout(RUN_SECONDS):
        while phase not in str((await handle.describe()).typed_search_attributes):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.fixture
def lost(build: Callable[..., Case]) -> Case:
    """dc-a is dead, with three records that never came over; dc-b holds the lease."""
    case = build(failover=BY_ITSELF, open_transaction=False)
    case.lose(rate=1.0)
    return case


@pytest.fixture
def asking(build: Callable[..., Case]) -> Case:
    """As `lost`, with more lost than the budget allows."""
    case = build(failover=ASKS, open_transaction=False)
    case.lose(rate=1.0)
    return case


async def test_a_dead_site_is_failed_over_and_the_loss_is_bounded_before_the_new_one_opens(lost: Case) -> None:
    async with lost.worker():
        report = await result(await lost.fail_over())
    assert (report.outcome, report.active, report.epoch) == (Outcome.DONE, "dc-b", 2)
    assert report.loss is not None
    assert report.loss.records is not None
    assert report.loss.records >= 3
    assert list(report.rto) == ["detect", "decide", "fence", "record", "open", "flip"]
    assert report.rto["detect"] == timedelta(seconds=1)
    assert report.outage == sum(report.rto.values(), timedelta())
    states = {step.name: step.state for step in report.steps}
    assert all(states[step.name] is StepState.DONE for step in steps.FAILOVER)
    verdicts = {group.group: group.verdict for group in report.groups}
    assert verdicts["billing"] is GroupVerdict.APPROXIMATE
    assert "connect-dc-b" not in {name for name, verdict in verdicts.items() if verdict is not GroupVerdict.SKIPPED}
    assert (lost.lease.behind, lost.lease.op_id, lost.lease.ledger) == ("dc-a", None, report.ledger.digest)  # type: ignore[union-attr]
    assert lost.world.produce_at_endpoint("orders", 0) is Produced.ACKED
    assert lost.judge() == []
    lost.world.revive_site("dc-a")
    assert lost.judge() == []


async def test_the_agents_carry_it_out_where_they_keep_the_lease(build: Callable[..., Case]) -> None:
    case = build(agents=True, gated=True, open_transaction=False)
    case.lose(rate=1.0)
    async with case.agents("dc-b"), case.worker():
        report = await result(await case.fail_over())
    assert report.outcome is Outcome.DONE
    assert case.judge() == []


async def test_a_loss_above_the_budget_holds_until_it_is_accepted_once(
    asking: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def connect() -> Client:
        return asking.client

    monkeypatch.setattr("workflows.temporal.connect", connect)
    async with asking.worker():
        handle = await asking.fail_over()
        found = await held(asking)
        await until_phase(asking, "Holding")
        bound = found.bound.records
        assert bound is not None
        assert "above the budget of 1 records" in found.why
        assert asking.lease.phase is Phase.ACQUIRED
        assert not asking.world.users_open("dc-b")
        assert await cli._status(asking.scope, cli.Output.TABLE) == cli.DONE
        shown = capsys.readouterr().out
        assert "HOLDING since" in shown
        assert f"NEXT: accept the loss until {found.until:%Y-%m-%d %H:%M:%S} UTC" in shown
        assert f"dcdr accept-loss {asking.scope} --records {bound}" in shown
        with pytest.raises(PlanRefusedError, match=f"the bound is {bound} records"):
            await accept_loss(asking.client, asking.scope, LossAcceptance(records=bound - 1, by="me"))
        with pytest.raises(PlanRefusedError, match="the bound is known by now"):
            await accept_loss(asking.client, asking.scope, LossAcceptance(records=None, by="me"))
        with pytest.raises(
            PlanRefusedError, match=f"a failover is not aborted.*handover {asking.scope}|is not aborted"
        ):
            await abort(asking.client, asking.scope, AbortRequest(by="me"))
        wishes = [
            accept_loss(asking.client, asking.scope, LossAcceptance(records=bound, by=by, reason="CHG-7"))
            for by in ("ann", "bob")
        ]
        answers = await asyncio.gather(*wishes, return_exceptions=True)
        report = await result(handle)
    refused = [answer for answer in answers if isinstance(answer, Exception)]
    assert len(refused) == 1, answers
    assert report.outcome is Outcome.DONE
    assert report.accepted_by in (f"ann ({bound} records: CHG-7)", f"bob ({bound} records: CHG-7)")
    assert list(report.rto) == ["detect", "decide", "fence", "record", "hold", "open", "flip"]
    assert asking.judge() == []


async def test_a_bound_that_was_told_too_long_ago_is_computed_again_and_asked_for_anew(
    build: Callable[..., Case],
) -> None:
    case = build(failover=ASKS.model_copy(update={"acceptance_valid": timedelta(seconds=2)}), open_transaction=False)
    case.lose(rate=1.0)
    async with case.worker():
        handle = await case.fail_over()
        first = await held(case)
        async with asyncio.timeout(RUN_SECONDS):
            while (again := await held(case)).since == first.since:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert again.until > first.until
        await accept_loss(case.client, case.scope, LossAcceptance(records=again.bound.records))
        report = await result(handle)
    assert report.outcome is Outcome.DONE
    assert len([key for key in case.world.ledger("dc-b") if "/fork/" in key]) == 2
    assert case.judge() == []


@pytest.mark.parametrize(
    ("policy", "journal", "says"),
    [
        (FailoverPolicy(mode=FailoverMode.NEVER), True, "failover.mode is never"),
        (FailoverPolicy(mode=FailoverMode.ASK), True, "failover.mode is ask"),
        (FailoverPolicy(), True, "the fence is ACLs"),
        (BY_ITSELF, False, "there is no journal"),
    ],
    ids=["never", "ask", "acl", "no-journal"],
)
async def test_what_must_not_go_by_itself_asks(
    build: Callable[..., Case], policy: FailoverPolicy, journal: bool, says: str
) -> None:
    case = build(failover=policy, open_transaction=False)
    case.lose(journal=journal, rate=1.0)
    async with case.worker():
        handle = await case.fail_over()
        found = await held(case)
        assert says in found.why
        await accept_loss(case.client, case.scope, LossAcceptance(records=found.bound.records, by="me"))
        assert (await result(handle)).outcome is Outcome.DONE
    assert case.judge() == []


async def test_a_lease_that_is_handed_back_while_it_holds_ends_it_and_the_mirror_runs_again(asking: Case) -> None:
    async with asking.worker():
        handle = await asking.fail_over()
        await held(asking)
        asking.world.mirror_rate(None)
        asking.world.hand_back("dc-a")
        asking.world.revive_site("dc-a")
        report = await result(handle)
    assert (report.outcome, report.active, report.epoch) == (Outcome.SUPERSEDED, "dc-a", 3)
    assert "handed back" in report.why
    assert asking.world.connector("dc-b", MIRROR).running
    assert asking.world.values("dc-a", "orders", 0)[-1] == "lost-2"
    assert asking.judge() == []


async def test_another_takeover_ends_what_holds(asking: Case) -> None:
    async with asking.worker():
        handle = await asking.fail_over()
        await held(asking)
        asking.world.take_over("dc-a")
        report = await result(handle)
    assert (report.outcome, report.active) == (Outcome.SUPERSEDED, "dc-a")


async def test_an_acceptance_without_anything_that_holds_is_refused(lost: Case) -> None:
    hold = Failpoint(steps.SHUT_MIRROR.name, "before", "hold")
    async with lost.worker(hold):
        handle = await lost.fail_over()
        await lost.reached(hold)
        with pytest.raises(PlanRefusedError, match=f"does not wait.*dcdr status {lost.scope}"):
            await accept_loss(lost.client, lost.scope, LossAcceptance(records=10))
        (lost.marks / "release").touch()
        assert (await result(handle)).outcome is Outcome.DONE


@pytest.mark.parametrize("step", [steps.CLOSE, steps.DRAIN], ids=lambda s: s.name)
async def test_a_switchover_before_its_handover_ends_at_once_when_the_lease_is_taken_over(
    build: Callable[..., Case], step: steps.Step
) -> None:
    case = build(failover=BY_ITSELF, open_transaction=False)
    hold = Failpoint(step.name, "before", "hold")
    async with case.worker(hold):
        switchover = await case.start()
        await case.reached(hold)
        case.lose(tail=0)
        before = len([call for call in case.world.calls() if "fence." in call])
        await switchover.signal("superseded", "dc-b took the lease over")
        report = await asyncio.wait_for(switchover.result(), 10)
        assert (report.outcome, report.why) == (Outcome.SUPERSEDED, "dc-b took the lease over")
        assert len([call for call in case.world.calls() if "fence." in call]) == before
        failover = await result(await case.fail_over())
    assert failover.outcome is Outcome.DONE
    assert case.judge() == []


async def test_a_switchover_whose_step_finds_the_lease_taken_over_ends_as_superseded_untold(
    build: Callable[..., Case],
) -> None:
    case = build(failover=BY_ITSELF, open_transaction=False)
    hold = Failpoint(steps.DRAIN.name, "before", "hold")
    async with case.worker(hold):
        switchover = await case.start()
        await case.reached(hold)
        case.lose(tail=0)
        (case.marks / "release").touch()
        report = await result(switchover)
    assert report.outcome is Outcome.SUPERSEDED
    assert "dc-b" in report.why


async def test_a_switchover_after_its_handover_does_not_hear_that_it_is_superseded(case: Case) -> None:
    hold = Failpoint(steps.OPEN.name, "before", "hold")
    async with case.worker(hold):
        switchover = await case.start()
        await case.reached(hold)
        await switchover.signal("superseded", "somebody is mistaken")
        (case.marks / "release").touch()
        assert (await result(switchover)).outcome is Outcome.DONE
    assert case.judge() == []


@pytest.mark.parametrize("step", steps.FAILOVER[1:], ids=lambda s: s.name)
async def test_a_terminated_failover_goes_on_under_the_same_operation(lost: Case, step: steps.Step) -> None:
    hold = Failpoint(step.name, "before", "hold")
    async with lost.worker(hold):
        handle = await lost.fail_over()
        await lost.reached(hold)
        await handle.terminate("by hand")
        began = lost.lease.op_id
        report = await result(await lost.fail_over(by="worker"))
    assert report.outcome is Outcome.DONE
    assert report.operation_id == began
    assert report.loss is not None
    assert lost.judge() == []


async def test_the_finder_starts_an_unfinished_failover_again_past_its_deadline(build: Callable[..., Case]) -> None:
    case = build(failover=BY_ITSELF, open_transaction=False, operation_deadline=timedelta(seconds=2))
    case.lose(rate=1.0)
    hold = Failpoint(steps.FLIP.name, "before", "hold")
    async with case.worker(hold):
        handle = await case.fail_over()
        await case.reached(hold)
        await handle.terminate("by hand")
        directory = memory_directory(case.path)
        async with asyncio.timeout(RUN_SECONDS):
            while not await look(case.client, directory, case.scope, task_queue=case.queue):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        found: WorkflowHandle[Any, TransitionReport] = case.client.get_workflow_handle(
            transition_id(case.scope), result_type=TransitionReport
        )
        assert (await result(found)).outcome is Outcome.DONE
    assert case.judge() == []


async def test_what_the_targets_agent_opened_by_itself_is_finished_forward(lost: Case) -> None:
    operation = Operation(
        scope=lost.scope,
        id="agent-1",
        epoch=1,
        turn=lost.lease.turn,
        source="dc-a",
        target="dc-b",
        kind=OperationKind.FAILOVER,
    )
    scope = lost.world.directory().scope(lost.scope)
    lost.world.set_lease(lease.take_up(lost.lease, operation, datetime.now(UTC)).model_dump_json())
    await fork.fence(scope, operation)
    entry, _ = await fork.record(scope, operation, LedgerBook())
    lost.world.set_lease(lease.open_up(lost.lease, operation, entry.digest).model_dump_json())
    async with lost.worker():
        report = await result(await lost.fail_over())
    assert (report.outcome, report.operation_id, report.ledger) == (Outcome.DONE, "agent-1", entry)
    assert "another run began it" in report.warnings[0]
    assert lost.judge() == []


async def test_a_recovery_that_a_person_starts_goes_on_as_the_failover(lost: Case) -> None:
    hold = Failpoint(steps.OPEN_UP.name, "before", "hold")
    async with lost.worker(hold):
        handle = await lost.fail_over()
        await lost.reached(hold)
        await handle.terminate("by hand")
        await lost.client.start_workflow(
            "Recovery", RecoveryRequest(scope=lost.scope), id=transition_id(lost.scope), task_queue=lost.queue
        )
        found: WorkflowHandle[Any, TransitionReport] = lost.client.get_workflow_handle(
            transition_id(lost.scope), result_type=TransitionReport
        )
        assert (await result(found)).outcome is Outcome.DONE
    assert lost.judge() == []


async def test_a_switchover_beside_an_unfinished_failover_is_refused_with_what_to_do(lost: Case) -> None:
    hold = Failpoint(steps.FLIP.name, "before", "hold")
    async with lost.worker(hold):
        handle = await lost.fail_over()
        await lost.reached(hold)
        await handle.terminate("by hand")
        cause = await refusal(await lost.start())
    assert cause.type == "PlanRefusedError"
    assert f"dcdr failover {lost.scope} --to dc-b" in cause.message


async def test_asked_by_a_person_while_the_source_lives_it_is_refused_with_the_reason(
    build: Callable[..., Case],
) -> None:
    case = build(agents=True, gated=True, open_transaction=False)
    async with case.agents(), case.worker():
        cause = await refusal(await case.fail_over(by="me"))
        assert "shows signs of life" in cause.message
        assert f"dcdr switchover {case.scope} --to dc-b" in cause.message
    assert case.lease.holder == "dc-a"
    assert case.judge() == []


async def test_asked_by_a_person_the_candidates_agent_takes_over_and_it_goes_on(build: Callable[..., Case]) -> None:
    case = build(agents=True, gated=True, open_transaction=False, failover=FailoverPolicy(max_lost_records=None))
    case.world.keep_journal("dc-b", rate=1.0)
    case.world.kill_site("dc-a")
    async with case.agents("dc-b"), case.worker():
        report = await result(await case.fail_over(by="me"))
    assert report.outcome is Outcome.DONE
    assert case.judge() == []


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_the_watch_sees_the_takeover_that_a_person_asked_for_before_the_failover_does(
    build: Callable[..., Case], moment: str
) -> None:
    case = build(agents=True, gated=True, open_transaction=False, failover=FailoverPolicy(max_lost_records=None))
    case.world.keep_journal("dc-b", rate=1.0)
    case.world.kill_site("dc-a")
    hold = Failpoint(steps.ASK.name, moment, "hold")
    async with case.agents("dc-b"), case.worker(hold):
        handle = await case.fail_over(by="me")
        await case.reached(hold)
        await handle.signal("superseded", "dc-b took the lease over")
        (case.marks / "release").touch()
        report = await result(handle)
    assert report.outcome is Outcome.DONE
    assert case.judge() == []


@pytest.mark.parametrize(
    ("target", "by", "says"),
    [
        ("dc-c", "me", "arbiter"),
        ("dc-x", "me", "no data center"),
        ("dc-a", "me", "active already"),
        ("dc-b", "watch", "nothing was taken over"),
    ],
)
async def test_a_failover_that_cannot_be_is_refused_with_a_reason(case: Case, target: str, by: str, says: str) -> None:
    async with case.worker():
        assert says in (await refusal(await case.fail_over(target, by))).message
    assert case.judge() == []


@pytest.mark.parametrize("payload", [{"scope": "lab"}, {"scope": "lab", "target": "dc-b", "typo": 1}, None, ["x"]])
async def test_malformed_input_fails_the_run_at_once(case: Case, payload: object) -> None:
    async with case.worker():
        handle = await case.client.start_workflow(
            "Failover", payload, id=transition_id(case.scope), task_queue=case.queue
        )
        with pytest.raises(WorkflowFailureError):
            await asyncio.wait_for(handle.result(), RUN_SECONDS)


async def test_under_another_workflow_id_it_fails_before_its_first_step(case: Case) -> None:
    async with case.worker():
        handle = await case.client.start_workflow(
            "Failover", {"scope": case.scope, "target": "dc-b"}, id=f"mine-{case.scope}", task_queue=case.queue
        )
        cause = await refusal(handle)
    assert transition_id(case.scope) in cause.message
    assert not [call for call in case.world.calls() if call.startswith("lease.")]


@pytest.mark.parametrize("step", steps.FAILOVER, ids=lambda s: s.name)
async def test_a_step_whose_answer_is_lost_is_run_again_without_harm(lost: Case, step: steps.Step) -> None:
    async with lost.worker(Failpoint(step.name, "after", "lose")):
        end = await asyncio.wait_for(ended(await lost.fail_over()), RUN_SECONDS)
    assert end.report is not None, end.failure
    assert end.report.outcome is Outcome.DONE
    assert lost.judge() == []
