"""Consumer groups: what they read and commit, and how they follow the endpoint."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, cast

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message, TopicPartition

from lab.load.clients import as_error, code_name, consumer_settings
from lab.load.config import GroupRole, LoadConfig
from lab.load.journal import Writer
from lab.load.lookout import Lookout
from lab.load.records import Header, attempt_of
from lab.load.tally import Tally

COMMIT_EVERY_S = 0.2
LOOK_AGAIN_S = 0.05
TRY_AGAIN_NS = 300_000_000
CALL_S = 5.0
PARK_AFTER_S = 2.0
CATCH_UP_S = 8.0
STANDSTILL_S = 2.0
"""A member that looked away, or was given nothing, for longer starts anew: its group may since have read elsewhere what
it has fetched. A group that is frozen on the old side tells an idle member so only when its session is over."""
QUIET_S = 0.5
"""A member that is asked to finish has caught up when nothing arrived for this long."""

_HARMLESS = frozenset({KafkaError._PARTITION_EOF, KafkaError.UNKNOWN_TOPIC_OR_PART})
_REJOINING = frozenset(
    {
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError._NO_OFFSET,
    }
)
"""A commit that came too late for its generation: the records are read again by whoever has the partition now."""


class _LostError(Exception):
    """This consumer cannot go on; a new one has to be made from the endpoint."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(str(error))
        self.error = error


class Member(threading.Thread):
    """One member of a group. It commits what it has written to its journal, synchronously."""

    def __init__(
        self,
        config: LoadConfig,
        group: str,
        number: int,
        settings: Mapping[str, Any],
        tally: Tally,
        lookout: Lookout,
    ) -> None:
        name = f"{group}-{number}"
        super().__init__(name=f"member-{name}", daemon=True)
        self._lookout = lookout
        self._role = config.groups[group]
        self._group, self._topics = group, sorted(config.topics)
        self._settings = consumer_settings(settings, group)
        self._per_second = config.rate * config.lag_share if self._role is GroupRole.LAG else 0.0
        if self._per_second:
            self._settings |= {"queued.min.messages": 100, "fetch.message.max.bytes": 65_536}
        self._journal = Writer(config.out / f"member-{name}.tsv", {"run": config.run, "group": group, "member": name})
        self._tally = tally
        self._clients = count(1)
        self._client = 0
        self._positions: dict[tuple[str, int], int] = {}
        self._dirty: set[tuple[str, int]] = set()
        self._placed_ns = 0
        self._refused_by = ""
        self._try_ns = 0
        self._finishing = threading.Event()

    def stop(self) -> None:
        """Finish: a member that lags stops where it is, the others first read to the end, all bounded by 8 s."""
        self._finishing.set()

    def run(self) -> None:
        try:
            if self._role is GroupRole.PARKED:
                self._visit(self._has_parked, to_the_end=False)
                self._finishing.wait()
                come_back_until = time.monotonic() + CATCH_UP_S
                self._visit(lambda: time.monotonic() > come_back_until, to_the_end=True)
            else:
                self._visit(self._finishing.is_set, to_the_end=self._role is GroupRole.LIVE)
        finally:
            self._journal.close()

    def _has_parked(self) -> bool:
        """Whether the group has stood somewhere for long enough to be left alone."""
        stood = self._placed_ns and time.monotonic_ns() - self._placed_ns > PARK_AFTER_S * 1e9
        return bool(stood) or self._finishing.is_set()

    def _visit(self, is_over: Callable[[], bool], to_the_end: bool) -> None:
        """Be a member, on one cluster after the other, until `is_over`; then perhaps still read to the end."""
        while not is_over():
            consumer = self._join()
            if consumer is None:
                continue
            try:
                self._read(consumer, is_over, to_the_end)
                self._commit(consumer)
                return
            except _LostError as lost:
                self._journal.line("T", self._client, code_name(lost.error), time.monotonic_ns())
                self._try_ns = time.monotonic_ns() + TRY_AGAIN_NS
            finally:
                self._leave(consumer)

    def _join(self) -> Consumer | None:
        if time.monotonic_ns() < self._try_ns and self._lookout.leads_to(self._refused_by):
            time.sleep(LOOK_AGAIN_S)
            return None
        self._client = next(self._clients)
        created = time.monotonic_ns()
        errors: list[KafkaError] = []
        consumer = Consumer({**self._settings, "error_cb": errors.append})
        try:
            cluster = self._refused_by = str(consumer.list_topics(self._topics[0], timeout=2.0).cluster_id)
            self._placed_ns = 0
            self._journal.line("I", self._client, cluster, time.monotonic_ns(), time.monotonic_ns() - created)
            consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked)
        except KafkaException as error:
            self._journal.line("T", self._client, code_name(as_error(error)), time.monotonic_ns())
            self._journal.flush()
            consumer.close()
            time.sleep(LOOK_AGAIN_S)
            return None
        return consumer

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Start where the group stands; a new group at the end, or, if it is to lag, at the beginning.

        That first position is committed at once: a position nobody committed cannot be carried to another cluster.
        """
        try:
            starts = consumer.committed(partitions, timeout=CALL_S)
            fresh: list[TopicPartition] = []
            for start in starts:
                if start.error is not None:
                    raise KafkaException(start.error)
                if start.offset == OFFSET_INVALID:
                    low, high = consumer.get_watermark_offsets(start, timeout=CALL_S)
                    start.offset = low if self._role is GroupRole.LAG else high
                    fresh.append(start)
            now = time.monotonic_ns()
            for start in starts:
                self._journal.line("P", self._client, start.topic, start.partition, start.offset, now)
            consumer.assign(starts)
            self._placed_ns = now
            self._positions.clear()
            self._dirty.clear()
            if fresh:
                for start in fresh:
                    self._note_position(start.topic, start.partition, start.offset)
                self._commit(consumer)
        except KafkaException as error:
            # Raised again by the poll that runs this callback.
            raise _LostError(as_error(error)) from None

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        with contextlib.suppress(_LostError):  # the next poll meets the same refusal
            self._commit(consumer)
        for partition in partitions:
            self._positions.pop((partition.topic, partition.partition), None)
        self._dirty.clear()

    def _read(self, consumer: Consumer, is_over: Callable[[], bool], to_the_end: bool) -> None:
        commit_at = time.monotonic() + COMMIT_EVERY_S
        finish_by = quiet_since = None
        allowance, allowance_at = 0.0, time.monotonic()
        looked = time.monotonic()
        while True:
            now = time.monotonic()
            placed = self._placed_ns / 1e9  # 0 until this client knows where the group stands
            if self._finishing.is_set():
                finish_by = finish_by or now + CATCH_UP_S
                caught_up = placed and quiet_since is not None and now - max(quiet_since, placed) > QUIET_S
                if not to_the_end or now > finish_by or caught_up:
                    return
            elif is_over():
                return
            most = 1000
            if self._per_second:
                allowance = min(allowance + (now - allowance_at) * self._per_second, self._per_second)
                allowance_at = now
                most = min(int(allowance), 500)
                if most < 1:
                    time.sleep(0.02)
                    looked = now
                    continue
            messages = self._consume(consumer, most)
            idle = placed and quiet_since is not None and now - max(quiet_since, placed) > STANDSTILL_S
            if time.monotonic() - looked > STANDSTILL_S or (messages and idle and not finish_by):
                raise _LostError(KafkaError(KafkaError._MAX_POLL_EXCEEDED))
            looked = now
            allowance -= len(messages)
            self._take(messages)
            quiet_since = None if messages else (quiet_since or now)
            if time.monotonic() > commit_at:
                self._commit(consumer)
                commit_at = time.monotonic() + COMMIT_EVERY_S

    def _consume(self, consumer: Consumer, most: int) -> Sequence[Message]:
        try:
            messages = consumer.consume(most, timeout=0.05)
        except KafkaException as error:
            raise _LostError(as_error(error)) from None
        good = []
        for message in messages:
            trouble = message.error()
            if trouble is None:
                good.append(message)
            elif trouble.code() not in _HARMLESS:
                self._take(good)
                raise _LostError(trouble)
        return good

    def _take(self, messages: Sequence[Message]) -> None:
        now = time.monotonic_ns()
        line = self._journal.line
        for message in messages:
            topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
            attempt = "".join(attempt_of(cast(list[Header] | None, message.headers())).split())
            line("R", self._client, topic, partition, offset, attempt, now)
            self._note_position(topic, partition, offset + 1)
        if messages:
            self._tally.saw(self._group, len(messages))
        self._journal.flush()

    def _note_position(self, topic: str, partition: int, offset: int) -> None:
        self._positions[(topic, partition)] = offset
        self._dirty.add((topic, partition))

    def _commit(self, consumer: Consumer) -> None:
        """Commit what is in the journal. A refused commit is a refusal like any other."""
        dirty = {place: self._positions[place] for place in self._dirty if place in self._positions}
        if not dirty:
            return
        self._journal.flush()
        offsets = [TopicPartition(topic, partition, offset) for (topic, partition), offset in dirty.items()]
        try:
            results = consumer.commit(offsets=offsets, asynchronous=False) or []
        except KafkaException as error:
            if as_error(error).code() in _REJOINING:
                self._dirty.clear()
                return
            raise _LostError(as_error(error)) from None
        now = time.monotonic_ns()
        refused = None
        for result in results:
            if result.error is None:
                self._journal.line("K", self._client, result.topic, result.partition, result.offset, now)
            else:
                refused = result.error
        self._journal.flush()
        self._dirty.clear()
        if refused is not None:
            raise _LostError(refused)
        self._tally.committed(self._group, self._refused_by)

    def _leave(self, consumer: Consumer) -> None:
        """Leave the group; what was not committed is read again by the next member."""
        self._dirty.clear()
        self._positions.clear()
        with contextlib.suppress(KafkaException, RuntimeError, _LostError):  # it is being given up anyway
            consumer.close()
        self._journal.flush()
