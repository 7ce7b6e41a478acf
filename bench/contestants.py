"""Who can switch the lab over: the workflow, the floor and the runbook, behind one method."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from adapters.directory import build_directory
from bench.errors import BenchError
from bench.floor import Floor, unix_ns
from bench.model import Contestant, StepTime
from dcdr.model import TransitionReport
from dcdr.settings import Settings
from lab import Lab
from lab import kafka as lab_kafka
from lab import kube as lab_kube
from lab import store as lab_store
from lab.addresses import ARBITER
from lab.readiness import wait_ready
from lab.record import write_private
from lab.toolchain import ensure

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW_LIMIT_S, RUNBOOK_LIMIT_S = 240.0, 600.0
BUDGET = {"DCDR_DRAIN__LAGGING_GROUP_BUDGET": "200000"}
"""A series lasts for minutes, and one of its groups falls behind all the while: its place is to be shown exactly in
every switchover, which costs time after the outage only."""


class Switcher(Protocol):
    """Moves the writers of the lab's scope."""

    async def switch(self, source: str, target: str) -> list[StepTime]:
        """One whole switchover, the mirror turned round included. Raises: BenchError."""


@asynccontextmanager
async def open_switcher(contestant: Contestant, lab: Lab, folder: Path) -> AsyncIterator[Switcher]:
    """Make a contestant ready, warm where it is a service, and end it afterwards. Files go to `folder`.

    The worker runs for the workflow's series only: the others would have to share two cores with it.
    """
    match contestant:
        case Contestant.WORKFLOW | Contestant.NAIVE:
            worker = lab.process("worker")
            await _stop_workers(lab)  # the lab's own may be up, without the budget
            worker.start(BUDGET)
            await asyncio.to_thread(wait_ready, lab, "worker")
            yield _Workflow(lab)
        case Contestant.FLOOR:
            await _stop_workers(lab)
            os.environ.update(BUDGET)
            directory = build_directory(Settings.load(lab.settings))
            await directory.warm()
            try:
                yield _Floor(Floor(directory))
            finally:
                await directory.close()
        case Contestant.RUNBOOK:
            await _stop_workers(lab)
            yield _Runbook(lab, folder)


async def _stop_workers(lab: Lab) -> None:
    for name in lab.worker_names:
        await asyncio.to_thread(lab.process(name).stop)


class _Floor:
    def __init__(self, floor: Floor) -> None:
        self._floor = floor

    async def switch(self, source: str, target: str) -> list[StepTime]:
        return await self._floor.switch(lab_store.SCOPE, target)


class _Workflow:
    """`dcdr switchover`, as a person calls it."""

    def __init__(self, lab: Lab) -> None:
        self._environment = {**os.environ, **lab.environment(), "PYTHONPATH": str(ROOT)}

    async def switch(self, source: str, target: str) -> list[StepTime]:
        command = [sys.executable, "-m", "dcdr", "switchover", lab_store.SCOPE, "--to", target, "-o", "json"]
        out, err, code = await run(command, self._environment, WORKFLOW_LIMIT_S)
        if code != 0:
            raise BenchError(f"dcdr switchover --to {target} ended with {code}:\n{err[-3000:]}")
        report = TransitionReport.model_validate_json(out)
        return [
            StepTime(
                name=step.name,
                title=step.title,
                started_ns=unix_ns(step.started),
                ended_ns=unix_ns(step.started + step.duration),
                effect_ms=None if step.effect is None else step.effect.total_seconds() * 1000,
                in_outage=step.in_outage,
            )
            for step in report.steps
            if step.started is not None and step.duration is not None
        ]


class _Runbook:
    """`bench/runbook.sh`, told where everything is."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._lab = lab
        self._folder = folder
        if shutil.which("curl") is None:
            raise BenchError("the runbook needs curl: install it, or leave its series out")
        toolchain = ensure(["kafka"])
        self._fixed = {
            "JAVA": str(toolchain.java),
            "KAFKA_CLASSPATH": toolchain.kafka_classpath,
            "PYTHON": sys.executable,
            "ADMIN": str(self._properties("admin")),
            "CANARY": str(self._properties("canary")),
            "CANARY_TOPIC": lab_kafka.CANARY_TOPIC,
            "ETCD": str(lab_store.endpoints(lab.plan)[0]),
            "LEASE_KEY": lab_store.LEASE_KEY,
            **self._api(),
        }

    async def switch(self, source: str, target: str) -> list[StepTime]:
        estate, times = self._folder / f"runbook-{target}.estate", self._folder / "runbook.times"
        times.write_text("")
        variables = {**self._fixed, **self._member("SOURCE", source), **self._member("TARGET", target)}
        estate.write_text("".join(f"{name}={json.dumps(value)}\n" for name, value in variables.items()))
        command = ["bash", str(ROOT / "bench" / "runbook.sh"), str(estate), str(times)]
        _, err, code = await run(command, dict(os.environ), RUNBOOK_LIMIT_S)
        if code != 0:
            raise BenchError(f"the runbook to {target} ended with {code}:\n{err[-3000:]}")
        steps = []
        for line in times.read_text().splitlines():
            name, title, began, ended = line.split("\t")
            steps.append(StepTime(name=name, title=title, started_ns=int(began), ended_ns=int(ended)))
        return steps

    def _properties(self, user: str) -> Path:
        """Client settings of a user, as Kafka's tools read them."""
        path = self._folder / f"{user}.properties"
        login = f'username="{user}" password="{self._lab.password(user)}"'
        write_private(
            path,
            "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\n"
            f"sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {login};\n",
        )
        return path

    def _api(self) -> dict[str, str]:
        about = self._lab.document["kubernetes"]
        header = self._folder / "operator.header"
        write_private(header, f"Authorization: Bearer {Path(about['tokens']['operator']).read_text().strip()}\n")
        path = f"apis/discovery.k8s.io/v1/namespaces/{lab_kube.NAMESPACE}/endpointslices/{lab_kube.SLICE}"
        return {
            "API_CA": about["ca_file"],
            "API_TOKEN_HEADER": str(header),
            "API_SLICE": f"{about['api_server']}/{path}",
            "PORT_NAME": lab_kube.PORT_NAME,
        }

    def _member(self, role: str, name: str) -> dict[str, str]:
        plan = self._lab.plan
        return {
            role: name,
            f"{role}_KAFKA": ",".join(map(str, plan.kafka(name, "CONTROL"))),
            f"{role}_CONNECT": f"http://{plan.link(ARBITER, name, 'connect').listen[0]}",
            f"{role}_ENDPOINT": ",".join(self._lab.document["kubernetes"]["endpoints"][name]),
        }


async def run(command: list[str], environment: dict[str, str], limit_s: float) -> tuple[str, str, int]:
    """Standard output, standard error and exit code. Raises: BenchError past the limit; the process is ended, and what
    it started as well."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), limit_s)
    except TimeoutError:
        raise BenchError(f"{command[0]} {command[1]} did not end within {limit_s:.0f} s") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return out.decode(), err.decode(), process.returncode or 0
