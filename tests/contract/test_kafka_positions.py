"""MirrorPositions: what the mirror has stored before we asked is in the answer."""

from __future__ import annotations

import asyncio
import json

import pytest

from dcdr.errors import MisconfiguredError
from dcdr.model import TopicPartition
from tests.contract.kafka_real import OFFSETS_TOPIC, eventually
from tests.contract.kafka_world import CONNECTOR, KafkaWorld, RealKafkaWorld, fresh


async def test_a_stored_offset_is_seen_by_the_next_call(world: KafkaWorld) -> None:
    place = TopicPartition(fresh("topic"), 3)
    for offset in range(20):
        await world.store_position(place, offset)
        assert (await world.positions.current(CONNECTOR))[place] == offset


async def test_a_forgotten_offset_is_gone_and_others_stay(world: KafkaWorld) -> None:
    topic = fresh("topic")
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await world.store_position(first, 4)
    await world.store_position(second, 5)
    await world.store_position(first, None)
    current = await world.positions.current(CONNECTOR)
    assert first not in current
    assert current[second] == 5


async def test_a_connector_that_stored_nothing_has_an_empty_answer(world: KafkaWorld) -> None:
    assert await world.positions.current(fresh("connector")) == {}


@pytest.mark.real
async def test_offsets_of_a_transaction_count_once_it_is_committed(real: RealKafkaWorld) -> None:
    """Exactly-once Connect writes records and offsets in one transaction."""
    connector, topic = fresh("connector"), fresh("topic")
    place = TopicPartition(topic, 0)
    key = json.dumps([connector, {"cluster": "dc-b", "partition": 0, "topic": topic}]).encode()
    producer = real.kafka.producer("admin", **{"transactional.id": fresh("connect-task")})
    await asyncio.to_thread(producer.init_transactions, 10)
    for offset, commit in ((1, True), (2, False), (3, True)):
        producer.begin_transaction()
        producer.produce(OFFSETS_TOPIC, json.dumps({"offset": offset}).encode(), key)
        await asyncio.to_thread(producer.flush, 10)
        before = await real.positions.current(connector)
        assert before == ({} if offset == 1 else {place: 1})
        await asyncio.to_thread(producer.commit_transaction if commit else producer.abort_transaction, 10)
        # The coordinator answers before its markers are written: only they decide the transaction for readers.
        expected = {place: offset if commit else 1}
        await eventually(lambda expected=expected: _is(real, connector, expected))


async def _is(real: RealKafkaWorld, connector: str, expected: dict[TopicPartition, int]) -> bool:
    return await real.positions.current(connector) == expected


@pytest.mark.real
async def test_what_other_connectors_store_is_left_aside(real: RealKafkaWorld) -> None:
    connector, topic = fresh("connector"), fresh("topic")
    await real.store(connector, {"group": "g", "partition": 0, "topic": topic}, 7)
    await real.store(connector, {"sourceClusterAlias": "dc-b", "targetClusterAlias": "dc-a"}, 7)
    await real.store(connector, {"cluster": "dc-b", "partition": 0, "topic": topic}, 8)
    await real.store(fresh("connector"), {"cluster": "dc-b", "partition": 0, "topic": topic}, 9)
    assert await real.positions.current(connector) == {TopicPartition(topic, 0): 8}


@pytest.mark.real
async def test_offsets_under_two_aliases_are_refused(real: RealKafkaWorld) -> None:
    connector, topic = fresh("connector"), fresh("topic")
    await real.store(connector, {"cluster": "old-name", "partition": 0, "topic": topic}, 7)
    await real.store(connector, {"cluster": "dc-b", "partition": 0, "topic": topic}, 8)
    with pytest.raises(MisconfiguredError, match="dc-b, old-name"):
        await real.positions.current(connector)
    await real.store(connector, {"cluster": "old-name", "partition": 0, "topic": topic}, None)
    assert await real.positions.current(connector) == {TopicPartition(topic, 0): 8}


@pytest.mark.real
async def test_an_offsets_topic_that_was_created_anew_is_read_anew(real: RealKafkaWorld) -> None:
    topic = fresh("offsets.internal")
    real.kafka.create_topic(topic, config={"cleanup.policy": "compact"})
    cluster = real.kafka.cluster(offsets_topic=topic)

    async def store(place: str, offset: int) -> None:
        producer = real.kafka.producer("admin")
        key = json.dumps(["c", {"cluster": "dc-b", "partition": 0, "topic": place}]).encode()
        producer.produce(topic, json.dumps({"offset": offset}).encode(), key)
        assert await asyncio.to_thread(producer.flush, 10) == 0

    try:
        for offset in range(3):
            await store("old", offset)
        assert await cluster.positions.current("c") == {TopicPartition("old", 0): 2}
        (deleted,) = real.kafka.admin().delete_topics([topic]).values()
        await asyncio.to_thread(deleted.result, 10)
        await asyncio.to_thread(real.kafka.create_topic, topic, config={"cleanup.policy": "compact"})
        await store("new", 0)
        assert await cluster.positions.current("c") == {TopicPartition("new", 0): 0}
    finally:
        await cluster.close()
