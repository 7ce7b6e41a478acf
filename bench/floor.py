"""The floor: the switchover's own steps, called one after the other in this process, without Temporal.

Same activity methods, same adapters, same order and parallelism as `workflows.switchover`; what is missing is the
durability: nobody would resume this script. A test holds its steps against the workflow's list.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

from temporalio.testing import ActivityEnvironment

from activities.cut import CutActivities
from activities.endpoint import EndpointActivities
from activities.fence import FenceActivities
from activities.groups import GroupActivities
from activities.lease import LeaseActivities
from activities.mirror import MirrorActivities
from activities.status import StatusActivities
from bench.model import StepTime
from dcdr.book import LedgerBook
from dcdr.errors import TransientError
from dcdr.model import StepInput, StepResult, SwitchoverRequest
from dcdr.plan import plan_switchover
from dcdr.ports import Directory
from workflows import steps
from workflows.steps import Step

A = TypeVar("A")
R = TypeVar("R")
AGAIN_S, GIVE_UP_S = 0.1, 30.0
"""As `workflows.policies.RETRY` begins; a bench that has to wait longer is broken."""


class Floor:
    """Switches scopes of one directory over. Keep it between runs: it holds the steps' warm book of ledger entries."""

    def __init__(self, directory: Directory) -> None:
        book = LedgerBook()
        self._status = StatusActivities(directory, book)
        self._lease = LeaseActivities(directory, book)
        self._fence = FenceActivities(directory)
        self._cut = CutActivities(directory, book)
        self._groups = GroupActivities(directory, book)
        self._mirror = MirrorActivities(directory, book)
        self._endpoint = EndpointActivities(directory)
        self._times: list[StepTime] = []

    async def switch(self, scope: str, target: str) -> list[StepTime]:
        """One drained switchover.

        Returns: the steps in the order they ended.
        Raises: PlanRefusedError, or what a step raised; the estate is then left as it was at that moment.
        """
        self._times = []
        request = SwitchoverRequest(scope=scope, target=target, requested_by="bench")
        do = self._do
        mirrors = await do(steps.MIRRORS, self._status.mirrors, request)
        preflight = await do(steps.PREFLIGHT, self._status.preflight, request)
        operation = plan_switchover(request, preflight, mirrors, f"floor-{time.time_ns()}").operation
        order = StepInput(operation=operation)
        await do(steps.BEGIN, self._lease.begin, order)
        await do(steps.STOP_CHECKPOINT, self._mirror.stop_checkpoint, order)
        await asyncio.gather(
            do(steps.CLOSE, self._fence.close, order),
            do(steps.FREEZE, self._fence.freeze, order),
        )
        while True:
            _, cut, _ = await asyncio.gather(
                do(steps.TRANSACTIONS, self._cut.fence_transactions, order),
                do(steps.CUT, self._cut.take, order),
                do(steps.GROUPS, self._groups.keep, order),
            )
            at_cut = StepInput(operation=operation, entry=cut.entry)
            await do(steps.DRAIN, self._cut.prove, at_cut)
            closed = await do(steps.CLOSE_MIRROR, self._cut.close_mirror, at_cut)
            ledger = StepInput(operation=operation, entry=closed.entry)
            handed = await do(steps.HAND_OVER, self._lease.hand_over, ledger)
            if not handed.changed:
                break
            await do(steps.RESTORE, self._mirror.restore, order)
        await do(steps.OPEN, self._fence.open, ledger)
        await do(steps.FLIP, self._endpoint.flip, ledger)
        await do(steps.PLACE, self._groups.place, ledger)
        await do(steps.OPEN_GROUPS, self._fence.let_groups_in, ledger)
        await do(steps.RETIRE, self._mirror.retire, ledger)
        await do(steps.SEED, self._mirror.seed, ledger)
        await do(steps.VERIFY, self._status.verify, ledger)
        await do(steps.START, self._mirror.start, ledger)
        await do(steps.FINISH, self._lease.finish, ledger)
        return self._times

    async def _do(self, step: Step, method: Callable[[A], Awaitable[R]], argument: A) -> R:
        """Run one step in a context without a server; what is transient is tried again, as Temporal would."""
        began, give_up = time.time_ns(), time.monotonic() + GIVE_UP_S
        while True:
            try:
                result = await ActivityEnvironment().run(method, argument)
                break
            except TransientError:
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(AGAIN_S)
        effect = result.took.total_seconds() * 1000 if isinstance(result, StepResult) else None
        title = step.title.replace("{source}", "the source").replace("{target}", "the target")
        self._times.append(
            StepTime(
                name=step.name,
                title=title,
                started_ns=began,
                ended_ns=time.time_ns(),
                effect_ms=effect,
                in_outage=step.in_outage,
            )
        )
        return result


def unix_ns(moment: datetime) -> int:
    """Nanoseconds since 1970 of an aware time, exact to the microsecond."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
