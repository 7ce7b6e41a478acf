"""Recovery: finish or undo an operation whose run was ended from outside."""

from __future__ import annotations

from typing import NoReturn

from temporalio import workflow
from temporalio.exceptions import ActivityError

from workflows.failover import FailoverWorkflow
from workflows.temporal import TASK_TIMEOUT
from workflows.transition import SCOPE, Transition, check_identity, reason, unstoppable, was_superseded

with workflow.unsafe.imports_passed_through():
    from dcdr.errors import DcdrError
    from dcdr.model import FailoverRequest, Operation, RecoveryRequest


@workflow.defn(name="Recovery", failure_exception_types=[DcdrError])
class RecoveryWorkflow(Transition):
    """What a worker starts when it finds an operation id in the lease past its deadline; a person may too.

    A failover that was left unfinished goes on as one: this run becomes a `Failover`, which may have to ask.
    """

    def __init__(self) -> None:
        super().__init__()
        self._requested_by = ""

    @workflow.run
    async def run(self, request: RecoveryRequest) -> list[str]:
        check_identity(request)
        self._past_return = True  # it already decides between undo and forward by what reads back
        return await unstoppable(self._recover(request), lambda: None)

    async def _recover(self, request: RecoveryRequest) -> list[str]:
        self._requested_by = request.requested_by
        workflow.upsert_search_attributes([SCOPE.value_set(request.scope)])
        self._phase("Recovering", f"recovery of {request.scope}")
        try:
            return list(await self._settle_leftover(request.scope)) or ["there was no unfinished operation"]
        except ActivityError as error:
            if not was_superseded(error):
                raise
            return [f"the lease moved on meanwhile, so nothing more was done: {reason(error)}"]

    def _found_failover(self, operation: Operation) -> NoReturn:
        request = FailoverRequest(
            scope=operation.scope,
            target=operation.target,
            reason=f"recovery of {operation.id}",
            requested_by=self._requested_by,
        )
        workflow.continue_as_new(request, workflow=FailoverWorkflow.run, task_timeout=TASK_TIMEOUT)
