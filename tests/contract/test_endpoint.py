"""Endpoint: it leads where the latest epoch says, whoever comes late."""

from __future__ import annotations

import asyncio

import pytest

from dcdr.errors import ConflictError, InvalidRequestError, SupersededError
from dcdr.ports import EndpointView
from tests.contract.control_world import EndpointWorld


async def test_it_says_where_it_leads(endpoint_world: EndpointWorld) -> None:
    assert await endpoint_world.endpoint.read() == EndpointView("dc-a", 1)


async def test_a_flip_is_seen_by_everybody(endpoint_world: EndpointWorld) -> None:
    await endpoint_world.endpoint.flip("dc-b", 2)
    assert await endpoint_world.endpoint.read() == EndpointView("dc-b", 2)
    assert await endpoint_world.other.read() == EndpointView("dc-b", 2)


async def test_flipping_twice_is_like_once(endpoint_world: EndpointWorld) -> None:
    await endpoint_world.endpoint.flip("dc-b", 2)
    await endpoint_world.endpoint.flip("dc-b", 2)
    await endpoint_world.other.flip("dc-b", 2)
    assert await endpoint_world.endpoint.read() == EndpointView("dc-b", 2)


async def test_there_and_back(endpoint_world: EndpointWorld) -> None:
    for epoch, dc in enumerate(("dc-b", "dc-a", "dc-b", "dc-a"), start=2):
        await endpoint_world.endpoint.flip(dc, epoch)
        assert await endpoint_world.other.read() == EndpointView(dc, epoch)


async def test_an_earlier_epoch_is_refused_and_changes_nothing(endpoint_world: EndpointWorld) -> None:
    await endpoint_world.endpoint.flip("dc-b", 5)
    with pytest.raises(SupersededError):
        await endpoint_world.endpoint.flip("dc-a", 4)
    assert await endpoint_world.endpoint.read() == EndpointView("dc-b", 5)


async def test_a_late_writer_that_looked_long_ago_is_refused(endpoint_world: EndpointWorld) -> None:
    """Its last look says epoch 1: what refuses it must be the endpoint itself."""
    assert await endpoint_world.other.read() == EndpointView("dc-a", 1)
    await endpoint_world.endpoint.flip("dc-b", 3)
    with pytest.raises(SupersededError):
        await endpoint_world.other.flip("dc-a", 2)
    assert await endpoint_world.endpoint.read() == EndpointView("dc-b", 3)


async def test_of_two_racing_flips_the_later_epoch_stands(endpoint_world: EndpointWorld) -> None:
    await asyncio.gather(endpoint_world.endpoint.read(), endpoint_world.other.read())
    results = await asyncio.gather(
        endpoint_world.endpoint.flip("dc-b", 7), endpoint_world.other.flip("dc-a", 6), return_exceptions=True
    )
    assert results[0] is None
    assert results[1] is None or isinstance(results[1], SupersededError | ConflictError)
    assert await endpoint_world.endpoint.read() == EndpointView("dc-b", 7)


async def test_what_leads_to_no_member_is_said_and_repaired_by_a_flip(endpoint_world: EndpointWorld) -> None:
    endpoint_world.lead_nowhere()
    assert await endpoint_world.endpoint.read() == EndpointView(None, 1)
    await endpoint_world.endpoint.flip("dc-a", 1)
    assert await endpoint_world.endpoint.read() == EndpointView("dc-a", 1)


async def test_an_unknown_data_center_is_refused(endpoint_world: EndpointWorld) -> None:
    with pytest.raises(InvalidRequestError):
        await endpoint_world.endpoint.flip("dc-x", 9)
    assert await endpoint_world.endpoint.read() == EndpointView("dc-a", 1)
