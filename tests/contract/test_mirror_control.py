"""MirrorControl: stopping, resuming, restarting and seeding a mirror, and what it copies afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import pytest

from dcdr.errors import ConflictError, MisconfiguredError, TransientError
from dcdr.model import Connector, ConnectorState, TopicPartition
from tests.contract.control_world import MirrorWorld
from tests.contract.kafka_real import eventually

T = TypeVar("T")

WIDE = "wide"
"""A topic with many partitions that need not exist: Connect stores offsets for any name."""
PATIENCE_S = 60.0
"""Connect starts and ends tasks in rounds of a second or two, several times that on a busy machine."""


async def surely(call: Callable[[], Awaitable[T]]) -> T:
    """What Temporal does in production: try again while Connect rebalances, or a busy machine lets it time out."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await call()
        except TransientError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


async def the(world: MirrorWorld) -> Connector:
    return (await surely(world.control.connectors))[world.connector]


async def running(world: MirrorWorld) -> None:
    await eventually(lambda: _running(world), PATIENCE_S)


async def _running(world: MirrorWorld) -> bool:
    """A connector that was just created is left out of the list until it has a status."""
    found = (await surely(world.control.connectors)).get(world.connector)
    return found is not None and found.running


async def stopped(world: MirrorWorld) -> None:
    await surely(lambda: world.control.stop(world.connector))
    await eventually(lambda: _stopped(world), PATIENCE_S)


async def _stopped(world: MirrorWorld) -> bool:
    return (await the(world)).stopped


async def copied(world: MirrorWorld, values: list[str]) -> None:
    """The mirror has written exactly these."""

    async def check() -> bool:
        await surely(lambda: world.control.offsets(world.connector))  # on the stand-in, time passes by calls
        return len(world.copied()) >= len(values)

    await eventually(check, PATIENCE_S)
    assert world.copied() == values


async def stored(world: MirrorWorld) -> dict[TopicPartition, int]:
    """Of the topics these tests use; the stand-in's mirror has others, too."""
    found = await surely(lambda: world.control.offsets(world.connector))
    return {place: offset for place, offset in found.items() if place.topic in (world.topic, WIDE)}


async def test_connectors_tell_state_tasks_and_configuration(mirror_world: MirrorWorld) -> None:
    await running(mirror_world)
    found = await the(mirror_world)
    assert found.name == mirror_world.connector
    assert found.state is ConnectorState.RUNNING
    assert found.config["source.cluster.alias"] == mirror_world.alias
    assert not [key for key in found.config if "jaas" in key]


async def test_stop_ends_the_tasks_and_resume_starts_them(mirror_world: MirrorWorld) -> None:
    await running(mirror_world)
    await stopped(mirror_world)
    assert not (await the(mirror_world)).running
    await surely(lambda: mirror_world.control.resume(mirror_world.connector))
    await running(mirror_world)


async def test_stopping_and_resuming_twice_is_like_once(mirror_world: MirrorWorld) -> None:
    await running(mirror_world)
    await stopped(mirror_world)
    await stopped(mirror_world)
    for _ in range(2):
        await surely(lambda: mirror_world.control.resume(mirror_world.connector))
    await running(mirror_world)


async def test_stored_offsets_are_of_the_last_copied_record(mirror_world: MirrorWorld) -> None:
    await running(mirror_world)
    place = TopicPartition(mirror_world.topic, 0)
    assert await stored(mirror_world) == {}
    mirror_world.produce(["a", "b", "c"])
    await copied(mirror_world, ["a", "b", "c"])

    async def names_the_last() -> bool:
        return (await stored(mirror_world)).get(place) == 2

    await eventually(names_the_last, PATIENCE_S)
    assert TopicPartition(mirror_world.topic, 1) not in await stored(mirror_world)


async def test_a_seeded_mirror_copies_only_what_follows(mirror_world: MirrorWorld) -> None:
    await running(mirror_world)
    await stopped(mirror_world)
    mirror_world.produce(["old-1", "old-2", "old-3"])
    place = TopicPartition(mirror_world.topic, 0)
    await surely(lambda: mirror_world.control.seed(mirror_world.connector, {place: 2}, source=mirror_world.alias))
    assert await stored(mirror_world) == {place: 2}
    mirror_world.produce(["new"])
    await surely(lambda: mirror_world.control.resume(mirror_world.connector))
    await copied(mirror_world, ["new"])


async def test_a_mirror_without_offsets_copies_everything_again(mirror_world: MirrorWorld) -> None:
    await running(mirror_world)
    mirror_world.produce(["a", "b"])
    await copied(mirror_world, ["a", "b"])
    await stopped(mirror_world)
    place = TopicPartition(mirror_world.topic, 0)
    assert place in await stored(mirror_world)
    await surely(lambda: mirror_world.control.seed(mirror_world.connector, {place: None}, source=mirror_world.alias))
    assert await stored(mirror_world) == {}
    await surely(lambda: mirror_world.control.resume(mirror_world.connector))
    await copied(mirror_world, ["a", "b", "a", "b"])


async def test_seeding_twice_is_like_once_and_leaves_other_partitions_alone(mirror_world: MirrorWorld) -> None:
    await running(mirror_world)
    await stopped(mirror_world)
    first, second = (TopicPartition(mirror_world.topic, number) for number in range(2))
    await surely(
        lambda: mirror_world.control.seed(mirror_world.connector, {first: 4, second: 5}, source=mirror_world.alias)
    )
    for _ in range(2):
        await surely(lambda: mirror_world.control.seed(mirror_world.connector, {first: 7}, source=mirror_world.alias))
    assert await stored(mirror_world) == {first: 7, second: 5}


async def test_more_offsets_than_one_request_takes(mirror_world: MirrorWorld) -> None:
    await running(mirror_world)
    await stopped(mirror_world)
    seeds: dict[TopicPartition, int | None] = {TopicPartition(WIDE, number): number for number in range(1100)}
    await surely(lambda: mirror_world.control.seed(mirror_world.connector, seeds, source=mirror_world.alias))
    assert await stored(mirror_world) == seeds
    await surely(
        lambda: mirror_world.control.seed(mirror_world.connector, dict.fromkeys(seeds), source=mirror_world.alias)
    )
    assert await stored(mirror_world) == {}


async def test_a_running_mirror_cannot_be_seeded(mirror_world: MirrorWorld) -> None:
    await running(mirror_world)
    place = TopicPartition(mirror_world.topic, 0)
    with pytest.raises(ConflictError, match="STOPPED"):
        await mirror_world.control.seed(mirror_world.connector, {place: 2}, source=mirror_world.alias)
    assert place not in await stored(mirror_world)


async def test_a_seed_for_another_alias_is_refused(mirror_world: MirrorWorld) -> None:
    """Connect would take it, and start from the beginning."""
    await running(mirror_world)
    await stopped(mirror_world)
    with pytest.raises(MisconfiguredError, match="dc-x"):
        await mirror_world.control.seed(
            mirror_world.connector, {TopicPartition(mirror_world.topic, 0): 2}, source="dc-x"
        )
    assert await stored(mirror_world) == {}


async def test_a_negative_offset_is_refused(mirror_world: MirrorWorld) -> None:
    await running(mirror_world)
    await stopped(mirror_world)
    with pytest.raises(MisconfiguredError, match="negative"):
        await mirror_world.control.seed(
            mirror_world.connector, {TopicPartition(mirror_world.topic, 0): -1}, source=mirror_world.alias
        )


@pytest.mark.parametrize("only_failed", [True, False])
async def test_a_restart_leaves_a_running_mirror_running(mirror_world: MirrorWorld, only_failed: bool) -> None:
    await running(mirror_world)
    await surely(lambda: mirror_world.control.restart(mirror_world.connector, only_failed=only_failed))
    await running(mirror_world)
    mirror_world.produce(["after"])
    await copied(mirror_world, ["after"])


async def test_a_restart_leaves_a_stopped_mirror_stopped(mirror_world: MirrorWorld) -> None:
    await running(mirror_world)
    await stopped(mirror_world)
    await surely(lambda: mirror_world.control.restart(mirror_world.connector, only_failed=False))
    await surely(lambda: mirror_world.control.reload(mirror_world.connector))
    assert (await the(mirror_world)).stopped


async def test_a_reload_leaves_a_running_mirror_running(mirror_world: MirrorWorld) -> None:
    await running(mirror_world)
    await surely(lambda: mirror_world.control.reload(mirror_world.connector))
    await running(mirror_world)
    mirror_world.produce(["after"])
    await copied(mirror_world, ["after"])


async def test_an_unknown_connector_is_named(mirror_world: MirrorWorld) -> None:
    control = mirror_world.control
    for call in (
        partial(control.stop, "nobody"),
        partial(control.resume, "nobody"),
        partial(control.restart, "nobody", only_failed=True),
        partial(control.restart, "nobody", only_failed=False),
        partial(control.reload, "nobody"),
        partial(control.offsets, "nobody"),
        partial(control.seed, "nobody", {}, source=mirror_world.alias),
    ):
        with pytest.raises(MisconfiguredError, match="nobody"):
            await call()
