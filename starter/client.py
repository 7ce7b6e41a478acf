"""Start, watch and abort operations from a program; the command line is one such program."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from dcdr.errors import ConflictError, InvalidRequestError, PermanentError, PlanRefusedError, UnreachableError
from dcdr.model import AbortRequest, RecoveryRequest, StepReport, SwitchoverRequest, TransitionReport
from workflows.recovery import RecoveryWorkflow
from workflows.switchover import SwitchoverWorkflow
from workflows.temporal import TASK_QUEUE, TASK_TIMEOUT
from workflows.transition import transition_id

POLL_SECONDS = 0.5
"""Each look at the steps is a task for the worker, which is busy with the steps."""
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
    client: Client, request: SwitchoverRequest, *, task_queue: str = TASK_QUEUE
) -> WorkflowHandle[SwitchoverWorkflow, TransitionReport]:
    """Start a switchover.

    Raises: ConflictError when a transition of this scope is running already.
    """
    try:
        return await client.start_workflow(
            SwitchoverWorkflow.run,
            request,
            id=transition_id(request.scope),
            task_queue=task_queue,
            task_timeout=TASK_TIMEOUT,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            static_summary=f"switchover of {request.scope} to {request.target}",
            static_details=request.reason,
        )
    except WorkflowAlreadyStartedError as error:
        raise ConflictError(
            f"a transition of {request.scope} is running ({transition_id(request.scope)}, run {error.run_id}); "
            f"watch it with: dcdr status {request.scope}"
        ) from error


async def recover(client: Client, request: RecoveryRequest, *, task_queue: str = TASK_QUEUE) -> list[str]:
    """Finish or undo what was left behind, and wait for it.

    Raises: ConflictError when a transition of this scope is running, InvalidRequestError when there is no such scope,
    PermanentError with the step's own words when the recovery failed; the finder of a worker tries it again.
    """
    try:
        return await client.execute_workflow(
            RecoveryWorkflow.run,
            request,
            id=transition_id(request.scope),
            task_queue=task_queue,
            task_timeout=TASK_TIMEOUT,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        )
    except WorkflowAlreadyStartedError as error:
        raise ConflictError(f"a transition of {request.scope} is running: {transition_id(request.scope)}") from error
    except WorkflowFailureError as error:
        cause = _innermost(error)
        if isinstance(cause, ApplicationError):
            kind = InvalidRequestError if cause.type in REFUSALS else PermanentError
            raise kind(cause.message) from error
        raise PermanentError(f"the recovery of {request.scope} ended early: {cause}") from error


async def abort(client: Client, scope: str, request: AbortRequest) -> str:
    """Ask for the undo of the running transition.

    Raises: PlanRefusedError with the reason when it is too late, InvalidRequestError when nothing runs.
    """
    handle = client.get_workflow_handle_for(SwitchoverWorkflow.run, transition_id(scope))
    try:
        answer: str = await handle.execute_update("abort", request, result_type=str)
        return answer
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise InvalidRequestError(f"no transition of {scope} is running: there is nothing to abort") from error
        raise UnreachableError(f"Temporal did not take the abort: {error}") from error
    except Exception as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, ApplicationError):
            raise PlanRefusedError(cause.message) from error
        raise


async def watch(handle: WorkflowHandle[SwitchoverWorkflow, TransitionReport]) -> AsyncIterator[list[StepReport]]:
    """Yield the step table whenever it changes, until the run ends."""
    shown: list[StepReport] = []
    while True:
        status = (await handle.describe()).status
        try:
            table = await handle.query(SwitchoverWorkflow.report_steps)
        except RPCError:  # no worker answers just now: the run itself goes on
            table = shown
        if table != shown:
            shown = table
            yield table
        if status is not WorkflowExecutionStatus.RUNNING:
            return
        await asyncio.sleep(POLL_SECONDS)


async def ended(handle: WorkflowHandle[SwitchoverWorkflow, TransitionReport]) -> Ended:
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
