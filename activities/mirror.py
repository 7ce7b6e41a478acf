"""Connectors: what is stopped before, swapped after, and started again when a switchover is undone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from temporalio import activity

from activities.step import Steps, Stopwatch, ask, both, connector_of, settle_groups, until_gates
from dcdr import drain, lease, settle
from dcdr.book import LedgerBook
from dcdr.errors import MirrorLoopError, NotYetError
from dcdr.intent import Ask, Intent
from dcdr.lease import Standing
from dcdr.model import Connector, ConnectorState, Gate, LeaseRecord, Operation, StepInput, StepResult, TopicPartition
from dcdr.plan import mirror_of
from dcdr.ports import Directory, Member, Scope
from dcdr.settle import transactional_ids

CONNECTOR_SECONDS = 60.0
"""A stop may last its graceful time-out (30 s by our settings) plus a rebalance."""
IDLE_SECONDS = 3.0
FIRST_LOOK, LONGEST_LOOK = 0.05, 0.5
AGAIN_SECONDS = 5.0
"""How often a restart is asked for again while tasks stay failed."""
LEFTOVER_SECONDS = 40.0
"""A task that says RUNNING under a STOPPED connector for longer is gone: Connect gives it up after its graceful
time-out (5 s by default, seldom more than 30). Seen on 4.3.1: a stop met a task that was starting and waited for the
worker's main thread, which waited for it; the task ended after that time, and its last word stayed."""


class MirrorActivities(Steps):
    """Prepare, restore; retire, seed, start."""

    def __init__(self, directory: Directory, book: LedgerBook) -> None:
        super().__init__(directory)
        self._book = book

    @activity.defn(name="checkpoint.stop")
    async def stop_checkpoint(self, step: StepInput) -> StepResult:
        """Stop the retiring direction's checkpoint connector: running, it may rewind an offset just written."""

        async def correct(record: LeaseRecord) -> None:
            if record.op_id is None:  # else the operation's own steps let consumers in, at their time
                await settle_groups(target.fence, record, target.name)
            if lease.groups_may_commit(record, step.operation.source):  # undone, or on its way to be
                await target.connect.resume(mirror.checkpoint_connector)

        async with self.holding(step.operation, Standing.DRAINING, correct=correct) as scope:
            watch = Stopwatch()
            _, target = both(scope, step.operation)
            mirror = mirror_of(scope, step.operation.source, step.operation.target)
            await target.connect.stop(mirror.checkpoint_connector)
            await target.fence.freeze_groups()  # a standby's groups are frozen; its opening thaws them
            name = mirror.checkpoint_connector
            if await _stopped(target, (name,)):
                # Its task's status is a leftover: a task that runs and stops once more writes one of its own.
                await target.connect.resume(name)
                await _until(target, (name,), _runs_or_idles(), "RUNNING", revive=True)
                await target.connect.stop(name)
                await _until(target, (name,), lambda c: c.stopped, "STOPPED without tasks")
            return StepResult(**watch.so_far(), note=f"{name} stopped")

    @activity.defn(name="checkpoint.resume")
    async def resume_checkpoint(self, step: StepInput) -> StepResult:
        """Undo `checkpoint.stop`."""
        async with self.holding(step.operation, Standing.REOPENED) as scope:
            watch = Stopwatch()
            _, target = both(scope, step.operation)
            mirror = mirror_of(scope, step.operation.source, step.operation.target)
            await target.connect.resume(mirror.checkpoint_connector)
            await _until(target, (mirror.checkpoint_connector,), _runs_or_idles(), "RUNNING", revive=True)
            return StepResult(**watch.so_far(), note=f"{mirror.checkpoint_connector} runs again")

    @activity.defn(name="mirror.restore")
    async def restore(self, step: StepInput) -> StepResult:
        """Bring back the retiring mirror's tasks that `mirror.close` fenced: for an undo, or before another cut.

        The lease has opened the mirror's gate again (`reopen`, `extend`); a task that starts before the brokers know
        fails for good.
        """
        async with self.holding(step.operation, Standing.REOPENED, Standing.DRAINING) as scope:
            watch = Stopwatch()
            _, target = both(scope, step.operation)
            mirror = mirror_of(scope, step.operation.source, step.operation.target)
            name = mirror.source_connector
            if scope.gated:
                gates = target.fence.mirror_gates
                await until_gates(gates, Gate.OPEN, f"mirror of {target.name}")
            await settle.restart_mirror(target, mirror)
            await _until(target, (name,), lambda c: c.running, "RUNNING with all tasks", revive=True)
            return StepResult(**watch.so_far(), note=f"{name} runs with all tasks")

    @activity.defn(name="mirror.retire")
    async def retire(self, step: StepInput) -> StepResult:
        """Stop the retiring direction for good."""
        async with self.holding(step.operation, Standing.MOVED) as scope:
            watch = Stopwatch()
            _, target = both(scope, step.operation)
            mirror = mirror_of(scope, step.operation.source, step.operation.target)
            names = await _present(
                target, mirror.source_connector, mirror.heartbeat_connector, mirror.checkpoint_connector
            )
            await asyncio.gather(*(target.connect.stop(name) for name in names))
            leftover = await _stopped(target, names)
            # Fenced once more: a restart between the handover and the stop would have made a task that may write, and
            # a worker cut off from its group does not know of the stop.
            await target.transactions.fence(await transactional_ids(target, mirror))
            said = f", although a task of {', '.join(leftover)} still says it runs" if leftover else ""
            return StepResult(**watch.so_far(), note=f"{mirror} stopped{said}", counts={"connectors": len(names)})

    @activity.defn(name="mirror.seed")
    async def seed(self, step: StepInput) -> StepResult:
        """Set the reverse direction's stored offsets to the ledger's ends - 1 and read them back.

        Unseeded, it would copy every record back. A direction that already runs was seeded before it was started
        (a repeated step): its offsets must have reached the seeds, else this is a loop. One that was seeded, ran and
        was stopped by somebody stands beyond them: seeded again, it would copy what lies between a second time.
        """
        async with self.holding(step.operation, Standing.MOVED) as scope:
            watch = Stopwatch()
            source, _ = both(scope, step.operation)
            mirror = mirror_of(scope, step.operation.target, step.operation.source)
            ledger = await self._book.read(scope, step.operation, step.entry)
            # Connect writes the seeds in a transaction of the connector's first task, so the mirror's gate on the old
            # side opens now. The connector is stopped, and started only when the seeds read back.
            await ask(scope, Intent(operation=step.operation, ask=Ask.ADMIT))
            connector = await connector_of(source, mirror.source_connector)
            stored = await source.connect.offsets(connector.name)
            if connector.state is not ConnectorState.STOPPED:
                _check_reached(drain.seed(ledger, ()), stored, connector.name)
                return StepResult(**watch.so_far(), note="runs already, from the seeded offsets or later")
            await _until(source, (connector.name,), lambda c: c.stopped, "STOPPED without tasks")
            if await self._book.seeded(scope, step.operation):
                stored = await source.connect.offsets(connector.name)
                if not _short(drain.seed(ledger, ()), stored):
                    return StepResult(**watch.so_far(), note="seeded already, and stands there or beyond")
            seeds = drain.seed(ledger, stored)
            await source.connect.seed(connector.name, seeds, source=mirror.source)
            await _check_seeded(source, connector.name, seeds)
            await self._book.mark_seeded(scope, step.operation)
            return StepResult(
                **watch.so_far(), note=f"{len(seeds)} partitions read back", counts={"partitions": len(seeds)}
            )

    @activity.defn(name="mirror.start")
    async def start(self, step: StepInput) -> StepResult:
        """Start the reverse direction, only if the other one is stopped and the seeds read back."""
        async with self.holding(step.operation, Standing.MOVED) as scope:
            watch = Stopwatch()
            source, target = both(scope, step.operation)
            retiring = mirror_of(scope, step.operation.source, step.operation.target)
            standing = mirror_of(scope, step.operation.target, step.operation.source)
            other = await connector_of(target, retiring.source_connector)
            if other.state is not ConnectorState.STOPPED:  # of its tasks, the step that stopped it is the judge
                raise MirrorLoopError(
                    f"{standing} is not started: {other.name} is {other.state.value} with {len(other.tasks)} tasks. "
                    f"Stop it on {target.name}'s Connect"
                )
            ledger = await self._book.read(scope, step.operation, step.entry)
            connector = await connector_of(source, standing.source_connector)
            if connector.stopped:
                stored = await source.connect.offsets(connector.name)
                if short := _short(drain.seed(ledger, ()), stored):
                    raise NotYetError(
                        f"{standing} is not started: {len(short)} partitions, for example {short[0]}, stand below "
                        f"their seeds. Seed {connector.name} again: the ledger entry is {step.entry and step.entry.key}"
                    )
            names = await _present(
                source, standing.source_connector, standing.checkpoint_connector, standing.heartbeat_connector
            )
            await asyncio.gather(*(source.connect.resume(name) for name in names))
            await _until(source, names[:1], lambda c: c.running, "RUNNING with all tasks", revive=True)
            await _until(source, names[1:], _runs_or_idles(), "RUNNING", revive=True)
            return StepResult(**watch.so_far(), note=f"{standing} runs", counts={"connectors": len(names)})


async def bring_back(scope: Scope, operation: Operation) -> None:
    """The mirror from the operation's source to its target as it was: running, its tasks started anew.

    A task that was fenced, or denied its writes, notices at its next write only: all are restarted, whatever they say.
    Raises: NotYetError when they do not run in time.
    """
    target = scope.member(operation.target)
    mirror = mirror_of(scope, operation.source, operation.target)
    names = await _present(target, mirror.source_connector, mirror.checkpoint_connector, mirror.heartbeat_connector)
    await asyncio.gather(*(target.connect.resume(name) for name in names))
    await settle.restart_mirror(target, mirror)
    await _until(target, names[:1], lambda c: c.running, "RUNNING with all tasks", revive=True)
    await _until(target, names[1:], _runs_or_idles(), "RUNNING", revive=True)


async def _present(member: Member, *names: str) -> tuple[str, ...]:
    """Those of `names` that exist (a heartbeat connector is for dashboards and may be missing), in order."""
    there = await member.connect.connectors()
    return tuple(name for name in names if name in there)


async def _stopped(member: Member, names: tuple[str, ...]) -> list[str]:
    """Wait until all of `names` are STOPPED without tasks.

    Returns: those that are STOPPED and whose tasks still say otherwise after `LEFTOVER_SECONDS`.
    Raises: NotYetError when one is not even STOPPED.
    """
    try:
        await _until(member, names, lambda c: c.stopped, "STOPPED without tasks", seconds=LEFTOVER_SECONDS)
    except NotYetError:
        found = await member.connect.connectors()
        if not all(name in found and found[name].state is ConnectorState.STOPPED for name in names):
            raise
        return [name for name in names if found[name].tasks]
    return []


def _runs_or_idles() -> Callable[[Connector], bool]:
    """RUNNING with all tasks; without any after a while: a checkpoint connector has none while there is no group."""
    patience = time.monotonic() + IDLE_SECONDS

    def holds(connector: Connector) -> bool:
        idle = connector.state == "RUNNING" and not connector.tasks and time.monotonic() > patience
        return connector.running or idle

    return holds


async def _until(
    member: Member,
    names: tuple[str, ...],
    holds: Callable[[Connector], bool],
    what: str,
    *,
    seconds: float = CONNECTOR_SECONDS,
    revive: bool = False,
) -> None:
    """Poll Connect until `holds` for every one of `names`; with `revive`, failed tasks are restarted meanwhile.

    Raises: NotYetError with each one's state.
    """
    give_up = time.monotonic() + seconds
    wait, revived = FIRST_LOOK, time.monotonic()
    while True:
        found = await member.connect.connectors()
        if missing := [name for name in names if name not in found]:
            raise NotYetError(f"{member.name}'s Connect does not list {', '.join(missing)}; create it again")
        waiting = [found[name] for name in names if not holds(found[name])]
        if not waiting:
            return
        activity.heartbeat([f"{c.name}: {c.state.value}, tasks {', '.join(c.tasks) or 'none'}" for c in waiting])
        if time.monotonic() >= give_up:
            states = "; ".join(f"{c.name} {c.state.value}, tasks {', '.join(c.tasks) or 'none'}" for c in waiting)
            raise NotYetError(f"not {what} after {seconds:.0f} s on {member.name}'s Connect: {states}")
        if revive and time.monotonic() - revived > AGAIN_SECONDS:
            revived = time.monotonic()
            for connector in waiting:
                if connector.failed:
                    await member.connect.restart(connector.name, only_failed=True)
        await asyncio.sleep(wait)
        wait = min(wait * 1.5, LONGEST_LOOK)


async def _check_seeded(member: Member, connector: str, seeds: Mapping[TopicPartition, int | None]) -> None:
    """Compare what Connect holds with what was sent, exactly. Raises: NotYetError with the differences."""
    stored = await member.connect.offsets(connector)
    wanted = {place: offset for place, offset in seeds.items() if offset is not None}
    if dict(stored) != wanted:
        differ = sorted(set(wanted.items()) ^ set(stored.items()))[:5]
        raise NotYetError(f"{connector}: stored offsets are not the seeds, for example {differ}; seeding again")


def _short(seeds: Mapping[TopicPartition, int | None], stored: Mapping[TopicPartition, int]) -> list[TopicPartition]:
    """Partitions whose stored offset is below its seed, or missing."""
    return [place for place, offset in seeds.items() if offset is not None and stored.get(place, -1) < offset]


def _check_reached(
    seeds: Mapping[TopicPartition, int | None], stored: Mapping[TopicPartition, int], connector: str
) -> None:
    if short := _short(seeds, stored):
        raise MirrorLoopError(
            f"{connector} runs although {len(short)} partitions (for example {short[0]}) stand below their seeds: "
            "it is copying records back. Stop it now, and re-seed the standby"
        )
