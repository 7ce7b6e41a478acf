"""What an API server says that has just started."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from aiohttp import web

from adapters import kubernetes
from adapters.kubernetes import KubernetesEndpoint
from dcdr.errors import MisconfiguredError
from dcdr.settings import KubernetesEndpointSettings

ADDRESSES = {"dc-a": ("198.18.0.17:9092",), "dc-b": ("198.18.0.33:9092",)}
SLICE = {
    "metadata": {"resourceVersion": "7", "annotations": {"dcdr.io/epoch": "3"}},
    "endpoints": [{"addresses": ["198.18.0.33"]}],
}


@asynccontextmanager
async def forbidding(times: int) -> AsyncIterator[tuple[KubernetesEndpoint, list[int]]]:
    """An endpoint behind a server that answers 403 so many times, and the codes it has answered."""
    answered: list[int] = []

    async def answer(_: web.Request) -> web.Response:
        answered.append(403 if len(answered) < times else 200)
        body = SLICE if answered[-1] == 200 else {"message": 'User "operator" cannot get resource'}
        return web.json_response(body, status=answered[-1])

    app = web.Application()
    app.router.add_route("*", "/{anything:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    settings = KubernetesEndpointSettings(api_server=f"http://{host}:{port}", request_timeout=timedelta(seconds=5))
    endpoint = KubernetesEndpoint(settings, ADDRESSES)
    try:
        yield endpoint, answered
    finally:
        await endpoint.close()
        await runner.cleanup()


async def test_a_refusal_of_an_api_server_that_has_just_started_is_not_believed_at_once() -> None:
    async with forbidding(3) as (endpoint, answered):
        view = await endpoint.read()
    assert (view.dc, view.epoch) == ("dc-b", 3)
    assert answered == [403, 403, 403, 200]


async def test_a_refusal_that_stands_is_said_with_what_to_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "STARTING_S", 0.3)
    async with forbidding(1000) as (endpoint, answered):
        with pytest.raises(MisconfiguredError, match="Grant get and patch"):
            await endpoint.read()
    assert len(answered) > 1
