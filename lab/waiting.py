"""Bounded waiting, and steps that run side by side as soon as what they need is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

from lab.errors import LabError

T = TypeVar("T")
Say = Callable[[str], None]


class StoppedError(LabError):
    """Another step failed, or the user interrupted: this one gives up."""


def wait_for(
    what: str,
    probe: Callable[[], T | None],
    limit_s: float,
    *,
    stop: threading.Event | None = None,
    every_s: float = 0.05,
    hint: Callable[[], str] = lambda: "",
) -> T:
    """Ask until `probe` answers something that is not None or False.

    Args:
        probe: exceptions of an unready server are its own affair; a LabError ends the wait.
        hint: asked when time is up, to say more.
    Raises: LabError when `limit_s` seconds are up; StoppedError when `stop` is set meanwhile.
    """
    deadline = time.monotonic() + limit_s
    while True:
        answer = probe()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() >= deadline:
            raise LabError(f"{what} did not happen within {limit_s:.0f} s{hint()}")
        if stop is not None and stop.wait(every_s):
            raise StoppedError(f"{what}: given up, because another step failed")
        if stop is None:
            time.sleep(every_s)


@dataclass(frozen=True)
class Step:
    """One piece of work; `after` names steps that must be done first. What `work` returns is said as a remark."""

    name: str
    work: Callable[[], str | None]
    after: tuple[str, ...] = ()


@dataclass
class Steps:
    """A small graph of steps, each run in a thread as soon as its predecessors are done."""

    say: Say
    stop: threading.Event = field(default_factory=threading.Event)
    _steps: list[Step] = field(default_factory=list)

    def add(self, name: str, work: Callable[[], str | None], after: Sequence[str] = ()) -> None:
        known = {step.name for step in self._steps}
        if name in known or not set(after) <= known:
            raise ValueError(f"step {name}: named twice, or after a step that is not there: {set(after) - known}")
        self._steps.append(Step(name, work, tuple(after)))

    def run(self) -> None:
        """Run all. On the first failure nothing new starts, what runs is told to stop, and the failure is raised."""
        started = time.monotonic()
        waiting = {step.name: step for step in self._steps}
        done: set[str] = set()
        running: dict[Future[str | None], tuple[Step, float]] = {}
        failure: BaseException | None = None
        with ThreadPoolExecutor(max_workers=max(1, len(self._steps)), thread_name_prefix="lab") as pool:
            try:
                while (waiting and failure is None) or running:
                    for step in [one for one in waiting.values() if failure is None and set(one.after) <= done]:
                        del waiting[step.name]
                        running[pool.submit(step.work)] = (step, time.monotonic())
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        step, since = running.pop(future)
                        now = time.monotonic()
                        error = future.exception()
                        if error is None:
                            done.add(step.name)
                            remark = f": {text}" if (text := future.result()) else ""
                            self.say(f"{now - started:6.1f} s  {step.name} ({now - since:.1f} s){remark}")
                        elif failure is None:
                            failure = error
                            self.stop.set()
                            self.say(f"{now - started:6.1f} s  {step.name} FAILED after {now - since:.1f} s")
            except BaseException:
                self.stop.set()
                raise
        if failure is not None:
            raise failure
