"""The watch of a scope as seen from outside: start it where it does not run, and tell whether it is alive."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowFailureError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from dcdr.errors import InvalidRequestError
from dcdr.model import Message
from dcdr.watching import Watching, WatchState
from workflows.lease_watch import LeaseWatchWorkflow
from workflows.temporal import TASK_QUEUE, TASK_TIMEOUT, watch_id

ALIVE = timedelta(seconds=15)
"""A look that is older is no sign of life: a watching site reads every two seconds, and beats after each read."""
QUERY = timedelta(seconds=3)
LOOK = "lease.watch"


class SiteView(Message):
    """One site's watching activity as the server knows it. `seen_at`: its last beat, which follows a read."""

    site: str
    state: str
    seen_at: datetime | None = None
    attempt: int = 1
    trouble: str = ""


class WatchView(Message):
    """A scope's watch. `status`: of its workflow, "NONE" where it never ran. `watching`: None without a worker."""

    scope: str
    workflow_id: str
    status: str
    alive: bool
    seen_at: datetime | None = None
    sites: tuple[SiteView, ...] = ()
    watching: Watching | None = None


async def ensure_running(client: Client, scope: str, *, task_queue: str = TASK_QUEUE) -> bool:
    """Start the watch of `scope` unless it runs. Returns: whether it had to be started."""
    try:
        await client.start_workflow(
            LeaseWatchWorkflow.run,
            WatchState(scope=scope),
            id=watch_id(scope),
            task_queue=task_queue,
            task_timeout=TASK_TIMEOUT,
            # As USE_EXISTING, but it says which of the two it was.
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            static_summary=f"watch of {scope}",
            static_details="sees the lease move, and starts the failover and the tail; it never ends",
        )
    except WorkflowAlreadyStartedError:
        return False
    return True


async def look(client: Client, scope: str, *, query: bool = True) -> WatchView:
    """The watch as it is now; `query`: ask it for its state, too, which needs a worker.

    Alive: it runs, and some site has seen the lease a moment ago. Right after a change no site has, for a second.
    """
    handle = client.get_workflow_handle(watch_id(scope))
    try:
        found = await handle.describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return WatchView(scope=scope, workflow_id=watch_id(scope), status="NONE", alive=False)
        raise
    sites = _sites(found)
    seen_at = max((site.seen_at for site in sites if site.seen_at), default=None)
    status = found.status.name if found.status else "UNKNOWN"
    told: Watching | None = None
    if query and status == "RUNNING":
        try:
            told = await handle.query("watching", result_type=Watching, rpc_timeout=QUERY)
        except RPCError:
            told = None
    return WatchView(
        scope=scope,
        workflow_id=watch_id(scope),
        status=status,
        alive=status == "RUNNING" and seen_at is not None and datetime.now(UTC) - seen_at < ALIVE,
        seen_at=seen_at,
        sites=sites,
        watching=told,
    )


async def why_it_ended(client: Client, scope: str) -> None:
    """Raises: InvalidRequestError with the watch's own words when it gave up, as for a scope nobody knows."""
    try:
        await client.get_workflow_handle(watch_id(scope)).result(rpc_timeout=QUERY)
    except WorkflowFailureError as error:
        if isinstance(error.cause, ApplicationError):
            raise InvalidRequestError(error.cause.message) from error


def _sites(found: WorkflowExecutionDescription) -> tuple[SiteView, ...]:
    views = []
    for one in found.raw_description.pending_activities:
        if one.activity_type.name != LOOK:
            continue
        seen_at = one.last_heartbeat_time.ToDatetime(tzinfo=UTC) if one.HasField("last_heartbeat_time") else None
        state = PendingActivityState.Name(one.state).removeprefix("PENDING_ACTIVITY_STATE_")
        views.append(
            SiteView(
                site=one.activity_id.removeprefix(f"{LOOK}."),
                # Scheduled for the first time, and nobody has come: most likely that site has no worker.
                state="NO WORKER" if state == "SCHEDULED" and one.attempt <= 1 else state,
                seen_at=seen_at,
                attempt=one.attempt,
                trouble=one.last_failure.message,
            )
        )
    return tuple(sorted(views, key=lambda view: view.site))
