"""Looking, and waiting for an effect on a cluster, bounded: shared by the workflow's steps and by the agents."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from dcdr import drain
from dcdr.errors import MisconfiguredError, NotYetError
from dcdr.model import Connector, Gate, LogEnds, Mirror, StoredLease, TopicPartition
from dcdr.ports import Member, Scope

FIRST_WAIT, LONGEST_WAIT = 0.002, 0.05
"""Seconds between polls: short at first, because the outage is counted in milliseconds; then modest."""

CONFIRM_SECONDS = 8.0
"""For every broker to obey: it hears of a marker within milliseconds, of a rule as fast as metadata travels."""
SETTLE_SECONDS = 8.0
HELD_SECONDS = 0.25
"""An open transaction is listed and fenced beside the settling; one that is still there by now was not on that list."""


async def read_lease(scope: Scope) -> StoredLease:
    """The scope's record. Raises: MisconfiguredError when there is none: it is never created by itself."""
    stored = await scope.lease.read(scope.name)
    if stored is None:
        raise MisconfiguredError(
            f"scope {scope.name} has no lease record; an operator creates it once, as docs/reference/settings.md tells"
        )
    return stored


async def until_gates(ask: Callable[[], Awaitable[Mapping[int, Gate]]], wanted: Gate, what: str) -> int:
    """Poll until every broker answers `wanted`; return how many brokers did.

    Raises: NotYetError with each broker's answer when `CONFIRM_SECONDS` have passed. "No answer" is never taken for
    closed.
    """
    give_up = time.monotonic() + CONFIRM_SECONDS
    wait = FIRST_WAIT
    while True:
        gates = await ask()
        others = {broker: gate for broker, gate in gates.items() if gate is not wanted}
        if gates and not others:
            return len(gates)
        if time.monotonic() >= give_up:
            answers = (
                ", ".join(f"broker {broker} {gate.value}" for broker, gate in sorted(others.items())) or "no broker"
            )
            raise NotYetError(f"{what}: not {wanted.value} on every broker after {CONFIRM_SECONDS:.0f} s ({answers})")
        await asyncio.sleep(wait)
        wait = min(wait * 1.5, LONGEST_WAIT)


async def settled(
    member: Member, places: Collection[TopicPartition], free: Callable[[], Awaitable[None]] | None = None
) -> dict[TopicPartition, LogEnds]:
    """Ends of `places` once LEO = HW = LSO on all of them; `free` is called while only a transaction holds them back.

    Raises: NotYetError with the partitions that do not settle.
    """
    began = freed = time.monotonic()
    wait = FIRST_WAIT
    while True:
        ends = await member.logs.ends(places)
        open_still = drain.unsettled(ends)
        if not open_still:
            return dict(ends)
        now = time.monotonic()
        if now - began >= SETTLE_SECONDS:
            raise NotYetError(
                f"{member.name} does not settle, {len(open_still)} partitions: {'; '.join(open_still[:5])}"
            )
        if free is not None and now - freed >= HELD_SECONDS and all(at.leo == at.hw for at in ends.values()):
            await free()
            freed = time.monotonic()
        await asyncio.sleep(wait)
        wait = min(wait * 1.5, LONGEST_WAIT)


async def connector_of(member: Member, name: str) -> Connector:
    """One connector. Raises: NotYetError when Connect does not list it (a worker that just started lists none)."""
    return _among(await member.connect.connectors(), member, name)


def _among(found: Mapping[str, Connector], member: Member, name: str) -> Connector:
    if name not in found:
        known = ", ".join(sorted(found)) or "none"
        raise NotYetError(f"{member.name}'s Connect lists no connector {name} (known: {known}); create it again")
    return found[name]


def task_prefix(member: Member, connector: str) -> str:
    """What the transactional ids of a connector's tasks begin with: `<Connect group>-<connector>-<task>`.

    Source: Kafka 4.3, `Worker.taskTransactionalId`.
    """
    return f"{member.connect_group_id}-{connector}-"


def task_ids(member: Member, connector: str, tasks: int) -> list[str]:
    """Ids of an exactly-once connector's task producers."""
    return [f"{task_prefix(member, connector)}{task}" for task in range(tasks)]


def tasks_of(connector: Connector) -> int:
    """All that `tasks.max` allows, so that an earlier, larger generation is fenced too."""
    return max(int(connector.config.get("tasks.max", "1")), len(connector.tasks))


async def transactional_ids(target: Member, mirror: Mirror) -> list[str]:
    """As `task_ids`, of the mirror's and the heartbeats' tasks, as many as Connect allows.

    Heartbeats, too, are written in transactions that end in Connect's offsets topic: one that a closed gate keeps open
    hides what was committed after it from whoever reads that topic, M included, until it times out after a minute.
    """
    found = await target.connect.connectors()
    source = _among(found, target, mirror.source_connector)
    ids = task_ids(target, mirror.source_connector, tasks_of(source))
    heartbeats = found.get(mirror.heartbeat_connector)  # for dashboards; it may be missing
    return ids if heartbeats is None else [*ids, *task_ids(target, mirror.heartbeat_connector, tasks_of(heartbeats))]


async def restart_mirror(target: Member, mirror: Mirror) -> None:
    """Start the tasks of the mirror and of its heartbeats anew, whatever they say: whom a closed gate refused stays
    FAILED, and one that was fenced notices at its next write only."""
    await target.connect.restart(mirror.source_connector, only_failed=False)
    if mirror.heartbeat_connector in await target.connect.connectors():  # for dashboards; it may be missing
        await target.connect.restart(mirror.heartbeat_connector, only_failed=False)
