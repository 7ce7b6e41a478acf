"""The application that writes in transactions, commits most of them and aborts some on purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from functools import partial
from itertools import count
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message

from lab.load.clients import ProducerClient, as_error, code_name, fate, producer_settings
from lab.load.config import ClientManners, LoadConfig
from lab.load.journal import Writer
from lab.load.lookout import LOOK_AGAIN_NS, Lookout
from lab.load.sender import TRY_AGAIN_NS, TRY_AT_MOST_NS, UNREACHABLE_NS, Attempts, Record, Source
from lab.load.tally import Tally

CALL_S = 5.0
TRANSACTION_TIMEOUT_MS = 15_000
"""How long a transaction may block readers when its producer dies; the broker's default is a minute."""
GIVE_UP_S = 15.0


class _FailedError(Exception):
    """This transaction has to be done again by a new client."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(str(error))
        self.error = error


class TransactionalSender(threading.Thread):
    """Writes transactions of a fixed number of records; one that failed is repeated whole, as new attempts."""

    def __init__(
        self,
        config: LoadConfig,
        name: str,
        settings: Mapping[str, Any],
        sources: Mapping[str, Source],
        tally: Tally,
        lookout: Lookout,
    ) -> None:
        super().__init__(name=f"sender-{name}", daemon=True)
        self._lookout = lookout
        self._naive = config.client is ClientManners.NAIVE
        self._settings = {
            **producer_settings(settings, config.client),
            "transactional.id": f"lab-load-{config.run}-{name}",
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
        }
        if "delivery.timeout.ms" in self._settings:
            self._settings["delivery.timeout.ms"] = min(self._settings["delivery.timeout.ms"], TRANSACTION_TIMEOUT_MS)
        header = {"run": config.run, "producer": name, "role": "follow"}
        self._journal = Writer(config.out / f"producer-{name}.tsv", header)
        self._attempts = Attempts(config.run, name, config.size, self._journal)
        self._sources = list(sources.values())
        self._records, self._abort_every = config.transaction_records, config.abort_every
        self._period_s = config.transaction_records / sum(source.rate for source in self._sources)
        self._tally = tally
        self._client: ProducerClient | None = None
        self._clients = count(1)
        self._transactions = count(1)
        self._refused_by = ""
        self._refusals = 0
        self._try_ns = 0
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Finish the transaction at hand, bounded by 15 s, and return from the thread."""
        self._stopping.set()

    def run(self) -> None:
        try:
            due = time.monotonic()
            for number in count(1):
                if self._stopping.wait(max(0.0, due - time.monotonic())):
                    return
                due = max(due + self._period_s, time.monotonic() - self._period_s)
                source = self._sources[number % len(self._sources)]
                records = [record for record in (source.next() for _ in range(self._records)) if record]
                on_purpose = self._abort_every > 0 and number % self._abort_every == 0
                if not self._until_done(records, on_purpose):
                    return
                for record in records:
                    source.done(record)
        finally:
            self._journal.close()

    def _until_done(self, records: list[Record], on_purpose: bool) -> bool:
        """Repeat the transaction until it ended as intended. False if the run was stopped and no cluster took it."""
        stopped_at = None
        while True:
            if self._stopping.is_set():
                stopped_at = stopped_at or time.monotonic()
                if time.monotonic() > stopped_at + GIVE_UP_S:
                    return False
            client = self._client if self._client is not None else self._find_client()
            if client is None:
                continue
            try:
                self._transaction(client, next(self._transactions), records, on_purpose)
            except _FailedError as failed:
                self._give_up(client, failed.error)
            else:
                return True

    def _transaction(self, client: ProducerClient, txn: int, records: list[Record], on_purpose: bool) -> None:
        """Raises: _FailedError after the journal says what became of the transaction."""
        prepared = [self._attempts.prepare(record, txn) for record in records]
        self._journal.flush()
        troubles: list[KafkaError] = []
        sent_ns = time.monotonic_ns()

        def answered(number: int, error: KafkaError | None, message: Message) -> None:
            now = time.monotonic_ns()
            if error is None:
                client.ever_answered = True
                partition, offset, stamp = message.partition(), message.offset(), message.timestamp()[1]
                self._journal.line("A", number, client.number, partition, offset, stamp, now)
                return
            troubles.append(error)
            fated = fate(error.code(), now - sent_ns, client)
            self._tally.failed(fated, error.code())
            self._journal.line(fated, number, code_name(error), now)

        try:
            client.producer.begin_transaction()
            for number, arguments in prepared:
                client.producer.produce(**arguments, on_delivery=partial(answered, number))
            client.producer.flush(CALL_S)
            if troubles:
                raise KafkaException(troubles[0])
            if on_purpose:
                client.producer.abort_transaction(CALL_S)
        except (KafkaException, BufferError) as error:
            # A commit was never asked for, so nothing of this transaction can ever become visible.
            reason = as_error(error) if isinstance(error, KafkaException) else KafkaError(KafkaError._QUEUE_FULL)
            self._abandon(client, reason)
            self._journal.line("X", txn, code_name(reason), time.monotonic_ns())
            self._journal.flush()
            raise _FailedError(reason) from None
        self._refusals = 0
        if on_purpose:
            self._journal.line("X", txn, "on-purpose", time.monotonic_ns())
            self._tally.gave_back(len(records))
        else:
            self._commit(client, txn)
            self._tally.acknowledged(client.cluster, time.monotonic_ns(), len(records))
        self._journal.flush()

    def _commit(self, client: ProducerClient, txn: int) -> None:
        self._journal.flush()
        deadline = time.monotonic() + CALL_S
        while True:
            try:
                client.producer.commit_transaction(CALL_S)
            except KafkaException as error:
                reason = as_error(error)
                if reason.retriable() and time.monotonic() < deadline:
                    continue
                self._tally.failed("U", reason.code())
                self._abandon(client, reason)
                self._journal.line("Q", txn, code_name(reason), time.monotonic_ns())
                self._journal.flush()
                raise _FailedError(reason) from None
            self._journal.line("C", txn, client.number, time.monotonic_ns())
            return

    def _abandon(self, client: ProducerClient, reason: KafkaError) -> None:
        """Be polite to readers of the old cluster: end the transaction there, if that is possible at once."""
        try:
            if not reason.fatal():
                client.producer.abort_transaction(1.0)
            else:
                client.abandon()
                client.poll(0)
        except KafkaException:
            client.abandon()
            client.poll(0)

    def _give_up(self, client: ProducerClient, reason: KafkaError) -> None:
        self._journal.line("T", client.number, code_name(reason), time.monotonic_ns())
        self._journal.flush()
        self._client = None
        self._refused_by = client.cluster
        self._try_ns = time.monotonic_ns() + min(TRY_AGAIN_NS << self._refusals, TRY_AT_MOST_NS)
        self._refusals = min(self._refusals + 1, 10)
        client.discard()

    def _find_client(self) -> ProducerClient | None:
        """A client that may begin transactions, or None after a short wait."""
        if not self._naive and time.monotonic_ns() < self._try_ns and self._lookout.leads_to(self._refused_by):
            time.sleep(LOOK_AGAIN_NS / 1e9)
            return None
        client = ProducerClient(next(self._clients), self._settings)
        try:
            client.look(self._sources[0].topic)
            client.look(self._sources[0].topic)
            client.producer.init_transactions(CALL_S)
        except KafkaException as error:
            reason = as_error(error)
            self._tally.failed("", reason.code())
            self._journal.line("T", client.number, code_name(reason), time.monotonic_ns())
            self._journal.flush()
            client.discard()
            time.sleep(UNREACHABLE_NS / 1e9)
            return None
        took = time.monotonic_ns() - client.created_ns
        self._journal.line("I", client.number, client.cluster, time.monotonic_ns(), took)
        self._tally.client_ready(took)
        self._client = client
        return client
