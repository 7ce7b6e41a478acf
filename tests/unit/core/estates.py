"""A good estate to break in one place at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

from dcdr.model import (
    Connector,
    ConnectorState,
    FenceRules,
    Gate,
    GroupInfo,
    GroupKind,
    LeaseRecord,
    LogEnds,
    Timing,
    Topic,
    TopicPartition,
)
from dcdr.plan import Estate, MemberView
from dcdr.ports import EndpointView, LeaseStore, Member, Scope
from tests.unit.core.test_lint import SAFE

RUNNING, STOPPED = ConnectorState.RUNNING, ConnectorState.STOPPED
TIMING = Timing(
    drain_deadline=timedelta(seconds=60),
    operation_deadline=timedelta(minutes=5),
    quiet=timedelta(milliseconds=50),
    lagging_group_budget=1000,
)
RESERVED = frozenset({"connect-configs", "dcdr-canary.internal", "dcdr-ledger.internal"})


class _Nobody:
    """Stands where examine() has no business."""


def scope() -> Scope:
    nobody = cast(Member, _Nobody())
    return Scope(
        name="lab",
        members={"dc-a": nobody, "dc-b": nobody},
        arbiters=("dc-c",),
        lease=cast(LeaseStore, _Nobody()),
        endpoint=cast(Any, _Nobody()),
        timing=TIMING,
        entry_lag_limit=100,
        own_groups={"connect-dc-a": "the workers of dc-a's Connect", "connect-dc-b": "the workers of dc-b's Connect"},
        group_exclude=("__.*",),
        source_connector="mm2-source.{source}-to-{target}",
        checkpoint_connector="mm2-checkpoint.{source}-to-{target}",
        heartbeat_connector="mm2-heartbeat.{source}-to-{target}",
    )


def topic(name: str, partitions: int = 2, **config: str) -> Topic:
    defaults = {"max.message.bytes": "1048588", "cleanup.policy": "delete", "message.timestamp.type": "CreateTime"}
    return Topic(name, f"id-{name}", partitions, defaults | {k.replace("_", "."): v for k, v in config.items()})


TOPICS = {t.name: t for t in (topic("orders"), topic("prices", 1, cleanup_policy="compact"), topic("connect-configs"))}


def connector(kind: str, source: str, target: str, state: ConnectorState, **changes: str) -> Connector:
    tasks = (RUNNING, RUNNING) if state is RUNNING else ()
    aliases = {"source.cluster.alias": source, "target.cluster.alias": target}
    return Connector(f"mm2-{kind}.{source}-to-{target}", state, tasks, {**SAFE, **aliases, **changes})


def connectors(source: str, target: str, state: ConnectorState) -> dict[str, Connector]:
    found = (connector(kind, source, target, state) for kind in ("source", "checkpoint", "heartbeat"))
    return {held.name: held for held in found}


OLD = MemberView(
    rules=FenceRules(authorizer=True, default_deny=True, users_denied=False, groups_denied=False),
    brokers=(1, 2),
    user_gates={1: Gate.OPEN, 2: Gate.OPEN},
    group_gates={1: Gate.OPEN, 2: Gate.OPEN},
    topics=TOPICS,
    connectors=connectors("dc-b", "dc-a", STOPPED),
    groups=(
        GroupInfo("billing", GroupKind.CONSUMER, "STABLE", 3),
        GroupInfo("connect-dc-a", GroupKind.CONSUMER, "", 1),
    ),
    reserved=RESERVED,
)
NEW = MemberView(
    rules=FenceRules(authorizer=True, default_deny=True, users_denied=True, groups_denied=True),
    brokers=(1, 2),
    user_gates={1: Gate.CLOSED, 2: Gate.CLOSED},
    group_gates={1: Gate.CLOSED, 2: Gate.CLOSED},
    topics=TOPICS,
    connectors=connectors("dc-a", "dc-b", RUNNING),
    groups=(GroupInfo("billing", GroupKind.CONSUMER, "EMPTY", 0),),
    reserved=RESERVED,
)
P0, P1, PRICES = TopicPartition("orders", 0), TopicPartition("orders", 1), TopicPartition("prices", 0)
GOOD = Estate(
    lease=LeaseRecord(scope="lab", holder="dc-a", epoch=7, turn=3),
    endpoint=EndpointView("dc-a", 7),
    members={"dc-a": OLD, "dc-b": NEW},
    mirrored={P0: 98, PRICES: 7},
    ends={P0: LogEnds(0, 100, 100, 100), P1: LogEnds(0, 0, 0, 0), PRICES: LogEnds(4, 9, 9, 9)},
)


def old(**changes: Any) -> Estate:
    """The good estate with another active side."""
    return replace(GOOD, members={"dc-a": replace(OLD, **changes), "dc-b": NEW})


def new(**changes: Any) -> Estate:
    """The good estate with another standby."""
    return replace(GOOD, members={"dc-a": OLD, "dc-b": replace(NEW, **changes)})


def with_topic(side: Mapping[str, Topic], *more: Topic, without: str = "") -> dict[str, Topic]:
    return {name: held for name, held in side.items() if name != without} | {held.name: held for held in more}


def with_connector(side: Mapping[str, Connector], name: str, **changes: Any) -> dict[str, Connector]:
    return {**side, name: side[name]._replace(**changes)}
