"""One real lab as a stage: workers with failpoints, loads, switchovers, and the checker's word over everything.

A stage does not care which side is active: a test switches from `here()` to the other side, so that the next one starts
where it ended. The checker judges all loads since the last reset together, which makes every test a witness for those
before it. A test that fails, or that spoils the estate on purpose, leaves the stage `spoiled`: the next one resets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from temporalio.client import Client, WorkflowHandle

from activities.failpoints import Failpoint
from dcdr.model import AbortRequest, GroupVerdict, LeaseRecord, Outcome, SwitchoverRequest, TransitionReport
from lab import Lab, connect, gates, store
from lab import status as lab_status
from lab.addresses import ARBITER, MEMBERS, other
from lab.check.estate import check_lab
from lab.check.model import Demands
from lab.check.report import as_table
from lab.check.run import Checked
from lab.load import Load, LoadConfig
from lab.load.estate import GROUPS, STAYING, Estate
from lab.record import Home
from lab.reset import reset
from lab.up import up
from starter import client as front
from starter.client import Ended
from workflows.switchover import SwitchoverWorkflow
from workflows.temporal import CONVERTER, TASK_QUEUE

ROOT = Path(__file__).parents[2]
SCOPE = store.SCOPE
WORKER_START_S, RUN_S, STANDING_S, LOOK_S = 90.0, 180.0, 60.0, 0.1
RATE = 400.0
"""Records a second: enough that every window of the outage has some, and little enough for a busy machine."""
STORY_S, STORY_LINES = 20.0, 25
"""How long a failure waits for what the lab has to say, and how much of each log it shows."""
Handle = WorkflowHandle[SwitchoverWorkflow, TransitionReport]


async def until(what: str, holds: Callable[[], bool | Awaitable[bool]], seconds: float) -> None:
    """Look until it holds. Raises: TimeoutError naming what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        answer = holds()
        if answer if isinstance(answer, bool) else await answer:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        await asyncio.sleep(LOOK_S)


def quietly(_line: str) -> None:
    """Progress that nobody reads."""


@dataclass
class Worker:
    """One `python -m worker` of ours, with what was armed in it."""

    process: subprocess.Popen[bytes]
    log: Path
    marks: Path

    def fired(self, point: Failpoint) -> bool:
        return (self.marks / point.mark).exists()

    def release(self) -> None:
        """Let go of every failpoint that holds."""
        (self.marks / "release").touch()

    async def reached(self, point: Failpoint, seconds: float = RUN_S) -> None:
        """Wait until `point` has fired. Raises: TimeoutError."""
        await until(f"failpoint {point.mark}", lambda: self.fired(point), seconds)

    async def died(self, seconds: float = RUN_S) -> int:
        """Wait for its end; returns the exit code (minus the signal)."""
        await until("the worker's end", lambda: self.process.poll() is not None, seconds)
        return int(self.process.returncode)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """SIGKILL, frozen or not, and reap."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@dataclass
class Stage:
    """A lab without a worker of its own, and what happened on it since it was fresh.

    `moves` is how often the writers changed sides; `maybe` as many more, if a client found a side that was open for a
    moment only. `spoiled` is set while a test is at work and cleared by a clean verdict alone.
    """

    lab: Lab
    client: Client
    folder: Path
    runs: list[Path] = field(default_factory=list)
    moves: int = 0
    maybe: int = 0
    rereads: Counter[str] = field(default_factory=Counter)
    spoiled: bool = False
    workers: list[Worker] = field(default_factory=list)

    @classmethod
    async def open(cls, name: str, brokers: int = 1, fence: str = gates.AUTHORIZER) -> Stage:
        """Bring the lab up, or find it up. Workers' logs and marks are kept in the lab's folder."""
        was_there = Home.of(name).record.exists()
        lab = await asyncio.to_thread(up, name, brokers, None, False, quietly, fence)
        address = str(lab.plan.ports["temporal/frontend"])
        client = await Client.connect(address, namespace="dr", data_converter=CONVERTER)
        folder = lab.home.path / "stage"
        await asyncio.to_thread(folder.mkdir, exist_ok=True)
        return cls(lab, client, folder, spoiled=was_there)

    async def ready(self) -> None:
        """Make the lab fresh if somebody spoiled it; else leave it as the last one left it."""
        if self.spoiled:
            await asyncio.to_thread(reset, self.lab.name, False, quietly)
            self.runs, self.moves, self.maybe, self.rereads = [], 0, 0, Counter()
        self.spoiled = True

    # --- the estate -------------------------------------------------------------------------------------------------

    def lease(self) -> LeaseRecord:
        found = store.get(self.lab.plan.ports[f"etcd-{ARBITER}/client"], store.LEASE_KEY)
        assert found is not None
        return LeaseRecord.model_validate_json(found).model_copy(update={"seq": 0})  # signs of life are no change

    def here(self) -> str:
        """The active side, as the lease says."""
        return self.lease().holder

    def there(self) -> str:
        return other(self.here())

    def cluster_id(self, member: str) -> str:
        return str(self.lab.document["cluster_ids"][member])

    def wrong(self, active: str) -> list[str]:
        """What differs from an estate at rest with `active` open; empty when nothing does."""
        seen, standby = lab_status.observe(self.lab), other(active)
        lease = seen["lease"] or {}
        facts = {
            "lease": (lease.get("holder"), lease.get("phase"), lease.get("op_id")),
            "endpoint": seen["endpoint"],
            active: seen["gates"][active],
            standby: seen["gates"][standby],
        }
        wanted = {
            "lease": (active, "OPEN", None),
            "endpoint": active,
            active: {"users": "open", "groups": "free"},
            standby: {"users": "closed", "groups": "frozen"},
        }
        found = [f"{name}: {facts[name]}, expected {wanted[name]}" for name in wanted if facts[name] != wanted[name]]
        for source in (active, standby):
            state, host = connect.standing_state(source, active), other(source)
            there = connect.status(self.lab.connect_url(host))
            for kind in connect.KINDS:
                name = connect.connector_name(kind, source)
                entry = there.get(name)
                if not connect.has_state(name, entry, state):
                    tasks = [task["state"] for task in (entry or {}).get("tasks", [])]
                    now = (entry or {}).get("connector", {}).get("state")
                    found.append(f"{name} is {now} with tasks {tasks}, expected {state}")
        return found

    def wrong_gates(self, active: str) -> list[str]:
        """What differs from a lease, an endpoint and gates that serve `active`."""
        return [what for what in self.wrong(active) if not what.startswith("mm2-")]

    async def at_rest(self, active: str, epoch: int | None = None, seconds: float = STANDING_S) -> None:
        """Wait until lease, endpoint, gates and connectors are those of an estate whose active side is `active`."""
        wrong: list[str] = []

        async def holds() -> bool:
            nonlocal wrong
            wrong = await asyncio.to_thread(self.wrong, active)
            return not wrong

        try:
            await until("the estate at rest", holds, seconds)
        except TimeoutError as error:
            raise AssertionError(f"not as it should be with {active} active: {'; '.join(wrong)}") from error
        if epoch is not None:
            assert self.lease().epoch == epoch

    # --- workers ----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def worker(
        self,
        *points: Failpoint,
        marks: Path | None = None,
        mutant: tuple[str, ...] = (),
        settings: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Worker]:
        """A worker process of its own that serves the lab; at the end it is killed, whatever state it is in.

        Args:
            marks: folder that remembers what has fired (default: a new one); give a dead worker's to its successor.
            mutant: steps that do nothing in this worker.
            settings: on top of the lab's, such as {"DCDR_DRAIN__DEADLINE": "PT5S"}.
        """
        worker = self.spawn(*points, marks=marks, mutant=mutant, settings=settings)
        try:
            await self.serving(worker)
            yield worker
        finally:
            worker.end()

    def spawn(
        self,
        *points: Failpoint,
        marks: Path | None = None,
        mutant: tuple[str, ...] = (),
        settings: Mapping[str, str] | None = None,
    ) -> Worker:
        """Start a worker and do not wait for it; the caller ends it."""
        name = uuid4().hex[:8]
        marks = marks or self.folder / f"{name}.marks"
        marks.mkdir(exist_ok=True)
        log = self.folder / f"{name}.worker.log"
        module = "tests.integration.mutant_worker" if mutant else "worker"
        armed = ",".join(f"{point.step}:{point.moment}:{point.act}" for point in points)
        told = {"DCDR_FAILPOINT": armed, "DCDR_FAILPOINT_DIR": str(marks), "DCDR_MUTANT": ",".join(mutant)}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("DCDR_", "TEMPORAL_"))}
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env={**kept, **self.lab.environment(), **told, **(settings or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        worker = Worker(process, log, marks)
        self.workers.append(worker)
        return worker

    def story(self) -> Iterator[tuple[str, str]]:
        """What a failure should be read with, as title and text: the operation, the estate, the last log lines."""
        for asked in (["status", SCOPE], ["lab", "status", "--lab", self.lab.name]):
            try:
                told = subprocess.run(
                    [Path(sys.executable).with_name("dcdr"), *asked],
                    cwd=ROOT,
                    check=False,
                    env={**os.environ, **self.lab.environment()},
                    capture_output=True,
                    text=True,
                    timeout=STORY_S,
                )
                yield f"dcdr {' '.join(asked)}", told.stdout + told.stderr
            except subprocess.TimeoutExpired:
                yield f"dcdr {' '.join(asked)}", f"no answer within {STORY_S:.0f} s"
        logs = [worker.log for worker in self.workers[-2:]]
        logs += [self.lab.home.logs / f"agent-{member}.log" for member in MEMBERS]
        for log in logs:
            with contextlib.suppress(OSError):
                yield log.name, "\n".join(log.read_text(errors="replace").splitlines()[-STORY_LINES:])

    def end_workers(self) -> None:
        """End those that nobody ended, because what they were for was given up."""
        for worker in self.workers:
            worker.end()
        self.workers.clear()

    async def serving(self, worker: Worker) -> None:
        """Wait until a worker polls. Raises: AssertionError with its last words."""

        def ready() -> bool:
            ended = worker.process.poll() is not None
            served = b"serving scopes" in worker.log.read_bytes()  # and perhaps died of its failpoint since
            assert served or not ended, worker.log.read_text()[-2000:]
            return served

        await until("the worker to serve", ready, WORKER_START_S)

    # --- operations -------------------------------------------------------------------------------------------------

    async def start(self, target: str, **more: Any) -> Handle:
        return await front.start(self.client, SwitchoverRequest(scope=SCOPE, target=target, **more))

    async def start_raw(
        self, payload: object, workflow_id: str, workflow: str = "Switchover"
    ) -> WorkflowHandle[Any, Any]:
        """Start as somebody without our client does: one JSON input, any id."""
        return await self.client.start_workflow(workflow, payload, id=workflow_id, task_queue=TASK_QUEUE)

    async def ended(self, handle: Handle, seconds: float = RUN_S) -> Ended:
        return await asyncio.wait_for(front.ended(handle), seconds)

    async def abort(self, why: str) -> None:
        await front.abort(self.client, SCOPE, AbortRequest(by="test", reason=why))

    async def switch(self, target: str, seconds: float = RUN_S) -> TransitionReport:
        """A switchover that must be done."""
        return self.done(await self.ended(await self.start(target), seconds), target)

    def done(self, ended: Ended, target: str) -> TransitionReport:
        """The report of a switchover that must be done; what it says about groups is what the checker allows them."""
        report = ended.report
        assert report is not None, ended.failure
        assert (report.outcome, report.active) == (Outcome.DONE, target), ended.failure or report.why
        assert report.tail == ()
        self.moved(report)
        return report

    def moved(self, report: TransitionReport) -> None:
        """Count a move, and take the report at its word about groups that may re-read."""
        self.moves += 1
        self.rereads.update({g.group: g.bound for g in report.groups if g.verdict is not GroupVerdict.EXACT})

    # --- load and judgement -----------------------------------------------------------------------------------------

    def config(self, parked: bool = False, **changes: Any) -> LoadConfig:
        """The usual load, slowly. `parked`: a group too that leaves at the start and comes back at the end, which
        shows something only if the load ends on the other side."""
        groups = GROUPS if parked else STAYING
        return Estate.open(self.lab.name).load_config(**{"rate": RATE, "groups": groups, **changes})

    @contextlib.asynccontextmanager
    async def load(self, **changes: Any) -> AsyncIterator[Load]:
        """A load through the endpoint for the length of the block; it is stopped (or, on an error, killed) after it."""
        load = Load(self.config(**changes))
        await asyncio.to_thread(load.start, 60.0)
        self.runs.append(load.out)
        groups = set(load.config.groups)
        try:
            # A group that stands nowhere yet cannot be carried over.
            await asyncio.to_thread(
                load.wait_until, lambda live: set(live["commits"]) >= groups, 60.0, "every group's commit"
            )
            yield load
        except BaseException:
            await asyncio.to_thread(load.kill)
            raise
        await asyncio.to_thread(load.stop)

    async def flowing(self, load: Load, member: str, more: int = 200) -> None:
        """Wait for that many further acknowledgements of one side."""
        await asyncio.to_thread(load.wait_for_acks, more, 60.0, self.cluster_id(member))

    async def judge(self, **demands: Any) -> Checked:
        """The checker's word on all loads since the lab was fresh."""
        asked = {"switchovers": None if self.maybe else self.moves, "rereads": dict(self.rereads), **demands}
        checked = await asyncio.to_thread(check_lab, self.lab.name, self.runs, Demands(**asked), self.here(), 60.0)
        if not self.maybe:
            return checked
        seen = len(checked.moves)
        assert seen in (self.moves, self.moves + self.maybe), checked.verdict.facts["stretches"]
        self.moves, self.maybe = seen, 0
        return await self.judge(**demands)

    async def clean(self, **demands: Any) -> Checked:
        """The verdict, which must be clean, the standby complete included."""
        checked = await self.judge(**{"standby_complete": True, **demands})
        assert checked.verdict.clean, "\n".join(as_table(checked))
        self.spoiled = False
        return checked
