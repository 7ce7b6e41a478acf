"""Build a worker over any directory of scopes: the real adapters', or the stand-in's in tests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker

from activities.cut import CutActivities
from activities.endpoint import EndpointActivities
from activities.failover import FailoverActivities
from activities.failpoints import Failpoints
from activities.fence import FenceActivities
from activities.groups import GroupActivities
from activities.interceptor import StepInterceptor
from activities.lease import LeaseActivities
from activities.mirror import MirrorActivities
from activities.status import StatusActivities
from activities.tail import TailActivities
from activities.watch import WatchActivities, nobody
from dcdr.book import LedgerBook
from dcdr.ports import Directory
from workflows.failover import FailoverWorkflow
from workflows.lease_watch import LeaseWatchWorkflow
from workflows.recovery import RecoveryWorkflow
from workflows.switchover import SwitchoverWorkflow
from workflows.tail import TailKeysWorkflow, TailWorkflow
from workflows.temporal import FAILURE_TYPES, TASK_QUEUE, site_queue
from workflows.unknown import UnknownWorkflow

WORKFLOWS: list[type] = [
    SwitchoverWorkflow,
    FailoverWorkflow,
    RecoveryWorkflow,
    LeaseWatchWorkflow,
    TailWorkflow,
    TailKeysWorkflow,
    UnknownWorkflow,
]
STEPS_AT_ONCE, WAITS_OF_A_SCOPE = 100, 3
"""A scope may have a watch, a wait for an operation's end and one for its old side under way, for days."""
GRACE = timedelta(seconds=10)
"""For what is under way when a worker is told to stop; then it is cancelled, and another worker does it again."""

Looked = Callable[[str], None]


def activities_of(directory: Directory, looked: Looked = nobody) -> list[Callable[..., Any]]:
    """Every step, bound to `directory`; they share one book of ledger entries. `looked`: told each look at a lease."""
    book = LedgerBook()
    status = StatusActivities(directory, book)
    lease = LeaseActivities(directory, book)
    fence = FenceActivities(directory)
    cut = CutActivities(directory, book)
    groups = GroupActivities(directory, book)
    mirror = MirrorActivities(directory, book)
    endpoint = EndpointActivities(directory)
    failover = FailoverActivities(directory, book)
    tail = TailActivities(directory)
    watch = WatchActivities(directory, looked)
    return [
        status.preflight,
        status.mirrors,
        status.verify,
        lease.begin,
        lease.hand_over,
        lease.reopen,
        lease.finish,
        lease.leftover,
        fence.close,
        fence.open,
        fence.reopen,
        fence.freeze,
        fence.let_groups_in,
        fence.thaw,
        cut.fence_transactions,
        cut.take,
        cut.prove,
        cut.close_mirror,
        groups.keep,
        groups.place,
        mirror.stop_checkpoint,
        mirror.resume_checkpoint,
        mirror.restore,
        mirror.retire,
        mirror.seed,
        mirror.start,
        endpoint.flip,
        failover.observe,
        failover.ask_takeover,
        failover.take_up,
        failover.fence,
        failover.record,
        failover.stands,
        failover.open_up,
        failover.groups,
        failover.close_source,
        failover.restore,
        tail.close,
        tail.compute,
        tail.keys,
        watch.watch,
        watch.read_back,
        watch.ended,
        watch.old_side,
    ]


def build_worker(
    client: Client,
    directory: Directory,
    *,
    task_queue: str = TASK_QUEUE,
    failpoints: Failpoints | None = None,
    looked: Looked = nobody,
) -> Worker:
    """A worker for workflows and steps on `task_queue`; `failpoints` default to the environment's.

    The sticky time-out and the heartbeat throttle are short, so that another worker takes over within seconds after a
    `kill -9` (measured: 10 s with the defaults).
    """
    return Worker(
        client,
        task_queue=task_queue,
        workflows=WORKFLOWS,
        activities=activities_of(directory, looked),
        interceptors=[StepInterceptor(failpoints)],
        workflow_failure_exception_types=FAILURE_TYPES,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        max_concurrent_activities=STEPS_AT_ONCE + WAITS_OF_A_SCOPE * len(directory.names()),
        max_cached_workflows=1000 + len(directory.names()),
        graceful_shutdown_timeout=GRACE,
    )


def build_site_worker(
    client: Client,
    directory: Directory,
    dc: str,
    *,
    task_queue: str = TASK_QUEUE,
    failpoints: Failpoints | None = None,
    looked: Looked = nobody,
) -> Worker:
    """A worker for what has to be done from `dc`: watching. It runs beside the one of `build_worker`, or alone."""
    return Worker(
        client,
        task_queue=site_queue(dc, task_queue),
        activities=[WatchActivities(directory, looked).watch],
        interceptors=[StepInterceptor(failpoints)],
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        max_concurrent_activities=STEPS_AT_ONCE + len(directory.names()),
        graceful_shutdown_timeout=GRACE,
    )
