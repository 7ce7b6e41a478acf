"""Recovery: finish or undo an operation whose run was ended from outside."""

from __future__ import annotations

from temporalio import workflow

from workflows.transition import SCOPE, Transition, check_identity, unstoppable

with workflow.unsafe.imports_passed_through():
    from dcdr.errors import DcdrError
    from dcdr.model import RecoveryRequest


@workflow.defn(name="Recovery", failure_exception_types=[DcdrError])
class RecoveryWorkflow(Transition):
    """What a worker starts when it finds an operation id in the lease past its deadline; a person may too."""

    @workflow.run
    async def run(self, request: RecoveryRequest) -> list[str]:
        check_identity(request)
        self._past_return = True  # it already decides between undo and forward by what reads back
        return await unstoppable(self._recover(request), lambda: None)

    async def _recover(self, request: RecoveryRequest) -> list[str]:
        workflow.upsert_search_attributes([SCOPE.value_set(request.scope)])
        self._phase("Recovering", f"recovery of {request.scope}")
        return list(await self._settle_leftover(request.scope)) or ["there was no unfinished operation"]
