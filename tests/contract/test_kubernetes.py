"""The EndpointSlice: what stands in it after a flip, and what the API server or a person may do to it."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from adapters.kubernetes import KubernetesEndpoint
from dcdr.errors import MisconfiguredError, UnreachableError
from dcdr.ports import EndpointView
from dcdr.settings import KubernetesEndpointSettings
from tests.contract.control_fixtures import endpoint_settings
from tests.contract.control_world import ADDRESSES
from tests.contract.servers import KubeApi

pytestmark = pytest.mark.real


async def test_a_flip_writes_addresses_port_and_epoch_and_leaves_the_rest(
    kube: KubeApi, kube_endpoint: KubernetesEndpoint
) -> None:
    kube.reset_slice("198.18.0.17", port=1234, annotations={"team": "payments"})
    before = kube.slice()
    await kube_endpoint.flip("dc-b", 2)
    after = kube.slice()
    assert [one["addresses"] for one in after["endpoints"]] == [["198.18.0.33"], ["198.18.0.34"]]
    assert all(one["conditions"]["ready"] for one in after["endpoints"])
    assert after["ports"] == [{"name": "kafka", "port": 9092, "protocol": "TCP"}]
    assert after["metadata"]["annotations"] == {"team": "payments", "dcdr.io/epoch": "2", "dcdr.io/active": "dc-b"}
    assert after["metadata"]["labels"] == before["metadata"]["labels"]


async def test_a_slice_without_an_epoch_is_of_epoch_0(kube_endpoint: KubernetesEndpoint) -> None:
    assert await kube_endpoint.read() == EndpointView("dc-a", 0)
    await kube_endpoint.flip("dc-b", 1)
    assert await kube_endpoint.read() == EndpointView("dc-b", 1)


async def test_some_of_a_members_addresses_are_not_the_member(kube: KubeApi, kube_endpoint: KubernetesEndpoint) -> None:
    kube.reset_slice("198.18.0.33")
    assert (await kube_endpoint.read()).dc is None


async def test_a_foreign_change_between_look_and_flip_is_no_obstacle(
    kube: KubeApi, kube_endpoint: KubernetesEndpoint
) -> None:
    await kube_endpoint.read()
    patch = {"metadata": {"labels": {"touched": "yes"}}}
    headers = {"Content-Type": "application/merge-patch+json"}
    kube.request("PATCH", kube.slice_path, json=patch, headers=headers).raise_for_status()
    await kube_endpoint.flip("dc-b", 2)
    assert kube.slice()["metadata"]["labels"]["touched"] == "yes"
    assert await kube_endpoint.read() == EndpointView("dc-b", 2)


async def test_an_epoch_that_is_no_number_is_said(kube: KubeApi, kube_endpoint: KubernetesEndpoint) -> None:
    kube.reset_slice("198.18.0.17", annotations={"dcdr.io/epoch": "two"})
    with pytest.raises(MisconfiguredError, match="'two'"):
        await kube_endpoint.flip("dc-b", 2)


async def test_a_missing_slice_is_said(kube: KubeApi, kube_endpoint: KubernetesEndpoint) -> None:
    kube.request("DELETE", kube.slice_path).raise_for_status()
    with pytest.raises(MisconfiguredError, match="Create the Service"):
        await kube_endpoint.read()
    with pytest.raises(MisconfiguredError, match="kafka-dcdr"):
        await kube_endpoint.flip("dc-b", 2)


async def test_missing_rights_are_said(kube: KubeApi, kube_endpoint: KubernetesEndpoint) -> None:
    endpoint = KubernetesEndpoint(endpoint_settings(kube, "nobody"), ADDRESSES)
    with pytest.raises(MisconfiguredError, match="Grant get and patch"):
        await endpoint.read()
    await endpoint.close()


async def test_a_rotated_token_is_used_at_once(kube: KubeApi, kube_endpoint: KubernetesEndpoint) -> None:
    settings = endpoint_settings(kube)
    token = kube.tokens["root"].with_name("rotating.token")
    token.write_text("stale\n")
    endpoint = KubernetesEndpoint(settings.model_copy(update={"token_file": token}), ADDRESSES)
    with pytest.raises(MisconfiguredError, match="401"):
        await endpoint.read()
    token.write_text(kube.tokens["operator"].read_text())
    assert (await endpoint.read()).dc == "dc-a"
    await endpoint.close()


async def test_a_frozen_api_server_costs_the_timeout_and_no_more(
    kube: KubeApi, kube_endpoint: KubernetesEndpoint
) -> None:
    settings = endpoint_settings(kube).model_copy(update={"request_timeout": timedelta(seconds=0.5)})
    endpoint = KubernetesEndpoint(settings, ADDRESSES)
    await endpoint.warm()
    kube.server.freeze()
    try:
        start = time.monotonic()
        with pytest.raises(UnreachableError, match="unknown"):
            await endpoint.flip("dc-b", 2)
        assert time.monotonic() - start < 2
    finally:
        kube.server.thaw()
    await endpoint.flip("dc-b", 2)
    assert await endpoint.read() == EndpointView("dc-b", 2)
    await endpoint.close()


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        pytest.param(("kafka.example:9092",), "IPv4", id="a name"),
        pytest.param(("127.0.0.1:9092",), "refuses", id="loopback"),
        pytest.param(("198.18.0.1:9092", "198.18.0.2:9093"), "several ports", id="two ports"),
    ],
)
def test_addresses_that_no_slice_holds_are_refused_before_anything(addresses: tuple[str, ...], words: str) -> None:
    settings = KubernetesEndpointSettings(api_server="https://127.0.0.1:1")
    with pytest.raises(MisconfiguredError, match=words):
        KubernetesEndpoint(settings, {"dc-a": addresses})
