"""SIGKILL of the worker in every step, aborts before every step up to the handover, and runs ended from outside."""

from __future__ import annotations

import signal
from collections.abc import Iterator

from activities.failpoints import Failpoint
from dcdr.errors import PlanRefusedError
from dcdr.model import Outcome
from tests.chaos.row import End, Play, Row, Scene, Shown
from tests.integration.support import Worker, until
from workflows import steps
from workflows.steps import Step

DEADLINE, DRAIN_DEADLINE = "PT20S", "PT10S"
"""Long enough to get to the handover on a busy machine, short enough to wait for; the drain's is part of it."""
TRIES = 3
LOOKS = (steps.LEFTOVER, steps.MIRRORS, steps.PREFLIGHT)


def kill(step: Step) -> Play:
    """The worker dies when a step begins, its successor when the step has had its effect; a third one finishes."""
    points = [Failpoint(step.name, moment, "kill") for moment in ("before", "after")]

    async def play(scene: Scene) -> Shown:
        stage = scene.stage
        pids = []
        async with stage.worker(*points) as first:
            handle = await stage.start(scene.there)
            await dies(first, points[0])
            pids.append(first.process.pid)
        async with stage.worker(*points, marks=first.marks) as second:
            await dies(second, points[1])
            pids.append(second.process.pid)
        async with stage.worker(*points, marks=first.marks):
            stage.done(await stage.ended(handle), scene.there)
        return Shown(f"SIGKILL of pids {pids[0]} before, {pids[1]} after", End.DONE, scene.there)

    return play


async def dies(worker: Worker, point: Failpoint) -> None:
    code = await worker.died()
    assert code == -signal.SIGKILL, f"exit code {code}"
    assert worker.fired(point), f"it died of something else than {point.mark}"


def abort(step: Step) -> Play:
    """Somebody aborts while a step is about to begin."""
    point = Failpoint(step.name, "before", "hold")

    async def play(scene: Scene) -> Shown:
        stage = scene.stage
        async with stage.worker(point) as worker:
            handle = await stage.start(scene.there)
            await worker.reached(point)
            await stage.abort("chaos")
            report = (await stage.ended(handle)).report
        assert report is not None
        assert report.outcome is Outcome.AS_BEFORE, report.outcome
        assert report.why == "aborted by test: chaos"
        return Shown(f"{point.mark}, abort accepted", End.AS_BEFORE, scene.here)

    return play


async def abort_at_the_handover(scene: Scene) -> Shown:
    stage, point = scene.stage, Failpoint(steps.HAND_OVER.name, "before", "hold")
    async with stage.worker(point) as worker:
        handle = await stage.start(scene.there)
        await worker.reached(point)
        try:
            await stage.abort("chaos")
        except PlanRefusedError as error:
            refused = str(error)
        else:
            raise AssertionError("the abort was accepted")
        worker.release()
        stage.done(await stage.ended(handle), scene.there)
    assert "only goes forward" in refused
    return Shown(f"{point.mark}, abort refused", End.DONE, scene.there)


def fail(step: Step, moment: str, end: End) -> Play:
    """A step fails for good."""
    point = Failpoint(step.name, moment, "fail")

    async def play(scene: Scene) -> Shown:
        for _ in range(TRIES):
            async with scene.stage.worker(point) as worker:
                ended = await scene.stage.ended(await scene.stage.start(scene.there))
                assert worker.fired(point)
            assert ended.report is not None, ended.failure
            if ended.report.outcome is Outcome.DONE:
                scene.stage.done(ended, scene.there)
                return Shown(point.mark, End.DONE, scene.there)
            assert ended.report.outcome is Outcome.AS_BEFORE
            if end is End.AS_BEFORE:
                break
            # The step had no effect to lose: its last look had found a late record. Once more.
        return Shown(point.mark, End.AS_BEFORE, scene.here)

    return play


def lose(step: Step, moment: str) -> Play:
    """The answer of a step is lost; it is asked again."""
    point = Failpoint(step.name, moment, "lose")

    async def play(scene: Scene) -> Shown:
        async with scene.stage.worker(point) as worker:
            await scene.stage.switch(scene.there)
            assert worker.fired(point)
        return Shown(point.mark, End.DONE, scene.there)

    return play


def terminate(step: Step, found_by: str) -> Play:
    """A run is terminated before a step. The next start, or the finder past the deadline, undoes it or finishes it."""
    point = Failpoint(step.name, "before", "hold")
    moved = step in steps.FORWARD
    active_after = "there" if moved else "here"

    async def play(scene: Scene) -> Shown:
        stage = scene.stage
        side = getattr(scene, active_after)
        deadlines = {"DCDR_DRAIN__DEADLINE": DRAIN_DEADLINE, "DCDR_DRAIN__OPERATION_DEADLINE": DEADLINE}
        hurry = deadlines if found_by == "finder" else {}
        async with stage.worker(point, settings=hurry) as worker:
            handle = await stage.start(scene.there)
            await worker.reached(point)
            await handle.terminate("chaos")
            left = stage.lease()
            assert left.op_id == handle.first_execution_run_id
            worker.release()
            if found_by == "finder":
                await until("the finder", lambda: stage.lease().op_id is None, 120)
                assert stage.lease().holder == side
                stage.moves += moved
                return Shown(f"{point.mark}, terminated", End.DONE if moved else End.AS_BEFORE, side)
            # Back to where the operation began if it has moved, else to where it was to go.
            target = scene.here if moved else scene.there
            report = stage.done(await stage.ended(await stage.start(target)), target)
            said = report.recovered[0]
            assert ("finished" if moved else "undid") in said, said
        if moved:  # whether a client found the other side while it was open is chance
            stage.moves, stage.maybe = stage.moves - 1, 2
        return Shown(f"{point.mark}, terminated; {said.split()[0]} by the next start", End.DONE, target)

    return play


async def freeze(scene: Scene) -> Shown:
    """A worker stands still in the drain, is replaced, and goes on later: its attempts are late and do no harm."""
    stage, point = scene.stage, Failpoint(steps.DRAIN.name, "before", "hold")
    async with stage.worker(point) as frozen:
        handle = await stage.start(scene.there)
        await frozen.reached(point)
        frozen.freeze()
        frozen.release()
        async with stage.worker(point, marks=frozen.marks):
            report = stage.done(await stage.ended(handle), scene.there)
            frozen.thaw()
            await until("a sign of life of the thawed worker", lambda: b"drain.prove" in frozen.log.read_bytes(), 30)
    drained = next(step for step in report.steps if step.name == steps.DRAIN.name)
    assert drained.state == "done"
    return Shown(f"SIGSTOP pid {frozen.process.pid} in drain.prove, thawed after the end", End.DONE, scene.there)


def rows() -> Iterator[Row]:
    for step in (*LOOKS, *steps.SWITCHOVER):
        yield Row(f"kill -9 before and after {step.name}", kill(step))
    for step in steps.TO_THE_HANDOVER[:-1]:
        yield Row(f"abort before {step.name}", abort(step), frozenset({End.AS_BEFORE}))
    yield Row("abort at lease.hand_over is refused", abort_at_the_handover)
    yield Row("the handover's answer is lost, not committed", lose(steps.HAND_OVER, "before"))
    yield Row("the handover's answer is lost, committed", lose(steps.HAND_OVER, "after"))
    undone = frozenset({End.AS_BEFORE})
    yield Row("the handover fails for good, not committed", fail(steps.HAND_OVER, "before", End.AS_BEFORE), undone)
    yield Row("the handover fails for good, committed", fail(steps.HAND_OVER, "after", End.DONE))
    for step in (steps.DRAIN, steps.OPEN, steps.SEED):
        yield Row(f"terminated before {step.name}, found by the next start", terminate(step, "start"))
    yield Row("terminated before drain.prove, found past its deadline", terminate(steps.DRAIN, "finder"), undone)
    yield Row("terminated before fence.open, found past its deadline", terminate(steps.OPEN, "finder"))
    yield Row("a worker frozen in the drain, replaced, thawed", freeze)
