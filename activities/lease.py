"""The lease's transitions: compare-and-swap, and what a lost answer means."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from temporalio import activity

from activities.step import Steps, Stopwatch, ask, both, read_lease
from dcdr import drain, lease
from dcdr.book import LedgerBook
from dcdr.errors import DeadlineError, InvalidRequestError, SupersededError
from dcdr.intent import Ask, Intent
from dcdr.lease import Standing
from dcdr.model import (
    EntryRef,
    HandoverResult,
    LeaseRecord,
    LeftoverResult,
    Operation,
    ReopenResult,
    StepInput,
    StepResult,
)
from dcdr.ports import Directory, Scope


def _in_time(record: LeaseRecord) -> None:
    """Raises: DeadlineError past the operation's deadline: from then on anybody may undo it, and nobody hands over."""
    if record.deadline is not None and datetime.now(UTC) >= record.deadline:
        raise DeadlineError(
            f"operation {record.op_id} did not reach its handover by {record.deadline:%H:%M:%S} UTC, its deadline; "
            "it is undone. drain.operation_deadline sets how long it may take"
        )


class LeaseActivities(Steps):
    """`begin`, `hand_over` (the point of no return), `reopen`, `finish`."""

    def __init__(self, directory: Directory, book: LedgerBook) -> None:
        super().__init__(directory)
        self._book = book

    @activity.defn(name="lease.begin")
    async def begin(self, step: StepInput) -> StepResult:
        """Write the intent: operation id, target, deadline. No outage yet."""
        watch = Stopwatch()
        scope = self._directory.scope(step.operation.scope)
        deadline = datetime.now(UTC) + scope.timing.operation_deadline
        record = await ask(scope, Intent(operation=step.operation, ask=Ask.BEGIN, deadline=deadline))
        return StepResult(**watch.so_far(), note=f"epoch {record.epoch}, deadline {record.deadline:%H:%M:%S} UTC")

    @activity.defn(name="lease.hand_over")
    async def hand_over(self, step: StepInput) -> HandoverResult:
        """Look at both logs once more, then move the lease to the target, naming the ledger entry.

        The look and the swap are one step, so that nothing but the look's own time lies between them.
        """
        watch = Stopwatch()
        operation = step.operation
        if step.entry is None:
            raise InvalidRequestError("lease.hand_over needs the ledger entry it is to name")
        scope = self._directory.scope(operation.scope)
        record = (await read_lease(scope)).record
        if lease.hand_over(record, operation, step.entry.digest) != record:
            _in_time(record)
            # How often the cut was retaken, as of before the look: where another attempt saw a change meanwhile and
            # had it retaken, or the operation was undone, this attempt's wish is refused.
            cuts = record.cuts
            changed = await self._changes(scope, operation, step.entry)
            if changed:
                await ask(scope, Intent(operation=operation, ask=Ask.EXTEND, cuts=cuts))
                return HandoverResult(
                    **watch.so_far(), changed=tuple(changed[:20]), note=f"{len(changed)} changes after the cut"
                )
            wish = Intent(operation=operation, ask=Ask.HAND_OVER, ledger=step.entry.digest, cuts=cuts)
            record = await ask(scope, wish)
        return HandoverResult(**watch.so_far(), note=f"{record.holder} holds the lease, epoch {record.epoch}")

    async def _changes(self, scope: Scope, operation: Operation, entry: EntryRef) -> list[str]:
        """The last look, `quiet` after the first one: what differs from the ledger entry on either side."""
        ledger = await self._book.read(scope, operation, entry)
        quiet = scope.timing.quiet
        # Never longer than `quiet`: the cut may have been taken by a worker whose clock runs ahead of this one's.
        early = min(ledger.taken_at + quiet - datetime.now(UTC), quiet).total_seconds()
        if early > 0:
            await asyncio.sleep(early)
        source, target = both(scope, operation)
        places = list(ledger.by_partition)
        try:
            topics, ends, target_ends = await asyncio.gather(
                source.logs.topics(), source.logs.ends(places), target.logs.ends(places)
            )
        except InvalidRequestError:  # a topic is gone since the cut
            topics, there = await asyncio.gather(source.logs.topics(), target.logs.topics())
            ends, target_ends = await asyncio.gather(
                source.logs.ends([p for p in places if p.topic in topics]),
                target.logs.ends([p for p in places if p.topic in there]),
            )
        mirrored = drain.mirrored_topics(topics, source.reserved_topics | target.reserved_topics)
        return drain.changes(ledger, mirrored, ends) + drain.target_changes(ledger, target_ends)

    @activity.defn(name="lease.reopen")
    async def reopen(self, step: StepInput) -> ReopenResult:
        """Make the source the open side again, unless the handover has committed: the lease decides."""
        watch = Stopwatch()
        scope = self._directory.scope(step.operation.scope)
        found = lease.standing((await read_lease(scope)).record, step.operation)
        if found is Standing.NOT_BEGUN:
            return ReopenResult(**watch.so_far(), begun=False, note="the intent was never written")
        try:
            record = await ask(scope, Intent(operation=step.operation, ask=Ask.REOPEN))
        except SupersededError:
            stored = (await read_lease(scope)).record
            if lease.standing(stored, step.operation) is not Standing.MOVED:
                raise
            return ReopenResult(**watch.so_far(), moved=True, note=f"{stored.holder} holds the lease: only forward")
        return ReopenResult(**watch.so_far(), note=f"{record.holder} is open again, epoch {record.epoch}")

    @activity.defn(name="lease.finish")
    async def finish(self, step: StepInput) -> StepResult:
        """Clear the operation id, last of all."""
        watch = Stopwatch()
        scope = self._directory.scope(step.operation.scope)
        record = await ask(scope, Intent(operation=step.operation, ask=Ask.FINISH))
        return StepResult(**watch.so_far(), note=f"{record.holder}, epoch {record.epoch}, no operation")

    @activity.defn(name="lease.leftover")
    async def leftover(self, scope_name: str) -> LeftoverResult:
        """The operation the lease still names, if any: its run has ended, since ours holds the workflow id."""
        watch = Stopwatch()
        scope = self._directory.scope(scope_name)
        record = (await read_lease(scope)).record
        operation = record.operation
        if operation is None:
            return LeftoverResult(**watch.so_far())
        moved = lease.standing(record, operation) is Standing.MOVED
        entry = self._book.reference(operation, record.ledger) if moved and record.ledger else None
        return LeftoverResult(**watch.so_far(), operation=operation, moved=moved, deadline=record.deadline, entry=entry)
