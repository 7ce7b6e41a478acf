"""Reading a log with single Fetch requests, read_committed, without waiting: the reader that has no start-up time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from adapters.kafka import messages
from adapters.kafka.records import Record, committed, records
from adapters.kafka.trouble import OFFSET_OUT_OF_RANGE, UNKNOWN_SERVER_ERROR
from adapters.kafka.wire import LOOK, Refused, Wire
from dcdr.model import TopicPartition

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


class Position(NamedTuple):
    """Read from `offset` on; hand over at most `limit` records, all of them below `end`. None: no such bound."""

    offset: int
    end: int | None = None
    limit: int | None = None


class LogReader:
    """Fetch requests of one Wire; keeps no state between calls."""

    def __init__(self, wire: Wire, *, lane: str = LOOK) -> None:
        self._wire = wire
        self._lane = lane

    async def fetch(self, positions: Mapping[TopicPartition, Position]) -> dict[TopicPartition, Slice]:
        """One look at each partition, at its leader, all leaders side by side; it always gets on if there is more.

        An empty answer is ambiguous: the response was full, or the next batch larger than the partition's share, or
        there really is nothing up to the last stable offset (compaction took it). A request with that partition alone
        decides, because a broker returns the first batch of a request whole, however large.
        """

        async def ask(node: int, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Slice | Refused]:
            answers = await self._ask(node, {p: positions[p] for p in partitions})
            for partition in partitions:
                answer = answers[partition]
                wanted = positions[partition]
                if isinstance(answer, Slice) and answer.next == wanted.offset and wanted.offset < answer.lso:
                    alone = answer if len(partitions) == 1 else (await self._ask(node, {partition: wanted}))[partition]
                    if isinstance(alone, Slice) and alone.next == wanted.offset < alone.lso:
                        alone = alone._replace(next=alone.lso)
                    answers[partition] = alone
            return answers

        return await self._wire.by_leader(positions, ask, "reading")

    async def _ask(
        self, node: int, positions: Mapping[TopicPartition, Position]
    ) -> dict[TopicPartition, Slice | Refused]:
        topics: dict[str, list[messages.Message]] = {}
        fetch_topic = messages.FETCH.FetchTopic
        for partition, position in positions.items():
            topics.setdefault(partition.topic, []).append(
                fetch_topic.FetchPartition(
                    partition=partition.partition,
                    fetch_offset=position.offset,
                    partition_max_bytes=FEW_BYTES if (position.limit or PARTITION_BYTES) <= FEW else PARTITION_BYTES,
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
        for topic in response.responses:
            for data in topic.partitions:
                partition = TopicPartition(topic.topic, data.partition_index)
                position = positions[partition]
                if data.error_code == OFFSET_OUT_OF_RANGE:
                    answers[partition] = await self._out_of_range(node, partition, position)
                elif data.error_code:
                    answers[partition] = Refused(data.error_code)
                elif data.records is not None and len(data.records) > _BIG:
                    answers[partition] = await asyncio.to_thread(unpack, data, position)
                else:
                    answers[partition] = unpack(data, position)
        # An error of the whole response (none is known for requests without a session) leaves partitions out.
        return {
            partition: answers.get(partition, Refused(response.error_code or UNKNOWN_SERVER_ERROR))
            for partition in positions
        }

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


def unpack(data: messages.Message, position: Position) -> Slice:
    """Turn one partition of a Fetch response into what a read_committed consumer sees of it."""
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
