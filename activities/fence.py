"""Close and open the gates of a cluster's users, each confirmed by effect on every broker."""

from __future__ import annotations

import logging

from temporalio import activity

from activities.step import Steps, Stopwatch, ask, expel, settle_groups, settle_users, until_gates
from dcdr.errors import DcdrError
from dcdr.intent import Ask, Intent
from dcdr.lease import Standing
from dcdr.model import Gate, LeaseRecord, OperationKind, StepInput, StepResult
from dcdr.ports import Scope

log = logging.getLogger(__name__)


class FenceActivities(Steps):
    """`close` begins the outage, `open` ends it; `reopen` undoes `close`."""

    @activity.defn(name="fence.close")
    async def close(self, step: StepInput) -> StepResult:
        """Close the source by the record, then by rules; done when the canary is refused by every broker."""
        dc = step.operation.source

        async def correct(record: LeaseRecord) -> None:
            await settle_users(scope.member(dc).fence, record, dc)

        async with self.holding(step.operation, Standing.DRAINING, correct=correct) as scope:
            watch = Stopwatch()
            fence = scope.member(dc).fence
            await ask(scope, Intent(operation=step.operation, ask=Ask.CLOSE))
            await fence.close_users()
            brokers = await until_gates(fence.users_gates, Gate.CLOSED, f"users of {dc}")
            return StepResult(**watch.so_far(), note=f"refused by every broker, {brokers}", counts={"brokers": brokers})

    @activity.defn(name="fence.open")
    async def open(self, step: StepInput) -> StepResult:
        """Let users write on the target; done when every broker accepted the canary."""
        return await self._let_in(step, step.operation.target, Standing.MOVED)

    @activity.defn(name="fence.reopen")
    async def reopen(self, step: StepInput) -> StepResult:
        """Undo `close`: let users write on the source again."""
        return await self._let_in(step, step.operation.source, Standing.REOPENED)

    async def _let_in(self, step: StepInput, dc: str, standing: Standing) -> StepResult:
        async def correct(record: LeaseRecord) -> None:
            await settle_users(scope.member(dc).fence, record, dc)

        async with self.holding(step.operation, standing, correct=correct) as scope:
            watch = Stopwatch()
            fence = scope.member(dc).fence
            await fence.open_users()
            brokers = await until_gates(fence.users_gates, Gate.OPEN, f"users of {dc}")
            return StepResult(
                **watch.so_far(), note=f"accepted by every broker, {brokers}", counts={"brokers": brokers}
            )

    @activity.defn(name="groups.freeze")
    async def freeze(self, step: StepInput) -> StepResult:
        """Deny commits, joins and offset reads on the source: positions stand still, members or not."""
        dc = step.operation.source

        async def correct(record: LeaseRecord) -> None:
            await settle_groups(scope.member(dc).fence, record, dc)

        async with self.holding(step.operation, Standing.DRAINING, correct=correct) as scope:
            watch = Stopwatch()
            fence = scope.member(dc).fence
            await fence.freeze_groups()
            brokers = await until_gates(fence.group_gates, Gate.CLOSED, f"groups of {dc}")
            return StepResult(
                **watch.so_far(), note=f"commits refused by every broker, {brokers}", counts={"brokers": brokers}
            )

    @activity.defn(name="groups.open")
    async def let_groups_in(self, step: StepInput) -> StepResult:
        """Let consumers in on the target, and before that put those that stayed on the source out of their groups.

        Not in a failover: the source is lost, consumers would wait for its silence, and `failover.source` does it.
        """
        left = "" if step.operation.kind is OperationKind.FAILOVER else step.operation.source
        return await self._thaw(step, step.operation.target, Standing.MOVED, left=left)

    @activity.defn(name="groups.thaw")
    async def thaw(self, step: StepInput) -> StepResult:
        """Undo `freeze` on the source."""
        return await self._thaw(step, step.operation.source, Standing.REOPENED)

    async def _thaw(self, step: StepInput, dc: str, standing: Standing, *, left: str = "") -> StepResult:
        async def correct(record: LeaseRecord) -> None:
            await settle_groups(scope.member(dc).fence, record, dc)

        async with self.holding(step.operation, standing, correct=correct) as scope:
            watch = Stopwatch()
            stayed = await _put_out(scope, left) if left else ""
            fence = scope.member(dc).fence
            await fence.thaw_groups()
            brokers = await until_gates(fence.group_gates, Gate.OPEN, f"groups of {dc}")
            note = f"commits taken by every broker, {brokers}{stayed}"
            return StepResult(**watch.so_far(), note=note, counts={"brokers": brokers})


async def _put_out(scope: Scope, dc: str) -> str:
    """What became of the members that stayed on `dc`, for the note. It may be gone, and consumers wait: never fails."""
    try:
        removed = await expel(scope, dc)
    except DcdrError as error:
        log.warning("members that may have stayed on %s were not removed: %s", dc, error)
        return f"; members that may have stayed on {dc} were not removed: {error}"
    return f"; {removed} members that stayed on {dc} were removed" if removed else ""
