"""A failover without a workflow: Temporal is away, and the settings say after how long the agent opens by itself.

The same order and the same budget as the workflow's, and the same door: the agent writes its wishes beside the lease
and lets its own keeper obey them, so that whatever the record's rules refuse is refused here too. It stops at the
flip; the operation stays in the record, and the workflow that comes back finds it there and goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from agent.finisher import Estate, finish
from agent.keeper import Keeper
from agent.looking import for_ever
from dcdr import fork, lease, loss, settle
from dcdr import intent as intents
from dcdr.book import LedgerBook
from dcdr.errors import DcdrError, MisconfiguredError, NotYetError
from dcdr.intent import GRACE, Ask, Intent
from dcdr.lease import Standing
from dcdr.model import LeaseRecord, Operation, OperationKind, Phase
from dcdr.ports import Scope

log = logging.getLogger("dcdr.failover")

LOOK_SECONDS = 1.0
ASK_SECONDS = 8.0


class LoneFailover:
    """Opens `dc` when `keeper` took the lease over and no workflow came within `after` (None: only what a workflow
    opened already and did not finish). `other`: the scope's other data center. `now`: aware."""

    def __init__(
        self,
        dc: str,
        other: str,
        keeper: Keeper,
        estate: Estate,
        after: timedelta | None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._dc, self._other, self._keeper, self._estate, self._after, self._now = (
            dc,
            other,
            keeper,
            estate,
            after,
            now,
        )
        self._first_seen: tuple[int, datetime] | None = None
        self._over: Operation | None = None
        self.held = ""
        """Why the last one that was begun here is not open: for people."""

    async def watch(self) -> None:
        """Look for ever."""
        await for_ever(self.look, LOOK_SECONDS, log, f"{self._dc}: the failover is not done yet")

    async def look(self) -> None:
        """Go through the failover while the lease is proven to be ours and nobody else does.

        Raises: DcdrError when it cannot be done now; looking again goes on from where it stands.
        """
        record = self._keeper.known.record
        operation = None if record is None else self._due(record)
        if record is None or operation is None or operation == self._over or self._keeper.marker().valid_s <= 0:
            return
        async with self._estate() as scope:
            if lease.standing(record, operation) is not Standing.MOVED:
                log.warning("%s: no workflow has come; going on with failover %s alone", self._dc, operation.id)
                self.held = await self._open(scope, operation)
                if self.held:
                    self._over = operation
                    log.error("%s: failover %s holds: %s", self._dc, operation.id, self.held)
                    return
            await self._let_in(scope, operation)
        self._over = operation
        log.warning("%s: failover %s is open, without a workflow", self._dc, operation.id)

    def _due(self, record: LeaseRecord) -> Operation | None:
        """The failover that is ours to do now, the one in the record or a new one; None: nothing, or not yet."""
        if record.holder != self._dc:
            self._first_seen = None
            return None
        own = Operation(
            scope=record.scope,
            id=f"agent-{self._dc}-{record.epoch}-{record.turn}",
            epoch=record.epoch - 1,
            turn=record.turn,
            source=self._other,
            target=self._dc,
            kind=OperationKind.FAILOVER,
        )
        found, now = record.operation, self._now()
        if found is not None and found.kind is not OperationKind.FAILOVER:
            return None
        abandoned = found is not None and (
            found.id == own.id or (record.deadline is not None and now >= record.deadline + GRACE)
        )
        if record.phase is not Phase.ACQUIRED:
            return found if abandoned else None
        if self._after is None:
            return None
        if self._first_seen is None or self._first_seen[0] != record.epoch:
            self._first_seen = (record.epoch, now)
        taken = record.acquired_at or self._first_seen[1]
        if now < taken + self._after:
            return None
        if found is None:
            return own
        return found if abandoned else None

    async def _open(self, scope: Scope, operation: Operation) -> str:
        """From the takeover to the open record. Returns: why it holds, with the numbers; "" when it is open."""
        await self._ask(
            scope,
            Intent(
                operation=operation,
                ask=Ask.TAKE_UP,
                deadline=self._now() + scope.timing.operation_deadline,
                requested_by=f"agent of {self._dc}",
            ),
        )
        await fork.fence(scope, operation)
        entry, written = await fork.record(scope, operation, LedgerBook())
        if why := loss.hold(written.bound, scope.failover, scope.gated):
            return why
        log.warning("%s: %s", self._dc, loss.describe(written.bound))
        await self._ask(
            scope,
            Intent(operation=operation, ask=Ask.OPEN_UP, ledger=entry.digest, requested_by=f"agent of {self._dc}"),
        )
        return ""

    async def _let_in(self, scope: Scope, operation: Operation) -> None:
        """Users, the endpoint, consumers; the brokers have just been told, so they are given some seconds."""
        give_up, wait = time.monotonic() + settle.CONFIRM_SECONDS, settle.FIRST_WAIT
        while True:
            try:
                return await finish(scope, operation, self._dc)
            except NotYetError:
                if time.monotonic() >= give_up:
                    raise
            await asyncio.sleep(wait)
            wait = min(wait * 1.5, settle.LONGEST_WAIT)

    async def _ask(self, scope: Scope, wish: Intent) -> None:
        """Have our own keeper obey `wish`. A wish of somebody else that it has yet to obey goes first.

        Raises: NotYetError when it did not in time; PlanRefusedError, SupersededError by the record's rules.
        """
        if scope.intents is None:
            raise MisconfiguredError(f"{scope.name} has no intents: every member needs an agent in the settings")
        record = (await settle.read_lease(scope)).record
        if intents.obey(record, wish) == record:
            return
        stored = await scope.intents.read(scope.name)
        if stored.intent is not None and _pending(record, stored.intent):
            raise NotYetError(f"somebody asks to {stored.intent.ask.value}: that goes first")
        await scope.intents.write(scope.name, stored, wish)
        give_up, wait = time.monotonic() + ASK_SECONDS, settle.FIRST_WAIT
        while True:
            self._keeper.wished()
            await asyncio.sleep(wait)
            record = (await settle.read_lease(scope)).record
            if intents.obey(record, wish) == record:
                return
            if time.monotonic() >= give_up:
                raise NotYetError(f"the keeper did not {wish.ask.value} within {ASK_SECONDS:.0f} s: see its log")
            wait = min(wait * 1.5, settle.LONGEST_WAIT)


def _pending(record: LeaseRecord, wish: Intent) -> bool:
    try:
        return intents.obey(record, wish) != record
    except (DcdrError, ValueError):
        return False
