"""Closing the target and writing down where both sides part, with the source dark, over the stand-in world."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from dcdr import fork, settle
from dcdr.book import LedgerBook
from dcdr.errors import MisconfiguredError, NotYetError, SupersededError
from dcdr.model import ConnectorState, FailoverPolicy, Gate, Phase, TopicPartition
from dcdr.ports import ProduceFence, Scope
from tests.unit.agent.failing import CHECKPOINTS, FAILOVER, HEARTBEATS, SOURCE_MIRROR, Failing

ORDERS = TopicPartition("orders", 0)


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Failing]:
    return lambda **world: Failing(tmp_path / "lab.world", **world)


async def taken(failing: Failing) -> Failing:
    failing.world.pump(20)
    await failing.looks(3)
    await failing.lost()
    await failing.take_up()
    return failing


async def test_every_broker_confirms_and_the_mirrors_tasks_are_fenced(build: Callable[..., Failing]) -> None:
    failing = await taken(build())
    assert await fork.fence(failing.scope, FAILOVER) == 2
    assert failing.world.fenced_tasks() == 2
    assert await fork.fence(failing.scope, FAILOVER) == 2, "again changes nothing"


@pytest.mark.parametrize("connect", [True, False])
async def test_a_heartbeat_that_the_closed_gate_cut_short_hides_nothing(
    build: Callable[..., Failing], connect: bool
) -> None:
    """It is a transaction that ends in Connect's offsets topic, where M is read."""
    failing = build()
    beats, others = f"connect-dc-b-{HEARTBEATS}-0", "somebody-else"
    for txn in (beats, others):
        failing.world.begin("dc-b", txn)
        failing.world.produce("dc-b", "heartbeats", 0, principal="admin", txn=txn)
    await taken(failing)
    if not connect:
        failing.world.fail("connect.connectors", times=-1)
    await fork.fence(failing.scope, FAILOVER)
    left = await failing.scope.member("dc-b").transactions.open()
    assert [one.transactional_id for one in left] == [others]


async def test_a_broker_that_does_not_answer_confirms_nothing(
    build: Callable[..., Failing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "CONFIRM_SECONDS", 0.05)
    failing = await taken(build())
    failing.world.freeze_broker("dc-b", 2)
    with pytest.raises(NotYetError, match="broker 2 unknown"):
        await fork.fence(failing.scope, FAILOVER)


async def test_a_gate_that_lets_the_mirror_in_is_waited_for(
    build: Callable[..., Failing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "CONFIRM_SECONDS", 0.05)
    failing = await taken(build())

    class Open:
        """The target's fence, whose brokers still let the mirror in."""

        def __init__(self, fence: ProduceFence) -> None:
            self.users_gates = fence.users_gates

        async def mirror_gates(self) -> dict[int, Gate]:
            return {1: Gate.CLOSED, 2: Gate.OPEN}

    def with_gates(scope: Scope) -> Scope:
        target = scope.member("dc-b")
        gated = replace(target, fence=cast(ProduceFence, Open(target.fence)))
        return replace(scope, members={**scope.members, "dc-b": gated})

    with pytest.raises(NotYetError, match=r"mirror's gate of dc-b.*broker 2 open"):
        await fork.fence(with_gates(failing.scope), FAILOVER)


@pytest.mark.parametrize("looks", [0, 3])
async def test_connect_that_is_down_too_does_not_keep_the_mirror_unfenced(
    build: Callable[..., Failing], looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = build()
    failing.world.pump(20)
    await failing.beat()
    await failing.looks(looks)
    await failing.lost()
    await failing.take_up()
    failing.world.fail("connect.connectors", times=-1)
    asked: list[int] = []
    made = settle.task_ids

    def counted(member: Any, connector: str, tasks: int) -> list[str]:
        asked.append(tasks)
        return made(member, connector, tasks)

    monkeypatch.setattr(settle, "task_ids", counted)
    await fork.fence(failing.scope, FAILOVER)
    assert failing.world.fenced_tasks() == 2
    assert asked == [2 if looks else fork.UNKNOWN_TASKS]
    _, written = await fork.record(failing.scope, FAILOVER, LedgerBook())
    assert written.exactly_once is bool(looks)


async def test_behind_acls_users_are_denied_and_the_mirror_is_stopped(build: Callable[..., Failing]) -> None:
    failing = await taken(build(gated=False))
    await fork.fence(failing.scope, FAILOVER)
    for name in (SOURCE_MIRROR, CHECKPOINTS):
        assert failing.world.connector("dc-b", name).state is ConnectorState.STOPPED
    assert not failing.world.users_open("dc-b")
    assert failing.world.fenced_tasks() >= 0


async def test_a_stop_that_hangs_is_bounded_and_then_the_fence_counts(
    build: Callable[..., Failing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork, "STOP_SECONDS", 0.05)
    failing = await taken(build(gated=False))
    failing.world.leave_a_status("dc-b", SOURCE_MIRROR)
    assert await fork.fence(failing.scope, FAILOVER) == 2


async def test_what_is_written_down_is_what_the_target_holds_and_the_journal_saw(build: Callable[..., Failing]) -> None:
    failing = build(failover=FailoverPolicy(even_behind_acls="a link of our own"), gated=False)
    failing.world.pump(20)
    await failing.looks(3)
    failing.world.mirror_rate(0)
    failing.world.produce("dc-a", "orders", 0, ["lost", "lost too"])
    failing.world.create_topic("dc-a", "brand-new", 1)
    failing.world.produce("dc-a", "brand-new", 0, ["lost as well"])
    await failing.looks(1)
    await failing.lost()
    await failing.take_up()
    await fork.fence(failing.scope, FAILOVER)
    book = LedgerBook()
    entry, written = await fork.record(failing.scope, FAILOVER, book)
    assert await LedgerBook().read_fork(failing.scope, FAILOVER, entry.digest) == written
    rows = written.by_partition
    row = rows[ORDERS]
    assert (row.target_end, row.source_end) == (
        failing.world.ends("dc-b", "orders", 0).leo, failing.world.ends("dc-a", "orders", 0).leo,
    )  # fmt: skip
    assert row.mirrored == failing.world.ends("dc-a", "orders", 0).leo - 3
    assert (row.source_topic_id is None, row.target_topic_id == "") == (False, False)
    new = rows[TopicPartition("brand-new", 0)]
    assert (new.target_topic_id, new.target_end, new.source_end) == ("", 0, 1)
    assert not [place for place in rows if place.topic.endswith(".internal") or place.topic == "heartbeats"]
    assert written.bound.known == 3
    assert written.bound.records is not None
    assert written.bound.records > 3
    assert "a link of our own" in written.bound.why


async def test_without_a_journal_the_targets_side_is_written_and_nobody_knows_the_loss(
    build: Callable[..., Failing],
) -> None:
    failing = build()
    await failing.beat()
    await failing.lost()
    await failing.take_up()
    await fork.fence(failing.scope, FAILOVER)
    _, written = await fork.record(failing.scope, FAILOVER, LedgerBook())
    assert written.bound.records is None
    assert written.by_partition[ORDERS].source_end is None


async def test_a_target_that_still_grows_is_not_written_down(
    build: Callable[..., Failing], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = await taken(build())
    looks, late = settle.settled, ["late"]

    async def growing(*given: Any) -> Any:
        found = await looks(*given)
        if late:
            failing.world.late_append("dc-b", "orders", 0, [late.pop()])
        return found

    monkeypatch.setattr(settle, "settled", growing)
    with pytest.raises(NotYetError, match="still grows although it is closed: orders-0"):
        await fork.record(failing.scope, FAILOVER, LedgerBook())


async def test_a_late_attempt_does_nothing(build: Callable[..., Failing]) -> None:
    failing = await taken(build())
    opened = {"phase": Phase.OPEN, "holder": "dc-a", "epoch": 3, "op_id": None, "seq": 99}
    failing.world.set_lease(failing.record.model_copy(update=opened).model_dump_json())
    for act in (fork.fence(failing.scope, FAILOVER), fork.record(failing.scope, FAILOVER, LedgerBook())):
        with pytest.raises(SupersededError, match=re.escape(FAILOVER.id)):
            await act
    assert failing.world.fenced_tasks() == 0
    assert not [key for key in failing.world.ledger("dc-b") if "/fork/" in key]


async def test_an_entry_that_was_altered_or_is_missing_is_not_believed(build: Callable[..., Failing]) -> None:
    failing = await taken(build())
    book = LedgerBook()
    with pytest.raises(NotYetError, match="not on dc-b"):
        await book.read_fork(failing.scope, FAILOVER, "d")
    await failing.scope.member("dc-b").ledger.put("lab/op-6/fork/d", b"{}")
    with pytest.raises(MisconfiguredError, match="altered"):
        await book.read_fork(failing.scope, FAILOVER, "d")
