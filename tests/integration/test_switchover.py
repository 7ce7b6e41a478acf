"""Switchovers on the real lab under load; the independent checker has the last word on each.

All tests share one lab and go on from the side the last one ended on; the checker judges everything since it was fresh.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from activities.failpoints import Failpoint
from dcdr.model import GroupVerdict, Outcome
from lab.check.report import as_table
from tests.integration.support import Stage, until
from workflows import steps
from workflows.switchover import SwitchoverWorkflow

pytestmark = pytest.mark.timeout(420)
LONG_TRANSACTION_MS = 300_000


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.thorough)])
async def test_there_and_back_under_load_loses_and_doubles_nothing(stage: Stage, times: int) -> None:
    before = stage.lease().epoch
    async with stage.worker(), stage.load() as load:
        for _ in range(2 * times):
            here, there = stage.here(), stage.there()
            await stage.flowing(load, here)
            report = await stage.switch(there)
            assert all(step.state == "done" for step in report.steps), report.steps
            await stage.flowing(load, there)
    await stage.at_rest(stage.here(), before + 2 * times)
    checked = await stage.clean(min_acks=200)
    assert len(checked.moves) >= 2 * times
    assert all(sum(move.windows) > 0 for move in checked.moves), "traffic stood still before a fence"
    assert int(str(checked.verdict.facts["refused"])) > 0, list(as_table(checked))


async def test_an_abort_while_the_drain_cannot_finish_leaves_everything_as_before(stage: Stage) -> None:
    here, there = stage.here(), stage.there()
    link = f"{there}->{here}:kafka"
    hold = Failpoint(steps.CLOSE.name, "before", "hold")
    async with stage.worker(hold) as worker, stage.load() as load:
        await stage.flowing(load, here)
        handle = await stage.start(there)
        await worker.reached(hold)
        stage.lab.fault.cut(link)
        await stage.flowing(load, here)  # what the mirror cannot get any more
        worker.release()

        async def draining() -> bool:
            table = await handle.query(SwitchoverWorkflow.report_steps)
            return any(step.name == steps.DRAIN.name and step.state == "NOW" for step in table)

        await until("the drain", draining, 60)
        assert [fault.kind for fault in stage.lab.fault.active()] == ["cut"]
        await stage.abort("the mirror is cut off")
        stage.lab.fault.heal()
        ended = await stage.ended(handle)
        assert ended.report is not None
        assert ended.report.outcome is Outcome.AS_BEFORE
        assert {step.name for step in ended.report.steps if step.state == "undone"} >= {steps.CLOSE.name}
        await stage.flowing(load, here)
    await stage.at_rest(here)
    await stage.clean()


async def test_what_was_terminated_after_the_handover_is_finished_by_the_next_start(stage: Stage) -> None:
    here, there = stage.here(), stage.there()
    hold = Failpoint(steps.OPEN.name, "before", "hold")
    async with stage.worker(hold) as worker, stage.load() as load:
        await stage.flowing(load, here)
        handle = await stage.start(there)
        await worker.reached(hold)
        await handle.terminate("by hand")
        left = stage.lease()
        assert (left.holder, left.op_id) == (there, handle.first_execution_run_id)
        worker.release()
        # Nobody can write anywhere now; whoever starts next, wherever to, first finishes what was left.
        report = await stage.switch(here)
        assert f"finished {left.op_id}" in report.recovered[0]
        await stage.flowing(load, here)
    await stage.at_rest(here, left.epoch + 1)
    # Whether a client found the other side while it was open is chance; that it was open, the epoch says.
    stage.moves, stage.maybe = stage.moves - 1, 2
    await stage.clean()


async def test_a_worker_killed_between_handover_and_opening_is_replaced(stage: Stage, marks: Path) -> None:
    here, there = stage.here(), stage.there()
    kill = Failpoint(steps.OPEN.name, "before", "kill")
    async with stage.load(parked=True) as load:
        async with stage.worker(kill, marks=marks) as first:
            await stage.flowing(load, here)
            handle = await stage.start(there)
            assert await first.died() == -signal.SIGKILL
            assert first.fired(kill)
            assert stage.lease().holder == there
        async with stage.worker(kill, marks=marks):
            stage.done(await stage.ended(handle), there)
            await stage.flowing(load, there)
    await stage.at_rest(there)
    await stage.clean()


async def test_a_lost_answer_of_the_handover_ends_right_whether_it_committed_or_not(stage: Stage) -> None:
    epoch = stage.lease().epoch
    async with stage.load() as load:
        for moment in ("before", "after"):
            there = stage.there()
            lose = Failpoint(steps.HAND_OVER.name, moment, "lose")
            async with stage.worker(lose) as worker:
                await stage.flowing(load, stage.here())
                await stage.switch(there)
                assert worker.fired(lose)
                await stage.flowing(load, there)
    await stage.at_rest(stage.here(), epoch + 2)
    await stage.clean()


async def test_an_open_transaction_and_groups_with_members_are_fenced_and_frozen_not_waited_for(stage: Stage) -> None:
    here, there = stage.here(), stage.there()
    app = stage.lab.client_config("app", here)
    settings = {"transactional.id": "lab-open", "transaction.timeout.ms": LONG_TRANSACTION_MS}
    producer = Producer({**app, **settings})
    stays = {"enable.auto.commit": False, "auto.offset.reset": "earliest", "isolation.level": "read_committed"}
    consumer = Consumer({**app, **stays, "group.id": "stays"})
    async with stage.worker(), stage.load() as load:
        await stage.flowing(load, here, 600)
        await asyncio.to_thread(producer.init_transactions, 30)
        producer.begin_transaction()
        producer.produce("payments", b"never committed", key="open", partition=0)
        assert await asyncio.to_thread(producer.flush, 10) == 0
        left = await asyncio.to_thread(_read_some, consumer)
        began = time.monotonic()
        report = await stage.switch(there)
        took = time.monotonic() - began
        await stage.flowing(load, there)
    assert "lab-open" in report.transactions_fenced
    assert took < 60, "it was waited for"
    groups = {group.group: group for group in report.groups}
    assert groups["stays"].lag > 0
    assert groups["stays"].verdict is GroupVerdict.EXACT or groups["stays"].note
    assert groups["load-lag"].lag > 0
    if groups["stays"].verdict is GroupVerdict.EXACT:
        assert await asyncio.to_thread(_next_values, stage, there) == left
    await asyncio.to_thread(consumer.close)
    await stage.at_rest(there)
    await stage.clean()


def _take(consumer: Consumer) -> tuple[int, int, bytes] | None:
    """(partition, offset, value) of the next record, if one came within a second."""
    message = consumer.poll(1.0)
    if message is None or message.error() is not None:
        return None
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    return partition, offset, message.value() or b""


def _read_some(consumer: Consumer) -> dict[int, bytes]:
    """Read some of `orders`, commit, stay a member; returns for each committed partition the first value behind it."""
    consumer.subscribe(["orders"])
    seen: Counter[int] = Counter()
    left: dict[int, bytes] = {}
    deadline = time.monotonic() + 30
    while sum(seen.values()) < 100 and time.monotonic() < deadline:
        if (taken := _take(consumer)) is not None:
            partition, offset, value = taken
            seen[partition] += 1
            if seen[partition] == 5:
                consumer.commit(offsets=[TopicPartition("orders", partition, offset)], asynchronous=False)
                left[partition] = value
    assert left
    return left


def _next_values(stage: Stage, member: str) -> dict[int, bytes]:
    """What the group `stays` would read next on `member`, of the partitions it committed."""
    config = stage.lab.client_config("admin", member, "INTERNAL")
    reader = Consumer({**config, "group.id": "stays", "enable.auto.commit": False, "isolation.level": "read_committed"})
    try:
        places = reader.committed([TopicPartition("orders", number) for number in range(12)], timeout=10)
        wanted = [place for place in places if place.offset >= 0]
        reader.assign(wanted)
        found: dict[int, bytes] = {}
        deadline = time.monotonic() + 30
        while len(found) < len(wanted) and time.monotonic() < deadline:
            if (taken := _take(reader)) is not None:
                found.setdefault(taken[0], taken[2])
        return found
    finally:
        reader.close()
