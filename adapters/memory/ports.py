"""Every port of `dcdr.ports`, over a world in a file."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar

from adapters.memory.state import Cluster, Entry, Group, MirrorConnector, PartitionLog, Transaction, World
from adapters.memory.store import WorldFile
from dcdr import errors
from dcdr.bounds import PRESETS, Preset
from dcdr.errors import (
    ConflictError,
    DcdrError,
    InvalidRequestError,
    MisconfiguredError,
    SupersededError,
    UnreachableError,
)
from dcdr.intent import Intent, StoredIntent
from dcdr.model import (
    CommittedOffset,
    Connector,
    ConnectorState,
    FailoverPolicy,
    FenceRules,
    Gate,
    GroupInfo,
    LeaseRecord,
    LogEnds,
    Measured,
    OffsetRange,
    OpenTransaction,
    RecordDigest,
    Span,
    Spans,
    StoredLease,
    Timing,
    Topic,
    TopicPartition,
    VisibleRecords,
)
from dcdr.ports import EndpointView, Member, Scope
from dcdr.settings import GroupSettings, MirrorSettings

T = TypeVar("T")
ACTIVE_SECONDS = 60.0
WATCH_SECONDS = 0.02


class Port:
    """One port of one data center (or of none): each call is a tick, a transaction, and a place for a fault."""

    def __init__(self, file: WorldFile, port: str, dc: str | None = None) -> None:
        self._file, self._port, self._dc = file, port, dc

    async def _call(self, method: str, effect: Callable[[World], T]) -> T:
        name = f"{self._port}.{method}"
        if delay := self._file.delay(name, self._dc):
            await asyncio.sleep(delay)
        failure: DcdrError | None = None
        with self._file.change(name if self._dc is None else f"{self._dc}/{name}") as world:
            world.tick()
            lost = None
            for fault in world.faults:
                if fault.hang or fault.method != name or fault.dc not in (None, self._dc) or fault.times == 0:
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.times -= 1 if fault.times > 0 else 0
                lost = fault
                break
            if lost is not None and not lost.executes:
                failure = getattr(errors, lost.error)(f"{name} of {self._dc or 'the scope'}: a planted fault")
            else:
                try:
                    result = effect(world)
                except DcdrError as error:
                    failure = error
                else:
                    if lost is not None:
                        failure = getattr(errors, lost.error)(
                            f"{name} of {self._dc or 'the scope'}: its answer was lost"
                        )
        if failure is not None:
            raise failure
        return result

    def _cluster(self, world: World) -> Cluster:
        assert self._dc is not None
        cluster = world.clusters[self._dc]
        if cluster.unreachable:
            raise UnreachableError(f"{self._dc} gave no answer: it is cut off")
        return cluster

    def _log(self, world: World, place: TopicPartition) -> PartitionLog:
        cluster = self._cluster(world)
        log = cluster.log(place)
        if log is None:
            raise InvalidRequestError(f"{self._dc} has no partition {place}")
        if cluster.brokers[log.leader].frozen:
            raise UnreachableError(f"{self._dc}: broker {log.leader}, the leader of {place}, gave no answer")
        return log

    def _any_broker(self, world: World) -> Cluster:
        cluster = self._cluster(world)
        if all(broker.frozen for broker in cluster.brokers.values()):
            raise UnreachableError(f"{self._dc}: no broker gave an answer")
        return cluster


class MemoryLeaseStore(Port):
    """`dcdr.ports.LeaseStore`."""

    def __init__(self, file: WorldFile) -> None:
        super().__init__(file, "lease")

    async def read(self, scope: str) -> StoredLease | None:
        def effect(world: World) -> StoredLease | None:
            if world.lease is None or scope != world.scope:
                return None
            return StoredLease(_parse(world.lease), world.revision)

        return await self._call("read", effect)

    async def swap(self, expected: StoredLease, record: LeaseRecord) -> StoredLease:
        def effect(world: World) -> StoredLease:
            if world.lease is None or world.revision != expected.revision or record.scope != world.scope:
                raise ConflictError(f"the lease of {record.scope} was written in between: read it again")
            return self._write(world, record)

        return await self._call("swap", effect)

    async def bootstrap(self, record: LeaseRecord) -> StoredLease:
        def effect(world: World) -> StoredLease:
            if world.lease is not None:
                raise ConflictError(f"the lease of {record.scope} exists already")
            return self._write(world, record)

        return await self._call("bootstrap", effect)

    async def watch(self, scope: str, after: StoredLease | None = None) -> AsyncIterator[StoredLease | None]:
        """A hint like the real one's; it looks every few milliseconds, and tells the latest only."""
        seen = after if after is not None else await self.read(scope)
        while True:
            found = await self.read(scope)
            if found != seen:
                seen = found
                yield found
            await asyncio.sleep(WATCH_SECONDS)

    @staticmethod
    def _write(world: World, record: LeaseRecord) -> StoredLease:
        if world.lease_is_ours():
            held = world.record()
            if held is not None and record.epoch < held.epoch:
                world.blame("epoch-back", f"the epoch went from {held.epoch} to {record.epoch}")
            if held is not None and record.holder != held.holder and record.epoch <= held.epoch:
                world.blame("epoch-kept", f"the holder changed to {record.holder} under epoch {record.epoch}")
        world.lease = record.model_dump_json()
        world.revision += 1
        return StoredLease(record, world.revision)


class MemoryIntentStore(Port):
    """`dcdr.ports.IntentStore`."""

    def __init__(self, file: WorldFile) -> None:
        super().__init__(file, "intents")

    async def read(self, scope: str) -> StoredIntent:
        def effect(world: World) -> StoredIntent:
            if world.intent is None or scope != world.scope:
                return StoredIntent(None, 0)
            return StoredIntent(Intent.model_validate_json(world.intent), world.intent_revision)

        return await self._call("read", effect)

    async def write(self, scope: str, expected: StoredIntent, intent: Intent) -> StoredIntent:
        def effect(world: World) -> StoredIntent:
            if world.intent_revision != expected.revision or scope != world.scope:
                raise ConflictError(f"the intent of {scope} was written in between: read it again")
            world.intent, world.intent_revision = intent.model_dump_json(), world.intent_revision + 1
            return StoredIntent(intent, world.intent_revision)

        return await self._call("write", effect)


def _parse(body: str) -> LeaseRecord:
    try:
        return LeaseRecord.model_validate_json(body)
    except ValueError as error:
        raise MisconfiguredError(f"the lease record is not one of ours: {body[:200]!r}") from error


class MemoryFence(Port):
    """`dcdr.ports.ProduceFence`: users and groups as in ACL mode, the mirror by the lease in a gated world."""

    def __init__(self, file: WorldFile, dc: str) -> None:
        super().__init__(file, "fence", dc)

    async def rules(self) -> FenceRules:
        return await self._call("rules", lambda world: self._any_broker(world).rules())

    async def close_users(self) -> None:
        await self._set("close_users", users=True)

    async def open_users(self) -> None:
        await self._set("open_users", users=False)

    async def users_gates(self) -> Mapping[int, Gate]:
        return await self._gates("users_gates", "users")

    async def freeze_groups(self) -> None:
        await self._set("freeze_groups", groups=True)

    async def thaw_groups(self) -> None:
        await self._set("thaw_groups", groups=False)

    async def group_gates(self) -> Mapping[int, Gate]:
        return await self._gates("group_gates", "groups")

    async def mirror_gates(self) -> Mapping[int, Gate]:
        return await self._gates("mirror_gates", "mirror")

    async def _set(self, method: str, *, users: bool | None = None, groups: bool | None = None) -> None:
        def effect(world: World) -> None:
            cluster = self._any_broker(world)
            if not cluster.authorizer:
                raise MisconfiguredError(f"{self._dc} has no authorizer: set authorizer.class.name on every broker")
            cluster.users_denied = cluster.users_denied if users is None else users
            cluster.groups_denied = cluster.groups_denied if groups is None else groups
            cluster.spread()

        await self._call(method, effect)

    async def _gates(self, method: str, whose: Literal["users", "groups", "mirror"]) -> Mapping[int, Gate]:
        def effect(world: World) -> Mapping[int, Gate]:
            cluster = self._any_broker(world)
            return {number: cluster.gate(number, whose) for number in sorted(cluster.brokers)}

        return await self._call(method, effect)


class MemoryLogs(Port):
    """`dcdr.ports.Logs`."""

    def __init__(self, file: WorldFile, dc: str) -> None:
        super().__init__(file, "logs", dc)

    async def brokers(self) -> tuple[int, ...]:
        return await self._call("brokers", lambda world: tuple(sorted(self._any_broker(world).brokers)))

    async def topics(self, *, configs: bool = False) -> Mapping[str, Topic]:
        def effect(world: World) -> Mapping[str, Topic]:
            return {
                name: Topic(name, topic.topic_id, len(topic.partitions), dict(topic.config) if configs else {})
                for name, topic in sorted(self._any_broker(world).topics.items())
            }

        return await self._call("topics", effect)

    async def ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, LogEnds]:
        return await self._call("ends", lambda world: {place: self._log(world, place).ends for place in partitions})

    async def visible(
        self, ranges: Mapping[TopicPartition, OffsetRange], limit: int
    ) -> Mapping[TopicPartition, VisibleRecords]:
        def effect(world: World) -> Mapping[TopicPartition, VisibleRecords]:
            found = {}
            for place, (first, end) in ranges.items():
                log = self._log(world, place)
                entries = list(log.visible(first, end))
                records = tuple(RecordDigest(e.offset, digest(e.value or "")) for e in entries[:limit])
                found[place] = VisibleRecords(records, len(entries) <= limit and min(end, log.next) <= log.ends.lso)
            return found

        return await self._call("visible", effect)

    async def spans(self, ranges: Mapping[TopicPartition, OffsetRange]) -> Mapping[TopicPartition, Spans]:
        def effect(world: World) -> Mapping[TopicPartition, Spans]:
            found = {}
            for place, (first, end) in ranges.items():
                log = self._log(world, place)
                batches = tuple(Span(e.offset, e.offset + 1, 1) for e in log.visible(first, end))
                found[place] = Spans(batches, min(end, log.next) <= log.ends.lso)
            return found

        return await self._call("spans", effect)

    async def measure(
        self, ranges: Mapping[TopicPartition, OffsetRange], limits: Mapping[TopicPartition, int] | None = None
    ) -> Mapping[TopicPartition, Measured]:
        def effect(world: World) -> Mapping[TopicPartition, Measured]:
            found = {}
            for place, (first, end) in ranges.items():
                log = self._log(world, place)
                entries = list(log.visible(first, end))
                limit = (limits or {}).get(place, len(entries))
                running, whole = b"", first >= end or end <= log.ends.lso or len(entries) > limit
                for entry in entries[:limit]:
                    running = hashlib.sha256(running + digest(entry.value or "")).digest()
                kept = entries[:limit]
                found[place] = Measured(
                    records=len(kept),
                    size=sum(len((entry.value or "").encode()) for entry in kept),
                    first=kept[0].offset if kept else None,
                    last=kept[-1].offset if kept else None,
                    earliest_ms=min((time_of(entry) for entry in kept), default=None),
                    latest_ms=max((time_of(entry) for entry in kept), default=None),
                    digest=running,
                    complete=whole or (limits is not None and place in limits and len(kept) >= limit),
                )
            return found

        return await self._call("measure", effect)

    async def keys(self, ranges: Mapping[TopicPartition, OffsetRange], limit: int) -> tuple[bytes, ...]:
        """The stand-in's record is its value; its key is what stands before the first `=`."""

        def effect(world: World) -> tuple[bytes, ...]:
            values = (e.value or "" for p, r in sorted(ranges.items()) for e in self._log(world, p).visible(*r))
            found = dict.fromkeys(value.partition("=")[0].encode() for value in values if "=" in value)
            return tuple(found)[:limit]

        return await self._call("keys", effect)

    async def active_producers(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        def effect(world: World) -> Mapping[TopicPartition, int]:
            young = time.time() - ACTIVE_SECONDS
            return {
                place: sum(1 for at in self._log(world, place).writers.values() if at > young) for place in partitions
            }

        return await self._call("active_producers", effect)


def digest(value: str) -> bytes:
    """The stand-in's record is its value; so is its digest."""
    return hashlib.sha256(value.encode()).digest()


def time_of(entry: Entry) -> int:
    """The stand-in's records carry no time: theirs is their offset, in seconds since the Unix epoch."""
    return entry.offset * 1000


class MemoryTransactions(Port):
    """`dcdr.ports.Transactions`."""

    def __init__(self, file: WorldFile, dc: str) -> None:
        super().__init__(file, "transactions", dc)

    async def open(self) -> tuple[OpenTransaction, ...]:
        def effect(world: World) -> tuple[OpenTransaction, ...]:
            cluster = self._any_broker(world)
            return tuple(
                OpenTransaction(
                    txn, cluster.transactions.get(txn, Transaction(producer_id=0)).producer_id, "Ongoing", tuple(places)
                )
                for txn, places in sorted(world.open_transactions(self._dc or "").items())
            )

        return await self._call("open", effect)

    async def fence(self, transactional_ids: Collection[str]) -> None:
        def effect(world: World) -> None:
            cluster, dc = self._any_broker(world), self._dc or ""
            for connector in cluster.connectors.values():
                # A task's transaction whose offsets are stored is decided: taking its id over cannot abort it.
                world.land_markers(cluster, connector)
            for txn in transactional_ids:
                world.end_transaction(dc, txn, "aborted")
                world.counter += 1
                cluster.transactions[txn] = Transaction(producer_id=world.counter, fenced=True)
                world.fence_task(dc, txn)

        await self._call("fence", effect)


class MemoryGroups(Port):
    """`dcdr.ports.ConsumerGroups`."""

    def __init__(self, file: WorldFile, dc: str) -> None:
        super().__init__(file, "groups", dc)

    async def groups(self) -> tuple[GroupInfo, ...]:
        def effect(world: World) -> tuple[GroupInfo, ...]:
            return tuple(
                GroupInfo(name, group.kind, "Stable" if group.members else "Empty", group.members)
                for name, group in sorted(self._any_broker(world).groups.items())
            )

        return await self._call("groups", effect)

    async def committed(self, groups: Collection[str]) -> Mapping[str, Mapping[TopicPartition, CommittedOffset]]:
        def effect(world: World) -> Mapping[str, Mapping[TopicPartition, CommittedOffset]]:
            cluster = self._any_broker(world)
            return {
                name: {
                    TopicPartition(topic, partition): CommittedOffset(*held)
                    for topic, offsets in cluster.groups.get(name, Group()).offsets.items()
                    for partition, held in offsets.items()
                }
                for name in groups
            }

        return await self._call("committed", effect)

    async def write(self, group: str, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        def effect(world: World) -> None:
            cluster = self._any_broker(world)
            held = cluster.groups.get(group, Group())
            if held.members:
                raise ConflictError(
                    f"group {group} has {held.members} members on {self._dc}: its position can be set only without them"
                )
            unknown = [str(place) for place in offsets if cluster.log(place) is None]
            if unknown:
                raise InvalidRequestError(f"{self._dc} has no partition {', '.join(unknown)}")
            cluster.groups[group] = held
            for place, (offset, metadata) in offsets.items():
                held.offsets.setdefault(place.topic, {})[place.partition] = (offset, metadata)

        await self._call("write", effect)

    async def expel(self, groups: Collection[str]) -> int:
        def effect(world: World) -> int:
            held = [group for name, group in self._any_broker(world).groups.items() if name in groups]
            removed = sum(group.members for group in held)
            for group in held:
                group.members = 0
            return removed

        return await self._call("expel", effect)


class MemoryLedger(Port):
    """`dcdr.ports.Ledger`."""

    def __init__(self, file: WorldFile, dc: str) -> None:
        super().__init__(file, "ledger", dc)

    async def put(self, key: str, body: bytes) -> None:
        await self._call("put", lambda world: self._any_broker(world).ledger.__setitem__(key, body))

    async def get(self, key: str) -> bytes | None:
        return await self._call("get", lambda world: self._any_broker(world).ledger.get(key))

    async def find(self, prefix: str, ending: str = "") -> Mapping[str, bytes]:
        def effect(world: World) -> Mapping[str, bytes]:
            entries = self._any_broker(world).ledger.items()
            return {key: body for key, body in entries if key.startswith(prefix) and key.endswith(ending)}

        return await self._call("find", effect)


class MemoryConnect(Port):
    """`dcdr.ports.MirrorControl`."""

    def __init__(self, file: WorldFile, dc: str) -> None:
        super().__init__(file, "connect", dc)

    async def connectors(self) -> Mapping[str, Connector]:
        def effect(world: World) -> Mapping[str, Connector]:
            cluster = self._cluster(world)
            return {
                name: Connector(name, held.wanted, tuple(held.shown), dict(held.config), held.trace)
                for name, held in sorted(cluster.connectors.items())
            }

        return await self._call("connectors", effect)

    async def stop(self, connector: str) -> None:
        await self._want("stop", connector, ConnectorState.STOPPED)

    async def resume(self, connector: str) -> None:
        await self._want("resume", connector, ConnectorState.RUNNING)

    async def restart(self, connector: str, *, only_failed: bool) -> None:
        def effect(world: World) -> None:
            held, dc = self._held(world, connector), self._dc or ""
            if held.wanted is not ConnectorState.RUNNING or not held.tasks:
                return
            if not only_failed or ConnectorState.FAILED in held.tasks:
                known = held.known
                world.start_tasks(dc, connector)
                held.known = known  # the connector itself goes on; it loads topics only when it starts

        await self._call("restart", effect)

    async def reload(self, connector: str) -> None:
        def effect(world: World) -> None:
            held = self._held(world, connector)
            if held.wanted is ConnectorState.RUNNING and held.tasks:
                world.refresh(self._dc or "", connector)

        await self._call("reload", effect)

    async def offsets(self, connector: str) -> Mapping[TopicPartition, int]:
        return await self._call("offsets", lambda world: stored_offsets(self._held(world, connector)))

    async def seed(self, connector: str, offsets: Mapping[TopicPartition, int | None], *, source: str) -> None:
        def effect(world: World) -> None:
            held = self._held(world, connector)
            alias = held.config.get("source.cluster.alias")
            if alias != source:
                raise MisconfiguredError(f"{connector} copies from {alias}, not from {source}: nothing was written")
            negative = [str(place) for place, offset in offsets.items() if offset is not None and offset < 0]
            if negative:
                raise MisconfiguredError(f"{connector}: negative offsets for {', '.join(negative)}; None forgets one")
            if held.wanted is not ConnectorState.STOPPED or held.tasks:
                raise ConflictError(f"{connector} on {self._dc} is not STOPPED without tasks: stop it, wait, then seed")
            for place, offset in offsets.items():
                partitions = held.offsets.setdefault(source, {}).setdefault(place.topic, {})
                if offset is None:
                    partitions.pop(place.partition, None)
                else:
                    partitions[place.partition] = offset

        await self._call("seed", effect)

    async def _want(self, method: str, connector: str, wanted: ConnectorState) -> None:
        def effect(world: World) -> None:
            held = self._held(world, connector)
            if held.wanted is not wanted:
                held.wanted = wanted
                cluster = self._cluster(world)
                cluster.pending[connector] = cluster.task_ticks

        await self._call(method, effect)

    def _held(self, world: World, connector: str) -> MirrorConnector:
        held = self._cluster(world).connectors.get(connector)
        if held is None:
            raise MisconfiguredError(f"{self._dc}'s Connect has no connector {connector}: create it")
        return held


def stored_offsets(connector: MirrorConnector) -> dict[TopicPartition, int]:
    """What the connector would start from: keys of another cluster's alias are not its own."""
    topics = connector.offsets.get(connector.config.get("source.cluster.alias", ""), {})
    return {
        TopicPartition(topic, partition): offset
        for topic, partitions in topics.items()
        for partition, offset in partitions.items()
    }


class MemoryPositions(Port):
    """`dcdr.ports.MirrorPositions`."""

    def __init__(self, file: WorldFile, dc: str) -> None:
        super().__init__(file, "positions", dc)

    async def current(self, connector: str) -> Mapping[TopicPartition, int]:
        def effect(world: World) -> Mapping[TopicPartition, int]:
            # A tail of a topic: it knows nothing of connectors, an unknown one has no offsets.
            held = self._any_broker(world).connectors.get(connector)
            return {} if held is None else stored_offsets(held)

        return await self._call("current", effect)


class MemoryEndpoint(Port):
    """`dcdr.ports.Endpoint`."""

    def __init__(self, file: WorldFile) -> None:
        super().__init__(file, "endpoint")

    async def read(self) -> EndpointView:
        return await self._call("read", lambda world: EndpointView(world.endpoint_dc, world.endpoint_epoch))

    async def flip(self, dc: str, epoch: int) -> None:
        def effect(world: World) -> None:
            if epoch < world.endpoint_epoch:
                raise SupersededError(
                    f"the endpoint carries epoch {world.endpoint_epoch} already, later than {epoch}: left as it is"
                )
            if dc not in world.clusters:
                raise InvalidRequestError(f"the endpoint knows no data center {dc!r}")
            if world.endpoint_dc != dc and not world.clusters[dc].users_open:
                world.blame("flip-to-closed", f"clients were sent to {dc} while it was closed")
            world.endpoint_dc, world.endpoint_epoch = dc, epoch

        await self._call("flip", effect)


class MemoryDirectory:
    """`dcdr.ports.Directory` with the one scope of a world; nothing is kept between calls but the open file."""

    def __init__(self, path: Path) -> None:
        self._file = WorldFile(path)
        self._name = self._file.look().scope

    def names(self) -> tuple[str, ...]:
        return (self._name,)

    def scope(self, name: str) -> Scope:
        if name != self._name:
            raise InvalidRequestError(f"there is no scope {name!r}; known: {self._name}")
        file, world, names = self._file, self._file.look(), MirrorSettings()
        settings = world.settings
        return Scope(
            name=name,
            members={dc: _member(file, dc, cluster) for dc, cluster in world.clusters.items()},
            arbiters=tuple(world.arbiters),
            lease=MemoryLeaseStore(file),
            intents=MemoryIntentStore(file) if world.agents else None,
            endpoint=MemoryEndpoint(file),
            timing=Timing(
                drain_deadline=timedelta(seconds=settings["drain_deadline"]),
                operation_deadline=timedelta(seconds=settings["operation_deadline"]),
                quiet=timedelta(seconds=settings["quiet"]),
                lagging_group_budget=int(settings["lagging_group_budget"]),
            ),
            entry_lag_limit=int(settings["entry_lag_limit"]),
            failover=FailoverPolicy.model_validate_json(world.failover),
            lease_timing=PRESETS[Preset.TEST],
            own_groups={
                "dcdr-canary.internal": "the canary's own group",
                **{
                    cluster.connect_group_id: f"the workers of {dc}'s Connect" for dc, cluster in world.clusters.items()
                },
            },
            group_exclude=GroupSettings().exclude,
            source_connector=names.source_connector,
            checkpoint_connector=names.checkpoint_connector,
            heartbeat_connector=names.heartbeat_connector,
            gated=world.gated,
        )

    async def warm(self) -> None:
        """Nothing to prepare."""

    async def close(self) -> None:
        self._file.close()


def memory_directory(path: Path) -> MemoryDirectory:
    """The directory a worker is given in tests: its world outlives it."""
    return MemoryDirectory(path)


RESERVED = frozenset(
    {
        "connect-configs.internal",
        "connect-offsets.internal",
        "connect-status.internal",
        "dcdr-canary.internal",
        "dcdr-ledger.internal",
        "heartbeats",
    }
)


def _member(file: WorldFile, dc: str, cluster: Cluster) -> Member:
    return Member(
        name=dc,
        fence=MemoryFence(file, dc),
        logs=MemoryLogs(file, dc),
        transactions=MemoryTransactions(file, dc),
        groups=MemoryGroups(file, dc),
        ledger=MemoryLedger(file, dc),
        connect=MemoryConnect(file, dc),
        positions=MemoryPositions(file, dc),
        connect_group_id=cluster.connect_group_id,
        reserved_topics=RESERVED,
    )
