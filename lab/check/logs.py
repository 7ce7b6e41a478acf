"""Reads a cluster's logs from their start to an end that was fixed before, as a read-committed consumer sees them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from lab.check.model import Seen
from lab.check.model import TopicPartition as Place
from lab.load.records import Header, attempt_of, headers_digest, value_digest

CALL_S = 10.0
SETTLE_S = 20.0
"""How long an open transaction may take to end before it counts as stuck: longer than the load's own time-out."""
STALLED_S = 15.0
LOOK_AGAIN_S = 0.1


class ReadError(Exception):
    """A log could not be read; the text says which and what to do."""


@dataclass(frozen=True)
class Cluster:
    """Where to read one data center: librdkafka settings of a user who may read everything."""

    name: str
    settings: Mapping[str, Any]


@dataclass
class ClusterLog:
    """What one data center holds; read up to `ends` (the offset of each partition that was not read any more)."""

    records: dict[Place, list[Seen]] = field(default_factory=dict)
    blocked: list[Place] = field(default_factory=list)
    ends: dict[Place, int] = field(default_factory=dict)


def cluster_id(cluster: Cluster) -> str:
    """Raises: ReadError when nobody answers."""
    admin = AdminClient(dict(cluster.settings))
    try:
        return str(admin.list_topics(timeout=CALL_S).cluster_id)
    except KafkaException as error:
        raise ReadError(f"{cluster.name} does not answer at {cluster.settings['bootstrap.servers']}: {error}") from None


def _ends(admin: AdminClient, places: Iterable[Place], isolation: IsolationLevel) -> dict[Place, int]:
    wanted = {TopicPartition(topic, partition): OffsetSpec.latest() for topic, partition in places}
    futures = admin.list_offsets(wanted, isolation_level=isolation, request_timeout=CALL_S) if wanted else {}
    return {(tp.topic, tp.partition): future.result().offset for tp, future in futures.items()}


def read(
    cluster: Cluster, topics: Iterable[str], number_of: Callable[[str], int | None], known: ClusterLog | None = None
) -> ClusterLog:
    """Read all partitions of some topics up to where they end now; with `known`, only what came since, added to it.

    `number_of` turns an attempt id into its number. A transaction that is open gets 20 s to end; after that the
    partition is reported as blocked and read up to it.

    Raises: ReadError when a topic is missing, or the cluster stops answering.
    """
    admin = AdminClient(dict(cluster.settings))
    try:
        there = admin.list_topics(timeout=CALL_S).topics
        missing = [topic for topic in topics if topic not in there]
        if missing:
            names = ", ".join(sorted(missing))
            raise ReadError(f"{cluster.name} has no topic {names}: the run was not written for this estate")
        places = [(topic, partition) for topic in topics for partition in there[topic].partitions]
        log = known or ClusterLog()
        for place in places:
            log.records.setdefault(place, [])
        deadline = time.monotonic() + SETTLE_S
        while True:
            ends = _ends(admin, places, IsolationLevel.READ_COMMITTED)
            high = _ends(admin, places, IsolationLevel.READ_UNCOMMITTED)
            log.blocked = [place for place in places if ends[place] < high[place]]
            if not log.blocked or time.monotonic() > deadline:
                break
            time.sleep(LOOK_AGAIN_S)
        _read_up_to(cluster, ends, log, number_of)
        log.ends = ends
    except KafkaException as error:
        raise ReadError(f"{cluster.name} could not be read: {error}") from None
    return log


def _read_up_to(
    cluster: Cluster, ends: Mapping[Place, int], log: ClusterLog, number_of: Callable[[str], int | None]
) -> None:
    consumer = Consumer(
        {
            **cluster.settings,
            "group.id": "dcdr-lab-check",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "check.crcs": True,
            "fetch.wait.max.ms": 50,
            "queued.min.messages": 1_000_000,
            "queued.max.messages.kbytes": 262_144,
            "fetch.message.max.bytes": 4_194_304,
        }
    )
    starts = {place: log.ends.get(place, 0) for place in ends}
    unread = {place for place, end in ends.items() if end > starts[place]}
    # A partition is read when the position is past its last visible record; markers are skipped, so only the
    # end-of-partition event tells, and it must not come from an end that lies before the one wanted.
    consumer.assign([TopicPartition(*place, starts[place]) for place in unread])
    progress = time.monotonic()
    try:
        while unread:
            messages = consumer.consume(20_000, timeout=0.5)
            if messages:
                progress = time.monotonic()
            elif time.monotonic() - progress > STALLED_S:
                names = ", ".join(f"{topic}-{partition}" for topic, partition in sorted(unread)[:5])
                raise ReadError(f"{cluster.name} sent nothing more of {names} for {STALLED_S:.0f} s")
            for message in messages:
                error = message.error()
                place = (message.topic() or "", message.partition() or 0)
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    if (message.offset() or 0) >= ends[place]:
                        unread.discard(place)
                    continue
                offset = message.offset() or 0
                if offset >= ends[place]:
                    unread.discard(place)  # written after the end was fixed
                    continue
                key = message.key()
                headers = cast(list[Header] | None, message.headers())
                number = number_of(attempt_of(headers))
                kind, stamp = message.timestamp()
                log.records[place].append(
                    Seen(
                        offset,
                        number,
                        None if key is None else bytes(key).decode("utf-8", "backslashreplace"),
                        value_digest(message.value()),
                        headers_digest(headers),
                        None if kind == TIMESTAMP_LOG_APPEND_TIME else stamp,
                    )
                )
    finally:
        consumer.close()
