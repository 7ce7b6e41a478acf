"""The lab's Kafka clusters: broker files, users, access rules and topics.

Every listener speaks SASL/PLAIN. CLIENT, MIRROR and CONTROL are advertised through links, INTERNAL and CONTROLLER
stay inside the site. `app` is an ordinary user with ALLOW rules that are the same on both clusters; what is refused to
it is refused to users.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from lab import tls
from lab.addresses import LISTENERS, Address, Plan, brokers
from lab.errors import LabError
from lab.record import Home

SUPER_USERS = ("admin", "mirror", "broker")
USERS = ("admin", "mirror", "broker", "canary", "mirror-canary", "app", "app2")
MIRRORS = ("mirror", "mirror-canary")
"""Who passes the mirror's gate: MirrorMaker 2, and the product's canary that shows whether it is open."""
CANARY_TOPIC = "dcdr-canary.internal"
CANARY_GROUP = "dcdr-canary.internal"
LEDGER_TOPIC = "dcdr-ledger.internal"
HEALTH_TOPIC = "dcdr-health.internal"
WITNESS_TOPIC = "lab-witness.internal"
"""The prober's. To the gates a topic like any other, but for `admin`, who may make it on a closed side too."""
USER_TOPIC_PREFIX = "lab-"
"""Topics that tests make up as they go may be used by `app` and `app2` when their names start so."""

HOSTS = "127.0.0.1 localhost\n"
"""What the JVMs know of names. A broker looks its own address up backwards for every new connection, on the thread that
serves all the others (SaslServerAuthenticator, `serverAddress().getHostName()`); a name server that drops one such
question stops them for 5 s, as was seen at the reconnections of a switchover."""
JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true", "-XX:-UsePerfData")
REQUEST_LIMIT_S = 15.0


@dataclass(frozen=True)
class TopicSpec:
    """A topic of the lab's estate. `purged`: it is filled and then emptied, so that log start = log end > 0."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)
    purged: bool = False


ESTATE = (
    TopicSpec("orders", 12),
    TopicSpec("clicks", 6),
    TopicSpec(
        "profiles",
        3,
        {
            "cleanup.policy": "compact",
            "segment.bytes": "1048576",
            "segment.ms": "10000",
            "min.cleanable.dirty.ratio": "0.01",
        },
    ),
    TopicSpec("payments", 4),
    TopicSpec("empty", 2),
    TopicSpec("purged", 2, purged=True),
)
"""What users' applications use; created on the active side, and by MirrorMaker 2 on the other."""

PURGED_RECORDS = 100
"""Records written to each partition of a purged topic before they are deleted."""


def new_cluster_id() -> str:
    """22 characters, as Kafka's Uuid prints 16 random bytes; never with a leading dash, as Kafka sees to it as well."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def jaas(username: str, password: str, accepted: Mapping[str, str] | None = None) -> str:
    """A PLAIN login line; with `accepted` (user -> password) it is a server's."""
    users = "".join(f' user_{name}="{secret}"' for name, secret in (accepted or {}).items())
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    return f'{module} required username="{username}" password="{password}"{users};'


def gate_properties(
    plan: Plan, member: str, scope: str, name: str, home: Home, own_topics: Iterable[str], group_id: str
) -> dict[str, str]:
    """Lines with which a broker runs our authorizer (`authorizer/README.md`) and asks its site's agent."""
    prefix = "dcdr.authorizer."
    kept = (CANARY_TOPIC, LEDGER_TOPIC, HEALTH_TOPIC, WITNESS_TOPIC)
    return {
        "authorizer.class.name": "dcdr.authorizer.MarkerAuthorizer",
        prefix + "scope": scope,
        prefix + "dc": member,
        prefix + "agents": f"https://{plan.agent(name)}",
        **{f"{prefix}tls.{word}": str(file) for word, file in tls.files(home, name).items()},
        prefix + "mirror.principals": ";".join(f"User:{user}" for user in MIRRORS),
        prefix + "epoch.file": str(home.data / f"{name}.epoch"),
        prefix + "internal.topics": ",".join(own_topics),
        prefix + "internal.transactional.ids": f"connect-cluster-{group_id}",
        prefix + "fencing.principals": "User:admin",
        prefix + "exempt": ";".join(f"User:admin@{topic}" for topic in kept),
        prefix + "trace.file": str(home.trace(name)),
    }


def server_properties(
    plan: Plan, member: str, number: int, data: Path, passwords: Mapping[str, str], gates: Mapping[str, str]
) -> str:
    """`server.properties` of one combined broker and controller; `gates` replaces the plain authorizer."""
    name = brokers(member, plan.brokers)[number - 1]
    bound = {listener: plan.ports[f"{name}/{listener.lower()}"] for listener in LISTENERS}
    advertised = {
        listener: plan.kafka(member, listener)[number - 1] for listener in LISTENERS if listener != "CONTROLLER"
    }
    voters = ",".join(f"{node}@{address}" for node, address in enumerate(plan.kafka(member, "CONTROLLER"), 1))
    replicas = str(plan.brokers)
    in_sync = "2" if plan.brokers >= 3 else "1"
    login = jaas("broker", passwords["broker"], passwords)
    lines: dict[str, str] = {
        "process.roles": "broker,controller",
        "node.id": str(number),
        "controller.quorum.voters": voters,
        "listeners": ",".join(f"{listener}://{address}" for listener, address in bound.items()),
        "advertised.listeners": ",".join(f"{listener}://{address}" for listener, address in advertised.items()),
        "listener.security.protocol.map": ",".join(f"{listener}:SASL_PLAINTEXT" for listener in LISTENERS),
        "inter.broker.listener.name": "INTERNAL",
        "controller.listener.names": "CONTROLLER",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.mechanism.controller.protocol": "PLAIN",
        **{f"listener.name.{listener.lower()}.plain.sasl.jaas.config": login for listener in LISTENERS},
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": ";".join(f"User:{user}" for user in SUPER_USERS),
        "allow.everyone.if.no.acl.found": "false",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "num.partitions": "1",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        # A lone broker that was killed and starts again has to wait until its controller, itself, gives up the one it
        # was: at the default, nine seconds.
        **({"broker.session.timeout.ms": "4000", "broker.heartbeat.interval.ms": "1000"} if plan.brokers == 1 else {}),
        # An ACL change costs 4 ms instead of 28: the controller does not wait for company.
        "controller.quorum.append.linger.ms": "0",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "background.threads": "2",
        "log.cleaner.threads": "1",
        "log.cleaner.dedupe.buffer.size": "2097152",
        "log.cleaner.io.buffer.size": "262144",
        "log.cleaner.backoff.ms": "2000",
        "log.initial.task.delay.ms": "5000",
        # Where a log starts after DeleteRecords is on disk only then. At the default, a minute, a broker that is killed
        # comes back with records that the other side has deleted too, and a drain takes both for different histories.
        "log.flush.start.offset.checkpoint.interval.ms": "1000",
        "log.index.size.max.bytes": "1048576",
        "group.coordinator.threads": "1",
        "controlled.shutdown.enable": "true" if plan.brokers > 1 else "false",
        **gates,
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


LOG4J = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %-5p [%t] %c{1}: %m%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
logger.config.name = org.apache.kafka.common.config.AbstractConfig
logger.config.level = warn
logger.reflections.name = org.reflections
logger.reflections.level = error
logger.clients.name = org.apache.kafka.clients
logger.clients.level = warn
logger.consumer.name = org.apache.kafka.clients.consumer
logger.consumer.level = info
"""


def client_config(bootstrap: Sequence[Address], username: str, password: str) -> dict[str, Any]:
    """librdkafka settings of one user."""
    return {
        "bootstrap.servers": ",".join(map(str, bootstrap)),
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": username,
        "sasl.password": password,
        "log_level": 0,
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 200,
        "socket.connection.setup.timeout.ms": 3000,
    }


def is_ready(admin: AdminClient, broker_count: int) -> bool:
    """All brokers answer for the cluster, and somebody leads it."""
    try:
        description = admin.describe_cluster(request_timeout=2.0).result(3.0)
    except (KafkaException, TimeoutError):
        return False
    return len(description.nodes) == broker_count and description.controller is not None


def settle(futures: Mapping[Any, Future[Any]], tolerated: Iterable[int] = ()) -> None:
    """Wait for all answers of one admin call.

    Raises: LabError naming what was refused and why, apart from the error codes in `tolerated`.
    """
    refused = []
    for what, future in futures.items():
        try:
            future.result(REQUEST_LIMIT_S)
        except KafkaException as error:
            if error.args[0].code() not in tolerated:
                refused.append(f"{what}: {error.args[0].str()}")
    if refused:
        raise LabError("Kafka refused: " + "; ".join(refused))


def _rule(
    kind: ResourceType, name: str, pattern: ResourcePatternType, user: str, *operations: AclOperation
) -> list[AclBinding]:
    allow = AclPermissionType.ALLOW
    return [AclBinding(kind, name, pattern, f"User:{user}", "*", operation, allow) for operation in operations]


def standing_rules() -> list[AclBinding]:
    """ALLOW rules of the users, the same on both clusters whatever the direction."""
    topic, group, transaction = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID
    literal, prefixed = ResourcePatternType.LITERAL, ResourcePatternType.PREFIXED
    op = AclOperation
    rules: list[AclBinding] = []
    for user in ("app", "app2"):
        for spec in ESTATE:
            rules += _rule(
                topic, spec.name, literal, user, op.READ, op.WRITE, op.DESCRIBE, op.CREATE, op.DELETE, op.ALTER
            )
        rules += _rule(
            topic, USER_TOPIC_PREFIX, prefixed, user, op.READ, op.WRITE, op.DESCRIBE, op.CREATE, op.DELETE, op.ALTER
        )
        rules += _rule(group, "*", literal, user, op.READ, op.DESCRIBE, op.DELETE)
        rules += _rule(transaction, "*", literal, user, op.WRITE, op.DESCRIBE)
    rules += _rule(topic, CANARY_TOPIC, literal, "canary", op.READ, op.WRITE, op.DESCRIBE)
    rules += _rule(topic, CANARY_TOPIC, literal, "mirror-canary", op.WRITE)
    rules += _rule(group, CANARY_GROUP, literal, "canary", op.READ, op.DESCRIBE)
    return rules


def fence_rules(users: bool = True) -> list[AclBinding]:
    """The DENY rules of a closed cluster: users' writes and topic changes (in ACL mode), and commits of every group."""
    deny, literal = AclPermissionType.DENY, ResourcePatternType.LITERAL
    op = AclOperation
    operations = (op.WRITE, op.CREATE, op.DELETE, op.ALTER) if users else ()
    return [
        *(AclBinding(ResourceType.TOPIC, "*", literal, "User:*", "*", operation, deny) for operation in operations),
        AclBinding(ResourceType.GROUP, "*", literal, "User:*", "*", op.READ, deny),
    ]


def create_rules(admin: AdminClient, rules: Sequence[AclBinding]) -> None:
    """Idempotent: a rule that stands already is left as it is."""
    settle(admin.create_acls(list(rules), request_timeout=REQUEST_LIMIT_S))


def delete_rules(admin: AdminClient, permission: AclPermissionType = AclPermissionType.ANY) -> None:
    """Remove every rule of the cluster, or every one of a permission."""
    settle(admin.delete_acls([_any_rule(permission)], request_timeout=REQUEST_LIMIT_S))


def deny_rules(admin: AdminClient) -> list[AclBinding]:
    """DENY rules that stand in the cluster. Raises: KafkaException when it does not answer in 3 s."""
    found = admin.describe_acls(_any_rule(AclPermissionType.DENY), request_timeout=3.0).result(4.0)
    return list(found)


def _any_rule(permission: AclPermissionType) -> AclBindingFilter:
    # None stands for "any", which the type stubs do not know.
    nothing: Any = None
    return AclBindingFilter(
        ResourceType.ANY, nothing, ResourcePatternType.ANY, nothing, nothing, AclOperation.ANY, permission
    )


def create_topics(admin: AdminClient, topics: Sequence[NewTopic]) -> None:
    """Idempotent: a topic that is there already is left as it is."""
    settle(
        admin.create_topics(list(topics), operation_timeout=REQUEST_LIMIT_S, request_timeout=REQUEST_LIMIT_S),
        tolerated=(KafkaError.TOPIC_ALREADY_EXISTS,),
    )


def own_topics(broker_count: int) -> list[NewTopic]:
    """The topics of product and prober, on every cluster: a partition of the canary and one of the prober on each
    broker, the ledger, and the agent's."""
    assignment = [[number] for number in range(1, broker_count + 1)]
    return [
        *(
            NewTopic(
                name,
                num_partitions=broker_count,
                replica_assignment=assignment,
                config={"min.insync.replicas": "1", "retention.ms": "3600000"},
            )
            for name in (CANARY_TOPIC, WITNESS_TOPIC)
        ),
        NewTopic(
            LEDGER_TOPIC,
            num_partitions=1,
            replication_factor=broker_count,
            config={
                "cleanup.policy": "compact",
                "segment.bytes": "16777216",  # the journal's old versions go with the segment
                "min.insync.replicas": "2" if broker_count >= 3 else "1",
            },
        ),
        NewTopic(
            HEALTH_TOPIC,
            num_partitions=1,
            replication_factor=broker_count,
            config={"retention.ms": "3600000", "min.insync.replicas": "2" if broker_count >= 3 else "1"},
        ),
    ]


def estate_topics(broker_count: int) -> list[NewTopic]:
    """The users' topics."""
    safety = {"min.insync.replicas": "2"} if broker_count >= 3 else {}
    return [
        NewTopic(
            spec.name, num_partitions=spec.partitions, replication_factor=broker_count, config={**spec.config, **safety}
        )
        for spec in ESTATE
    ]
