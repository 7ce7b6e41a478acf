"""What an agent does for an operation that nobody finished: the holder lets everybody in.

It needs no Temporal, so that a lost one never leaves both sides closed. After a handover only what people wait for is
done: users, the endpoint, consumers. Where the old side was opened again, its mirror runs again as well: it was there
before. The rest, the operation id included, stays for the run that finds the operation in the lease, and finds done
what was done here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

from agent.keeper import Keeper, NoRecordError
from agent.looking import for_ever
from dcdr import drain, lease, settle, translate
from dcdr import intent as intents
from dcdr.book import LedgerBook
from dcdr.errors import ConflictError, MisconfiguredError, NotYetError
from dcdr.lease import Standing
from dcdr.marker import Role
from dcdr.model import (
    CommittedOffset,
    Cut,
    Gate,
    GroupPositions,
    LeaseRecord,
    LogEnds,
    Operation,
    OperationKind,
    TopicPartition,
)
from dcdr.plan import mirror_of
from dcdr.ports import EndpointView, Member, Scope

log = logging.getLogger("dcdr.finisher")

LOOK_SECONDS = 5.0

Estate = Callable[[], AbstractAsyncContextManager[Scope]]
"""Everything the scope consists of, connected for as long as it is looked at."""


class Finisher:
    """Finishes for `dc` what `keeper` shows to be left behind. `now`: aware, for the deadline."""

    def __init__(
        self, dc: str, keeper: Keeper, estate: Estate, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._dc, self._keeper, self._estate, self._now = dc, keeper, estate, now
        self._finished: Operation | None = None

    async def watch(self) -> None:
        """Look for ever."""
        await for_ever(self.look, LOOK_SECONDS, log, f"{self._dc}: what was left behind is not finished yet")

    async def look(self) -> None:
        """Finish what is left behind, while the lease is proven to be ours.

        Raises: DcdrError when it cannot be done now; looking again goes on.
        """
        record = self._keeper.known.record
        operation = None if record is None else intents.left_behind(record, self._dc, self._now())
        if operation in (None, self._finished) or self._keeper.marker().role is not Role.ACTIVE:
            return
        async with self._estate() as scope:
            await finish(scope, operation, self._dc)
        self._finished = operation
        log.warning("%s: let everybody in for operation %s, which nobody finished", self._dc, operation.id)


async def finish(scope: Scope, operation: Operation, dc: str) -> None:
    """Open `dc` for users, send them there, and let consumers in; what is done already is left as it is.

    Raises: SupersededError when the lease has gone on; NotYetError while a broker is not open.
    """
    member = scope.member(dc)
    standing = Standing.MOVED if dc == operation.target else Standing.REOPENED
    lease.require(await _record(scope), operation, standing)
    try:
        await member.fence.open_users()
        closed = [broker for broker, gate in (await member.fence.users_gates()).items() if gate is not Gate.OPEN]
        if closed:
            raise NotYetError(f"users of {member.name} are not let in by brokers {closed}")
        if standing is Standing.MOVED:
            wanted = EndpointView(operation.target, operation.epoch + 1)
            if await scope.endpoint.read() != wanted:
                await scope.endpoint.flip(operation.target, operation.epoch + 1)
        if (await member.fence.rules()).groups_denied:
            # After a failover the mirror's checkpoints are all that is known, and they stand there already.
            if standing is Standing.MOVED and operation.kind is OperationKind.SWITCHOVER:
                await _place(scope, member, operation)
            await member.fence.thaw_groups()
        if standing is Standing.REOPENED:
            await _mirror_again(scope, operation)
    finally:
        after = await _record(scope)
        if not lease.users_may_write(after, member.name):
            await member.fence.close_users()
            await member.fence.freeze_groups()
            lease.require(after, operation, standing)


async def _mirror_again(scope: Scope, operation: Operation) -> None:
    """The mirror towards the target as it was.

    Raises: NotYetError while the mirror's gate is not open: the tasks would fail for good.
    """
    mirror = mirror_of(scope, operation.source, operation.target)
    target = scope.member(operation.target)
    if scope.gated:
        gates = await target.fence.mirror_gates()
        closed = [broker for broker, gate in gates.items() if gate is not Gate.OPEN]
        if closed or not gates:
            raise NotYetError(f"the mirror is not let in by brokers {closed or 'that nobody knows'} of {target.name}")
    await settle.restart_mirror(target, mirror)
    await target.connect.resume(mirror.checkpoint_connector)


async def _place(scope: Scope, member: Member, operation: Operation) -> None:
    """Give each group a position by what is known on the target alone: exact for one that had read everything.

    One that lags keeps what the mirror's checkpoints say, or begins with the log: it reads again, and skips nothing.
    """
    book, digest = LedgerBook(), (await _record(scope)).ledger
    if digest is None:
        raise MisconfiguredError(f"the handover of operation {operation.id} names no ledger entry")
    cut = await book.read(scope, operation, book.reference(operation, digest))
    known = await book.positions(scope, operation)
    if known is None:
        raise MisconfiguredError(f"{member.name} does not hold where the groups of operation {operation.id} stood")
    there = await member.groups.committed(list(known.by_group))
    starts = await member.logs.ends([place for place, row in cut.by_partition.items() if row.target_end is not None])
    for group, positions in _positions(cut, known, there, starts):
        try:
            await member.groups.write(group, positions)
        except ConflictError as error:
            log.warning("%s: left where it is: %s", member.name, error)


def _positions(
    cut: Cut,
    known: GroupPositions,
    there: Mapping[str, Mapping[TopicPartition, CommittedOffset]],
    starts: Mapping[TopicPartition, LogEnds],
) -> Iterator[tuple[str, dict[TopicPartition, CommittedOffset]]]:
    """(group, where it resumes on the target). A position beyond the log's end says nothing; the group resets."""
    rows = cut.by_partition
    for group, positions in known.by_group.items():
        found = {}
        for place, position in positions.items():
            row = rows.get(place)
            if row is None or row.target_end is None or position.offset > row.end:
                continue
            theirs = there.get(group, {}).get(place)
            placed = (
                translate.at_end(row.target_end)
                if drain.read_all(row, position.offset)
                else translate.fallback(theirs.offset if theirs else None, starts[place].start, row.target_end)
            )
            found[place] = CommittedOffset(placed.offset, position.metadata)
        yield group, found


async def _record(scope: Scope) -> LeaseRecord:
    stored = await scope.lease.read(scope.name)
    if stored is None:
        raise NoRecordError(scope.name)
    return stored.record
