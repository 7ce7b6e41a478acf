"""An operation that nobody finished: the holder's agent lets everybody in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from activities.endpoint import EndpointActivities
from activities.fence import FenceActivities
from adapters.memory.ports import MemoryEndpoint, MemoryIntentStore, MemoryLeaseStore
from adapters.memory.store import WorldFile
from agent.finisher import Finisher, finish
from agent.keeper import Keeper
from dcdr.bounds import PRESETS, Preset
from dcdr.errors import MisconfiguredError, NotYetError, SupersededError, UnreachableError
from dcdr.intent import GRACE
from dcdr.model import ConnectorState, GroupVerdict, Phase
from dcdr.ports import EndpointView, Scope
from tests.unit.activities.test_groups import Moving
from tests.unit.activities.test_hand_over import OPERATION, do

LATER = timedelta(hours=1)


class Left(Moving):
    """A switchover that was left where it was; and the agent of `dc`, which looks when a test says so."""

    def __init__(self, path: Path, dc: str = "dc-b", **world: Any) -> None:
        super().__init__(path, **world)
        self.path = path
        file = WorldFile(path)
        self.after, self.time, self.opened = LATER, 0.0, 0
        self.keeper = Keeper(
            dc, "lab", MemoryLeaseStore(file), MemoryIntentStore(file), PRESETS[Preset.TEST],
            clock=lambda: self.time, now=self.now,
        )  # fmt: skip
        self.finisher = Finisher(dc, self.keeper, self.connected, now=self.now)

    def now(self) -> datetime:
        record = self.world.lease()
        assert record is not None
        return (record.deadline or datetime.now(UTC)) + self.after

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Scope]:
        self.opened += 1
        yield self.estate.directory.scope("lab")

    async def beat(self) -> None:
        while await self.keeper.beat(True):
            pass

    async def look(self) -> None:
        await self.beat()
        await self.finisher.look()

    def ahead(self, dc: str, offset: int) -> list[str | None]:
        """What a consumer of the first partition at `offset` reads."""
        log = self.world._file.look().clusters[dc].topics["orders"].partitions[0]
        return [entry.value for entry in log.visible(offset, log.next)]

    @property
    def lets_in(self) -> tuple[bool, bool, EndpointView]:
        """(users, consumers) of dc-b, and where clients are sent."""
        cluster = self.world._file.look().clusters["dc-b"]
        return not cluster.users_denied, not cluster.groups_denied, self.world.endpoint()


CLOSED = (False, False, EndpointView("dc-a", 1))
DONE = (True, True, EndpointView("dc-b", 2))


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Left]:
    return lambda **world: Left(tmp_path / "lab.world", **world)


async def test_past_the_deadline_users_consumers_and_clients_are_let_in(build: Callable[..., Left]) -> None:
    left = build()
    left.stands("slow", 10)
    left.all_read("quick")
    await left.moved()
    assert left.lets_in == CLOSED
    await left.look()
    assert left.lets_in == DONE
    assert left.next_record("quick") is None, "it had read everything, and skips nothing that comes"
    assert left.on_target("quick") == left.world.ends("dc-b", "orders", 0).leo
    assert left.world._file.look().violations == []


async def test_a_group_that_lags_reads_again_and_skips_nothing(build: Callable[..., Left]) -> None:
    left = build()
    left.stands("slow", 10)
    await left.moved()
    await left.look()
    unread, again = left.ahead("dc-a", 10), left.ahead("dc-b", left.on_target("slow") or 0)
    assert again[-len(unread) :] == unread
    assert left.on_target("slow") is not None, "else it would begin where it likes"


async def test_before_the_deadline_and_its_grace_nothing_is_touched(build: Callable[..., Left]) -> None:
    left = build()
    await left.moved()
    left.after = GRACE - timedelta(seconds=1)
    await left.look()
    assert (left.lets_in, left.opened) == (CLOSED, 0)
    left.after = GRACE
    await left.look()
    assert left.lets_in == DONE


async def test_before_the_handover_it_is_not_its_affair(build: Callable[..., Left]) -> None:
    left = build()
    await left.close()
    await left.look()
    assert left.opened == 0


async def test_it_acts_only_while_the_lease_is_proven(build: Callable[..., Left]) -> None:
    left = build()
    await left.moved()
    await left.beat()
    left.time = 5.0
    await left.finisher.look()
    assert left.opened == 0


async def test_it_finishes_once_and_looks_again_after_a_failure(build: Callable[..., Left]) -> None:
    left = build()
    await left.moved()
    left.world.fail("endpoint.flip")
    with pytest.raises(UnreachableError):
        await left.look()
    assert left.lets_in[2].dc == "dc-a"
    for _ in range(3):
        await left.look()
    assert (left.lets_in, left.opened) == (DONE, 2)


async def test_nobody_is_sent_to_a_side_that_is_not_open_at_every_broker(build: Callable[..., Left]) -> None:
    left = build()
    await left.moved()
    left.world.freeze_broker("dc-b", 2)
    with pytest.raises(NotYetError, match=r"brokers \[2\]"):
        await left.look()
    assert left.lets_in[2].dc == "dc-a"


async def test_consumers_wait_where_nobody_knows_where_they_stood(build: Callable[..., Left]) -> None:
    left = build()
    await left.close()
    assert left.entry is not None
    await left.estate.hand_over(left.entry)
    with pytest.raises(MisconfiguredError, match="where the groups"):
        await left.look()
    assert left.lets_in == (True, False, EndpointView("dc-b", 2)), "producers do not"


async def test_what_a_workflow_did_already_is_left_as_it_is(build: Callable[..., Left]) -> None:
    left = build()
    left.stands("slow", 10)
    await left.moved()
    await do(FenceActivities(left.estate.directory).open, left.order)
    await do(EndpointActivities(left.estate.directory).flip, left.order)
    await left.place()
    placed = left.on_target("slow")
    await do(FenceActivities(left.estate.directory).let_groups_in, left.order)
    before = len(left.world.calls())
    await left.look()
    wrote = [call for call in left.world.calls()[before:] if call.split("/")[-1] in ("groups.write", "endpoint.flip")]
    assert wrote == []
    assert (left.on_target("slow"), left.lets_in) == (placed, DONE)


async def test_the_next_run_finds_done_what_the_agent_did(build: Callable[..., Left]) -> None:
    left = build()
    left.all_read("quick")
    await left.moved()
    await left.look()
    at = left.on_target("quick")
    await do(FenceActivities(left.estate.directory).open, left.order)
    await do(EndpointActivities(left.estate.directory).flip, left.order)
    assert (await left.place())["quick"].verdict is GroupVerdict.EXACT
    assert left.on_target("quick") == at


async def test_overtaken_meanwhile_it_closes_again_what_it_opened(build: Callable[..., Left]) -> None:
    left = build()
    await left.moved()
    moved = left.world.lease()
    assert moved is not None
    gone = moved.model_copy(update={"holder": "dc-a", "epoch": 3})
    scope = left.estate.directory.scope("lab")

    class Slow(MemoryEndpoint):
        async def read(self) -> EndpointView:
            assert left.lets_in[0], "users were let in"
            left.world.set_lease(gone.model_dump_json())
            return await super().read()

    slow = replace(scope, endpoint=Slow(WorldFile(left.path)))
    with pytest.raises(SupersededError):
        await finish(slow, OPERATION, "dc-b")
    assert left.lets_in[:2] == (False, False)


async def test_behind_the_mirrors_closed_gate_no_task_is_restarted(build: Callable[..., Left]) -> None:
    left = build(dc="dc-a", gated=True)
    await left.close()
    left.after = timedelta(0)
    await left.look()
    left.world.lag_broker("dc-b", 2, asks=1)
    left.world.set_rules("dc-b", mirror_denied=True)
    left.after = GRACE
    asked = "dc-b/connect.restart"
    with pytest.raises(NotYetError, match=r"the mirror is not let in by brokers \[2\] of dc-b"):
        await left.look()
    assert asked not in left.world.calls()
    assert left.world.users_open("dc-a"), "users are let in all the same"
    await left.look()
    assert asked in left.world.calls()


async def test_what_the_agent_opened_again_is_as_before(build: Callable[..., Left]) -> None:
    """Its deadline over before the handover, the old side is open by the lease, and then all the rest follows."""
    left = build(dc="dc-a")
    await left.close()
    left.after = timedelta(0)
    await left.look()
    record, mirror = left.world.lease(), "mm2-source.dc-a-to-dc-b"
    assert record is not None
    assert (record.holder, record.phase, record.op_id) == ("dc-a", Phase.OPEN, OPERATION.id)
    assert (left.opened, left.world.groups_frozen("dc-a")) == (0, True), "a worker that is alive undoes it by itself"
    left.after = GRACE
    await left.look()
    left.world.pump(20)
    assert (left.world.users_open("dc-a"), left.world.groups_frozen("dc-a")) == (True, False)
    assert (left.world.users_open("dc-b"), left.world.groups_frozen("dc-b")) == (False, True)
    assert left.world.endpoint().dc == "dc-a"
    assert left.world.connector("dc-b", mirror).running
    assert left.world.connector("dc-b", "mm2-checkpoint.dc-a-to-dc-b").running
    left.world.late_append("dc-a", "orders", 0, ["after all"])
    left.world.pump(20)
    assert left.world.values("dc-b", "orders", 0)[-1] == "after all", "a fenced task would copy nothing"


async def test_the_heartbeats_that_the_closed_gate_refused_run_again(build: Callable[..., Left]) -> None:
    """They beat once a second, and between the closing of the mirror and the deadline there is time for many."""
    left, beats = build(dc="dc-a"), "mm2-heartbeat.dc-a-to-dc-b"
    await left.close()
    left.after = timedelta(0)
    await left.look()
    left.world.set_connector("dc-b", beats, tasks=[ConnectorState.FAILED])
    left.after = GRACE
    await left.look()
    assert left.world.connector("dc-b", beats).running
