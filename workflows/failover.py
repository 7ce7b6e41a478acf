"""Failover: the source is lost, the lease taken over. Shut the mirror out, write down where both sides part, open."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from workflows.transition import (
    ACTIVE,
    SCOPE,
    Superseded,
    Transition,
    check_identity,
    unstoppable,
    was_superseded,
)

with workflow.unsafe.imports_passed_through():
    from activities.endpoint import EndpointActivities
    from activities.failover import FailoverActivities
    from activities.fence import FenceActivities
    from activities.lease import LeaseActivities
    from activities.mirror import MirrorActivities
    from dcdr import loss
    from dcdr.errors import DcdrError, PlanRefusedError
    from dcdr.model import (
        EntryRef,
        FailoverRequest,
        ForkResult,
        GroupsResult,
        Holding,
        LossAcceptance,
        Operation,
        Outcome,
        StepInput,
        TakeoverResult,
        TransitionReport,
    )
    from workflows import policies, steps

ROUNDS = 5
"""How often a failover looks again at a lease that did not let it go on. Each time somebody else wrote it meanwhile."""
SPLIT = (
    ("decide", steps.TAKE_UP),
    ("fence", steps.SHUT_MIRROR),
    ("record", steps.RECORD),
    ("open", steps.OPEN),
    ("flip", steps.FLIP),
)


@workflow.defn(name="Failover", failure_exception_types=[DcdrError])
class FailoverWorkflow(Transition):
    """An unplanned failover of one scope to `target`, from a takeover on. There is no way back but handing the lease
    back before the target opens, which a person does; then this ends as superseded."""

    def __init__(self) -> None:
        super().__init__()
        self._acceptance: LossAcceptance | None = None
        self._accepted_by = ""
        self._accepted_at: datetime | None = None

    # --- what people can ask ----------------------------------------------------------------------------------------

    @workflow.update(name="accept_loss", description="Accept the loss bound that the failover holds for; valid once.")
    async def accept_loss(self, acceptance: LossAcceptance) -> str:
        self._acceptance = acceptance
        lost = "an unknown number of" if acceptance.records is None else f"at most {acceptance.records}"
        return f"accepted: {lost} records may be lost. The failover goes on"

    @accept_loss.validator
    def _may_accept(self, acceptance: LossAcceptance) -> None:
        refused = ""
        if self._acceptance is not None or (self._holding is None and self._accepted_by):
            refused = f"a loss was accepted already, by {self._accepted_by or 'somebody'}: an acceptance counts once"
        elif self._holding is None:
            refused = "the failover does not wait for an acceptance. Look at it with: dcdr status SCOPE"
        elif workflow.now() >= self._holding.until:
            refused = "the bound was told too long ago and is being computed again: ask for it once more"
        else:
            refused = loss.accepts(acceptance, self._holding.bound)
        if refused:
            raise ApplicationError(refused, type="NotAccepted", non_retryable=True)

    def _no_abort(self) -> str:
        return (
            "a failover is not aborted: its source is lost. Before the target opens the lease can be handed back "
            "(dcdr lease handover SCOPE --to DC), and the failover ends by itself; after that it only goes forward"
        )

    # --- the run ----------------------------------------------------------------------------------------------------

    @workflow.run
    async def run(self, request: FailoverRequest) -> TransitionReport:
        check_identity(request)
        return await unstoppable(self._fail_over(request), lambda: None)

    async def _fail_over(self, request: FailoverRequest) -> TransitionReport:
        workflow.upsert_search_attributes([SCOPE.value_set(request.scope)])
        self._phase("Deciding", f"failover of {request.scope} to {request.target}: looking at the lease")
        seen = await self._taken_over(request)
        operation: Operation | None = None
        for _ in range(ROUNDS):
            if seen.operation is None:
                break
            operation = self._operation = seen.operation
            try:
                return await self._through(operation, seen)
            except Superseded:
                pass
            except ActivityError as error:
                if not (was_superseded(error) or _refused(error)):
                    raise _own_words(error) from None
            # Somebody else wrote the lease: it was handed back, taken over, or opened by the target's own agent.
            self._superseded = None
            seen = await self._look(request)
        else:
            raise PlanRefusedError(
                f"the lease of {request.scope} changed {ROUNDS} times under this failover: {seen.note}"
            )
        if operation is None:
            raise PlanRefusedError(seen.refused or "there is nothing to fail over")
        return await self._ends_superseded(operation, seen)

    async def _look(self, request: FailoverRequest) -> TakeoverResult:
        return await self._do(steps.OBSERVE, FailoverActivities.observe, request, policies.FORWARD)

    async def _taken_over(self, request: FailoverRequest) -> TakeoverResult:
        """What the lease says once the target holds it, which a person may have to ask for.

        Raises: PlanRefusedError with the reason when it does not.
        """
        try:
            seen = await self._do(steps.OBSERVE, FailoverActivities.observe, request, policies.LOOK)
            if seen.ask is not None:
                self._operation = seen.ask
                self._phase("Asking", f"failover of {request.scope}: {request.target} is asked to take the lease over")
                order = StepInput(operation=seen.ask)
                await self._do(steps.ASK, FailoverActivities.ask_takeover, order, policies.ASKING)
                seen = await self._look(request)
        except ActivityError as error:
            raise _own_words(error) from None
        except Superseded:  # the watch saw a takeover first, this one or another: the lease says which
            self._superseded = None
            seen = await self._look(request)
        return seen

    async def _through(self, operation: Operation, seen: TakeoverResult) -> TransitionReport:
        """Every step, in order. One that reads back as done is passed quickly, so that an operation which another run
        began, or the target's agent, goes on here."""
        order = StepInput(operation=operation)
        self._expect(steps.FAILOVER)
        workflow.upsert_search_attributes([ACTIVE.value_set(operation.source)])
        self._phase("FailingOver", f"failover of {operation.scope}: {operation.source} to {operation.target}")
        forward = policies.FORWARD
        await self._do(steps.TAKE_UP, FailoverActivities.take_up, order, forward)
        await self._do(steps.SHUT_MIRROR, FailoverActivities.fence, order, forward)
        fork = await self._within_budget(order, seen.acceptance_valid)
        order = StepInput(operation=operation, entry=fork.entry)
        await self._do(steps.OPEN_UP, FailoverActivities.open_up, order, forward)
        # The lease says that the target is open: from here there is only forward.
        self._past_return = True
        await self._do(steps.OPEN, FenceActivities.open, order, forward)
        await self._do(steps.FLIP, EndpointActivities.flip, order, forward)
        # Nothing has moved a group since the mirror was shut out, so that it is looked at outside the outage.
        await self._do(steps.POSITIONS, FailoverActivities.groups, order, forward)
        await self._do(steps.OPEN_GROUPS, FenceActivities.let_groups_in, order, forward)
        await self._do(steps.RETIRE, MirrorActivities.retire, order, forward)
        await self._do(steps.CLOSE_SOURCE, FailoverActivities.close_source, order, forward)
        await self._do(steps.FINISH, LeaseActivities.finish, order, forward)
        workflow.upsert_search_attributes([ACTIVE.value_set(operation.target)])
        self._phase(
            "Done", f"**{operation.target} is active**, epoch {operation.epoch + 1}. {loss.describe(fork.bound)}"
        )
        return self._told(operation, seen, Outcome.DONE, entry=fork.entry)

    # --- the budget -------------------------------------------------------------------------------------------------

    async def _within_budget(self, order: StepInput, valid: timedelta) -> ForkResult:
        """Where both sides part, once what is lost is inside the budget or accepted."""
        while True:
            fork = await self._do(steps.RECORD, FailoverActivities.record, order, policies.FORWARD)
            if not fork.hold or await self._accepted(order, fork, valid):
                return fork
            # Told too long ago to be accepted: the bound is computed again, and asked for anew.

    async def _accepted(self, order: StepInput, fork: ForkResult, valid: timedelta) -> bool:
        """Wait for somebody to accept the loss. False when nobody did while the bound counted.

        Raises: Superseded when the lease moved on meanwhile, or somebody says so.
        """
        operation, now = order.operation, workflow.now()
        self._holding = Holding(
            source=operation.source,
            target=operation.target,
            bound=fork.bound,
            why=fork.hold,
            since=now,
            until=now + valid,
        )
        records = "--unknown" if fork.bound.records is None else f"--records {fork.bound.records}"
        self._phase(
            "Holding",
            f"**holding**: {fork.hold}.\n\nAccept it until {self._holding.until:%H:%M:%S} UTC with "
            f"`dcdr accept-loss {operation.scope} {records} --reason ...` (Update `accept_loss`), or bring "
            f"{operation.source} back and hand the lease back: `dcdr lease handover {operation.scope} "
            f"--to {operation.source}`",
        )
        moved = asyncio.create_task(self._do(steps.STANDS, FailoverActivities.stands, order, policies.STANDING))
        told = True
        try:
            await workflow.wait_condition(
                lambda: self._acceptance is not None or self._superseded is not None or moved.done(), timeout=valid
            )
        except TimeoutError:
            told = False
        # Not in a `finally`: a run that is dropped from a worker's memory while it holds must not wait there.
        self._holding = None
        moved.cancel()
        await asyncio.gather(moved, return_exceptions=True)
        self._table.pop(steps.STANDS.name, None)
        if not told:
            return False
        acceptance = self._taken_acceptance()
        if acceptance is None:
            raise Superseded(self._superseded or "the lease moved on")
        self._accepted_by = _signature(acceptance)
        self._accepted_at = workflow.now()
        self._phase("FailingOver", f"failover of {operation.scope}: the loss was accepted by {self._accepted_by}")
        return True

    def _taken_acceptance(self) -> LossAcceptance | None:
        """What was accepted, once: it counts for the bound that was asked for, and for no other."""
        acceptance, self._acceptance = self._acceptance, None
        return acceptance

    # --- the end ----------------------------------------------------------------------------------------------------

    async def _ends_superseded(self, operation: Operation, seen: TakeoverResult) -> TransitionReport:
        """The lease moved on before the target opened. Handed back, the mirror runs again as before."""
        self._past_return = True
        why = f"{seen.note}: this failover may do nothing more"
        if seen.holder == operation.source:
            order = StepInput(operation=operation)
            brought = await self._do(steps.BRING_BACK, FailoverActivities.restore, order, policies.FORWARD)
            why = f"{seen.note}; {brought.note}"
            workflow.upsert_search_attributes([ACTIVE.value_set(operation.source)])
        self._phase("Superseded", f"**superseded**: {why}")
        report = self._told(operation, seen, Outcome.SUPERSEDED, why=why)
        return report.model_copy(update={"active": seen.holder, "epoch": seen.epoch})

    def _told(
        self,
        operation: Operation,
        seen: TakeoverResult,
        outcome: Outcome,
        *,
        why: str = "",
        entry: EntryRef | None = None,
    ) -> TransitionReport:
        fork, groups = self._results.get(steps.RECORD.name), self._results.get(steps.POSITIONS.name)
        rto = self._split(seen) if outcome is Outcome.DONE else {}
        counts = fork.counts if fork else {}
        return self._report(operation, outcome, why=why, entry=entry).model_copy(
            update={
                "topics": counts.get("topics", 0),
                "partitions": counts.get("partitions", 0),
                "groups": groups.groups if isinstance(groups, GroupsResult) else (),
                "loss": fork.bound if isinstance(fork, ForkResult) else None,
                "accepted_by": self._accepted_by,
                "rto": rto,
                "outage": sum(rto.values(), timedelta()) if "detect" in rto else None,
                "warnings": ("another run began it, or an agent: the times are of what was left",)
                if seen.adopted
                else (),
            }
        )

    def _split(self, seen: TakeoverResult) -> dict[str, timedelta]:
        """The time without writes by what it went to: each from the end of the one before it, by the steps' clocks."""
        found: dict[str, timedelta] = {}
        at = seen.acquired_at
        if seen.acquired_after_s is not None:
            found["detect"] = timedelta(seconds=seen.acquired_after_s)
        for name, step in SPLIT:
            result = self._results.get(step.name)
            if result is None:
                continue
            if name == "open" and self._accepted_at is not None and at is not None:
                found["hold"] = max(self._accepted_at - at, timedelta())
                at = self._accepted_at
            ended = result.started + result.took
            if at is not None:
                found[name] = max(ended - at, timedelta())
            at = ended
        return found


def _signature(acceptance: LossAcceptance) -> str:
    """Who accepted what, for the report."""
    lost = "an unknown number of records" if acceptance.records is None else f"{acceptance.records} records"
    return f"{acceptance.by or 'somebody'} ({lost}" + (f": {acceptance.reason})" if acceptance.reason else ")")


def _refused(error: ActivityError) -> bool:
    """The lease's rules did not allow a step: its record is not the one that was planned from."""
    return isinstance(error.cause, ApplicationError) and error.cause.type == PlanRefusedError.__name__


def _own_words(error: ActivityError) -> BaseException:
    """What the step said, instead of "Activity task failed" above it."""
    return error.cause if isinstance(error.cause, ApplicationError) else error
