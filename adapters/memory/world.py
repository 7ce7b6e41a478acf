"""The test's hand on the world: applications, faults, and the judge."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Literal

from adapters.memory import ports
from adapters.memory.ports import MemoryDirectory, memory_directory
from adapters.memory.state import (
    STALE,
    Broker,
    Cluster,
    Fault,
    Group,
    MirrorConnector,
    Transaction,
    World,
    crosses,
    judge,
)
from adapters.memory.store import WorldFile
from dcdr import errors, lease, loss, tenure
from dcdr.model import (
    CommittedOffset,
    Connector,
    ConnectorState,
    FailoverPolicy,
    GroupKind,
    LeaseRecord,
    LogEnds,
    Operation,
    TopicPartition,
    Watermarks,
)
from dcdr.ports import EndpointView
from dcdr.settings import MirrorSettings

STANDARD_TOPICS: Mapping[str, int] = {"orders": 3, "payments": 2, "prices": 1, "empty": 2, "purged": 1}
_SUPER_USERS = ("admin", "mirror", "broker")
_INTERNAL = {
    "connect-configs.internal": 1,
    "connect-offsets.internal": 1,
    "connect-status.internal": 1,
    "dcdr-canary.internal": 3,
    "dcdr-ledger.internal": 1,
    "__consumer_offsets": 1,
    "heartbeats": 1,
}
_CATCH_UP_TICKS = 4
"""Copy, write the marker; twice, so that a mirror that copies in circles shows."""
_BYTES = "org.apache.kafka.connect.converters.ByteArrayConverter"
_POLICY = "org.apache.kafka.connect.mirror.IdentityReplicationPolicy"


class Produced(StrEnum):
    """What an application is told. UNKNOWN: no answer; the record may be there or not."""

    ACKED = "acked"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class MemoryWorld:
    """A two-DC world in a file. The standard one: scope `lab`, `dc-a` active, `dc-b` its standby, arbiter `dc-c`.

    Topics: `orders` (3 partitions, plain), `payments` (2, written with transactions, one of them aborted), `prices`
    (compacted, with gaps), `empty`, `purged` (log start = log end > 0), and the internal ones. Groups: `billing` at the
    end everywhere, `reports` lagging with two members, `shares` (a share group). Transaction `app-1` is open on
    payments-0. The mirror dc-a -> dc-b has copied everything and runs; dc-b -> dc-a is STOPPED with a stale offset.
    """

    def __init__(self, file: WorldFile) -> None:
        self._file = file

    @classmethod
    def open(cls, path: Path) -> MemoryWorld:
        """The world another process made."""
        return cls(WorldFile(path))

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        scope: str = "lab",
        records: int = 12,
        brokers: int = 2,
        topics: Mapping[str, int] | None = None,
        open_transaction: bool = True,
        lease: bool = True,
        agents: bool = False,
        gated: bool = False,
        tasks: int = 2,
        drain_deadline: timedelta = timedelta(seconds=10),
        operation_deadline: timedelta = timedelta(minutes=1),
        quiet: timedelta = timedelta(milliseconds=2),
        lagging_group_budget: int = 1000,
        entry_lag_limit: int = 100,
        failover: FailoverPolicy | None = None,
    ) -> MemoryWorld:
        """Make the standard world. `records`: per plain partition. `topics`: more topics, name -> partitions. `agents`:
        somebody runs them (the world does not), and steps ask them. `gated`: brokers obey the lease, not only rules.

        Raises: FileExistsError.
        """
        world = World(
            scope=scope,
            arbiters=["dc-c"],
            clusters={
                dc: Cluster(
                    brokers={number: Broker() for number in range(1, brokers + 1)},
                    super_users=[f"User:{name}" for name in _SUPER_USERS],
                    connect_group_id=f"connect-{dc}",
                )
                for dc in ("dc-a", "dc-b")
            },
            lease=LeaseRecord(scope=scope, holder="dc-a", epoch=1).model_dump_json() if lease else None,
            agents=agents,
            failover=(failover or FailoverPolicy()).model_dump_json(),
            gated=gated,
            endpoint_dc="dc-a",
            endpoint_epoch=1,
            settings={
                "drain_deadline": drain_deadline.total_seconds(),
                "operation_deadline": operation_deadline.total_seconds(),
                "quiet": quiet.total_seconds(),
                "lagging_group_budget": lagging_group_budget,
                "entry_lag_limit": entry_lag_limit,
            },
        )
        _furnish(world, {**STANDARD_TOPICS, **(topics or {})}, records, tasks)
        if open_transaction:
            _begin(world, "dc-a", "app-1")
            _append(world, "dc-a", TopicPartition("payments", 0), ["pending-1", "pending-2"], txn="app-1")
        world.tick()
        world.tick()
        return cls(WorldFile.create(path, world))

    @property
    def path(self) -> Path:
        return self._file.path

    def directory(self) -> MemoryDirectory:
        return memory_directory(self.path)

    def close(self) -> None:
        self._file.close()

    # --- applications

    def produce(
        self,
        dc: str,
        topic: str,
        partition: int,
        values: Sequence[str] | None = None,
        *,
        principal: str = "app",
        txn: str | None = None,
        count: int = 1,
    ) -> Produced:
        """Write `values` (default: `count` new ones) as one batch. With `txn`, they are acknowledged by `commit`.

        The leader's own view of the rules decides, as on a real broker: one that lags still takes the batch.
        """
        place = TopicPartition(topic, partition)
        with self._file.change() as world:
            world.tick()
            if values is None:
                values = [f"{topic}-{partition}-{world.counter + 1 + i}" for i in range(count)]
            cluster = world.clusters[dc]
            log = cluster.log(place)
            if cluster.unreachable or log is None or cluster.brokers[log.leader].frozen:
                return Produced.UNKNOWN
            broker = cluster.brokers[log.leader]
            denied = broker.users_denied and cluster.authorizer and f"User:{principal}" not in cluster.super_users
            cluster.asked(broker)
            if denied or (txn is not None and cluster.transactions[txn].fenced):
                return Produced.REFUSED
            stalled = log.stalled_at is not None
            _append(world, dc, place, values, txn=txn, outcome="unknown" if stalled else "acked", producer=principal)
            return Produced.UNKNOWN if stalled else Produced.ACKED

    def produce_at_endpoint(self, topic: str, partition: int, values: Sequence[str] | None = None) -> Produced:
        """Write where the endpoint sends clients."""
        dc = self.endpoint().dc
        return Produced.UNKNOWN if dc is None else self.produce(dc, topic, partition, values)

    def late_append(self, dc: str, topic: str, partition: int, values: Sequence[str]) -> None:
        """A request thread that was checked before the fence closed, and appends (and acknowledges) only now."""
        with self._file.change() as world:
            _append(world, dc, TopicPartition(topic, partition), values, outcome="acked", producer="stalled")

    def begin(self, dc: str, txn: str) -> None:
        """An application initialises this transactional id: fences whoever had it, aborts what was open."""
        with self._file.change() as world:
            _begin(world, dc, txn)

    def end(self, dc: str, txn: str, *, commit: bool = True) -> Produced:
        """Commit or abort. The fence does not stop it (no topic is checked); a taken-over id does."""
        with self._file.change() as world:
            world.tick()
            cluster = world.clusters[dc]
            if cluster.unreachable:
                return Produced.UNKNOWN
            held = cluster.transactions.get(txn)
            if held is None or held.fenced:
                return Produced.REFUSED
            world.end_transaction(dc, txn, "kept" if commit else "aborted")
            return Produced.ACKED

    def commit_group(self, dc: str, group: str, topic: str, partition: int, offset: int) -> Produced:
        """A consumer commits a position; refused while groups are frozen there."""
        with self._file.change() as world:
            cluster = world.clusters[dc]
            if cluster.unreachable:
                return Produced.UNKNOWN
            if any(broker.groups_denied for broker in cluster.brokers.values()):
                return Produced.REFUSED
            _consume(world, dc, group, TopicPartition(topic, partition), offset)
            return Produced.ACKED

    def members(self, dc: str, group: str, count: int) -> None:
        """Set how many members a group has there."""
        with self._file.change() as world:
            world.clusters[dc].groups.setdefault(group, Group()).members = count

    def create_topic(
        self, dc: str, name: str, partitions: int = 1, *, principal: str = "app", config: dict[str, str] | None = None
    ) -> Produced:
        """CREATE is denied with WRITE."""
        with self._file.change() as world:
            cluster = world.clusters[dc]
            if cluster.users_denied and f"User:{principal}" not in cluster.super_users:
                return Produced.REFUSED
            world.topic(dc, name, partitions, config)
            return Produced.ACKED

    def recreate_topic(self, dc: str, name: str) -> None:
        """Delete and create: a new topic id, an empty log."""
        with self._file.change() as world:
            old = world.clusters[dc].topics.pop(name)
            world.settle([e.value for log in old.partitions for e in log.entries if e.value is not None], "gone")
            world.topic(dc, name, len(old.partitions), old.config)

    # --- what a test changes or plants

    def lose_last(self, dc: str, topic: str, partition: int, offsets: int) -> None:
        """An unclean restart: the log's last offsets were never on disk."""
        with self._file.change() as world:
            log = world.clusters[dc].topics[topic].partitions[partition]
            log.next -= offsets
            log.entries = [entry for entry in log.entries if entry.offset < log.next]

    def overwrite_last(self, dc: str, topic: str, partition: int, value: str) -> None:
        """Truncated and written anew to where it was: the last record is another one."""
        with self._file.change() as world:
            log = world.clusters[dc].topics[topic].partitions[partition]
            log.entries[-1] = log.entries[-1]._replace(value=value)

    def copy_unrecorded(self, dc: str, topic: str, partition: int, values: Sequence[str]) -> None:
        """A mirror without exactly-once has copied `values` to `dc`, and its stored offset does not say so yet."""
        with self._file.change() as world:
            log = world.clusters[dc].topics[topic].partitions[partition]
            for value in values:
                log.append(value)

    def pump(self, ticks: int = 1) -> None:
        """Let time pass."""
        with self._file.change() as world:
            for _ in range(ticks):
                world.tick()

    def mirror_rate(self, records: int | None) -> None:
        """Records a task copies per partition and tick: 0 a mirror that hangs, None one that keeps up."""
        with self._file.change() as world:
            world.mirror_rate = records

    def refresh_mirror(self, dc: str) -> None:
        """The periodic refresh of `dc`'s running source connectors, which finds new topics."""
        with self._file.change() as world:
            for name, connector in world.clusters[dc].connectors.items():
                if connector.tasks:
                    world.refresh(dc, name)

    def set_connector(
        self,
        dc: str,
        connector: str,
        *,
        state: ConnectorState | None = None,
        tasks: Sequence[ConnectorState] | None = None,
        config: Mapping[str, str] | None = None,
        trace: str | None = None,
    ) -> None:
        """Put a connector into a state, as a person or a crash would have; `config` is merged."""
        with self._file.change() as world:
            held = world.clusters[dc].connectors[connector]
            held.wanted = state or held.wanted
            held.tasks = list(tasks) if tasks is not None else held.tasks
            held.config.update(config or {})
            held.trace = held.trace if trace is None else trace

    def leave_a_status(self, dc: str, connector: str) -> None:
        """Let the next stop leave its tasks' last status behind: STOPPED, with tasks that say they run."""
        with self._file.change() as world:
            world.clusters[dc].connectors[connector].leaves_status = True

    def remove_connector(self, dc: str, connector: str) -> None:
        with self._file.change() as world:
            del world.clusters[dc].connectors[connector]

    def stored_offset(self, dc: str, connector: str, place: TopicPartition, offset: int | None) -> None:
        """Plant a stored offset under the connector's own alias."""
        with self._file.change() as world:
            held = world.clusters[dc].connectors[connector]
            topics = held.offsets.setdefault(held.config["source.cluster.alias"], {})
            if offset is None:
                topics.get(place.topic, {}).pop(place.partition, None)
            else:
                topics.setdefault(place.topic, {})[place.partition] = offset

    def task_ticks(self, dc: str, ticks: int) -> None:
        """Calls of any port before tasks on `dc` follow a stop or a resume."""
        with self._file.change() as world:
            world.clusters[dc].task_ticks = ticks

    def set_rules(
        self,
        dc: str,
        *,
        users_denied: bool | None = None,
        groups_denied: bool | None = None,
        mirror_denied: bool | None = None,
        authorizer: bool | None = None,
        default_deny: bool | None = None,
    ) -> None:
        """Change a cluster's authorizer behind the product's back."""
        with self._file.change() as world:
            cluster = world.clusters[dc]
            cluster.users_denied = cluster.users_denied if users_denied is None else users_denied
            cluster.groups_denied = cluster.groups_denied if groups_denied is None else groups_denied
            cluster.mirror_denied = cluster.mirror_denied if mirror_denied is None else mirror_denied
            cluster.authorizer = cluster.authorizer if authorizer is None else authorizer
            cluster.default_deny = cluster.default_deny if default_deny is None else default_deny
            cluster.spread()

    def lag_broker(self, dc: str, broker: int, asks: int) -> None:
        """The broker applies the next rule change only after it was asked `asks` times."""
        with self._file.change() as world:
            world.clusters[dc].brokers[broker].lag = asks

    def freeze_broker(self, dc: str, broker: int, *, frozen: bool = True) -> None:
        """A broker that holds its connections and answers nothing."""
        with self._file.change() as world:
            world.clusters[dc].brokers[broker].frozen = frozen

    def stall_follower(self, dc: str, topic: str, partition: int, *, stalled: bool = True) -> None:
        """A follower in the ISR stops fetching: LEO runs ahead of HW. Thawed, what waited is acknowledged."""
        with self._file.change() as world:
            log = world.clusters[dc].topics[topic].partitions[partition]
            waiting = log.entries if log.stalled_at is not None else []
            at = log.stalled_at or 0
            log.stalled_at = log.next if stalled else None
            if not stalled:
                world.settle([e.value for e in waiting if e.offset >= at and e.value is not None], "acked")

    def leader(self, dc: str, topic: str, partition: int) -> int:
        """The broker that leads a partition."""
        return self._file.look().clusters[dc].topics[topic].partitions[partition].leader

    def move_leader(self, dc: str, topic: str, partition: int, broker: int) -> None:
        """An election: the leader epoch grows."""
        with self._file.change() as world:
            log = world.clusters[dc].topics[topic].partitions[partition]
            log.leader, log.leader_epoch = broker, log.leader_epoch + 1

    def cut_off(self, dc: str, *, away: bool = True) -> None:
        """No call reaches `dc`'s Kafka and Connect, and no mirror copies from or to it."""
        with self._file.change() as world:
            world.clusters[dc].unreachable = away

    def kill_site(self, dc: str) -> None:
        """Every process of `dc` dies at once: nothing answers there, nothing writes."""
        with self._file.change() as world:
            world.clusters[dc].unreachable = world.clusters[dc].dead = True

    def revive_site(self, dc: str) -> None:
        """It comes up as the authorizer lets it: closed, unless the lease names it. Its agent is not of this world."""
        with self._file.change() as world:
            cluster, record = world.clusters[dc], world.record()
            assert record is not None
            cluster.unreachable = cluster.dead = False
            cluster.users_denied = not lease.users_may_write(record, dc)
            cluster.groups_denied = not lease.groups_may_commit(record, dc)
            cluster.spread()

    def take_over(self, dc: str, *, after: timedelta = timedelta(seconds=7)) -> None:
        """What `dc`'s agent does once the holder showed no sign of life for `after`."""
        with self._file.change() as world:
            record = world.record()
            assert record is not None
            taken = tenure.takeover(record, dc, record.epoch, datetime.now(UTC), after.total_seconds())
            world.lease, world.revision = taken.model_dump_json(), world.revision + 1

    def hand_back(self, dc: str) -> None:
        """What a person may ask for before the taker opened: `dc` is active again."""
        with self._file.change() as world:
            record = world.record()
            assert record is not None
            operation = Operation(
                scope=record.scope, id="back", epoch=record.epoch, turn=record.turn, source=record.holder, target=dc
            )
            world.lease, world.revision = lease.hand_back(record, operation).model_dump_json(), world.revision + 1

    def keep_journal(self, dc: str, *, rate: float = 0.0, ago: timedelta = timedelta()) -> None:
        """What `dc`'s agent writes every few seconds: both sides as they stand. `rate`: the most offsets a second that
        were ever seen; `ago`: how old the look is."""
        with self._file.change() as world:
            record = world.record()
            assert record is not None
            source = next(name for name in world.clusters if name != dc)
            name = MirrorSettings().source_connector.format(source=source, target=dc)
            connector = world.clusters[dc].connectors[name]
            topics = world.clusters[source].topics
            crossing = {topic: topics[topic] for topic in topics if crosses(connector.config, topic)}
            taken = datetime.now(UTC) - ago
            copied = {t: at for t, at in connector.offsets.get(source, {}).items() if t in crossing}
            unread = {
                topic: {
                    number: next(
                        (e.offset for e in part.visible(copied.get(topic, {}).get(number, -1) + 1, part.next)),
                        part.next,
                    )
                    for number, part in enumerate(log.partitions)
                }
                for topic, log in crossing.items()
            }
            journal = Watermarks(
                scope=world.scope,
                source=source,
                target=dc,
                epoch=record.epoch,
                taken_at=taken,
                topic_ids={topic: log.topic_id for topic, log in crossing.items()},
                ends={t: {n: p.next for n, p in enumerate(log.partitions)} for t, log in crossing.items()},
                mirrored=copied,
                unread=unread,
                since=taken,
                peak_per_s=rate,
                every_s=2.0,
                tasks=len(connector.tasks),
                exactly_once=True,
            )
            world.clusters[dc].ledger[loss.journal_key(world.scope, dc)] = loss.pack(journal)

    def set_lease(self, body: str | None) -> None:
        """Write anything into the lease's key, or remove it."""
        with self._file.change() as world:
            world.lease, world.revision = body, world.revision + 1

    def set_endpoint(self, dc: str | None, epoch: int) -> None:
        with self._file.change() as world:
            world.endpoint_dc, world.endpoint_epoch = dc, epoch

    # --- faults

    def fail(
        self,
        port_method: str,
        times: int = 1,
        error: type[errors.DcdrError] = errors.UnreachableError,
        *,
        dc: str | None = None,
        after: int = 0,
    ) -> None:
        """Make `port.method` (`fence.close_users`, `lease.swap`, ...) raise before any effect.

        `times` -1: always. `dc`: only that one's. `after`: let so many calls pass first.
        """
        self._plant(Fault(method=port_method, dc=dc, times=times, error=error.__name__, after=after))

    def lose_answer(self, port_method: str, times: int = 1, *, dc: str | None = None, after: int = 0) -> None:
        """The call takes effect and raises UnreachableError: nobody knows."""
        self._plant(Fault(method=port_method, dc=dc, times=times, executes=True, after=after))

    def hang(self, port_method: str, seconds: float, *, dc: str | None = None) -> None:
        """Each call waits before its effect, until `heal`."""
        self._plant(Fault(method=port_method, dc=dc, times=-1, hang=seconds))

    def heal(self) -> None:
        """Remove every planted fault."""
        with self._file.change() as world:
            world.faults = []

    def _plant(self, fault: Fault) -> None:
        port, _, method = fault.method.partition(".")
        if port not in _PORTS or not hasattr(_PORTS[port], method):
            raise ValueError(f"no port method {fault.method!r}")
        with self._file.change() as world:
            world.faults.append(fault)

    # --- looking

    def calls(self) -> list[str]:
        """Every port call so far, oldest first: `dc-a/fence.close_users`, `lease.swap`. Faults count as calls."""
        return self._file.calls()

    def lease(self) -> LeaseRecord | None:
        return self._file.look().record()

    def endpoint(self) -> EndpointView:
        world = self._file.look()
        return EndpointView(world.endpoint_dc, world.endpoint_epoch)

    def users_open(self, dc: str) -> bool:
        return self._file.look().clusters[dc].users_open

    def groups_frozen(self, dc: str) -> bool:
        return self._file.look().clusters[dc].groups_denied

    def connector(self, dc: str, name: str) -> Connector:
        held = self._file.look().clusters[dc].connectors[name]
        return Connector(name, held.wanted, tuple(held.shown), dict(held.config), held.trace)

    def values(self, dc: str, topic: str, partition: int) -> list[str]:
        """What a read_committed consumer reads there, oldest first."""
        log = self._file.look().clusters[dc].topics[topic].partitions[partition]
        return [e.value for e in log.visible(log.start, log.next) if e.value is not None]

    def ends(self, dc: str, topic: str, partition: int) -> LogEnds:
        return self._file.look().clusters[dc].topics[topic].partitions[partition].ends

    def committed(self, dc: str, group: str) -> dict[TopicPartition, CommittedOffset]:
        held = self._file.look().clusters[dc].groups.get(group, Group())
        return {
            TopicPartition(topic, partition): CommittedOffset(*value)
            for topic, offsets in held.offsets.items()
            for partition, value in offsets.items()
        }

    def ledger(self, dc: str) -> dict[str, bytes]:
        return self._file.look().clusters[dc].ledger

    def fenced_tasks(self) -> int:
        """How many connector tasks were ever fenced."""
        return self._file.look().fenced_tasks

    def check(self, *, ignore: Sequence[str] = ()) -> list[str]:
        """Judge the end state; empty is good. Each line is `kind: text`; kinds in `ignore` are left out.

        Lets the mirror catch up first, on a copy. Kinds: `both-open`, `open-without-lease`, `both-mirrors`,
        `mirror-into-active`, `flip-to-closed`, `epoch-back`, `epoch-kept` (true at any moment); `lease` (unfinished
        operation), `gate`, `endpoint`, `mirror` (not the standing state), `missing`, `duplicated`, `reordered`,
        `strange`, `unsettled` (logs of both sides), `group-lost`, `group-skipped`, `group-rereads` (on the active).
        After a failover `missing` is what lies on the old side up to M, or nowhere; besides there are `fork` (it cannot
        be read), `late-mirror` (written to the active after it) and `bound` (more is lost than was said).
        """
        world = self._file.look()
        world.mirror_rate = None
        for dc, cluster in world.clusters.items():
            for name, connector in cluster.connectors.items():
                if connector.tasks:
                    world.refresh(dc, name)
        for _ in range(_CATCH_UP_TICKS):
            world.tick()
        world.watch()
        return [line for line in judge(world) if line.partition(":")[0] not in ignore]


_PORTS = {
    "lease": ports.MemoryLeaseStore,
    "endpoint": ports.MemoryEndpoint,
    "fence": ports.MemoryFence,
    "logs": ports.MemoryLogs,
    "transactions": ports.MemoryTransactions,
    "groups": ports.MemoryGroups,
    "ledger": ports.MemoryLedger,
    "connect": ports.MemoryConnect,
    "positions": ports.MemoryPositions,
}


def _begin(world: World, dc: str, txn: str) -> None:
    world.end_transaction(dc, txn, "aborted")
    world.counter += 1
    world.clusters[dc].transactions[txn] = Transaction(producer_id=world.counter)


def _append(
    world: World,
    dc: str,
    place: TopicPartition,
    values: Sequence[str],
    *,
    txn: str | None = None,
    outcome: Literal["acked", "unknown"] = "acked",
    producer: str = "app",
) -> None:
    log = world.clusters[dc].topics[place.topic].partitions[place.partition]
    for value in values:
        if value in world.facts:
            raise ValueError(f"record {value!r} was written before: values are identities here")
        log.append(value, txn, "kept" if txn is None else "open")
        world.written(place, value, outcome if txn is None else "open")
    log.writers[txn or producer] = time.time()


def _consume(world: World, dc: str, group: str, place: TopicPartition, offset: int) -> None:
    """The group's position, and what it has read so far in the terms of the judge."""
    cluster = world.clusters[dc]
    log = cluster.topics[place.topic].partitions[place.partition]
    read = [world.facts[e.value].seq for e in log.visible(log.start, offset) if e.value in world.facts]
    cluster.groups.setdefault(group, Group()).offsets.setdefault(place.topic, {})[place.partition] = (offset, "")
    world.consumed.setdefault(group, {}).setdefault(place.topic, {})[place.partition] = max(read, default=0)


def _connectors(source: str, target: str, tasks: int) -> dict[str, MirrorConnector]:
    names, fill = MirrorSettings(), {"source": source, "target": target}
    common = {
        "source.cluster.alias": source,
        "target.cluster.alias": target,
        "replication.policy.class": _POLICY,
        "key.converter": _BYTES,
        "value.converter": _BYTES,
        "header.converter": _BYTES,
        "offset-syncs.topic.location": "target",
    }
    copying = {
        "topics": ".*",
        "topics.exclude": r".*[\-\.]internal,.*\.replica,__.*,heartbeats",
        "heartbeats.replication.enabled": "false",
        "sync.topic.acls.enabled": "false",
        "sync.topic.configs.enabled": "true",
        "refresh.topics.interval.seconds": "30",
        "replication.factor": "-1",
        "source.consumer.isolation.level": "read_committed",
        "exactly.once.support": "required",
        "errors.tolerance": "none",
        "tasks.max": str(tasks),
    }
    return {
        names.source_connector.format(**fill): MirrorConnector(
            kind="source", source=source, config={**common, **copying}
        ),
        names.checkpoint_connector.format(**fill): MirrorConnector(kind="checkpoint", source=source, config=common),
        names.heartbeat_connector.format(**fill): MirrorConnector(kind="heartbeat", source=source, config=common),
    }


def _furnish(world: World, topics: Mapping[str, int], records: int, tasks: int) -> None:
    """Fill an empty world: dc-a active with records, its mirror caught up, dc-b closed."""
    for dc, other in (("dc-a", "dc-b"), ("dc-b", "dc-a")):
        for name, partitions in _INTERNAL.items():
            world.topic(dc, name, partitions, {"cleanup.policy": "compact"} if "heartbeats" not in name else None)
        world.clusters[dc].connectors = _connectors(other, dc, tasks)
    standby = world.clusters["dc-b"]
    standby.users_denied = standby.groups_denied = True
    standby.spread()

    for name, partitions in topics.items():
        world.topic("dc-a", name, partitions, {"cleanup.policy": "compact"} if name == "prices" else None)
    for name, partitions in topics.items():
        if name in ("empty", "payments"):
            continue
        for partition in range(partitions):
            place = TopicPartition(name, partition)
            _append(world, "dc-a", place, [f"{name}-{partition}-r{i}" for i in range(records)])
    for number, commit in enumerate((True, False, True)):
        _begin(world, "dc-a", "app-0")
        for partition in range(topics["payments"]):
            values = [f"payments-{partition}-t{number}-{i}" for i in range(3)]
            _append(world, "dc-a", TopicPartition("payments", partition), values, txn="app-0")
        world.end_transaction("dc-a", "app-0", "kept" if commit else "aborted")

    active = world.clusters["dc-a"]
    prices, purged = active.topics["prices"].partitions[0], active.topics["purged"].partitions[0]
    compacted = [e for e in prices.entries if e.offset % 3 == 0]
    world.settle([e.value for e in prices.entries if e not in compacted and e.value is not None], "gone")
    prices.entries = compacted
    world.settle([e.value for e in purged.entries if e.value is not None], "gone")
    purged.truncate(purged.next)

    for name, connector in standby.connectors.items():
        connector.wanted = ConnectorState.RUNNING
        world.start_tasks("dc-b", name)
    for connector in active.connectors.values():
        if connector.kind == "source":
            connector.offsets = {"dc-b": {STALE: {0: 41}}}
    for name in topics:
        if not crosses(standby.connectors["mm2-source.dc-a-to-dc-b"].config, name):
            continue
        for partition, log in enumerate(active.topics[name].partitions):
            _consume(world, "dc-a", "billing", TopicPartition(name, partition), log.next)
    for partition, log in enumerate(active.topics["orders"].partitions):
        _consume(world, "dc-a", "reports", TopicPartition("orders", partition), log.next - min(5, log.next))
    active.groups["reports"].members = 2
    active.groups["shares"] = Group(kind=GroupKind.SHARE)
    active.groups["connect-dc-a"] = Group(members=1)
    standby.groups["connect-dc-b"] = Group(members=1)
