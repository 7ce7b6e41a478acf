"""What the Kafka contract tests do to a cluster from outside: applications, on the stand-in and on a real broker."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as ConfluentPartition

from adapters.kafka import KafkaCluster
from adapters.memory import MemoryWorld, Produced
from dcdr import ports
from dcdr.model import ConnectorState, TopicPartition
from tests.contract.kafka_real import OFFSETS_TOPIC, RealKafka

CONNECTOR = "mm2-source.dc-b-to-dc-a"
"""A source connector whose offsets the world can write; the stand-in's dc-a runs it."""
SOURCE = "dc-b"
_names = itertools.count(1)


def fresh(prefix: str) -> str:
    """A name nobody has used yet: the tests share one cluster."""
    return f"{prefix}-{next(_names)}"


class KafkaWorld(Protocol):
    """One cluster behind its ports, and the applications beside it. They write as the ordinary user `app`."""

    fence: ports.ProduceFence
    logs: ports.Logs
    transactions: ports.Transactions
    groups: ports.ConsumerGroups
    ledger: ports.Ledger
    positions: ports.MirrorPositions

    async def topic(self, partitions: int = 1) -> str:
        """Create a topic as an administrator; returns its name."""

    async def app_creates_topic(self) -> bool:
        """Whether an ordinary user is let."""

    async def produce(self, place: TopicPartition, values: Sequence[str]) -> bool:
        """Write one batch; False when it was refused."""

    async def begin(self, transactional_id: str, place: TopicPartition, values: Sequence[str]) -> None:
        """Write within a new transaction and leave it open."""

    async def end(self, transactional_id: str, *, commit: bool) -> bool:
        """End it; False when the id was taken over."""

    async def app_commits(self, group: str, place: TopicPartition, offset: int) -> bool:
        """Commit as a consumer without a subscription; False when it was refused."""

    async def join(self, group: str, topic: str) -> None:
        """Give the group a member that stays until `leave_all`."""

    async def leave_all(self) -> None:
        """End every member."""

    async def mirror_allowed(self, allowed: bool) -> None:
        """Let the mirror's principals write, or refuse them, as the brokers' authorizer does."""

    async def store_position(self, place: TopicPartition, offset: int | None) -> None:
        """What Connect does when `CONNECTOR` has copied up to `offset`, or forgets."""


class MemoryKafkaWorld:
    """The stand-in's dc-a."""

    def __init__(self, path: Path) -> None:
        self.world = MemoryWorld.create(path, open_transaction=False)
        member = self.world.directory().scope("lab").member("dc-a")
        self.fence, self.logs, self.transactions = member.fence, member.logs, member.transactions
        self.groups, self.ledger, self.positions = member.groups, member.ledger, member.positions

    async def topic(self, partitions: int = 1) -> str:
        name = fresh("topic")
        self.world.create_topic("dc-a", name, partitions, principal="admin")
        return name

    async def app_creates_topic(self) -> bool:
        return self.world.create_topic("dc-a", fresh("topic")) is Produced.ACKED

    async def produce(self, place: TopicPartition, values: Sequence[str]) -> bool:
        return self.world.produce("dc-a", *place, values) is Produced.ACKED

    async def begin(self, transactional_id: str, place: TopicPartition, values: Sequence[str]) -> None:
        self.world.begin("dc-a", transactional_id)
        assert self.world.produce("dc-a", *place, values, txn=transactional_id) is Produced.ACKED

    async def end(self, transactional_id: str, *, commit: bool) -> bool:
        return self.world.end("dc-a", transactional_id, commit=commit) is Produced.ACKED

    async def app_commits(self, group: str, place: TopicPartition, offset: int) -> bool:
        return self.world.commit_group("dc-a", group, *place, offset) is Produced.ACKED

    async def join(self, group: str, topic: str) -> None:
        self.world.members("dc-a", group, 1)

    async def leave_all(self) -> None:
        return None

    async def mirror_allowed(self, allowed: bool) -> None:
        self.world.set_rules("dc-a", mirror_denied=not allowed)

    async def store_position(self, place: TopicPartition, offset: int | None) -> None:
        self.world.set_connector("dc-a", CONNECTOR, state=ConnectorState.STOPPED, tasks=[])
        self.world.stored_offset("dc-a", CONNECTOR, place, offset)


class RealKafkaWorld:
    """A real broker; blocking clients run in threads, as nobody measures them."""

    def __init__(self, kafka: RealKafka, cluster: KafkaCluster) -> None:
        self.kafka = kafka
        self.cluster = cluster
        self.fence: ports.ProduceFence = cluster.fence
        self.logs: ports.Logs = cluster.logs
        self.transactions: ports.Transactions = cluster.transactions
        self.groups: ports.ConsumerGroups = cluster.groups
        self.ledger: ports.Ledger = cluster.ledger
        self.positions: ports.MirrorPositions = cluster.positions
        self._open: dict[str, Producer] = {}
        self._members: list[Consumer] = []

    async def topic(self, partitions: int = 1) -> str:
        name = fresh("topic")
        await asyncio.to_thread(self.kafka.create_topic, name, partitions)
        return name

    async def app_creates_topic(self) -> bool:
        from confluent_kafka.admin import AdminClient
        from confluent_kafka.cimpl import NewTopic

        def create() -> bool:
            admin = AdminClient(self.kafka.client("app"))
            (created,) = admin.create_topics([NewTopic(fresh("topic"), 1, 1)]).values()
            return _allowed(lambda: created.result(10))

        return await asyncio.to_thread(create)

    async def produce(self, place: TopicPartition, values: Sequence[str], **more: Any) -> bool:
        return await asyncio.to_thread(self._produce, place, values, more)

    async def begin(self, transactional_id: str, place: TopicPartition, values: Sequence[str]) -> None:
        def begin() -> None:
            producer = self.kafka.producer(**{"transactional.id": transactional_id})
            producer.init_transactions(10)
            producer.begin_transaction()
            for value in values:
                producer.produce(place.topic, value.encode(), partition=place.partition)
            assert producer.flush(10) == 0
            self._open[transactional_id] = producer

        await asyncio.to_thread(begin)

    async def send_offset(self, transactional_id: str, group: str, place: TopicPartition, offset: int) -> None:
        """Commit a position within the open transaction, as a consume-transform-produce application does."""
        consumer = Consumer(self.kafka.client("app", **{"group.id": group}))
        at = ConfluentPartition(place.topic, place.partition, offset)
        send = self._open[transactional_id].send_offsets_to_transaction
        await asyncio.to_thread(send, [at], consumer.consumer_group_metadata(), 10)
        await asyncio.to_thread(consumer.close)

    async def end(self, transactional_id: str, *, commit: bool) -> bool:
        producer = self._open.pop(transactional_id)
        ending = producer.commit_transaction if commit else producer.abort_transaction
        return await asyncio.to_thread(_allowed, lambda: ending(10))

    async def app_commits(self, group: str, place: TopicPartition, offset: int) -> bool:
        def commit() -> bool:
            consumer = Consumer(self.kafka.client("app", **{"group.id": group, "enable.auto.commit": False}))
            try:
                at = ConfluentPartition(place.topic, place.partition, offset)
                return _allowed(lambda: consumer.commit(offsets=[at], asynchronous=False))
            finally:
                consumer.close()

        return await asyncio.to_thread(commit)

    async def join(self, group: str, topic: str, **more: Any) -> None:
        def join() -> None:
            consumer = Consumer(self.kafka.client("app", **{"group.id": group, "enable.auto.commit": False, **more}))
            self._members.append(consumer)
            consumer.subscribe([topic])
            for _ in range(100):
                consumer.poll(0.1)
                if consumer.assignment():
                    return
            raise TimeoutError(f"{group} was assigned nothing within 10 s")

        await asyncio.to_thread(join)

    async def leave_all(self) -> None:
        members, self._members = self._members, []
        await asyncio.gather(*(asyncio.to_thread(member.close) for member in members))

    async def mirror_allowed(self, allowed: bool) -> None:
        """By a rule: the refusal that the canary sees is the same."""
        await asyncio.to_thread(self.kafka.mirror_allowed, allowed)

    async def store_position(self, place: TopicPartition, offset: int | None) -> None:
        await self.store(CONNECTOR, {"cluster": SOURCE, "partition": place.partition, "topic": place.topic}, offset)

    async def store(self, connector: str, partition: dict[str, object], offset: int | None) -> None:
        """Write one record of the offsets topic as Connect does."""
        key = json.dumps([connector, partition], separators=(",", ":"))
        value = None if offset is None else json.dumps({"offset": offset}).encode()

        def store() -> None:
            producer = self.kafka.producer("admin")
            producer.produce(OFFSETS_TOPIC, value, key.encode())
            assert producer.flush(10) == 0

        await asyncio.to_thread(store)

    def _produce(self, place: TopicPartition, values: Sequence[str], more: dict[str, Any]) -> bool:
        errors: list[KafkaError | None] = []
        producer = self.kafka.producer(**more)
        try:
            for value in values:
                producer.produce(
                    place.topic,
                    value.encode(),
                    partition=place.partition,
                    on_delivery=lambda error, _: errors.append(error),
                )
            assert producer.flush(10) == 0
        except KafkaException:
            return False
        return not any(errors)


def _allowed(act: Any) -> bool:
    try:
        act()
    except KafkaException:
        return False
    return True
