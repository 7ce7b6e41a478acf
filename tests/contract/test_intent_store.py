"""IntentStore: one wish a scope, replaced by compare-and-swap."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from dcdr.errors import ConflictError
from dcdr.intent import Ask, Intent, StoredIntent
from dcdr.model import Operation, Pause
from tests.contract.control_world import LeaseWorld


def wish(world: LeaseWorld, ask: Ask = Ask.BEGIN, name: str = "op-1") -> Intent:
    operation = Operation(scope=world.scope, id=name, epoch=1, turn=4, source="dc-a", target="dc-b")
    deadline = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
    pause = Pause(until=deadline, maintenance=True, by="ada", reason="disks")
    return Intent(
        operation=operation, ask=ask, deadline=deadline, ledger="ab" * 32, cuts=3, pause=pause, requested_by="sre"
    )


async def test_where_none_was_written_there_is_none(lease_world: LeaseWorld) -> None:
    assert await lease_world.intents.read(lease_world.scope) == StoredIntent(None, 0)


async def test_every_field_survives_the_store(lease_world: LeaseWorld) -> None:
    made = await lease_world.intents.write(lease_world.scope, StoredIntent(None, 0), wish(lease_world))
    assert wish(lease_world).model_fields_set == set(Intent.model_fields), "a new field belongs here, too"
    assert await lease_world.intents.read(lease_world.scope) == made == StoredIntent(wish(lease_world), made.revision)


async def test_a_wish_replaces_the_one_that_was_read(lease_world: LeaseWorld) -> None:
    first = await lease_world.intents.write(lease_world.scope, StoredIntent(None, 0), wish(lease_world))
    second = await lease_world.intents.write(lease_world.scope, first, wish(lease_world, Ask.HAND_OVER))
    assert second.revision != first.revision
    with pytest.raises(ConflictError):
        await lease_world.intents.write(lease_world.scope, first, wish(lease_world, Ask.REOPEN))
    with pytest.raises(ConflictError):
        await lease_world.intents.write(lease_world.scope, StoredIntent(None, 0), wish(lease_world, Ask.REOPEN))
    assert await lease_world.intents.read(lease_world.scope) == second


async def test_of_many_wishes_at_once_one_is_written(lease_world: LeaseWorld) -> None:
    nothing = StoredIntent(None, 0)
    writes = (
        lease_world.intents.write(lease_world.scope, nothing, wish(lease_world, name=f"op-{n}")) for n in range(8)
    )
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert sum(isinstance(result, StoredIntent) for result in results) == 1
    assert sum(isinstance(result, ConflictError) for result in results) == 7
