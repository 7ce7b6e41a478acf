"""What an agent shows of itself, asked over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from prometheus_client.parser import text_string_to_metric_families

from agent.markers import MarkerServer
from agent.status import StatusServer
from tests.unit.agent.test_keeper import TIMING, Pair


class Shown:
    """The agent of dc-a, and whoever looks at it."""

    def __init__(self, path: Path) -> None:
        self.pair = Pair(path)
        self.markers = MarkerServer("lab", "dc-a", "cluster-a", self.pair.a, TIMING)
        self.status = StatusServer("lab", "dc-a", self.pair.a, self.markers, TIMING.refresh, obeyed=True)
        self.http = httpx.AsyncClient(trust_env=False)

    async def metrics(self) -> dict[str, float]:
        text = (await self.http.get("/metrics")).raise_for_status().text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        assert all(sample.labels == {"scope": "lab", "dc": "dc-a"} for sample in samples)
        return {sample.name.removeprefix("dcdr_agent_"): sample.value for sample in samples}

    async def ready(self) -> tuple[int, str]:
        answer = await self.http.get("/readyz")
        return answer.status_code, answer.text


@pytest.fixture
async def shown(tmp_path: Path) -> AsyncIterator[Shown]:
    one = Shown(tmp_path / "world")
    runner = web.AppRunner(one.status.application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    one.http.base_url = httpx.URL(f"http://{host}:{port}")
    yield one
    await one.http.aclose()
    await runner.cleanup()


async def test_the_metrics_of_a_holder_say_what_its_brokers_are_told(shown: Shown) -> None:
    before = await shown.metrics()
    assert (before["holds_lease"], before["users_open"], before["epoch"], before["fit"]) == (0, 0, 0, 0)
    await shown.pair.beat()
    shown.status.fitness = shown.status.fitness.looked(0.0, ())
    shown.pair.time = 1.5
    assert await shown.metrics() == {
        "holds_lease": 1, "acting": 1, "users_open": 1, "mirror_open": 0, "marker_valid_seconds": 3.5, "epoch": 1,
        "fit": 1, "held_back": 0, "nodes_served": 0, "beats_total": 0, "beats_missed_total": 0,
    }  # fmt: skip


async def test_beats_are_counted_and_those_that_failed_too(shown: Shown) -> None:
    shown.pair.world.fail("lease.read", times=3)
    keeper = shown.pair.a
    keeping = asyncio.create_task(keeper.keep(lambda: True))
    async with asyncio.timeout(10):
        while keeper.marker().valid_s == 0:
            keeper.wished()
            await asyncio.sleep(0.001)
    keeping.cancel()
    await asyncio.wait([keeping])
    found = await shown.metrics()
    assert found["beats_missed_total"] == 3
    assert found["beats_total"] >= 5, "three lost, a look, a renewal"


async def test_it_is_ready_when_it_has_read_the_lease_kafka_is_well_and_a_broker_asks(shown: Shown) -> None:
    code, text = await shown.ready()
    assert code == 503
    assert text.splitlines() == [
        "not looked at yet", "the lease record has not been read yet", "no broker has asked for its marker lately",
    ]  # fmt: skip
    await shown.pair.beat()
    shown.status.fitness = shown.status.fitness.looked(0.0, ())
    assert await shown.ready() == (503, "no broker has asked for its marker lately\n")
    shown.markers._asked["1", "broker"] = time.monotonic()
    assert await shown.ready() == (200, "ready\n")
    assert (await shown.http.get("/healthz")).status_code == 200


async def test_one_that_stands_by_shows_it_and_is_ready_all_the_same(shown: Shown) -> None:
    await shown.pair.beat(shown.pair.keeper("dc-a", "second"), shown.pair.a)
    found = await shown.metrics()
    assert (found["acting"], found["holds_lease"], found["users_open"]) == (0, 1, 0)
    shown.status.fitness = shown.status.fitness.looked(0.0, ())
    shown.markers._asked["1", "broker"] = time.monotonic()
    assert await shown.ready() == (200, "ready\n")


async def test_a_standby_that_holds_back_says_why_and_is_ready_all_the_same(shown: Shown) -> None:
    await shown.pair.b.beat(True)
    await shown.pair.beat()
    about = (await shown.http.get("/status")).raise_for_status().json()
    assert about["holds_back"] == ""
    standby = StatusServer("lab", "dc-b", shown.pair.b, shown.markers, TIMING.refresh, obeyed=False)
    standby.fitness = standby.fitness.looked(0.0, ())
    assert standby.unready() == []
    gauges = {family.name: family.samples[0].value for family in standby.collect()}
    assert gauges["dcdr_agent_held_back"] == 1
    told = json.loads((await standby._status(make_mocked_request("GET", "/status"))).text or "")
    assert told == {
        "scope": "lab", "dc": "dc-b", "holder": "dc-a", "phase": "OPEN", "epoch": 1, "role": "STANDBY", "valid_s": 5.0,
        "holds_back": "dc-b takes nothing over by itself: lease.automatic is off; a person may ask for it",
        "trouble": [], "unready": [],
    }  # fmt: skip
