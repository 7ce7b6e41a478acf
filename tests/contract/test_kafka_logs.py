"""Logs: the ends of a log, and what a read_committed consumer sees between two offsets."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import pytest
from confluent_kafka import TopicPartition as ConfluentPartition

from adapters.kafka import reader
from dcdr import translate
from dcdr.errors import InvalidRequestError
from dcdr.model import LogEnds, Measured, OffsetRange, TopicPartition
from tests.contract.kafka_real import CANARY_TOPIC, LEDGER_TOPIC, eventually
from tests.contract.kafka_world import KafkaWorld, RealKafkaWorld, fresh


async def digests(world: KafkaWorld, place: TopicPartition, first: int = 0, end: int | None = None) -> list[bytes]:
    """Of everything visible in a range that can be read whole."""
    if end is None:
        end = (await world.logs.ends([place]))[place].leo
    found = (await world.logs.visible({place: OffsetRange(first, end)}, 100_000))[place]
    assert found.complete
    return [record.digest for record in found.records]


async def offsets(world: KafkaWorld, place: TopicPartition, first: int, end: int, limit: int = 1000) -> list[int]:
    found = (await world.logs.visible({place: OffsetRange(first, end)}, limit))[place]
    return [record.offset for record in found.records]


async def test_topics_are_listed_with_partitions_ids_and_configuration(world: KafkaWorld) -> None:
    name = await world.topic(3)
    plain = (await world.logs.topics())[name]
    assert (plain.name, plain.partitions, dict(plain.config)) == (name, 3, {})
    full = await world.logs.topics(configs=True)
    assert full[name].topic_id == plain.topic_id
    assert full[name].config["cleanup.policy"] == "delete"
    assert full[name].config["message.timestamp.type"] == "CreateTime"
    assert {CANARY_TOPIC, LEDGER_TOPIC} <= set(full)
    assert len({topic.topic_id for topic in full.values()}) == len(full)


async def test_brokers_are_sorted_ids(world: KafkaWorld) -> None:
    brokers = await world.logs.brokers()
    assert brokers
    assert list(brokers) == sorted(brokers)
    assert set(await world.fence.users_gates()) == set(brokers)


async def test_an_empty_log_ends_where_it_starts(world: KafkaWorld) -> None:
    place = TopicPartition(await world.topic(), 0)
    ends = (await world.logs.ends([place]))[place]
    assert ends[:4] == (0, 0, 0, 0)
    assert ends.settled
    assert await digests(world, place) == []


async def test_the_ends_move_with_records_and_wait_for_transactions(world: KafkaWorld) -> None:
    topic = await world.topic(2)
    one, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await world.produce(one, ["a", "b", "c"])
    txn = fresh("txn")
    await world.begin(txn, one, ["d"])
    ends = await world.logs.ends([one, other])
    assert (ends[one].start, ends[one].leo, ends[one].hw, ends[one].lso) == (0, 4, 4, 3)
    assert not ends[one].settled
    assert ends[other].settled
    await world.end(txn, commit=True)
    await eventually(lambda: _settled_at(world, one, 5))


async def _settled_at(world: KafkaWorld, place: TopicPartition, offset: int) -> bool:
    ends: LogEnds = (await world.logs.ends([place]))[place]
    return ends.settled and ends.leo == offset


async def test_a_partition_that_does_not_exist_is_refused(world: KafkaWorld) -> None:
    known = TopicPartition(await world.topic(), 0)
    for unknown in (TopicPartition(fresh("no-topic"), 0), TopicPartition(known.topic, 7)):
        with pytest.raises(InvalidRequestError):
            await world.logs.ends([known, unknown])
        with pytest.raises(InvalidRequestError):
            await world.logs.visible({unknown: OffsetRange(0, 1)}, 1)


async def test_visible_records_come_in_order_up_to_the_limit(world: KafkaWorld) -> None:
    place = TopicPartition(await world.topic(), 0)
    await world.produce(place, [str(number) for number in range(10)])
    assert await offsets(world, place, 0, 10) == list(range(10))
    assert await offsets(world, place, 4, 7) == [4, 5, 6]
    for limit, complete in ((1, False), (9, False), (10, True), (11, True)):
        found = (await world.logs.visible({place: OffsetRange(0, 10)}, limit))[place]
        assert (len(found.records), found.complete) == (min(limit, 10), complete)
    nothing = (await world.logs.visible({place: OffsetRange(7, 7)}, 1))[place]
    assert (nothing.records, nothing.complete) == ((), True)


async def test_batches_hold_as_many_records_as_are_visible(world: KafkaWorld) -> None:
    place = TopicPartition(await world.topic(), 0)
    await world.produce(place, [str(number) for number in range(5)])
    txn, other = fresh("txn"), fresh("txn")
    await world.begin(txn, place, ["aborted", "aborted too"])
    await world.end(txn, commit=False)
    await eventually(lambda: _settled_at(world, place, 8))
    await world.begin(other, place, ["kept"])
    await world.end(other, commit=True)
    await eventually(lambda: _settled_at(world, place, 10))
    visible = await offsets(world, place, 0, 10)
    found = (await world.logs.spans({place: OffsetRange(0, 10)}))[place]
    assert found.complete
    assert sum(span.records for span in found.spans) == len(visible)
    assert all(any(span.first <= offset < span.end for span in found.spans) for offset in visible)
    within = (await world.logs.spans({place: OffsetRange(3, 7)}))[place]
    assert translate.count_ahead(within.spans, 3) == 2
    assert translate.count_back(found.spans, 3) == visible[-3]
    nothing = (await world.logs.spans({place: OffsetRange(5, 8)}))[place]
    assert (nothing.spans, nothing.complete) == ((), True)


async def test_equal_records_have_equal_digests_wherever_they_are(real: RealKafkaWorld) -> None:
    topic = await real.topic(2)
    one, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await write(real, one, {"value": b"x", "timestamp": 1}, {"value": b"y", "timestamp": 1})
    await write(
        real, other, {"value": b"0", "timestamp": 1}, {"value": b"x", "timestamp": 1}, {"value": b"y", "timestamp": 1}
    )
    assert await digests(real, one) == (await digests(real, other))[1:]
    assert len(set(await digests(real, other))) == 3


async def test_aborted_records_are_invisible_and_committed_ones_are_not(world: KafkaWorld) -> None:
    place = TopicPartition(await world.topic(), 0)
    await world.produce(place, ["0", "1"])
    first, second = fresh("txn"), fresh("txn")
    await world.begin(first, place, ["aborted", "aborted too"])
    await world.end(first, commit=False)
    await eventually(lambda: _settled_at(world, place, 5))
    await world.begin(second, place, ["kept"])
    await world.end(second, commit=True)
    await eventually(lambda: _settled_at(world, place, 7))
    assert await offsets(world, place, 0, 7) == [0, 1, 5]
    # Only markers and aborted records: nothing to see, and all of it seen. This is what proves a drain.
    found = (await world.logs.visible({place: OffsetRange(2, 5)}, 1))[place]
    assert (found.records, found.complete) == ((), True)
    assert (await world.logs.visible({place: OffsetRange(6, 7)}, 1))[place] == ((), True)
    # From the middle of the aborted transaction, too.
    assert await offsets(world, place, 3, 7) == [5]


async def test_an_open_transaction_ends_what_can_be_seen(world: KafkaWorld) -> None:
    place = TopicPartition(await world.topic(), 0)
    await world.produce(place, ["0"])
    txn = fresh("txn")
    await world.begin(txn, place, ["1", "2"])
    found = (await world.logs.visible({place: OffsetRange(0, 3)}, 10))[place]
    assert ([record.offset for record in found.records], found.complete) == ([0], False)
    empty = (await world.logs.visible({place: OffsetRange(1, 3)}, 10))[place]
    assert (empty.records, empty.complete) == ((), False)
    await world.end(txn, commit=False)


async def test_a_range_is_measured_by_what_a_consumer_would_see(world: KafkaWorld) -> None:
    topic = await world.topic(3)
    place, copy, empty = (TopicPartition(topic, number) for number in range(3))
    await world.produce(place, ["0", "11", "222"])
    txn, other = fresh("txn"), fresh("txn")
    await world.begin(txn, place, ["aborted", "aborted too"])
    await world.end(txn, commit=False)
    await eventually(lambda: _settled_at(world, place, 6))
    await world.begin(other, place, ["4444"])
    await world.end(other, commit=True)
    await eventually(lambda: _settled_at(world, place, 8))
    whole = {place: OffsetRange(0, 8), empty: OffsetRange(0, 0)}
    found = await world.logs.measure(whole)
    assert found[empty] == Measured(complete=True)
    seen = found[place]
    assert (seen.records, seen.size, seen.first, seen.last, seen.complete) == (4, 10, 0, 6, True)
    assert seen.earliest_ms is not None
    assert seen.latest_ms is not None
    assert seen.earliest_ms <= seen.latest_ms
    behind = (await world.logs.measure({place: OffsetRange(3, 8)}))[place]
    assert (behind.records, behind.size, behind.first, behind.last) == (1, 4, 6, 6)
    first = (await world.logs.measure(whole, {place: 2}))[place]
    assert (first.records, first.size, first.first, first.last, first.complete) == (2, 3, 0, 1, True)
    assert first == (await world.logs.measure({place: OffsetRange(0, 2)}))[place]
    assert first.digest != seen.digest
    none = (await world.logs.measure({place: OffsetRange(0, 8)}, {place: 0}))[place]
    assert none == Measured(complete=True)
    assert (await world.logs.measure({copy: OffsetRange(0, 0), place: OffsetRange(4, 5)}))[place].records == 0


async def test_keys_are_told_once_in_order_and_no_more_than_asked_for(world: KafkaWorld) -> None:
    topic = await world.topic(2)
    one, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
    if isinstance(world, RealKafkaWorld):
        first = [{"key": b"b", "value": b"1"}, {"value": b"no key"}, {"key": b"a"}, {"key": b"b", "value": b"2"}]
        await write(world, one, *first)
        await write(world, other, {"key": b"c"}, {"key": b"a"})
    else:
        await world.produce(one, ["b=1", "no key", "a=1", "b=2"])
        await world.produce(other, ["c=1", "a=2"])
    ranges = {other: OffsetRange(0, 2), one: OffsetRange(0, 4)}
    assert await world.logs.keys(ranges, 10) == (b"b", b"a", b"c")
    assert await world.logs.keys(ranges, 2) == (b"b", b"a")
    assert await world.logs.keys({one: OffsetRange(1, 2)}, 10) == ()


async def test_a_measure_ends_at_an_open_transaction_and_says_so(world: KafkaWorld) -> None:
    place = TopicPartition(await world.topic(), 0)
    await world.produce(place, ["0"])
    txn = fresh("txn")
    await world.begin(txn, place, ["1", "2"])
    found = (await world.logs.measure({place: OffsetRange(0, 3)}))[place]
    assert (found.records, found.complete) == (1, False)
    limited = (await world.logs.measure({place: OffsetRange(0, 3)}, {place: 1}))[place]
    assert (limited.records, limited.complete) == (1, True)
    await world.end(txn, commit=False)


async def test_a_producer_that_wrote_just_now_is_active(world: KafkaWorld) -> None:
    topic = await world.topic(2)
    written, quiet = TopicPartition(topic, 0), TopicPartition(topic, 1)
    if isinstance(world, RealKafkaWorld):
        await world.produce(written, ["a"], **{"enable.idempotence": True})
    else:
        await world.produce(written, ["a"])
    assert await world.logs.active_producers([written, quiet]) == {written: 1, quiet: 0}


# --- what only a real log has ---------------------------------------------------------------------------------------


async def write(real: RealKafkaWorld, place: TopicPartition, *records: dict[str, Any], **client: Any) -> None:
    """Write records with keys, headers and timestamps of their own, in one batch where they fit."""

    def send() -> None:
        producer = real.kafka.producer(**{"linger.ms": 100, **client})
        for record in records:
            producer.produce(place.topic, partition=place.partition, **record)
        assert producer.flush(20) == 0

    await asyncio.to_thread(send)


@pytest.mark.real
async def test_digests_tell_key_value_headers_and_time_apart(real: RealKafkaWorld) -> None:
    place = TopicPartition(await real.topic(), 0)
    base: dict[str, Any] = {"key": b"k", "value": b"v", "timestamp": 1000}
    different: list[dict[str, Any]] = [
        base,
        {**base, "key": None},
        {**base, "key": b""},
        {**base, "value": None},
        {**base, "value": b""},
        {**base, "timestamp": 1001},
        {**base, "headers": [("a", b"1"), ("b", b"2")]},
        {**base, "headers": [("b", b"2"), ("a", b"1")]},
        {**base, "headers": [("a", b"1")]},
        {**base, "headers": [("a", None)]},
        {**base, "headers": [("a", b"")]},
        {"key": b"kv", "value": b"", "timestamp": 1000},
        {"key": b"", "value": b"kv", "timestamp": 1000},
    ]
    await write(real, place, *different)
    found = await digests(real, place)
    assert len(found) == len(set(found)) == len(different)
    await write(real, place, *different)
    assert await digests(real, place, len(different)) == found


@pytest.mark.real
@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_every_codec_is_read(real: RealKafkaWorld, codec: str) -> None:
    topic = await real.topic(2)
    plain, packed = TopicPartition(topic, 0), TopicPartition(topic, 1)
    records: list[dict[str, Any]] = [
        {"key": b"%d" % n, "value": b"value " * n, "timestamp": n + 1, "headers": [("h", b"%d" % n)]}
        for n in range(500)
    ]
    await write(real, plain, *records)
    await write(real, packed, *records, **{"compression.type": codec})
    assert await digests(real, packed) == await digests(real, plain)
    # A range that starts and ends within one batch.
    assert await offsets(real, packed, 123, 125) == [123, 124]


@pytest.mark.real
async def test_what_retention_took_is_not_seen_and_not_missed(real: RealKafkaWorld) -> None:
    place = TopicPartition(await real.topic(), 0)
    await real.produce(place, [str(n) for n in range(10)])

    async def delete_up_to(offset: int) -> None:
        (deleted,) = real.kafka.admin().delete_records([ConfluentPartition(*place, offset)]).values()
        await asyncio.to_thread(deleted.result, 10)

    await delete_up_to(4)
    assert (await real.logs.ends([place]))[place][:4] == (4, 10, 10, 10)
    assert await offsets(real, place, 0, 10) == list(range(4, 10))
    await delete_up_to(10)
    ends = (await real.logs.ends([place]))[place]
    assert ends[:4] == (10, 10, 10, 10)
    assert ends.settled
    assert (await real.logs.visible({place: OffsetRange(0, 10)}, 5))[place] == ((), True)


@pytest.mark.real
async def test_a_range_beyond_the_log_is_never_complete(real: RealKafkaWorld) -> None:
    place = TopicPartition(await real.topic(), 0)
    await real.produce(place, ["0", "1"])
    found = (await real.logs.visible({place: OffsetRange(0, 5)}, 10))[place]
    assert ([record.offset for record in found.records], found.complete) == ([0, 1], False)
    assert (await real.logs.visible({place: OffsetRange(4, 5)}, 10))[place] == ((), False)


@pytest.mark.real
async def test_holes_of_compaction_are_passed_over(real: RealKafkaWorld) -> None:
    name = fresh("compacted")
    config = {
        "cleanup.policy": "compact",
        "segment.ms": "200",
        "min.cleanable.dirty.ratio": "0.01",
        "max.compaction.lag.ms": "100",
        "delete.retention.ms": "0",
    }
    await asyncio.to_thread(real.kafka.create_topic, name, config=config)
    place = TopicPartition(name, 0)
    for number in range(30):
        await write(real, place, {"key": b"k%d" % (number % 3), "value": b"%d" % number}, **{"linger.ms": 0})

    async def cleaned() -> bool:
        # Segments are rolled by appends; the last one is never cleaned.
        await asyncio.sleep(0.3)
        await write(real, place, {"key": b"roll", "value": b"x"}, **{"linger.ms": 0})
        end = (await real.logs.ends([place]))[place].leo
        return not [offset for offset in await offsets(real, place, 0, end) if offset < 27]

    await eventually(cleaned, within=60)
    # Everything in [0, 27) is gone: a log with a hole at its beginning, whose start is still 0.
    assert (await real.logs.visible({place: OffsetRange(0, 27)}, 1))[place] == ((), True)
    assert (await real.logs.visible({place: OffsetRange(5, 20)}, 1))[place] == ((), True)
    assert await offsets(real, place, 3, 30) == [27, 28, 29]


@pytest.mark.real
async def test_records_larger_than_a_fetch_and_many_fetches_are_read(real: RealKafkaWorld) -> None:
    name = fresh("large")
    await asyncio.to_thread(real.kafka.create_topic, name, 3, config={"max.message.bytes": "20000000"})
    large, many, small = (TopicPartition(name, number) for number in range(3))
    big = {"message.max.bytes": 20_000_000}
    await write(real, large, {"value": b"0"}, {"value": b"1" * 5_000_000}, {"value": b"2" * 2_000_000}, **big)
    await write(real, many, *({"value": b"%4d" % n * 2500} for n in range(1000)), **big)
    await write(real, small, {"value": b"x"})
    for limit in (1, 2, 10, 100_000):
        ranges = {large: OffsetRange(0, 3), many: OffsetRange(0, 1000), small: OffsetRange(0, 1)}
        found = await real.logs.visible(ranges, limit)
        assert [len(found[place].records) for place in ranges] == [min(limit, 3), min(limit, 1000), 1]
        assert [found[place].complete for place in ranges] == [limit >= 3, limit >= 1000, True]
    assert await offsets(real, large, 1, 2) == [1]


@pytest.mark.real
async def test_log_append_time_is_the_time_that_is_seen(real: RealKafkaWorld) -> None:
    name = fresh("appended")
    await asyncio.to_thread(real.kafka.create_topic, name, config={"message.timestamp.type": "LogAppendTime"})
    place = TopicPartition(name, 0)
    for _ in range(2):
        await write(real, place, {"value": b"same", "timestamp": 1000}, **{"linger.ms": 0})
        await asyncio.sleep(0.01)
    one, other = await digests(real, place)
    assert one != other


@pytest.mark.real
async def test_more_than_a_response_holds_is_read_in_turns(
    real: RealKafkaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for two of six partitions in a response, batches larger than the share of one, a limit of few records."""
    monkeypatch.setattr(reader, "RESPONSE_BYTES", 250_000)
    monkeypatch.setattr(reader, "PARTITION_BYTES", 100_000)
    topic = await real.topic(6)
    places = [TopicPartition(topic, number) for number in range(6)]
    for place in places:
        for _ in range(2):
            await write(real, place, *({"value": b"%3d" % n * 1000} for n in range(60)))
    ends = await real.logs.ends(places)
    ranges = {place: OffsetRange(0, ends[place].leo) for place in places}
    for limit in (1, 7, 1000):
        found = await real.logs.visible(ranges, limit)
        for place in places:
            assert [record.offset for record in found[place].records] == list(range(min(limit, 120)))
            assert found[place].complete == (limit == 1000)


@pytest.mark.real
async def test_equal_records_measure_the_same_and_their_times_and_sizes_are_told(real: RealKafkaWorld) -> None:
    topic = await real.topic(2)
    one, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
    records: list[dict[str, Any]] = [
        {"key": b"k", "value": b"value", "timestamp": 5000, "headers": [("h", b"12"), ("n", None)]},
        {"value": None, "timestamp": 3000},
        {"key": b"", "value": b"x", "timestamp": 4000},
    ]
    await write(real, one, *records)
    await write(real, other, {"value": b"ahead", "timestamp": 1})
    await write(real, other, *records)
    ends = await real.logs.ends([one, other])
    found = await real.logs.measure({one: OffsetRange(0, ends[one].leo), other: OffsetRange(1, ends[other].leo)})
    assert found[one].digest == found[other].digest
    assert found[one][:6] == (3, 11, 0, 2, 3000, 5000)
    swapped = TopicPartition(await real.topic(), 0)
    await write(real, swapped, records[1], records[0], records[2])
    assert (await real.logs.measure({swapped: OffsetRange(0, 3)}))[swapped].digest != found[one].digest


@pytest.mark.real
async def test_measuring_a_long_log_takes_no_more_memory_than_a_short_one(
    real: RealKafkaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Responses of 200 kB; logs of 2 MB and of 20 MB. What is kept between responses does not grow with the log."""
    monkeypatch.setattr(reader, "RESPONSE_BYTES", 200_000)
    monkeypatch.setattr(reader, "PARTITION_BYTES", 100_000)
    topic = await real.topic(2)
    short, long = TopicPartition(topic, 0), TopicPartition(topic, 1)
    peaks = {}
    for place, records in ((short, 2_000), (long, 20_000)):
        values = ({"value": b"%6d" % n + b"x" * 994} for n in range(records))
        await write(real, place, *values, **{"batch.size": 50_000, "linger.ms": 5})
        tracemalloc.start()
        try:
            found = (await real.logs.measure({place: OffsetRange(0, records)}))[place]
            peaks[place] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (found.records, found.size, found.complete) == (records, records * 1000, True)
    assert peaks[long] < 2 * peaks[short], peaks
    assert peaks[long] < 4_000_000, peaks
