"""Failpoints: exact moments at which a test makes this process die, hang or lose an answer.

`DCDR_FAILPOINT=<step>:<before|after>:<kill|lose|fail|hold>[,...]` with `DCDR_FAILPOINT_DIR=<folder>`: each fires once
in the folder's life (it leaves a file there), so that the next worker gets past it. Without both nothing is armed.

`kill` is SIGKILL of the worker, `lose` raises Unreachable (with `after`: the effect happened, the caller never
learns), `fail` raises an error that no retry heals, `hold` waits until the folder holds a file `release`, or until the
step is cancelled.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dcdr.errors import MisconfiguredError, PermanentError, UnreachableError

Moment = Literal["before", "after"]
ACTS = ("kill", "lose", "fail", "hold")
HOLD_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Failpoint:
    step: str
    moment: str
    act: str

    @property
    def mark(self) -> str:
        return f"{self.step}.{self.moment}.{self.act}"


class Failpoints:
    """The armed failpoints of this process."""

    def __init__(self, points: tuple[Failpoint, ...], folder: Path | None) -> None:
        self._points = points
        self._folder = folder

    @classmethod
    def from_environment(cls) -> Failpoints:
        """Raises: MisconfiguredError when the variable cannot be read."""
        text, folder = os.environ.get("DCDR_FAILPOINT"), os.environ.get("DCDR_FAILPOINT_DIR")
        if not text:
            return cls((), None)
        if not folder or not Path(folder).is_dir():
            raise MisconfiguredError("DCDR_FAILPOINT needs DCDR_FAILPOINT_DIR, a folder that remembers what has fired")
        points = []
        for part in text.split(","):
            fields = part.strip().split(":")
            valid = len(fields) == 3 and fields[1] in ("before", "after") and fields[2] in ACTS
            if not valid:
                raise MisconfiguredError(f"DCDR_FAILPOINT: {part!r} is not <step>:<before|after>:<{'|'.join(ACTS)}>")
            points.append(Failpoint(*fields))
        return cls(tuple(points), Path(folder))

    async def reach(self, step: str, moment: Moment) -> None:
        """Called by the interceptor around every step; fires what is armed there and has not fired yet."""
        for point in self._points:
            if (point.step, point.moment) == (step, moment) and self._first_time(point):
                if point.act == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if point.act == "hold":
                    await self._hold()
                    continue
                if point.act == "lose":
                    raise UnreachableError(f"failpoint: the answer of {step} was lost")
                raise PermanentError(f"failpoint: {step} failed for good")

    async def _hold(self) -> None:
        assert self._folder is not None
        while not (self._folder / "release").exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(HOLD_LOOK_SECONDS)

    def _first_time(self, point: Failpoint) -> bool:
        assert self._folder is not None
        try:
            (self._folder / point.mark).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
