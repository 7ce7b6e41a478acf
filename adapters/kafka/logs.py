"""Topics and logs of one cluster, read from the partition leaders."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Final

from adapters.kafka import messages
from adapters.kafka.reader import LogReader, Position, Slice
from adapters.kafka.records import digest, key_digest, size
from adapters.kafka.wire import Refused, Wire, together
from dcdr.model import LogEnds, Measured, OffsetRange, RecordDigest, Span, Spans, Topic, TopicPartition, VisibleRecords

CONFIG_KEYS: Final = (
    "cleanup.policy",
    "compression.type",
    "max.message.bytes",
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "message.timestamp.type",
    "min.cleanable.dirty.ratio",
    "min.insync.replicas",
    "retention.bytes",
    "retention.ms",
    "segment.bytes",
    "segment.ms",
    "unclean.leader.election.enable",
)
"""What `topics(configs=True)` reads of each topic."""
LIVE: Final = timedelta(minutes=1)
"""A producer counts as active when its last write is younger."""

_EARLIEST, _LATEST = -2, -1
_CONSUMER, _DEBUG = -1, -2
_READ_UNCOMMITTED, _READ_COMMITTED = 0, 1
_TOPIC_RESOURCE: Final = 2
_CONFIG_BATCH: Final = 500
"""Topics per DescribeConfigs request: the answer holds all their values."""

# (timestamp, replica id, isolation level). The log end comes last, and a broker answers in this order: when
# LSO = HW = LEO holds over the three answers, no append can have happened between them.
_LSO: Final = (_LATEST, _CONSUMER, _READ_COMMITTED)
_HW: Final = (_LATEST, _CONSUMER, _READ_UNCOMMITTED)
_START: Final = (_EARLIEST, _CONSUMER, _READ_UNCOMMITTED)
_LEO: Final = (_LATEST, _DEBUG, _READ_UNCOMMITTED)


class KafkaLogs:
    """`dcdr.ports.Logs` of one cluster."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._reader = LogReader(wire)

    async def brokers(self) -> tuple[int, ...]:
        """Ids of the brokers that are registered and not fenced, sorted. Source: Metadata."""
        await self._wire.metadata()
        return self._wire.known_nodes

    async def topics(self, *, configs: bool = False) -> Mapping[str, Topic]:
        """All topics, internal ones included; `configs` adds the values of `CONFIG_KEYS`."""
        found = await self._wire.metadata(None)
        values = await self._configs(sorted(found)) if configs else {}
        return {
            name: Topic(name, topic.topic_id, len(topic.leaders), values.get(name, {}))
            for name, topic in sorted(found.items())
        }

    async def ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, LogEnds]:
        """Four ListOffsets requests to each leader, sent at once: LSO, HW, start, LEO.

        Raises: InvalidRequestError for a partition that does not exist; UnreachableError when a leader is silent.
        """
        return await self._wire.by_leader(partitions, self._ends_at, "looking at the ends of")

    async def visible(
        self, ranges: Mapping[TopicPartition, OffsetRange], limit: int
    ) -> Mapping[TopicPartition, VisibleRecords]:
        """Raw Fetch requests at the leaders until each range is read, `limit` is reached, or the LSO ends it."""
        taken: dict[TopicPartition, list[RecordDigest]] = {partition: [] for partition in ranges}
        complete = {p: r.first >= r.end for p, r in ranges.items()}
        at = {p: r.first for p, r in ranges.items() if not complete[p]}
        while at:
            slices = await self._reader.fetch(
                # One record more than the limit tells "exactly the limit" from "there is more".
                {p: Position(at[p], ranges[p].end, limit - len(taken[p]) + 1) for p in at}
            )
            for partition, read in slices.items():
                end = ranges[partition].end
                records = taken[partition]
                records += (RecordDigest(record.offset, digest(record), key_digest(record)) for record in read.records)
                if len(records) > limit:
                    del records[limit:], at[partition]
                elif read.next >= end:
                    complete[partition] = True
                    del at[partition]
                elif read.next >= read.lso:
                    del at[partition]
                else:
                    at[partition] = read.next
        return {partition: VisibleRecords(tuple(records), complete[partition]) for partition, records in taken.items()}

    async def spans(self, ranges: Mapping[TopicPartition, OffsetRange]) -> Mapping[TopicPartition, Spans]:
        """As `visible`, without unpacking a record."""
        taken: dict[TopicPartition, list[Span]] = {partition: [] for partition in ranges}
        complete = {p: r.first >= r.end for p, r in ranges.items()}
        at = {p: r.first for p, r in ranges.items() if not complete[p]}
        while at:
            slices = await self._reader.fetch({p: Position(at[p], ranges[p].end, headers=True) for p in at})
            for partition, read in slices.items():
                taken[partition] += read.spans
                complete[partition] = read.next >= ranges[partition].end
                if complete[partition] or read.next >= read.lso:
                    del at[partition]
                else:
                    at[partition] = read.next
        return {partition: Spans(tuple(found), complete[partition]) for partition, found in taken.items()}

    async def measure(
        self, ranges: Mapping[TopicPartition, OffsetRange], limits: Mapping[TopicPartition, int] | None = None
    ) -> Mapping[TopicPartition, Measured]:
        """As `visible`; a response is counted and forgotten before the next one is asked for.

        Memory: what one round of Fetch brings (16 MiB a leader, unpacked), and one `Measured` a partition.
        """
        bounds = limits or {}
        found = dict.fromkeys(ranges, Measured())
        complete = {p for p, r in ranges.items() if r.first >= r.end or bounds.get(p) == 0}
        at = {p: r.first for p, r in ranges.items() if p not in complete}
        while at:
            slices = await self._reader.fetch(
                {p: Position(at[p], ranges[p].end, bounds[p] - found[p].records if p in bounds else None) for p in at}
            )
            # Digests of a full response take a good part of a second: in a thread, so that the heart beats on.
            found |= await asyncio.to_thread(_counted, {p: found[p] for p in slices}, slices)
            for partition, read in slices.items():
                if read.next >= ranges[partition].end or found[partition].records == bounds.get(partition):
                    complete.add(partition)
                    del at[partition]
                elif read.next >= read.lso:
                    del at[partition]
                else:
                    at[partition] = read.next
        return {partition: seen._replace(complete=partition in complete) for partition, seen in found.items()}

    async def keys(self, ranges: Mapping[TopicPartition, OffsetRange], limit: int) -> tuple[bytes, ...]:
        """One partition after the other, so that nothing is read beyond the limit but the rest of a response."""
        found: dict[bytes, None] = {}
        for partition, (first, end) in sorted(ranges.items()):
            while first < end:
                read = (await self._reader.fetch({partition: Position(first, end)}))[partition]
                for record in read.records:
                    if len(found) >= limit:
                        return tuple(found)
                    if record.key is not None:
                        found[record.key] = None
                if read.next >= read.lso:
                    break
                first = read.next
        return tuple(found)

    async def active_producers(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """DescribeProducers at each leader. Ages are told by the records' own timestamps against our clock."""
        return await self._wire.by_leader(partitions, self._producers_at, "describing the producers of")

    async def _ends_at(
        self, node: int, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, LogEnds | Refused]:
        asked = {timestamp: _places(partitions, timestamp) for timestamp in (_LATEST, _EARLIEST)}
        lso, hw, start, leo = await together(
            self._wire.call(
                node,
                messages.LIST_OFFSETS(replica_id=replica_id, isolation_level=isolation, topics=asked[timestamp]),
            )
            for timestamp, replica_id, isolation in (_LSO, _HW, _START, _LEO)
        )
        offsets: defaultdict[TopicPartition, list[messages.Message]] = defaultdict(list)
        for response in (lso, hw, start, leo):
            for topic in response.topics:
                for answer in topic.partitions:
                    offsets[TopicPartition(topic.name, answer.partition_index)].append(answer)
        found: dict[TopicPartition, LogEnds | Refused] = {}
        for partition, answers in offsets.items():
            failed = next((int(answer.error_code) for answer in answers if answer.error_code), None)
            if failed is not None:
                found[partition] = Refused(failed)
            else:
                at_lso, at_hw, at_start, at_leo = answers
                found[partition] = LogEnds(
                    at_start.offset, at_leo.offset, at_hw.offset, at_lso.offset, at_hw.leader_epoch
                )
        return found

    async def _producers_at(
        self, node: int, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, int | Refused]:
        asked = messages.DESCRIBE_PRODUCERS.TopicRequest
        indexes: defaultdict[str, list[int]] = defaultdict(list)
        for partition in partitions:
            indexes[partition.topic].append(partition.partition)
        response = await self._wire.call(
            node,
            messages.DESCRIBE_PRODUCERS(
                topics=[asked(name=topic, partition_indexes=numbers) for topic, numbers in indexes.items()]
            ),
        )
        since = (time.time() - LIVE.total_seconds()) * 1000
        return {
            TopicPartition(topic.name, answer.partition_index): Refused(answer.error_code)
            if answer.error_code
            else sum(p.last_sequence >= 0 and p.last_timestamp > since for p in answer.active_producers)
            for topic in response.topics
            for answer in topic.partitions
        }

    async def _configs(self, topics: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        resource = messages.DESCRIBE_CONFIGS.DescribeConfigsResource
        found: dict[str, Mapping[str, str]] = {}
        for first in range(0, len(topics), _CONFIG_BATCH):
            share = topics[first : first + _CONFIG_BATCH]
            response = await self._wire.any(
                lambda share=share: messages.DESCRIBE_CONFIGS(  # type: ignore[misc]
                    resources=[
                        resource(
                            resource_type=_TOPIC_RESOURCE, resource_name=topic, configuration_keys=list(CONFIG_KEYS)
                        )
                        for topic in share
                    ],
                    include_synonyms=False,
                    include_documentation=False,
                )
            )
            for result in response.results:
                if result.error_code == 0:
                    found[result.resource_name] = {c.name: c.value for c in result.configs if c.value is not None}
        return found


def _counted(
    so_far: Mapping[TopicPartition, Measured], slices: Mapping[TopicPartition, Slice]
) -> dict[TopicPartition, Measured]:
    """`so_far`, and the records of the next slice of each partition."""
    found = {}
    for partition, read in slices.items():
        seen = so_far[partition]
        if read.records:
            running, volume = seen.digest, seen.size
            for record in read.records:
                running = hashlib.blake2b(running + digest(record), digest_size=16).digest()
                volume += size(record)
            times = [record.timestamp for record in read.records if record.timestamp >= 0]
            times += [at for at in (seen.earliest_ms, seen.latest_ms) if at is not None]
            seen = Measured(
                records=seen.records + len(read.records),
                size=volume,
                first=read.records[0].offset if seen.first is None else seen.first,
                last=read.records[-1].offset,
                earliest_ms=min(times, default=None),
                latest_ms=max(times, default=None),
                digest=running,
            )
        found[partition] = seen
    return found


def _places(partitions: Sequence[TopicPartition], timestamp: int) -> list[messages.Message]:
    of_topic = messages.LIST_OFFSETS.ListOffsetsTopic
    topics: defaultdict[str, list[messages.Message]] = defaultdict(list)
    for partition in partitions:
        topics[partition.topic].append(
            of_topic.ListOffsetsPartition(
                partition_index=partition.partition, current_leader_epoch=-1, timestamp=timestamp
            )
        )
    return [of_topic(name=topic, partitions=share) for topic, share in topics.items()]
