"""A Temporal server for the session, and worlds to switch over: one scope, one task queue, one file each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from activities.failpoints import Failpoint, Failpoints
from adapters.memory import MemoryWorld, Produced, memory_directory
from agent.keeper import Keeper
from dcdr.bounds import PRESETS, Preset
from dcdr.model import FailoverPolicy, FailoverRequest, LeaseRecord, SwitchoverRequest, TransitionReport
from starter.client import start
from worker.assembly import build_worker
from workflows.temporal import CONVERTER

ROOT = Path(__file__).parents[2]
PORTS = 10_000, 19_999
START_SECONDS, RUN_SECONDS = 60.0, 90.0
"""A worker process imports for 2 s on a quiet core; a run that lost a worker twice takes about 15 s."""


def temporal_cli() -> str:
    """The dev server's binary: beside this Python, else on the PATH."""
    beside = Path(sys.executable).with_name("temporal")
    found = str(beside) if beside.exists() else shutil.which("temporal")
    if found is None:
        raise RuntimeError("the `temporal` CLI is missing: run `make setup`")
    return found


@contextlib.asynccontextmanager
async def server(folder: Path) -> AsyncIterator[Client]:
    """A real dev server with the search attributes and the limits that the lab's server has, and a client to it.

    Started by hand: the SDK's own way allows 5 s for the start, which a busy machine does not keep.
    """
    async with asyncio.timeout(START_SECONDS):
        process, client = await _started(folder / "temporal.log")
    try:
        yield client
    finally:
        process.terminate()
        await process.wait()


async def _started(log: Path) -> tuple[asyncio.subprocess.Process, Client]:
    """A server that serves. One that ends at once (somebody took a port meanwhile) is started on another port."""
    options = [f"--search-attribute={name}=Keyword" for name in ("DrScope", "DrPhase", "DrActiveDC")]
    options += [
        f"--dynamic-config-value=history.{name}MaxPollRPS=1000" for name in ("transferProcessor", "timerProcessor")
    ]
    process: asyncio.subprocess.Process | None = None
    try:
        while True:
            if process is None or process.returncode is not None:
                port = _free_port()
                with log.open("wb") as sink:
                    process = await asyncio.create_subprocess_exec(
                        *(temporal_cli(), "server", "start-dev", "--ip=127.0.0.1", f"--port={port}", "--headless"),
                        *("--log-level=error", *options),
                        stdout=sink,
                        stderr=sink,
                    )
            try:
                client = await Client.connect(f"127.0.0.1:{port}", data_converter=CONVERTER, identity="tests")
                await client.count_workflows('DrScope = "none"')
            except (RuntimeError, RPCError):  # not listening, or the namespace is not there yet
                await asyncio.sleep(0.1)
            else:
                return process, client
    except BaseException as error:
        error.add_note(_end_of(log))
        if process is not None and process.returncode is None:
            process.terminate()
            await process.wait()
        raise


def _end_of(log: Path) -> str:
    return log.read_text()[-2000:]


def _free_port() -> int:
    """Below those that the kernel gives away: several servers start at once, and each asks it for more ports."""
    while True:
        port = random.randint(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


BY_ITSELF = FailoverPolicy(even_behind_acls="the stand-in's dead sites are dead")
"""Failovers of worlds without agents go on by themselves too."""


@dataclass
class Case:
    """One world with its scope and queue on the shared server."""

    client: Client
    world: MemoryWorld
    path: Path
    scope: str
    queue: str

    @classmethod
    def build(cls, client: Client, folder: Path, **world: Any) -> Case:
        name = f"t{uuid4().hex[:8]}"
        path = folder / f"{name}.world"
        return cls(client, MemoryWorld.create(path, scope=name, **world), path, name, f"q-{name}")

    def request(self, target: str = "dc-b", **more: Any) -> SwitchoverRequest:
        return SwitchoverRequest(scope=self.scope, target=target, **more)

    @property
    def lease(self) -> LeaseRecord:
        """The world's lease record."""
        record = self.world.lease()
        assert record is not None
        return record

    def judge(self) -> list[str]:
        """What is wrong with the world; an application's transaction may stay open where nothing was switched over."""
        return self.world.check(ignore=["unsettled"] if self.lease.epoch == 1 else [])

    @contextlib.asynccontextmanager
    async def worker(self, *points: Failpoint) -> AsyncIterator[None]:
        """A worker inside this process, with these failpoints armed."""
        failpoints = Failpoints(points, self.marks)
        directory = memory_directory(self.path)
        async with build_worker(self.client, directory, task_queue=self.queue, failpoints=failpoints):
            yield

    @contextlib.asynccontextmanager
    async def agents(self, *only: str) -> AsyncIterator[dict[str, Keeper]]:
        """The data centers' agents, all or `only` some, beating often: the stand-in's store has no watch."""
        scope = self.world.directory().scope(self.scope)
        assert scope.intents is not None, "the world was made without agents"
        timing = PRESETS[Preset.TEST].model_copy(update={"renew": 0.02})
        keepers = {dc: Keeper(dc, self.scope, scope.lease, scope.intents, timing) for dc in only or scope.members}
        tasks = [asyncio.create_task(keeper.keep(lambda: True)) for keeper in keepers.values()]
        try:
            yield keepers
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def marks(self) -> Path:
        """Where failpoints leave what has fired."""
        folder = self.path.with_suffix(".marks")
        folder.mkdir(exist_ok=True)
        return folder

    async def reached(self, point: Failpoint) -> None:
        """Wait until `point` has fired."""
        async with asyncio.timeout(RUN_SECONDS):
            while not (self.marks / point.mark).exists():  # noqa: ASYNC110 - a file of another process is all there is
                await asyncio.sleep(0.02)

    async def start(self, target: str = "dc-b", **more: Any) -> WorkflowHandle[Any, TransitionReport]:
        """Start a switchover of this world."""
        return await start(self.client, self.request(target, **more), task_queue=self.queue)

    def lose(self, *, tail: int = 3, journal: bool = True, rate: float = 0.0) -> None:
        """dc-a accepts `tail` records that the mirror does not copy, and dies; dc-b's agent takes the lease over."""
        if journal:
            self.world.keep_journal("dc-b", rate=rate)
        self.world.mirror_rate(0)
        for number in range(tail):
            assert self.world.produce("dc-a", "orders", 0, [f"lost-{number}"]) is Produced.ACKED
        self.world.kill_site("dc-a")
        self.world.take_over("dc-b", after=timedelta(seconds=1))

    async def fail_over(self, target: str = "dc-b", by: str = "watch") -> WorkflowHandle[Any, TransitionReport]:
        """Start a failover of this world, as the watch does."""
        return await start(
            self.client, FailoverRequest(scope=self.scope, target=target, requested_by=by), task_queue=self.queue
        )

    async def spawn(self, forks: Forks, failpoint: str = "") -> Forked:
        """A worker in its own process, ready to poll; `failpoint` arms it to die."""
        environment = {**os.environ, "DCDR_FAILPOINT": failpoint, "DCDR_FAILPOINT_DIR": str(self.marks)}
        config = self.client.service_client.config
        argv = ["--address", config.target_host, "--namespace", self.client.namespace]
        argv += ["--queue", self.queue, "--world", str(self.path)]
        log = self.path.with_suffix(".log")
        process = await forks.fork(argv, environment, log)
        try:
            line = await asyncio.wait_for(process.said(), START_SECONDS)
            assert line == "ready", (line, log.read_text())
        except BaseException:
            await process.end()
            raise
        return process


class Forked:
    """A worker process of the fork server."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid, self._reader, self._writer = pid, reader, writer
        self._ended: int | None = None

    async def said(self) -> str:
        """Its next line."""
        return (await self._reader.readline()).decode().strip()

    async def wait(self) -> int:
        """Its exit code; negative: the signal that ended it."""
        while self._ended is None:
            word, _, number = (await self.said()).partition(" ")
            if word == "exit":
                self._ended = int(number)
            assert word, "the fork server is gone"
        self._writer.close()
        return self._ended

    async def end(self) -> None:
        """Kill it, dead or alive, and wait."""
        if self._ended is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            await self.wait()


class Forks:
    """The fork server of a session of tests."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, folder: Path) -> AsyncIterator[Forks]:
        path = folder / "forks"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.workflows.forkserver", str(path)),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
            assert line.strip() == b"ready", line
            yield cls(path)
        finally:
            process.stdin.close()
            await process.wait()

    async def fork(self, argv: list[str], environment: dict[str, str], log: Path) -> Forked:
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        writer.write(json.dumps({"argv": argv, "env": environment, "log": str(log)}).encode() + b"\n")
        word, _, number = (await reader.readline()).decode().strip().partition(" ")
        assert word == "pid", word
        return Forked(int(number), reader, writer)
