"""Temporal is away: the agent goes through the failover by itself, by the same budget, and no further than the flip."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from dcdr.book import LedgerBook
from dcdr.errors import NotYetError
from dcdr.intent import GRACE, Ask, Intent
from dcdr.model import FailoverMode, FailoverPolicy, OperationKind, Phase, TopicPartition
from tests.unit.agent.failing import FAILOVER, Failing

CLOSED = (Phase.ACQUIRED, False, False, "dc-a")
DONE = (Phase.OPEN, True, True, "dc-b")


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Failing]:
    return lambda **world: Failing(tmp_path / "lab.world", **world)


async def lost(failing: Failing, seconds: float = 31) -> Failing:
    """dc-a is gone for `seconds` since the takeover, with a journal that knows how far it was."""
    failing.world.pump(20)
    await failing.looks(3)
    await failing.lost()
    failing.time += seconds
    await failing.beat()
    return failing


async def test_it_opens_by_itself_and_leaves_the_rest_to_the_workflow(build: Callable[..., Failing]) -> None:
    failing = await lost(build())
    await failing.alone_looks()
    assert failing.open == DONE
    record = failing.record
    operation = record.operation
    assert operation is not None, "finishing is the workflow's"
    assert (operation.kind, record.behind, record.mirrored) == (OperationKind.FAILOVER, "dc-a", False)
    assert record.ledger is not None
    fork = await LedgerBook().read_fork(failing.scope, operation, record.ledger)
    assert (fork.bound.records, fork.exactly_once) == (0, True), "nobody wrote for as long as the journal looked"
    assert fork.by_partition[TopicPartition("orders", 0)].target_end == failing.world.ends("dc-b", "orders", 0).leo
    assert failing.world._file.look().violations == []
    opened = failing.opened
    await failing.alone_looks()
    assert failing.opened == opened, "once"


async def test_not_before_its_time_and_never_without_the_policy(build: Callable[..., Failing]) -> None:
    failing = await lost(build(), 29)
    await failing.alone_looks()
    assert failing.open == CLOSED
    failing.alone._after = None
    failing.time += 1000
    await failing.beat()
    await failing.alone_looks()
    assert failing.open == CLOSED


async def test_not_while_a_workflow_is_at_it(build: Callable[..., Failing]) -> None:
    failing = await lost(build())
    await failing.take_up()
    await failing.alone_looks()
    assert failing.open == CLOSED
    failing.time += (timedelta(minutes=1) + GRACE).total_seconds()
    await failing.beat()
    await failing.alone_looks()
    assert failing.open == DONE
    assert failing.record.op_id == FAILOVER.id, "it goes on with the one it found"


async def test_not_while_the_lease_is_unproven(build: Callable[..., Failing]) -> None:
    failing = await lost(build())
    failing.time += 5.1
    before = failing.opened
    await failing.alone.look()
    assert (failing.open, failing.opened) == (CLOSED, before)


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (FailoverPolicy(mode=FailoverMode.ASK), "failover.mode is ask"),
        (FailoverPolicy(mode=FailoverMode.NEVER), "failover.mode is never"),
        (FailoverPolicy(max_lost_records=2), "above the budget of 2 records"),
        (FailoverPolicy(max_lost_seconds=3), "above the budget of 3 s"),
    ],
)
async def test_outside_the_budget_it_holds_and_says_why_once(
    build: Callable[..., Failing], policy: FailoverPolicy, why: str
) -> None:
    failing = build(failover=policy)
    failing.world.pump(20)
    await failing.looks(3)
    failing.world.mirror_rate(0)
    failing.world.produce("dc-a", "orders", 0, ["1", "2", "3"])
    await failing.looks(1)
    await failing.lost()
    failing.time += 31
    await failing.beat()
    await failing.alone_looks()
    assert why in failing.alone.held
    assert failing.open == CLOSED
    forks = [key for key in failing.world.ledger("dc-b") if "/fork/" in key]
    await failing.alone_looks()
    assert [key for key in failing.world.ledger("dc-b") if "/fork/" in key] == forks, "the ledger does not grow"


async def test_without_a_journal_it_holds(build: Callable[..., Failing]) -> None:
    failing = build()
    await failing.beat()
    await failing.lost()
    failing.time += 31
    await failing.beat()
    await failing.alone_looks()
    assert "no journal" in failing.alone.held
    assert failing.open == CLOSED


async def test_a_person_who_hands_the_lease_back_goes_first(build: Callable[..., Failing]) -> None:
    failing = await lost(build())
    operation = FAILOVER.model_copy(update={"id": "back", "epoch": 2, "source": "dc-b", "target": "dc-a"})
    intents = failing.scope.intents
    assert intents is not None
    await intents.write("lab", await intents.read("lab"), Intent(operation=operation, ask=Ask.HAND_BACK))
    with pytest.raises(NotYetError, match="hand back: that goes first"):
        await failing.alone.look()
    await failing.beat()
    assert failing.record.holder == "dc-a"
    await failing.alone_looks()
    assert failing.record.holder == "dc-a"


async def test_it_looks_again_after_a_failure_and_goes_on_from_there(build: Callable[..., Failing]) -> None:
    failing = await lost(build())
    failing.world.fail("endpoint.flip")
    with pytest.raises(Exception, match="endpoint"):
        await failing.alone_looks()
    assert failing.open[0] is Phase.OPEN
    assert failing.open[3] == "dc-a"
    await failing.alone_looks()
    assert failing.open == DONE


async def test_it_finishes_what_a_workflow_opened_and_left(build: Callable[..., Failing]) -> None:
    failing = build(after=None)
    await lost(failing)
    await failing.take_up()
    opened = {"phase": Phase.OPEN, "behind": "dc-a", "ledger": "d", "seq": failing.record.seq + 1}
    failing.world.set_lease(failing.record.model_copy(update=opened).model_dump_json())
    await failing.beat()
    await failing.alone_looks()
    assert failing.open == (Phase.OPEN, False, False, "dc-a"), "it may still be at it"
    failing.time += (timedelta(minutes=1) + GRACE).total_seconds()
    await failing.beat()
    await failing.alone_looks()
    assert failing.open == DONE


async def test_brokers_that_have_not_heard_yet_are_waited_for(build: Callable[..., Failing]) -> None:
    failing = await lost(build())
    failing.world.lag_broker("dc-b", 2, 3)
    await failing.alone_looks()
    assert failing.open == DONE
