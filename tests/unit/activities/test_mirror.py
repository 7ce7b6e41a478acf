"""Connectors that Connect calls STOPPED while a task still says that it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from temporalio.testing import ActivityEnvironment

from activities import mirror
from activities.lease import LeaseActivities
from activities.mirror import MirrorActivities
from adapters.memory import MemoryWorld, memory_directory
from dcdr.book import LedgerBook
from dcdr.errors import NotYetError
from dcdr.model import ConnectorState, Operation, StepInput
from dcdr.settings import MirrorSettings

OPERATION = Operation(scope="lab", id="op-1", epoch=1, source="dc-a", target="dc-b")
CHECKPOINT = MirrorSettings().checkpoint_connector.format(source="dc-a", target="dc-b")


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set how long a task's last word is believed, in seconds."""
    return lambda seconds: monkeypatch.setattr(mirror, "LEFTOVER_SECONDS", seconds)


async def begun(path: Path) -> tuple[MemoryWorld, MirrorActivities]:
    world = MemoryWorld.create(path / "world", open_transaction=False)
    directory, book = memory_directory(world.path), LedgerBook()
    await ActivityEnvironment().run(LeaseActivities(directory, book).begin, StepInput(operation=OPERATION))
    return world, MirrorActivities(directory, book)


async def test_a_checkpoint_connector_whose_tasks_last_word_stays_is_started_and_stopped_once_more(
    tmp_path: Path, patience: Callable[[float], None]
) -> None:
    patience(0.2)
    world, steps = await begun(tmp_path)
    world.leave_a_status("dc-b", CHECKPOINT)
    found = await ActivityEnvironment().run(steps.stop_checkpoint, StepInput(operation=OPERATION))
    assert world.connector("dc-b", CHECKPOINT).stopped
    assert found.note == f"{CHECKPOINT} stopped"
    asked = [call for call in world.calls() if call in ("dc-b/connect.stop", "dc-b/connect.resume")]
    assert asked == ["dc-b/connect.stop", "dc-b/connect.resume", "dc-b/connect.stop"]


async def test_a_connector_that_is_not_even_stopped_is_waited_for(
    tmp_path: Path, patience: Callable[[float], None]
) -> None:
    patience(0.2)
    world, _ = await begun(tmp_path)
    member = world.directory().scope("lab").member("dc-b")
    with pytest.raises(NotYetError, match="not STOPPED without tasks after 0 s"):
        await ActivityEnvironment().run(mirror._stopped, member, (CHECKPOINT,))
    world.leave_a_status("dc-b", CHECKPOINT)
    await member.connect.stop(CHECKPOINT)
    assert await ActivityEnvironment().run(mirror._stopped, member, (CHECKPOINT,)) == [CHECKPOINT]
    assert world.connector("dc-b", CHECKPOINT).state is ConnectorState.STOPPED
