"""`dcdr demo`: two data centers, a live workload, a switchover there and back twice, and the checker's verdict.

It runs the commands a person would run, and shows them, so that every line of it can be repeated by hand.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.estate import Lab
from lab.load.estate import STAYING

LOAD_READY_S = 60.0
"""The load's first acknowledgements: producers, consumers and their groups on a busy machine."""
LOAD_STOP_S = 60.0
ROUNDS = ("dc-b", "dc-a", "dc-b", "dc-a")


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


def demo(lab: str, rate: int, keep: bool) -> int:
    """Run it. Returns the checker's exit code: 0 when everything that was acknowledged is where it belongs."""
    started = time.monotonic()
    plain = dict(os.environ)
    run(plain, "lab", "up", "--lab", lab)
    here = Lab.open(lab)
    environment = plain | dict(here.environment())
    run(environment, "lab", "reset", "--lab", lab)
    load = LiveLoad(lab, environment, here.home.path / "load" / f"demo-{int(time.time())}", rate)
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
    run(environment, "lab", "gates", "--lab", lab, "--seconds", f"{time.monotonic() - moving:.0f}")
    run(environment, "lease", "show", "lab")
    run(environment, "fence", "verify", "lab")
    code = run(
        environment,
        *("lab", "check", "--lab", lab, "--run", str(load.out)),
        *("--expect-switchovers", str(len(ROUNDS)), "--standby-complete"),
        check=False,
    )
    print(f"\nTemporal UI     {here.document['temporal']['ui']}  (namespace dr, workflow dcdr/lab/transition)")
    print(f'switch again    eval "$(.venv/bin/dcdr lab env --lab {lab})"; .venv/bin/dcdr switchover lab --to dc-b')
    print("switch back     .venv/bin/dcdr switchover lab --to dc-a")
    print(f"take it down    .venv/bin/dcdr lab down --lab {lab} --purge")
    say(f"the demo took {time.monotonic() - started:.0f} s")
    if not keep:
        run(plain, "lab", "down", "--lab", lab, "--purge")
    return code
