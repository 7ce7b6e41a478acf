"""Runs that an earlier worker began are taken over by this one: every recorded history replays."""

from __future__ import annotations

import json

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from tests.replay.record import HISTORIES, WAYS
from worker.assembly import WORKFLOWS
from workflows.temporal import CONVERTER, FAILURE_TYPES

RECORDED = {path.stem: path.read_text(encoding="utf-8") for path in sorted(HISTORIES.glob("*.json"))}


async def replay(text: str) -> None:
    """Raises: NondeterminismError when today's workflow would have done something else."""
    replayer = Replayer(workflows=WORKFLOWS, data_converter=CONVERTER, workflow_failure_exception_types=FAILURE_TYPES)
    await replayer.replay_workflow(WorkflowHistory.from_json(json.loads(text)["workflowId"], text))


@pytest.mark.parametrize("history", RECORDED.values(), ids=RECORDED)
async def test_a_recorded_history_replays(history: str) -> None:
    await replay(history)


def test_every_way_an_operation_can_go_is_recorded() -> None:
    assert {way.__name__ for way in WAYS} <= set(RECORDED)


async def test_another_order_of_steps_would_not_replay() -> None:
    text = RECORDED["done"]
    swapped = (
        text.replace('"fence.open"', '"-"').replace('"endpoint.flip"', '"fence.open"').replace('"-"', '"endpoint.flip"')
    )
    assert swapped != text
    with pytest.raises(NondeterminismError):
        await replay(swapped)
