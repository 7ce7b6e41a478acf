"""`dcdr lease` by hand: what is refused, what is written, and how it exits."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from adapters.memory import MemoryWorld
from adapters.memory.ports import MemoryIntentStore, MemoryLeaseStore
from adapters.memory.store import WorldFile
from agent import cli
from agent.keeper import Keeper
from dcdr import lease, tenure
from dcdr.bounds import LeaseTiming
from dcdr.model import LeaseRecord, Operation, OperationKind, Phase
from dcdr.ports import IntentStore, LeaseStore
from dcdr.settings import ScopeSettings
from tests.unit.core.test_settings import document

ROOT = Path(__file__).parents[3]
TIMES = {
    "renew": 0.02, "attempt": 0.02, "election": 0.02, "validity": 0.1, "pause": 0.01, "wait": 0.3, "refresh": 0.02,
    "hysteresis": 0.05,
}  # fmt: skip


class Desk:
    """A person with settings, at an estate whose store is a stand-in."""

    def __init__(self, path: Path) -> None:
        self.path = path / "world"
        self.world = MemoryWorld.create(self.path, open_transaction=False)
        about = document(lease={"times": TIMES})
        self.settings = path / "settings.yaml"
        self.settings.write_text(yaml.safe_dump(about))

    def lease(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli.lease, [*arguments, "--settings", str(self.settings)])

    @property
    def record(self) -> LeaseRecord:
        found = self.world.lease()
        assert found is not None
        return found

    @contextmanager
    def agent(self, dc: str) -> Iterator[None]:
        """An agent of `dc` at work beside the command."""
        started, loop = threading.Event(), asyncio.new_event_loop()
        file = WorldFile(self.path)
        keeper = Keeper(dc, "lab", MemoryLeaseStore(file), MemoryIntentStore(file), LeaseTiming(**TIMES))

        def run() -> None:
            asyncio.set_event_loop(loop)
            self._keeping = loop.create_task(keeper.keep(lambda: True))
            started.set()
            loop.run_until_complete(asyncio.wait([self._keeping]))
            loop.close()

        thread = threading.Thread(target=run)
        thread.start()
        started.wait(10)
        try:
            yield
        finally:
            loop.call_soon_threadsafe(self._keeping.cancel)
            thread.join(10)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    desk = Desk(tmp_path)

    @asynccontextmanager
    async def stores(_: ScopeSettings) -> AsyncIterator[tuple[LeaseStore, IntentStore]]:
        file = WorldFile(desk.path)
        yield MemoryLeaseStore(file), MemoryIntentStore(file)

    monkeypatch.setattr(cli, "_stores", stores)
    return desk


def test_show_says_who_holds_the_lease_for_people_and_for_programs(desk: Desk) -> None:
    assert "dc-a holds the lease, epoch 1, phase OPEN" in desk.lease("show", "lab").output
    found = json.loads(desk.lease("show", "lab", "-o", "json").output)
    assert (found["lease"]["holder"], found["lease"]["epoch"], found["intent"]) == ("dc-a", 1, None)
    assert desk.lease("show", "lab", "-o", "xml").exit_code == cli.USAGE


def test_a_scope_nobody_knows_and_a_store_that_is_silent_exit_differently(desk: Desk) -> None:
    assert desk.lease("show", "nowhere").exit_code == cli.USAGE
    desk.world.fail("lease.read", times=-1)
    assert desk.lease("show", "lab").exit_code == cli.UNREACHABLE


def test_a_record_that_is_missing_is_created_under_the_next_epoch(desk: Desk) -> None:
    desk.world.set_lease(None)
    assert "dcdr lease bootstrap" in desk.lease("show", "lab").output
    done = desk.lease("bootstrap", "lab", "--holder", "dc-b", "--epoch-floor", "7", "-o", "json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["lease"]["epoch"] == 8
    assert (desk.record.holder, desk.record.epoch, desk.record.phase) == ("dc-b", 8, Phase.OPEN)


def test_no_record_is_created_over_another_or_for_a_stranger_or_without_a_floor(desk: Desk) -> None:
    before = desk.record
    assert desk.lease("bootstrap", "lab", "--holder", "dc-b", "--epoch-floor", "7").exit_code == cli.REFUSED
    assert desk.lease("bootstrap", "lab", "--holder", "dc-z", "--epoch-floor", "7").exit_code == cli.USAGE
    assert desk.lease("bootstrap", "lab", "--holder", "dc-b").exit_code == cli.USAGE
    assert desk.record == before


def test_a_record_that_was_rolled_back_is_replaced_and_no_epoch_used_again(desk: Desk) -> None:
    desk.world.set_lease(LeaseRecord(scope="lab", holder="dc-a", epoch=3).model_dump_json())
    again = ("bootstrap", "lab", "--holder", "dc-a", "--replace", "--epoch-floor")
    refused = desk.lease(*again, "2")
    assert refused.exit_code == cli.REFUSED
    assert "epoch 3" in refused.output
    assert desk.lease(*again, "5").exit_code == 0
    assert desk.record.epoch == 6


def test_the_record_of_a_holder_that_shows_signs_of_life_is_not_replaced(desk: Desk) -> None:
    with desk.agent("dc-a"):
        done = desk.lease("bootstrap", "lab", "--holder", "dc-b", "--replace", "--epoch-floor", "7")
    assert done.exit_code == cli.REFUSED, done.output
    assert (desk.record.holder, desk.record.epoch) == ("dc-a", 1)


def test_a_takeover_that_never_opened_is_given_back_by_its_holders_agent(desk: Desk) -> None:
    desk.world.set_lease(tenure.takeover(desk.record, "dc-b", 0).model_dump_json())
    with desk.agent("dc-b"):
        done = desk.lease("handover", "lab", "--to", "dc-a", "-o", "json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["lease"]["holder"] == "dc-a"
    assert (desk.record.holder, desk.record.epoch, desk.record.phase) == ("dc-a", 3, Phase.OPEN)


def test_a_lease_that_is_open_is_not_given_away(desk: Desk) -> None:
    with desk.agent("dc-a"):
        done = desk.lease("handover", "lab", "--to", "dc-b")
    assert done.exit_code == cli.REFUSED
    assert "use a switchover" in done.output
    assert desk.lease("handover", "lab", "--to", "dc-a").exit_code == cli.USAGE
    assert (desk.record.holder, desk.record.epoch) == ("dc-a", 1)


def test_without_an_agent_nobody_obeys_and_that_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "OBEY_SECONDS", 0.2)
    desk.world.set_lease(tenure.takeover(desk.record, "dc-b", 0).model_dump_json())
    done = desk.lease("handover", "lab", "--to", "dc-a")
    assert done.exit_code == cli.UNREACHABLE
    assert "is the holder's agent running?" in done.output


def test_a_failover_that_holds_does_not_keep_the_lease_from_being_handed_back(desk: Desk) -> None:
    taken = tenure.takeover(desk.record, "dc-b", 0)
    operation = Operation(
        scope="lab", id="lost", epoch=1, turn=taken.turn, source="dc-a", target="dc-b", kind=OperationKind.FAILOVER
    )
    desk.world.set_lease(lease.take_up(taken, operation, datetime.now(UTC)).model_dump_json())
    shown = desk.lease("show", "lab").output
    assert "unfinished failover: lost, dc-a to dc-b" in shown
    assert "dc-a was open last, and nothing opened since" in shown
    with desk.agent("dc-b"):
        done = desk.lease("handover", "lab", "--to", "dc-a")
    assert done.exit_code == 0, done.output
    assert (desk.record.holder, desk.record.epoch, desk.record.op_id) == ("dc-a", 3, None)


def test_after_two_takeovers_only_the_side_that_was_open_last_gets_the_lease_back(desk: Desk) -> None:
    twice = tenure.takeover(tenure.takeover(desk.record, "dc-b", 0), "dc-a", 0)
    desk.world.set_lease(twice.model_dump_json())
    with desk.agent("dc-a"):
        refused = desk.lease("handover", "lab", "--to", "dc-b")
        done = desk.lease("handover", "lab", "--to", "dc-a")
    assert refused.exit_code == cli.REFUSED
    assert "dc-a was open last" in refused.output
    assert done.exit_code == 0, done.output
    assert (desk.record.holder, desk.record.phase) == ("dc-a", Phase.OPEN)


def test_a_pause_is_written_by_the_holders_agent_shown_and_ended(desk: Desk) -> None:
    with desk.agent("dc-a"):
        done = desk.lease("pause", "lab", "--for", "4h", "--reason", "CHG-1", "--maintenance", "-o", "json")
        assert done.exit_code == 0, done.output
        pause = desk.record.pause
        shown = desk.lease("show", "lab").output
        assert desk.lease("resume", "lab").exit_code == 0
    assert pause is not None
    assert (pause.maintenance, pause.reason) == (True, "CHG-1")
    assert timedelta(hours=3, minutes=58) < pause.until - datetime.now(UTC) <= timedelta(hours=4)
    assert (
        f"takeovers paused until {pause.until:%Y-%m-%d %H:%M:%S} UTC, by {pause.by}: CHG-1; the holder keeps" in shown
    )
    assert desk.record.pause is None
    assert "paused" not in desk.lease("show", "lab").output


@pytest.mark.parametrize("length", ["4", "h", "0s", "8d", "-1h", "1.5h", "forever"])
def test_a_pause_has_a_length_that_is_understood_and_not_forgotten(desk: Desk, length: str) -> None:
    assert desk.lease("pause", "lab", "--for", length, "--reason", "CHG-1").exit_code == cli.USAGE
    assert desk.record.pause is None


def test_a_pause_does_not_get_in_the_way_of_a_switchover_that_drains(desk: Desk) -> None:
    operation = Operation(scope="lab", id="one", epoch=1, source="dc-a", target="dc-b")
    desk.world.set_lease(lease.begin(desk.record, operation, datetime.now(UTC)).model_dump_json())
    done = desk.lease("pause", "lab", "--for", "4h", "--reason", "CHG-1")
    assert done.exit_code == cli.REFUSED
    assert "operation one drains dc-a just now" in done.output


def test_show_tells_who_was_left_behind_and_when_the_lease_was_taken(desk: Desk) -> None:
    at = datetime(2026, 11, 21, 12, tzinfo=UTC)
    record = tenure.takeover(desk.record, "dc-b", 0, at=at, after_s=7.25)
    desk.world.set_lease(record.model_copy(update={"phase": Phase.OPEN, "behind": "dc-a"}).model_dump_json())
    shown = desk.lease("show", "lab").output
    assert "last taken over 2026-11-21 12:00:00 UTC, 7.2 s after the last sign of life" in shown
    assert "dc-a was left by a failover: it takes nothing over until it is failed back" in shown


@pytest.mark.parametrize("command", ["agent", "lease", "fence"])
def test_the_commands_are_found_at_the_front_door(command: str) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "dcdr", command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr


def test_an_agent_of_a_data_center_that_is_none_does_not_start(desk: Desk) -> None:
    arguments = ["run", "--settings", str(desk.settings), "--dc-name", "dc-z"]
    assert CliRunner().invoke(cli.agent, arguments).exit_code == cli.USAGE
