"""What switchover, failover and recovery share: running a step, showing it, aborting, undoing, going forward."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.endpoint import EndpointActivities
    from activities.fence import FenceActivities
    from activities.groups import GroupActivities
    from activities.lease import LeaseActivities
    from activities.mirror import MirrorActivities
    from activities.status import StatusActivities
    from dcdr.errors import InvalidRequestError, PlanRefusedError
    from dcdr.model import (
        AbortRequest,
        EntryRef,
        FailoverRequest,
        GroupsResult,
        GroupVerdict,
        Holding,
        LeftoverResult,
        Operation,
        OperationKind,
        Outcome,
        RecoveryRequest,
        ReopenResult,
        StepInput,
        StepReport,
        StepResult,
        StepState,
        SwitchoverRequest,
        TransactionsResult,
        TransitionReport,
        Verdict,
        VerifyResult,
    )
    from workflows import policies, steps
    from workflows.steps import Step

SCOPE = SearchAttributeKey.for_keyword("DrScope")
PHASE = SearchAttributeKey.for_keyword("DrPhase")
ACTIVE = SearchAttributeKey.for_keyword("DrActiveDC")

R = TypeVar("R")
A = TypeVar("A")
LISTED = 20
MARKS = {
    StepState.PENDING: "pending",
    StepState.NOW: "**NOW**",
    StepState.DONE: "done",
    StepState.SKIPPED: "-",
    StepState.UNDONE: "undone",
    StepState.FAILED: "FAILED",
}


class Aborted(Exception):  # noqa: N818 - a decision, not an error
    """Somebody asked for the operation to be undone."""


class Superseded(Exception):  # noqa: N818 - a decision, not an error
    """The lease moved on: another operation goes on from there, and this one touches nothing more."""


SUPERSEDED = "SupersededError"
"""The type of a step's failure that says so by itself."""


def transition_id(scope: str) -> str:
    """The one workflow id of all mutating operations of a scope, so that two can never run at once."""
    return f"dcdr/{scope}/transition"


def check_identity(request: SwitchoverRequest | FailoverRequest | RecoveryRequest | None) -> None:
    """Raises: InvalidRequestError when this run was started under another id (it could run beside another one), or
    with `null`, which decodes as any type."""
    if request is None:
        raise InvalidRequestError(
            'the input is null; expected one JSON object such as {"scope": "lab", "target": "dc-b"}'
        )
    scope = request.scope
    info = workflow.info()
    if info.workflow_id != transition_id(scope):
        raise InvalidRequestError(
            f"a transition of scope {scope} runs under the workflow id {transition_id(scope)} only, this run has "
            f"{info.workflow_id}: start it again with --workflow-id {transition_id(scope)}"
        )


class Transition:
    """Base of the workflows that change a scope."""

    def __init__(self) -> None:
        self._table: dict[str, StepReport] = {}
        self._results: dict[str, StepResult] = {}
        self._abort: str | None = None
        self._past_return = False
        self._undoing = False
        self._headline = ""
        self._operation: Operation | None = None
        self._superseded: str | None = None
        self._holding: Holding | None = None

    # --- what people can ask ----------------------------------------------------------------------------------------

    @workflow.update(name="abort", description="Undo the operation; refused once the handover is scheduled.")
    async def abort(self, request: AbortRequest) -> str:
        self._abort = f"aborted by {request.by or 'somebody'}" + (f": {request.reason}" if request.reason else "")
        return "the operation is being undone"

    @abort.validator
    def _may_abort(self, request: AbortRequest) -> None:
        if refused := self._no_abort():
            raise ApplicationError(refused, type="PastReturn", non_retryable=True)

    def _no_abort(self) -> str:
        """Why nobody may abort now; "" when they may."""
        if self._undoing:
            return "the operation is being undone already"
        if self._past_return:
            return "the handover is scheduled: from here the operation only goes forward. Switch back afterwards"
        return ""

    @workflow.signal(name="superseded", description="The lease was taken over: end, unless the handover is done.")
    def superseded(self, why: str) -> None:
        if self._undoing or not self._past_return:
            self._superseded = why

    @workflow.query(name="holding", description="What a failover waits to have accepted; null when it does not.")
    def report_holding(self) -> Holding | None:
        return self._holding

    @workflow.query(name="steps", description="Every step with its state, times and counts.")
    def report_steps(self) -> list[StepReport]:
        return list(self._table.values())

    # --- one step ---------------------------------------------------------------------------------------------------

    async def _do(
        self,
        step: Step,
        method: Callable[[Any, A], Awaitable[R]],
        argument: A,
        policy: workflow.ActivityConfig,
        *,
        abortable: bool = False,
    ) -> R:
        """Run one step under its own name and id; with `abortable`, an abort cancels it.

        Raises: ActivityError when it failed for good, Aborted, Superseded.
        """
        if self._superseded and not self._past_return:
            raise Superseded(self._superseded)
        if abortable and self._abort:
            raise Aborted(self._abort)
        title = self._title(step)
        began = workflow.now()
        self._show(step, StepState.NOW, began)
        # The SDK's overloads tell sync from async methods by types that a generic helper cannot repeat.
        start: Callable[..., workflow.ActivityHandle[R]] = workflow.start_activity_method
        handle = start(method, argument, activity_id=step.name, summary=title, **policy)
        if abortable:
            await workflow.wait_condition(lambda: handle.done() or self._abort is not None)
            if not handle.done():
                handle.cancel()
        try:
            result = await handle
        except (ActivityError, asyncio.CancelledError) as error:
            self._show(step, StepState.FAILED, began, note=reason(error))
            if abortable and self._abort:
                raise Aborted(self._abort) from error
            raise
        if isinstance(result, StepResult):
            self._results[step.name] = result
            self._show(step, StepState.DONE, began, note=result.note, effect=result.took)
        else:
            self._show(step, StepState.DONE, began)
        return result

    async def _can_stop(
        self, step: Step, method: Callable[[Any, A], Awaitable[R]], argument: A, policy: workflow.ActivityConfig
    ) -> R:
        """`_do`, for the steps before the handover: an abort cancels them."""
        return await self._do(step, method, argument, policy, abortable=True)

    def _title(self, step: Step) -> str:
        operation = self._operation
        if operation is None:
            return step.title.replace("{source}", "the source").replace("{target}", "the target")
        return step.title.format(source=operation.source, target=operation.target)

    def _show(
        self, step: Step, state: StepState, began: Any = None, note: str = "", effect: timedelta | None = None
    ) -> None:
        self._table[step.name] = StepReport(
            name=step.name,
            title=self._title(step),
            state=state,
            started=began,
            duration=workflow.now() - began if began and state is not StepState.NOW else None,
            effect=effect,
            note=note,
            in_outage=step.in_outage,
        )
        self._details()

    def _expect(self, expected: tuple[Step, ...]) -> None:
        """Show the steps that are to come as pending."""
        for step in expected:
            self._show(step, StepState.PENDING)

    def _details(self) -> None:
        rows = [
            _row(str(n), row.title, MARKS[row.state], _ms(row.duration), row.note)
            for n, row in enumerate(self._table.values(), 1)
        ]
        head = [_row("", "step", "state", "ms", ""), "|---|---|---|--:|---|"]
        workflow.set_current_details("\n".join([self._headline, "", *head, *rows]))

    def _phase(self, phase: str, headline: str) -> None:
        self._headline = headline
        workflow.upsert_search_attributes([PHASE.value_set(phase)])
        self._details()

    # --- parts of an operation --------------------------------------------------------------------------------------

    async def _forward(self, operation: Operation, entry: EntryRef | None) -> TransitionReport:
        """Everything after the handover. Each step is idempotent: one that reads back as done is passed quickly."""
        self._operation = operation
        self._past_return = True
        order = StepInput(operation=operation, entry=entry)
        # Producers first, then consumers, then the mirror: each is work for the machines that the ones before wait for.
        await self._do(steps.OPEN, FenceActivities.open, order, policies.FORWARD)
        await self._do(steps.FLIP, EndpointActivities.flip, order, policies.FORWARD)
        await self._do(steps.PLACE, GroupActivities.place, order, policies.READING)
        await self._do(steps.OPEN_GROUPS, FenceActivities.let_groups_in, order, policies.FORWARD)
        await self._do(steps.RETIRE, MirrorActivities.retire, order, policies.FORWARD)
        await self._do(steps.SEED, MirrorActivities.seed, order, policies.FORWARD)
        await self._do(steps.VERIFY, StatusActivities.verify, order, policies.FORWARD)
        # Only now: the checkpoint connector of the new direction writes group offsets on the old side, which the
        # placing of the groups reads, and the mirror's writes there would look like a tail.
        await self._do(steps.START, MirrorActivities.start, order, policies.FORWARD)
        await self._do(steps.FINISH, LeaseActivities.finish, order, policies.FORWARD)
        workflow.upsert_search_attributes([ACTIVE.value_set(operation.target)])
        self._phase("Done", f"**{operation.target} is active**, epoch {operation.epoch + 1}")
        return self._report(operation, Outcome.DONE, entry=entry)

    async def _undo(self, operation: Operation) -> bool:
        """Return everything to how it was, in reverse. False when the handover had committed: then only forward."""
        self._operation = operation
        self._undoing = True
        self._phase("Undoing", f"undoing: {operation.source} stays active")
        order = StepInput(operation=operation)
        undo = policies.FORWARD
        reopened: ReopenResult = await self._do(steps.REOPEN_LEASE, LeaseActivities.reopen, order, undo)
        if reopened.moved:
            self._undoing = False
            return False
        if reopened.begun:
            await self._do(steps.REOPEN, FenceActivities.reopen, order, undo)
            await self._do(steps.THAW, FenceActivities.thaw, order, undo)
            await self._do(steps.RESTORE, MirrorActivities.restore, order, undo)
            await self._do(steps.RESUME_CHECKPOINT, MirrorActivities.resume_checkpoint, order, undo)
            await self._do(steps.FINISH, LeaseActivities.finish, order, undo)
        for step in steps.SWITCHOVER:
            row = self._table.get(step.name)
            if row is not None and step is not steps.FINISH:
                state = StepState.UNDONE if row.state is StepState.DONE else row.state
                state = StepState.SKIPPED if state is StepState.PENDING else state
                self._table[step.name] = row.model_copy(update={"state": state})
        workflow.upsert_search_attributes([ACTIVE.value_set(operation.source)])
        self._phase("AsBefore", f"**everything is as before**: {operation.source} is active")
        return True

    async def _settle_leftover(self, scope: str) -> tuple[str, ...]:
        """Finish or undo an operation whose run was ended from outside; say so. By what the lease says it stands."""
        found: LeftoverResult = await self._do(steps.LEFTOVER, LeaseActivities.leftover, scope, policies.LOOK)
        operation = found.operation
        if operation is None:
            return ()
        if operation.kind is OperationKind.FAILOVER:
            self._found_failover(operation)
        workflow.logger.warning("operation %s of scope %s was left unfinished", operation.id, scope)
        named: tuple[str, ...] = ()
        if not found.moved and await self._undo(operation):
            said = f"undid {operation.id} ({operation.source} to {operation.target}), left before its handover"
        else:
            if found.entry is None:  # the handover committed between the look and the undo
                found = await self._do(steps.LEFTOVER, LeaseActivities.leftover, scope, policies.LOOK)
            report = await self._forward(operation, found.entry)
            said = f"finished {operation.id} ({operation.source} to {operation.target}), left after its handover"
            named = _losses(report)
        self._table = {}
        self._results = {}
        self._operation = None
        self._past_return = self._undoing = False
        return (said, *named)

    def _found_failover(self, operation: Operation) -> NoReturn:
        """A failover goes forward by its own steps, and may have something to ask."""
        raise PlanRefusedError(
            f"the failover {operation.id} to {operation.target} is unfinished. Finish it first: dcdr failover "
            f"{operation.scope} --to {operation.target}"
        )

    def _noticed(self) -> tuple[str, ...]:
        """Warnings of the steps themselves; preflight's own come first in the report."""
        drained, verified = self._results.get(steps.DRAIN.name), self._results.get(steps.VERIFY.name)
        found = []
        if drained and (lost := drained.counts.get("lost_to_retention")):
            found.append(f"{lost} partitions lost records to retention before they were copied")
        if isinstance(verified, VerifyResult) and (n := verified.counts.get("tail_partitions", 0)) > len(verified.tail):
            found.append(f"the tail has {n} partitions, the first {len(verified.tail)} are listed")
        return tuple(found)

    def _report(
        self, operation: Operation, outcome: Outcome, *, why: str = "", entry: EntryRef | None = None
    ) -> TransitionReport:
        done = outcome is Outcome.DONE
        closed, flipped = self._results.get(steps.CLOSE.name), self._results.get(steps.FLIP.name)
        outage = None
        if closed and flipped and done:
            outage = (flipped.started + flipped.took) - (closed.started + closed.took)
        groups = self._results.get(steps.PLACE.name)
        transactions = self._results.get(steps.TRANSACTIONS.name)
        verified = self._results.get(steps.VERIFY.name)
        cut, closing = self._results.get(steps.CUT.name), self._results.get(steps.CLOSE_MIRROR.name)
        counts = cut.counts if cut else {}
        return TransitionReport(
            scope=operation.scope,
            operation_id=operation.id,
            source=operation.source,
            target=operation.target,
            outcome=outcome,
            epoch=operation.epoch + 1 if done else operation.epoch,
            active=operation.target if done else operation.source,
            why=why,
            ledger=entry,
            topics=counts.get("topics", 0),
            partitions=counts.get("partitions", 0),
            records_at_cut=counts.get("offsets", 0),
            verdicts={v: closing.counts[v] for v in Verdict if closing.counts.get(v)} if closing else {},
            groups=groups.groups if isinstance(groups, GroupsResult) else (),
            transactions_fenced=tuple(
                name for part in (transactions, cut) if isinstance(part, TransactionsResult) for name in part.fenced
            ),
            tail=verified.tail if isinstance(verified, VerifyResult) else (),
            warnings=self._noticed(),
            producers_left=verified.producers if isinstance(verified, VerifyResult) else 0,
            kind=operation.kind,
            outage=outage,
            steps=tuple(self._table.values()),
        )


def _losses(report: TransitionReport) -> tuple[str, ...]:
    """What a person must know of an operation whose report nobody waits for any more."""
    name = report.operation_id
    found = [
        f"{name}: TAIL on {report.source}: {row.topic}-{row.partition} [{row.first}, {row.end})" for row in report.tail
    ]
    found += [
        f"{name}: group {group.group}: {group.verdict}, may re-read {group.bound} ({group.note})"
        for group in report.groups
        if group.verdict is GroupVerdict.APPROXIMATE
    ]
    more = len(found) - LISTED
    return (*found[:LISTED], *([f"{name}: and {more} more"] if more > 0 else []))


async def together(*parts: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run side by side; wait for all of them, then raise the first failure, so that none still acts behind our back."""
    results = await asyncio.gather(*parts, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def unstoppable(
    body: Coroutine[Any, Any, R], on_cancel: Callable[[], None], leave: Callable[[], str | None] = lambda: None
) -> R:
    """Run `body` to its end: a cancellation of the workflow becomes a request (`on_cancel`), never a half-done step.

    Raises: Superseded as soon as `leave` says why; `body` is left where it stands, and what it had running learns from
    its next heartbeat that nobody waits for it any more.
    """
    task = asyncio.ensure_future(body)
    while True:
        try:
            await workflow.wait_condition(lambda: task.done() or leave() is not None)
        except asyncio.CancelledError:
            if task.done():
                raise
            on_cancel()
            continue
        if task.done():
            return task.result()
        raise Superseded(leave())


def was_superseded(error: BaseException) -> bool:
    """Whether a step failed because the lease belongs to another operation or epoch by now."""
    cause = error.cause if isinstance(error, ActivityError) else None
    return isinstance(cause, ApplicationError) and cause.type == SUPERSEDED


def reason(error: BaseException) -> str:
    """The innermost message of a failed activity: what the step itself said."""
    inner: BaseException = error
    while getattr(inner, "cause", None) is not None:
        inner = inner.cause  # type: ignore[attr-defined]
    return getattr(inner, "message", None) or str(inner) or type(inner).__name__


def _row(*cells: str) -> str:
    """A row of a Markdown table. The UI sets no space between columns, so the cells bring their own."""
    return "|" + "|".join(f"\u00a0{cell}\u00a0" for cell in cells) + "|"


def _ms(duration: timedelta | None) -> str:
    return "" if duration is None else f"{duration.total_seconds() * 1000:.0f}"
