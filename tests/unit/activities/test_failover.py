"""A failover's own steps: what they ask, what they leave alone, and what a late attempt sets right."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import failover
from activities.failover import FailoverActivities
from activities.fence import FenceActivities
from adapters.memory import MemoryWorld, memory_directory
from dcdr import lease
from dcdr.book import LedgerBook
from dcdr.errors import NotYetError, PlanRefusedError, SupersededError
from dcdr.intent import Ask
from dcdr.model import (
    FailoverPolicy,
    FailoverRequest,
    LeaseRecord,
    Operation,
    OperationKind,
    Phase,
    StepInput,
    TakeoverResult,
)
from dcdr.settings import MirrorSettings

MIRROR = MirrorSettings().source_connector.format(source="dc-a", target="dc-b")
POLICY = FailoverPolicy(even_behind_acls="a test")


class Site:
    """A world whose dc-b has taken over, and the steps."""

    def __init__(self, path: Path, *, dead: bool = True, taken: bool = True, **world: Any) -> None:
        self.world = MemoryWorld.create(path / "world", open_transaction=False, failover=POLICY, **world)
        self.world.keep_journal("dc-b", rate=1.0)
        if dead:
            self.world.kill_site("dc-a")
        if taken:
            self.world.take_over("dc-b")
        self.directory = memory_directory(self.world.path)
        self.steps = FailoverActivities(self.directory, LedgerBook())

    @property
    def record(self) -> LeaseRecord:
        found = self.world.lease()
        assert found is not None
        return found

    @property
    def operation(self) -> Operation:
        return Operation(
            scope="lab", id="op-1", epoch=1, turn=1, source="dc-a", target="dc-b", kind=OperationKind.FAILOVER
        )

    async def run(self, step: Any, argument: Any = None) -> Any:
        return await ActivityEnvironment().run(step, argument or StepInput(operation=self.operation))

    async def observe(self, target: str = "dc-b", by: str = "me") -> TakeoverResult:
        request = FailoverRequest(scope="lab", target=target, requested_by=by)
        found: TakeoverResult = await self.run(self.steps.observe, request)
        return found

    async def opened(self) -> StepInput:
        """dc-b is open; the order that the later steps are given."""
        await self.run(self.steps.take_up)
        await self.run(self.steps.fence)
        fork = await self.run(self.steps.record)
        order = StepInput(operation=self.operation, entry=fork.entry)
        await self.run(self.steps.open_up, order)
        return order


async def test_a_takeover_is_gone_on_from_under_the_epoch_of_the_tenure_that_was_lost(tmp_path: Path) -> None:
    found = await Site(tmp_path).observe(by="watch")
    assert found.operation is not None
    assert (found.operation.epoch, found.operation.turn, found.operation.kind) == (1, 1, OperationKind.FAILOVER)
    assert (found.adopted, found.ask, found.refused) == (False, None, "")


async def test_an_unfinished_failover_is_adopted_and_one_to_the_other_side_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.run(site.steps.take_up)
    found = await site.observe(by="worker")
    assert (found.operation, found.adopted) == (site.operation, True)
    assert "dcdr failover lab --to dc-b" in (await site.observe("dc-a")).refused


async def test_only_a_person_is_asked_for_a_takeover(tmp_path: Path) -> None:
    site = Site(tmp_path, taken=False)
    assert (await site.observe(by="ann")).ask is not None
    for by in ("watch", "worker"):
        assert "nothing was taken over" in (await site.observe(by=by)).refused


async def test_the_side_that_a_failover_left_is_refused_with_what_would_be_lost(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.opened()
    await site.run(FenceActivities(site.directory).open)
    site.world.set_lease(lease.finish(site.record, site.operation).model_dump_json())
    assert "was left by a failover" in (await site.observe("dc-a")).refused


async def test_without_agents_the_step_takes_over_itself_and_once(tmp_path: Path) -> None:
    site = Site(tmp_path, taken=False)
    asked = (await site.observe()).ask
    assert asked is not None
    for _ in range(2):
        await site.run(site.steps.ask_takeover, StepInput(operation=asked))
        assert (site.record.holder, site.record.epoch, site.record.phase) == ("dc-b", 2, Phase.ACQUIRED)


async def test_a_wish_that_no_agent_fulfils_is_withdrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "MARGIN_SECONDS", -7.9)
    site = Site(tmp_path, taken=False, agents=True)
    asked = (await site.observe()).ask
    assert asked is not None
    with pytest.raises(PlanRefusedError, match="did not take the lease over"):
        await site.run(site.steps.ask_takeover, StepInput(operation=asked))
    store = site.directory.scope("lab").intents
    assert store is not None
    left = (await store.read("lab")).intent
    assert left is not None
    assert left.ask is Ask.FINISH
    assert site.record.holder == "dc-a"


async def test_a_source_that_is_only_cut_off_from_its_mirror_is_closed_behind_acls(tmp_path: Path) -> None:
    site = Site(tmp_path, dead=False)
    await site.run(site.steps.take_up)
    said = await site.run(site.steps.fence)
    assert not site.world.users_open("dc-a")
    assert "dc-a is closed as well" in said.note


async def test_a_source_that_does_not_answer_in_time_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "SOURCE_SECONDS", 0.1)
    site = Site(tmp_path)
    for call in ("close_users", "freeze_groups"):
        site.world.hang(f"fence.{call}", 60, dc="dc-a")
    await site.run(site.steps.take_up)
    said = await site.run(site.steps.fence)
    assert "dc-a was not closed: no answer in 0.1 s" in said.note
    order = await site.opened()
    said = await site.run(site.steps.close_source, order)
    assert "dc-a does not answer: no answer in 0.1 s" in said.note


async def test_a_fence_that_comes_late_brings_back_what_was_handed_back_meanwhile(tmp_path: Path) -> None:
    site = Site(tmp_path, dead=False)
    await site.run(site.steps.take_up)
    site.world.hang("transactions.fence", 0.3, dc="dc-b")
    late = asyncio.create_task(site.run(site.steps.fence))
    while "dc-b/connect.stop" not in site.world.calls():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    site.world.hand_back("dc-a")
    with pytest.raises(SupersededError):
        await late
    assert site.world.connector("dc-b", MIRROR).running
    assert site.world.users_open("dc-a")


async def test_what_is_open_already_is_read_back_and_nothing_is_written_anew(tmp_path: Path) -> None:
    site = Site(tmp_path)
    order = await site.opened()
    before = site.world.ledger("dc-b")
    assert (await site.run(site.steps.fence)).note == "dc-b is open already"
    again = await site.run(site.steps.record)
    assert (again.entry, again.hold) == (order.entry, "")
    await site.run(site.steps.take_up)
    await site.run(site.steps.open_up, order)
    assert site.world.ledger("dc-b") == before
    assert site.record.behind == "dc-a"


async def test_a_group_reads_again_at_most_what_lies_behind_its_checkpoint(tmp_path: Path) -> None:
    site = Site(tmp_path)
    found = await site.run(site.steps.groups, await site.opened())
    billing = next(group for group in found.groups if group.group == "billing")
    there = site.world.committed("dc-b", "billing")
    ends = {place: site.world.ends("dc-b", place.topic, place.partition).leo for place in there}
    assert billing.partitions == len(there)
    assert billing.bound == sum(ends[place] - held.offset for place, held in there.items()) > 0


async def test_while_it_waits_the_lease_says_so_and_afterwards_what_it_says_instead(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.run(site.steps.take_up)
    with pytest.raises(NotYetError):
        await site.run(site.steps.stands)
    site.world.hand_back("dc-a")
    assert "names dc-a, epoch 3" in (await site.run(site.steps.stands)).note


async def test_nothing_is_brought_back_where_the_lease_was_taken_over_once_more(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.run(site.steps.take_up)
    await site.run(site.steps.fence)
    site.world.take_over("dc-a")
    assert "nothing to bring back" in (await site.run(site.steps.restore)).note
    assert site.world.connector("dc-b", MIRROR).stopped
