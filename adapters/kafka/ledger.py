"""The ledger topic: what a switchover proved, kept where the data is."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from adapters.kafka.reader import LogReader, Position
from adapters.kafka.records import Record
from adapters.kafka.tail import Tail
from adapters.kafka.wire import Wire
from dcdr.errors import DcdrError, MisconfiguredError, UnreachableError
from dcdr.model import TopicPartition

LANE = "ledger"
PUT_TIMEOUT: Final = timedelta(seconds=4)
LARGEST: Final = 64 << 20
"""Bytes of one entry before compression, on our side; the topic's max.message.bytes limits it after."""
RECENT_BYTES: Final = 32 << 20
"""Bodies kept in memory; older entries are remembered by their offset and read again when somebody asks."""


class KafkaLedger:
    """`dcdr.ports.Ledger` of one cluster: confluent-kafka's idempotent producer writes, a warm tail reads.

    An entry of 10,000 partitions is about 2 MB of JSON, about 0.2 MB in the log (gzip, so that reading it back needs
    nothing but the standard library); give the topic `max.message.bytes` of 8 MiB.
    """

    def __init__(self, wire: Wire, topic: str, producer: Callable[[Mapping[str, Any]], Producer]) -> None:
        """`producer` makes a confluent-kafka producer for this cluster from further settings."""
        self._wire = wire
        self._topic = topic
        self._make_producer = producer
        self._producer: Producer | None = None
        self._sending = threading.Lock()
        self._where: dict[str, tuple[TopicPartition, int]] = {}
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._recent_bytes = 0
        self._tail = Tail(wire, topic, self._apply, self._clear, lane=LANE)
        self._reader = LogReader(wire, lane=LANE)

    async def put(self, key: str, body: bytes) -> None:
        """Durable on every in-sync replica on return.

        Raises: UnreachableError when there was no acknowledgement in time (it may have been written all the same);
            MisconfiguredError when the entry is larger than the topic takes.
        """
        failed = await asyncio.to_thread(self._send, key.encode(), body)
        if failed is None:
            return
        if failed.code() == KafkaError._MSG_TIMED_OUT and not await self._wire.metadata([self._topic]):
            failed = KafkaError(KafkaError._UNKNOWN_TOPIC)  # librdkafka gives a new topic 30 s to appear
        raise self._trouble(failed, key, len(body))

    async def get(self, key: str) -> bytes | None:
        await self._tail.catch_up()
        return await self._body(key)

    async def find(self, prefix: str, ending: str = "") -> Mapping[str, bytes]:
        await self._tail.catch_up()
        keys = [key for key in sorted(self._where) if key.startswith(prefix) and key.endswith(ending)]
        found = {key: await self._body(key) for key in keys}
        return {key: body for key, body in found.items() if body is not None}

    async def warm(self, within: timedelta) -> None:
        """Read the topic, and let the producer find the brokers and its id: 500 ms that no outage should see.

        Again now and then: brokers close idle connections.
        """
        await self._tail.catch_up(within)
        await asyncio.to_thread(self._warm_producer)

    async def close(self) -> None:
        """Let go of the producer; everything put has been acknowledged already."""
        self._producer = None

    # --- writing ----------------------------------------------------------------------------------------------------

    def _warm_producer(self) -> None:
        with self._sending:
            producer = self._ready()
            try:
                producer.list_topics(self._topic, timeout=PUT_TIMEOUT.total_seconds())
            except KafkaException as error:
                raise self._trouble(error.args[0], "", 0) from error

    def _ready(self) -> Producer:
        if self._producer is None:
            self._producer = self._make_producer(
                {
                    "acks": "all",
                    "enable.idempotence": True,
                    "compression.type": "gzip",
                    "compression.level": 1,
                    "linger.ms": 0,
                    "message.max.bytes": LARGEST,
                    "message.timeout.ms": int(PUT_TIMEOUT.total_seconds() * 1000),
                    "socket.timeout.ms": int(PUT_TIMEOUT.total_seconds() * 1000),
                    "reconnect.backoff.ms": 10,  # with 0 a dead broker behind a proxy is dialled without any wait
                    "reconnect.backoff.max.ms": 500,
                }
            )
        return self._producer

    def _send(self, key: bytes, body: bytes) -> KafkaError | None:
        outcome: list[KafkaError | None] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            outcome.append(error)

        with self._sending:
            producer = self._ready()
            try:
                producer.produce(self._topic, key=key, value=body, on_delivery=delivered)
            except KafkaException as error:
                self._producer = None
                return error.args[0]  # type: ignore[no-any-return]
            producer.flush(PUT_TIMEOUT.total_seconds() + 1)
            if outcome and outcome[0] is None:
                return None
            # Whatever is wrong with it (fatal, or an outage it remembers): the next put begins with a fresh one.
            self._producer = None
            return outcome[0] if outcome else KafkaError(KafkaError._MSG_TIMED_OUT)

    def _trouble(self, error: KafkaError, key: str, size: int) -> DcdrError:
        tried = f"{self._wire.dc}: writing {key or 'nothing yet'} ({size} bytes) to {self._topic}"
        if error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE):
            return MisconfiguredError(f"{tried}: the topic's max.message.bytes is too small; 8388608 is recommended")
        if error.code() in (
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.CLUSTER_AUTHORIZATION_FAILED,
            KafkaError.SASL_AUTHENTICATION_FAILED,
            KafkaError._AUTHENTICATION,
        ):
            return MisconfiguredError(f"{tried}: {error.str()}; the admin user must be one of the brokers' super.users")
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            return MisconfiguredError(
                f"{tried}: the topic does not exist; create it, compacted, or correct the settings"
            )
        return UnreachableError(f"{tried}: {error.str()}; it may have been written: read before writing something else")

    # --- reading ----------------------------------------------------------------------------------------------------

    def _apply(self, partition: TopicPartition, record: Record) -> None:
        if record.key is None:
            return
        key = record.key.decode(errors="replace")
        self._recent_bytes -= len(self._recent.pop(key, b""))
        if record.value is None:
            self._where.pop(key, None)
            return
        self._where[key] = (partition, record.offset)
        self._remember(key, record.value)

    def _remember(self, key: str, body: bytes) -> None:
        self._recent[key] = body
        self._recent_bytes += len(body)
        while self._recent_bytes > RECENT_BYTES and len(self._recent) > 1:
            _, oldest = self._recent.popitem(last=False)
            self._recent_bytes -= len(oldest)

    def _clear(self) -> None:
        self._where.clear()
        self._recent.clear()
        self._recent_bytes = 0

    async def _body(self, key: str) -> bytes | None:
        if key in self._recent:
            return self._recent[key]
        if key not in self._where:
            return None
        partition, offset = self._where[key]
        read = (await self._reader.fetch({partition: Position(offset, offset + 1)}))[partition]
        # Nothing there: compaction took it after a newer entry, or its removal, that the next look will see.
        return read.records[0].value if read.records else None
