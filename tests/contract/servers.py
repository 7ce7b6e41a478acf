"""Real etcd, kube-apiserver and Connect for the contract tests: small, on free ports of the loopback address.

Started once for the test session, ended with it by their own process ids. Kafka stands in `kafka_real`.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from confluent_kafka import Consumer, KafkaError, TopicPartition

from lab.toolchain import Part, ensure
from tests.contract.kafka_real import RealKafka, stop_still

HOST = "127.0.0.1"
READY_S = 90.0
"""kube-apiserver answers after 3 s and Connect after 12 s on two idle cores; the rest is for busy ones."""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def await_ready(process: subprocess.Popen[bytes], log: Path, check: Callable[[], bool]) -> None:
    """Wait until `check` is true. Raises: RuntimeError when the process ends, TimeoutError after `READY_S`."""
    deadline = time.monotonic() + READY_S
    while True:
        with contextlib.suppress(httpx.HTTPError, OSError, ssl.SSLError):
            if check():
                return
        if process.poll() is not None:
            raise RuntimeError(f"ended at once with {process.returncode}: {log.read_text()[-2000:]}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ready after {READY_S:g} s: {log.read_text()[-2000:]}")
        time.sleep(0.05)


@dataclass
class Server:
    """One process and the file it talks into."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, argv: list[str], log: Path) -> Server:
        with log.open("ab") as out:
            return cls(subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT), log)

    def freeze(self) -> None:
        stop_still(self.process)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it, frozen or not."""
        if self.process.poll() is None:
            self.process.kill()
            self.thaw()
        self.process.wait(30)


@dataclass
class EtcdMember:
    """One member; `freeze` holds its connections and answers nothing."""

    argv: list[str]
    client: str
    log: Path
    server: Server | None = None

    def start(self) -> None:
        self.server = Server.start(self.argv, self.log)

    def kill(self) -> None:
        assert self.server is not None
        self.server.stop()

    def freeze(self) -> None:
        assert self.server is not None
        self.server.freeze()

    def thaw(self) -> None:
        assert self.server is not None
        self.server.thaw()

    def healthy(self) -> bool:
        return bool(httpx.get(f"http://{self.client}/health", timeout=2).json().get("health") == "true")

    def await_healthy(self) -> None:
        assert self.server is not None
        await_ready(self.server.process, self.log, self.healthy)


@dataclass
class EtcdCluster:
    """Three members, or one."""

    members: list[EtcdMember] = field(default_factory=list)

    @classmethod
    def start(cls, folder: Path, size: int) -> EtcdCluster:
        binary = str(ensure([Part.ETCD]).etcd)
        ports = free_ports(2 * size)
        peers = {f"m{i}": f"http://{HOST}:{ports[size + i]}" for i in range(size)}
        cluster = cls()
        for i, (name, peer) in enumerate(peers.items()):
            client = f"{HOST}:{ports[i]}"
            argv = [
                binary,
                f"--name={name}",
                f"--data-dir={folder / name}",
                f"--listen-client-urls=http://{client}",
                f"--advertise-client-urls=http://{client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster={','.join(f'{n}={url}' for n, url in peers.items())}",
                "--unsafe-no-fsync",
                "--log-level=error",
            ]
            cluster.members.append(EtcdMember(argv, client, folder / f"{name}.log"))
        for member in cluster.members:
            member.start()
        for member in cluster.members:
            member.await_healthy()
        return cluster

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.client for member in self.members)

    def gateway(self, path: str, body: Mapping[str, Any], member: int = 0) -> dict[str, Any]:
        """etcd's own JSON gateway: a second opinion, beside the client under test."""
        answer = httpx.post(f"http://{self.members[member].client}/v3/{path}", json=body, timeout=5)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def leader(self) -> int:
        """Index of the member that leads."""
        for i in range(len(self.members)):
            status = self.gateway("maintenance/status", {}, member=i)
            if status["leader"] == status["header"]["member_id"]:
                return i
        raise LookupError("no member says it leads")

    def heal(self) -> None:
        """Every member runs and is healthy again."""
        for member in self.members:
            assert member.server is not None
            member.thaw() if member.server.process.poll() is None else member.start()
        for member in self.members:
            member.await_healthy()

    def stop(self) -> None:
        for member in self.members:
            if member.server is not None:
                member.server.stop()


@dataclass
class KubeApi:
    """kube-apiserver on a one-member etcd. `operator` may get and patch the one slice, and nothing else."""

    url: str
    ca_file: Path
    tokens: dict[str, Path]
    etcd: EtcdCluster
    server: Server

    NAMESPACE = "default"
    SLICE = "kafka-dcdr"

    @classmethod
    def start(cls, folder: Path) -> KubeApi:
        binary = str(ensure([Part.KUBE_APISERVER]).kube_apiserver)
        etcd = EtcdCluster.start(folder, 1)
        (port,) = free_ports(1)
        tokens, lines = {}, []
        for number, (user, group) in enumerate({"root": "system:masters", "operator": "", "nobody": ""}.items()):
            tokens[user] = folder / f"{user}.token"
            tokens[user].write_text(secrets.token_hex(16) + "\n")
            lines.append(f"{tokens[user].read_text().strip()},{user},{number}" + (f',"{group}"' if group else ""))
        (folder / "tokens.csv").write_text("\n".join(lines) + "\n")
        key = folder / "service-account.key"
        make = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(key)]
        subprocess.run(make, check=True, capture_output=True, timeout=60)
        argv = [
            binary,
            f"--etcd-servers=http://{etcd.endpoints[0]}",
            f"--bind-address={HOST}",
            "--advertise-address=198.18.0.1",
            f"--secure-port={port}",
            f"--cert-dir={folder / 'certs'}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
            "--profiling=false",
        ]
        server = Server.start(argv, folder / "apiserver.log")
        made = cls(f"https://{HOST}:{port}", folder / "certs" / "apiserver.crt", tokens, etcd, server)
        try:
            await_ready(server.process, server.log, made._ready)
            made._provision()
        except BaseException:
            made.stop()
            raise
        return made

    def _ready(self) -> bool:
        return self.ca_file.exists() and self.request("GET", "/readyz").text == "ok"

    def request(self, method: str, path: str, user: str = "root", **more: Any) -> httpx.Response:
        """A second opinion, beside the client under test."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        headers = {"Authorization": f"Bearer {self.tokens[user].read_text().strip()}", **more.pop("headers", {})}
        return httpx.request(method, f"{self.url}{path}", verify=context, headers=headers, timeout=10, **more)

    @property
    def slice_path(self) -> str:
        return f"/apis/discovery.k8s.io/v1/namespaces/{self.NAMESPACE}/endpointslices/{self.SLICE}"

    def slice(self) -> dict[str, Any]:
        found: dict[str, Any] = self.request("GET", self.slice_path).raise_for_status().json()
        return found

    def reset_slice(self, address: str, port: int = 9092, annotations: Mapping[str, str] | None = None) -> None:
        """A fresh slice that leads to one address."""
        self.request("DELETE", self.slice_path)
        body = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": self.SLICE,
                "labels": {"kubernetes.io/service-name": "kafka", "endpointslice.kubernetes.io/managed-by": "dcdr"},
                "annotations": dict(annotations or {}),
            },
            "addressType": "IPv4",
            "ports": [{"name": "kafka", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        }
        self.request("POST", self.slice_path.rsplit("/", 1)[0], json=body).raise_for_status()

    def _provision(self) -> None:
        rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.NAMESPACE}"
        rule = {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "resourceNames": [self.SLICE],
            "verbs": ["get", "patch"],
        }
        role = {"metadata": {"name": "operator"}, "rules": [rule]}
        binding = {
            "metadata": {"name": "operator"},
            "subjects": [{"kind": "User", "name": "operator", "apiGroup": "rbac.authorization.k8s.io"}],
            "roleRef": {"kind": "Role", "name": "operator", "apiGroup": "rbac.authorization.k8s.io"},
        }
        self.request("POST", f"{rbac}/roles", json=role).raise_for_status()
        self.request("POST", f"{rbac}/rolebindings", json=binding).raise_for_status()
        # Rights reach the authorizer through a watch.
        await_ready(
            self.server.process,
            self.server.log,
            lambda: self.request("GET", self.slice_path, user="operator").status_code == 404,
        )

    def stop(self) -> None:
        self.server.stop()
        self.etcd.stop()


@dataclass
class RealConnect:
    """One Connect worker with exactly-once on an existing broker, and MirrorMaker 2 from that broker to itself.

    The mirror renames (default policy), so that a single broker can be both ends; what is tested is Connect's control.
    """

    url: str
    kafka: RealKafka
    server: Server

    GROUP = "connect-contract"
    OFFSETS = "contract-offsets.internal"
    ALIAS = "dc-b"

    @classmethod
    def start(cls, kafka: RealKafka, folder: Path) -> RealConnect:
        toolchain = ensure([Part.KAFKA])
        (port,) = free_ports(1)
        client = cls.client(kafka)
        values = {
            "bootstrap.servers": kafka.bootstrap[0],
            "group.id": cls.GROUP,
            "listeners": f"http://{HOST}:{port}",
            "key.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            **client,
            **{
                f"{prefix}.{key}": value
                for prefix in ("producer", "consumer", "admin")
                for key, value in client.items()
            },
            "exactly.once.source.support": "enabled",
            "plugin.discovery": "service_load",
            "config.storage.topic": "contract-configs.internal",
            "offset.storage.topic": cls.OFFSETS,
            "status.storage.topic": "contract-status.internal",
            "config.storage.replication.factor": "1",
            "offset.storage.replication.factor": "1",
            "status.storage.replication.factor": "1",
            "offset.storage.partitions": "1",
            "status.storage.partitions": "1",
        }
        path = folder / "connect.properties"
        path.touch(mode=0o600)
        path.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
        java = [
            str(toolchain.java),
            "-Xmx384m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            toolchain.kafka_classpath,
        ]
        server = Server.start(
            [*java, "org.apache.kafka.connect.cli.ConnectDistributed", str(path)], folder / "connect.log"
        )
        made = cls(f"http://{HOST}:{port}", kafka, server)
        try:
            await_ready(
                server.process,
                server.log,
                lambda: httpx.get(f"{made.url}/connectors", timeout=2, trust_env=False).status_code == 200,
            )
        except BaseException:
            server.stop()
            raise
        return made

    @staticmethod
    def client(kafka: RealKafka) -> dict[str, str]:
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        return {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.jaas.config": f'{login} username="admin" password="{kafka.password_file("admin").read_text()}";',
        }

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """A second opinion; repeated while Connect rebalances."""
        deadline = time.monotonic() + READY_S
        while True:
            answer = httpx.request(method, f"{self.url}{path}", timeout=30, trust_env=False, **more)
            if answer.status_code not in (409, 500) or time.monotonic() > deadline:
                return answer
            time.sleep(0.1)

    def create_mirror(self, name: str, topic: str, *, state: str, tasks: int = 1) -> None:
        """A MirrorSourceConnector that copies `topic` to `<ALIAS>.<topic>`."""
        client = self.client(self.kafka)
        config = {
            "connector.class": "org.apache.kafka.connect.mirror.MirrorSourceConnector",
            "source.cluster.alias": self.ALIAS,
            "target.cluster.alias": "dc-a",
            "source.cluster.bootstrap.servers": self.kafka.bootstrap[0],
            "target.cluster.bootstrap.servers": self.kafka.bootstrap[0],
            **{f"{side}.cluster.{key}": value for side in ("source", "target") for key, value in client.items()},
            "topics": topic,
            "topics.exclude": r".*\.internal",
            "offset-syncs.topic.location": "target",
            "offset-syncs.topic.replication.factor": "1",
            "replication.factor": "1",
            "heartbeats.replication.enabled": "false",
            "sync.topic.acls.enabled": "false",
            "sync.topic.configs.enabled": "false",
            "exactly.once.support": "required",
            "source.consumer.isolation.level": "read_committed",
            "key.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
            "value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
            "header.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
            "tasks.max": str(tasks),
        }
        body = {"name": name, "initial_state": state, "config": config}
        self.request("POST", "/connectors", json=body).raise_for_status()

    def values(self, topic: str, partition: int) -> list[str]:
        """What a read_committed consumer reads, up to the end; empty where there is no such topic."""
        place = TopicPartition(topic, partition, 0)
        consumer = Consumer(
            self.kafka.client(
                "admin", **{"group.id": "nobody", "enable.auto.commit": False, "enable.partition.eof": True}
            )
        )
        found: list[str] = []
        try:
            consumer.assign([place])
            deadline = time.monotonic() + READY_S
            while time.monotonic() < deadline:
                message = consumer.poll(1.0)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    found.append((message.value() or b"").decode())
                elif error.code() in (KafkaError._PARTITION_EOF, KafkaError.UNKNOWN_TOPIC_OR_PART):
                    return found
            raise TimeoutError(f"no end of {topic}-{partition} after {READY_S:g} s")
        finally:
            consumer.close()

    def delete(self, name: str) -> None:
        self.request("DELETE", f"/connectors/{name}")

    def stop(self) -> None:
        self.server.stop()


@contextlib.contextmanager
def stopping(server: EtcdCluster | KubeApi | RealConnect) -> Iterator[None]:
    try:
        yield
    finally:
        server.stop()
