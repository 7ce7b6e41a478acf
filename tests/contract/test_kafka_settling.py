"""The settling rule's evidence: a record that waits for a slow follower is seen by the log end, and by nothing else."""

from __future__ import annotations

import asyncio

import pytest

from adapters.kafka import logs as kafka_logs
from dcdr.errors import UnreachableError
from dcdr.model import OffsetRange, TopicPartition
from tests.contract.kafka_real import RealKafka, eventually
from tests.contract.kafka_world import fresh

pytestmark = pytest.mark.real


async def test_a_record_that_waits_for_a_frozen_follower_is_seen_by_the_log_end_alone(
    real_kafka_3: RealKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = fresh("settling")
    real_kafka_3.create_topic(topic, replicas=[[1, 3]])
    place = TopicPartition(topic, 0)
    cluster = real_kafka_3.cluster()
    await cluster.warm()
    follower = real_kafka_3.brokers[2]
    producer = real_kafka_3.producer()
    acknowledged: list[object] = []

    def send(value: bytes) -> None:
        producer.produce(topic, value, partition=0, on_delivery=lambda error, _: acknowledged.append(error))

    try:
        for number in range(5):
            send(b"%d" % number)
        assert await asyncio.to_thread(producer.flush, 10) == 0
        assert (await cluster.logs.ends([place]))[place].settled
        follower.freeze()
        send(b"waits")

        async def appended() -> bool:
            producer.poll(0)
            return (await cluster.logs.ends([place]))[place].leo == 6

        await eventually(appended)
        ends = (await cluster.logs.ends([place]))[place]
        assert (ends.leo, ends.hw, ends.lso) == (6, 5, 5)
        assert not ends.settled
        assert len(acknowledged) == 5
        assert (await cluster.logs.visible({place: OffsetRange(5, 6)}, 1))[place] == ((), False)

        # The negative: the log end asked for as an ordinary consumer does (replica id -1) looks settled.
        monkeypatch.setattr(kafka_logs, "_LEO", kafka_logs._HW)
        blind = (await cluster.logs.ends([place]))[place]
        assert blind.settled
        assert blind.leo == 5
        monkeypatch.undo()

        follower.thaw()
        assert await asyncio.to_thread(producer.flush, 20) == 0
        assert acknowledged == [None] * 6

        async def settled() -> bool:
            ends = (await cluster.logs.ends([place]))[place]
            return ends.settled and ends.leo == 6

        await eventually(settled)
    finally:
        follower.thaw()
        await cluster.close()


async def test_a_frozen_leader_costs_one_deadline_and_other_leaders_nothing(real_kafka_3: RealKafka) -> None:
    topic = fresh("led")
    real_kafka_3.create_topic(topic, replicas=[[1], [2], [3]])
    one, two, three = (TopicPartition(topic, number) for number in range(3))
    cluster = real_kafka_3.cluster()
    await cluster.warm()
    frozen = real_kafka_3.brokers[2]
    loop = asyncio.get_running_loop()
    try:
        await cluster.logs.ends([one, two, three])
        frozen.freeze()
        began = loop.time()
        with pytest.raises(UnreachableError, match="broker 3"):
            await cluster.logs.ends([one, two, three])
        assert 1.0 < loop.time() - began < 4.0
        began = loop.time()
        for _ in range(20):
            assert set(await cluster.logs.ends([one, two])) == {one, two}
            assert topic in await cluster.logs.topics()
        assert loop.time() - began < 2.0
    finally:
        frozen.thaw()

    async def back() -> bool:
        try:
            return len(await cluster.logs.ends([one, two, three])) == 3
        except UnreachableError:
            return False

    await eventually(back)
    await cluster.close()


async def test_a_killed_leader_is_found_at_its_successor(real_kafka_3: RealKafka) -> None:
    """Leaders move while we hold old metadata: the look is repeated at the new leader within its deadline."""
    topic = fresh("moving")
    real_kafka_3.create_topic(topic, replicas=[[2, 1, 3]])
    place = TopicPartition(topic, 0)
    cluster = real_kafka_3.cluster()
    await cluster.warm()
    try:
        before = (await cluster.logs.ends([place]))[place]
        await asyncio.to_thread(real_kafka_3.move_leader, topic, 0, [1, 2, 3])
        after = (await cluster.logs.ends([place]))[place]
        assert after.leader_epoch > before.leader_epoch
        assert after[:4] == before[:4]
    finally:
        await cluster.close()
