"""A worker killed with SIGKILL at any step, before its effect or after it, is replaced, and the operation finishes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from activities.failpoints import Failpoint
from dcdr.model import Outcome, TransitionReport
from tests.workflows.harness import BY_ITSELF, RUN_SECONDS, Case, Forks
from workflows import steps

LOOKS = (steps.LEFTOVER, steps.MIRRORS, steps.PREFLIGHT)
POINTS = [
    Failpoint(step.name, moment, "kill") for step in (*LOOKS, *steps.SWITCHOVER) for moment in ("before", "after")
]
FAILOVER = [
    Failpoint(step.name, moment, "kill")
    for step in steps.FAILOVER
    if step is not steps.POSITIONS  # which only looks
    for moment in ("before", "after")
]


async def with_a_kill(
    case: Case, forks: Forks, point: Failpoint, start: Callable[[], Awaitable[WorkflowHandle[Any, TransitionReport]]]
) -> TransitionReport:
    """The report of what `start` starts, although the first worker dies at `point`."""
    first = await case.spawn(forks, f"{point.step}:{point.moment}:kill")
    second = None
    try:
        handle = await start()
        assert await asyncio.wait_for(first.wait(), RUN_SECONDS) == -signal.SIGKILL
        second = await case.spawn(forks, f"{point.step}:{point.moment}:kill")
        return await asyncio.wait_for(handle.result(), RUN_SECONDS)
    finally:
        for process in (first, second):
            if process is not None:
                await process.end()


@pytest.mark.parametrize("point", POINTS, ids=lambda p: f"{p.step}-{p.moment}")
async def test_a_worker_killed_in_a_step_is_replaced_and_the_switchover_finishes(
    case: Case, forks: Forks, point: Failpoint
) -> None:
    report = await with_a_kill(case, forks, point, case.start)
    assert (case.marks / point.mark).exists()
    assert report.outcome is Outcome.DONE
    assert report.active == "dc-b"
    assert case.judge() == []


@pytest.mark.parametrize("point", FAILOVER, ids=lambda p: f"{p.step}-{p.moment}")
async def test_a_worker_killed_in_a_step_is_replaced_and_the_failover_finishes(
    build: Callable[..., Case], forks: Forks, point: Failpoint
) -> None:
    case = build(failover=BY_ITSELF, open_transaction=False)
    case.lose(rate=1.0)
    report = await with_a_kill(case, forks, point, case.fail_over)
    assert (case.marks / point.mark).exists()
    assert (report.outcome, report.active) == (Outcome.DONE, "dc-b")
    assert case.judge() == []
