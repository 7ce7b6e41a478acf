"""`dcdr watch`: whether anybody would see the lease move; starts the watch where it does not run."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from temporalio.client import Client

from dcdr.watching import Sight
from workflows.lookout import WatchView, ensure_running, look, why_it_ended
from workflows.temporal import TASK_QUEUE, connect
from workflows.transition import transition_id

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_AGAIN_SECONDS = 0.5


async def ensured(client: Client, scope: str, say: Callable[[str], None], *, task_queue: str = TASK_QUEUE) -> None:
    """Start the watch where it does not run, and say so: for commands whose promise rests on it."""
    if await ensure_running(client, scope, task_queue=task_queue):
        say(f"the watch of {scope} was not running: started it")


async def living(client: Client, scope: str, seconds: float) -> WatchView:
    """The watch, as soon as it is alive, at the latest after `seconds`.

    Raises: InvalidRequestError when it gave up at once: no worker knows such a scope.
    """
    give_up = time.monotonic() + seconds
    while True:
        found = await look(client, scope)
        if found.status == "FAILED":
            await why_it_ended(client, scope)
        if found.alive or time.monotonic() >= give_up:
            return found
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def show(scope: str, seconds: float, json: bool, echo: Callable[[str], None], say: Callable[[str], None]) -> bool:
    """Returns: whether it is alive, so that some site has seen the lease a moment ago."""
    client = await connect()
    await ensured(client, scope, say)
    found = await living(client, scope, seconds)
    echo(found.model_dump_json() if json else table(found))
    if not found.alive:
        say(f"error: nobody watches {scope}: its workflow is {found.status}. See docs/how-to/watch.md")
    return found.alive


def table(found: WatchView) -> str:
    """For people."""
    lines = [f"{found.workflow_id}: {found.status}, {'alive' if found.alive else 'NOT ALIVE'}"]
    lines.append(f"lease last seen  {found.seen_at:%Y-%m-%d %H:%M:%S} UTC" if found.seen_at else "lease never seen")
    if found.watching is not None:
        state = found.watching.state
        if state.record is not None:
            lines.append(f"lease            {Sight.of(state.record)}")
        if state.changed_at is not None:
            lines.append(f"last change      {state.changed_at:%Y-%m-%d %H:%M:%S} UTC")
        if state.acted_at is not None:
            lines.append(f"last action      {state.acted_at:%Y-%m-%d %H:%M:%S} UTC, {state.last_action}")
        if state.busy:
            lines.append(f"running          {transition_id(found.scope)}")
        lines.append(
            f"counted          {state.changes} changes, {state.duplicates} told again, {state.failures} failures, "
            f"{state.failovers} failovers, {state.superseded} superseded, {state.tails} tails"
        )
    else:
        lines.append("it does not answer: no worker on its task queue")
    for site in found.sites:
        seen = f", saw the lease {site.seen_at:%H:%M:%S} UTC" if site.seen_at else ""
        trouble = f", {site.trouble}" if site.trouble else ""
        lines.append(f"  {site.site:<14} {site.state.lower()}{seen}{trouble}")
    return "\n".join(lines)
