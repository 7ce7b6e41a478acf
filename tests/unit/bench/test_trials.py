"""What the trials do to a lab, as far as it can be seen without one: real keepers and their metrics, a store in memory,
and a node that follows its marker."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
import yaml
from aiohttp import web

from activities.step import ask
from adapters.memory import MemoryWorld
from agent.keeper import Keeper
from agent.markers import MarkerServer
from agent.status import StatusServer
from bench import trials
from bench.errors import BenchError
from bench.model import Wanted
from bench.trials import AUTOMATIC, FAULT_S, measure_authorizer
from dcdr.bounds import LeaseTiming, Preset
from dcdr.intent import Ask, Intent
from dcdr.marker import Role
from dcdr.model import Phase
from dcdr.settings import Settings
from lab import gates, kafka, kube, record, settings, store
from lab.addresses import Address, Plan, make_plan
from lab.estate import Lab
from lab.record import Home, plan_to_json
from lab.waiting import wait_for

PLAN = make_plan("127.20.8", 1, lambda _: True)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("DCDR_STATE", str(tmp_path))
    home = Home.of("one")
    home.create()
    home.write(
        {
            "version": record.VERSION,
            "plan": plan_to_json(PLAN),
            "fence": "authorizer",
            "automatic": False,
            "failover": {},
            "users": {user: f"/s/{user}.password" for user in kafka.USERS},
            "kubernetes": kube.describe(PLAN, home),
            "processes": {},
        }
    )
    return Lab(home)


def test_the_variable_lets_the_labs_agents_take_over_by_themselves(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.settings.write_text(settings.render(lab))
    assert not Settings.load(lab.settings).scopes[store.SCOPE].lease.automatic
    for name, value in AUTOMATIC.items():
        monkeypatch.setenv(name, value)
    after = Settings.load(lab.settings).scopes[store.SCOPE].lease
    assert after.automatic
    assert after.preset is Preset.FAST, "and changes nothing else"


def test_a_leader_stands_still_for_longer_than_an_election_and_shorter_than_a_lease(lab: Lab) -> None:
    timing = LeaseTiming.of(Preset(yaml.safe_load(settings.render(lab))["scopes"][store.SCOPE]["lease"]["preset"]))
    assert timing.renew + timing.election < FAULT_S < timing.wait


async def test_without_maven_the_authorizers_series_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = Wanted(switchovers=1, rate=1, size=1, brokers=1, fence="acl")
    with pytest.raises(BenchError, match="Maven"):
        await measure_authorizer(wanted, tmp_path, lambda line: None)


# --- two agents and a node, without a server ---

TIMING = LeaseTiming(
    renew=0.2, attempt=0.1, election=0.2, validity=1, pause=0.3, wait=1.5, refresh=0.2, hysteresis=0.5
)  # fmt: skip
DEATH = Wanted(switchovers=1, rate=1, size=1, brokers=1, fence="acl")


class Agent:
    """A keeper that beats, its metrics at an address, and its log."""

    def __init__(self, world: MemoryWorld, home: Home, dc: str) -> None:
        self.dc, self._world = dc, world
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = Address(*probe.getsockname())
        self._log = logging.FileHandler(home.log(f"agent-{dc}"))
        self._log.addFilter(lambda line: f"of {dc} " in line.getMessage())
        logging.getLogger("dcdr.keeper").addHandler(self._log)

    async def start(self) -> None:
        scope = self._world.directory().scope("lab")
        assert scope.intents is not None
        self.keeper = Keeper(self.dc, "lab", scope.lease, scope.intents, TIMING, identity=self.dc, automatic=True)
        markers = MarkerServer("lab", self.dc, "id", self.keeper, TIMING)
        status = StatusServer("lab", self.dc, self.keeper, markers, TIMING.refresh, obeyed=False)
        self._runner = web.AppRunner(status.application())
        await self._runner.setup()
        await web.TCPSite(self._runner, self.address.host, self.address.port).start()
        self._beating = asyncio.create_task(self.keeper.keep(lambda: True))

    async def end(self) -> None:
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)
        await self._runner.cleanup()

    def forget(self) -> None:
        logging.getLogger("dcdr.keeper").removeHandler(self._log)
        self._log.close()


class Faults:
    """Kills and starts agents, called from a thread as the lab's are."""

    def __init__(self, agents: dict[str, Agent]) -> None:
        self._agents, self._loop = agents, asyncio.get_running_loop()
        self.starts: list[tuple[str, dict[str, str] | None]] = []

    def kill(self, *names: str) -> list[str]:
        for name in names:
            asyncio.run_coroutine_threadsafe(self._agents[name].end(), self._loop).result(10)
        return list(names)

    def restart(self, *names: str, environment: dict[str, str] | None = None) -> list[str]:
        for name in names:
            asyncio.run_coroutine_threadsafe(self._agents[name].start(), self._loop).result(10)
            self.starts.append((name, environment))
        return list(names)


class SmallLab:
    """As much of a lab as the trials ask for."""

    fence_mode = "acl"

    def __init__(self, home: Home, agents: dict[str, Agent]) -> None:
        self.home, self.fault = home, Faults(agents)
        self.plan = Plan("127.0.0", 1, {f"{name}/status": agent.address for name, agent in agents.items()}, ())

    def brokers(self, member: str) -> tuple[str, ...]:
        return (f"kafka-{member}-1",)


@asynccontextmanager
async def estate(lab: Lab, folder: Path) -> AsyncIterator[tuple[trials.Stand, SmallLab, dict[str, Agent]]]:
    world = MemoryWorld.create(folder / "world", agents=True)
    agents = {f"agent-{dc}": Agent(world, lab.home, dc) for dc in ("dc-a", "dc-b")}
    small = SmallLab(lab.home, agents)
    stand = trials.Stand(cast(Lab, small), world.directory().scope("lab"), TIMING, DEATH, lambda line: None)
    logger = logging.getLogger("dcdr.keeper")
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        for agent in agents.values():
            await agent.start()
        yield stand, small, agents
    finally:
        for agent in agents.values():
            await agent.end()
            agent.forget()
        logger.setLevel(before)


async def node(keeper: Keeper, trace: Path, late_s: float) -> None:
    """A broker that follows its marker, some time after it is told, and traces that as the authorizer does."""
    marker = keeper.marker()
    while True:
        line = {
            "node": 1, "process": "broker", "users": "open" if marker.role is Role.ACTIVE else "closed",
            "mirror": "closed", "role": marker.role, "epoch": marker.epoch, "reason": "marker",
            "mono_ns": time.monotonic_ns(),
        }  # fmt: skip
        with trace.open("a") as file:
            file.write(json.dumps(line) + "\n")
        while (after := await keeper.until_another(marker, 0.1)).role is marker.role:
            marker = after
        marker = after
        await asyncio.sleep(late_s)


async def test_a_gate_is_timed_from_the_agents_decision_to_the_nodes_change(lab: Lab, tmp_path: Path) -> None:
    async with estate(lab, tmp_path) as (stand, _, agents):
        following = asyncio.create_task(node(agents["agent-dc-a"].keeper, lab.home.trace("kafka-dc-a-1"), 0.15))
        try:
            await asyncio.to_thread(
                wait_for,
                "the node open",
                lambda: any(change.users == "open" for change in gates.standing(stand.lab, "dc-a").values()),
                10,
            )
            for _ in range(2):
                operation = stand.operation(await stand.record())
                begin = Intent(operation=operation, ask=Ask.BEGIN, deadline=datetime.now(UTC) + trials.DEADLINE)
                await ask(stand.scope, begin)
                closed = await trials._followed(stand, Intent(operation=operation, ask=Ask.CLOSE), Role.NONE)
                opened = await trials._followed(stand, Intent(operation=operation, ask=Ask.REOPEN), Role.ACTIVE)
                await ask(stand.scope, Intent(operation=operation, ask=Ask.FINISH))
                assert 150 <= closed < 5000
                assert 150 <= opened < 5000
            record = await stand.record()
            assert (record.holder, record.phase, record.op_id, record.turn) == ("dc-a", Phase.OPEN, None, 2)
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following


async def test_a_death_is_timed_and_mended(lab: Lab, tmp_path: Path) -> None:
    async with estate(lab, tmp_path) as (stand, small, _):
        for number in range(2):
            death, sign = await trials._death(stand, "dc-a", ["agent-dc-a"], 0.5)
            assert TIMING.wait <= sign
            assert sign > death, "the kill came half a period after the last renewal"
            record = await stand.record()
            assert (record.holder, record.phase, record.op_id) == ("dc-a", Phase.OPEN, None)
            assert (record.epoch, record.turn) == (3 + 2 * number, 2 + 2 * number)
        assert small.fault.starts == [("agent-dc-a", AUTOMATIC)] * 2


async def test_renewals_are_known_by_when_they_were_sent(lab: Lab, tmp_path: Path) -> None:
    async with estate(lab, tmp_path) as (stand, _, agents):
        async with trials.renewals(stand, "dc-a") as sent:
            await trials.more(sent, 4)
        assert sent[-1] == pytest.approx(agents["agent-dc-a"].keeper.known.proven, abs=0.25)
        assert all(after - before >= TIMING.renew / 2 for before, after in pairwise(sent))
        assert sent[-1] - sent[0] >= 2.5 * TIMING.renew
