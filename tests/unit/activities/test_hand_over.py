"""The point of no return, step by step over the stand-in world: which attempt may win, and when none may."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.cut import CutActivities
from activities.fence import FenceActivities
from activities.lease import LeaseActivities
from activities.mirror import MirrorActivities
from adapters.memory import MemoryWorld, memory_directory
from dcdr.book import LedgerBook
from dcdr.errors import DeadlineError, SupersededError
from dcdr.model import EntryRef, HandoverResult, LeaseRecord, Operation, Phase, StepInput, StepResult
from dcdr.ports import Directory, Scope

OPERATION = Operation(scope="lab", id="op-1", epoch=1, source="dc-a", target="dc-b")


async def do(step: Callable[..., Any], given: StepInput) -> Any:
    return await ActivityEnvironment().run(step, given)


class Frozen(LeaseActivities):
    """A worker that freezes between its last look and its swap, until `go`."""

    def __init__(self, directory: Directory, book: LedgerBook) -> None:
        super().__init__(directory, book)
        self.looked, self.go = asyncio.Event(), asyncio.Event()

    async def _changes(self, scope: Scope, operation: Operation, entry: EntryRef) -> list[str]:
        found = await super()._changes(scope, operation, entry)
        self.looked.set()
        await asyncio.wait_for(self.go.wait(), 5)
        return found


class Estate:
    """A world whose switchover has come as far as the ledger entry."""

    def __init__(self, path: Path, **world: Any) -> None:
        self.world = MemoryWorld.create(path, open_transaction=False, **world)
        self.directory = memory_directory(path)
        self.book = LedgerBook()
        self.lease = LeaseActivities(self.directory, self.book)
        self.cut = CutActivities(self.directory, self.book)
        self.mirror = MirrorActivities(self.directory, self.book)

    async def close(self) -> EntryRef:
        """Everything up to the handover."""
        fence = FenceActivities(self.directory)
        for step in (self.lease.begin, fence.close, fence.freeze):
            await do(step, StepInput(operation=OPERATION))
        return await self.drain()

    async def drain(self) -> EntryRef:
        cut: StepResult = await do(self.cut.take, StepInput(operation=OPERATION))
        await do(self.cut.prove, StepInput(operation=OPERATION, entry=cut.entry))
        closed: StepResult = await do(self.cut.close_mirror, StepInput(operation=OPERATION, entry=cut.entry))
        assert closed.entry is not None
        return closed.entry

    async def hand_over(self, entry: EntryRef, lease: LeaseActivities | None = None) -> HandoverResult:
        result: HandoverResult = await do((lease or self.lease).hand_over, StepInput(operation=OPERATION, entry=entry))
        return result

    async def frozen(self, entry: EntryRef) -> tuple[asyncio.Task[HandoverResult], asyncio.Event]:
        """An attempt that has looked, found nothing, and froze; and what thaws it."""
        worker = Frozen(self.directory, self.book)
        attempt = asyncio.create_task(self.hand_over(entry, worker))
        await asyncio.wait_for(worker.looked.wait(), 5)
        return attempt, worker.go

    @property
    def record(self) -> LeaseRecord:
        record = self.world.lease()
        assert record is not None
        return record


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Estate]:
    return lambda **world: Estate(tmp_path / "lab.world", **world)


async def test_a_handover_names_the_entry_and_a_second_one_changes_nothing(build: Callable[..., Estate]) -> None:
    estate = build()
    entry = await estate.close()
    for _ in range(2):
        result = await estate.hand_over(entry)
        assert (result.changed, result.note) == ((), "dc-b holds the lease, epoch 2")
    record = estate.record
    assert (record.holder, record.epoch, record.phase, record.op_id) == ("dc-b", 2, Phase.OPEN, "op-1")
    assert record.ledger == entry.digest


async def test_a_change_after_the_cut_hands_nothing_over(build: Callable[..., Estate]) -> None:
    estate = build()
    entry = await estate.close()
    estate.world.late_append("dc-a", "orders", 1, ["late"])
    result = await estate.hand_over(entry)
    assert len(result.changed) == 1
    assert "orders-1: cut at" in result.changed[0]
    assert (estate.record.holder, estate.record.phase) == ("dc-a", Phase.DRAINING)


async def test_an_attempt_that_froze_after_its_look_loses_against_the_one_that_saw_a_change(
    build: Callable[..., Estate],
) -> None:
    """Else its ledger entry, without the late record, would count, and the record would be lost."""
    estate = build()
    entry = await estate.close()
    first, go = await estate.frozen(entry)
    estate.world.late_append("dc-a", "orders", 1, ["late"])
    assert (await estate.hand_over(entry)).changed
    go.set()
    with pytest.raises(SupersededError):
        await first
    assert estate.record.phase is Phase.DRAINING

    await do(estate.mirror.restore, StepInput(operation=OPERATION))
    renewed = await estate.drain()
    assert (await estate.hand_over(renewed)).changed == ()
    assert estate.record.ledger == renewed.digest
    assert "late" in estate.world.values("dc-b", "orders", 1)


async def test_an_attempt_that_froze_after_its_look_loses_against_the_undo(build: Callable[..., Estate]) -> None:
    estate = build()
    entry = await estate.close()
    late, go = await estate.frozen(entry)
    await do(estate.lease.reopen, StepInput(operation=OPERATION))
    go.set()
    with pytest.raises(SupersededError):
        await late
    with pytest.raises(SupersededError, match="is reopened"):
        await estate.hand_over(entry)
    assert (estate.record.holder, estate.record.phase) == ("dc-a", Phase.OPEN)


async def test_an_undo_that_comes_after_the_handover_says_that_there_is_only_forward(
    build: Callable[..., Estate],
) -> None:
    estate = build()
    await estate.hand_over(await estate.close())
    result = await do(estate.lease.reopen, StepInput(operation=OPERATION))
    assert (result.moved, result.begun) == (True, True)
    assert estate.record.holder == "dc-b"


async def test_an_undo_before_the_intent_changes_nothing(build: Callable[..., Estate]) -> None:
    estate = build()
    before = estate.record
    result = await do(estate.lease.reopen, StepInput(operation=OPERATION))
    assert (result.moved, result.begun) == (False, False)
    assert estate.record == before


async def test_past_the_operations_deadline_nobody_hands_over(build: Callable[..., Estate]) -> None:
    estate = build(operation_deadline=timedelta(seconds=0))
    entry = await estate.close()
    with pytest.raises(DeadlineError, match=r"did not reach its handover by .*drain\.operation_deadline"):
        await estate.hand_over(entry)
    assert estate.record.phase is Phase.DRAINING


async def test_a_handover_whose_answer_was_lost_is_found_out_by_the_next_attempt(build: Callable[..., Estate]) -> None:
    estate = build()
    entry = await estate.close()
    estate.world.lose_answer("lease.swap")
    with pytest.raises(Exception, match="answer"):
        await estate.hand_over(entry)
    assert (await estate.hand_over(entry)).note == "dc-b holds the lease, epoch 2"
    assert estate.record.seq == 3, "begun, closed, moved"


async def test_a_leftover_is_found_with_the_entry_its_handover_named(build: Callable[..., Estate]) -> None:
    estate = build()
    entry = await estate.close()
    before = await ActivityEnvironment().run(estate.lease.leftover, "lab")
    assert (before.operation, before.moved, before.entry) == (OPERATION, False, None)
    await estate.hand_over(entry)
    after = await ActivityEnvironment().run(estate.lease.leftover, "lab")
    assert (after.operation, after.moved, after.entry) == (OPERATION, True, entry)
