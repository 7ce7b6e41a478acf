"""The fixtures of the lease, endpoint and mirror-control contracts: each port twice, the stand-in and the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from adapters.connect import ConnectControl
from adapters.etcd import EtcdClient, EtcdIntentStore, EtcdLeaseStore
from adapters.kubernetes import KubernetesEndpoint
from dcdr.settings import ConnectSettings, KubernetesEndpointSettings
from tests.contract.control_world import (
    ADDRESSES,
    EndpointWorld,
    LeaseWorld,
    MemoryEndpointWorld,
    MemoryLeaseWorld,
    MemoryMirrorWorld,
    MirrorWorld,
    RealEndpointWorld,
    RealLeaseWorld,
    RealMirrorWorld,
)
from tests.contract.kafka_real import RealKafka
from tests.contract.servers import EtcdCluster, KubeApi, RealConnect, stopping

__all__ = [
    "endpoint_world",
    "etcd",
    "etcd_client",
    "kube",
    "kube_endpoint",
    "lease_world",
    "mirror_world",
    "real_connect",
]


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """Three members; a test that hurts one heals it before it ends."""
    cluster = EtcdCluster.start(tmp_path_factory.mktemp("etcd"), 3)
    with stopping(cluster):
        yield cluster


@pytest.fixture
async def etcd_client(etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(etcd.endpoints, timeout=timedelta(seconds=2))
    await client.warm()
    yield client
    await client.close()


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.real)])
async def lease_world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LeaseWorld]:
    """A store without a record of its scope."""
    if request.param == "memory":
        yield MemoryLeaseWorld(tmp_path / "world")
        return
    cluster: EtcdCluster = request.getfixturevalue("etcd")
    client = EtcdClient(cluster.endpoints, timeout=timedelta(seconds=2))
    made = RealLeaseWorld(cluster, EtcdLeaseStore(client, "/contract"), EtcdIntentStore(client, "/contract"))
    yield made
    await client.close()


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    api = KubeApi.start(tmp_path_factory.mktemp("kube"))
    with stopping(api):
        yield api


def endpoint_settings(kube: KubeApi, user: str = "operator") -> KubernetesEndpointSettings:
    return KubernetesEndpointSettings(api_server=kube.url, ca_file=kube.ca_file, token_file=kube.tokens[user])


@pytest.fixture
async def kube_endpoint(kube: KubeApi) -> AsyncIterator[KubernetesEndpoint]:
    """The adapter with the operator's rights, on a slice that leads to dc-a without an epoch."""
    kube.reset_slice(ADDRESSES["dc-a"][0].partition(":")[0])
    endpoint = KubernetesEndpoint(endpoint_settings(kube), ADDRESSES)
    yield endpoint
    await endpoint.close()


@pytest.fixture(params=["memory", pytest.param("kubernetes", marks=pytest.mark.real)])
async def endpoint_world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EndpointWorld]:
    """An endpoint that leads to dc-a under epoch 1, and a second adapter as another worker has it."""
    if request.param == "memory":
        yield MemoryEndpointWorld(tmp_path / "world")
        return
    kube: KubeApi = request.getfixturevalue("kube")
    kube.reset_slice("198.18.0.17", annotations={"dcdr.io/epoch": "1", "dcdr.io/active": "dc-a"})
    ours, other = (KubernetesEndpoint(endpoint_settings(kube), ADDRESSES) for _ in range(2))
    yield RealEndpointWorld(kube, ours, other)
    await ours.close()
    await other.close()


@pytest.fixture(scope="session")
def real_connect(real_kafka: RealKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealConnect]:
    connect = RealConnect.start(real_kafka, tmp_path_factory.mktemp("connect"))
    with stopping(connect):
        yield connect


@pytest.fixture(params=["memory", pytest.param("connect", marks=pytest.mark.real)])
async def mirror_world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MirrorWorld]:
    """A Connect cluster with one running source connector that has copied some records."""
    if request.param == "memory":
        yield MemoryMirrorWorld(tmp_path / "world")
        return
    connect: RealConnect = request.getfixturevalue("real_connect")
    control = ConnectControl("dc-a", ConnectSettings(url=connect.url, group_id=RealConnect.GROUP))
    made = RealMirrorWorld(connect, control)
    yield made
    made.close()
    await control.close()
