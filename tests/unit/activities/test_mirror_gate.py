"""The mirror's gate where brokers obey the lease: closed before the target's ends are taken, open before a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from activities.fence import FenceActivities
from dcdr import lease, settle
from dcdr.errors import NotYetError, SupersededError
from dcdr.model import ConnectorState, StepInput, StepResult
from tests.unit.activities.test_hand_over import OPERATION, Estate, do

MIRROR, HEARTBEATS = "mm2-source.dc-a-to-dc-b", "mm2-heartbeat.dc-a-to-dc-b"
ORDER = StepInput(operation=OPERATION)


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Estate]:
    return lambda **world: Estate(tmp_path / "lab.world", **{"gated": True, **world})


async def drained(estate: Estate) -> StepInput:
    await do(estate.lease.begin, ORDER)
    await do(FenceActivities(estate.directory).close, ORDER)
    taken: StepResult = await do(estate.cut.take, ORDER)
    order = StepInput(operation=OPERATION, entry=taken.entry)
    await do(estate.cut.prove, order)
    return order


async def extended(estate: Estate) -> None:
    stored = await estate.directory.scope("lab").lease.read("lab")
    assert stored is not None
    await estate.directory.scope("lab").lease.swap(stored, lease.extend(stored.record, OPERATION))


async def test_the_ends_are_taken_when_every_broker_refuses_the_mirror(build: Callable[..., Estate]) -> None:
    estate = build()
    order = await drained(estate)
    estate.world.lag_broker("dc-b", 2, asks=3)
    before = len(estate.world.calls())
    closed: StepResult = await do(estate.cut.close_mirror, order)
    assert closed.counts["brokers"] == 2
    assert not estate.record.mirrored
    calls = estate.world.calls()[before:]
    asked = [number for number, call in enumerate(calls) if call == "dc-b/fence.mirror_gates"]
    assert len(asked) > 1, "one broker heard late"
    assert calls.index("dc-b/logs.ends") > asked[-1]
    assert "dc-b/transactions.fence" in calls


async def test_a_heartbeat_that_the_closed_gate_cut_short_hides_nothing(build: Callable[..., Estate]) -> None:
    """It is a transaction that ends in Connect's offsets topic. When all is undone there are heartbeats again."""
    estate = build()
    order, beats = await drained(estate), f"connect-dc-b-{HEARTBEATS}-0"
    estate.world.begin("dc-b", beats)
    estate.world.produce("dc-b", "heartbeats", 0, principal="admin", txn=beats)
    await do(estate.cut.close_mirror, order)
    assert not await estate.directory.scope("lab").member("dc-b").transactions.open()
    assert estate.world.connector("dc-b", HEARTBEATS).tasks == (ConnectorState.FAILED,)
    await extended(estate)
    await do(estate.mirror.restore, ORDER)
    assert estate.world.connector("dc-b", HEARTBEATS).running


async def test_no_answer_is_not_taken_for_closed(build: Callable[..., Estate], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "CONFIRM_SECONDS", 0.2)
    estate = build()
    order = await drained(estate)
    entries = set(estate.world.ledger("dc-b"))
    estate.world.freeze_broker("dc-b", 2)
    with pytest.raises(NotYetError, match=r"mirror of dc-b: not closed on every broker .*broker 2 unknown"):
        await do(estate.cut.close_mirror, order)
    assert set(estate.world.ledger("dc-b")) == entries
    estate.world.freeze_broker("dc-b", 2, frozen=False)
    closed: StepResult = await do(estate.cut.close_mirror, order)
    assert closed.entry is not None


async def test_without_gates_the_lease_is_asked_nothing(build: Callable[..., Estate]) -> None:
    estate = build(gated=False)
    closed: StepResult = await do(estate.cut.close_mirror, await drained(estate))
    assert estate.record.mirrored
    assert "brokers" not in closed.counts
    assert "dc-b/fence.mirror_gates" not in estate.world.calls()


async def test_an_attempt_that_was_undone_meanwhile_leaves_the_gate_open(build: Callable[..., Estate]) -> None:
    estate = build()
    order = await drained(estate)
    estate.world.hang("lease.swap", 0.3)
    late = asyncio.create_task(do(estate.cut.close_mirror, order))
    await asyncio.sleep(0.1)
    estate.world.set_lease(lease.reopen(estate.record, OPERATION).model_dump_json())
    with pytest.raises(SupersededError):
        await late
    assert estate.record.mirrored
    estate.world.heal()
    gates = await estate.directory.scope("lab").member("dc-b").fence.mirror_gates()
    assert set(gates.values()) == {"open"}


async def test_tasks_are_restarted_when_every_broker_lets_the_mirror_in_again(build: Callable[..., Estate]) -> None:
    estate = build()
    await do(estate.cut.close_mirror, await drained(estate))
    await extended(estate)
    estate.world.late_append("dc-a", "orders", 1, ["late"])
    estate.world.lag_broker("dc-b", 2, asks=3)
    await do(estate.mirror.restore, ORDER)
    calls = estate.world.calls()
    asked = [number for number, call in enumerate(calls) if call == "dc-b/fence.mirror_gates"]
    assert calls.index("dc-b/connect.restart") > asked[-1]
    assert estate.world.connector("dc-b", MIRROR).running
    estate.world.pump(3)
    assert "late" in estate.world.values("dc-b", "orders", 1)


async def test_behind_a_closed_gate_no_task_is_restarted(
    build: Callable[..., Estate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "CONFIRM_SECONDS", 0.2)
    estate = build()
    await do(estate.cut.close_mirror, await drained(estate))
    with pytest.raises(NotYetError, match="mirror of dc-b: not open on every broker"):
        await do(estate.mirror.restore, ORDER)
    assert "dc-b/connect.restart" not in estate.world.calls()


async def test_a_task_that_writes_behind_the_closed_gate_fails(build: Callable[..., Estate]) -> None:
    estate = build()
    await do(estate.cut.close_mirror, await drained(estate))
    ends = estate.world.ends("dc-b", "orders", 1)
    estate.world.late_append("dc-a", "orders", 1, ["late"])
    estate.world.pump(3)
    assert estate.world.ends("dc-b", "orders", 1) == ends
    assert ConnectorState.FAILED in estate.world.connector("dc-b", MIRROR).tasks
