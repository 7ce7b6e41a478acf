"""Record a history of every way in which an operation can go: `python -m tests.replay.record [WAY...]`.

For when the order of steps was changed on purpose. A history recorded by a release leaves only when no run of that
release can be alive any more; until then the workflow keeps both orders apart with `workflow.patched`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowHandle

from activities.failpoints import Failpoint
from dcdr.errors import MisconfiguredError
from dcdr.model import AbortRequest, LossAcceptance, RecoveryRequest
from dcdr.watching import Watching, WatchState
from starter.client import abort, accept_loss, ended, holding
from tests.workflows.harness import BY_ITSELF, RUN_SECONDS, Case, server
from workflows import steps
from workflows.lookout import ensure_running
from workflows.steps import Step
from workflows.temporal import watch_id
from workflows.transition import transition_id

HISTORIES = Path(__file__).with_name("histories")
Handle = WorkflowHandle[Any, Any]


async def done(case: Case) -> Handle:
    """A switchover that finishes."""
    async with case.worker():
        return await finished(await case.start())


async def planned(case: Case) -> Handle:
    """A dry run."""
    async with case.worker():
        return await finished(await case.start(dry_run=True))


async def refused(case: Case) -> Handle:
    """A switchover to the side that is active already."""
    async with case.worker():
        return await finished(await case.start("dc-a"))


async def undone(case: Case) -> Handle:
    """A step before the handover fails for good."""
    case.world.fail("transactions.fence", error=MisconfiguredError, dc="dc-b")
    async with case.worker():
        return await finished(await case.start())


async def aborted(case: Case) -> Handle:
    """Somebody aborts it before the drain."""

    async def ask() -> None:
        await abort(case.client, case.scope, AbortRequest(by="maintainers", reason="to record it"))

    return await disturbed(case, steps.DRAIN, ask)


async def drained_again(case: Case) -> Handle:
    """A record is accepted after the cut, so the mirror is opened again and the cut taken anew."""

    async def append() -> None:
        case.world.late_append("dc-a", "orders", 1, ["late"])

    return await disturbed(case, steps.HAND_OVER, append)


async def recovered_forward(case: Case) -> Handle:
    """A recovery of what was ended from outside after the handover."""
    return await recovered(case, steps.OPEN)


async def recovered_back(case: Case) -> Handle:
    """A recovery of what was ended from outside before the handover."""
    return await recovered(case, steps.DRAIN)


async def failed_over(case: Case) -> Handle:
    """A failover inside the budget."""
    case.lose(rate=1.0)
    async with case.worker():
        return await finished(await case.fail_over())


async def loss_accepted(case: Case) -> Handle:
    """A failover that holds, for it knows of no journal, until somebody accepts it."""
    case.lose(journal=False)
    async with case.worker():
        handle = await case.fail_over()
        await held(case)
        await accept_loss(
            case.client, case.scope, LossAcceptance(records=None, by="maintainers", reason="to record it")
        )
        return await finished(handle)


async def handed_back(case: Case) -> Handle:
    """A failover that holds, and the lease is handed back."""
    case.lose(journal=False)
    async with case.worker():
        handle = await case.fail_over()
        await held(case)
        case.world.mirror_rate(None)
        case.world.hand_back("dc-a")
        case.world.revive_site("dc-a")
        return await finished(handle)


async def superseded(case: Case) -> Handle:
    """A switchover that is told of a takeover while it drains."""
    hold = Failpoint(steps.DRAIN.name, "before", "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        case.lose(tail=0)
        await handle.signal("superseded", "dc-b took the lease over")
        return await finished(handle)


async def watched(case: Case) -> Handle:
    """The watch of a lease that is taken over: it starts the failover, sees it through, and goes on watching."""
    async with case.worker():
        await ensure_running(case.client, case.scope, task_queue=case.queue)
        watch = case.client.get_workflow_handle(watch_id(case.scope))
        await until(watch, lambda state: state.record is not None)
        case.lose(rate=1.0)
        await until(watch, lambda state: state.failovers == 1 and not state.busy)
        return watch


async def until(watch: Handle, met: Callable[[WatchState], bool]) -> None:
    """Until the watch's state is as `met` wants it."""
    async with asyncio.timeout(RUN_SECONDS):
        while not met((await watch.query("watching", result_type=Watching)).state):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def held(case: Case) -> None:
    """Until the failover holds."""
    async with asyncio.timeout(RUN_SECONDS):
        while await holding(case.client, case.scope) is None:  # noqa: ASYNC110 - a query is all there is
            await asyncio.sleep(0.05)


async def disturbed(case: Case, step: Step, what: Callable[[], Awaitable[None]]) -> Handle:
    """A switchover in which `what` happens right before `step`."""
    hold = Failpoint(step.name, "before", "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        await what()
        (case.marks / "release").touch()
        return await finished(handle)


async def recovered(case: Case, step: Step) -> Handle:
    """The recovery of a run that was terminated right before `step`."""
    hold = Failpoint(step.name, "before", "hold")
    async with case.worker(hold):
        handle = await case.start()
        await case.reached(hold)
        await handle.terminate("to record the recovery")
        recovery = await case.client.start_workflow(
            "Recovery", RecoveryRequest(scope=case.scope), id=transition_id(case.scope), task_queue=case.queue
        )
        return await finished(recovery)


async def finished(handle: Handle) -> Handle:
    await asyncio.wait_for(ended(handle), RUN_SECONDS)
    return handle


FAILOVERS = (failed_over, loss_accepted, handed_back, watched)
WAYS = (
    done,
    planned,
    refused,
    undone,
    aborted,
    drained_again,
    recovered_forward,
    recovered_back,
    superseded,
    *FAILOVERS,
)


async def main(only: Collection[str]) -> None:
    """Record the ways named, or all."""
    HISTORIES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        async with server(Path(scratch)) as client:
            for way in (way for way in WAYS if not only or way.__name__ in only):
                more = {"failover": BY_ITSELF, "open_transaction": False} if way in FAILOVERS else {}
                handle = await way(Case.build(client, Path(scratch), **more))
                events = (await handle.fetch_history()).to_json_dict()["events"]
                lines = ",\n".join(json.dumps(_without_traces(event), sort_keys=True) for event in events)
                text = f'{{"workflowId": "{handle.id}", "events": [\n{lines}\n]}}\n'
                (HISTORIES / f"{way.__name__}.json").write_text(text, encoding="utf-8")
                print(f"{way.__name__}: {len(events)} events", flush=True)


def _without_traces(value: Any) -> Any:
    """The event without stack traces: they tell of the machine it was recorded on, and replay does not look at them."""
    if isinstance(value, dict):
        return {key: _without_traces(inner) for key, inner in value.items() if key != "stackTrace"}
    return [_without_traces(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
