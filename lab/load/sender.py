"""The application that writes without transactions: one idempotent producer, many keys, one record a key on its way."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message

from lab.load import records
from lab.load.clients import ProducerClient, as_error, code_name, fate, producer_settings
from lab.load.config import ClientManners, Kind, LoadConfig
from lab.load.journal import Writer
from lab.load.lookout import LOOK_AGAIN_NS, Lookout
from lab.load.tally import Tally

TICK_S = 0.005
TRY_AGAIN_NS = 50_000_000
"""A good client that was refused looks until the endpoint leads elsewhere; after 50 ms it tries its record there all
the same: the fence may have been opened again."""
TRY_AT_MOST_NS = 500_000_000
"""Each refusal in a row doubles that wait, up to half a second."""
UNREACHABLE_NS = 100_000_000
BURST_S = 0.05
OUTSTANDING_UNKEYED = 2000
DRAIN_S = 34.0
"""Longer than a delivery timeout: when a run is stopped every record has its answer, unless a server is dark."""


@dataclass(slots=True)
class Record:
    """What the application wants written. Every send of it is a new attempt."""

    topic: str
    key: str | None
    seq: int
    tombstone: bool = False


@dataclass(slots=True)
class Sent:
    """One attempt on its way."""

    record: Record
    client: ProducerClient
    at_ns: int


class Source:
    """Hands out the next record of one topic, or None while every key waits for an answer."""

    def __init__(self, topic: str, kind: Kind, prefix: str, keys: int, tombstone_every: int, rate: float) -> None:
        self.topic, self.rate = topic, rate
        self._kind, self._tombstone_every = kind, tombstone_every
        self._seq: dict[str | None, Iterator[int]] = {None: count()}
        self._free: deque[str] = deque(f"{prefix}-{topic}-{number}" for number in range(keys))
        self._unkeyed = 0
        self._since_ns = time.monotonic_ns()
        self._given = 0.0

    def due(self, now_ns: int) -> int:
        """How many records the rate asks for by now; what was missed by more than 50 ms is not made up for."""
        wanted = (now_ns - self._since_ns) * self.rate / 1e9 - self._given
        if wanted > max(1.0, self.rate * BURST_S):
            self._since_ns, self._given = now_ns - int(BURST_S * 1e9), 0.0
            wanted = max(1.0, self.rate * BURST_S)
        return int(wanted)

    def next(self) -> Record | None:
        if self._kind is Kind.UNKEYED:
            if self._unkeyed >= OUTSTANDING_UNKEYED:
                return None
            self._unkeyed += 1
            key = None
        else:
            if not self._free:
                return None
            key = self._free.popleft()
        self._given += 1
        seq = next(self._seq.setdefault(key, count()))
        tombstone = self._kind is Kind.COMPACTED and self._tombstone_every > 0 and seq % self._tombstone_every == 9
        return Record(self.topic, key, seq, tombstone)

    def done(self, record: Record) -> None:
        if record.key is None:
            self._unkeyed -= 1
        else:
            self._free.append(record.key)


class Attempts:
    """Numbers the attempts of one producer, writes them down, and hands them to a client."""

    def __init__(self, run: str, producer: str, size: int, journal: Writer) -> None:
        self._prefix = f"{run}.{producer}."
        self._size = size
        self._journal = journal
        self._numbers = count(1)

    def prepare(self, record: Record, txn: int | None = None) -> tuple[int, dict[str, Any]]:
        """A new attempt: its number and the arguments of `produce`. Its line is in the journal: flush, then send."""
        number = next(self._numbers)
        attempt = f"{self._prefix}{number}"
        value = None if record.tombstone else records.value_of(attempt, record.key or "-", record.seq, self._size)
        headers = records.headers_of(attempt)
        timestamp = time.time_ns() // 1_000_000
        self._journal.line(
            "S",
            number,
            record.topic,
            record.key or "",
            record.seq,
            timestamp,
            records.value_digest(value),
            records.headers_digest(headers),
            time.monotonic_ns(),
            "" if txn is None else txn,
        )
        key = record.key.encode() if record.key is not None else None
        arguments = {"topic": record.topic, "value": value, "key": key, "timestamp": timestamp, "headers": headers}
        return number, arguments


class Sender(threading.Thread):
    """Writes records at a rate, survives refusals, and knows what became of every attempt.

    A *pinned* sender has one address for life and tries its refused records there again; the others go back to the
    endpoint: the good client looks until the endpoint leads elsewhere, the naive one makes a new producer at once.
    """

    def __init__(
        self,
        config: LoadConfig,
        name: str,
        settings: Mapping[str, Any],
        sources: Mapping[str, Source],
        tally: Tally,
        lookout: Lookout,
        pinned: bool = False,
    ) -> None:
        super().__init__(name=f"sender-{name}", daemon=True)
        self._lookout = lookout
        self._naive = config.client is ClientManners.NAIVE and not pinned
        self._pinned = pinned
        self._settings = producer_settings(settings, ClientManners.NAIVE if self._naive else ClientManners.GOOD)
        header = {"run": config.run, "producer": name, "role": "pinned" if pinned else "follow"}
        self._journal = Writer(config.out / f"producer-{name}.tsv", header)
        self._attempts = Attempts(config.run, name, config.size, self._journal)
        self._sources = sources
        self._tally = tally
        self._topic = next(iter(sources))

        self._client: ProducerClient | None = None
        self._clients = count(1)
        self._retired: list[ProducerClient] = []
        self._announced: set[int] = set()
        self._on_probation = False
        self._refused_by = ""
        self._refusals = 0
        self._look_ns = self._try_ns = 0

        self._on_way: dict[int, Sent] = {}
        self._answers: list[tuple[int, KafkaError | None, Message | None, int]] = []
        self._retries: deque[Record] = deque()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Send nothing new; return from the thread when every record has its answer or after 15 s."""
        self._stopping.set()

    def run(self) -> None:
        deadline = None
        try:
            while True:
                self._serve()
                now = time.monotonic()
                if self._stopping.is_set():
                    deadline = deadline or now + DRAIN_S
                    if now > deadline or not (self._on_way or self._retries):
                        return
                if self._client is None:
                    self._find_client()
                if self._client is not None:
                    self._send(self._client)
        finally:
            self._journal.close()

    # --- answers ---

    def _serve(self) -> None:
        """Wait up to a tick for answers and write them down; only then their keys may be used again."""
        client = self._client
        trouble = client.poll(TICK_S) if client is not None else None
        if client is None and self._look_ns > (now := time.monotonic_ns()):
            time.sleep(min(TICK_S, (self._look_ns - now) / 1e9))
        if client is not None and trouble is not None:
            self._give_up(client, trouble)
        for retired in list(self._retired):
            if retired.poll(0) is not None:
                retired.abandon()
            if not retired.pending():
                self._retired.remove(retired)
                retired.discard()
        self._write_down()

    def _answered(self, number: int, error: KafkaError | None, message: Message) -> None:
        self._answers.append((number, error, message, time.monotonic_ns()))

    def _write_down(self) -> None:
        answers, self._answers = self._answers, []
        settled: list[tuple[Sent, KafkaError | None]] = []
        line = self._journal.line
        for number, error, message, now in answers:
            sent = self._on_way.pop(number)
            client = sent.client
            if error is None and message is not None:
                client.ever_answered = True
                if client.number not in self._announced:
                    self._announce(client)
                line("A", number, client.number, message.partition(), message.offset(), message.timestamp()[1], now)
                self._tally.acknowledged(client.cluster, now)
            elif error is not None:
                fated = fate(error.code(), now - sent.at_ns, client)
                line(fated, number, code_name(error), now)
                self._tally.failed(fated, error.code())
            settled.append((sent, error))
        self._journal.flush()
        for sent, error in settled:
            if error is None:
                self._on_probation, self._refusals = False, 0
                self._sources[sent.record.topic].done(sent.record)
            else:
                self._retries.append(sent.record)
                if sent.client is self._client:
                    self._give_up(sent.client, error)

    # --- clients ---

    def _announce(self, client: ProducerClient) -> None:
        client.cluster_known()
        self._announced.add(client.number)
        took = time.monotonic_ns() - client.created_ns
        self._journal.line("I", client.number, client.cluster, time.monotonic_ns(), took)
        self._tally.client_ready(took)

    def _give_up(self, client: ProducerClient, error: KafkaError) -> None:
        now = time.monotonic_ns()
        self._journal.line("T", client.number, code_name(error), now)
        self._retired.append(client)
        if error.fatal():
            client.abandon()
        self._client = None
        self._refused_by = client.cluster
        wait = min(TRY_AGAIN_NS << self._refusals, TRY_AT_MOST_NS)
        self._refusals = min(self._refusals + 1, 10)
        self._look_ns, self._try_ns = now + (wait if self._pinned else 0), now + wait

    def _find_client(self) -> None:
        now = time.monotonic_ns()
        if now < self._look_ns:
            return
        if not self._naive and now < self._try_ns and self._lookout.leads_to(self._refused_by):
            self._look_ns = now + LOOK_AGAIN_NS
            return
        client = ProducerClient(next(self._clients), self._settings)
        self._on_probation = True
        if self._naive:
            self._client = client
            return
        try:
            client.look(self._topic)
            client.look(self._topic)
        except KafkaException as error:
            self._journal.line("T", client.number, code_name(as_error(error)), time.monotonic_ns())
            self._look_ns = time.monotonic_ns() + UNREACHABLE_NS
            client.discard()
            return
        self._announce(client)
        self._client = client

    # --- sending ---

    def _due(self) -> list[Record]:
        """The records to send in this tick: refused ones first, in the order they were refused."""
        if self._on_probation:
            # Until a new client has had its first answer, one record is enough to try it with.
            if self._on_way and any(sent.client is self._client for sent in self._on_way.values()):
                return []
            limit = 1
        else:
            limit = 1_000_000
        due: list[Record] = []
        while self._retries and len(due) < limit:
            due.append(self._retries.popleft())
        if self._stopping.is_set():
            return due
        now = time.monotonic_ns()
        for source in self._sources.values():
            for _ in range(min(source.due(now), limit - len(due))):
                record = source.next()
                if record is None:
                    self._tally.held_back += 1
                    break
                due.append(record)
        return due

    def _send(self, client: ProducerClient) -> None:
        due = [(record, *self._attempts.prepare(record)) for record in self._due()]
        if not due:
            return
        self._journal.flush()
        trouble: KafkaError | None = None
        for record, number, arguments in due:
            self._on_way[number] = Sent(record, client, time.monotonic_ns())
            on_delivery: Callable[[KafkaError | None, Message], None] = partial(self._answered, number)
            try:
                client.producer.produce(**arguments, on_delivery=on_delivery)
            except KafkaException as error:
                # Refused by the library itself: it never left this process.
                trouble = as_error(error)
                del self._on_way[number]
                self._journal.line("F", number, code_name(trouble), time.monotonic_ns())
                self._tally.failed("F", trouble.code())
                self._retries.append(record)
            except BufferError:
                del self._on_way[number]
                self._journal.line("F", number, "_QUEUE_FULL", time.monotonic_ns())
                self._retries.append(record)
        if trouble is not None and client is self._client:
            self._give_up(client, trouble)
