"""Bad days of an unplanned failover: the active site is lost in every way we know, at every moment, and comes back.

Every row plays under load on a lab whose agents take the lease over by themselves. Where the other side opened, the row
waits for the old one to come back closed, has its tail computed, and hands the loss report to the checker: the lost set
is a suffix of each partition, is exactly what the report names, is within the bound that was told before the opening,
and nothing else is missing or doubled. The witnesses say in every row that never two sides were writable.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer

from activities.failpoints import Failpoint
from dcdr.errors import ConflictError, PlanRefusedError
from dcdr.loss import journal_key
from dcdr.model import FailoverRequest, Holding, LossAcceptance, Outcome, Phase
from lab import kafka, status
from lab.faults import Way
from lab.load.estate import STAYING
from lab.processes import ProcessState
from starter import client as front
from tests.chaos.bad_days import CALL_S, UNDONE, drop_topic, held, mirror_stopped, new_topic, off
from tests.chaos.gates import TIMING, Trace, fake_clock
from tests.chaos.kills import dies
from tests.chaos.row import End, Play, Row, Scene, Shown
from tests.integration.support import ROOT, SCOPE, until
from workflows import steps

FAILED_OVER = frozenset({End.FAILED_OVER})
READY_S = 60.0
"""For a standby that has just been started to be ready to take over: well, heard by its brokers, seen caught up."""
FRESH_S = 30.0
"""Well below the budget's seconds: the journal of a standby that keeps up is a look or two old."""
TAKEOVER_S = TIMING.wait + 2 * TIMING.attempt + 1.0
"""After the last sign of life a takeover has happened by then, if one is to happen."""
AHEAD_S = 120
CLOCK = ROOT / "tests" / "chaos" / "clock"
POLICY = f"DCDR_SCOPES__{SCOPE.upper()}__FAILOVER__"


# --- how a site goes away, and comes back ---------------------------------------------------------------------------


Go = Callable[[Scene], Awaitable[list[str]]]


@dataclass(frozen=True)
class Away:
    """`go` takes a site away at once, `back` brings it back as it was before; both return what they hit."""

    says: str
    go: Go
    back: Go


async def heal(scene: Scene) -> list[str]:
    found: list[str] = await off(scene.stage.lab.fault.heal)
    return found


def cut(way: Way, with_clients: bool = False) -> Go:
    return lambda scene: scene.stage.cut_site(scene.here, way, with_clients=with_clients)


KILLED = Away(
    "SIGKILL", lambda scene: scene.stage.kill_site(scene.here), lambda scene: scene.stage.restart_site(scene.here)
)
CUT_OFF = Away("cut", cut(Way.BOTH), heal)
"""Users still reach it, and go on writing there until its gates close."""
DEAF = Away("swallow what is sent to it", cut(Way.IN), heal)
MUTE = Away("swallow what it sends", cut(Way.OUT, with_clients=True), heal)
"""It takes what users send, and they never learn."""


async def goes(scene: Scene, away: Away, first: bool = True) -> str:
    """Take the active site away, once the standby is ready for it (`first`). Returns: what was seen to be gone."""
    if first:
        await ready(scene)
    hit = await away.go(scene)
    gone = {fault.target for fault in await off(scene.stage.lab.fault.active)}
    assert hit, "nothing was hit"
    assert set(hit) <= gone, f"still there: {sorted(set(hit) - gone)}"
    links = any("->" in one for one in hit)
    return f"{len(hit)} {'links' if links else 'processes'} of {scene.here} {away.says}"


async def ready(scene: Scene) -> None:
    """Wait until nothing holds the standby's agent back, its journal is fresh, and the checkpoints have reached every
    group: what is played is not an unfit standby, nor a group so new that the other side knows nothing of it."""
    await until(f"{scene.there} to be ready to take over", lambda: off(_free, scene, scene.there), READY_S)
    await until(f"a fresh journal on {scene.there}", lambda: off(_fresh, scene, scene.there), READY_S)
    await until(f"every group's checkpoints on {scene.there}", lambda: off(_placed, scene), READY_S)


def _placed(scene: Scene) -> bool:
    """Whether each group of the load stands on the standby wherever it has read something on the active side."""
    return all(_stands(scene, scene.here, group) <= _stands(scene, scene.there, group) for group in STAYING)


def _stands(scene: Scene, member: str, group: str) -> set[tuple[str, int]]:
    admin = scene.stage.lab.admin(member)  # kept: a client that is let go of gives up its answers
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
    found = asked[group].result(CALL_S).topic_partitions
    return {(one.topic, one.partition) for one in found if one.offset > 0}


def _free(scene: Scene, dc: str) -> bool:
    said = agent_says(scene, dc)
    return bool(said) and not said["holds_back"] and not said["unready"]


def _fresh(scene: Scene, dc: str) -> bool:
    """By its own clock, so that one which was set ahead is behind until it has looked again."""
    return status.lag(scene.stage.lab, dc).get("seconds", FRESH_S) < FRESH_S


def agent_says(scene: Scene, dc: str) -> dict[str, Any]:
    """What `dc`'s agent tells of itself; empty without an answer."""
    try:
        answer = httpx.get(f"http://{scene.stage.lab.plan.ports[f'agent-{dc}/status']}/status", timeout=2)
    except httpx.HTTPError:
        return {}
    found: dict[str, Any] = answer.json() if answer.is_success else {}
    return found


# --- from the opening of the other side to rest ---------------------------------------------------------------------


async def seen_through(scene: Scene, fired: str, back: Go | None) -> Shown:
    """Users write to the other side; then the old one comes back (`back`; None: it is there), closed, and its tail is
    computed. Needs a worker."""
    stage = scene.stage
    await stage.flowing(scene.load, scene.there)
    report = await stage.failed_over(scene.there)
    assert report.loss is not None, "the report tells no bound"
    at_most = report.loss.records
    assert at_most is not None or report.accepted_by, "an unknown loss that nobody accepted"
    here = Trace(scene, scene.here)
    if back is not None:
        await back(scene)
    loss = await stage.tail()
    await stage.resumed(scene.load, scene.there)  # who could reach the old side all the while is put out by the tail
    assert not here.ever("users", "open"), f"{scene.here} opened: {here.changes()}"
    assert at_most is None or loss.records <= at_most, f"{loss.records} lost, at most {at_most} were announced"
    split = ", ".join(f"{name} {took.total_seconds():.1f}" for name, took in report.rto.items())
    lost = f"lost {loss.records} of at most {'?' if at_most is None else at_most}"
    return Shown(f"{fired}; {lost}; {split} s", End.FAILED_OVER, scene.there, loss)


async def nothing(scene: Scene) -> str:
    """Nothing more happens."""
    return ""


@dataclass(frozen=True)
class Failover:
    """The active site goes away, the other side opens, the old one comes back.

    With `hold` the failover stands before that step while `then` happens; `opened` happens once users write to the
    other side. `back`: whether the site is still away then. `workers_at`: `here`, `there`: a worker at that site, too.
    """

    away: Away = KILLED
    workers_at: tuple[str, ...] = ()
    hold: steps.Step | None = None
    then: Callable[[Scene], Awaitable[str]] = nothing
    opened: Callable[[Scene], Awaitable[str]] = nothing
    back: bool = True

    async def __call__(self, scene: Scene) -> Shown:
        points = () if self.hold is None else (Failpoint(self.hold.name, "before", "hold"),)
        async with contextlib.AsyncExitStack() as stack:
            at_sites = [scene.stage.worker(site=getattr(scene, site)) for site in self.workers_at]
            worker, *_ = await asyncio.gather(
                *(stack.enter_async_context(one) for one in (scene.stage.worker(*points), *at_sites))
            )
            said = [await goes(scene, self.away)]
            for point in points:
                await worker.reached(point)
                said.append(f"{point.mark}: {await self.then(scene)}")
                worker.release()
            if self.opened is not nothing:
                await scene.stage.flowing(scene.load, scene.there)
                said.append(await self.opened(scene))
            return await seen_through(scene, "; ".join(said), self.away.back if self.back else None)


# --- the old side is back too early ---------------------------------------------------------------------------------


async def comes_back(scene: Scene) -> str:
    """The old site is started while the failover is at work: it comes up closed, and its agent takes nothing over."""
    epoch, here = scene.stage.lease().epoch, Trace(scene, scene.here)
    await KILLED.back(scene)
    await until(f"{scene.here}'s agent to know", lambda: agent_says(scene, scene.here).get("epoch") == epoch, 60)
    assert here.users() == {"closed"}, here.changes()
    return f"{scene.here} is back, closed, under epoch {epoch}"


async def handed_back(scene: Scene) -> Shown:
    """Before the other side opened the old one is back and fit: a person hands the lease back, and nothing is lost."""
    stage, point = scene.stage, Failpoint(steps.OPEN_UP.name, "before", "hold")
    async with stage.worker(point) as worker:
        gone = await goes(scene, KILLED)
        await worker.reached(point)
        there = Trace(scene, scene.there)
        back = await comes_back(scene)
        await off(command, scene, "lease", "handover", SCOPE, "--to", scene.here)
        worker.release()
        report = await stage.failed_over(scene.there, outcome=Outcome.SUPERSEDED)
        assert (report.active, stage.here()) == (scene.here, scene.here), report
        await stage.flowing(scene.load, scene.here)
        assert not there.ever("users", "open"), there.changes()
    return Shown(f"{gone}; {back}; handed back: {report.why}", End.AS_BEFORE, scene.here)


def command(scene: Scene, *arguments: str) -> str:
    """Run `dcdr` as a person would, and have it succeed. Returns: what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "dcdr", *arguments],
        env={**os.environ, **scene.stage.lab.environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"dcdr {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


async def second_site_dies(scene: Scene) -> Shown:
    """The side that was failed over to dies as well. The old one lacks what users wrote since: it stays closed and says
    why, and what a person can decide."""
    stage = scene.stage
    first = await Failover()(scene)
    here = Trace(scene, scene.here)
    epoch = stage.lease().epoch
    hit = await stage.kill_site(scene.there)
    await asyncio.sleep(TAKEOVER_S)  # what must not happen can only be seen when its time is over
    why = agent_says(scene, scene.here).get("holds_back", "")
    assert f"{scene.here} was left by a failover" in why, why
    assert (stage.lease().holder, stage.lease().epoch) == (scene.there, epoch)
    assert not here.ever("users", "open"), here.changes()
    await stage.restart_site(scene.there)
    await stage.flowing(scene.load, scene.there)
    return replace(first, fired=f"{first.fired}; then {len(hit)} processes of {scene.there} SIGKILL: {why}")


# --- the machinery dies ---------------------------------------------------------------------------------------------


def kill(step: steps.Step) -> Play:
    """The worker dies when a step begins, its successor when the step has had its effect; a third one finishes."""
    points = [Failpoint(step.name, moment, "kill") for moment in ("before", "after")]

    async def play(scene: Scene) -> Shown:
        stage, pids = scene.stage, []
        async with stage.worker(*points) as first:
            gone = await goes(scene, KILLED)
            await dies(first, points[0])
            pids.append(first.process.pid)
        async with stage.worker(*points, marks=first.marks) as second:
            await dies(second, points[1])
            pids.append(second.process.pid)
        async with stage.worker(*points, marks=first.marks):
            return await seen_through(
                scene, f"{gone}; SIGKILL of pids {pids[0]} before, {pids[1]} after {step.name}", KILLED.back
            )

    return play


async def temporal_away(scene: Scene) -> str:
    await off(scene.stage.lab.fault.kill, "temporal")
    await asyncio.sleep(4)  # the length of the outage is the fault itself
    await off(scene.stage.lab.fault.restart, "temporal")
    return "temporal SIGKILL, back after 4 s"


async def without_workflow(scene: Scene) -> Shown:
    """Temporal is away all the time, and the settings say what then: the standby's agent goes through the same order by
    itself. The workflow that comes back picks up from there."""
    stage, fault, agent = scene.stage, scene.stage.lab.fault, f"agent-{scene.there}"
    told = {f"{POLICY}OPEN_WITHOUT_WORKFLOW_AFTER": "PT3S"}
    await off(partial(fault.restart, agent, environment=told))
    try:
        await off(fault.kill, "temporal")
        gone = await goes(scene, KILLED)
        await stage.flowing(scene.load, scene.there)
        record = stage.lease()
        assert (record.holder, record.behind) == (scene.there, scene.here), record
        assert str(record.op_id).startswith(agent), record
        await off(fault.restart, "temporal")
        async with stage.worker():
            return await seen_through(scene, f"{gone}; temporal SIGKILL before: {record.op_id} opened", KILLED.back)
    finally:
        await off(fault.restart, agent)


async def connect_away(scene: Scene) -> Shown:
    """The survivor's Connect died with the site: it comes back only when users write again."""
    name = f"connect-{scene.there}"

    async def go(scene: Scene) -> list[str]:
        return [*await off(scene.stage.lab.fault.kill, name), *await KILLED.go(scene)]

    async def back(scene: Scene) -> str:
        assert scene.stage.lab.process(name).state is ProcessState.DOWN
        await off(scene.stage.lab.fault.restart, name)
        return f"{name} was down until the other side was open"

    return await Failover(away=replace(KILLED, go=go), opened=back)(scene)


async def frozen_mirror(scene: Scene) -> Shown:
    """The mirror's tasks stand still from before the record until after the opening, with whatever they hold; then they
    go on where they were, and nothing of it gets into what is open now."""
    name, fault = f"connect-{scene.there}", scene.stage.lab.fault
    log = scene.stage.lab.process(name).log
    told: list[int] = []

    async def go(scene: Scene) -> list[str]:
        told.append(log.stat().st_size)
        return [*await off(fault.freeze, name), *await KILLED.go(scene)]

    async def thaw(scene: Scene) -> str:
        assert scene.stage.lab.process(name).state is ProcessState.FROZEN
        await off(fault.thaw, name)
        # What it says first is what it was kept from saying.
        await until("a sign of life of the thawed Connect", lambda: log.stat().st_size > told[0], 30)
        await scene.stage.flowing(scene.load, scene.there, 600)
        return f"{name} thawed after the opening"

    return await Failover(away=replace(KILLED, go=go), opened=thaw)(scene)


# --- a standby that is not fit --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unfit:
    """The active site is lost while the other side could not go on from what it holds: nothing is taken over, and the
    agent says why. The site comes back, and is active as before."""

    arrange: Callable[[Scene], AbstractAsyncContextManager[None]]
    says: str

    async def __call__(self, scene: Scene) -> Shown:
        stage, there = scene.stage, Trace(scene, scene.there)
        await ready(scene)
        async with self.arrange(scene):
            await until(f"a word of {self.says!r}", lambda: self.says in self._said(scene), READY_S)
            hit = await KILLED.go(scene)
            before = stage.lease()
            await asyncio.sleep(TAKEOVER_S)  # what must not happen can only be seen when its time is over
            said = self._said(scene)
            assert self.says in said, said
            assert stage.lease() == before, "the record changed"
            assert not there.ever("users", "open"), there.changes()
            await KILLED.back(scene)
            await stage.flowing(scene.load, scene.here)
        return Shown(f"{len(hit)} processes of {scene.here} SIGKILL; {said}", End.AS_BEFORE, scene.here)

    @staticmethod
    def _said(scene: Scene) -> str:
        return str(agent_says(scene, scene.there).get("holds_back", ""))


@contextlib.asynccontextmanager
async def brokers_away(scene: Scene) -> AsyncIterator[None]:
    """Too few of the standby's brokers are there."""
    fault, names = scene.stage.lab.fault, scene.stage.lab.brokers(scene.there)
    away = names[: len(names) // 2 + 1]
    await off(fault.kill, *away)
    try:
        yield
    finally:
        await off(fault.restart, *away)


@contextlib.asynccontextmanager
async def never_caught_up(scene: Scene) -> AsyncIterator[None]:
    """The mirror is behind, and nobody has ever seen it otherwise: the journal begins anew while it stands still."""
    fault, agent = scene.stage.lab.fault, f"agent-{scene.there}"
    async with mirror_stopped(scene):
        await scene.stage.flowing(scene.load, scene.here, 400)
        await off(fault.kill, agent)
        await off(lose_journal, scene)
        await off(fault.restart, agent)
        yield


@contextlib.asynccontextmanager
async def topic_missing(scene: Scene) -> AsyncIterator[None]:
    """A topic of the active side that the mirror has not made on the standby, because it stands still."""
    async with mirror_stopped(scene):
        name = await off(new_topic, scene.stage, scene.here)
        yield
        await off(drop_topic, scene.stage, name)


def lose_journal(scene: Scene) -> None:
    """Remove the standby's journal from its ledger topic."""
    producer = Producer(scene.stage.lab.client_config("admin", scene.there, "INTERNAL") | {"acks": "all"})
    errors: list[Any] = []
    key = journal_key(SCOPE, scene.there)
    producer.produce(kafka.LEDGER_TOPIC, key=key, value=None, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(CALL_S) == 0
    assert not any(errors), errors


# --- the budget -----------------------------------------------------------------------------------------------------


async def holding(scene: Scene) -> Holding:
    """Wait until the failover holds, with nothing open anywhere. Returns: for what."""
    found = await scene.stage.holding()
    assert scene.stage.lease().phase is Phase.ACQUIRED
    assert Trace(scene, scene.there).users() == {"closed"}
    return found


async def accept(scene: Scene, records: int | None) -> str:
    wish = LossAcceptance(records=records, by="chaos", reason="a row of the matrix")
    return await front.accept_loss(scene.stage.client, SCOPE, wish)


async def refused(scene: Scene, records: int | None, says: str) -> str:
    """An acceptance that must not count."""
    with pytest.raises(PlanRefusedError, match=says) as why:
        await accept(scene, records)
    return str(why.value)


async def above_budget(scene: Scene) -> Shown:

    stage, link = scene.stage, f"{scene.there}->{scene.here}:kafka"
    point = Failpoint(steps.OPEN_UP.name, "before", "hold")
    async with stage.worker(point, settings={f"{POLICY}MAX_LOST_RECORDS": "0"}) as worker:
        await ready(scene)
        stage.lab.fault.cut(link)  # so that there is something to lose
        await stage.flowing(scene.load, scene.here, 600)
        gone = await goes(scene, KILLED, first=False)
        bound = (await holding(scene)).bound.records
        assert bound is not None
        assert bound > 0
        less = await refused(scene, bound - 1, "more than")
        await accept(scene, bound)
        await worker.reached(point)
        await refused(scene, bound, "an acceptance counts once")
        worker.release()
        shown = await seen_through(scene, f"{gone}; held for {bound} records; {less}; accepted once", _heal_and_start)
    assert stage.failover is not None
    assert str(bound) in stage.failover.accepted_by, stage.failover.accepted_by
    return shown


async def _heal_and_start(scene: Scene) -> list[str]:
    return [*await heal(scene), *await KILLED.back(scene)]


async def journal_lost(scene: Scene) -> Shown:
    """Nobody can say how much is lost: the failover holds, and goes on when somebody accepts just that."""
    stage, point = scene.stage, Failpoint(steps.RECORD.name, "before", "hold")
    async with stage.worker(point) as worker:
        gone = await goes(scene, KILLED)
        await worker.reached(point)
        await off(lose_journal, scene)
        worker.release()
        held_for = await holding(scene)
        assert held_for.bound.records is None, held_for.bound
        await refused(scene, 1_000_000, "no number covers it")
        await accept(scene, None)
        return await seen_through(scene, f"{gone}; journal removed: {held_for.why}", KILLED.back)


async def asked_for(scene: Scene) -> Shown:
    """Takeovers are paused, so that nothing happens by itself; a person asks for the failover."""
    stage = scene.stage
    async with stage.worker():
        await ready(scene)
        await off(command, scene, "lease", "pause", SCOPE, "--for", "10m", "--reason", "a row of the matrix")
        gone = await goes(scene, KILLED, first=False)
        await asyncio.sleep(TAKEOVER_S)  # what must not happen can only be seen when its time is over
        assert stage.here() == scene.here, "taken over in spite of the pause"
        await stage.fail_over(scene.there, requested_by="chaos")
        return await seen_through(scene, f"{gone} while takeovers were paused; asked for", KILLED.back)


async def while_draining(scene: Scene) -> Shown:
    """The source dies while a switchover drains. Whoever asks for a failover is told what runs; the watch ends that as
    superseded, with no gate touched, and the failover follows under the same id."""
    stage = scene.stage
    await ready(scene)
    async with held(scene, steps.DRAIN) as (worker, handle):
        gone = await goes(scene, KILLED, first=False)
        with pytest.raises(ConflictError) as asked:
            await front.start(stage.client, FailoverRequest(scope=SCOPE, target=scene.there, requested_by="chaos"))
        worker.release()
        report = (await stage.ended(handle)).report
        assert report is not None
        assert report.outcome is Outcome.SUPERSEDED, report
        fired = f"{gone} in drain.prove ({asked.value}); the switchover: {report.outcome}"
        return await seen_through(scene, fired, KILLED.back)


# --- clocks ---------------------------------------------------------------------------------------------------------


async def clock_ahead(scene: Scene) -> Shown:
    """The agent that takes over and its brokers have a wall clock that is two minutes ahead.

    Connect keeps the right one, and so does the store's member, a program that asks the kernel itself: neither decides
    anything by it.
    """
    lab, there = scene.stage.lab, scene.there
    brokers, agent = lab.brokers(there), f"agent-{there}"
    await ready(scene)
    ahead = {"PYTHONPATH": f"{CLOCK}{os.pathsep}{ROOT}", "DCDR_TEST_AHEAD_S": str(AHEAD_S)}
    await off(partial(lab.fault.restart, *brokers, environment=fake_clock(FAKETIME=f"+{AHEAD_S}s")))
    await off(partial(lab.fault.restart, agent, environment=ahead))
    try:
        shown = await Failover(opened=_taken_in_the_future)(scene)
    finally:
        await off(lab.fault.restart, *brokers, agent)
    await scene.stage.flowing(scene.load, there)
    return shown


async def _taken_in_the_future(scene: Scene) -> str:
    taken = scene.stage.lease().acquired_at
    assert taken is not None
    ahead = taken - datetime.now(UTC)
    assert ahead > timedelta(seconds=AHEAD_S - 60), f"taken over at {taken}: the clock was not ahead"
    return f"taken over {ahead.total_seconds():.0f} s from now by the clock of {scene.there}"


# --- all of them ----------------------------------------------------------------------------------------------------


def rows() -> Iterator[Row]:
    def row(name: str, play: Play, **more: Any) -> Row:
        # A takeover stays in the record, and the next one by itself would have to wait for the cool-down.
        fixed = {"automatic": True, "witnessed": True, "spoils": True, "rest_s": 150.0}
        return Row(name, play, **{"expect": FAILED_OVER, **fixed, **more})

    yield row("failover: the active site is killed", Failover(workers_at=("here", "there")))
    yield row("failover: the active site is cut off", Failover(CUT_OFF, workers_at=("here", "there")))
    yield row("failover: the active site hears nothing", Failover(DEAF))
    yield row("failover: the active site is heard by nobody", Failover(MUTE))
    middle = Failover(hold=steps.RECORD, then=comes_back, back=False)
    yield row("failover: the old side is back in the middle of it", middle)
    yield row("failover: the old side is back before the opening, handed back", handed_back, expect=UNDONE)
    yield row("failover: the second site dies before the failback", second_site_dies)
    for step in steps.FAILOVER:
        yield row(f"failover: kill -9 before and after {step.name}", kill(step))
    yield row("failover: Temporal stops in the middle of it", Failover(hold=steps.RECORD, then=temporal_away))
    yield row("failover: Temporal is away through all of it", without_workflow)
    yield row("failover: the survivor's Connect is down", connect_away)
    yield row("failover: a frozen mirror is thawed after the opening", frozen_mirror)
    lacks = Unfit(topic_missing, "lacks 1 topics")
    yield row("failover: the standby lacks a topic", lacks, expect=UNDONE)
    yield row("failover: the standby has too few brokers", Unfit(brokers_away, "is not well"), expect=UNDONE)
    behind = Unfit(never_caught_up, "was never seen caught up")
    yield row("failover: the standby's mirror never caught up", behind, expect=UNDONE)
    yield row("failover: the source of a switchover dies in the drain", while_draining)
    yield row("failover: takeovers are paused, and a person asks", asked_for)
    yield row("failover: the loss is above the budget, and accepted once", above_budget)
    yield row("failover: the journal is lost", journal_lost)
    yield row("failover: the survivor's clocks are two minutes ahead", clock_ahead)
