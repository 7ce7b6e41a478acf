"""What the lease, endpoint and mirror contracts do from outside: the stand-in and the real servers, alike."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from adapters.etcd import EtcdIntentStore, EtcdLeaseStore
from adapters.memory import MemoryWorld, Produced
from adapters.memory.ports import MemoryIntentStore
from adapters.memory.store import WorldFile
from dcdr import ports
from tests.contract.servers import EtcdCluster, KubeApi, RealConnect

ADDRESSES = {"dc-a": ("198.18.0.17:9092",), "dc-b": ("198.18.0.33:9092", "198.18.0.34:9092")}
_names = itertools.count(1)


class LeaseWorld(Protocol):
    """A lease store without a record of `scope`, and no intent beside it."""

    scope: str
    store: ports.LeaseStore
    intents: ports.IntentStore

    def plant(self, body: str) -> None:
        """Put any text where the record belongs."""


class MemoryLeaseWorld:
    def __init__(self, path: Path) -> None:
        self.scope = "lab"
        self.world = MemoryWorld.create(path, lease=False)
        self.store: ports.LeaseStore = self.world.directory().scope("lab").lease
        self.intents: ports.IntentStore = MemoryIntentStore(WorldFile(path))

    def plant(self, body: str) -> None:
        self.world.set_lease(body)


class RealLeaseWorld:
    def __init__(self, etcd: EtcdCluster, store: EtcdLeaseStore, intents: EtcdIntentStore) -> None:
        self.scope = f"scope-{next(_names)}"
        self.etcd = etcd
        self.store: ports.LeaseStore = store
        self.intents: ports.IntentStore = intents

    def plant(self, body: str) -> None:
        key, value = (base64.b64encode(text.encode()).decode() for text in (f"/contract/{self.scope}/lease", body))
        self.etcd.gateway("kv/put", {"key": key, "value": value})


class EndpointWorld(Protocol):
    """An endpoint that leads to dc-a under epoch 1. `other` is the same one as another process sees it."""

    endpoint: ports.Endpoint
    other: ports.Endpoint

    def lead_nowhere(self) -> None:
        """Somebody edits it by hand, so that it leads to no member."""


class MemoryEndpointWorld:
    def __init__(self, path: Path) -> None:
        self.world = MemoryWorld.create(path)
        self.endpoint: ports.Endpoint = self.world.directory().scope("lab").endpoint
        self.other: ports.Endpoint = MemoryWorld.open(path).directory().scope("lab").endpoint

    def lead_nowhere(self) -> None:
        self.world.set_endpoint(None, self.world.endpoint().epoch)


class RealEndpointWorld:
    def __init__(self, kube: KubeApi, ours: ports.Endpoint, other: ports.Endpoint) -> None:
        self.kube, self.endpoint, self.other = kube, ours, other

    def lead_nowhere(self) -> None:
        answer = self.kube.request(
            "PATCH",
            self.kube.slice_path,
            json={"endpoints": [{"addresses": ["198.18.9.9"]}]},
            headers={"Content-Type": "application/merge-patch+json"},
        )
        answer.raise_for_status()


class MirrorWorld(Protocol):
    """A Connect cluster with `connector`, a running source connector that copies `topic` from `alias`."""

    control: ports.MirrorControl
    connector: str
    alias: str
    topic: str

    def produce(self, values: Sequence[str]) -> None:
        """Write to partition 0 of `topic` on the source."""

    def copied(self) -> list[str]:
        """What the mirror has written for partition 0, oldest first."""


class MemoryMirrorWorld:
    def __init__(self, path: Path) -> None:
        self.world = MemoryWorld.create(path, topics={"mirrored": 2}, records=0, open_transaction=False)
        self.control: ports.MirrorControl = self.world.directory().scope("lab").members["dc-b"].connect
        self.connector, self.alias, self.topic = "mm2-source.dc-a-to-dc-b", "dc-a", "mirrored"

    def produce(self, values: Sequence[str]) -> None:
        assert self.world.produce("dc-a", self.topic, 0, values) is Produced.ACKED

    def copied(self) -> list[str]:
        return self.world.values("dc-b", self.topic, 0)


class RealMirrorWorld:
    def __init__(self, connect: RealConnect, control: ports.MirrorControl) -> None:
        number = next(_names)
        self.connect, self.control, self.alias = connect, control, RealConnect.ALIAS
        self.connector, self.topic = f"mm2-source.contract-{number}", f"mirrored-{number}"
        connect.kafka.create_topic(self.topic, 2)
        connect.create_mirror(self.connector, self.topic, state="RUNNING")

    def produce(self, values: Sequence[str]) -> None:
        producer = self.connect.kafka.producer("admin")
        for value in values:
            producer.produce(self.topic, value.encode(), partition=0)
        assert producer.flush(10) == 0

    def copied(self) -> list[str]:
        return self.connect.values(f"{self.alias}.{self.topic}", 0)

    def close(self) -> None:
        self.connect.delete(self.connector)
