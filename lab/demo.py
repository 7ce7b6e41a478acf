"""`dcdr demo`: two data centers, a live workload, and the checker's verdict on what happens to it, in two acts.

First a switchover there and back, twice. Then the active data center is killed: nobody touches anything until the other
one serves, and when the dead one is back, what was lost is told record by record, and checked.

It runs the commands a person would run, and shows them, so that every line of it can be repeated by hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.addresses import other
from lab.errors import LabError
from lab.estate import Lab
from lab.load.estate import STAYING

if TYPE_CHECKING:
    from temporalio.client import Client

TRANSITION, TAIL = "dcdr/lab/transition", "dcdr/lab/tail"
LOOK_S = 0.2
LOAD_READY_S = 60.0
"""The load's first acknowledgements: producers, consumers and their groups on a busy machine."""
LOAD_STOP_S = 60.0
ROUNDS = ("dc-b", "dc-a", "dc-b", "dc-a")
FAILOVER_S, TAIL_S = 120.0, 180.0
"""From the kill until the failover's report, and from the restart until the tail's: a machine may be busy."""
AFTERWARDS_S = 5.0
"""How long the workload goes on where it failed over to, so that there is something to judge."""


def dcdr(*arguments: str) -> list[str]:
    """The command line as this Python runs it."""
    return [sys.executable, "-m", "dcdr", *arguments]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(environment: Mapping[str, str], *arguments: str, check: bool = True) -> int:
    """Run one `dcdr` command in the foreground, after showing it.

    Raises: LabError when it fails and `check` is set.
    """
    say(f"\n$ dcdr {' '.join(arguments)}")
    code = subprocess.run(dcdr(*arguments), env=environment, check=False).returncode
    if check and code != 0:
        raise LabError(f"`dcdr {' '.join(arguments)}` ended with exit code {code}; the output above says why")
    return code


class LiveLoad:
    """`dcdr lab load` in the background, its progress in a file beside the run."""

    def __init__(self, lab: str, environment: Mapping[str, str], out: Path, rate: int) -> None:
        groups = [text for name, role in STAYING.items() for text in ("--group", f"{name}:{role}")]
        arguments = ("lab", "load", "--lab", lab, "--rate", str(rate), *groups, "--out", str(out), "-o", "json")
        say(f"\n$ dcdr {' '.join(arguments)} &")
        out.parent.mkdir(parents=True, exist_ok=True)
        self.out = out
        self._progress = out.with_suffix(".progress")
        with self._progress.open("wb") as progress:
            self._process = subprocess.Popen(
                dcdr(*arguments), env=environment, stdout=subprocess.PIPE, stderr=progress, start_new_session=True
            )

    def wait_until_acknowledged(self) -> None:
        """Raises: LabError when nothing was acknowledged in time."""
        give_up = time.monotonic() + LOAD_READY_S
        while " acked " not in (text := self._progress.read_text()) or " 0 acks/s" in text.splitlines()[-1]:
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise LabError(f"the load did not start; see {self._progress}:\n{text[-2000:]}")
            time.sleep(0.2)

    def last_line(self) -> str:
        return (self._progress.read_text().splitlines() or [""])[-1].strip()

    def stop(self) -> dict[str, Any]:
        """End it and return its summary."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        output, _ = self._process.communicate(timeout=LOAD_STOP_S)
        if self._process.returncode != 0:
            raise LabError(f"the load failed; see {self._progress}")
        summary: dict[str, Any] = json.loads(output)
        return summary

    def end(self) -> None:
        """Leave nothing running, whatever happened."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def switchovers(here: Lab, environment: Mapping[str, str], rate: int) -> tuple[Path, int]:
    """The first act. Returns: the load's folder and the checker's exit code."""
    load = LiveLoad(here.name, environment, _run_folder(here), rate)
    try:
        load.wait_until_acknowledged()
        say(load.last_line())
        moving = time.monotonic()
        for target in ROUNDS:
            run(environment, "switchover", "lab", "--to", target)
            say(load.last_line())
        summary = load.stop()
    finally:
        load.end()
    outages = [f"{move['seconds'] * 1000:.0f} ms" for move in summary["outages"]]
    say(f"\nproducers had no acknowledgement for {', '.join(outages)} (last on the old side to first on the new)")
    run(environment, "lab", "gates", "--lab", here.name, "--seconds", f"{time.monotonic() - moving:.0f}")
    run(environment, "lease", "show", "lab")
    run(environment, "fence", "verify", "lab")
    code = run(
        environment,
        *("lab", "check", "--lab", here.name, "--run", str(load.out)),
        *("--expect-switchovers", str(len(ROUNDS)), "--standby-complete"),
        check=False,
    )
    return load.out, code


def failover(here: Lab, environment: Mapping[str, str], rate: int, first: Path) -> int:
    """The second act, after a first one that wrote to `first`. Returns: the checker's exit code."""
    lab, active = here.name, ROUNDS[-1]
    standby = other(active)
    before, tail_before = _ended(here, TRANSITION), _ended(here, TAIL)
    load = LiveLoad(lab, environment, _run_folder(here), rate)
    try:
        load.wait_until_acknowledged()
        run(environment, "watch", "lab", "--wait", "30")
        say(load.last_line())
        run(environment, "lab", "fault", "kill-site", active, "--lab", lab)
        dead = time.monotonic()
        say(f"\nnobody does anything now: {standby} has to notice, and its lease has to run out first")
        report = _result(here, TRANSITION, before, dead + FAILOVER_S)
        if report["outcome"] != "done":
            raise LabError(f"the failover ended as {report['outcome']}: {report['why']}")
        say(f"the failover has ended {time.monotonic() - dead:.1f} s after the kill")
        load.wait_until_acknowledged()
        time.sleep(AFTERWARDS_S)
        summary = load.stop()
    finally:
        load.end()
    run(environment, "status", "lab")
    print(f"\nlost at most    {_bound(report['loss'])}")
    split = ", ".join(f"{name} {seconds}" for name, seconds in report["rto"].items())
    print(f"without writes  {split}")
    for move in summary["outages"]:
        print(f"as clients saw  {move['seconds']:.1f} s from the last acknowledgement of {active} to {standby}'s first")
    run(environment, "lab", "fault", "restart-site", active, "--lab", lab)
    back = time.monotonic()
    run(environment, "lab", "gates", "--lab", lab, "--seconds", f"{back - dead + 5:.0f}")
    run(environment, "lease", "show", "lab")
    _result(here, TAIL, tail_before, back + TAIL_S)
    run(environment, "loss", "lab")
    loss = load.out.with_suffix(".loss.json")
    say(f"\n$ dcdr loss lab -o json > {loss}")
    with loss.open("wb") as file:
        subprocess.run(dcdr("loss", "lab", "-o", "json"), env=environment, stdout=file, check=True)
    return run(
        environment,
        *("lab", "check", "--lab", lab, "--run", str(first), "--run", str(load.out)),
        *("--expect-switchovers", str(len(ROUNDS) + 1), "--loss", str(loss)),
        check=False,
    )


def _run_folder(here: Lab) -> Path:
    return here.home.path / "load" / f"demo-{time.time_ns() // 1_000_000}"


def _bound(loss: Mapping[str, Any] | None) -> str:
    if loss is None or loss["records"] is None:
        return f"nobody knows how many: {loss['why'] if loss else 'the report does not say'}"
    seen = f"the journal's last look was at {loss['journal_at']}"
    return f"{loss['records']} records, accepted after {loss['since']}; {seen}"


def _ended(here: Lab, workflow: str) -> str | None:
    """The last run under a workflow id, None when there was none. Raises: LabError when Temporal does not answer."""

    async def ask() -> str | None:
        return await _last_run(await _client(here), workflow)

    return asyncio.run(ask())


def _result(here: Lab, workflow: str, before: str | None, until: float) -> dict[str, Any]:
    """The result of the run that comes under a workflow id after the one `before`.

    Raises: LabError when none has ended by `until` (monotonic), or it failed.
    """

    async def wait() -> dict[str, Any]:
        client = await _client(here)
        while True:
            if (run_id := await _last_run(client, workflow)) not in (None, before):
                return dict(await client.get_workflow_handle(workflow, run_id=run_id).result())
            await asyncio.sleep(LOOK_S)

    async def bounded() -> dict[str, Any]:
        from temporalio.client import WorkflowFailureError

        look = f"look at {here.document['temporal']['ui']}"
        try:
            return await asyncio.wait_for(wait(), until - time.monotonic())
        except TimeoutError:
            raise LabError(f"{workflow} has not ended in time: {look}") from None
        except WorkflowFailureError as error:
            raise LabError(f"{workflow} failed: {error.cause}; {look}") from error

    return asyncio.run(bounded())


async def _client(here: Lab) -> Client:
    from temporalio.client import Client

    about = here.document["temporal"]
    try:
        return await Client.connect(about["address"], namespace=about["namespace"])
    except RuntimeError as error:
        raise LabError(f"Temporal does not answer: {error}") from error


async def _last_run(client: Client, workflow: str) -> str | None:
    from temporalio.service import RPCError, RPCStatusCode

    try:
        return (await client.get_workflow_handle(workflow).describe()).run_id
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise LabError(f"Temporal does not answer: {error}") from error


def demo(lab: str, rate: int, keep: bool) -> int:
    """Run it. Returns the checker's exit code, the worse one of both acts: 0 when everything that was acknowledged is
    where it belongs, but for what the loss report names."""
    started = time.monotonic()
    plain = dict(os.environ)
    run(plain, "lab", "up", "--lab", lab, "--automatic")
    here = Lab.open(lab)
    environment = plain | dict(here.environment())
    run(environment, "lab", "reset", "--lab", lab)
    say("\n--- first act: there and back, twice ---")
    first, code = switchovers(here, environment, rate)
    if code == 0:
        say("\n--- second act: the active data center dies ---")
        code = failover(here, environment, rate, first)
    print(f"\nTemporal UI     {here.document['temporal']['ui']}  (namespace dr, workflows dcdr/lab/...)")
    print(f'the estate      eval "$(.venv/bin/dcdr lab env --lab {lab})"; .venv/bin/dcdr lease show lab')
    print(f"begin anew      .venv/bin/dcdr lab reset --lab {lab}")
    print("switch over     .venv/bin/dcdr switchover lab --to dc-b")
    print(f"take it down    .venv/bin/dcdr lab down --lab {lab} --purge")
    say(f"the demo took {time.monotonic() - started:.0f} s")
    if not keep:
        run(plain, "lab", "down", "--lab", lab, "--purge")
    return code
