"""Steps run as soon as what they need is done; the first failure stops the rest."""

from __future__ import annotations

import threading
import time

import pytest

from lab.errors import LabError
from lab.waiting import Steps, StoppedError, wait_for


def test_a_step_runs_after_those_it_names_and_beside_the_others() -> None:
    order: list[str] = []
    beside = threading.Barrier(2, timeout=5)
    steps = Steps(lambda _: None)

    def meet() -> None:
        beside.wait()

    steps.add("left", meet)
    steps.add("right", meet)
    steps.add("last", lambda: order.append("last"), ["left", "right"])
    steps.run()
    assert order == ["last"]


def test_a_failure_stops_what_waits_and_what_has_not_begun() -> None:
    said: list[str] = []
    steps = Steps(said.append)
    stopped: list[type[BaseException]] = []
    begun = threading.Event()

    def forever() -> None:
        begun.set()
        try:
            wait_for("something that never comes", lambda: False, 60, stop=steps.stop)
        except StoppedError as error:
            stopped.append(type(error))
            raise

    def fail() -> None:
        begun.wait(5)
        raise LabError("broken on purpose")

    steps.add("waits", forever)
    steps.add("fails", fail)
    steps.add("never", lambda: said.append("began although its predecessor failed"), ["fails"])
    since = time.monotonic()
    with pytest.raises(LabError, match="broken on purpose"):
        steps.run()
    assert time.monotonic() - since < 10
    assert stopped == [StoppedError]
    assert not any("began" in line for line in said)


def test_a_step_after_one_that_is_not_there_is_refused() -> None:
    steps = Steps(lambda _: None)
    with pytest.raises(ValueError, match="nowhere"):
        steps.add("one", lambda: None, ["nowhere"])


def test_a_wait_ends_with_what_the_hint_says() -> None:
    with pytest.raises(LabError, match=r"the moon did not happen within 0 s: cloudy"):
        wait_for("the moon", lambda: None, 0.01, every_s=0.001, hint=lambda: ": cloudy")
