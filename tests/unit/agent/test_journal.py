"""The standby's agent keeps what it sees of the mirror, so that a dark source leaves a number behind."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.journal import Journal
from agent.markers import MarkerServer
from agent.status import StatusServer
from dcdr import fork, loss
from dcdr.bounds import PRESETS, Preset
from dcdr.errors import UnreachableError
from dcdr.model import Phase, TopicPartition
from tests.unit.agent.failing import Failing

KEY = "lab/journal/dc-b"


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Failing]:
    return lambda **world: Failing(tmp_path / "lab.world", **world)


async def test_what_it_saw_stands_on_the_standby_alone_under_one_key(build: Callable[..., Failing]) -> None:
    failing = build()
    await failing.looks(5)
    assert list(failing.world.ledger("dc-b")) == [KEY]
    assert failing.world.ledger("dc-a") == {}
    found = await fork.read_journal(failing.scope, "dc-b")
    assert found is not None
    assert found == failing.journal.last
    assert {"orders", "payments", "prices", "empty", "purged"} == set(found.ends)
    assert found.ends["orders"][0] == failing.world.ends("dc-a", "orders", 0).leo
    assert (found.tasks, found.exactly_once) == (2, True)
    assert failing.opened == 1, "it stays connected while it is the standby"


async def test_a_mirror_that_has_copied_everything_is_seen_caught_up_whatever_the_log_ends_with(
    build: Callable[..., Failing],
) -> None:
    """Payments end with a transaction marker, prices with a hole: M never reaches the end of either."""
    failing = build()
    failing.world.pump(20)
    await failing.looks(3)
    assert failing.journal.last is not None
    assert failing.journal.lag() == (0, 0.0)
    assert failing.journal.reason() == ""


async def test_lag_is_told_in_records_and_in_seconds(build: Callable[..., Failing]) -> None:
    failing = build()
    failing.world.pump(20)
    await failing.looks(3)
    failing.world.mirror_rate(0)
    failing.world.produce("dc-a", "orders", 0, ["one", "two", "three"])
    await failing.looks(2)
    lag = failing.journal.lag()
    assert lag is not None
    assert lag == (3, 4.0)
    failing.time += 10
    assert failing.journal.lag() == (3, 14.0)


async def test_a_dark_source_leaves_the_last_look_and_its_time(build: Callable[..., Failing]) -> None:
    failing = build()
    await failing.looks(3)
    before = failing.world.ledger("dc-b")[KEY]
    failing.world.cut_off("dc-a")
    with pytest.raises(UnreachableError):
        await failing.looks(1)
    assert failing.world.ledger("dc-b")[KEY] == before
    failing.world.cut_off("dc-a", away=False)
    await failing.looks(1)
    assert failing.world.ledger("dc-b")[KEY] != before


async def test_a_source_that_does_not_answer_does_not_block_it(
    build: Callable[..., Failing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.journal.SOURCE_SECONDS", 0.05)
    failing = build()
    failing.world.hang("logs.topics", 30, dc="dc-a")
    with pytest.raises(UnreachableError, match=r"dc-a did not answer within 0\.05 s"):
        await failing.looks(1)


async def test_a_standby_whose_journal_is_not_written_is_not_ready(build: Callable[..., Failing]) -> None:
    failing = build()
    assert "no journal" in failing.journal.reason()
    failing.world.stored_offset("dc-b", "mm2-source.dc-a-to-dc-b", TopicPartition("orders", 0), 2)
    failing.world.mirror_rate(0)
    await failing.looks(3)
    assert "never seen caught up" in failing.journal.reason()


async def test_a_topic_that_the_standby_lacks_keeps_it_from_taking_over(build: Callable[..., Failing]) -> None:
    failing = build()
    failing.world.pump(20)
    await failing.looks(3)
    failing.world.create_topic("dc-a", "brand-new", 1)
    await failing.looks(1)
    assert "lacks 1 topics of dc-a (brand-new)" in failing.journal.reason()


async def test_a_process_that_starts_while_the_source_is_dark_knows_what_the_last_one_saw(
    build: Callable[..., Failing],
) -> None:
    failing = build()
    failing.world.pump(20)
    await failing.looks(3)
    failing.world.cut_off("dc-a")
    later = Journal("dc-b", failing.keeper, failing.connected, loss.PEAK_WINDOW, now=failing.now)
    with pytest.raises(UnreachableError):
        await later.look()
    assert later.last == failing.journal.last
    assert later.reason() == ""


async def test_only_a_standby_keeps_one(build: Callable[..., Failing]) -> None:
    failing = build()
    await failing.looks(2)
    before = failing.world.ledger("dc-b")[KEY]
    await failing.lost()
    await failing.journal.look()
    assert failing.world.ledger("dc-b")[KEY] == before
    assert failing.journal.last is not None, "it is what the failover goes by"
    failing.world.set_lease(
        failing.record.model_copy(update={"phase": Phase.OPEN, "behind": "dc-a", "seq": 9}).model_dump_json()
    )
    await failing.beat()
    await failing.journal.look()
    assert failing.journal.lag() is None


@pytest.mark.parametrize("body", [b"nonsense", zlib.compress(b"{}")])
async def test_a_journal_that_cannot_be_read_counts_as_none_and_is_written_anew(
    build: Callable[..., Failing], body: bytes
) -> None:
    failing = build()
    await failing.scope.member("dc-b").ledger.put(KEY, body)
    assert await fork.read_journal(failing.scope, "dc-b") is None
    await failing.looks(1)
    assert await fork.read_journal(failing.scope, "dc-b") is not None


async def test_the_agent_shows_how_far_the_mirror_is_behind(build: Callable[..., Failing]) -> None:
    failing = build()
    timing = PRESETS[Preset.TEST]
    markers = MarkerServer("lab", "dc-b", "cluster-b", failing.keeper, timing)
    status = StatusServer("lab", "dc-b", failing.keeper, markers, timing.refresh, obeyed=False, journal=failing.journal)

    def shown() -> dict[str, float]:
        samples = [sample for family in status.collect() for sample in family.samples]
        return {sample.name: sample.value for sample in samples if not sample.name.startswith("dcdr_agent_")}

    assert shown() == {}
    failing.world.pump(20)
    await failing.looks(3)
    failing.time += 5
    assert shown() == {
        "dcdr_mirror_lag_records": 0,
        "dcdr_mirror_lag_seconds": 5,
        "dcdr_journal_written_timestamp_seconds": failing.now().timestamp() - 5,
    }
    failing.world.mirror_rate(0)
    failing.world.stored_offset("dc-b", "mm2-source.dc-a-to-dc-b", TopicPartition("orders", 0), 0)
    await failing.looks(1)
    assert "dcdr_mirror_lag_seconds" not in shown(), "set back, nobody knows since when"
