"""Finds operations whose run was ended from outside, and starts their recovery past their deadline."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Any

from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from dcdr.errors import DcdrError
from dcdr.model import FailoverRequest, OperationKind, RecoveryRequest
from dcdr.ports import Directory
from workflows.failover import FailoverWorkflow
from workflows.recovery import RecoveryWorkflow
from workflows.temporal import TASK_QUEUE, TASK_TIMEOUT
from workflows.transition import transition_id

LOOK_EVERY_SECONDS = 5.0
PAUSE_SECONDS = 60.0
log = logging.getLogger("dcdr.finder")


async def find_forever(client: Client, directory: Directory, *, task_queue: str = TASK_QUEUE) -> None:
    """Look at every scope's lease every few seconds, for the life of the worker.

    A recovery that fails needs a person: it is started again after a pause, so that its failures can be read.
    """
    again: dict[str, float] = {}
    while True:
        for name in directory.names():
            if time.monotonic() < again.get(name, 0.0):
                continue
            try:
                if await look(client, directory, name, task_queue=task_queue):
                    again[name] = time.monotonic() + PAUSE_SECONDS
            except (DcdrError, RPCError) as error:
                log.warning("scope %s could not be looked at: %s", name, error)
            except Exception:  # the last one who would notice a leftover must not die of one scope's surprise
                log.exception("scope %s could not be looked at", name)
        await asyncio.sleep(LOOK_EVERY_SECONDS)


async def look(client: Client, directory: Directory, name: str, *, task_queue: str = TASK_QUEUE) -> bool:
    """Start the recovery of `name` if its lease names an operation past its deadline and no run holds the workflow id.
    A failover goes on as a failover, by the steps that are left of it.

    Returns: whether a run was started.
    """
    stored = await directory.scope(name).lease.read(name)
    operation = None if stored is None else stored.record.operation
    if stored is None or operation is None or stored.record.deadline is None:
        return False
    if datetime.now(UTC) < stored.record.deadline:
        return False
    options: dict[str, Any] = {
        "id": transition_id(name),
        "task_queue": task_queue,
        "task_timeout": TASK_TIMEOUT,
        "static_details": f"operation {stored.record.op_id} was left behind",
    }
    try:
        if operation.kind is OperationKind.FAILOVER:
            again = FailoverRequest(scope=name, target=operation.target, requested_by="worker")
            await client.start_workflow(
                FailoverWorkflow.run, again, static_summary=f"failover of {name} to {operation.target}", **options
            )
        else:
            await client.start_workflow(
                RecoveryWorkflow.run,
                RecoveryRequest(scope=name, requested_by="worker"),
                static_summary=f"recovery of {name}",
                **options,
            )
    except WorkflowAlreadyStartedError:
        return False  # a run is at work; its own deadlines bound it
    log.warning("scope %s: operation %s was left past its deadline, recovery started", name, stored.record.op_id)
    return True
