"""A mirror that its gate had shut out: the standby's agent lets its tasks run again, and touches nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.memory import MemoryWorld
from adapters.memory.ports import MemoryConnect, MemoryIntentStore, MemoryLeaseStore
from adapters.memory.store import WorldFile
from agent.keeper import Keeper
from agent.mirror import MirrorKeeper
from dcdr.bounds import PRESETS, Preset
from dcdr.errors import UnreachableError
from dcdr.model import ConnectorState

TIMING = PRESETS[Preset.TEST]
SOURCE = "mm2-source.dc-a-to-dc-b"
FAILED, RUNNING = ConnectorState.FAILED, ConnectorState.RUNNING
REFUSED = (
    "org.apache.kafka.connect.errors.ConnectException: unrecoverable\n"
    "Caused by: org.apache.kafka.common.errors.TransactionalIdAuthorizationException: not authorized"
)


class Shut:
    """The mirror from dc-a to dc-b, a task of it FAILED; and the agent of `dc`."""

    def __init__(self, path: Path, trace: str = REFUSED, dc: str = "dc-b") -> None:
        self.world = MemoryWorld.create(path, open_transaction=False)
        self.world.set_connector("dc-b", SOURCE, tasks=[RUNNING, FAILED], trace=trace)
        file, self.time = WorldFile(path), 0.0
        self.keeper = Keeper(
            dc, "lab", MemoryLeaseStore(file), MemoryIntentStore(file), TIMING, clock=lambda: self.time
        )
        self.mirror = MirrorKeeper(dc, self.keeper, MemoryConnect(file, "dc-b"), [SOURCE, "mm2-heartbeat.none"])

    @property
    def running(self) -> bool:
        return self.world.connector("dc-b", SOURCE).running


@pytest.fixture
def shut(tmp_path: Path) -> Callable[..., Shut]:
    return lambda **how: Shut(tmp_path / "lab.world", **how)


async def test_what_was_shut_out_runs_again_once_the_lease_is_read(shut: Callable[..., Shut]) -> None:
    left = shut()
    await left.mirror.look()
    assert not left.running, "nothing is known of the lease yet: the gate is closed"
    await left.keeper.beat(True)
    await left.mirror.look()
    assert left.running


async def test_nothing_is_restarted_while_the_lease_is_not_confirmed(shut: Callable[..., Shut]) -> None:
    left = shut()
    await left.keeper.beat(True)
    left.time += TIMING.validity + 0.1
    await left.mirror.look()
    assert not left.running


async def test_a_task_whose_transaction_its_broker_had_ended_runs_again(shut: Callable[..., Shut]) -> None:
    left = shut(trace="Caused by: org.apache.kafka.common.errors.InvalidTxnStateException: in an invalid state")
    await left.keeper.beat(True)
    await left.mirror.look()
    assert left.running


async def test_another_failure_is_left_for_people(shut: Callable[..., Shut]) -> None:
    left = shut(trace="org.apache.kafka.common.errors.RecordTooLargeException: too large")
    await left.keeper.beat(True)
    await left.mirror.look()
    assert not left.running


async def test_the_active_side_has_no_mirror_to_let_in(shut: Callable[..., Shut]) -> None:
    left = shut(dc="dc-a")
    while await left.keeper.beat(True):
        pass
    await left.mirror.look()
    assert not left.running


async def test_an_operation_has_the_connectors_to_itself(shut: Callable[..., Shut]) -> None:
    left = shut()
    record = left.world.lease()
    assert record is not None
    taken = record.model_copy(update={"op_id": "one", "op_source": "dc-a", "op_target": "dc-b"})
    left.world.set_lease(taken.model_dump_json())
    await left.keeper.beat(True)
    await left.mirror.look()
    assert not left.running


async def test_a_connect_that_does_not_answer_is_asked_again(shut: Callable[..., Shut]) -> None:
    left = shut()
    await left.keeper.beat(True)
    left.world.fail("connect.connectors")
    with pytest.raises(UnreachableError):
        await left.mirror.look()
    await left.mirror.look()
    assert left.running
