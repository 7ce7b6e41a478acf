"""Timeouts and retries, in one place.

A step's own deadline lies inside its activity, with a message; these are the outer bounds. The heartbeat finds a dead
worker within 3 s. Before the handover a step that cannot be done gives up soon, so that the source opens again; after
it there is only forward, so steps are retried for long, and past that the lease keeps the operation id for a finder.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from dcdr.model import Timing

RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=100), backoff_coefficient=1.7, maximum_interval=timedelta(seconds=2)
)
HEARTBEAT = timedelta(seconds=3)
FINISH_EVERYTHING = workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED

LOOK = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=40),
    schedule_to_close_timeout=timedelta(seconds=90),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RETRY,
)
"""Preflight and other looks: nothing is changed, so giving up is cheap."""

STEP = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=15),
    schedule_to_close_timeout=timedelta(seconds=30),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RETRY,
    cancellation_type=FINISH_EVERYTHING,
)
"""A step before the handover."""

PREPARE = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=75),
    schedule_to_close_timeout=timedelta(seconds=120),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RETRY,
    cancellation_type=FINISH_EVERYTHING,
)
"""A step that waits for connectors, outside the outage."""

FORWARD = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=75),
    schedule_to_close_timeout=timedelta(hours=1),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RETRY,
)
"""A step after the handover, or of an undo: it must succeed, so it is tried for an hour."""

READING = workflow.ActivityConfig(**{**FORWARD, "heartbeat_timeout": timedelta(seconds=10)})
"""Outside the outage, and busy with many records: on a machine that is busy too its beat may come late, and a second
attempt would begin from nothing (seen: six of them in two minutes at a load of 35 on two cores)."""

WATCH = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(hours=12),
    schedule_to_start_timeout=timedelta(minutes=10),
    heartbeat_timeout=timedelta(seconds=5),
    retry_policy=RETRY,
)
"""Watching from one site, for as long as nothing changes. Its beat follows a read every 2 s. Tried again without an end
and without an event in the history; a site without a worker is noticed after ten minutes, and goes on being asked."""

READ_BACK = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=10), heartbeat_timeout=HEARTBEAT, retry_policy=RETRY
)
"""Tried for as long as it takes: without it the watch does nothing."""

WAIT_LONG = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(hours=1), heartbeat_timeout=HEARTBEAT, retry_policy=RETRY
)
"""For something to end, or to answer; the activity itself gives up earlier, and is asked again."""

ASKING = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(hours=2),
    schedule_to_close_timeout=timedelta(hours=2),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RETRY,
)
"""A takeover takes the lease's waiting time, which settings may make as long as an hour; the step itself knows it."""

STANDING = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=15),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(initial_interval=timedelta(seconds=2), backoff_coefficient=1.0),
    cancellation_type=workflow.ActivityCancellationType.TRY_CANCEL,
)
"""One look every 2 s for as long as a failover holds: retries leave nothing in the history."""


TAIL = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(hours=6),
    schedule_to_close_timeout=timedelta(days=2),
    heartbeat_timeout=timedelta(seconds=10),
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=1), backoff_coefficient=2, maximum_interval=timedelta(seconds=30)
    ),
)
"""Reads as much as there is, of a side that may go away again and come back; nobody waits inside an outage."""


def drain(timing: Timing) -> workflow.ActivityConfig:
    """The drain's own deadline, plus room for one lost worker."""
    return workflow.ActivityConfig(
        start_to_close_timeout=timing.drain_deadline + timedelta(seconds=10),
        schedule_to_close_timeout=timing.drain_deadline + timedelta(seconds=25),
        heartbeat_timeout=HEARTBEAT,
        retry_policy=RETRY,
        cancellation_type=FINISH_EVERYTHING,
    )
