"""Whatever type nobody has: fail at once with the types there are, instead of a run that hangs for ever."""

from __future__ import annotations

from collections.abc import Sequence

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

KNOWN = ("Switchover", "Failover", "Recovery", "LeaseWatch", "Tail")


@workflow.defn(dynamic=True)
class UnknownWorkflow:
    """Catches every workflow type that is not registered."""

    @workflow.run
    async def run(self, args: Sequence[RawValue]) -> None:
        raise ApplicationError(
            f"there is no workflow type {workflow.info().workflow_type!r} here; there are {', '.join(KNOWN)}",
            type="UnknownWorkflow",
            non_retryable=True,
        )
