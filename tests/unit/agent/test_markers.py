"""The marker over HTTP, asked as a broker asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from agent.markers import MarkerServer
from dcdr.bounds import LeaseTiming
from tests.unit.agent.test_keeper import TIMING, Pair

PATIENT = TIMING.model_copy(update={"refresh": 30.0})
ASKED = {"cluster": "cluster-a", "node": "1", "process": "broker", "epoch": "0", "version": ""}


class Served:
    """An agent of dc-a on a free port, and a broker's questions to it."""

    def __init__(self, pair: Pair, http: httpx.AsyncClient, server: MarkerServer) -> None:
        self.pair, self.http, self.server = pair, http, server

    async def ask(self, **asked: str) -> dict[str, Any]:
        answer = await self.http.get("/v1/marker", params={**ASKED, **asked})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


async def serve(path: Path, timing: LeaseTiming) -> AsyncIterator[Served]:
    pair = Pair(path)
    await pair.beat()
    server = MarkerServer("lab", "dc-a", "cluster-a", pair.a, timing)
    runner = web.AppRunner(server.application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=10.0, trust_env=False) as http:
        yield Served(pair, http, server)
    await runner.cleanup()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async for one in serve(tmp_path / "world", PATIENT):
        yield one


async def test_the_first_question_is_answered_at_once_with_every_field(served: Served) -> None:
    found = await served.ask()
    wall = found.pop("wall_ms")
    assert found == {
        "scope": "lab", "dc": "dc-a", "cluster": "cluster-a", "epoch": 1, "role": "ACTIVE", "version": "1-ACTIVE",
        "valid_ms": 5000,
    }  # fmt: skip
    assert wall > 1_700_000_000_000
    (told,) = served.server.told
    assert (told.node, told.process, told.marker.epoch) == ("1", "broker", 1)


async def test_a_question_that_waits_is_answered_by_the_change(served: Served) -> None:
    waiting = asyncio.create_task(served.ask(version="1-ACTIVE"))
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done, "nothing has changed"
    await served.pair.close()
    await served.pair.beat(served.pair.a)
    found = await asyncio.wait_for(waiting, 5)
    assert (found["role"], found["valid_ms"]) == ("NONE", 5000), "a word like any other: it holds until the next"


async def test_a_question_is_held_for_the_refresh_period_at_most(tmp_path: Path) -> None:
    async for served in serve(tmp_path / "brief", TIMING.model_copy(update={"refresh": 0.05})):
        served.pair.time = 1.2344
        found = await served.ask(version="1-ACTIVE")
        assert (found["role"], found["valid_ms"]) == ("ACTIVE", 3765), "rounded down"


async def test_a_marker_that_has_run_out_is_not_told(tmp_path: Path) -> None:
    """The gates run out by themselves; a NONE would close what another agent of this side holds open."""
    async for served in serve(tmp_path / "brief", TIMING.model_copy(update={"refresh": 0.05})):
        served.pair.time = 5.0
        assert (await served.http.get("/v1/marker", params=ASKED)).status_code == 503


async def test_an_agent_that_stands_by_does_not_answer_until_it_acts(tmp_path: Path) -> None:
    async for served in serve(tmp_path / "two", TIMING.model_copy(update={"refresh": 0.05})):
        second = served.pair.keeper("dc-a", "second")
        served.server._keeper = second
        await served.pair.beat(second)
        answer = await served.http.get("/v1/marker", params=ASKED)
        assert (answer.status_code, served.server.told) == (503, ())
        assert "another agent of dc-a acts" in answer.text
        served.pair.time = TIMING.silence
        await served.pair.beat(second)
        assert (await served.ask())["role"] == "ACTIVE"
        await served.pair.beat(served.pair.a)
        served.server._keeper = served.pair.a
        answer = await served.http.get("/v1/marker", params={**ASKED, "version": "1-ACTIVE"})
        assert answer.status_code == 503, "it had spoken before"


async def test_another_cluster_is_told_where_it_belongs(served: Served) -> None:
    answer = await served.http.get("/v1/marker", params={**ASKED, "cluster": "cluster-x"})
    assert answer.status_code == 403
    assert "not cluster-x" in answer.text


@pytest.mark.parametrize("change", [{"epoch": "seven"}, {"epoch": ""}])
async def test_a_question_that_makes_no_sense_is_refused(served: Served, change: dict[str, str]) -> None:
    answer = await served.http.get("/v1/marker", params={**ASKED, **change})
    assert answer.status_code == 400
    assert (await served.http.get("/v1/marker")).status_code == 400


async def test_an_epoch_that_a_broker_remembers_is_never_used_again(tmp_path: Path) -> None:
    pair = Pair(tmp_path / "world", automatic=True)
    await pair.beat()
    pair.b.heard_of(9)
    pair.time = 7.0
    await pair.beat(pair.b)
    record = pair.b.known.record
    assert record is not None
    assert record.epoch == 10


async def test_an_agent_that_has_proven_nothing_yet_says_nothing(tmp_path: Path) -> None:
    """A holder that was restarted knows the record before it has renewed it: what brokers were told still holds."""
    async for served in serve(tmp_path / "restarted", PATIENT.model_copy(update={"refresh": 0.05})):
        again = served.pair.keeper("dc-a")
        served.server._keeper = again
        assert (await served.http.get("/v1/marker", params=ASKED)).status_code == 503
        assert await again.beat(True), "a read is no proof for the holder: another beat follows"
        answer = await served.http.get("/v1/marker", params=ASKED)
        assert answer.status_code == 503
        assert "proven" in answer.text
        assert served.server.told == (), "nobody was told anything"
        await again.beat(True)
        assert (await served.ask())["role"] == "ACTIVE"


async def test_a_question_that_waits_for_the_first_proof_is_answered_by_it(tmp_path: Path) -> None:
    async for served in serve(tmp_path / "restarted", PATIENT):
        again = served.pair.keeper("dc-a")
        served.server._keeper = again
        waiting = asyncio.create_task(served.ask())
        await again.beat(True)
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done, "the first look proves nothing"
        await again.beat(True)
        assert (await asyncio.wait_for(waiting, 5))["role"] == "ACTIVE"
