"""A worker killed with SIGKILL at any step, before its effect or after it, is replaced, and the switchover finishes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.testing import WorkflowEnvironment

from activities.failpoints import Failpoint
from dcdr.model import Outcome, TransitionReport
from tests.workflows.harness import RUN_SECONDS, Case, end
from workflows import steps

SIDE_BY_SIDE = 4
"""Cases at once: a killed worker leaves the machine idle for the seconds until Temporal misses its heartbeat."""

LOOKS = (steps.LEFTOVER, steps.MIRRORS, steps.PREFLIGHT)
POINTS = [
    Failpoint(step.name, moment, "kill") for step in (*LOOKS, *steps.SWITCHOVER) for moment in ("before", "after")
]


class Killed:
    """All kills, run a few at a time; each test waits for its own."""

    def __init__(self, environment: WorkflowEnvironment, folder: Path) -> None:
        limit = asyncio.Semaphore(SIDE_BY_SIDE)

        async def one(point: Failpoint) -> tuple[Case, TransitionReport]:
            async with limit:
                return await switch_over_with_a_kill(Case.build(environment, folder), point)

        self.runs = {point: asyncio.create_task(one(point)) for point in POINTS}


async def switch_over_with_a_kill(case: Case, point: Failpoint) -> tuple[Case, TransitionReport]:
    first = await case.spawn(f"{point.step}:{point.moment}:kill")
    second = None
    try:
        handle = await case.start()
        assert await asyncio.wait_for(first.wait(), RUN_SECONDS) == -signal.SIGKILL
        second = await case.spawn(f"{point.step}:{point.moment}:kill")
        return case, await asyncio.wait_for(handle.result(), RUN_SECONDS)
    finally:
        for process in (first, second):
            if process is not None:
                await end(process)


@pytest_asyncio.fixture(scope="module")
async def killed(environment: WorkflowEnvironment, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Killed]:
    running = Killed(environment, tmp_path_factory.mktemp("kills"))
    yield running
    for task in running.runs.values():
        task.cancel()


@pytest.mark.parametrize("point", POINTS, ids=lambda p: f"{p.step}-{p.moment}")
async def test_a_worker_killed_in_a_step_is_replaced_and_the_switchover_finishes(
    killed: Killed, point: Failpoint
) -> None:
    case, report = await killed.runs[point]
    assert (case.marks / point.mark).exists()
    assert report.outcome is Outcome.DONE
    assert report.active == "dc-b"
    assert case.world.check() == []
