"""A worker killed with SIGKILL at any step, before its effect or after it, is replaced, and the switchover finishes."""

from __future__ import annotations

import asyncio
import signal

import pytest

from activities.failpoints import Failpoint
from dcdr.model import Outcome, TransitionReport
from tests.workflows.harness import RUN_SECONDS, Case, Forks
from workflows import steps

LOOKS = (steps.LEFTOVER, steps.MIRRORS, steps.PREFLIGHT)
POINTS = [
    Failpoint(step.name, moment, "kill") for step in (*LOOKS, *steps.SWITCHOVER) for moment in ("before", "after")
]


async def switch_over_with_a_kill(case: Case, forks: Forks, point: Failpoint) -> TransitionReport:
    first = await case.spawn(forks, f"{point.step}:{point.moment}:kill")
    second = None
    try:
        handle = await case.start()
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
    report = await switch_over_with_a_kill(case, forks, point)
    assert (case.marks / point.mark).exists()
    assert report.outcome is Outcome.DONE
    assert report.active == "dc-b"
    assert case.judge() == []
