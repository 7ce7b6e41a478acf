"""Look at the lease until it is something else: what the watch of a scope is made of. Nothing here changes anything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode

from activities.step import Steps
from dcdr.errors import DcdrError, MisconfiguredError, NotYetError, UnreachableError
from dcdr.model import StoredLease
from dcdr.ports import Directory, Scope
from dcdr.watching import RunEnd, Seen, Sight, WatchOrder

RE_READ_SECONDS = 2.0
"""Between linearizable reads: a store's watch may be silent because nothing happens, or because it is broken."""
OLD_SIDE_EVERY, OLD_SIDE_ANSWER = 5.0, 5.0
OLD_SIDE_SECONDS = 30 * 60.0
FOLLOW_SECONDS = 10 * 60.0
"""A wait that takes longer answers "not yet", so that whoever waits can judge anew what it waits for."""
log = logging.getLogger("dcdr.watch")


def nobody(_: str) -> None:
    """Whom looks are told where nobody counts them."""


class WatchActivities(Steps):
    """`looked` is called with the scope's name after every look that the store answered."""

    def __init__(self, directory: Directory, looked: Callable[[str], None] = nobody) -> None:
        super().__init__(directory)
        self._looked = looked

    @activity.defn(name="lease.watch")
    async def watch(self, order: WatchOrder) -> Seen:
        """Return what the lease is as soon as it is not `order.known`.

        Level first: a linearizable read, and again every few seconds. Edge between them: a hint from the store's watch
        brings the next read forward. It beats after each read that was answered and at no other time, so an attempt
        that cannot see the lease is taken away from this worker.

        Raises: UnreachableError; NotYetError where there is no record that can be read, or this worker stops.
        """
        scope = self._directory.scope(order.scope)
        hint = asyncio.Event()
        lookout: asyncio.Task[None] | None = None
        async with _stopping() as stopping:
            try:
                while True:
                    hint.clear()
                    stored = await self._look(scope)
                    if Sight.of(stored.record) != order.known:
                        return _seen(scope, stored)
                    activity.heartbeat()
                    if lookout is None or lookout.done():
                        lookout = asyncio.create_task(_look_out(scope, stored, order.known, hint))
                    await _until(hint, stopping, RE_READ_SECONDS)
            finally:
                await _end(lookout)

    @activity.defn(name="lease.read_back")
    async def read_back(self, scope_name: str) -> Seen:
        """What the lease is now, and which sites may have workers of their own.

        Raises: InvalidRequestError for an unknown scope; UnreachableError, NotYetError as `lease.watch`.
        """
        scope = self._directory.scope(scope_name)
        return _seen(scope, await self._look(scope))

    @activity.defn(name="transition.ended")
    async def ended(self, workflow_id: str) -> RunEnd:
        """Wait for the end of what runs under `workflow_id`, for minutes; at once where nothing runs.

        Raises: UnreachableError when Temporal does not say.
        """
        client = activity.client()
        async with _stopping() as stopping:
            try:
                now = await client.get_workflow_handle(workflow_id).describe()
                if now.status is WorkflowExecutionStatus.RUNNING:
                    run = client.get_workflow_handle(workflow_id, run_id=now.run_id)
                    end = asyncio.create_task(run.result(follow_runs=False))
                    try:
                        await asyncio.wait({end, stopping}, timeout=FOLLOW_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                        if not end.done():
                            _give_up_if(stopping)
                            return RunEnd(running=True, type=now.workflow_type, status="RUNNING")
                        with suppress(WorkflowFailureError):
                            end.result()
                    finally:
                        await _end(end)
                    now = await run.describe()
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    return RunEnd(running=False)
                raise UnreachableError(f"Temporal does not say whether {workflow_id} runs: {error}") from error
        return RunEnd(running=False, type=now.workflow_type, status=now.status.name if now.status else "")

    @activity.defn(name="watch.old_side")
    async def old_side(self, scope_name: str) -> bool:
        """Wait until the side that a failover left behind answers with its brokers. False: not within half an hour, or
        no side is behind any more."""
        scope = self._directory.scope(scope_name)
        give_up = asyncio.get_running_loop().time() + OLD_SIDE_SECONDS
        async with _stopping() as stopping:
            while asyncio.get_running_loop().time() < give_up:
                record = (await self._look(scope)).record
                if record.behind is None:
                    return False
                if await _answers(scope, record.behind):
                    return True
                await _until(asyncio.Event(), stopping, OLD_SIDE_EVERY)
        return False

    async def _look(self, scope: Scope) -> StoredLease:
        """A missing or unreadable record is for a person to set right; until then every look says so."""
        try:
            stored = await scope.lease.read(scope.name)
        except MisconfiguredError as error:
            raise NotYetError(f"the lease of {scope.name} cannot be watched: {error}") from error
        if stored is None:
            raise NotYetError(f"scope {scope.name} has no lease record to watch; an operator creates it once")
        self._looked(scope.name)
        return stored


def _seen(scope: Scope, stored: StoredLease) -> Seen:
    sites = (*sorted(scope.members), *sorted(scope.arbiters))
    return Seen(record=stored.record, revision=stored.revision, at=datetime.now(UTC), sites=sites)


async def _look_out(scope: Scope, after: StoredLease, known: Sight | None, hint: asyncio.Event) -> None:
    """Set `hint` whenever the store's watch shows something else than `known`. It may end: the next read starts it."""
    try:
        async for stored in scope.lease.watch(scope.name, after):
            if stored is None or Sight.of(stored.record) != known:
                hint.set()
    except DcdrError as error:
        log.info("the watch of %s broke, reads go on: %s", scope.name, error)


async def _answers(scope: Scope, dc: str) -> bool:
    try:
        async with asyncio.timeout(OLD_SIDE_ANSWER):
            return bool(await scope.member(dc).logs.brokers())
    except (DcdrError, TimeoutError):
        return False


@asynccontextmanager
async def _stopping() -> AsyncIterator[asyncio.Task[None]]:
    """Done when this worker was asked to stop: a watch never ends by itself, so it has to give way."""
    task = asyncio.create_task(activity.wait_for_worker_shutdown())
    try:
        yield task
    finally:
        await _end(task)


async def _until(hint: asyncio.Event, stopping: asyncio.Task[None], seconds: float) -> None:
    """Wait for `hint`, at most `seconds`. Raises: NotYetError when this worker stops, so that another one goes on."""
    waiting = asyncio.create_task(hint.wait())
    try:
        await asyncio.wait({waiting, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end(waiting)
    _give_up_if(stopping)


def _give_up_if(stopping: asyncio.Task[None]) -> None:
    if stopping.done():
        raise NotYetError("this worker stops; another one goes on")


async def _end(task: asyncio.Task[object] | asyncio.Task[None] | asyncio.Task[bool] | None) -> None:
    if task is None:
        return
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):  # what it raised is not ours: it was a hint
        await task
