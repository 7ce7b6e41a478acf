"""Transactions, the cut and the drain over the stand-in world, where the core's rules meet what servers answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from activities import cut as steps
from activities.fence import FenceActivities
from dcdr import settle
from dcdr.errors import ConflictError, DcdrError, DeadlineError, MirrorContentError, MisconfiguredError, NotYetError
from dcdr.model import StepInput, StepResult, TopicPartition, Verdict
from tests.unit.activities.test_hand_over import OPERATION, Estate, do

MIRROR = "mm2-source.dc-a-to-dc-b"


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Estate]:
    return lambda **world: Estate(tmp_path / "lab.world", **world)


async def cut(estate: Estate) -> StepInput:
    await do(estate.lease.begin, StepInput(operation=OPERATION))
    await do(FenceActivities(estate.directory).close, StepInput(operation=OPERATION))
    taken: StepResult = await do(estate.cut.take, StepInput(operation=OPERATION))
    return StepInput(operation=OPERATION, entry=taken.entry)


async def test_a_late_record_that_was_mirrored_before_the_proof_does_not_fail_the_drain(
    build: Callable[..., Estate],
) -> None:
    estate = build()
    order = await cut(estate)
    estate.world.late_append("dc-a", "orders", 1, ["late"])
    estate.world.pump(3)
    assert "late" in estate.world.values("dc-b", "orders", 1)
    proven: StepResult = await do(estate.cut.prove, order)
    assert proven.counts["partitions"] > 0
    closed: StepResult = await do(estate.cut.close_mirror, order)
    assert closed.entry is not None
    assert (await estate.hand_over(closed.entry)).changed


async def test_a_stored_offset_that_runs_ahead_of_the_copies_is_found_by_the_content(
    build: Callable[..., Estate],
) -> None:
    """By the offsets all is drained; the records are not there."""
    estate = build()
    estate.world.mirror_rate(0)
    estate.world.produce("dc-a", "orders", 1, count=4)
    place = TopicPartition("orders", 1)
    estate.world.stored_offset("dc-b", MIRROR, place, estate.world.ends("dc-a", "orders", 1).leo - 1)
    order = await cut(estate)
    assert (await do(estate.cut.prove, order)).counts["looks"] == 1
    with pytest.raises(MirrorContentError, match=r"1 partitions on dc-b are not the source's .for example orders-1"):
        await do(estate.cut.close_mirror, order)


async def test_every_partition_of_the_ledger_carries_its_verdict(build: Callable[..., Estate]) -> None:
    estate = build()
    order = await cut(estate)
    await do(estate.cut.prove, order)
    closed: StepResult = await do(estate.cut.close_mirror, order)
    ledger = await estate.book.read(estate.directory.scope("lab"), OPERATION, closed.entry)
    assert {row.verdict for row in ledger.rows} >= {Verdict.COMPARED}
    assert all(row.verdict is not None for row in ledger.rows)
    assert closed.counts["compared"] == sum(row.verdict is Verdict.COMPARED for row in ledger.rows)


async def test_a_stored_offset_of_another_log_fails_the_drain_at_once(build: Callable[..., Estate]) -> None:
    estate = build()
    order = await cut(estate)
    # Its tasks have failed: running ones would jump to the beginning without a word, and store an offset of this log.
    estate.world.set_connector("dc-b", MIRROR, tasks=[])
    estate.world.stored_offset("dc-b", MIRROR, TopicPartition("orders", 0), 9_999)
    with pytest.raises(MisconfiguredError, match="stored offset 9999 of orders-0"):
        await do(estate.cut.prove, order)


async def test_a_mirror_that_does_not_catch_up_is_told_by_partition_when_the_time_is_over(
    build: Callable[..., Estate],
) -> None:
    estate = build(drain_deadline=timedelta(milliseconds=50))
    estate.world.mirror_rate(0)
    estate.world.produce("dc-a", "orders", 2, count=3)
    order = await cut(estate)
    with pytest.raises(
        DeadlineError, match=rf"1 partitions, at most 3 records left \(orders-2 from .*{MIRROR} on dc-b"
    ):
        await do(estate.cut.prove, order)


async def test_a_log_that_does_not_settle_gives_no_cut(
    build: Callable[..., Estate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "SETTLE_SECONDS", 0.05)
    estate = build()
    estate.world.stall_follower("dc-a", "orders", 0)
    estate.world.produce("dc-a", "orders", 0)
    with pytest.raises(
        NotYetError, match=r"dc-a does not settle, 1 partitions: orders-0: log end 13, high watermark 12"
    ):
        await cut(estate)


async def test_open_transactions_of_users_are_aborted_at_once_and_named(build: Callable[..., Estate]) -> None:
    estate = build()
    estate.world.begin("dc-a", "app-7")
    estate.world.produce("dc-a", "payments", 0, ["half"], txn="app-7")
    await do(estate.lease.begin, StepInput(operation=OPERATION))
    fenced = await do(estate.cut.fence_transactions, StepInput(operation=OPERATION))
    assert fenced.fenced == ("app-7",)
    assert estate.world.end("dc-a", "app-7").value == "refused"
    assert estate.world.ends("dc-a", "payments", 0).settled


async def test_a_transaction_that_was_on_no_list_does_not_hold_the_cut_until_it_times_out(
    build: Callable[..., Estate],
) -> None:
    estate = build()
    await do(estate.lease.begin, StepInput(operation=OPERATION))
    assert (await do(estate.cut.fence_transactions, StepInput(operation=OPERATION))).note == "none was open"
    estate.world.begin("dc-a", "app-8")
    estate.world.produce("dc-a", "payments", 1, ["late half"], txn="app-8")
    taken: StepResult = await do(estate.cut.take, StepInput(operation=OPERATION))
    assert taken.note.endswith("; fenced late: app-8")
    assert taken.took.total_seconds() < settle.SETTLE_SECONDS / 2


@pytest.mark.parametrize("error", [ConflictError, MisconfiguredError])
async def test_a_drain_leaves_nothing_running_behind_when_connect_does_not_tell_the_mirrors_tasks(
    build: Callable[..., Estate], error: type[DcdrError]
) -> None:
    """A proof that went on after its attempt had failed could restart the mirror that the next one closes."""
    estate = build()
    order = await cut(estate)
    estate.world.fail("connect.connectors", error=error)
    before = asyncio.all_tasks()
    try:
        proven: StepResult = await do(estate.cut.prove, order)
        assert proven.counts["looks"] >= 1
    except MisconfiguredError:
        assert error is MisconfiguredError
    assert asyncio.all_tasks() <= before


@pytest.mark.parametrize(
    ("topic", "users"),
    [
        ("orders", True),
        ("__consumer_offsets", True),
        ("__transaction_state", False),
        ("connect-offsets.internal", False),
    ],
)
def test_a_transaction_that_only_commits_positions_is_a_users_too(topic: str, users: bool) -> None:
    assert steps._users(topic, frozenset()) is users
