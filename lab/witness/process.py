"""The prober as a subprocess, for tests and for bad days."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from lab.child import Child
from lab.errors import LabError
from lab.estate import ROOMS, Lab
from lab.waiting import wait_for
from lab.witness.prober import EVERY_MS, START_S
from lab.witness.probes import Info

STOP_S = 10.0


class Witness(Child):
    """The prober in its own process. `start` returns when every broker has answered.

        with Witness(lab, folder):
            ...                                      # the bad day
        verdict = judge(gather(lab, folder, [load.out]))

    Nothing of it survives the block; the folder stays, also when the block failed.
    """

    def __init__(self, lab: Lab, out: Path, every_ms: int = EVERY_MS) -> None:
        self.out = out
        self._argv = [*("--lab", lab.name), *("--out", str(out)), *("--every-ms", str(every_ms))]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Raises: LabError with the prober's own words when it ends, or a broker does not answer in time."""
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / "witness.err").open("ab") as err:
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "lab.witness", *self._argv],
                stdin=subprocess.DEVNULL,
                stdout=err,
                stderr=err,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (ROOMS, os.environ.get("PYTHONPATH"))))},
                start_new_session=True,
            )

        def answered() -> bool:
            if process.poll() is not None:
                raise LabError(f"the prober ended: {self._last_words()}")
            return (self.out / "witness.json").exists()

        try:
            wait_for("an answer of every broker to the prober", answered, 2 * START_S)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> Info:
        """End it and return what it witnessed. Raises: LabError when it does not end well."""
        if self._process is not None:
            process, self._process = self._process, None
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            if code != 0:
                raise LabError(f"the prober ended with code {code}: {self._last_words()}")
        return Info.read(self.out)

    def _last_words(self) -> str:
        return (self.out / "witness.err").read_text(errors="replace")[-2000:].strip() or "it said nothing"
