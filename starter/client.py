"""Start, watch and abort operations from a program; the command line is one such program."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from dcdr.errors import ConflictError, InvalidRequestError, PermanentError, PlanRefusedError, UnreachableError
from dcdr.model import (
    AbortRequest,
    FailoverRequest,
    Holding,
    LossAcceptance,
    Outcome,
    RecoveryRequest,
    StepReport,
    SwitchoverRequest,
    TransitionReport,
)
from workflows.temporal import TASK_QUEUE, TASK_TIMEOUT
from workflows.transition import transition_id

POLL_SECONDS = 0.5
"""Each look at the steps is a task for the worker, which is busy with the steps."""
HOLD_LOOK_SECONDS = 2.0
REFUSALS = ("PlanRefusedError", "InvalidRequestError", "ValidationError")


@dataclass(frozen=True)
class Ended:
    """How a run ended. `report` is there for "done" and "as before"; `refused`: nothing was changed; `unreachable`:
    a part of the estate gave no answer for as long as the step could wait."""

    report: TransitionReport | None
    refused: bool = False
    unreachable: bool = False
    failure: str = ""


async def start(
    client: Client, request: SwitchoverRequest | FailoverRequest, *, task_queue: str = TASK_QUEUE
) -> WorkflowHandle[Any, TransitionReport]:
    """Start a switchover, or a failover.

    Raises: ConflictError when a transition of this scope is running already.
    """
    unplanned = isinstance(request, FailoverRequest)
    try:
        return await client.start_workflow(
            "Failover" if unplanned else "Switchover",
            request,
            id=transition_id(request.scope),
            task_queue=task_queue,
            result_type=TransitionReport,
            task_timeout=TASK_TIMEOUT,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            static_summary=f"{'failover' if unplanned else 'switchover'} of {request.scope} to {request.target}",
            static_details=request.reason,
        )
    except WorkflowAlreadyStartedError as error:
        raise ConflictError(
            f"a transition of {request.scope} is running ({transition_id(request.scope)}, run {error.run_id}); "
            f"watch it with: dcdr status {request.scope}"
        ) from error


async def recover(client: Client, request: RecoveryRequest, *, task_queue: str = TASK_QUEUE) -> list[str]:
    """Finish or undo what was left behind, and wait for it.

    Returns: what was done, a sentence each; where a failover was left and holds, that it does and how to go on.
    Raises: ConflictError when a transition of this scope is running, InvalidRequestError when there is no such scope,
    PermanentError with the step's own words when the recovery failed; the finder of a worker tries it again.
    """
    try:
        handle: WorkflowHandle[Any, Any] = await client.start_workflow(
            "Recovery",
            request,
            id=transition_id(request.scope),
            task_queue=task_queue,
            task_timeout=TASK_TIMEOUT,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        )
        ending = asyncio.ensure_future(handle.result())
        try:
            while not (await asyncio.wait([ending], timeout=HOLD_LOOK_SECONDS))[0]:
                if (held := await holding(client, request.scope)) is not None:
                    return [f"the failover to {held.target} holds: {held.why}", how_to_accept(request.scope, held)]
            said = ending.result()
        finally:
            ending.cancel()
    except WorkflowAlreadyStartedError as error:
        raise ConflictError(f"a transition of {request.scope} is running: {transition_id(request.scope)}") from error
    except WorkflowFailureError as error:
        cause = _innermost(error)
        if isinstance(cause, ApplicationError):
            kind = InvalidRequestError if cause.type in REFUSALS else PermanentError
            raise kind(cause.message) from error
        raise PermanentError(f"the recovery of {request.scope} ended early: {cause}") from error
    if isinstance(said, list):
        return said
    report = TransitionReport.model_validate(said)  # a failover was left, and the recovery went on as one
    if report.outcome is Outcome.DONE:
        return [f"finished the failover {report.operation_id} ({report.source} to {report.target})"]
    return [f"the failover {report.operation_id} ended as {report.outcome}: {report.why}"]


async def holding(client: Client, scope: str) -> Holding | None:
    """What the scope's failover waits to have accepted; None when it does not, or nobody answers."""
    handle = client.get_workflow_handle(transition_id(scope))
    try:
        held: Holding | None = await handle.query("holding", result_type=Holding | None)  # type: ignore[arg-type]
        return held
    except (RPCError, WorkflowQueryFailedError):  # no worker answers just now, or the run is of an earlier release
        return None


def how_to_accept(scope: str, held: Holding) -> str:
    """The next sentence for somebody who sees a failover hold."""
    records = "--unknown" if held.bound.records is None else f"--records {held.bound.records}"
    return (
        f"accept the loss until {held.until:%Y-%m-%d %H:%M:%S} UTC with: dcdr accept-loss {scope} {records} --reason "
        f"TEXT; or bring {held.source} back and hand the lease back: dcdr lease handover {scope} --to {held.source}"
    )


async def accept_loss(client: Client, scope: str, acceptance: LossAcceptance) -> str:
    """Let a failover that holds go on.

    Raises: PlanRefusedError with the reason when the acceptance does not cover the bound, or nothing holds.
    """
    return await _update(client, scope, "accept_loss", acceptance)


async def abort(client: Client, scope: str, request: AbortRequest) -> str:
    """Ask for the undo of the running transition.

    Raises: PlanRefusedError with the reason when it is too late, InvalidRequestError when nothing runs.
    """
    return await _update(client, scope, "abort", request)


async def _update(client: Client, scope: str, name: str, request: AbortRequest | LossAcceptance) -> str:
    handle = client.get_workflow_handle(transition_id(scope))
    try:
        answer: str = await handle.execute_update(name, request, result_type=str)
        return answer
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            to = "abort" if name == "abort" else "accept"
            raise InvalidRequestError(f"no transition of {scope} is running: there is nothing to {to}") from error
        raise UnreachableError(f"Temporal did not take it: {error}") from error
    except Exception as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, ApplicationError):
            raise PlanRefusedError(cause.message.replace("SCOPE", scope)) from error
        raise


async def watch(handle: WorkflowHandle[Any, Any]) -> AsyncIterator[list[StepReport]]:
    """Yield the step table whenever it changes, until the run ends."""
    shown: list[StepReport] = []
    while True:
        status = (await handle.describe()).status
        try:
            table = await handle.query("steps", result_type=list[StepReport])
        except RPCError:  # no worker answers just now: the run itself goes on
            table = shown
        if table != shown:
            shown = table
            yield table
        if status is not WorkflowExecutionStatus.RUNNING:
            return
        await asyncio.sleep(POLL_SECONDS)


async def ended(handle: WorkflowHandle[Any, TransitionReport]) -> Ended:
    """Wait for the end and say how it came."""
    try:
        return Ended(await handle.result())
    except WorkflowFailureError as error:
        cause = _innermost(error)
        if not isinstance(cause, ApplicationError):
            return Ended(None, failure=f"{type(cause).__name__}: {cause}")
        if cause.type == "AsBefore" and cause.details:
            return Ended(TransitionReport.model_validate(cause.details[0]), failure=cause.message)
        return Ended(
            None,
            refused=cause.type in REFUSALS,
            unreachable=cause.type == UnreachableError.__name__,
            failure=cause.message,
        )


def _innermost(error: WorkflowFailureError) -> BaseException:
    """What made the run fail: a failed step's own error stands below the SDK's "Activity task failed"."""
    cause: BaseException = error.cause
    while isinstance(cause, ActivityError) and cause.cause is not None:
        cause = cause.cause
    return cause
