"""The load as a subprocess, for tests, benchmarks and demos."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from lab.child import Child
from lab.load.config import LoadConfig
from lab.load.runner import LoadError
from lab.load.tally import Tally

START_S = 60.0
STOP_S = 90.0
POLL_S = 0.02
_ROOT = Path(__file__).resolve().parents[2]


class Load(Child):
    """A load run in its own process. `start` returns when records are being acknowledged.

        with Load(config) as load:
            ...                      # switch over
        load.summary["outages"]      # after the block

    Nothing of it survives `stop`; the run's folder stays.
    """

    def __init__(self, config: LoadConfig) -> None:
        self.config = config
        self.summary: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def out(self) -> Path:
        return self.config.out

    def start(self, timeout_s: float = START_S) -> Self:
        """Raises: LoadError with the process's own words when it ends or nothing is acknowledged in time."""
        if (self.out / "run.json").exists():
            raise LoadError(f"{self.out} already holds a run; give another folder")
        self.out.mkdir(parents=True, exist_ok=True)
        file = self.out / "config.json"
        file.write_text(self.config.model_dump_json(indent=2))
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
        with (self.out / "load.out").open("wb") as out, (self.out / "load.err").open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lab.load", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        try:
            self.wait_until(lambda live: sum(live["acked"].values()) > 0, timeout_s, "the first acknowledgement")
        except BaseException:
            self.kill()
            raise
        return self

    def live(self) -> dict[str, Any]:
        """The counters of some 100 ms ago; empty counters before the first of them."""
        try:
            content: dict[str, Any] = json.loads((self.out / "live.json").read_text())
        except FileNotFoundError:
            return Tally().snapshot()
        return content

    def wait_until(self, holds: Callable[[dict[str, Any]], bool], timeout_s: float, what: str) -> dict[str, Any]:
        """Wait until the counters fulfil a condition. Raises: LoadError after `timeout_s`, or if the load has ended."""
        deadline = time.monotonic() + timeout_s
        while True:
            live = self.live()
            if holds(live):
                return live
            if self._process is None or self._process.poll() is not None:
                raise LoadError(f"the load ended before {what}: {self._last_words()}")
            if time.monotonic() > deadline:
                raise LoadError(f"waited {timeout_s:.0f} s for {what}: {live}; {self._last_words()}")
            time.sleep(POLL_S)

    def wait_for_acks(self, more: int, timeout_s: float = 30.0, cluster: str = "") -> dict[str, Any]:
        """Wait for that many further acknowledgements, on one cluster (by its id) or on any."""

        def count(live: dict[str, Any]) -> int:
            acked: dict[str, int] = live["acked"]
            return acked.get(cluster, 0) if cluster else sum(acked.values())

        before = count(self.live())
        return self.wait_until(lambda live: count(live) >= before + more, timeout_s, f"{more} more acknowledgements")

    def stop(self, timeout_s: float = STOP_S) -> dict[str, Any]:
        """Ask the load to finish, wait for it, return its summary. Raises: LoadError if it does not end well."""
        if self._process is None:
            return self.summary
        process, self._process = self._process, None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise LoadError(f"the load did not stop within {timeout_s:.0f} s: {self._last_words()}") from None
        if code != 0:
            raise LoadError(f"the load ended with code {code}: {self._last_words()}")
        self.summary = json.loads((self.out / "summary.json").read_text())
        return self.summary

    def _last_words(self) -> str:
        try:
            return (self.out / "load.err").read_text()[-2000:].strip() or "it said nothing"
        except FileNotFoundError:
            return "it was never started"
