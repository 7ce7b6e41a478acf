"""Switchover: close the fence, drain, hand over, open, flip, turn the mirror round. Zero acknowledged records lost."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from workflows.transition import (
    ACTIVE,
    SCOPE,
    SUPERSEDED,
    Aborted,
    Superseded,
    Transition,
    check_identity,
    reason,
    together,
    unstoppable,
    was_superseded,
)

with workflow.unsafe.imports_passed_through():
    from activities.cut import CutActivities
    from activities.fence import FenceActivities
    from activities.groups import GroupActivities
    from activities.lease import LeaseActivities
    from activities.mirror import MirrorActivities
    from activities.status import StatusActivities
    from dcdr.errors import DcdrError
    from dcdr.model import EntryRef, Operation, Outcome, StepInput, SwitchoverRequest, Timing, TransitionReport
    from dcdr.plan import plan_switchover
    from workflows import policies, steps


@workflow.defn(name="Switchover", failure_exception_types=[DcdrError])
class SwitchoverWorkflow(Transition):
    """A planned, drained switchover of one scope to `target`."""

    @workflow.run
    async def run(self, request: SwitchoverRequest) -> TransitionReport:
        check_identity(request)
        try:
            return await unstoppable(self._switch(request), self._cancelled, lambda: self._superseded)
        except Superseded as why:
            return self._ends_superseded(str(why))
        except ActivityError as error:
            if self._operation is None or not was_superseded(error):
                raise
            return self._ends_superseded(reason(error))

    def _ends_superseded(self, why: str) -> TransitionReport:
        """Another operation goes on from what the lease says now; this one leaves everything as it is."""
        operation = self._operation
        if operation is None:  # nothing was begun, so there is nothing to report of
            raise ApplicationError(f"superseded: {why}", type=SUPERSEDED, non_retryable=True)
        self._phase("Superseded", f"**superseded**: {why}")
        return self._report(operation, Outcome.SUPERSEDED, why=why)

    def _cancelled(self) -> None:
        if not self._past_return:
            self._abort = self._abort or "the workflow was cancelled"

    async def _switch(self, request: SwitchoverRequest) -> TransitionReport:
        workflow.upsert_search_attributes([SCOPE.value_set(request.scope)])
        self._phase("Preflight", f"switchover of {request.scope} to {request.target}: preflight")
        try:
            mirrors = await self._do(steps.MIRRORS, StatusActivities.mirrors, request, policies.LOOK)
            # A dry run changes nothing: what was left behind is a finding of its preflight.
            recovered = () if request.dry_run else await self._settle_leftover(request.scope)
            preflight = await self._do(steps.PREFLIGHT, StatusActivities.preflight, request, policies.LOOK)
        except ActivityError as error:
            # The run fails with what the step said, not with "Activity task failed" above it.
            raise (error.cause if isinstance(error.cause, ApplicationError) else error) from None
        plan = plan_switchover(request, preflight, mirrors, workflow.info().run_id)
        operation = self._operation = plan.operation

        def whole(report: TransitionReport) -> TransitionReport:
            warnings = plan.warnings + report.warnings
            return report.model_copy(update={"left_out": plan.left_out, "warnings": warnings, "recovered": recovered})

        workflow.upsert_search_attributes([ACTIVE.value_set(operation.source)])
        if request.dry_run:
            self._expect(steps.SWITCHOVER)
            planned = self._report(operation, Outcome.PLANNED)
            return whole(planned.model_copy(update={"groups": preflight.skipped_groups}))

        self._expect(steps.SWITCHOVER)
        self._phase("Draining", f"switchover of {request.scope}: {operation.source} to {operation.target}")
        try:
            entry = await self._to_the_handover(operation, plan.timing)
        except (ActivityError, Aborted) as error:
            # The lease decides: a lost answer may hide a handover that committed. `_past_return` stays as it is, so
            # that nobody is promised an undo which the lease may turn into a way forward.
            why = reason(error)
            if await self._undo(operation):
                report = whole(self._report(operation, Outcome.AS_BEFORE, why=why))
                if isinstance(error, Aborted):
                    return report
                raise ApplicationError(
                    f"undone, everything is as before: {why}", report, type="AsBefore", non_retryable=True
                ) from error
            entry = (await self._do(steps.LEFTOVER, LeaseActivities.leftover, request.scope, policies.LOOK)).entry
        # The lease names the target: from here there is only forward.
        return whole(await self._forward(operation, entry))

    async def _to_the_handover(self, operation: Operation, timing: Timing) -> EntryRef | None:
        order = StepInput(operation=operation)
        await self._can_stop(steps.BEGIN, LeaseActivities.begin, order, policies.STEP)
        await self._can_stop(steps.STOP_CHECKPOINT, MirrorActivities.stop_checkpoint, order, policies.PREPARE)
        await together(
            self._can_stop(steps.CLOSE, FenceActivities.close, order, policies.STEP),
            self._can_stop(steps.FREEZE, FenceActivities.freeze, order, policies.STEP),
        )
        while True:
            _, cut, _ = await together(
                self._can_stop(steps.TRANSACTIONS, CutActivities.fence_transactions, order, policies.STEP),
                self._can_stop(steps.CUT, CutActivities.take, order, policies.STEP),
                self._can_stop(steps.GROUPS, GroupActivities.keep, order, policies.STEP),
            )
            at_cut = StepInput(operation=operation, entry=cut.entry)
            await self._can_stop(steps.DRAIN, CutActivities.prove, at_cut, policies.drain(timing))
            closed = await self._can_stop(steps.CLOSE_MIRROR, CutActivities.close_mirror, at_cut, policies.STEP)
            ledger = StepInput(operation=operation, entry=closed.entry)
            if self._abort:
                raise Aborted(self._abort)
            self._past_return = True
            handed = await self._do(steps.HAND_OVER, LeaseActivities.hand_over, ledger, policies.STEP)
            if not handed.changed:
                return closed.entry
            # A late record or a new topic: the mirror has to bring it over, so its gate opens and the cut is retaken.
            self._past_return = False
            workflow.logger.warning("changed after the cut, draining again: %s", "; ".join(handed.changed))
            await self._can_stop(steps.RESTORE, MirrorActivities.restore, order, policies.PREPARE)
