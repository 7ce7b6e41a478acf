"""The floor against the stand-in estate: the workflow's own steps, in its order, with its result."""

from pathlib import Path

import pytest

from adapters.memory import MemoryWorld, memory_directory
from bench.floor import Floor
from bench.model import StepTime
from dcdr.errors import PlanRefusedError
from workflows import steps

SIDE_BY_SIDE = [{steps.CLOSE, steps.FREEZE}, {steps.TRANSACTIONS, steps.CUT, steps.GROUPS}]
"""Pairs whose order the workflow leaves open (`workflows.switchover`, `workflows.transition`)."""


async def switch(path: Path) -> tuple[MemoryWorld, list[StepTime]]:
    world = MemoryWorld.create(path / "world")
    return world, await Floor(memory_directory(path / "world")).switch("lab", "dc-b")


async def test_the_floor_leaves_what_a_switchover_leaves(tmp_path: Path) -> None:
    world, _ = await switch(tmp_path)
    record = world.lease()
    assert record is not None
    assert (record.holder, record.epoch, record.op_id) == ("dc-b", 2, None)
    assert world.check() == []


async def test_the_floor_takes_every_step_of_the_workflow_and_no_other(tmp_path: Path) -> None:
    _, times = await switch(tmp_path)
    looks = [steps.MIRRORS.name, steps.PREFLIGHT.name]
    assert sorted(time.name for time in times) == sorted([*looks, *(step.name for step in steps.SWITCHOVER)])
    assert {time.name for time in times if time.in_outage} == {s.name for s in steps.SWITCHOVER if s.in_outage}
    assert all(time.effect_ms is not None for time in times if time.name not in looks)


async def test_the_floor_takes_the_steps_in_the_workflows_order(tmp_path: Path) -> None:
    _, times = await switch(tmp_path)
    at = {time.name: time for time in times}
    for number, later in enumerate(steps.SWITCHOVER):
        for earlier in steps.SWITCHOVER[:number]:
            if not any({earlier, later} <= together for together in SIDE_BY_SIDE):
                assert at[earlier.name].ended_ns <= at[later.name].started_ns, (earlier.name, later.name)


async def test_the_floor_does_side_by_side_what_the_workflow_does(tmp_path: Path) -> None:
    _, times = await switch(tmp_path)
    at = {time.name: time for time in times}
    for together in SIDE_BY_SIDE:
        assert max(at[step.name].started_ns for step in together) < min(at[step.name].ended_ns for step in together)


async def test_the_floor_refuses_what_the_workflow_refuses(tmp_path: Path) -> None:
    world = MemoryWorld.create(tmp_path / "world")
    with pytest.raises(PlanRefusedError):
        await Floor(memory_directory(tmp_path / "world")).switch("lab", "dc-a")
    record = world.lease()
    assert record is not None
    assert record.op_id is None
