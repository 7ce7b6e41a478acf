"""Kafka clients as an application would configure them, and what their errors mean.

The good client's settings are the ones worth recommending. An idempotent librdkafka producer asks for its producer id
when metadata arrives; if no broker is connected at that moment it looks again 500 ms later. The first metadata comes
over the bootstrap connection and names brokers that are not connected yet. So a client that has just been created asks
for metadata twice: the second answer comes over a broker's connection and the id is asked for at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from lab.load.config import ClientManners, Credentials

REFUSALS = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
"""Errors by which a broker says no. CLUSTER_AUTHORIZATION_FAILED is what a new idempotent producer gets when its user
may not write to any topic at all, which is what a closed fence means."""

NEVER_WRITTEN = frozenset({KafkaError.MSG_SIZE_TOO_LARGE})
RETRY_BACKOFF_MS = 100
UNRETRIED_NS = 80_000_000
"""librdkafka waits `retry.backoff.ms` (100, with 20 % of jitter) before it sends a record again. A refusal younger than
that is the answer to the first send, so nothing was written. A later one may be the answer to a repetition whose first
answer was lost: that record may be in the log."""

DELIVERY_TIMEOUT_MS = 30_000
"""Long: when librdkafka gives up one record it may send those behind it once more under a new epoch, and a broker on a
busy machine was seen to take 10 s for an answer."""
LOOK_TIMEOUT_S = 0.3
"""A good answer takes 20 ms. A connection that broke while the endpoint moved is tried again by the library after a
second; a new client is quicker."""


def common(bootstrap: str, credentials: Credentials | None) -> dict[str, Any]:
    """Settings every client of a run has."""
    settings: dict[str, Any] = {"bootstrap.servers": bootstrap, "client.id": "dcdr-lab-load", "log_level": 0}
    if credentials is not None:
        settings |= {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": credentials.username,
            "sasl.password": credentials.password(),
        }
    return settings


def quick(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a client that is to be usable at once, and leaves the choice of the cluster to the application."""
    return {
        **settings,
        # Not 0: what a proxy accepts for a dead broker, and ends at once, is connected to again without any wait.
        "reconnect.backoff.ms": 1,
        "reconnect.backoff.max.ms": 100,
        "socket.connection.setup.timeout.ms": 1000,
        # An idempotent producer must not wander to another cluster: its producer id may belong to somebody else there.
        "metadata.recovery.strategy": "none",
    }


def producer_settings(settings: Mapping[str, Any], manners: ClientManners) -> dict[str, Any]:
    basic = {**settings, "acks": "all", "enable.idempotence": True}
    if manners is ClientManners.NAIVE:
        return basic
    return {
        **quick(basic),
        "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
        "retry.backoff.ms": RETRY_BACKOFF_MS,
        "topic.metadata.refresh.fast.interval.ms": 20,
    }


class ProducerClient:
    """One producer instance and the cluster it is attached to. Not thread-safe."""

    def __init__(self, number: int, settings: Mapping[str, Any]) -> None:
        self.number = number
        self.created_ns = time.monotonic_ns()
        self.cluster = ""
        self.ever_answered = False
        self._errors: list[KafkaError] = []
        self._producer: Producer | None = Producer({**settings, "error_cb": self._errors.append})

    @property
    def producer(self) -> Producer:
        """The library's object. Keep no other reference to it: `discard` could not end its threads then."""
        if self._producer is None:
            raise RuntimeError(f"producer client {self.number} was discarded")
        return self._producer

    def discard(self) -> None:
        """End the instance and its threads.

        Not left to the garbage collector: confluent-kafka 2.16 keeps every exception it raised for a fatal error, with
        its traceback, and through that all that the frames of it name.
        """
        self._producer = None

    def look(self, topic: str) -> str:
        """Ask for metadata and return the cluster's id. Raises: KafkaException if nobody answers within 0.3 s."""
        metadata = self.producer.list_topics(topic, timeout=LOOK_TIMEOUT_S)
        self.cluster = str(metadata.cluster_id)
        return self.cluster

    def cluster_known(self) -> bool:
        """Whether `cluster` is set; asks the client's own cache, without waiting for a server."""
        if not self.cluster:
            self.cluster = self.producer.cluster_id(0.001) or ""
        return bool(self.cluster)

    def poll(self, timeout_s: float) -> KafkaError | None:
        """Serve delivery reports. Returns the reason when the instance cannot be used any more."""
        try:
            self.producer.poll(timeout_s)
        except KafkaException as error:
            return as_error(error)
        errors, self._errors[:] = self._errors[:], []
        for reported in errors:
            if reported.fatal() or reported.code() == KafkaError._ALL_BROKERS_DOWN:
                return reported
        return None

    def abandon(self) -> None:
        """Stop everything that is still queued or on its way; `poll` delivers what became of it."""
        self.producer.purge(in_queue=True, in_flight=True, blocking=False)

    def pending(self) -> int:
        """Records that still wait for their answer."""
        return len(self.producer)


def topic_ids(settings: Mapping[str, Any], topics: Iterable[str], timeout_s: float) -> tuple[str, dict[str, str]]:
    """(cluster id, topic -> its id) of those topics that exist.

    Raises: KafkaException when nobody answers within `timeout_s`.
    """
    admin = AdminClient(dict(settings))
    metadata = admin.list_topics(timeout=timeout_s)
    found = {}
    asked = [topic for topic in topics if topic in metadata.topics]
    for topic, future in admin.describe_topics(TopicCollection(asked), request_timeout=timeout_s).items():
        found[topic] = str(future.result().topic_id)
    return str(metadata.cluster_id), found


def as_error(error: KafkaException) -> KafkaError:
    inner = error.args[0] if error.args else None
    return inner if isinstance(inner, KafkaError) else KafkaError(KafkaError._FAIL, str(error))


def fate(code: int, age_ns: int, client: ProducerClient) -> str:
    """ "F" when the record was certainly not written, "U" when it may have been."""
    if code in NEVER_WRITTEN:
        return "F"
    if code in REFUSALS and age_ns < UNRETRIED_NS:
        return "F"
    # Without a producer id nothing can leave an idempotent producer.
    if not client.ever_answered and code in (*REFUSALS, KafkaError._FATAL, KafkaError._PURGE_QUEUE):
        return "F"
    return "U"


def code_name(error: KafkaError) -> str:
    return str(error.name())


def consumer_settings(settings: Mapping[str, Any], group: str) -> dict[str, Any]:
    return {
        **quick(settings),
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "range",
        "session.timeout.ms": 10_000,
        "heartbeat.interval.ms": 1000,
        "fetch.wait.max.ms": 50,
        "fetch.min.bytes": 16_384,  # half as many answers, each with more: the machines are shared
    }


__all__ = [
    "REFUSALS",
    "Consumer",
    "ProducerClient",
    "TopicPartition",
    "as_error",
    "code_name",
    "common",
    "consumer_settings",
    "fate",
    "producer_settings",
    "quick",
]
