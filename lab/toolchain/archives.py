"""Class archives (JVM class data sharing) for the broker and the Connect worker: they start with 40 % less work.

A JVM that starts Kafka spends most of its time reading and verifying the same thousands of classes. Run once with
`-XX:ArchiveClassesAtExit`, it writes them as it has them in memory; later ones map that file. The JVM checks by
itself that the archive fits its version and class path, and otherwise starts as if there were none.
Measured: docs/decisions/0003-toolchain.md.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true", "-XX:-UsePerfData", "-Xmx512m")
START_LIMIT_S = 180.0
"""A worker is up within 15 s on an idle machine."""
EXIT_LIMIT_S = 120.0
HERE = "127.0.0.1"
CLUSTER_ID = "ZGNkciBsYWIgYXJjaGl2ZQ"
BYTES = "org.apache.kafka.connect.converters.ByteArrayConverter"
CONNECT = "org.apache.kafka.connect.cli.ConnectDistributed"

Pause = Callable[[float], None]
"""Waits a moment; raises when the build is given up."""


def build(java: str, classpath: str, into: Path, log: Path, pause: Pause) -> None:
    """Write `broker.jsa` and `connect.jsa` into `into`, by running a broker and a Connect worker there for a moment.

    Raises: TimeoutError, RuntimeError if a server did not start, or ended without its archive.
    """
    broker, controller, rest = _free_ports(3)
    scratch = into / "run"
    scratch.mkdir()
    (scratch / "broker.properties").write_text(_lines(_broker(broker, controller, scratch / "data")))
    (scratch / "connect.properties").write_text(_lines(_connect(broker, rest)))

    @contextmanager
    def server(name: str, *main: str) -> Iterator[Callable[[], bool]]:
        archive = into / f"{name}.jsa"
        command = [java, *JVM, f"-XX:ArchiveClassesAtExit={archive}", "-cp", classpath, *main]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=scratch, start_new_session=True
            )
        try:
            yield lambda: process.poll() is None
            process.send_signal(signal.SIGTERM)
            _until(lambda: process.poll() is not None, f"{name} has not ended", EXIT_LIMIT_S, pause)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if not archive.exists():
            raise RuntimeError(f"{name} ended without its archive")

    _format(java, classpath, scratch, log)
    with server("broker", "kafka.Kafka", str(scratch / "broker.properties")) as alive:
        _until(lambda: _listens(broker), "the broker does not listen", START_LIMIT_S, pause, alive)
        with server("connect", CONNECT, str(scratch / "connect.properties")) as alive:
            _until(lambda: _get(rest, "/")[0] == 200, "Connect does not serve", START_LIMIT_S, pause, alive)
            # A running task brings in what a mirror needs: transactional producers, the offset writer, JSON.
            _post(rest, "/connectors", {"name": "beat", "config": _heartbeat(broker)})
            _until(lambda: _is_beating(rest), "the connector does not run", START_LIMIT_S, pause, alive)


def _format(java: str, classpath: str, scratch: Path, log: Path) -> None:
    tool = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(scratch / "broker.properties")]
    with log.open("ab") as output:
        command = [java, *JVM, "-cp", classpath, *tool]
        subprocess.run(command, stdout=output, stderr=output, timeout=START_LIMIT_S, check=True)


def _broker(port: int, controller: int, data: Path) -> dict[str, object]:
    return {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{HERE}:{controller}",
        "listeners": f"PLAINTEXT://{HERE}:{port},CONTROLLER://{HERE}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{HERE}:{port}",
        "controller.listener.names": "CONTROLLER",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "log.dirs": data,
        "log.cleaner.dedupe.buffer.size": 4 << 20,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 1,
        "group.initial.rebalance.delay.ms": 0,
    }


def _connect(broker: int, rest: int) -> dict[str, object]:
    return {
        "bootstrap.servers": f"{HERE}:{broker}",
        "group.id": "archive",
        "listeners": f"http://{HERE}:{rest}",
        "key.converter": BYTES,
        "value.converter": BYTES,
        "plugin.discovery": "service_load",
        "exactly.once.source.support": "enabled",
        **{f"{kind}.storage.topic": f"{kind}.internal" for kind in ("config", "offset", "status")},
        **{f"{kind}.storage.replication.factor": 1 for kind in ("config", "offset", "status")},
        **{f"{kind}.storage.partitions": 1 for kind in ("offset", "status")},
    }


def _heartbeat(broker: int) -> dict[str, str]:
    address = f"{HERE}:{broker}"
    return {
        "connector.class": "org.apache.kafka.connect.mirror.MirrorHeartbeatConnector",
        "source.cluster.alias": "a",
        "target.cluster.alias": "b",
        "source.cluster.bootstrap.servers": address,
        "target.cluster.bootstrap.servers": address,
        "heartbeats.topic.replication.factor": "1",
        "exactly.once.support": "requested",
    }


def _is_beating(rest: int) -> bool:
    code, body = _get(rest, "/connectors/beat/status")
    return code == 200 and [task.get("state") for task in body.get("tasks", [])] == ["RUNNING"]


def _lines(properties: dict[str, object]) -> str:
    return "".join(f"{key}={value}\n" for key, value in properties.items())


def _free_ports(count: int) -> Sequence[int]:
    with closing(_Sockets(count)) as sockets:
        return sockets.ports


class _Sockets:
    """Some sockets bound at once, so that their ports differ."""

    def __init__(self, count: int) -> None:
        self._all = [socket.create_server((HERE, 0)) for _ in range(count)]
        self.ports = [one.getsockname()[1] for one in self._all]

    def close(self) -> None:
        for one in self._all:
            one.close()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HERE, port), 1):
        return True
    return False


def _get(port: int, path: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    try:
        return _request(port, "GET", path, None)
    except (OSError, http.client.HTTPException, ValueError):
        return 0, {}


def _post(port: int, path: str, body: object) -> None:
    code, answer = _request(port, "POST", path, json.dumps(body))
    if code >= 300:
        raise RuntimeError(f"Connect answered {code}: {answer}")


def _request(port: int, method: str, path: str, body: str | None) -> tuple[int, dict[str, list[dict[str, str]]]]:
    with closing(http.client.HTTPConnection(HERE, port, timeout=30)) as connection:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def _until(
    true: Callable[[], bool], complaint: str, limit_s: float, pause: Pause, alive: Callable[[], bool] = lambda: True
) -> None:
    end = time.monotonic() + limit_s
    while not true():
        if not alive():
            raise RuntimeError(f"{complaint}: it ended")
        if time.monotonic() > end:
            raise TimeoutError(f"{complaint} after {limit_s:.0f} s")
        pause(0.1)
