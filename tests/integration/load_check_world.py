"""Two real brokers, an endpoint, and a stand-in for everything between them: enough to try load and checker alone.

The "mirror" copies once, while the source is closed, so it is exact; the "switchover" is the least that moves a load.
How the product does it is tested elsewhere; here the question is whether the load sees it and the checker judges it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from lab.check.logs import Cluster
from lab.check.model import Demands
from lab.check.run import Checked, check
from lab.kafka import delete_rules
from lab.load.config import Credentials, GroupRole, Kind, LoadConfig
from lab.load.records import attempt_of
from tests.contract.kafka_real import RealKafka, start, stop

TOPICS = {
    "orders": (4, Kind.KEYED),
    "clicks": (2, Kind.UNKEYED),
    "profiles": (2, Kind.COMPACTED),
    "payments": (2, Kind.TRANSACTIONAL),
}
PLAIN = sum(kind is not Kind.TRANSACTIONAL for _, kind in TOPICS.values())
"""Topics, and so producers, without transactions."""
GROUPS = {"live": GroupRole.LIVE, "lag": GroupRole.LAG, "parked": GroupRole.PARKED}
LOAD_USER = "load"
CALL_S = 10.0
Place = tuple[str, int]


class Endpoint:
    """One address whose target can be changed; open connections stay where they are, as with kube-proxy."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.address = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(CALL_S)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        host, port = server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        with contextlib.suppress(OSError, asyncio.CancelledError):
            there, back = await asyncio.open_connection(host, int(port))
            await asyncio.gather(_pipe(reader, back), _pipe(there, writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def _deny(kind: ResourceType, *operations: AclOperation) -> list[AclBinding]:
    everyone = "User:*"
    return [
        AclBinding(kind, "*", ResourcePatternType.LITERAL, everyone, "*", operation, AclPermissionType.DENY)
        for operation in operations
    ]


FENCE = _deny(ResourceType.TOPIC, AclOperation.WRITE, AclOperation.CREATE, AclOperation.DELETE, AclOperation.ALTER)
FREEZE = _deny(ResourceType.GROUP, AclOperation.READ)


@dataclass
class Pair:
    """dc-a and dc-b; the first is active until `switchover`."""

    kafkas: dict[str, RealKafka]
    endpoint: Endpoint
    credentials: Credentials
    active: str = "dc-a"
    seeds: dict[str, dict[Place, int]] = field(default_factory=dict)
    """For each side, the offset of every partition from which it has to be copied to the other."""

    @property
    def standby(self) -> str:
        return next(name for name in self.kafkas if name != self.active)

    def load_config(self, out: Path, **changes: object) -> LoadConfig:
        settings: dict[str, object] = {
            "bootstrap": self.endpoint.address,
            "credentials": self.credentials,
            "topics": {name: kind for name, (_, kind) in TOPICS.items()},
            "groups": GROUPS,
            "rate": 300,
            "keys": 60,
            "transaction_records": 5,
            "abort_every": 3,
            "out": out,
            **changes,
        }
        return LoadConfig.model_validate(settings)

    def check(self, folders: list[Path], demands: Demands) -> Checked:
        clusters = [Cluster(name, kafka.client()) for name, kafka in self.kafkas.items()]
        return check(folders, clusters, self.active, demands, catch_up_s=0)

    def cluster_id(self, name: str) -> str:
        return str(self.kafkas[name].admin().list_topics(timeout=CALL_S).cluster_id)

    def deny(self, name: str, rules: list[AclBinding]) -> None:
        for created in self.kafkas[name].admin().create_acls(rules).values():
            created.result(CALL_S)

    def allow_again(self, name: str) -> None:
        delete_rules(self.kafkas[name].admin(), AclPermissionType.DENY)

    def close(self) -> None:
        """Fence the active side."""
        self.deny(self.active, FENCE)

    def move(self, groups: bool = True) -> None:
        """With the active side fenced: copy, carry the groups over, open the other side, flip the endpoint."""
        source, target = self.active, self.standby
        self.copy()
        if groups:
            self.deny(source, FREEZE)
            self._carry_groups(source, target)
        self.seeds[target] = {
            place: records[-1][0] + 1 if records else 0 for place, records in self.visible(target).items()
        }
        self.allow_again(target)
        self.active = target
        self.endpoint.target = self.kafkas[target].bootstrap[0]

    def copy(self) -> None:
        """Copy what the active side has and the other lacks; exact, because it is done once and nobody writes."""
        source, target = self.active, self.standby
        producer = Producer({**self.kafkas[target].client(), "enable.idempotence": True})
        seed = self.seeds.get(source, {})
        last = dict(seed)
        for message in self.messages(source, seed):
            producer.produce(
                message.topic(),
                message.value(),
                message.key(),
                partition=message.partition(),
                timestamp=message.timestamp()[1],
                headers=message.headers(),
            )
            last[(message.topic(), message.partition())] = message.offset() + 1
            producer.poll(0)
        assert producer.flush(CALL_S) == 0
        self.seeds[source] = last

    def visible(self, name: str) -> dict[Place, list[tuple[int, str]]]:
        """(offset, attempt) of all visible records."""
        found: dict[Place, list[tuple[int, str]]] = {}
        for topic, (count, _) in TOPICS.items():
            found |= {(topic, partition): [] for partition in range(count)}
        for message in self.messages(name, {}):
            place = (message.topic(), message.partition())
            found[place].append((message.offset(), attempt_of(message.headers())))
        return found

    def messages(self, name: str, seed: dict[Place, int]) -> Iterator:  # type: ignore[type-arg]
        consumer = Consumer(
            {
                **self.kafkas[name].client(),
                "group.id": "copy",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 20,
            }
        )
        places = [(topic, partition) for topic, (count, _) in TOPICS.items() for partition in range(count)]
        consumer.assign([TopicPartition(*place, seed.get(place, 0)) for place in places])
        left = set(places)
        try:
            while left:
                for message in consumer.consume(5000, 0.2):
                    error = message.error()
                    if error is None:
                        yield message
                        continue
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    left.discard((message.topic(), message.partition()))
        finally:
            consumer.close()

    def _carry_groups(self, source: str, target: str) -> None:
        here, there = self.visible(source), self.visible(target)
        for group in GROUPS:
            admin = self.kafkas[source].admin()
            stands = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(CALL_S)
            moved = []
            for at in stands.topic_partitions:
                place = (at.topic, at.partition)
                copies = {attempt: offset for offset, attempt in there[place]}
                # The next record that both sides hold: what lies between was compacted away on one of them.
                following = (
                    copies[attempt] for offset, attempt in here[place] if offset >= at.offset and attempt in copies
                )
                end = there[place][-1][0] + 1 if there[place] else 0
                moved.append(TopicPartition(*place, next(following, end)))
            change = ConsumerGroupTopicPartitions(group, moved)
            written = self.kafkas[target].admin().alter_consumer_group_offsets([change])[group].result(CALL_S)
            assert [at.error for at in written.topic_partitions] == [None] * len(moved)


@dataclass(frozen=True)
class _Login:
    """A broker's accepted users with one more, the same on both sides; a text once the broker's passwords are made."""

    folder: Path
    user: str
    password: str

    def __str__(self) -> str:
        passwords = {file.stem: file.read_text() for file in self.folder.glob("*.password")}
        users = " ".join(f'user_{name}="{word}"' for name, word in {**passwords, self.user: self.password}.items())
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        return f'{module} required username="broker" password="{passwords["broker"]}" {users};'


@contextmanager
def pair(folder: Path) -> Iterator[Pair]:
    """Two brokers with topics and rules; dc-b is closed."""
    word = secrets.token_urlsafe(12)
    file = folder / "load-user"
    file.touch(mode=0o600)
    file.write_text(word + "\n")
    kafkas: dict[str, RealKafka] = {}
    endpoint = None
    try:
        for name in ("dc-a", "dc-b"):
            home = folder / name
            home.mkdir()
            login: Any = _Login(home, LOAD_USER, word)
            properties = {"listener.name.control.plain.sasl.jaas.config": login}
            kafka = kafkas[name] = start(home, rules_for_app=False, properties=properties)
            for topic, (partitions, kind) in TOPICS.items():
                compact = {"cleanup.policy": "compact", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01"}
                kafka.create_topic(topic, partitions, config=compact if kind is Kind.COMPACTED else {})
            kafka.allow(
                LOAD_USER,
                *((ResourceType.TOPIC, "*", right) for right in (AclOperation.READ, AclOperation.WRITE)),
                (ResourceType.GROUP, "*", AclOperation.READ),
                *((ResourceType.TRANSACTIONAL_ID, "*", right) for right in (AclOperation.WRITE, AclOperation.DESCRIBE)),
            )
        endpoint = Endpoint(kafkas["dc-a"].bootstrap[0])
        world = Pair(kafkas, endpoint, Credentials(username=LOAD_USER, password_file=file))
        world.deny("dc-b", FENCE + FREEZE)
        yield world
    finally:
        if endpoint is not None:
            endpoint.close()
        for kafka in kafkas.values():
            stop(kafka)
