"""The etcd client where members freeze, die and lose the leader."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import grpc
import pytest

from adapters.etcd import EtcdClient
from adapters.etcd.client import Change, KeyValue
from dcdr.errors import ConflictError, UnreachableError
from tests.contract.servers import EtcdCluster, free_ports

pytestmark = pytest.mark.real
_names = iter(range(1_000_000))


@pytest.fixture
def key() -> str:
    return f"/test/{next(_names)}"


@pytest.fixture
def healed(etcd: EtcdCluster) -> Iterator[EtcdCluster]:
    yield etcd
    etcd.heal()


async def test_a_value_goes_in_and_comes_back(etcd_client: EtcdClient, key: str) -> None:
    assert await etcd_client.get(key) is None
    made = await etcd_client.swap(key, b"one", mod_revision=0)
    assert await etcd_client.get(key) == made == KeyValue(b"one", made.mod_revision)
    with pytest.raises(ConflictError, match=str(made.mod_revision)):
        await etcd_client.swap(key, b"two", mod_revision=made.mod_revision - 1)


async def test_a_frozen_member_costs_milliseconds(healed: EtcdCluster, etcd_client: EtcdClient, key: str) -> None:
    made = await etcd_client.swap(key, b"0", mod_revision=0)
    follower = next(i for i in range(3) if i != healed.leader())
    client = EtcdClient(
        [healed.endpoints[follower], *(e for e in healed.endpoints if e != healed.endpoints[follower])],
        timeout=timedelta(seconds=2),
    )
    await client.warm()
    healed.members[follower].freeze()
    try:
        start = time.monotonic()
        made = await client.swap(key, b"1", mod_revision=made.mod_revision)
        first = time.monotonic() - start
        start = time.monotonic()
        assert await client.get(key) == made
        second = time.monotonic() - start
    finally:
        healed.members[follower].thaw()
        await client.close()
    assert first < 1.0
    assert second < first + 0.05, "the member that answered is asked first from now on"


@pytest.mark.parametrize("end", ["kill", "freeze"])
async def test_writes_go_on_after_the_leader_is_gone(
    healed: EtcdCluster, etcd_client: EtcdClient, key: str, end: str
) -> None:
    made = await etcd_client.swap(key, b"0", mod_revision=0)
    leader = healed.members[healed.leader()]
    leader.kill() if end == "kill" else leader.freeze()
    deadline = time.monotonic() + 20
    while True:
        try:
            made = await etcd_client.swap(key, b"1", mod_revision=made.mod_revision)
            break
        except UnreachableError:
            assert time.monotonic() < deadline
        except ConflictError:
            found = await etcd_client.get(key)
            assert found is not None
            made = found
            break
    found = await etcd_client.get(key)
    assert found == KeyValue(b"1", made.mod_revision)


async def test_without_a_quorum_nothing_is_read_and_nothing_claimed(
    healed: EtcdCluster, etcd_client: EtcdClient, key: str
) -> None:
    made = await etcd_client.swap(key, b"0", mod_revision=0)
    for member in healed.members[1:]:
        member.freeze()
    start = time.monotonic()
    with pytest.raises(UnreachableError, match=healed.endpoints[0]):
        await etcd_client.get(key)
    with pytest.raises(UnreachableError, match="unknown"):
        await etcd_client.swap(key, b"1", mod_revision=made.mod_revision)
    assert time.monotonic() - start < 5, "each call is bounded by its time-out of 2 s"


async def test_nobody_at_home_is_said_with_every_address(key: str) -> None:
    ports = free_ports(2)
    client = EtcdClient([f"127.0.0.1:{port}" for port in ports], timeout=timedelta(seconds=0.5))
    with pytest.raises(UnreachableError) as caught:
        await client.get(key)
    await client.close()
    for port in ports:
        assert str(port) in str(caught.value)


class LosingProxy:
    """Hands every call to a real member, and swallows the answers to the first `lost` transactions."""

    def __init__(self, target: str, lost: int) -> None:
        self.lost = lost
        self._target = target
        self.seen = 0

    async def __aenter__(self) -> LosingProxy:
        self._channel = grpc.aio.insecure_channel(self._target)
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)
        await self._channel.close(None)

    async def call(self, method: str, body: bytes) -> bytes:
        forward: Any = self._channel.unary_unary(method)
        answer: bytes = await forward(body)
        if method.endswith("/Txn"):
            self.seen += 1
            if self.seen <= self.lost:
                await asyncio.sleep(30)
        return answer


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, proxy: LosingProxy) -> None:
        self._proxy = proxy

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        method = details.method

        async def handle(body: bytes, _: object) -> bytes:
            return await self._proxy.call(method, body)

        return grpc.unary_unary_rpc_method_handler(handle)


async def test_a_write_whose_answer_was_lost_is_recognised(etcd: EtcdCluster, key: str) -> None:
    """It committed through one member; the copy sent to the next one finds the value standing: no conflict."""
    async with LosingProxy(etcd.endpoints[0], lost=1) as proxy:
        client = EtcdClient([proxy.address, etcd.endpoints[1]], timeout=timedelta(seconds=2))
        made = await client.swap(key, b"0", mod_revision=0)
        assert await client.get(key) == KeyValue(b"0", made.mod_revision)
        await client.close()
    assert proxy.seen == 1


async def test_a_lost_answer_does_not_hide_somebody_elses_write(
    etcd: EtcdCluster, etcd_client: EtcdClient, key: str
) -> None:
    made = await etcd_client.swap(key, b"0", mod_revision=0)
    other = await etcd_client.swap(key, b"theirs", mod_revision=made.mod_revision)
    async with LosingProxy(etcd.endpoints[0], lost=1) as proxy:
        client = EtcdClient([proxy.address, etcd.endpoints[1]], timeout=timedelta(seconds=2))
        with pytest.raises(ConflictError):
            await client.swap(key, b"ours", mod_revision=made.mod_revision)
        await client.close()
    assert await etcd_client.get(key) == other


async def test_a_write_whose_answer_was_lost_everywhere_is_unknown(
    etcd: EtcdCluster, etcd_client: EtcdClient, key: str
) -> None:
    async with LosingProxy(etcd.endpoints[0], lost=9) as proxy:
        client = EtcdClient([proxy.address], timeout=timedelta(seconds=0.5))
        with pytest.raises(UnreachableError, match="unknown"):
            await client.swap(key, b"0", mod_revision=0)
        await client.close()
    found = await etcd_client.get(key)
    assert found is not None
    assert found.value == b"0"


async def collect(changes: AsyncIterator[Change], count: int) -> list[Change]:
    found = []
    async for change in changes:
        found.append(change)
        if len(found) == count:
            break
    return found


async def write(client: EtcdClient, key: str, values: list[bytes]) -> list[int]:
    revisions = []
    for value in values:
        held = await client.get(key)
        made = await client.swap(key, value, mod_revision=0 if held is None else held.mod_revision)
        revisions.append(made.mod_revision)
    return revisions


async def test_a_watch_tells_every_change_from_a_revision_on(etcd_client: EtcdClient, key: str) -> None:
    revisions = await write(etcd_client, key, [b"1", b"2", b"3"])
    async with asyncio.timeout(10):
        found = await collect(etcd_client.watch(key, revisions[1]), 2)
    assert found == [Change(KeyValue(v, r), r) for v, r in zip((b"2", b"3"), revisions[1:], strict=True)]


@pytest.mark.parametrize("end", ["kill", "freeze"])
async def test_a_watch_survives_its_member(healed: EtcdCluster, etcd_client: EtcdClient, key: str, end: str) -> None:
    follower = next(i for i in range(3) if i != healed.leader())
    watcher = EtcdClient(
        [healed.endpoints[follower], healed.endpoints[(follower + 1) % 3]], timeout=timedelta(seconds=2)
    )
    revisions = await write(etcd_client, key, [b"1"])
    watch = asyncio.create_task(collect(watcher.watch(key, revisions[0]), 3))
    async with asyncio.timeout(30):
        revisions += await write(etcd_client, key, [b"2"])
        member = healed.members[follower]
        member.kill() if end == "kill" else member.freeze()
        writer = EtcdClient([e for i, e in enumerate(healed.endpoints) if i != follower], timeout=timedelta(seconds=2))
        revisions += await write(writer, key, [b"3"])
        found = await watch
    await watcher.close()
    await writer.close()
    assert found == [Change(KeyValue(v, r), r) for v, r in zip((b"1", b"2", b"3"), revisions, strict=True)]


async def test_a_watch_from_a_compacted_revision_gives_what_stands(
    etcd: EtcdCluster, etcd_client: EtcdClient, key: str
) -> None:
    revisions = await write(etcd_client, key, [b"1", b"2", b"3"])
    etcd.gateway("kv/compaction", {"revision": str(revisions[-1]), "physical": True})
    async with asyncio.timeout(10):
        (found,) = await collect(etcd_client.watch(key, revisions[0]), 1)
    assert found.value == KeyValue(b"3", revisions[-1])


async def test_a_watch_outlives_the_loss_of_the_quorum(healed: EtcdCluster, etcd_client: EtcdClient, key: str) -> None:
    """A member without a leader would keep a plain watch silent for ever."""
    revisions = await write(etcd_client, key, [b"1"])
    watcher = EtcdClient(healed.endpoints[:1], timeout=timedelta(seconds=2))
    watch = asyncio.create_task(collect(watcher.watch(key, revisions[0]), 2))
    async with asyncio.timeout(60):
        for member in healed.members[1:]:
            member.kill()
        with pytest.raises(UnreachableError):
            await etcd_client.get(key)
        healed.heal()
        revisions += await write(etcd_client, key, [b"2"])
        found = await watch
    await watcher.close()
    assert [change.value for change in found] == [KeyValue(b"1", revisions[0]), KeyValue(b"2", revisions[1])]
