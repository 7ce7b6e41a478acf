"""Workflows that stand in for what the watch starts or meets: they wait until they are told to end."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from dcdr.model import FailoverRequest, TailRequest


class Waiting:
    """Base: ends when signalled, and counts how often it was told that it is superseded."""

    def __init__(self) -> None:
        self._end: bool | None = None
        self._superseded = 0

    @workflow.signal(name="end")
    def end(self, well: bool) -> None:
        self._end = well

    @workflow.query(name="superseded")
    def superseded(self) -> int:
        return self._superseded

    async def wait(self) -> str:
        await workflow.wait_condition(lambda: self._end is not None)
        if not self._end:
            raise ApplicationError("ended without finishing", non_retryable=True)
        return "finished"


@workflow.defn(name="Failover")
class StandInFailover(Waiting):
    """Does not heed a supersession."""

    @workflow.run
    async def run(self, request: FailoverRequest) -> str:
        assert request.requested_by == "watch"
        return await self.wait()

    @workflow.signal(name="superseded")
    def told(self, why: str) -> None:
        self._superseded += 1


@workflow.defn(name="Tail")
class StandInTail(Waiting):
    @workflow.run
    async def run(self, request: TailRequest) -> str:
        return await self.wait()


@workflow.defn(name="OtherOperation")
class OtherOperation(Waiting):
    """Something that changes the scope and ends at once when it is superseded."""

    @workflow.run
    async def run(self) -> str:
        return await self.wait()

    @workflow.signal(name="superseded")
    def told(self, why: str) -> None:
        self._superseded += 1
        self._end = True


STAND_INS: tuple[type, ...] = (StandInFailover, StandInTail, OtherOperation)
