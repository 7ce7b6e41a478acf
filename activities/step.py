"""What the steps share: the guard against late attempts, bounded waiting, and the timing of an effect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from dcdr import intent as intents
from dcdr import lease
from dcdr.errors import NotYetError, SupersededError, TransientError, UnreachableError
from dcdr.intent import Intent
from dcdr.lease import Standing
from dcdr.model import GroupKind, LeaseRecord, Operation
from dcdr.plan import carried
from dcdr.ports import Directory, Member, ProduceFence, Scope
from dcdr.settle import FIRST_WAIT, LONGEST_WAIT
from dcdr.settle import connector_of as connector_of  # the steps' own words, wherever they live
from dcdr.settle import read_lease as read_lease
from dcdr.settle import until_gates as until_gates

Correction = Callable[[LeaseRecord], Awaitable[None]]

CORRECT_SECONDS, LONGEST_CORRECTION_WAIT = 10.0, 0.5

ASK_SECONDS = 8.0
"""For an agent to obey: it is woken by a watch, and looks by itself every renew period."""

EXPEL_SECONDS = 5.0
"""For a side that is not active to say who its members are and to remove them; it may be gone, and somebody waits."""


class Stopwatch:
    """Start and duration of an effect, for `StepResult`."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self._began = time.monotonic()

    def so_far(self) -> dict[str, Any]:
        return {"started": self.started, "took": timedelta(seconds=time.monotonic() - self._began)}


async def ask(scope: Scope, wish: Intent, seconds: float = ASK_SECONDS) -> LeaseRecord:
    """Have the lease changed as `wish` says: by the holder's agent where there are agents, else by our own hand.

    Nothing is left to do when obeying the wish once more would change nothing, so asking again is harmless.

    Raises: PlanRefusedError, SupersededError where the record's rules do not allow it; ConflictError, to be tried
    again; NotYetError when no agent obeyed in time.
    """
    stored = await read_lease(scope)
    wanted = intents.obey(stored.record, wish)
    if wanted == stored.record:
        return stored.record
    if scope.intents is None:
        return (await scope.lease.swap(stored, wanted)).record
    await scope.intents.write(scope.name, await scope.intents.read(scope.name), wish)
    give_up = time.monotonic() + seconds
    wait = FIRST_WAIT
    while True:
        await asyncio.sleep(wait)
        record = (await read_lease(scope)).record
        if intents.obey(record, wish) == record:
            return record
        if time.monotonic() >= give_up:
            raise NotYetError(
                f"{record.holder}'s agent did not {wish.ask.value} within {seconds:.0f} s: is it running, and fit? "
                "See its /readyz"
            )
        wait = min(wait * 1.5, LONGEST_WAIT)


class Steps:
    """Base of the activity classes: they are handed the directory of scopes and nothing else."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    @asynccontextmanager
    async def holding(
        self, operation: Operation, *allowed: Standing, correct: Correction | None = None, lasting: bool = True
    ) -> AsyncIterator[Scope]:
        """Yield the scope while the lease says that `operation` stands at one of `allowed`; look again afterwards.

        An attempt that outlived its operation (Temporal does not stop one that timed out) is refused before its
        effect; one that was overtaken during its effect runs `correct`, which sets things to what the record says,
        again when the record changed meanwhile. Nobody would try again after this attempt, so it does not give up soon.
        A step whose effect does not outlast it (`lasting=False`: it looks, or writes under a name of its own) is not
        looked after: Temporal throws a late answer away.

        Raises: SupersededError in both cases.
        """
        scope = self._directory.scope(operation.scope)
        lease.require((await read_lease(scope)).record, operation, *allowed)
        if not lasting:
            yield scope
            return
        try:
            yield scope
        finally:
            after = (await read_lease(scope)).record
            try:
                lease.require(after, operation, *allowed)
            except SupersededError:
                if correct is not None:
                    await _set_right(scope, after, correct)
                raise


async def _set_right(scope: Scope, record: LeaseRecord, correct: Correction) -> None:
    """Run `correct` until it did what the record says *now*. Raises: TransientError when that was not to be had."""
    give_up = time.monotonic() + CORRECT_SECONDS
    wait = FIRST_WAIT
    while True:
        try:
            await correct(record)
            now = (await read_lease(scope)).record
            if now == record:
                return
            record = now
        except TransientError:
            if time.monotonic() >= give_up:
                raise
            await asyncio.sleep(wait)
            wait = min(wait * 1.5, LONGEST_CORRECTION_WAIT)


async def settle_users(fence: ProduceFence, record: LeaseRecord, dc: str) -> None:
    """Set the users' gate of `dc` to what `record` says."""
    if lease.users_may_write(record, dc):
        await fence.open_users()
    else:
        await fence.close_users()


async def settle_groups(fence: ProduceFence, record: LeaseRecord, dc: str) -> None:
    """Set the groups' gate of `dc` to what `record` says."""
    if lease.groups_may_commit(record, dc):
        await fence.thaw_groups()
    else:
        await fence.freeze_groups()


async def expel(scope: Scope, dc: str) -> int:
    """Remove the members that groups we answer for still have on `dc`, where groups are frozen; how many they were.

    Raises: UnreachableError when that was not to be had within `EXPEL_SECONDS`: then some may still be there.
    """
    groups = scope.member(dc).groups
    try:
        async with asyncio.timeout(EXPEL_SECONDS):
            held = [g for g in carried(scope, await groups.groups()) if g.kind is GroupKind.CONSUMER and g.members]
            return await groups.expel([group.name for group in held])
    except TimeoutError as error:
        raise UnreachableError(f"{dc} did not remove its members within {EXPEL_SECONDS:g} s") from error


def both(scope: Scope, operation: Operation) -> tuple[Member, Member]:
    """The operation's source and target member."""
    return scope.member(operation.source), scope.member(operation.target)
