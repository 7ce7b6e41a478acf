"""The stand-in's world as data, and the rules it obeys: logs, fences, transactions, mirrors, groups.

Plain mutable models that go to a file and come back; no I/O, no clock, no randomness here. Time is a *tick*: every
call of a port is one, and what a real server does by itself (copy, write a marker, end a task, apply an ACL) happens
in ticks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from dcdr.marker import Role, role_of
from dcdr.model import (
    ConnectorState,
    FenceRules,
    Fork,
    Gate,
    GroupKind,
    LeaseRecord,
    LogEnds,
    Phase,
    TopicPartition,
)

STALE = "retired"
"""A topic that exists nowhere any more, but still in the waiting mirror's stored offsets."""

CHECKPOINT_LAG = 3
"""Visible records by which the stand-in's MM2 places a group too early: it never overestimates, and re-reads."""


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")


class Entry(NamedTuple):
    """One offset: a record (`value`), or a transaction marker (`value` None)."""

    offset: int
    value: str | None
    txn: str | None = None
    fate: Literal["kept", "open", "aborted"] = "kept"


class PartitionLog(_State):
    """One partition. `next` is its LEO; `stalled_at` is where the HW stands while a follower is frozen."""

    leader: int
    leader_epoch: int = 3
    start: int = 0
    next: int = 0
    stalled_at: int | None = None
    entries: list[Entry] = []
    writers: dict[str, float] = {}
    """Last write of each producer, seconds since the Unix epoch."""

    @property
    def ends(self) -> LogEnds:
        hw = self.next if self.stalled_at is None else self.stalled_at
        lso = min((e.offset for e in self.entries if e.fate == "open"), default=hw)
        return LogEnds(self.start, self.next, hw, min(lso, hw), self.leader_epoch)

    def append(self, value: str | None, txn: str | None = None, fate: Literal["kept", "open"] = "kept") -> int:
        self.entries.append(Entry(self.next, value, txn, fate))
        self.next += 1
        return self.next - 1

    def decide(self, txn: str, fate: Literal["kept", "aborted"]) -> list[str]:
        """End `txn` here: its open records get `fate`, and a marker follows. Returns their values."""
        ended = [e.value for e in self.entries if e.txn == txn and e.fate == "open" and e.value is not None]
        if ended:
            self.entries = [e._replace(fate=fate) if e.txn == txn and e.fate == "open" else e for e in self.entries]
            self.append(None, txn)
        return ended

    def visible(self, first: int, end: int) -> Iterator[Entry]:
        """What read_committed sees in `[first, end)`."""
        stop = min(end, self.ends.lso)
        return (e for e in self.entries if first <= e.offset < stop and e.value is not None and e.fate == "kept")

    def truncate(self, start: int) -> None:
        """DeleteRecords, or retention."""
        self.start = start
        self.entries = [e for e in self.entries if e.offset >= start]


class TopicLog(_State):
    topic_id: str
    partitions: list[PartitionLog]
    config: dict[str, str]


class Broker(_State):
    """A broker applies an ACL change only after it was asked `lag` more times: metadata travels."""

    frozen: bool = False
    lag: int = 0
    users_denied: bool = False
    groups_denied: bool = False
    mirror_denied: bool = False


class Group(_State):
    kind: GroupKind = GroupKind.CONSUMER
    members: int = 0
    offsets: dict[str, dict[int, tuple[int, str]]] = {}


class Transaction(_State):
    """`fenced`: somebody took the id over; the producer that began under it may never write again."""

    producer_id: int
    fenced: bool = False


class MirrorConnector(_State):
    """A connector of one Connect cluster. `wanted` is its target state; tasks follow in ticks."""

    kind: Literal["source", "checkpoint", "heartbeat"]
    source: str
    config: dict[str, str]
    wanted: ConnectorState = ConnectorState.STOPPED
    tasks: list[ConnectorState] = []
    trace: str = ""
    offsets: dict[str, dict[str, dict[int, int]]] = {}
    """Cluster alias -> topic -> partition -> offset of the last copied record."""
    known: dict[str, int] = {}
    """Topics it loaded (name -> partitions): newer ones stay unseen until a refresh or a restart."""
    unmarked: list[tuple[str, int, str]] = []
    """Written, decided, and the marker not there yet: topic, partition, transactional id."""
    leaves_status: bool = False
    """The next stop leaves its tasks' last status behind, as Connect does when it gives a task up."""
    left: list[ConnectorState] = []

    @property
    def shown(self) -> list[ConnectorState]:
        """The tasks' states as Connect tells them."""
        return self.tasks or self.left


class Cluster(_State):
    """One data center: Kafka and the Connect cluster that mirrors towards it."""

    brokers: dict[int, Broker]
    super_users: list[str]
    authorizer: bool = True
    default_deny: bool = True
    users_denied: bool = False
    groups_denied: bool = False
    mirror_denied: bool = False
    topics: dict[str, TopicLog] = {}
    groups: dict[str, Group] = {}
    transactions: dict[str, Transaction] = {}
    ledger: dict[str, bytes] = {}
    connectors: dict[str, MirrorConnector] = {}
    connect_group_id: str
    unreachable: bool = False
    dead: bool = False
    """Every process of the site is gone: nobody writes there, whatever its rules say."""
    task_ticks: int = 1
    """Ticks before tasks have ended (stop) or begun (resume)."""
    pending: dict[str, int] = {}
    """Connector -> ticks left until its tasks follow its target state."""

    def log(self, place: TopicPartition) -> PartitionLog | None:
        topic = self.topics.get(place.topic)
        if topic is None or place.partition >= len(topic.partitions):
            return None
        return topic.partitions[place.partition]

    def logs(self) -> Iterator[tuple[TopicPartition, PartitionLog]]:
        for name, topic in self.topics.items():
            for number, log in enumerate(topic.partitions):
                yield TopicPartition(name, number), log

    def rules(self) -> FenceRules:
        return FenceRules(
            self.authorizer, self.default_deny, self.users_denied, self.groups_denied, frozenset(self.super_users)
        )

    def spread(self) -> None:
        """A change of the rules, or of what the lease says, reaches every broker that does not lag."""
        for broker in self.brokers.values():
            if broker.lag == 0:
                broker.users_denied, broker.groups_denied = self.users_denied, self.groups_denied
                broker.mirror_denied = self.mirror_denied

    def asked(self, broker: Broker) -> None:
        """One more request has reached a lagging broker."""
        if broker.lag > 0:
            broker.lag -= 1
            if broker.lag == 0:
                self.spread()

    def gate(self, number: int, whose: Literal["users", "groups", "mirror"]) -> Gate:
        """A canary's answer from one broker."""
        broker = self.brokers[number]
        if broker.frozen:
            return Gate.UNKNOWN
        denied = {"users": broker.users_denied, "groups": broker.groups_denied, "mirror": broker.mirror_denied}[whose]
        self.asked(broker)
        return Gate.CLOSED if denied and self.authorizer else Gate.OPEN

    @property
    def users_open(self) -> bool:
        """Whether any broker would take a user's record."""
        return not self.dead and (
            not self.authorizer or any(not broker.users_denied for broker in self.brokers.values())
        )


class Fact(NamedTuple):
    """A record an application wrote: where, when in the order of all, and what it was told.

    `acked` is a promise. `open` waits for its transaction; `unknown` got no answer; `gone` was deleted or compacted.
    """

    topic: str
    partition: int
    seq: int
    outcome: Literal["acked", "open", "unknown", "aborted", "gone"]


class Fault(_State):
    """`times` -1: always. `executes`: the effect happens and the answer is lost. `hang`: seconds before anything."""

    method: str
    dc: str | None
    times: int
    after: int = 0
    error: str = "UnreachableError"
    executes: bool = False
    hang: float = 0.0


class World(_State):
    """Everything there is."""

    scope: str
    arbiters: list[str]
    clusters: dict[str, Cluster]
    lease: str | None
    """The record as it stands in the store: JSON, possibly not ours."""
    revision: int = 1
    failover: str = "{}"
    """`FailoverPolicy` as JSON."""
    agents: bool = False
    """Agents keep the lease, so steps ask them by intents."""
    gated: bool = False
    """The mirror's gates follow the lease; the users' ones are rules here in any case."""
    intent: str | None = None
    intent_revision: int = 0
    endpoint_dc: str | None
    endpoint_epoch: int
    settings: dict[str, float]
    facts: dict[str, Fact] = {}
    consumed: dict[str, dict[str, dict[int, int]]] = {}
    """Group -> topic -> partition -> `seq` of the last record it has read and committed."""
    counter: int = 0
    faults: list[Fault] = []
    violations: list[str] = []
    """What was ever wrong, at the moment it was wrong: `kind: text`."""
    mirror_rate: int | None = None
    """Records a task copies per partition and tick; None: all there are; 0: none."""
    kinds: dict[str, int] = {}
    fenced_tasks: int = 0

    def delay(self, method: str, dc: str | None) -> float:
        """Seconds planted before `method`."""
        return sum(fault.hang for fault in self.faults if fault.method == method and fault.dc in (None, dc))

    # --- who is who

    def record(self) -> LeaseRecord | None:
        return None if self.lease is None else LeaseRecord.model_validate_json(self.lease)

    def blame(self, kind: str, text: str) -> None:
        line = f"{kind}: {text}"
        if line not in self.violations:
            self.violations.append(line)

    # --- time

    def tick(self) -> None:
        """What the servers do by themselves between two calls."""
        self._obey()
        for dc, cluster in self.clusters.items():
            self._follow(dc, cluster)
            for name, connector in cluster.connectors.items():
                self.land_markers(cluster, connector)
                alive = [i for i, task in enumerate(connector.tasks) if task is ConnectorState.RUNNING]
                source = self.clusters[connector.source]
                if not alive or cluster.unreachable or source.unreachable:
                    continue
                if connector.kind == "source":
                    self._copy(dc, name, connector)
                elif connector.kind == "checkpoint":
                    _sync_groups(source, cluster)

    def _obey(self) -> None:
        """The mirror's gates become what the lease says; brokers that lag hear of it later."""
        record = self.record() if self.gated and self.lease_is_ours() else None
        if record is None:
            return
        for dc, cluster in self.clusters.items():
            cluster.mirror_denied = role_of(record, dc) is not Role.STANDBY
            cluster.spread()

    def watch(self) -> None:
        """Blame what must never be true, not even for a moment."""
        open_sides = [dc for dc, cluster in self.clusters.items() if cluster.users_open]
        if len(open_sides) > 1:
            self.blame("both-open", f"users can write on {' and '.join(sorted(open_sides))} at once")
        record = self.record() if self.lease_is_ours() else None
        for dc in open_sides:
            if record is not None and record.holder != dc:
                self.blame("open-without-lease", f"{dc} is open while {record.holder} holds the lease")
            for name, connector in self.clusters[dc].connectors.items():
                if connector.kind == "source" and ConnectorState.RUNNING in connector.tasks:
                    self.blame("mirror-into-active", f"{name} can write to {dc} while users can")
        running = {
            (connector.source, dc)
            for dc, cluster in self.clusters.items()
            for connector in cluster.connectors.values()
            if connector.kind == "source" and (connector.tasks or connector.wanted is not ConnectorState.STOPPED)
        }
        for source, target in running:
            if (target, source) in running:
                pair = " and ".join(sorted((f"{source} -> {target}", f"{target} -> {source}")))
                self.blame("both-mirrors", f"{pair} are alive at once")

    def lease_is_ours(self) -> bool:
        try:
            return self.record() is not None
        except ValueError:
            return False

    # --- logs

    def topic(self, dc: str, name: str, partitions: int, config: dict[str, str] | None = None) -> TopicLog:
        """Create or grow a topic, leaders spread over the brokers."""
        cluster = self.clusters[dc]
        defaults = {
            "cleanup.policy": "delete",
            "max.message.bytes": "1048588",
            "message.timestamp.type": "CreateTime",
            "min.insync.replicas": "1",
            "retention.ms": "604800000",
        }
        found = cluster.topics.get(name)
        if found is None:
            self.counter += 1
            found = TopicLog(
                topic_id=f"{dc}.{name}.{self.counter}", partitions=[], config={**defaults, **(config or {})}
            )
            cluster.topics[name] = found
        brokers = sorted(cluster.brokers)
        while len(found.partitions) < partitions:
            found.partitions.append(PartitionLog(leader=brokers[len(found.partitions) % len(brokers)]))
        return found

    def written(self, place: TopicPartition, value: str, outcome: Literal["acked", "open", "unknown"]) -> None:
        self.counter += 1
        self.facts[value] = Fact(place.topic, place.partition, self.counter, outcome)

    def settle(self, values: Iterable[str], outcome: Literal["acked", "aborted", "gone"]) -> None:
        for value in values:
            if value in self.facts:
                self.facts[value] = self.facts[value]._replace(outcome=outcome)

    def end_transaction(self, dc: str, txn: str, fate: Literal["kept", "aborted"]) -> None:
        for _, log in self.clusters[dc].logs():
            self.settle(log.decide(txn, fate), "acked" if fate == "kept" else "aborted")

    def open_transactions(self, dc: str) -> dict[str, list[TopicPartition]]:
        found: dict[str, list[TopicPartition]] = {}
        for place, log in self.clusters[dc].logs():
            for txn in {e.txn for e in log.entries if e.fate == "open" and e.txn is not None}:
                found.setdefault(txn, []).append(place)
        return found

    # --- Connect

    def transactional_id(self, dc: str, connector: str, task: int) -> str:
        return f"{self.clusters[dc].connect_group_id}-{connector}-{task}"

    def _follow(self, dc: str, cluster: Cluster) -> None:
        """Tasks catch up with what was asked of their connector."""
        for name, ticks in list(cluster.pending.items()):
            if ticks > 0:
                cluster.pending[name] = ticks - 1
                continue
            del cluster.pending[name]
            connector = cluster.connectors[name]
            if connector.wanted is ConnectorState.STOPPED:
                connector.left = connector.tasks if connector.leaves_status else []
                connector.tasks, connector.trace, connector.leaves_status = [], "", False
            elif not connector.tasks:
                self.start_tasks(dc, name)

    def start_tasks(self, dc: str, name: str) -> None:
        connector = self.clusters[dc].connectors[name]
        count = int(connector.config.get("tasks.max", "1")) if connector.kind == "source" else 1
        connector.tasks, connector.trace, connector.left = [ConnectorState.RUNNING] * count, "", []
        for task in range(count):
            # A starting task initialises its own transactional id: whoever held it before is fenced, it is not.
            self.clusters[dc].transactions.pop(self.transactional_id(dc, name, task), None)
        self.refresh(dc, name)

    def refresh(self, dc: str, name: str) -> None:
        """Load the topics that pass the filter and create what the target lacks."""
        connector = self.clusters[dc].connectors[name]
        if connector.kind != "source":
            return
        connector.known = {}
        for topic, log in self.clusters[connector.source].topics.items():
            if crosses(connector.config, topic):
                connector.known[topic] = len(log.partitions)
                self.topic(dc, topic, len(log.partitions), log.config)

    def fence_task(self, dc: str, transactional_id: str) -> None:
        """A task whose transactional id was taken over fails at its next write."""
        for name, connector in self.clusters[dc].connectors.items():
            for task, state in enumerate(connector.tasks):
                if self.transactional_id(dc, name, task) == transactional_id and state is ConnectorState.RUNNING:
                    connector.tasks[task] = ConnectorState.FAILED
                    connector.trace = "org.apache.kafka.common.errors.ProducerFencedException: taken over"
                    self.fenced_tasks += 1

    def land_markers(self, cluster: Cluster, connector: MirrorConnector) -> None:
        for topic, partition, txn in connector.unmarked:
            log = cluster.log(TopicPartition(topic, partition))
            if log is not None:
                log.decide(txn, "kept")
        connector.unmarked = []

    def _copy(self, dc: str, name: str, connector: MirrorConnector) -> None:
        source, target = self.clusters[connector.source], self.clusters[dc]
        alias = connector.config["source.cluster.alias"]
        index = -1
        for topic, count in connector.known.items():
            for partition in range(count):
                index += 1
                task = index % len(connector.tasks)
                place = TopicPartition(topic, partition)
                log, copy = source.log(place), target.log(place)
                if connector.tasks[task] is not ConnectorState.RUNNING or log is None or copy is None:
                    continue
                if source.brokers[log.leader].frozen or target.brokers[copy.leader].frozen:
                    continue
                stored = connector.offsets.setdefault(alias, {}).setdefault(topic, {})
                position = stored.get(partition, -1) + 1
                if not log.start <= position <= log.next:
                    position = log.start  # out of range: auto.offset.reset=earliest, silently
                batch = list(log.visible(position, log.next))[: self.mirror_rate]
                if not batch:
                    continue
                if target.brokers[copy.leader].mirror_denied:
                    connector.tasks[task] = ConnectorState.FAILED
                    connector.trace = "org.apache.kafka.common.errors.TopicAuthorizationException: not authorized"
                    continue
                txn = self.transactional_id(dc, name, task)
                for entry in batch:
                    copy.append(entry.value, txn, "open")
                # The offset is in the same transaction; the marker reaches the partition a moment later.
                stored[partition] = batch[-1].offset
                connector.unmarked.append((topic, partition, txn))


def crosses(config: dict[str, str], topic: str) -> bool:
    """MM2's topic filter, then its policy's own rule for internal topics."""
    if topic.startswith(("__", ".")) or topic.endswith((".internal", "-internal")):
        return False
    include, exclude = (
        [part.strip() for part in config.get(key, default).split(",") if part.strip()]
        for key, default in (("topics", ".*"), ("topics.exclude", r".*[\-\.]internal,.*\.replica,__.*"))
    )
    return any(re.fullmatch(p, topic) for p in include) and not any(re.fullmatch(p, topic) for p in exclude)


def _sync_groups(source: Cluster, target: Cluster) -> None:
    """The checkpoint connector at its worst: places idle groups too early, a rewind included (KAFKA-19794).

    With MM2's own `groups.exclude`, which leaves out what users may well call their groups.
    """
    for name, group in source.groups.items():
        if group.kind is not GroupKind.CONSUMER or name.startswith(("connect-", "__")):
            continue
        ours = target.groups.setdefault(name, Group())
        if ours.members > 0:
            continue
        for topic, offsets in group.offsets.items():
            for partition, (offset, metadata) in offsets.items():
                place = TopicPartition(topic, partition)
                log, copy = source.log(place), target.log(place)
                if log is None or copy is None:
                    continue
                ahead = sum(1 for _ in log.visible(offset, log.next)) + CHECKPOINT_LAG
                there = [e.offset for e in copy.visible(copy.start, copy.next)]
                early = there[-ahead] if len(there) >= ahead else copy.start
                ours.offsets.setdefault(topic, {})[partition] = (early, metadata)


def judge(world: World) -> list[str]:
    """Everything wrong with the world as it stands, after the mirror had its time; see `MemoryWorld.check`."""
    found = list(world.violations)
    if not world.lease_is_ours():
        return [*found, "lease: there is no readable record"]
    record = world.record()
    assert record is not None
    if record.phase is not Phase.OPEN or record.op_id is not None:
        found.append(f"lease: phase {record.phase.value}, operation {record.op_id}: unfinished")
    active = record.holder
    standby = next(dc for dc in world.clusters if dc != active)
    found += _judge_gates(world, active, standby)
    if world.endpoint_dc != active or world.endpoint_epoch > record.epoch:
        found.append(f"endpoint: names {world.endpoint_dc} (epoch {world.endpoint_epoch}), {active} is active")
    found += _judge_mirrors(world, active, standby)
    if record.behind is not None:
        return found + _judge_failover(world, active, standby)
    found += _judge_logs(world, active)
    found += _judge_logs(world, standby)
    found += _judge_groups(world, active)
    # An application's open transaction on the active side is its own affair.
    settled = world.clusters[standby].logs()
    found += [f"unsettled: {standby} {place}" for place, log in settled if not log.ends.settled]
    return found


def _judge_gates(world: World, active: str, standby: str) -> list[str]:
    found = []
    for dc, closed in ((active, False), (standby, True)):
        cluster = world.clusters[dc]
        if cluster.unreachable:
            continue  # nobody can close it, and nobody can write there
        word = "closed" if closed else "open"
        if cluster.users_denied is not closed or any(b.users_denied is not closed for b in cluster.brokers.values()):
            found.append(f"gate: users of {dc} should be {word}")
        if cluster.groups_denied is not closed or any(b.groups_denied is not closed for b in cluster.brokers.values()):
            found.append(f"gate: groups of {dc} should be {word}")
    return found


def _judge_mirrors(world: World, active: str, standby: str) -> list[str]:
    found = []
    record = world.record()
    behind = record is not None and record.behind == standby
    for name, connector in world.clusters[standby].connectors.items():
        if behind:
            if connector.tasks or connector.wanted is not ConnectorState.STOPPED:
                found.append(f"mirror: {name} must not run on {standby}, which a failover left behind")
            continue
        if connector.wanted is not ConnectorState.RUNNING or set(connector.tasks) != {ConnectorState.RUNNING}:
            found.append(f"mirror: {name} should run on {standby}: {connector.wanted}, tasks {connector.tasks}")
    for name, connector in world.clusters[active].connectors.items():
        if connector.wanted is not ConnectorState.STOPPED or connector.tasks:
            found.append(f"mirror: {name} should be stopped on {active}: {connector.wanted}, tasks {connector.tasks}")
    return found


def _fork(world: World, active: str) -> Fork | None:
    """The entry that the lease names: where both sides part."""
    record = world.record()
    bodies = world.clusters[active].ledger.items()
    found = [body for key, body in bodies if record is not None and key.endswith(f"/fork/{record.ledger}")]
    return Fork.from_body(found[0]) if found else None


def _judge_failover(world: World, active: str, behind: str) -> list[str]:
    """What is lost lies beyond M on the old side; nothing is doubled; after the fork the mirror wrote nothing."""
    fork = _fork(world, active)
    if fork is None:
        return [f"fork: the lease names an entry that {active} does not hold"]
    found = [line for line in _judge_logs(world, active) if not line.startswith("missing")]
    rows = fork.by_partition
    lost = 0
    for place, log in world.clusters[active].logs():
        row = rows.get(place)
        end = row.target_end if row is not None else 0
        late = [e for e in log.entries if e.offset >= end and (e.txn or "").startswith("connect-")]
        if late:
            found.append(f"late-mirror: {active} {place}: {len(late)} offsets of the mirror after the fork")
    there = {e.value for _, log in world.clusters[active].logs() for e in log.entries if e.fate == "kept"}
    old = {e.value: (place, e.offset) for place, log in world.clusters[behind].logs() for e in log.entries if e.value}
    for value, fact in world.facts.items():
        if fact.outcome != "acked" or value in there:
            continue
        if value not in old:
            found.append(f"missing: {active} {TopicPartition(fact.topic, fact.partition)}: {value}, which nobody holds")
            continue
        place, offset = old[value]
        mirrored = rows[place].mirrored if place in rows else None
        lost += 1
        if mirrored is not None and offset <= mirrored:
            found.append(f"missing: {active} {place}: {value} at {offset}, although M is {mirrored}")
    if fork.bound.records is not None and lost > fork.bound.records:
        found.append(f"bound: {lost} records are lost, more than the {fork.bound.records} that were reported")
    groups = [line for line in _judge_groups(world, active) if not line.startswith("group-rereads")]
    return found + groups


def _judge_logs(world: World, dc: str) -> list[str]:
    """Every acknowledged record exactly once and in order; nothing aborted, nothing from nowhere."""
    found = []
    promised: dict[TopicPartition, list[str]] = {}
    for value, fact in sorted(world.facts.items(), key=lambda item: item[1].seq):
        if fact.outcome == "acked":
            promised.setdefault(TopicPartition(fact.topic, fact.partition), []).append(value)
    places = {place for place, _ in world.clusters[dc].logs()} | set(promised)
    for place in sorted(places):
        log = world.clusters[dc].log(place)
        values = [] if log is None else [e.value for e in log.visible(log.start, log.next) if e.value is not None]
        counts: dict[str, int] = {}
        for value in values:
            counts[value] = counts.get(value, 0) + 1
        wanted = promised.get(place, [])
        missing = [value for value in wanted if value not in counts]
        twice = [value for value, count in counts.items() if count > 1]
        strange = [v for v in counts if v not in world.facts or world.facts[v].outcome in ("aborted", "gone")]
        if missing:
            found.append(f"missing: {dc} {place}: {len(missing)} acknowledged records, first {missing[0]}")
        if twice:
            found.append(f"duplicated: {dc} {place}: {len(twice)} records, first {twice[0]}")
        if strange:
            found.append(f"strange: {dc} {place}: {len(strange)} records, first {strange[0]}")
        order = [world.facts[value].seq for value in values if value in world.facts]
        if not twice and order != sorted(order):
            found.append(f"reordered: {dc} {place}")
    return found


def _judge_groups(world: World, active: str) -> list[str]:
    found = []
    cluster = world.clusters[active]
    for group, topics in world.consumed.items():
        for topic, partitions in topics.items():
            for partition, last in partitions.items():
                place = TopicPartition(topic, partition)
                log = cluster.log(place)
                if log is None:
                    continue
                held = cluster.groups.get(group, Group()).offsets.get(topic, {}).get(partition)
                if held is None:
                    found.append(f"group-lost: {group} has no position on {active} {place}")
                    continue
                seqs = [
                    (e.offset, world.facts[e.value].seq)
                    for e in log.visible(log.start, log.next)
                    if e.value in world.facts
                ]
                skipped = sum(1 for offset, seq in seqs if offset < held[0] and seq > last)
                again = sum(1 for offset, seq in seqs if offset >= held[0] and seq <= last)
                if skipped:
                    found.append(f"group-skipped: {group} would miss {skipped} records of {active} {place}")
                if again:
                    found.append(f"group-rereads: {group} would read {again} records of {active} {place} again")
    return found
