"""The lab's Connect workers and MirrorMaker 2 connectors.

The baseline is that of a mirror which must lose, repeat and reorder nothing: identity names, byte converters, read
committed, exactly once required, no ACL sync, offset syncs on the target. Credentials are references that Connect
resolves by itself (FileConfigProvider), so neither REST nor the config topic shows them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from lab.addresses import MEMBERS, Plan, other
from lab.errors import LabError
from lab.kafka import CANARY_GROUP, jaas
from lab.waiting import wait_for

CONFIGS_TOPIC, OFFSETS_TOPIC, STATUS_TOPIC = (
    "connect-configs.internal",
    "connect-offsets.internal",
    "connect-status.internal",
)
BYTES = "org.apache.kafka.connect.converters.ByteArrayConverter"
KINDS = ("source", "checkpoint", "heartbeat")
SOURCE_TASKS = 2
_CONFIGS_LEFT_OUT = (
    r"follower\.replication\.throttled\.replicas",
    r"leader\.replication\.throttled\.replicas",
    r"message\.timestamp\..*",
    r"unclean\.leader\.election\.enable",
    r"min\.insync\.replicas",
)


def own_topics(member: str) -> tuple[str, ...]:
    """What a worker and its connectors write for themselves on `member`, whichever side is active."""
    syncs = (f"mm2-offset-syncs.{other(member)}.internal", f"{other(member)}.checkpoints.internal")
    return (CONFIGS_TOPIC, OFFSETS_TOPIC, STATUS_TOPIC, "heartbeats", *syncs)


def group_id(member: str) -> str:
    return f"connect-{member}"


def connector_name(kind: str, source: str) -> str:
    return f"mm2-{kind}.{source}-to-{other(source)}"


def credentials_file(password: str) -> str:
    """A properties file with one key, `jaas`; the value's quotes need no escape in that format."""
    return f"jaas={jaas('mirror', password)}\n"


def worker_properties(plan: Plan, member: str, secrets: Path, password: str) -> str:
    """`connect-distributed.properties` of a member's worker."""
    rest = plan.ports[f"connect-{member}/rest"]
    client = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.jaas.config": jaas("mirror", password),
    }
    lines: dict[str, str] = {
        "bootstrap.servers": ",".join(map(str, plan.kafka(member, "INTERNAL"))),
        "group.id": group_id(member),
        "listeners": f"http://{rest}",
        "rest.advertised.host.name": rest.host,
        "rest.advertised.port": str(rest.port),
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        **client,
        **{f"{prefix}.{key}": value for prefix in ("producer", "consumer", "admin") for key, value in client.items()},
        "exactly.once.source.support": "enabled",
        "plugin.discovery": "service_load",
        "config.providers": "file",
        "config.providers.file.class": "org.apache.kafka.common.config.provider.FileConfigProvider",
        "config.providers.file.param.allowed.paths": str(secrets),
        "config.storage.topic": CONFIGS_TOPIC,
        "config.storage.replication.factor": "-1",
        "status.storage.topic": STATUS_TOPIC,
        "status.storage.replication.factor": "-1",
        "status.storage.partitions": "1",
        "offset.storage.topic": OFFSETS_TOPIC,
        "offset.storage.replication.factor": "-1",
        "offset.storage.partitions": "3",
        # Exactly-once writes an offset with every poll, and each GET of offsets reads the topic to its end: without
        # these it takes seconds after a while.
        "offset.storage.segment.bytes": "1048576",
        "offset.storage.segment.ms": "10000",
        "offset.storage.min.cleanable.dirty.ratio": "0.01",
        "offset.flush.interval.ms": "5000",
        "offset.flush.timeout.ms": "10000",
        # A stop that meets a task which is starting, with exactly-once, blocks the whole worker for this time.
        "task.shutdown.graceful.timeout.ms": "10000",
        "scheduled.rebalance.max.delay.ms": "3000",
        "session.timeout.ms": "6000",
        "heartbeat.interval.ms": "1000",
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def connectors(plan: Plan, source: str, credentials: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(name, configuration) of the three connectors of one direction; they run on the target's Connect."""
    target = other(source)
    common = {
        "source.cluster.alias": source,
        "target.cluster.alias": target,
        "source.cluster.bootstrap.servers": ",".join(map(str, plan.kafka(source, "MIRROR"))),
        "target.cluster.bootstrap.servers": ",".join(map(str, plan.kafka(target, "INTERNAL"))),
        **{
            f"{side}.cluster.{key}": value
            for side in ("source", "target")
            for key, value in {
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "PLAIN",
                "sasl.jaas.config": f"${{file:{credentials}:jaas}}",
            }.items()
        },
        # A connector's stop waits for what it is asking the source: a dead one keeps it for a minute at the defaults.
        **{f"source.admin.{key}": "5000" for key in ("request.timeout.ms", "default.api.timeout.ms")},
        "replication.policy.class": "org.apache.kafka.connect.mirror.IdentityReplicationPolicy",
        "key.converter": BYTES,
        "value.converter": BYTES,
        "header.converter": BYTES,
        "topics": ".*",
        "topics.exclude": ",".join((r".*\.internal", "__.*", CONFIGS_TOPIC, OFFSETS_TOPIC, STATUS_TOPIC, "heartbeats")),
        "offset-syncs.topic.location": "target",
        "offset-syncs.topic.replication.factor": "-1",
        "errors.tolerance": "none",
    }
    yield (
        connector_name("source", source),
        common
        | {
            "connector.class": "org.apache.kafka.connect.mirror.MirrorSourceConnector",
            "tasks.max": str(SOURCE_TASKS),
            "exactly.once.support": "required",
            "source.consumer.isolation.level": "read_committed",
            "source.consumer.max.poll.records": "2000",
            "source.consumer.fetch.max.wait.ms": "40",
            "source.consumer.fetch.min.bytes": "65536",
            "heartbeats.replication.enabled": "false",
            "sync.topic.acls.enabled": "false",
            "sync.topic.configs.enabled": "true",
            "config.properties.exclude": ",".join(_CONFIGS_LEFT_OUT),
            "refresh.topics.interval.seconds": "30",
            "replication.factor": "-1",
            "offset.lag.max": "100",
        },
    )
    yield (
        connector_name("checkpoint", source),
        common
        | {
            "connector.class": "org.apache.kafka.connect.mirror.MirrorCheckpointConnector",
            "tasks.max": "1",
            "groups": ".*",
            # Exact names: MM2's own `connect-.*` would leave users' sink connectors without a checkpoint.
            "groups.exclude": ",".join((r"console-consumer-.*", *map(group_id, MEMBERS), CANARY_GROUP)),
            "emit.checkpoints.enabled": "true",
            "emit.checkpoints.interval.seconds": "2",
            "sync.group.offsets.enabled": "true",
            "sync.group.offsets.interval.seconds": "2",
            "refresh.groups.interval.seconds": "5",
            "checkpoints.topic.replication.factor": "-1",
        },
    )
    yield (
        connector_name("heartbeat", source),
        common
        | {
            "connector.class": "org.apache.kafka.connect.mirror.MirrorHeartbeatConnector",
            "tasks.max": "1",
            "emit.heartbeats.enabled": "true",
            "emit.heartbeats.interval.seconds": "5",
            "heartbeats.topic.replication.factor": "-1",
        },
    )


def is_ready(url: str) -> bool:
    """The worker has joined its group and answers for its connectors; until then every path is 404 or 500."""
    try:
        return httpx.get(f"{url}/connectors", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def request(method: str, url: str, stop: threading.Event | None = None, **arguments: Any) -> httpx.Response:
    """One call that is repeated while a rebalance is pending (409), the worker is starting, or it timed out (500).

    Raises: LabError on any other refusal, or when 60 s are up.
    """
    last = "no answer"

    def attempt() -> httpx.Response | None:
        nonlocal last
        try:
            answer = httpx.request(method, url, timeout=30.0, **arguments)
        except httpx.HTTPError as error:
            last = repr(error)
            return None
        transient = answer.status_code in (409, 500, 503)
        if transient and "already exists" not in answer.text and "taskConfigGeneration" not in answer.text:
            last = f"{answer.status_code} {answer.text}"
            return None
        return answer

    return wait_for(f"{method} {url}", attempt, 60.0, stop=stop, hint=lambda: f": {last}")


def create(url: str, name: str, config: Mapping[str, str], state: str, stop: threading.Event | None = None) -> None:
    """Create a connector in a target state; one that exists keeps its state and configuration.

    Raises: LabError with Connect's own words when it is refused.
    """
    answer = request(
        "POST", f"{url}/connectors", stop, json={"name": name, "initial_state": state, "config": dict(config)}
    )
    if answer.status_code not in (200, 201, 409):
        raise LabError(f"Connect refused {name}: {answer.status_code} {answer.text}")


def ensure_stopped(url: str, name: str, stop: threading.Event | None = None) -> None:
    """Ask for STOPPED, unless that is what it is asked to be already.

    In Connect 4.3.1 with exactly-once, a second stop of a stopped connector leaves a pending fencing round without a
    task generation: every later change of its offsets answers 500 until it has run tasks again; a restart of the
    worker does not help.
    """
    answer = request("GET", f"{url}/connectors/{name}/status", stop)
    if answer.status_code != 200 or answer.json()["connector"]["state"] != "STOPPED":
        request("PUT", f"{url}/connectors/{name}/stop", stop)


def status(url: str, timeout_s: float = 5.0) -> dict[str, dict[str, Any]]:
    """`/connectors?expand=status`: name -> status; empty when Connect does not answer."""
    try:
        answer = httpx.get(f"{url}/connectors", params={"expand": "status"}, timeout=timeout_s)
        return {name: entry["status"] for name, entry in answer.raise_for_status().json().items()}
    except (httpx.HTTPError, KeyError, ValueError):
        return {}


def restart_failed(url: str, name: str, entry: Mapping[str, Any] | None) -> None:
    """Restart what has failed of a connector: a task does not try again by itself."""
    parts = [(entry or {}).get("connector", {}), *(entry or {}).get("tasks", [])]
    if any(part.get("state") == "FAILED" for part in parts):
        request("POST", f"{url}/connectors/{name}/restart", params={"includeTasks": "true", "onlyFailed": "true"})


def standing_state(source: str, active: str) -> str:
    return "RUNNING" if source == active else "STOPPED"


def steered_by_offsets(name: str) -> bool:
    """Only the source connector starts from its stored offsets; the others store some and never read them."""
    return name.startswith("mm2-source.")


def has_state(name: str, entry: Mapping[str, Any] | None, wanted: str) -> bool:
    """The connector and all its tasks are there: STOPPED with none, or RUNNING.

    A checkpoint connector runs without a task as long as no consumer group exists.
    """
    if entry is None or entry.get("connector", {}).get("state") != wanted:
        return False
    tasks = [task["state"] for task in entry.get("tasks", [])]
    if wanted == "STOPPED":
        return not tasks
    return all(task == "RUNNING" for task in tasks) and (bool(tasks) or name.startswith("mm2-checkpoint."))


def directions() -> Iterator[tuple[str, str]]:
    """(source, target) both ways."""
    for source in MEMBERS:
        yield source, other(source)
