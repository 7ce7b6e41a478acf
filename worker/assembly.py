"""Build a worker over any directory of scopes: the real adapters', or the stand-in's in tests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker

from activities.cut import CutActivities
from activities.endpoint import EndpointActivities
from activities.failpoints import Failpoints
from activities.fence import FenceActivities
from activities.groups import GroupActivities
from activities.interceptor import StepInterceptor
from activities.lease import LeaseActivities
from activities.mirror import MirrorActivities
from activities.status import StatusActivities
from activities.tail import TailActivities
from dcdr.book import LedgerBook
from dcdr.ports import Directory
from workflows.recovery import RecoveryWorkflow
from workflows.switchover import SwitchoverWorkflow
from workflows.tail import TailWorkflow
from workflows.temporal import FAILURE_TYPES, TASK_QUEUE
from workflows.unknown import UnknownWorkflow

WORKFLOWS: list[type] = [SwitchoverWorkflow, RecoveryWorkflow, TailWorkflow, UnknownWorkflow]


def activities_of(directory: Directory) -> list[Callable[..., Any]]:
    """Every step, bound to `directory`; they share one book of ledger entries."""
    book = LedgerBook()
    status = StatusActivities(directory, book)
    lease = LeaseActivities(directory, book)
    fence = FenceActivities(directory)
    cut = CutActivities(directory, book)
    groups = GroupActivities(directory, book)
    mirror = MirrorActivities(directory, book)
    endpoint = EndpointActivities(directory)
    tail = TailActivities(directory)
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
        tail.reachable,
        tail.compute,
    ]


def build_worker(
    client: Client, directory: Directory, *, task_queue: str = TASK_QUEUE, failpoints: Failpoints | None = None
) -> Worker:
    """A worker for workflows and steps on `task_queue`; `failpoints` default to the environment's.

    The sticky time-out and the heartbeat throttle are short, so that another worker takes over within seconds after a
    `kill -9` (measured: 10 s with the defaults).
    """
    return Worker(
        client,
        task_queue=task_queue,
        workflows=WORKFLOWS,
        activities=activities_of(directory),
        interceptors=[StepInterceptor(failpoints)],
        workflow_failure_exception_types=FAILURE_TYPES,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        graceful_shutdown_timeout=timedelta(seconds=10),
    )
