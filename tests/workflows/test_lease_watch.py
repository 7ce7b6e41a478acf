"""The watch against a real Temporal server and stand-in worlds: it misses nothing, and does nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from activities import watch as looking
from adapters.memory import MemoryWorld, memory_directory
from dcdr import watching
from dcdr.errors import InvalidRequestError, UnreachableError
from dcdr.model import FailoverRequest, LeaseRecord, OperationKind, Phase
from dcdr.watching import Sight, Watching, WatchState
from starter import watch as front
from tests.workflows.harness import Case, Forks
from tests.workflows.stand_ins import STAND_INS, OtherOperation, StandInFailover
from worker import assembly, watchdog
from worker.assembly import build_site_worker
from worker.watchdog import Looks, Watchdog
from workflows.lookout import ensure_running, look
from workflows.temporal import TASK_TIMEOUT, tail_id, watch_id
from workflows.transition import transition_id

SECONDS = 60.0
CHILD = EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the watch starts is not what is tested here."""
    names = {"Failover", "Tail"}
    real = [one for one in assembly.WORKFLOWS if one.__dict__["__temporal_workflow_definition"].name not in names]
    monkeypatch.setattr(assembly, "WORKFLOWS", [*real, *STAND_INS])


@dataclass
class Watch:
    """A running watch and what a test asks of it."""

    case: Case

    @property
    def handle(self) -> WorkflowHandle[Any, Any]:
        return self.case.client.get_workflow_handle(watch_id(self.case.scope))

    @property
    def transition(self) -> WorkflowHandle[Any, Any]:
        return self.case.client.get_workflow_handle(transition_id(self.case.scope))

    async def now(self) -> Watching:
        found: Watching = await self.handle.query("watching", result_type=Watching)
        return found

    async def until(self, met: Callable[[WatchState], bool]) -> WatchState:
        """Wait until the watch's state is as `met` wants it."""
        state = None
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    with contextlib.suppress(RPCError):  # between two runs, or no worker just now
                        state = (await self.now()).state
                        if met(state):
                            return state
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            error.add_note(f"the state is {state}")
            raise

    async def sees(self, record: LeaseRecord) -> WatchState:
        return await self.until(lambda s: s.record is not None and Sight.of(s.record) == Sight.of(record))

    async def children(self) -> int:
        """How often this run of the watch asked for a child."""
        return sum(event.event_type == CHILD for event in (await self.handle.fetch_history()).events)

    def write(self, record: LeaseRecord) -> LeaseRecord:
        """Put `record` into the store, as an agent would."""
        self.case.world.set_lease(record.model_dump_json())
        return record

    def change(self, **update: Any) -> LeaseRecord:
        before = self.case.lease
        return self.write(before.model_copy(update={"seq": before.seq + 1, **update}))

    def taken_over(self) -> LeaseRecord:
        before = self.case.lease
        to = "dc-b" if before.holder == "dc-a" else "dc-a"
        return self.change(holder=to, epoch=before.epoch + 1, phase=Phase.ACQUIRED, op_id=None, mirrored=False)


@contextlib.asynccontextmanager
async def watched(case: Case, *sites: str, **state: Any) -> AsyncIterator[Watch]:
    """A watch that has seen the lease once, with a worker, and one more for each of `sites`."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(case.worker())
        for dc in sites:
            worker = build_site_worker(case.client, memory_directory(case.path), dc, task_queue=case.queue)
            await stack.enter_async_context(worker)
        await begin(case, **state)
        watch = Watch(case)
        await watch.until(lambda found: found.record is not None)
        yield watch


async def begin(case: Case, **state: Any) -> None:
    await case.client.start_workflow(
        "LeaseWatch",
        WatchState(scope=case.scope, **state),
        id=watch_id(case.scope),
        task_queue=case.queue,
        task_timeout=TASK_TIMEOUT,
    )


async def test_a_takeover_starts_one_failover_to_whoever_took_over(case: Case) -> None:
    async with watched(case) as watch:
        watch.change()
        watch.taken_over()
        state = await watch.until(lambda s: s.failovers == 1)
        assert state.busy_epoch == 2
        begun = (await watch.transition.fetch_history()).events[0].workflow_execution_started_event_attributes
        (request,) = await case.client.data_converter.decode(begun.input.payloads)
        assert (request["scope"], request["target"], request["requested_by"]) == (case.scope, "dc-b", "watch")
        # The failover goes its way through the record; that starts nothing more.
        for update in (
            {"op_id": "f-1", "op_kind": OperationKind.FAILOVER},
            {"phase": Phase.OPEN, "behind": "dc-a"},
        ):
            await watch.sees(watch.change(**update))
        assert (await watch.now()).state.failovers == 1
        assert await watch.transition.query("superseded") == 0


async def test_three_sites_that_see_the_same_change_start_one_failover(case: Case) -> None:
    async with watched(case, "dc-a", "dc-b", "dc-c") as watch:
        watch.taken_over()
        state = await watch.until(lambda s: s.failovers == 1 and s.duplicates == 3)
        assert (state.changes, state.sites) == (2, ("dc-a", "dc-b", "dc-c"))
        assert await watch.children() == 1
        found = await look(case.client, case.scope)
        assert [site.site for site in found.sites] == ["any", "dc-a", "dc-b", "dc-c"]


async def test_an_operation_in_the_way_is_superseded_and_the_failover_follows(case: Case) -> None:
    async with watched(case) as watch:
        other = await case.client.start_workflow(
            OtherOperation.run, id=transition_id(case.scope), task_queue=case.queue, task_timeout=TASK_TIMEOUT
        )
        watch.taken_over()
        state = await watch.until(lambda s: s.failovers == 1)
        assert (state.superseded, state.told_epoch) == (1, 2)
        theirs = case.client.get_workflow_handle(other.id, run_id=other.first_execution_run_id)
        assert await theirs.query("superseded") == 1
        assert (await watch.transition.describe()).workflow_type == "Failover"


async def test_an_operation_that_does_not_heed_it_is_waited_for(case: Case) -> None:
    """As a failover that a person has asked for does not."""
    async with watched(case) as watch:
        first = await case.client.start_workflow(
            StandInFailover.run,
            FailoverRequest(scope=case.scope, target="dc-b", requested_by="watch"),
            id=transition_id(case.scope),
            task_queue=case.queue,
        )
        watch.taken_over()
        await watch.until(lambda s: s.superseded == 1)
        assert (await watch.now()).state.failovers == 0
        await first.signal("end", True)
        state = await watch.until(lambda s: s.failovers == 1)
        assert state.superseded == 1
        theirs = case.client.get_workflow_handle(first.id, run_id=first.first_execution_run_id)
        assert await theirs.query("superseded") == 1


async def test_a_failover_that_ended_unfinished_is_started_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FIRST_PAUSE", timedelta(seconds=0.3))
    async with watched(case) as watch:
        watch.taken_over()
        await watch.until(lambda s: s.failovers == 1)
        await watch.transition.signal("end", False)
        await watch.until(lambda s: s.failovers == 2 and s.busy)
        watch.change(phase=Phase.OPEN, op_id="f-1", op_kind=OperationKind.FAILOVER)
        await watch.transition.terminate("somebody did this by hand")
        state = await watch.until(lambda s: s.failovers == 3)
        assert state.tries == 3


async def test_a_takeover_while_no_worker_runs_is_seen_by_the_next_one(case: Case, forks: Forks) -> None:
    process = await case.spawn(forks)
    try:
        await begin(case)
        watch = Watch(case)
        await watch.until(lambda found: found.record is not None)
    finally:
        await process.end()
    watch.taken_over()
    async with case.worker():
        await watch.until(lambda s: s.failovers == 1)
        assert await watch.children() == 1


async def test_a_watch_that_was_terminated_is_not_alive_until_somebody_ensures_it(case: Case) -> None:
    async with watched(case) as watch:
        assert (await front.living(case.client, case.scope, SECONDS)).alive
        assert not await ensure_running(case.client, case.scope, task_queue=case.queue)
        await watch.handle.terminate("by mistake")
        found = await look(case.client, case.scope)
        assert (found.status, found.alive) == ("TERMINATED", False)
        assert "NOT ALIVE" in front.table(found)
        watch.taken_over()
        said: list[str] = []
        await front.ensured(case.client, case.scope, said.append, task_queue=case.queue)
        assert said == [f"the watch of {case.scope} was not running: started it"]
        await watch.until(lambda s: s.failovers == 1)
        found = await front.living(case.client, case.scope, SECONDS)
        assert found.alive
        assert "dc-b ACQUIRED, epoch 2" in front.table(found)


async def test_a_fresh_history_keeps_what_was_known(case: Case) -> None:
    async with watched(case, changes_per_run=3) as watch:
        watch.taken_over()
        await watch.until(lambda s: s.failovers == 1)
        for n in range(6):
            await watch.sees(watch.change(op_id=f"f-{n}", op_kind=OperationKind.FAILOVER))
        state = await watch.until(lambda s: s.runs == 2)
        assert (state.failovers, state.changes, state.busy, state.tried_epoch) == (1, 8, True, 2)
        await watch.transition.signal("end", True)
        await watch.until(lambda s: not s.busy)


async def test_two_hundred_changes_are_all_seen_and_histories_stay_short(case: Case) -> None:
    async with watched(case, "dc-a", changes_per_run=50) as watch:
        longest, began = 0, time.monotonic()
        for n in range(200):
            await watch.sees(watch.change(op_id=f"s-{n}", phase=Phase.DRAINING))
            if n % 10 == 0:
                longest = max(longest, (await watch.now()).events)
        state = await watch.until(lambda s: s.runs >= 3)
        assert (state.changes, state.failovers, state.failures) == (201, 0, 0)
        assert longest < 50 * 25
        print(f"{(time.monotonic() - began) / 200 * 1000:.0f} ms a change, longest history {longest} events")


async def test_a_site_that_cannot_look_is_counted_and_the_others_go_on(case: Case, tmp_path: Any) -> None:
    elsewhere = MemoryWorld.create(tmp_path / "elsewhere.world", scope="elsewhere")
    strange = build_site_worker(case.client, elsewhere.directory(), "dc-a", task_queue=case.queue)
    async with strange, watched(case, "dc-b") as watch:
        state = await watch.until(lambda s: s.failures >= 2)
        assert state.failures < 5
        assert "no scope" in (await watch.now()).sites["dc-a"]
        watch.taken_over()
        await watch.until(lambda s: s.failovers == 1)


async def test_a_store_that_gives_no_answer_for_a_while_costs_no_history(case: Case) -> None:
    async with watched(case) as watch:
        case.world.fail("lease.read", error=UnreachableError, times=8)
        watch.taken_over()
        state = await watch.until(lambda s: s.failovers == 1)
        assert state.failures == 0
        assert (await watch.now()).events < 60


async def test_the_tail_is_computed_once_when_the_old_side_answers(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "OLD_SIDE_EVERY", 0.05)
    case.world.cut_off("dc-a")
    async with watched(case) as watch:
        await watch.sees(watch.change(holder="dc-b", epoch=2, behind="dc-a"))
        await asyncio.sleep(0.5)  # it asks every 50 ms, and gets no answer
        assert (await watch.now()).state.tails == 0
        case.world.cut_off("dc-a", away=False)
        await watch.until(lambda s: s.tails == 1)
        tail = case.client.get_workflow_handle(tail_id(case.scope))
        assert (await tail.describe()).workflow_type == "Tail"
        await tail.signal("end", True)
        await watch.handle.execute_update("check_now", result_type=str)
        assert await watch.children() == 1


async def test_somebody_may_ask_for_a_look_now(case: Case) -> None:
    async with watched(case) as watch:
        watch.taken_over()
        said = await watch.handle.execute_update("check_now", result_type=str)
        assert said == "dc-b ACQUIRED, epoch 2"
        assert (await watch.now()).state.failovers == 1


async def test_a_worker_that_watches_stops_at_once(case: Case) -> None:
    async with case.worker():
        await begin(case)
        await Watch(case).until(lambda s: s.record is not None)
        assert (await front.living(case.client, case.scope, SECONDS)).alive
        began = time.monotonic()
    assert time.monotonic() - began < 5


async def test_the_watch_of_a_scope_that_nobody_serves_says_so_and_ends(case: Case) -> None:
    async with case.worker():
        await ensure_running(case.client, "nowhere", task_queue=case.queue)
        with pytest.raises(InvalidRequestError, match="no scope 'nowhere'"):
            await front.living(case.client, "nowhere", SECONDS)


@pytest.mark.parametrize(("given", "said"), [("null", "input is null"), ("other id", "under the workflow id")])
async def test_a_watch_under_another_id_or_without_input_is_refused(case: Case, given: str, said: str) -> None:
    async with case.worker():
        state = None if given == "null" else WatchState(scope=case.scope)
        handle = await case.client.start_workflow(
            "LeaseWatch", state, id=f"elsewhere-{case.scope}", task_queue=case.queue, task_timeout=TASK_TIMEOUT
        )
        with pytest.raises(WorkflowFailureError) as failure:
            await handle.result()
        assert isinstance(failure.value.cause, ApplicationError)
        assert said in failure.value.cause.message


async def test_the_watchdog_starts_the_watch_and_cries_when_nobody_looks(
    case: Case, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "ALARM_SECONDS", 0.0)
    looks = Looks()
    dog = Watchdog(case.client, case.world.directory(), looks, task_queue=case.queue)
    with caplog.at_level(logging.INFO, "dcdr.watchdog"):
        assert not await dog.check(case.scope)
        assert not await dog.check(case.scope)
    levels = Counter(record.levelname for record in caplog.records)
    assert levels["ERROR"] == 2
    assert f"started the watch of {case.scope}" in caplog.text
    assert "any NO WORKER" in caplog.text or "sites: none" in caplog.text
    async with case.worker():
        assert (await front.living(case.client, case.scope, SECONDS)).alive
        assert await dog.check(case.scope)  # somebody else's looks count
    looks.looked(case.scope)
    assert looks.silent_for(case.scope) < 5
    assert await dog.check(case.scope)
