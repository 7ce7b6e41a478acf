"""LeaseStore: a record that changes by compare-and-swap, and by nothing else."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from dcdr.errors import ConflictError, MisconfiguredError
from dcdr.model import LeaseRecord, OperationKind, Pause, Phase, StoredLease
from tests.contract.control_world import LeaseWorld


def record(world: LeaseWorld, **more: object) -> LeaseRecord:
    return LeaseRecord.model_validate({"scope": world.scope, "holder": "dc-a", "epoch": 1, **more})


async def test_a_missing_record_is_none_and_never_created_by_looking(lease_world: LeaseWorld) -> None:
    assert await lease_world.store.read(lease_world.scope) is None
    assert await lease_world.store.read(lease_world.scope) is None


async def test_bootstrap_creates_the_record_once(lease_world: LeaseWorld) -> None:
    made = await lease_world.store.bootstrap(record(lease_world))
    assert await lease_world.store.read(lease_world.scope) == made
    with pytest.raises(ConflictError):
        await lease_world.store.bootstrap(record(lease_world, holder="dc-b", epoch=9))
    assert await lease_world.store.read(lease_world.scope) == made


async def test_every_field_survives_the_store(lease_world: LeaseWorld) -> None:
    full = record(
        lease_world,
        epoch=2**61,
        seq=7,
        turn=3,
        phase=Phase.DRAINING,
        op_id="op-1",
        op_source="dc-a",
        op_target="dc-b",
        deadline=datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC),
        ledger="ab" * 32,
        closed=True,
        mirrored=False,
        cuts=2,
        op_kind=OperationKind.FAILOVER,
        behind="dc-b",
        last_open="dc-a",
        acquired_at=datetime(2026, 11, 21, 11, 59, 0, 5, tzinfo=UTC),
        acquired_after_s=14.2,
        pause=Pause(until=datetime(2026, 11, 21, 13, tzinfo=UTC), maintenance=True, by="ada", reason="disks"),
        keeper="0123456789abcdef",
    )
    assert full.model_fields_set == set(LeaseRecord.model_fields), "a new field belongs here, too"
    await lease_world.store.bootstrap(full)
    found = await lease_world.store.read(lease_world.scope)
    assert found is not None
    assert found.record == full


async def test_a_swap_from_the_revision_that_stands_wins(lease_world: LeaseWorld) -> None:
    made = await lease_world.store.bootstrap(record(lease_world))
    moved = await lease_world.store.swap(made, record(lease_world, holder="dc-b", epoch=2, seq=1))
    assert moved.revision != made.revision
    assert await lease_world.store.read(lease_world.scope) == moved
    again = await lease_world.store.swap(moved, record(lease_world, holder="dc-b", epoch=2, seq=2))
    assert await lease_world.store.read(lease_world.scope) == again


async def test_a_swap_from_an_old_revision_changes_nothing(lease_world: LeaseWorld) -> None:
    made = await lease_world.store.bootstrap(record(lease_world))
    moved = await lease_world.store.swap(made, record(lease_world, holder="dc-b", epoch=2))
    with pytest.raises(ConflictError):
        await lease_world.store.swap(made, record(lease_world, seq=1))
    assert await lease_world.store.read(lease_world.scope) == moved


async def test_the_same_swap_twice_is_a_conflict_the_second_time(lease_world: LeaseWorld) -> None:
    """Not silently a success: a new call cannot know that the first one was its own."""
    made = await lease_world.store.bootstrap(record(lease_world))
    wanted = record(lease_world, seq=1)
    await lease_world.store.swap(made, wanted)
    with pytest.raises(ConflictError):
        await lease_world.store.swap(made, wanted)


async def test_a_swap_cannot_create_a_record(lease_world: LeaseWorld) -> None:
    with pytest.raises(ConflictError):
        await lease_world.store.swap(StoredLease(record(lease_world), 3), record(lease_world, seq=1))
    assert await lease_world.store.read(lease_world.scope) is None


async def test_of_many_swaps_from_one_revision_exactly_one_wins(lease_world: LeaseWorld) -> None:
    made = await lease_world.store.bootstrap(record(lease_world))
    swaps = (lease_world.store.swap(made, record(lease_world, seq=1, op_id=f"op-{n}")) for n in range(20))
    results = await asyncio.gather(*swaps, return_exceptions=True)
    won = [result for result in results if isinstance(result, StoredLease)]
    assert len(won) == 1
    assert sum(isinstance(result, ConflictError) for result in results) == 19
    assert await lease_world.store.read(lease_world.scope) == won[0]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("not json", id="no JSON"),
        pytest.param('{"scope": "SCOPE", "holder": "dc-a"}', id="a field is missing"),
        pytest.param('{"scope": "SCOPE", "holder": "dc-a", "epoch": 1, "quorum": 3}', id="a field we do not know"),
        pytest.param('{"scope": "SCOPE", "holder": "dc-a", "epoch": 0}', id="an epoch that cannot be"),
    ],
)
async def test_a_record_we_cannot_read_wholly_is_refused_and_shown(lease_world: LeaseWorld, body: str) -> None:
    lease_world.plant(body.replace("SCOPE", lease_world.scope))
    with pytest.raises(MisconfiguredError) as caught:
        await lease_world.store.read(lease_world.scope)
    assert body[:8] in str(caught.value)
