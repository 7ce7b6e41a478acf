"""Our errors as Temporal sees them: only what may heal is tried again, and waiting does not look like failing."""

from __future__ import annotations

import asyncio
import inspect
import logging
from pathlib import Path

import pytest
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ActivityOutboundInterceptor, ExecuteActivityInput

from activities import interceptor
from activities.failpoints import Failpoint, Failpoints
from activities.interceptor import StepInterceptor, to_failure
from dcdr import errors
from dcdr.errors import DcdrError, NotYetError, PermanentError, TransientError, UnreachableError
from dcdr.model import StepInput
from tests.unit.activities.worlds import OPERATION

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, DcdrError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_of_ours_keeps_its_name_and_words_and_is_retried_only_if_transient(kind: type[DcdrError]) -> None:
    failure = to_failure(kind("what to do next"))
    assert (failure.type, failure.message) == (kind.__name__, "what to do next")
    assert failure.non_retryable is not issubclass(kind, TransientError)
    waiting = ApplicationErrorCategory.BENIGN if kind is NotYetError else ApplicationErrorCategory.UNSPECIFIED
    assert failure.category is waiting


def test_every_error_is_of_one_of_the_three_kinds_of_trouble() -> None:
    leaves = [kind for kind in KINDS if kind is not DcdrError]
    for kind in leaves:
        assert sum(issubclass(kind, base) for base in (TransientError, PermanentError, errors.SafetyError)) == 1


class Step(ActivityInboundInterceptor):
    """Where the activity itself would be."""

    def __init__(self, *, fails: Exception | None = None, beats: int = 0) -> None:
        """`beats`: it takes until so many were heard, at most ten seconds."""
        self.fails, self.beats, self.runs = fails, beats, 0
        self.heard: list[object] = []

    async def execute_activity(self, input: ExecuteActivityInput) -> str:  # noqa: A002
        self.runs += 1
        async with asyncio.timeout(10):
            while len(self.heard) < self.beats:  # noqa: ASYNC110 - whoever beats knows no event of ours
                await asyncio.sleep(0.005)
        if self.fails is not None:
            raise self.fails
        return "done"


def test_a_bare_beat_repeats_what_the_step_said_last() -> None:
    said: list[tuple[object, ...]] = []

    class Sink(ActivityOutboundInterceptor):
        def __init__(self) -> None:
            pass

        def heartbeat(self, *details: object) -> None:
            said.append(details)

    beating = interceptor._Beating(Sink())
    beating.heartbeat()
    beating.heartbeat({"left": 3})
    beating.heartbeat()
    assert said == [(), ({"left": 3},), ({"left": 3},)]


@activity.defn(name="fence.close")
async def close(step: StepInput) -> None:
    """Only its name matters here."""


async def run(step: Step, *points: Failpoint, folder: Path | None = None) -> tuple[object, list[object]]:
    """The interceptor around `step`, as an activity of type `unknown` (the test environment's); and its heartbeats."""
    wrapped = StepInterceptor(Failpoints(points, folder)).intercept_activity(step)
    environment = ActivityEnvironment()
    environment.on_heartbeat = lambda *details: step.heard.append(details)
    given = ExecuteActivityInput(fn=close, args=[StepInput(operation=OPERATION)], executor=None, headers={})
    return await environment.run(wrapped.execute_activity, given), step.heard


async def test_a_step_that_works_is_passed_through_and_logged_with_its_operation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "dcdr.step")
    assert (await run(Step()))[0] == "done"
    (line,) = caplog.records
    fields = (line.__dict__[name] for name in ("scope", "transition", "dc", "attempt"))
    assert tuple(fields) == ("lab", "op-1", "dc-a", 1)


@pytest.mark.parametrize(
    ("error", "level"), [(NotYetError("waiting"), logging.INFO), (UnreachableError("down"), logging.WARNING)]
)
async def test_a_failing_step_is_logged_once_and_waiting_is_no_warning(
    caplog: pytest.LogCaptureFixture, error: DcdrError, level: int
) -> None:
    caplog.set_level(logging.INFO, "dcdr.step")
    with pytest.raises(ApplicationError, match=str(error)):
        await run(Step(fails=error))
    assert [line.levelno for line in caplog.records] == [level]


async def test_an_error_nobody_expected_is_left_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        await run(Step(fails=ZeroDivisionError("who knows")))


async def test_a_step_that_waits_proves_that_its_worker_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptor, "HEARTBEAT_SECONDS", 0.005)
    _, beats = await run(Step(beats=3))
    assert len(beats) >= 3


async def test_a_lost_answer_comes_after_the_effect(tmp_path: Path) -> None:
    name = ActivityEnvironment.default_info().activity_type
    before, after = Step(), Step()
    with pytest.raises(ApplicationError, match="lost"):
        await run(before, Failpoint(name, "before", "lose"), folder=tmp_path)
    with pytest.raises(ApplicationError, match="lost"):
        await run(after, Failpoint(name, "after", "lose"), folder=tmp_path)
    assert (before.runs, after.runs) == (0, 1)
