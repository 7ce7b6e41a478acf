"""A failover's own steps: take it up, shut the mirror out, write down where both sides part, open; or give it back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio import activity

from activities.mirror import bring_back
from activities.step import Steps, Stopwatch, ask, both, expel, read_lease, settle_groups, settle_users
from dcdr import fork as forks
from dcdr import lease, loss, tenure
from dcdr.book import LedgerBook
from dcdr.errors import ConflictError, DcdrError, InvalidRequestError, NotYetError, PlanRefusedError
from dcdr.intent import Ask, Intent
from dcdr.lease import Standing
from dcdr.model import (
    BY_ITSELF,
    EntryRef,
    FailoverRequest,
    ForkResult,
    GroupKind,
    GroupResult,
    GroupsResult,
    GroupVerdict,
    LeaseRecord,
    Operation,
    OperationKind,
    Phase,
    StepInput,
    StepResult,
    TakeoverResult,
    TopicPartition,
)
from dcdr.plan import carried, check_request, skipped
from dcdr.ports import Directory, Scope

log = logging.getLogger(__name__)

SOURCE_SECONDS = 5.0
"""For what the old side may still do for us; it is most likely gone."""
LOOK_SECONDS = 0.2
MARGIN_SECONDS = 10.0
"""On top of the lease's waiting time: for the taker's agent to look and to swap."""


class FailoverActivities(Steps):
    """Each step reads back as done where it is done already, so that a run that finds a failover begun goes through all
    of them."""

    def __init__(self, directory: Directory, book: LedgerBook) -> None:
        super().__init__(directory)
        self._book = book

    @activity.defn(name="failover.observe")
    async def observe(self, request: FailoverRequest) -> TakeoverResult:
        """What the lease says of a failover to `request.target`: to be carried out, to be asked for, or neither.

        Raises: InvalidRequestError for a target that can never be one.
        """
        watch = Stopwatch()
        scope = self._directory.scope(request.scope)
        check_request(scope, request.target)
        record = (await read_lease(scope)).record
        said: dict[str, Any] = {
            "holder": record.holder,
            "epoch": record.epoch,
            "acquired_at": record.acquired_at,
            "acquired_after_s": record.acquired_after_s,
            "acceptance_valid": scope.failover.acceptance_valid,
            "note": f"{record.holder} holds the lease, epoch {record.epoch}, {record.phase.value}",
        }
        source = next(name for name in scope.members if name != request.target)
        left = record.operation
        if left is not None and left.kind is OperationKind.FAILOVER:
            if left.target == request.target:
                return TakeoverResult(**watch.so_far(), **said, operation=left, adopted=True)
            return TakeoverResult(**watch.so_far(), **said, refused=_unfinished(left))
        operation = Operation(
            scope=scope.name,
            id=activity.info().workflow_run_id or "",
            epoch=record.epoch,
            turn=record.turn,
            source=source,
            target=request.target,
            kind=OperationKind.FAILOVER,
        )
        if record.holder == request.target:
            if record.phase is Phase.ACQUIRED:
                operation = operation.model_copy(update={"epoch": record.epoch - 1})
                return TakeoverResult(**watch.so_far(), **said, operation=operation)
            return TakeoverResult(**watch.so_far(), **said, refused=_active_already(record))
        if request.requested_by in BY_ITSELF:
            why = f"{record.holder} holds the lease of {scope.name}, epoch {record.epoch}: nothing was taken over"
            return TakeoverResult(**watch.so_far(), **said, refused=why)
        if record.behind == request.target:
            return TakeoverResult(
                **watch.so_far(),
                **said,
                refused=tenure.held_back(record, request.target, datetime.now(UTC), scope.failover.cool_down),
            )
        return TakeoverResult(**watch.so_far(), **said, ask=operation)

    @activity.defn(name="failover.ask")
    async def ask_takeover(self, step: StepInput) -> StepResult:
        """Ask the target's agent to take the lease over, and wait until it did. Without agents: take it over.

        Raises: PlanRefusedError with the reason: the source shows signs of life, or the target's agent does not take
        over in the time that it needs at most. Then the wish is withdrawn.
        """
        watch = Stopwatch()
        operation = step.operation
        scope = self._directory.scope(operation.scope)
        if scope.intents is None:
            stored = await read_lease(scope)
            record = stored.record
            if not _taken(record, operation):
                _as_asked(record, operation)
                at = datetime.now(UTC)
                record = (
                    await scope.lease.swap(stored, tenure.takeover(record, operation.target, record.epoch, at))
                ).record
            return StepResult(**watch.so_far(), note=f"{record.holder} took over, epoch {record.epoch}")
        try:
            record = await _until_taken(scope, operation)
        except PlanRefusedError:
            await _withdraw(scope, operation)
            raise
        return StepResult(**watch.so_far(), note=f"{record.holder}'s agent took over, epoch {record.epoch}")

    @activity.defn(name="failover.take_up")
    async def take_up(self, step: StepInput) -> StepResult:
        """Write into the lease that this operation goes on from the takeover, and until when others leave it alone."""
        watch = Stopwatch()
        scope = self._directory.scope(step.operation.scope)
        deadline = datetime.now(UTC) + scope.timing.operation_deadline
        record = await ask(scope, Intent(operation=step.operation, ask=Ask.TAKE_UP, deadline=deadline))
        return StepResult(**watch.so_far(), note=f"epoch {record.epoch}, deadline {record.deadline:%H:%M:%S} UTC")

    @activity.defn(name="failover.fence")
    async def fence(self, step: StepInput) -> StepResult:
        """Nothing can write to the target any more. Where the fence is ACLs, the source is closed as well if it
        answers: only cut off, it would stay open."""
        operation = step.operation

        async def correct(record: LeaseRecord) -> None:
            await _give_back(scope, operation, record)

        async with self.holding(operation, Standing.TAKEN, Standing.MOVED, correct=correct) as scope:
            watch = Stopwatch()
            if lease.standing((await read_lease(scope)).record, operation) is Standing.MOVED:
                return StepResult(**watch.so_far(), note=f"{operation.target} is open already")
            said = ""
            closing = None if scope.gated else asyncio.create_task(_best_effort(_close(scope, operation.source)))
            try:
                brokers = await forks.fence(scope, operation)
                if closing is not None:
                    trouble = await closing
                    said = f"; {operation.source} {'was not closed: ' + trouble if trouble else 'is closed as well'}"
            finally:
                if closing is not None:
                    closing.cancel()
            note = f"nobody can write on {brokers} brokers of {operation.target}{said}"
            return StepResult(**watch.so_far(), note=note, counts={"brokers": brokers})

    @activity.defn(name="failover.record")
    async def record(self, step: StepInput) -> ForkResult:
        """Write the Fork entry to the target's ledger topic, and judge its bound by the budget."""
        operation = step.operation
        async with self.holding(operation, Standing.TAKEN, Standing.MOVED, lasting=False) as scope:
            watch = Stopwatch()
            stored = (await read_lease(scope)).record
            if lease.standing(stored, operation) is Standing.MOVED and stored.ledger is not None:
                fork = await self._book.read_fork(scope, operation, stored.ledger)
                key = f"{operation.scope}/{operation.id}/fork/{stored.ledger}"
                entry, hold = EntryRef(key=key, digest=stored.ledger), ""
            else:
                entry, fork = await forks.record(scope, operation, self._book)
                hold = loss.hold(fork.bound, scope.failover, scope.gated)
            return ForkResult(
                **watch.so_far(),
                entry=entry,
                bound=fork.bound,
                hold=hold,
                note=f"{entry.digest[:12]} on {operation.target}. {loss.describe(fork.bound)}",
                counts={"partitions": len(fork.rows), "topics": len({row.topic for row in fork.rows})},
            )

    @activity.defn(name="failover.stands")
    async def stands(self, step: StepInput) -> StepResult:
        """Answers once the lease says something else than that this failover waits to be opened.

        Raises: NotYetError while it says just that; it is asked again.
        """
        watch = Stopwatch()
        record = (await read_lease(self._directory.scope(step.operation.scope))).record
        if lease.standing(record, step.operation) is Standing.TAKEN:
            raise NotYetError(f"the failover to {step.operation.target} waits for an answer")
        return StepResult(**watch.so_far(), note=_says(record))

    @activity.defn(name="failover.open_up")
    async def open_up(self, step: StepInput) -> StepResult:
        """Have the lease say that the target is open, naming the Fork entry: **the point of no return**."""
        watch = Stopwatch()
        if step.entry is None:
            raise InvalidRequestError("failover.open_up needs the entry that says where both sides part")
        scope = self._directory.scope(step.operation.scope)
        record = await ask(scope, Intent(operation=step.operation, ask=Ask.OPEN_UP, ledger=step.entry.digest))
        return StepResult(
            **watch.so_far(), note=f"{record.holder} is open, epoch {record.epoch}; {record.behind} is behind"
        )

    @activity.defn(name="failover.groups")
    async def groups(self, step: StepInput) -> GroupsResult:
        """Where the groups stand on the target: where the mirror's checkpoints put them, which is never too late.

        A position is at most as far as the group was, so it reads at most what lies between it and the log's end again.
        """
        async with self.holding(step.operation, Standing.MOVED, lasting=False) as scope:
            watch = Stopwatch()
            target = scope.member(step.operation.target)
            there = await target.groups.groups()
            ours = [g.name for g in carried(scope, there) if g.kind is GroupKind.CONSUMER]
            fork, committed = await asyncio.gather(
                self._book.read_fork(scope, step.operation, step.entry.digest if step.entry else ""),
                target.groups.committed(ours),
            )
            ends = {TopicPartition(row.topic, row.partition): row.target_end for row in fork.rows}
            found = []
            for name in ours:
                places = {place: held for place, held in committed.get(name, {}).items() if place in ends}
                again = sum(max(0, ends[place] - held.offset) for place, held in places.items())
                found.append(
                    GroupResult(
                        group=name,
                        verdict=GroupVerdict.APPROXIMATE,
                        partitions=len(places),
                        lag=again,
                        bound=again,
                        note="where the mirror's checkpoints put it" if places else "the mirror never placed it here",
                    )
                )
            note = f"{len(found)} groups, where the mirror's checkpoints put them"
            return GroupsResult(
                **watch.so_far(), groups=(*found, *skipped(scope, there)), note=note, counts={"groups": len(found)}
            )

    @activity.defn(name="failover.source")
    async def close_source(self, step: StepInput) -> StepResult:
        """Close the old side as far as it answers: users, groups, and the members it still has. Never fails."""
        async with self.holding(step.operation, Standing.MOVED) as scope:
            watch = Stopwatch()
            dc = step.operation.source
            trouble = await _best_effort(_close(scope, dc, members=True))
            note = f"{dc} does not answer: {trouble}" if trouble else f"users and groups of {dc} are closed"
            return StepResult(**watch.so_far(), note=note)

    @activity.defn(name="failover.restore")
    async def restore(self, step: StepInput) -> StepResult:
        """The lease was handed back before the target opened: the source is active, and the mirror runs again."""
        watch = Stopwatch()
        scope = self._directory.scope(step.operation.scope)
        record = (await read_lease(scope)).record
        if not lease.users_may_write(record, step.operation.source):
            return StepResult(**watch.so_far(), note=f"nothing to bring back: {_says(record)}")
        await _give_back(scope, step.operation, record)
        after = (await read_lease(scope)).record
        if (after.holder, after.epoch, after.phase) != (record.holder, record.epoch, record.phase):
            raise ConflictError(f"the lease moved on meanwhile: {_says(after)}; looking again")
        return StepResult(
            **watch.so_far(), note=f"it was handed back, and the mirror towards {step.operation.target} runs again"
        )


def _says(record: LeaseRecord) -> str:
    return (
        f"the lease names {record.holder}, epoch {record.epoch}, phase {record.phase.value}, "
        f"operation {record.op_id or 'none'}"
    )


def _unfinished(left: Operation) -> str:
    return (
        f"a failover to {left.target} ({left.id}) is unfinished. Finish it first: dcdr failover {left.scope} "
        f"--to {left.target}"
    )


def _active_already(record: LeaseRecord) -> str:
    if record.op_id is not None:
        return (
            f"{record.holder} holds the lease, and {record.op_id} towards it is unfinished: dcdr recover {record.scope}"
        )
    return f"{record.holder} is active already, epoch {record.epoch}"


def _taken(record: LeaseRecord, operation: Operation) -> bool:
    """Whether `operation.target` took over from the record that `operation` was planned from."""
    return record.holder == operation.target and record.epoch > operation.epoch and record.phase is Phase.ACQUIRED


def _as_asked(record: LeaseRecord, operation: Operation) -> None:
    """Raises: PlanRefusedError when the record is not the one that `operation` was planned from any more."""
    if (record.holder, record.epoch, record.turn) != (operation.source, operation.epoch, operation.turn):
        raise PlanRefusedError(f"the lease has moved meanwhile, so nothing was taken over: {_says(record)}. Look again")


async def _until_taken(scope: Scope, operation: Operation) -> LeaseRecord:
    """Raises: PlanRefusedError; ConflictError when another wish was written at the same time."""
    assert scope.intents is not None
    timing = scope.lease_timing
    first = (await read_lease(scope)).record
    if _taken(first, operation):
        return first
    _as_asked(first, operation)
    seconds = timing.wait * (1 + timing.clock_rate_error) + 2 * timing.renew + MARGIN_SECONDS
    deadline = datetime.now(UTC) + timedelta(seconds=seconds)
    wish = Intent(operation=operation, ask=Ask.TAKE_OVER, deadline=deadline)
    await scope.intents.write(scope.name, await scope.intents.read(scope.name), wish)
    give_up = time.monotonic() + seconds
    while True:
        record = (await read_lease(scope)).record
        if _taken(record, operation):
            return record
        _as_asked(record, operation)
        if record.seq > first.seq:
            raise PlanRefusedError(
                f"{operation.source} holds the lease and shows signs of life, so it is not taken over. If it works: "
                f"dcdr switchover {scope.name} --to {operation.target}; if it is to be given up, stop its agent first"
            )
        if time.monotonic() >= give_up:
            raise PlanRefusedError(
                f"{operation.target}'s agent did not take the lease over. Is it running, and fit? Its /readyz says why "
                "not, and so does its log"
            )
        await asyncio.sleep(LOOK_SECONDS)


async def _withdraw(scope: Scope, operation: Operation) -> None:
    """Replace the wish: until its deadline the agent would take over as soon as the source's last sign of life is old
    enough, and the person was told that nothing was done."""
    assert scope.intents is not None
    stored = await scope.intents.read(scope.name)
    if stored.intent is not None and stored.intent.ask is Ask.TAKE_OVER and stored.intent.operation == operation:
        # Finishing what never began changes nothing.
        await scope.intents.write(scope.name, stored, Intent(operation=operation, ask=Ask.FINISH))


async def _close(scope: Scope, dc: str, *, members: bool = False) -> None:
    fence = scope.member(dc).fence
    await asyncio.gather(fence.close_users(), fence.freeze_groups())
    if members:
        await expel(scope, dc)


async def _best_effort(work: Awaitable[None]) -> str:
    """What kept `work` from being done within `SOURCE_SECONDS`; "" when it was done."""
    try:
        async with asyncio.timeout(SOURCE_SECONDS):
            await work
    except TimeoutError:
        return f"no answer in {SOURCE_SECONDS:g} s"
    except DcdrError as error:
        return str(error)
    return ""


async def _give_back(scope: Scope, operation: Operation, record: LeaseRecord) -> None:
    """What a failover did, undone where the lease says that the source is active again: its gates, and the mirror."""
    if not lease.users_may_write(record, operation.source):
        return
    source, _ = both(scope, operation)
    if not scope.gated:
        await settle_users(source.fence, record, source.name)
        await settle_groups(source.fence, record, source.name)
    if record.mirrored:
        await bring_back(scope, operation)
