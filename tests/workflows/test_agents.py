"""Where agents keep the lease: steps ask, agents write, and what nobody asks for any more is undone by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from activities.failpoints import Failpoint
from dcdr.marker import Role
from dcdr.model import Outcome, Phase
from tests.workflows.harness import RUN_SECONDS, Case
from workflows import steps


async def test_a_switchover_is_carried_out_by_the_agents_and_their_markers_follow(build: Callable[..., Case]) -> None:
    case = build(agents=True, gated=True)
    async with case.agents() as agents, case.worker():
        handle = await case.start()
        report = await asyncio.wait_for(handle.result(), RUN_SECONDS)
        assert (report.outcome, report.active, report.epoch) == (Outcome.DONE, "dc-b", 2)
        roles = {dc: agent.marker().role for dc, agent in agents.items()}
    assert roles == {"dc-a": Role.STANDBY, "dc-b": Role.ACTIVE}
    assert case.judge() == []


async def test_what_is_left_before_the_handover_is_reopened_by_the_agent_past_its_deadline(
    build: Callable[..., Case],
) -> None:
    case = build(agents=True, drain_deadline=timedelta(seconds=2), operation_deadline=timedelta(seconds=4))
    hold = Failpoint(steps.DRAIN.name, "before", "hold")
    async with case.agents() as agents:
        async with case.worker(hold):
            handle = await case.start()
            await case.reached(hold)
            assert case.lease.op_id is not None
            await handle.terminate("by hand")
        # No worker, no workflow: the record's own deadline opens the source.
        async with asyncio.timeout(RUN_SECONDS):
            while case.lease.phase is not Phase.OPEN:  # noqa: ASYNC110 - the record is all there is to look at
                await asyncio.sleep(0.05)
        assert agents["dc-a"].marker().role is Role.ACTIVE
        assert (case.lease.holder, case.lease.epoch) == ("dc-a", 1)
        async with case.worker():  # the next start clears what is left of it
            report = await asyncio.wait_for((await case.start()).result(), RUN_SECONDS)
    assert report.outcome is Outcome.DONE
    assert "undid" in report.recovered[0]
    assert case.judge() == []
