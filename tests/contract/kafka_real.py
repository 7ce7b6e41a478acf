"""Real Kafka for the contract tests: a small KRaft cluster on free ports of the loopback address, SASL and ACLs on.

One broker by default; `brokers=3` for what needs followers. The processes are started once for the test session and
ended with it, by their own process ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ElectionType, Producer
from confluent_kafka import TopicPartition as ConfluentPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewTopic

from adapters.kafka import KafkaCluster
from dcdr.settings import ConnectSettings, Credentials, KafkaSettings
from lab.toolchain.build import Part, Toolchain, ensure, locate

HOST = "127.0.0.1"
READY_S = 180.0
"""A broker answers after 3 s on two idle cores; three took 100 s on two cores with forty processes waiting."""
AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
PATIENT = timedelta(seconds=20)
"""The adapter's deadline in tests that are not about deadlines: a busy machine must not make them fail."""
CANARY_TOPIC = "dcdr-canary.internal"
LEDGER_TOPIC = "dcdr-ledger.internal"
OFFSETS_TOPIC = "connect-offsets.internal"
USERS = ("admin", "broker", "app", "canary", "mirror-canary")


def stop_still(process: subprocess.Popen[bytes]) -> None:
    """SIGSTOP, and see every thread stand still: on a busy machine one may go on for long enough to answer."""
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


@dataclass
class Broker:
    """One process; `node` is its broker id, `port` its SASL listener."""

    node: int
    port: int
    process: subprocess.Popen[bytes]

    def freeze(self) -> None:
        stop_still(self.process)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


@dataclass
class RealKafka:
    """A running cluster, with the passwords of its users in files."""

    folder: Path
    brokers: list[Broker] = field(default_factory=list)
    _admin: AdminClient | None = None

    @property
    def bootstrap(self) -> tuple[str, ...]:
        return tuple(f"{HOST}:{broker.port}" for broker in self.brokers)

    def password_file(self, user: str) -> Path:
        return self.folder / f"{user}.password"

    def credentials(self, user: str) -> Credentials:
        return Credentials(username=user, password_file=self.password_file(user))

    def client(self, user: str = "admin", **more: object) -> dict[str, Any]:
        """What a confluent-kafka client needs to connect as `user`."""
        return {
            "bootstrap.servers": ",".join(self.bootstrap),
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": user,
            "log_level": 0,
            "sasl.password": self.password_file(user).read_text(),
            **more,
        }

    def settings(self, **more: object) -> KafkaSettings:
        values: dict[str, object] = {
            "bootstrap": self.bootstrap,
            "admin": self.credentials("admin"),
            "canary": self.credentials("canary"),
            "mirror_canary": self.credentials("mirror-canary"),
            **more,
        }
        return KafkaSettings.model_validate(values)

    def cluster(self, offsets_topic: str = OFFSETS_TOPIC, timeout: timedelta = PATIENT, **more: object) -> KafkaCluster:
        """The adapter under test, connected to this cluster; `more` goes into its settings."""
        connect = ConnectSettings(url=f"http://{HOST}:1", group_id="connect", offsets_topic=offsets_topic)
        return KafkaCluster("dc-a", self.settings(**more), connect, timeout=timeout)

    def admin(self) -> AdminClient:
        """One client for the cluster's life: librdkafka drops what a collected one was still waiting for."""
        if self._admin is None:
            self._admin = AdminClient(self.client())
        return self._admin

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        *,
        replicas: Sequence[Sequence[int]] | None = None,
        config: dict[str, str] | None = None,
    ) -> None:
        """Create it and wait until a broker tells of it; `replicas` assigns each partition's brokers.

        The controller answers before the brokers have heard, so whoever asks one at once may not find the topic.
        """
        if replicas is not None:
            topic = NewTopic(name, len(replicas), replica_assignment=[list(r) for r in replicas], config=config or {})
        else:
            topic = NewTopic(name, partitions, replication_factor=1, config=config or {})
        for created in self.admin().create_topics([topic]).values():
            created.result(10)
        deadline = time.monotonic() + READY_S
        wanted = partitions if replicas is None else len(replicas)
        while len(self.admin().list_topics(name, timeout=10).topics[name].partitions) < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no broker tells of {name} within {READY_S:g} s")
            time.sleep(0.01)

    def restart(self, broker: Broker) -> None:
        """Kill the broker and start it again on the same port and data; returns when it answers."""
        broker.process.kill()
        broker.process.wait(30)
        log = self.folder / f"broker-{broker.node}-again.log"
        settings = self.folder / f"broker-{broker.node}.properties"
        broker.process = _run([*_java(locate()), "kafka.Kafka", str(settings)], log)
        _await_ready(self, len(self.brokers))

    def move_leader(self, topic: str, partition: int, replicas: Sequence[int]) -> None:
        """Reorder the replicas with Kafka's own tool, and elect the first one."""
        plan = {"version": 1, "partitions": [{"topic": topic, "partition": partition, "replicas": list(replicas)}]}
        plan_file, client_file = self.folder / "reassign.json", self.folder / "admin.properties"
        plan_file.write_text(json.dumps(plan))
        client_file.touch(mode=0o600)
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        client_file.write_text(
            "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\n"
            f'sasl.jaas.config={login} username="admin" password="{self.password_file("admin").read_text()}";\n'
        )
        tool = [*_java(locate()), "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"]
        arguments = ["--bootstrap-server", self.bootstrap[0], "--command-config", str(client_file)]
        subprocess.run(
            [*tool, *arguments, "--reassignment-json-file", str(plan_file), "--execute"],
            check=True,
            capture_output=True,
            timeout=READY_S,
        )
        elected = self.admin().elect_leaders(ElectionType.PREFERRED, [ConfluentPartition(topic, partition)])
        elected.result(10)

    def allow(self, user: str, *rights: tuple[ResourceType, str, AclOperation]) -> None:
        """Add ALLOW rules."""
        bindings = [
            AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
            for kind, name, operation in rights
        ]
        for created in self.admin().create_acls(bindings).values():
            created.result(10)

    def allow_canary(self, topic: str) -> None:
        """What the canaries need, and no more."""
        self.allow(
            "canary", (ResourceType.TOPIC, topic, AclOperation.WRITE), (ResourceType.GROUP, topic, AclOperation.READ)
        )
        self.allow("mirror-canary", (ResourceType.TOPIC, topic, AclOperation.WRITE))

    def mirror_allowed(self, allowed: bool) -> None:
        """Refuse the mirror's canary by a rule for it alone, or remove that rule."""
        rule = ResourceType.TOPIC, CANARY_TOPIC, ResourcePatternType.LITERAL, "User:mirror-canary", "*"
        which = *rule, AclOperation.WRITE, AclPermissionType.DENY
        if allowed:
            for deleted in self.admin().delete_acls([AclBindingFilter(*which)]).values():
                deleted.result(10)
        else:
            for created in self.admin().create_acls([AclBinding(*which)]).values():
                created.result(10)

    def producer(self, user: str = "app", **more: object) -> Producer:
        return Producer(self.client(user, **{"linger.ms": 0, **more}))


def start(
    folder: Path,
    brokers: int = 1,
    *,
    authorizer: str = AUTHORIZER,
    rules_for_app: bool = True,
    properties: Mapping[str, str] | None = None,
) -> RealKafka:
    """Format and start a cluster; the first broker is the only controller. Returns once every broker answers.

    `properties` overrides single broker settings.
    """
    more = {**({"authorizer.class.name": authorizer} if authorizer else {}), **(properties or {})}
    toolchain = ensure([Part.KAFKA])
    kafka = RealKafka(folder)
    for user in USERS:
        path = kafka.password_file(user)
        path.write_text(secrets.token_urlsafe(12))
        path.chmod(0o600)
    cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    controller, *ports = _free_ports(brokers + 1)
    java = _java(toolchain)
    try:
        settings = {node: _properties(kafka, node, port, controller, more) for node, port in enumerate(ports, start=1)}
        tool = [*java, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c"]
        formats = {node: _run([*tool, str(path)], folder / f"format-{node}.log") for node, path in settings.items()}
        codes = {node: formatting.wait(READY_S) for node, formatting in formats.items()}
        for node, code in codes.items():
            if code:
                log = (folder / f"format-{node}.log").read_text(errors="replace")
                raise RuntimeError(f"the storage of broker {node} could not be formatted ({code}): {log[-2000:]}")
        for node, port in enumerate(ports, start=1):
            process = _run([*java, "kafka.Kafka", str(settings[node])], folder / f"broker-{node}.log")
            kafka.brokers.append(Broker(node, port, process))
        _await_ready(kafka, brokers)
        _provision(kafka, rules=bool(authorizer), rules_for_app=rules_for_app)
    except BaseException:
        stop(kafka)
        raise
    return kafka


def stop(kafka: RealKafka) -> None:
    """End exactly the processes `start` started, frozen ones too."""
    for broker in kafka.brokers:
        with contextlib.suppress(ProcessLookupError):
            broker.process.kill()
            broker.thaw()
    for broker in kafka.brokers:
        broker.process.wait(30)


@contextlib.contextmanager
def running(
    brokers: int = 1,
    *,
    authorizer: str = AUTHORIZER,
    rules_for_app: bool = True,
    properties: Mapping[str, str] | None = None,
) -> Iterator[RealKafka]:
    """A cluster for one `with` block, its data in a temporary folder; arguments as of `start`."""
    folder = Path(tempfile.mkdtemp(prefix="dcdr-kafka-"))
    kafka = None
    try:
        kafka = start(folder, brokers, authorizer=authorizer, rules_for_app=rules_for_app, properties=properties)
        yield kafka
    finally:
        if kafka is not None:
            stop(kafka)
        shutil.rmtree(folder, ignore_errors=True)


# --- fixtures: imported by conftest ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real_kafka() -> Iterator[RealKafka]:
    """One broker for the whole session; tests keep apart by topic and group names."""
    with running() as kafka:
        yield kafka


@pytest.fixture(scope="session")
def real_kafka_3() -> Iterator[RealKafka]:
    """Three brokers, for what followers and per-broker answers need."""
    with running(3) as kafka:
        yield kafka


@pytest.fixture(scope="session")
async def kafka_cluster(real_kafka: RealKafka) -> AsyncIterator[KafkaCluster]:
    """The adapter, warm, on the single broker."""
    cluster = real_kafka.cluster()
    await cluster.warm()
    yield cluster
    await cluster.close()


# --- how a broker is made -------------------------------------------------------------------------------------------


def _properties(kafka: RealKafka, node: int, port: int, controller: int, more: Mapping[str, str]) -> Path:
    passwords = {user: kafka.password_file(user).read_text() for user in USERS}
    login = 'org.apache.kafka.common.security.plain.PlainLoginModule required username="broker" '
    login += f'password="{passwords["broker"]}" ' + " ".join(f'user_{u}="{p}"' for u, p in passwords.items()) + ";"
    values = {
        "process.roles": "broker,controller" if node == 1 else "broker",
        "node.id": node,
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"CONTROL://{HOST}:{port}" + (f",CONTROLLER://{HOST}:{controller}" if node == 1 else ""),
        "advertised.listeners": f"CONTROL://{HOST}:{port}",
        "listener.security.protocol.map": "CONTROL:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "CONTROL",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.control.plain.sasl.jaas.config": login,
        # ANONYMOUS is the broker on the controller's plaintext listener; no other listener lets anybody be anonymous.
        "super.users": "User:admin;User:broker;User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "false",
        "auto.create.topics.enable": "false",
        "log.dirs": kafka.folder / f"data-{node}",
        "num.partitions": 1,
        "offsets.topic.num.partitions": 3,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 3,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "controller.quorum.append.linger.ms": 0,
        # A frozen follower stays in the ISR for as long as a test looks at it.
        "replica.lag.time.max.ms": 60_000,
        "broker.session.timeout.ms": 60_000,
        "initial.broker.registration.timeout.ms": int(READY_S * 1000),
        "log.retention.ms": -1,  # the tests write records of 1970, too
        "log.cleaner.backoff.ms": 200,
        "log.retention.check.interval.ms": 500,
        "num.network.threads": 2,
        "num.io.threads": 4,
        **more,
    }
    path = kafka.folder / f"broker-{node}.properties"
    path.touch(mode=0o600)
    path.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    return path


def _run(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def _java(toolchain: Toolchain) -> list[str]:
    small = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    return [str(toolchain.java), *small, "-cp", toolchain.kafka_classpath]


def _await_ready(kafka: RealKafka, brokers: int) -> None:
    deadline = time.monotonic() + READY_S
    admin = kafka.admin()
    while True:
        for broker in kafka.brokers:
            if broker.process.poll() is not None:
                logs = sorted(kafka.folder.glob(f"broker-{broker.node}*.log"), key=lambda path: path.stat().st_mtime)
                said = logs[-1].read_text(errors="replace")[-2000:]
                raise RuntimeError(f"broker {broker.node} ended with {broker.process.returncode}: {said}")
        with contextlib.suppress(Exception):
            if len(admin.list_topics(timeout=2).brokers) == brokers:
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"no Kafka after {READY_S:g} s: look at {kafka.folder}/broker-1.log")
        time.sleep(0.1)


def _provision(kafka: RealKafka, *, rules: bool, rules_for_app: bool) -> None:
    nodes = [broker.node for broker in kafka.brokers]
    kafka.create_topic(CANARY_TOPIC, replicas=[[node] for node in nodes])
    compacted = {"cleanup.policy": "compact", "max.message.bytes": "8388608"}
    kafka.create_topic(LEDGER_TOPIC, replicas=[nodes], config=compacted)
    kafka.create_topic(OFFSETS_TOPIC, 5, config={"cleanup.policy": "compact"})
    if not rules:
        return
    kafka.allow_canary(CANARY_TOPIC)
    if rules_for_app:
        kinds = (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID)
        kafka.allow("app", *((kind, "*", AclOperation.ALL) for kind in kinds))


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below the kernel's range for outgoing connections.

    Within it, a client that keeps trying a broker that is down connects to itself one day, and keeps its port.
    """
    found: list[int] = []
    for port in random.sample(range(12_000, 20_000), 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"fewer than {count} free ports between 12000 and 20000 on {HOST}")


async def eventually(check: object, within: float = 60.0) -> None:
    """Wait until `check()` (may be a coroutine function) is true, at most `within` seconds."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        result = check()  # type: ignore[operator]
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(f"not within {within:g} s")
        await asyncio.sleep(0.01)
