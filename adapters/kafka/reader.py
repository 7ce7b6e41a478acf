"""Reading a log with single Fetch requests, read_committed, without waiting: the reader that has no start-up time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from adapters.kafka import messages
from adapters.kafka.records import Record, committed, records
from adapters.kafka.trouble import OFFSET_OUT_OF_RANGE, UNKNOWN_SERVER_ERROR
from adapters.kafka.wire import LOOK, Refused, Wire, together
from dcdr.model import Span, TopicPartition

PARTITION_BYTES: Final = 1 << 20
FEW_BYTES: Final = 64 << 10
"""Of one partition, when only a few records are wanted: a mirror that lags must not cost a megabyte a look."""
FEW: Final = 10
RESPONSE_BYTES: Final = 16 << 20
_BIG: Final = 64 << 10
"""Bytes from which unpacking goes to a thread, so that it does not hold up the other calls."""
_READ_COMMITTED: Final = 1


class Slice(NamedTuple):
    """What one Fetch brought of one partition.

    `next`: where to go on; everything visible before it is in `records`. `lso`: the last stable offset when the
    broker answered, so `next >= lso` means that there was nothing more to see. `start`: the log's first offset.
    """

    records: tuple[Record, ...]
    next: int
    lso: int
    start: int
    spans: tuple[Span, ...] = ()
    """Instead of the records, where only headers are wanted."""


class Position(NamedTuple):
    """Read from `offset` on; hand over at most `limit` records, all of them below `end`. None: no such bound."""

    offset: int
    end: int | None = None
    limit: int | None = None
    headers: bool = False
    """Unpack no record: tell the batches."""


class LogReader:
    """Fetch requests of one Wire; keeps no state between calls."""

    def __init__(self, wire: Wire, *, lane: str = LOOK) -> None:
        self._wire = wire
        self._lane = lane

    async def fetch(self, positions: Mapping[TopicPartition, Position]) -> dict[TopicPartition, Slice]:
        """One look at each partition, at its leader, all leaders side by side; one at least gets on if there is more.

        An empty answer is ambiguous: the response was full, or the next batch larger than the partition's share, or
        there really is nothing up to the last stable offset (compaction took it). A full response is left to the next
        look. Otherwise a larger share is asked for, and at last a request with that partition alone decides: a broker
        returns the first batch of a request whole, however large.
        """

        async def ask(node: int, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Slice | Refused]:
            few = all((positions[p].limit or FEW + 1) <= FEW for p in partitions)
            wanted = {p: positions[p] for p in partitions}
            answers: dict[TopicPartition, Slice | Refused] = {}
            for share in (FEW_BYTES, PARTITION_BYTES) if few else (PARTITION_BYTES,):
                answered, full = await self._ask(node, wanted, share)
                answers |= answered
                wanted = {p: positions[p] for p in wanted if _is_stuck(answers[p], positions[p])}
                if full or not wanted:
                    return answers
            if len(partitions) > 1:
                alone = await together(self._ask(node, {p: positions[p]}, PARTITION_BYTES) for p in wanted)
                for answered, _ in alone:
                    answers |= answered
            for partition in wanted:
                answer = answers[partition]
                if isinstance(answer, Slice) and _is_stuck(answer, positions[partition]):
                    answers[partition] = answer._replace(next=answer.lso)
            return answers

        return await self._wire.by_leader(positions, ask, "reading")

    async def _ask(
        self, node: int, positions: Mapping[TopicPartition, Position], share: int
    ) -> tuple[dict[TopicPartition, Slice | Refused], bool]:
        """One Fetch, at most `share` bytes a partition; and whether somebody may have got less for want of room."""
        topics: dict[str, list[messages.Message]] = {}
        fetch_topic = messages.FETCH.FetchTopic
        for partition, position in positions.items():
            topics.setdefault(partition.topic, []).append(
                fetch_topic.FetchPartition(
                    partition=partition.partition,
                    fetch_offset=position.offset,
                    partition_max_bytes=share,
                )
            )
        request = messages.FETCH(
            replica_id=-1,
            max_wait_ms=0,
            min_bytes=0,
            max_bytes=RESPONSE_BYTES,
            isolation_level=_READ_COMMITTED,
            session_id=0,
            session_epoch=-1,
            topics=[fetch_topic(topic=topic, partitions=asked) for topic, asked in topics.items()],
            forgotten_topics_data=[],
            rack_id="",
        )
        response = await self._wire.call(node, request, lane=self._lane)
        answers: dict[TopicPartition, Slice | Refused] = {}
        received = 0
        for topic in response.responses:
            for data in topic.partitions:
                received += len(data.records or b"")
                partition = TopicPartition(topic.topic, data.partition_index)
                position = positions[partition]
                if data.error_code == OFFSET_OUT_OF_RANGE:
                    answers[partition] = await self._out_of_range(node, partition, position)
                elif data.error_code:
                    answers[partition] = Refused(data.error_code)
                elif data.records is not None and len(data.records) > _BIG and not position.headers:
                    answers[partition] = await asyncio.to_thread(unpack, data, position)
                else:
                    answers[partition] = unpack(data, position)
        # An error of the whole response (none is known for requests without a session) leaves partitions out.
        whole = {p: answers.get(p, Refused(response.error_code or UNKNOWN_SERVER_ERROR)) for p in positions}
        return whole, received > RESPONSE_BYTES - share and len(positions) > 1

    async def _out_of_range(self, node: int, partition: TopicPartition, position: Position) -> Slice | Refused:
        """Retention passed us: go on at the log's start. Beyond the log's end there is nothing to see, and no more."""
        asked = messages.LIST_OFFSETS.ListOffsetsTopic
        found = []
        for timestamp in (-2, -1):
            request = messages.LIST_OFFSETS(
                replica_id=-1,
                isolation_level=_READ_COMMITTED,
                topics=[
                    asked(
                        name=partition.topic,
                        partitions=[
                            asked.ListOffsetsPartition(
                                partition_index=partition.partition, current_leader_epoch=-1, timestamp=timestamp
                            )
                        ],
                    )
                ],
            )
            answer = (await self._wire.call(node, request, lane=self._lane)).topics[0].partitions[0]
            if answer.error_code:
                return Refused(answer.error_code)
            found.append(int(answer.offset))
        start, lso = found
        return Slice((), max(position.offset, start), lso, start)


def _is_stuck(answer: Slice | Refused, position: Position) -> bool:
    return isinstance(answer, Slice) and answer.next == position.offset < answer.lso


def spans(data: messages.Message, position: Position) -> tuple[tuple[Span, ...], int]:
    """The visible batches of one partition of a Fetch response, and where to go on."""
    found: list[Span] = []
    following = position.offset
    aborted = [(a.producer_id, a.first_offset) for a in data.aborted_transactions or ()]
    for batch, visible in committed(data.records, aborted):
        if position.end is not None and batch.base_offset >= position.end:
            following = max(following, batch.base_offset)
            break
        if visible and batch.next_offset > position.offset:
            found.append(Span(batch.base_offset, batch.next_offset, batch.size))
        following = max(following, batch.next_offset)
    return tuple(found), following


def unpack(data: messages.Message, position: Position) -> Slice:
    """Turn one partition of a Fetch response into what a read_committed consumer sees of it."""
    if position.headers:
        found, after = spans(data, position)
        return Slice((), after, data.last_stable_offset, data.log_start_offset, found)
    seen: list[Record] = []
    following = position.offset
    limit = position.limit
    aborted = [(a.producer_id, a.first_offset) for a in data.aborted_transactions or ()]
    for batch, visible in committed(data.records, aborted):
        if position.end is not None and batch.base_offset >= position.end:
            following = max(following, batch.base_offset)
            break
        if visible:
            for record in records(batch):
                if record.offset < position.offset:
                    continue
                if position.end is not None and record.offset >= position.end:
                    break
                if limit is not None and len(seen) >= limit:
                    return Slice(tuple(seen), record.offset, data.last_stable_offset, data.log_start_offset)
                seen.append(record)
        following = max(following, batch.next_offset)
    return Slice(tuple(seen), following, data.last_stable_offset, data.log_start_offset)
