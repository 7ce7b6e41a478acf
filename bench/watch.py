"""`python -m bench watch`: what watching costs, and how soon a change of the lease becomes a step.

One worker, a Temporal dev server of its own, and a lease store in memory, so that what is measured is Temporal and the
watch. First all watches stand idle: memory and processor time of the worker. Then leases are taken over and opened
again: each takeover starts a failover of one step, which notes how long ago the lease was written.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated
from uuid import uuid4

import typer
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from activities.interceptor import StepInterceptor
    from adapters.memory import MemoryWorld
    from dcdr.errors import ConflictError, InvalidRequestError
    from dcdr.model import FailoverRequest, LeaseRecord, Phase, StoredLease
    from dcdr.ports import Scope
    from dcdr.watching import Watching
    from worker import assembly
    from workflows.lookout import ensure_running
    from workflows.temporal import FAILURE_TYPES, site_queue, watch_id

SITES = ("dc-a", "dc-b")
BUSY_SCOPES = 10
"""Into so many scopes changes are injected, one after another in each."""
GIVE_UP_S = 600.0
STOP_S = 60.0
RPC = timedelta(seconds=60)
"""For one answer of the server."""


class Shelf:
    """`dcdr.ports.LeaseStore` in memory, for any number of scopes."""

    def __init__(self) -> None:
        self._held: dict[str, StoredLease] = {}
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self.written: dict[str, float] = {}
        self.reads = 0

    async def read(self, scope: str) -> StoredLease | None:
        self.reads += 1
        return self._held.get(scope)

    async def swap(self, expected: StoredLease, record: LeaseRecord) -> StoredLease:
        if self._held.get(record.scope) != expected:
            raise ConflictError(f"the lease of {record.scope} was written in between")
        return self.put(record)

    async def bootstrap(self, record: LeaseRecord) -> StoredLease:
        return self.put(record)

    async def watch(self, scope: str, after: StoredLease | None = None) -> AsyncIterator[StoredLease | None]:
        seen = after
        event = asyncio.Event()
        self._waiting.setdefault(scope, set()).add(event)
        try:
            while True:
                event.clear()
                held = self._held.get(scope)
                if held != seen:
                    seen = held
                    yield held
                    continue
                await event.wait()
        finally:
            self._waiting[scope].discard(event)

    def put(self, record: LeaseRecord) -> StoredLease:
        """Write whatever stands there."""
        before = self._held.get(record.scope)
        stored = self._held[record.scope] = StoredLease(record, before.revision + 1 if before else 1)
        self.written[record.scope] = time.monotonic()
        for event in self._waiting.get(record.scope, ()):
            event.set()
        return stored


class Shelves:
    """`dcdr.ports.Directory`: `count` scopes that differ by their names."""

    def __init__(self, world: MemoryWorld, shelf: Shelf, count: int) -> None:
        directory = world.directory()
        like = directory.scope(directory.names()[0])
        self._scopes = {
            name: replace(like, name=name, arbiters=(), lease=shelf)
            for name in (f"w{number:05}" for number in range(count))
        }

    def scope(self, name: str) -> Scope:
        if name not in self._scopes:
            raise InvalidRequestError(f"there is no scope {name!r}")
        return self._scopes[name]

    def names(self) -> tuple[str, ...]:
        return tuple(self._scopes)


@workflow.defn(name="Failover")
class OneStep:
    """A failover of one step."""

    @workflow.run
    async def run(self, request: FailoverRequest) -> None:
        await workflow.execute_activity(
            "bench.first_step", request, start_to_close_timeout=timedelta(seconds=60), activity_id="first"
        )


class FirstStep:
    """Notes how long ago the lease was written, and opens it again."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self.took: dict[str, list[float]] = {}
        self.starts: dict[tuple[str, int], int] = {}

    @activity.defn(name="bench.first_step")
    async def first_step(self, request: FailoverRequest) -> None:
        now = time.monotonic()
        stored = await self._shelf.read(request.scope)
        assert stored is not None
        key = request.scope, stored.record.epoch
        self.starts[key] = self.starts.get(key, 0) + 1
        if stored.record.phase is Phase.ACQUIRED:
            self.took.setdefault(request.scope, []).append((now - self._shelf.written[request.scope]) * 1000)
            self._shelf.put(stored.record.model_copy(update={"phase": Phase.OPEN}))


@dataclass(frozen=True)
class Cost:
    """MB are 10^6 bytes; `cpu` is the worker's share of one core while idle; times in ms; `events` of all histories."""

    watches: int
    sites: int
    idle_s: float
    rss_before_mb: float
    rss_mb: float
    cpu: float
    reads_per_s: float
    changes: int
    p50_ms: float
    p95_ms: float
    worst_ms: float
    events_per_change: float
    longest_history: int
    runs: int
    twice: int
    """Failovers beyond one for a takeover."""


async def measure(
    client: Client, folder: Path, watches: int, sites: int, seconds: float, changes: int, say: Callable[[str], None]
) -> Cost:
    """Measure on a server that nobody else uses. `sites`: how many of two have workers of their own, 0 to 2."""
    queue, shelf = f"bench-{uuid4().hex[:8]}", Shelf()
    directory = Shelves(MemoryWorld.create(folder / "bench.world"), shelf, watches)
    for name in directory.names():
        shelf.put(LeaseRecord(scope=name, holder="dc-a", epoch=1))
    first, before = FirstStep(shelf), rss_mb()
    async with AsyncExitStack() as stack:
        real = [one for one in assembly.WORKFLOWS if one.__name__ == "LeaseWatchWorkflow"]
        worker = Worker(
            client,
            task_queue=queue,
            workflows=[*real, OneStep],
            activities=[*assembly.activities_of(directory), first.first_step],
            workflow_failure_exception_types=FAILURE_TYPES,
            max_concurrent_activities=assembly.STEPS_AT_ONCE + assembly.WAITS_OF_A_SCOPE * watches,
            max_cached_workflows=2 * watches + 100,
            max_heartbeat_throttle_interval=timedelta(seconds=1),
            graceful_shutdown_timeout=assembly.GRACE,  # looks end by themselves when their worker stops
            interceptors=[StepInterceptor()],
        )
        await stack.enter_async_context(worker)
        for dc in SITES[:sites]:
            await stack.enter_async_context(assembly.build_site_worker(client, directory, dc, task_queue=queue))
        say(f"{watches} watches, {sites} sites of their own, queue {queue}, e.g. {site_queue('dc-a', queue)}")
        await begin(client, directory.names(), queue)
        say("all watches have looked")
        reads, cpu, began = shelf.reads, cpu_s(), time.monotonic()
        await asyncio.sleep(seconds)
        idle = time.monotonic() - began
        share, reads_per_s, rss = (cpu_s() - cpu) / idle, (shelf.reads - reads) / idle, rss_mb()
        say(f"idle for {idle:.0f} s: {rss:.0f} MB, {share * 100:.1f} % of a core, {reads_per_s:.0f} reads/s")
        busy = directory.names()[: min(BUSY_SCOPES, watches)]
        takeovers = max(1, changes // 2 // len(busy))
        told = await asyncio.gather(*(take_over(client, shelf, first, name, takeovers) for name in busy))
        say(f"{2 * takeovers * len(busy)} changes in {time.monotonic() - began - idle:.0f} s")
        histories = [await lengths(client, name) for name in busy]
        try:
            async with asyncio.timeout(STOP_S):
                await stack.aclose()
        except TimeoutError:  # seen twice, without a grace: all that is measured is known by now
            say(f"a worker did not stop within {STOP_S:g} s and is left behind")
    took = [one for name in busy for one in first.took[name]]
    injected = sum(state.state.changes - 1 for state in told)
    return Cost(
        watches=watches,
        sites=sites,
        idle_s=round(idle, 1),
        rss_before_mb=round(before, 1),
        rss_mb=round(rss, 1),
        cpu=round(share, 4),
        reads_per_s=round(reads_per_s, 1),
        changes=injected,
        p50_ms=round(median(took), 1),
        p95_ms=round(quantiles(took, n=20)[-1] if len(took) > 1 else took[0], 1),
        worst_ms=round(max(took), 1),
        events_per_change=round(sum(map(sum, histories)) / injected, 1),
        longest_history=max(map(max, histories)),
        runs=sum(map(len, histories)),
        twice=sum(state.state.failovers for state in told) - takeovers * len(busy),
    )


async def begin(client: Client, names: Sequence[str], queue: str) -> None:
    """Start every watch, few at a time as the worker would have them, and wait until each has looked."""
    gate = asyncio.Semaphore(4)

    async def one(name: str) -> None:
        async with gate:
            await ensure_running(client, name, task_queue=queue)
            await settled(client, name, 1)

    await asyncio.gather(*(one(name) for name in names))


async def settled(client: Client, name: str, changes: int) -> Watching:
    """Wait until the watch has seen so many changes."""
    handle = client.get_workflow_handle(watch_id(name))
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            with suppress(RPCError):  # a worker that is busy, or between two runs
                found: Watching = await handle.query("watching", result_type=Watching)
                if found.state.changes >= changes:
                    return found
            await asyncio.sleep(0.3)


async def take_over(client: Client, shelf: Shelf, first: FirstStep, name: str, times: int) -> Watching:
    """Take the lease over so many times, each after the watch has seen the one before opened: it looks at levels, and
    of two changes that come too close it would rightly see one."""
    found = await settled(client, name, 1)
    for done in range(times):
        stored = await shelf.read(name)
        assert stored is not None
        epoch = stored.record.epoch + 1
        holder = SITES[epoch % 2]
        seen = found.state.changes
        shelf.put(stored.record.model_copy(update={"epoch": epoch, "holder": holder, "phase": Phase.ACQUIRED}))
        async with asyncio.timeout(GIVE_UP_S):
            while len(first.took.get(name, ())) <= done:  # noqa: ASYNC110 - what ends it is in another task's list
                await asyncio.sleep(0.01)
        found = await settled(client, name, seen + 2)
    return found


async def lengths(client: Client, name: str) -> list[int]:
    """Events of each run's history: of those that ended by the server's list, of the last one as it is now."""
    handle = client.get_workflow_handle(watch_id(name))
    run: str | None = (await handle.describe(rpc_timeout=RPC)).run_id
    found: list[int] = []
    while run:
        history = await client.get_workflow_handle(watch_id(name), run_id=run).fetch_history(rpc_timeout=RPC)
        found.append(len(history.events))
        run = history.events[0].workflow_execution_started_event_attributes.continued_execution_run_id
    return found


def rss_mb() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def cpu_s() -> float:
    """Processor time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def command(
    watches: Annotated[int, typer.Option(min=1, help="Scopes that are watched by the one worker.")] = 1000,
    sites: Annotated[int, typer.Option(min=0, max=2, help="Sites with workers of their own, in the process too.")] = 0,
    minutes: Annotated[float, typer.Option(help="How long the watches stand idle.")] = 10.0,
    changes: Annotated[int, typer.Option(min=2, help="Changes of the lease that are injected afterwards.")] = 10_000,
    quick: Annotated[bool, typer.Option("--quick", help="100 watches, half a minute, 200 changes.")] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="table or json.")] = "table",
) -> None:
    """Measure what watching costs: memory, processor, history events, and the time from a change to the first step."""
    from tests.workflows.harness import server

    if quick:
        watches, minutes, changes = min(watches, 100), min(minutes, 0.5), min(changes, 200)

    async def run() -> Cost:
        with tempfile.TemporaryDirectory() as scratch:
            async with server(Path(scratch)) as client:
                return await measure(client, Path(scratch), watches, sites, minutes * 60, changes, _say)

    cost = asyncio.run(run())
    if output == "json":
        print(json.dumps(asdict(cost), indent=1))
    else:
        print("\n".join(f"{name:<20} {value}" for name, value in asdict(cost).items()))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
