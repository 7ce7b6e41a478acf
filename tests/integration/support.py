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

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowQueryFailedError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.failpoints import Failpoint
from dcdr.model import (
    AbortRequest,
    FailoverRequest,
    GroupVerdict,
    Holding,
    LeaseRecord,
    LossAcceptance,
    OperationKind,
    Outcome,
    SwitchoverRequest,
    TailRequest,
    TailResult,
    TransitionReport,
)
from lab import Lab, connect, gates, store
from lab import status as lab_status
from lab.addresses import ARBITER, MEMBERS, other
from lab.check.estate import check_lab
from lab.check.loss import Loss
from lab.check.model import Demands
from lab.check.report import as_table
from lab.check.run import Checked
from lab.load import Load, LoadConfig
from lab.load.estate import GROUPS, STAYING, Estate
from lab.record import Home
from lab.reset import reset
from lab.up import tell_agents, up
from starter import client as front
from starter.client import Ended
from workflows.lookout import ensure_running, look
from workflows.switchover import SwitchoverWorkflow
from workflows.temporal import CONVERTER, TASK_QUEUE, TASK_TIMEOUT, tail_id
from workflows.transition import transition_id

ROOT = Path(__file__).parents[2]
SCOPE = store.SCOPE
WORKER_START_S, RUN_S, STANDING_S, LOOK_S = 90.0, 180.0, 60.0, 0.1
TAKEOVER_S, FAILOVER_S, TAIL_S, WATCH_S = 90.0, 180.0, 180.0, 60.0
"""Until a failover has begun, of which the lease's own waiting time is 14 s; until it has ended; until its tail is
known, from when the old side serves; until the watch has seen the lease."""
RATE = 400.0
"""Records a second: enough that every window of the outage has some, and little enough for a busy machine."""
STORY_S, STORY_LINES = 20.0, 25
"""How long a failure waits for what the lab has to say, and how much of each log it shows."""
Handle = WorkflowHandle[SwitchoverWorkflow, TransitionReport]
FailoverHandle = WorkflowHandle[Any, TransitionReport]


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


def _different(facts: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    return [f"{name}: {facts[name]}, expected {wanted[name]}" for name in wanted if facts[name] != wanted[name]]


def quietly(_line: str) -> None:
    """Progress that nobody reads."""


@dataclass
class Worker:
    """One `python -m worker` of ours, with what was armed in it."""

    process: subprocess.Popen[bytes]
    log: Path
    marks: Path
    site: str = ARBITER

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
    failover: TransitionReport | None = None
    """The last one since the lab was fresh: from then on the verdict needs what it lost."""
    seen: set[str] = field(default_factory=set)
    """Runs of failovers that a test has had the end of."""

    @classmethod
    async def open(
        cls, name: str, brokers: int = 1, fence: str = gates.AUTHORIZER, *, automatic: bool = False
    ) -> Stage:
        """Bring the lab up, or find it up. Workers' logs and marks are kept in the lab's folder.

        Args:
            automatic: the agents take the lease over by themselves.
        """
        was_there = Home.of(name).record.exists()
        lab = await asyncio.to_thread(up, name, brokers, None, False, quietly, fence, automatic)
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
            self.failover = None
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
            "lease": (lease.get("holder"), lease.get("phase"), lease.get("op_id"), lease.get("behind")),
            "endpoint": seen["endpoint"],
            active: seen["gates"][active],
            standby: seen["gates"][standby],
        }
        wanted = {
            "lease": (active, "OPEN", None, None),
            "endpoint": active,
            active: {"users": "open", "groups": "free"},
            standby: {"users": "closed", "groups": "frozen"},
        }
        found = _different(facts, wanted)
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

    def wrong_after_failover(self, active: str, dark: bool = False) -> list[str]:
        """What differs from an estate whose other side a failover left behind; empty when nothing does.

        Args:
            dark: that side does not answer yet, so that nothing is asked of it.
        """
        seen, behind = lab_status.observe(self.lab), other(active)
        lease = seen["lease"] or {}
        facts = {
            "lease": (lease.get("holder"), lease.get("phase"), lease.get("op_id"), lease.get("behind")),
            "endpoint": seen["endpoint"],
            active: seen["gates"][active],
        }
        wanted: dict[str, object] = {
            "lease": (active, "OPEN", None, behind),
            "endpoint": active,
            active: {"users": "open", "groups": "free"},
        }
        if not dark:
            facts[behind], wanted[behind] = seen["gates"][behind]["users"], "closed"
        found = _different(facts, wanted)
        for source in (behind,) if dark else (active, behind):  # the mirror of `source` runs on the other side
            there = connect.status(self.lab.connect_url(other(source)))
            name = connect.connector_name("source", source)
            if not connect.has_state(name, there.get(name), "STOPPED"):
                found.append(f"{name} is {there.get(name)}, expected to be STOPPED without a task")
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

    async def at_rest_after_failover(self, active: str, dark: bool = False, seconds: float = STANDING_S) -> None:
        """Wait until nothing is wrong with an estate that failed over to `active`. Raises: AssertionError."""
        wrong: list[str] = []

        async def holds() -> bool:
            nonlocal wrong
            wrong = await asyncio.to_thread(self.wrong_after_failover, active, dark)
            return not wrong

        try:
            await until("the estate at rest after its failover", holds, seconds)
        except TimeoutError as error:
            raise AssertionError(f"not as a failover to {active} leaves it: {'; '.join(wrong)}") from error

    # --- sites, and what the agents are told ------------------------------------------------------------------------

    async def automatic(self, on: bool) -> None:
        """Whether the agents take over by themselves from now on; one by one they are restarted, without an outage."""
        await asyncio.to_thread(tell_agents, self.lab, quietly, automatic=on)

    async def policy(self, **changes: Any) -> None:
        """The lab's own values of `scopes.lab.failover`, as YAML would hold them: all that are not named are the usual
        ones again. Agents are restarted, workers that start later read them: `policy(max_lost_records=0)`."""
        await asyncio.to_thread(tell_agents, self.lab, quietly, failover=changes)

    async def kill_site(self, site: str) -> list[str]:
        """SIGKILL everything at a site at once, our own workers there too. Returns: the processes' names."""
        for worker in self.workers:
            if worker.site == site and worker.process.poll() is None:
                worker.process.kill()
        return await asyncio.to_thread(self.lab.fault.kill_site, site)

    async def restart_site(self, site: str) -> list[str]:
        """Start what is down there (not our own workers) and wait until it serves."""
        return await asyncio.to_thread(self.lab.fault.restart_site, site)

    async def cut_site(self, site: str, direction: str = "both", **more: bool) -> list[str]:
        """Part a site from the others; `more`: `with_clients`, `silently`. `self.lab.fault.heal()` joins them again."""
        return await asyncio.to_thread(lambda: self.lab.fault.cut_site(site, direction, **more))

    # --- workers ----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def worker(
        self,
        *points: Failpoint,
        marks: Path | None = None,
        mutant: tuple[str, ...] = (),
        settings: Mapping[str, str] | None = None,
        site: str = ARBITER,
    ) -> AsyncIterator[Worker]:
        """A worker process of its own that serves the lab; at the end it is killed, whatever state it is in.

        Args:
            marks: folder that remembers what has fired (default: a new one); give a dead worker's to its successor.
            mutant: steps that do nothing in this worker.
            settings: on top of the lab's, such as {"DCDR_DRAIN__DEADLINE": "PT5S"}.
            site: where it runs. Each one serves queue `dr`, which is enough for a watch; a member's also `dr-<site>`,
                and it is part of that site when this is cut off or killed.
        """
        worker = self.spawn(*points, marks=marks, mutant=mutant, settings=settings, site=site)
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
        site: str = ARBITER,
    ) -> Worker:
        """Start a worker and do not wait for it; the caller ends it. Arguments as of `worker`."""
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
                [sys.executable, "-m", module, *(["--dc", site] if site in MEMBERS else [])],
                cwd=ROOT,
                env={**kept, **self.lab.environment(site), **told, **(settings or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        worker = Worker(process, log, marks, site)
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

    # --- failovers --------------------------------------------------------------------------------------------------

    async def watched(self, seconds: float = WATCH_S) -> None:
        """Wait until the scope's watch has seen the lease a moment ago; a worker must be serving, which starts it."""

        async def alive() -> bool:
            await ensure_running(self.client, SCOPE)
            return (await look(self.client, SCOPE)).alive

        await until("the watch to be alive", alive, seconds)

    async def fail_over(self, target: str, **more: Any) -> FailoverHandle:
        """Ask for a failover, as a person does; `failed_over` waits for its end as for the watch's."""
        request = FailoverRequest(scope=SCOPE, target=target, **more)
        handle: FailoverHandle = await self.client.start_workflow(
            "Failover",
            request,
            id=transition_id(SCOPE),
            task_queue=TASK_QUEUE,
            task_timeout=TASK_TIMEOUT,
            result_type=TransitionReport,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        )
        return handle

    async def failing_over(self, seconds: float = TAKEOVER_S) -> FailoverHandle:
        """The failover that runs or ran last, whoever started it, but none that `failed_over` has returned already."""
        found: str | None = None

        async def started() -> bool:
            nonlocal found
            try:
                run = await self.client.get_workflow_handle(transition_id(SCOPE)).describe()
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    return False
                raise
            found = run.run_id if run.workflow_type == "Failover" and run.run_id not in self.seen else None
            return found is not None

        await until("a failover", started, seconds)
        return self.client.get_workflow_handle(transition_id(SCOPE), run_id=found, result_type=TransitionReport)

    async def failed_over(
        self, target: str, *, outcome: Outcome = Outcome.DONE, seconds: float = FAILOVER_S
    ) -> TransitionReport:
        """Wait until the failover to `target` has ended, whoever started it. Returns: its report.

        Raises: TimeoutError when none ends; AssertionError when it fails, or ends in another way or elsewhere.
        """
        deadline = time.monotonic() + seconds
        handle = await self.failing_over(seconds)
        ended = await asyncio.wait_for(front.ended(handle), max(1.0, deadline - time.monotonic()))
        self.seen.add(handle.run_id or "")
        report = ended.report
        assert report is not None, ended.failure
        assert (report.kind, report.target) == (OperationKind.FAILOVER, target), report
        assert report.outcome is outcome, report.why
        if outcome is Outcome.DONE:
            assert report.active == target, report.why
            self.failover = report
            self.moved(report)
        return report

    async def holding(self, seconds: float = FAILOVER_S) -> Holding:
        """Wait until the failover holds; returns what it waits to have accepted."""
        held: list[Holding] = []

        async def holds() -> bool:
            handle = await self.failing_over(seconds)
            with contextlib.suppress(RPCError, WorkflowQueryFailedError):  # no worker answers just now
                found = await handle.query("holding", result_type=Holding | None)  # type: ignore[arg-type]
                held.extend([found] if isinstance(found, Holding) else [])
            return bool(held)

        await until("a failover that holds", holds, seconds)
        return held[0]

    async def accept_loss(self, records: int | None, by: str = "test", reason: str = "a test") -> str:
        """Accept what a failover that holds will lose. Raises: WorkflowUpdateFailedError when that is refused."""
        handle = self.client.get_workflow_handle(transition_id(SCOPE))
        acceptance = LossAcceptance(records=records, by=by, reason=reason)
        answer: str = await handle.execute_update("accept_loss", acceptance, result_type=str)
        return answer

    async def tail(self, seconds: float = TAIL_S, *, start: bool = False) -> TailResult:
        """Wait for the tail of the last failover that `failed_over` returned, which the watch has computed once the old
        side answers.

        Args:
            start: do not wait for the watch to start it.
        """
        assert self.failover is not None, "nothing has failed over since the lab was fresh"
        deadline = time.monotonic() + seconds
        if start:
            request = TailRequest(scope=SCOPE, requested_by="test")
            with contextlib.suppress(WorkflowAlreadyStartedError):
                await self.client.start_workflow("Tail", request, id=tail_id(SCOPE), task_queue=TASK_QUEUE)
        while True:
            run: str | None = None

            async def started() -> bool:
                nonlocal run
                try:
                    run = (await self.client.get_workflow_handle(tail_id(SCOPE)).describe()).run_id
                except RPCError as error:
                    if error.status is not RPCStatusCode.NOT_FOUND:
                        raise
                return run is not None

            await until("the tail to be computed", started, deadline - time.monotonic())
            handle: WorkflowHandle[Any, TailResult] = self.client.get_workflow_handle(
                tail_id(SCOPE), run_id=run, result_type=TailResult
            )
            with contextlib.suppress(WorkflowFailureError):  # ended by a reset, or to be tried again
                result = await asyncio.wait_for(handle.result(), max(1.0, deadline - time.monotonic()))
                if result.operation_id == self.failover.operation_id:
                    return result
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:.0f} s for the tail of {self.failover.operation_id}")
            await asyncio.sleep(LOOK_S)

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

    async def resumed(self, load: Load, member: str) -> None:
        """Wait until every group of the load that stays has committed on `member` from now on."""
        cluster = self.cluster_id(member)

        def commits(live: Mapping[str, Any]) -> Counter[str]:
            return Counter(live.get("commits_on", {}).get(cluster, {}))

        before = commits(load.live())
        wanted = set(STAYING)
        await asyncio.to_thread(
            load.wait_until,
            lambda live: {group for group, n in commits(live).items() if n > before[group]} >= wanted,
            60.0,
            f"every group's commit on {member}",
        )

    async def judge(self, *, loss: TailResult | None = None, **demands: Any) -> Checked:
        """The checker's word on all loads since the lab was fresh; `loss`: exactly what it names may be missing."""
        asked = {"switchovers": None if self.maybe else self.moves, "rereads": dict(self.rereads), **demands}
        report = None if loss is None else Loss.from_json(loss.model_dump(mode="json"))
        checked = await asyncio.to_thread(
            check_lab, self.lab.name, self.runs, Demands(**asked), self.here(), 60.0, loss=report
        )
        if not self.maybe:
            return checked
        seen = len(checked.moves)
        assert seen in (self.moves, self.moves + self.maybe), checked.verdict.facts["stretches"]
        self.moves, self.maybe = seen, 0
        return await self.judge(loss=loss, **demands)

    async def verdict(self, loss: TailResult, **demands: Any) -> Checked:
        """The verdict after a failover, which must be clean: what is missing is a suffix of each partition and exactly
        what `loss` names. The stage stays spoiled: nothing goes on from here but a reset."""
        checked = await self.judge(loss=loss, **demands)
        assert checked.verdict.clean, "\n".join(as_table(checked))
        return checked

    async def clean(self, **demands: Any) -> Checked:
        """The verdict, which must be clean, the standby complete included."""
        checked = await self.judge(**{"standby_complete": True, **demands})
        assert checked.verdict.clean, "\n".join(as_table(checked))
        self.spoiled = False
        return checked
