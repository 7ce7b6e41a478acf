"""The prober: at every broker of both members, several times a second, one record each as an ordinary user.

It is made to miss nothing that a writable broker would let through:

* **It speaks to each broker itself**, on the listener that users are shown, but inside the site: a fault of a link
  blinds users, not the witness. The topic has one partition of one replica on each broker, so who leads is never a
  question, and an acknowledgement depends on that broker and its gate alone (a user's write, with more replicas, may
  fail where the probe passes; never the other way round).
* **Every attempt has its own moment.** Requests go out every 25 ms on one kept connection, answered or not: waiting for
  an answer would leave the witness blind for as long as a broker stands still, and a time-out of a second would throw
  away what a broker that wakes up says first. A broker answers a connection's requests in order. At most 40 (a second)
  wait: more would make one that wakes up work through old probes before it comes to a fresh one. Meanwhile the moments
  are noted as unanswered; after 30 s of silence the connection is made anew.
* **It remembers no error.** What one probe is told changes nothing for the next; a connection that broke is made again
  within a moment. Nothing is ever sent twice.
"""

from __future__ import annotations

import asyncio
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab.addresses import MEMBERS, Address
from lab.errors import LabError, UsageError
from lab.estate import Lab
from lab.gates import AUTHORIZER
from lab.kafka import WITNESS_TOPIC
from lab.load.journal import Writer
from lab.witness.probes import FILE, FORMAT, MIRROR, USERS, Info, Lane, Outcome, Probe

with warnings.catch_warnings():
    # kafka-python reads its schema files by an importlib call that Python 3.11 calls deprecated (3.13 no longer does).
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.protocol import producer, sasl
    from kafka.record import MemoryRecordsBuilder

EVERY_MS = 25
IN_FLIGHT = 40
SILENT_NS = 30_000_000_000
LOGIN_S = 1.0
AGAIN_S = 0.025
START_S = 30.0
ENDING = (signal.SIGINT, signal.SIGTERM)
CLIENT_ID = "dcdr-lab-witness"
TOPIC_AUTHORIZATION_FAILED = 29
HANDSHAKE, AUTHENTICATE, PRODUCE = 1, 2, 11
"""Versions that every Kafka 4.x speaks."""
_MAX_ANSWER = 1 << 20

Note = Callable[[Probe], None]


@dataclass(frozen=True)
class Target:
    """Whom a lane asks, and as which user. `partition` is the one that lies on this broker."""

    lane: Lane
    partition: int
    address: Address
    user: str
    password: str


def targets(lab: Lab) -> list[Target]:
    """Every broker, as a user; and as the mirror, where there is a gate for it (in `acl` mode it may always write)."""
    users = [(USERS, "app", "client")]
    if lab.fence_mode == AUTHORIZER:
        users.append((MIRROR, "mirror", "mirror"))
    return [
        Target(Lane(member, broker, who), number, lab.plan.ports[f"{broker}/{listener}"], user, lab.password(user))
        for member in MEMBERS
        for number, broker in enumerate(lab.brokers(member))
        for who, user, listener in users
    ]


class Asked:
    """One lane's kept connection."""

    def __init__(self, target: Target, note: Note) -> None:
        self.target = target
        self.answered = False
        self.trouble = "not connected yet"
        self.waiting: dict[int, int] = {}
        self._note = note
        self._writer: asyncio.StreamWriter | None = None
        self._number = 0

    def probe(self) -> None:
        """Send one record, or note why not."""
        now = time.monotonic_ns()
        if self._writer is None or self._writer.is_closing():
            self._settle(now, Outcome.UNKNOWN, self.trouble)
        elif len(self.waiting) >= IN_FLIGHT:
            self._settle(now, Outcome.UNKNOWN, "silent")
            if now - next(iter(self.waiting.values())) > SILENT_NS:
                self._writer.transport.abort()
        else:
            number = self._next()
            request = _framed(produce(self.target.partition), PRODUCE, number)
            self.waiting[number] = time.monotonic_ns()
            self._writer.write(request)

    async def serve(self) -> None:
        """Keep the connection and read its answers, until cancelled."""
        while True:
            writer = None
            try:
                async with asyncio.timeout(LOGIN_S):
                    reader, writer = await asyncio.open_connection(self.target.address.host, self.target.address.port)
                    await self._log_in(reader, writer)
                self._writer = writer
                while True:
                    self._hear(await _payload(reader))
            except (OSError, EOFError) as error:  # a time-out is an OSError, an answer cut short an EOFError
                self.trouble = " ".join(str(error).split()) or type(error).__name__
            finally:
                self._writer = None
                if writer is not None:
                    writer.transport.abort()
                for sent_ns in self.waiting.values():
                    self._settle(sent_ns, Outcome.UNKNOWN, "given up")
                self.waiting.clear()
            await asyncio.sleep(AGAIN_S)

    async def _log_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        token = f"\0{self.target.user}\0{self.target.password}".encode()
        for request, response, version in (
            (sasl.SaslHandshakeRequest(mechanism="PLAIN"), sasl.SaslHandshakeResponse, HANDSHAKE),
            (sasl.SaslAuthenticateRequest(auth_bytes=token), sasl.SaslAuthenticateResponse, AUTHENTICATE),
        ):
            writer.write(_framed(request, version, self._next()))
            answer = response.decode(await _payload(reader), version=version, header=True)
            if answer.error_code:
                raise ConnectionError(f"{self.target.user} was not let in: error {answer.error_code}")

    def _hear(self, payload: bytes) -> None:
        answer = producer.ProduceResponse.decode(payload, version=PRODUCE, header=True)
        number = answer.header.correlation_id
        if number not in self.waiting:
            raise ConnectionError(f"an answer to request {number}, which nobody asked")
        said = answer.responses[0].partition_responses[0]
        outcomes = {0: Outcome.ACKED, TOPIC_AUTHORIZATION_FAILED: Outcome.REFUSED}
        outcome = outcomes.get(said.error_code, Outcome.UNKNOWN)
        self.answered |= outcome is not Outcome.UNKNOWN
        offset = said.base_offset if outcome is Outcome.ACKED else -1
        self.trouble = f"error {said.error_code}"
        self._settle(self.waiting.pop(number), outcome, str(said.error_code), offset)

    def _settle(self, sent_ns: int, outcome: Outcome, code: str, offset: int = -1) -> None:
        self._note(Probe(sent_ns, time.monotonic_ns(), *self.target.lane, outcome, code, offset))

    def _next(self) -> int:
        self._number += 1
        return self._number


def journal(out: Path) -> Writer:
    """Raises: UsageError when the folder holds a run already."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        return Writer(out / FILE, {"format": FORMAT})
    except FileExistsError:
        raise UsageError(f"{out} already holds a run of the prober: give another folder") from None


async def probe(
    whom: Sequence[Target],
    writer: Writer,
    every_ms: int = EVERY_MS,
    seconds: float | None = None,
    start_s: float = START_S,
) -> None:
    """Probe until SIGINT, SIGTERM or `seconds` after every lane was answered once, which is when `Info` is written.

    Raises: LabError with the lanes that were not answered in `start_s`.
    """
    out = writer.path.parent
    asked = [Asked(target, lambda done: writer.line(*done)) for target in whom]
    serving = [asyncio.create_task(one.serve()) for one in asked]
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in ENDING:
        loop.add_signal_handler(number, stopped.set)
    info = None
    due = time.monotonic()
    give_up = due + start_s
    try:
        while not stopped.is_set():
            for one in asked:
                one.probe()
            writer.flush()
            for task in serving:
                if task.done():
                    task.result()
            if info is None and all(one.answered for one in asked):
                info = Info(every_ms, tuple(target.lane for target in whom), time.monotonic_ns())
                info.write(out)
            if info is None and time.monotonic() > give_up:
                silent = "; ".join(f"{'/'.join(one.target.lane)}: {one.trouble}" for one in asked if not one.answered)
                raise LabError(f"no answer within {start_s:.0f} s from {silent}: is the lab up, and of this version?")
            if info is not None and seconds and time.monotonic_ns() - info.started_ns >= seconds * 1e9:
                break
            due = max(due + every_ms / 1000, time.monotonic())  # a moment that was missed is not made up for
            await asyncio.sleep(due - time.monotonic())
        if info is not None:
            info = replace(info, ended_ns=time.monotonic_ns())
    finally:
        for number in ENDING:
            loop.remove_signal_handler(number)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        writer.close()
    if info is not None:
        info.write(out)


def produce(partition: int) -> Any:
    """One record, to be acknowledged by all (one) replicas."""
    batch = MemoryRecordsBuilder(magic=2, compression_type=0, batch_size=1 << 10)
    batch.append(timestamp=time.time_ns() // 1_000_000, key=None, value=b"probe", headers=[])
    batch.close()
    of_topic = producer.ProduceRequest.TopicProduceData
    data = of_topic.PartitionProduceData(index=partition, records=bytes(batch.buffer()))
    topic = of_topic(name=WITNESS_TOPIC, partition_data=[data])
    return producer.ProduceRequest(transactional_id=None, acks=-1, timeout_ms=1000, topic_data=[topic])


def _framed(request: Any, version: int, number: int) -> bytes:
    request.API_VERSION = version
    request.with_header(number, CLIENT_ID)
    return bytes(request.encode(version=version, header=True, framed=True))


async def _payload(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > _MAX_ANSWER:
        raise ConnectionError(f"an answer of {size} bytes: this is no Kafka listener without TLS")
    return await reader.readexactly(size)
