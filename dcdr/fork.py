"""Where the histories of both sides part: closed, written down on the target, before it opens.

Used by the failover's steps and by the agent that goes through the same order by itself. Nothing here asks the source:
it may be dark. Every effect is idempotent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from dcdr import drain, lease, loss, settle
from dcdr.book import LedgerBook
from dcdr.errors import MisconfiguredError, NotYetError, TransientError
from dcdr.lease import Standing
from dcdr.model import (
    ConnectorState,
    EntryRef,
    Fork,
    ForkRow,
    Gate,
    LogEnds,
    Operation,
    Topic,
    TopicPartition,
    Watermarks,
)
from dcdr.plan import mirror_of
from dcdr.ports import Member, Scope

log = logging.getLogger("dcdr.fork")

STOP_SECONDS = 20.0
"""In ACL mode the connectors are stopped first. The stop of one whose source is dark may take its graceful time-out;
what it still does by then, the fencing of its transactional ids ends."""
STOP_LOOK_SECONDS = 0.2
UNKNOWN_TASKS = 32
"""Task ids to fence where neither Connect nor the journal says how many there are. Fencing one that never was is
harmless: the coordinator makes it and bumps its epoch."""
EXACTLY_ONCE = "exactly.once.support"


async def read_journal(scope: Scope, target: str) -> Watermarks | None:
    """The journal that `target`'s agent keeps of the mirror towards it; None where there is none that can be used.

    Raises: UnreachableError when the target's ledger does not answer.
    """
    body = await scope.member(target).ledger.get(loss.journal_key(scope.name, target))
    if body is None:
        return None
    try:
        journal = loss.unpack(body)
    except MisconfiguredError as error:
        log.warning("%s: %s", target, error)
        return None
    if (journal.scope, journal.target) != (scope.name, target):
        log.warning("%s: the journal is of %s, %s -> %s", target, journal.scope, journal.source, journal.target)
        return None
    return journal


async def fence(scope: Scope, operation: Operation) -> int:
    """Nothing can write to the target any more, neither users nor the mirror, and its logs have settled.

    Returns: how many brokers confirmed it by effect.
    Raises: NotYetError naming the broker, connector or partition that is not so yet; SupersededError.
    """
    lease.require((await settle.read_lease(scope)).record, operation, Standing.TAKEN)
    target = scope.member(operation.target)
    mirror = mirror_of(scope, operation.source, operation.target)
    if not scope.gated:
        await target.fence.close_users()
        await _stop(target, mirror.source_connector, mirror.checkpoint_connector)
    brokers, _ = await asyncio.gather(
        settle.until_gates(target.fence.users_gates, Gate.CLOSED, f"users of {target.name}"),
        _mirror_closed(scope, target),
    )
    await _fence_ids(scope, operation)
    await settle.settled(target, drain.partitions_of(_users(scope, operation, await target.logs.topics())))
    return brokers


async def record(scope: Scope, operation: Operation, book: LedgerBook) -> tuple[EntryRef, Fork]:
    """Write down the target's settled ends, M, both sides' topic ids, the journal's view and what is lost at most.

    Precondition: `fence`. Raises: SupersededError; NotYetError when the target's logs do not stand still.
    """
    taken = (await settle.read_lease(scope)).record
    lease.require(taken, operation, Standing.TAKEN)
    target = scope.member(operation.target)
    mirror = mirror_of(scope, operation.source, operation.target)
    journal, all_topics = await asyncio.gather(read_journal(scope, operation.target), target.logs.topics())
    if journal is not None and journal.source != operation.source:
        journal = None
    topics = _users(scope, operation, all_topics)
    ends = await settle.settled(target, drain.partitions_of(topics))
    # M after the ends: both stand still since the fence, and a difference would be seen by the look that follows.
    mirrored = await target.positions.current(mirror.source_connector)
    again = await settle.settled(target, list(ends))
    if grown := [str(place) for place, at in ends.items() if again[place].leo != at.leo]:
        raise NotYetError(f"{target.name} still grows although it is closed: {', '.join(grown[:5])}")
    found = loss.bound(journal, mirrored, taken, scope.lease_timing, scope.failover)
    if not scope.gated and scope.failover.even_behind_acls:
        owner = f'; goes on behind ACLs by the owner\'s words: "{scope.failover.even_behind_acls}"'
        found = found.model_copy(update={"why": found.why + owner})
    fork = Fork(
        operation=operation,
        taken_at=datetime.now(UTC),
        rows=_rows(topics, ends, mirrored, journal),
        bound=found,
        exactly_once=await _exactly_once(target, mirror.source_connector, journal),
    )
    return await book.write_fork(scope, fork), fork


def _rows(
    topics: Mapping[str, Topic],
    ends: Mapping[TopicPartition, LogEnds],
    mirrored: Mapping[TopicPartition, int],
    journal: Watermarks | None,
) -> tuple[ForkRow, ...]:
    seen = {} if journal is None else journal.ends
    ids = {} if journal is None else journal.topic_ids
    places = set(ends) | {TopicPartition(topic, number) for topic, rows in seen.items() for number in rows}
    return tuple(
        ForkRow(
            topic=place.topic,
            partition=place.partition,
            target_topic_id=topics[place.topic].topic_id if place in ends else "",
            target_end=ends[place].leo if place in ends else 0,
            mirrored=mirrored.get(place),
            source_topic_id=ids.get(place.topic),
            source_end=seen.get(place.topic, {}).get(place.partition),
        )
        for place in sorted(places)
    )


def _users(scope: Scope, operation: Operation, topics: Mapping[str, Topic]) -> dict[str, Topic]:
    reserved = scope.member(operation.source).reserved_topics | scope.member(operation.target).reserved_topics
    return drain.mirrored_topics(topics, reserved)


async def _mirror_closed(scope: Scope, target: Member) -> None:
    """Every broker refuses the mirror. With ACLs it has no gate of its own: it is stopped, and its ids are fenced."""
    if scope.gated:
        what = f"the mirror's gate of {target.name}"
        await settle.until_gates(target.fence.mirror_gates, Gate.CLOSED, what)


async def _stop(target: Member, *connectors: str) -> None:
    """Stop `connectors` and wait, bounded, until their tasks are gone; one whose stop hangs is logged: it is fenced.

    Raises: NotYetError when one does not even say STOPPED.
    """
    await asyncio.gather(*(target.connect.stop(name) for name in connectors))
    give_up = time.monotonic() + STOP_SECONDS
    while True:
        found = await target.connect.connectors()
        waiting = [name for name in connectors if name not in found or not found[name].stopped]
        if not waiting:
            return
        if time.monotonic() >= give_up:
            if missing := [n for n in waiting if n not in found or found[n].state is not ConnectorState.STOPPED]:
                raise NotYetError(f"{target.name}'s Connect did not stop {', '.join(missing)} in {STOP_SECONDS:.0f} s")
            log.warning("%s: tasks of %s still say they run; they are fenced", target.name, ", ".join(waiting))
            return
        await asyncio.sleep(STOP_LOOK_SECONDS)


async def _fence_ids(scope: Scope, operation: Operation) -> None:
    """Take over the mirror's transactional ids on the target: what a frozen task still holds can never be committed.

    Where Connect does not say how many tasks there may be, the journal does. Besides, every id of the mirror's three
    connectors that is open is taken: what nobody can end any more hides M in Connect's offsets topic.
    """
    target = scope.member(operation.target)
    mirror = mirror_of(scope, operation.source, operation.target)
    name = mirror.source_connector
    try:
        tasks = settle.tasks_of(await settle.connector_of(target, name))
    except TransientError as error:
        journal = await read_journal(scope, operation.target)
        tasks = (journal.tasks if journal is not None else 0) or UNKNOWN_TASKS
        log.warning("%s: %s; %d task ids are fenced", target.name, error, tasks)
    ids = settle.task_ids(target, name, tasks)
    names = (name, mirror.checkpoint_connector, mirror.heartbeat_connector)
    prefixes = tuple(settle.task_prefix(target, one) for one in names)
    begun = [found.transactional_id for found in await target.transactions.open()]
    await target.transactions.fence(sorted({*ids, *(one for one in begun if one.startswith(prefixes))}))


async def _exactly_once(target: Member, connector: str, journal: Watermarks | None) -> bool:
    try:
        return (await settle.connector_of(target, connector)).config.get(EXACTLY_ONCE) == "required"
    except TransientError:
        return journal is not None and journal.exactly_once
