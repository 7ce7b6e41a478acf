"""The settling rule's evidence: a record that waits for a slow follower is seen by the log end, and by nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta

import pytest

from adapters.kafka import KafkaCluster
from adapters.kafka import cluster as kafka_cluster
from adapters.kafka import logs as kafka_logs
from dcdr.errors import UnreachableError
from dcdr.model import CommittedOffset, Gate, OffsetRange, TopicPartition
from tests.contract.kafka_real import RealKafka, eventually, running
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
        # It stays so: the follower is in the ISR and silent.
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
    cluster = real_kafka_3.cluster(timeout=timedelta(seconds=2))
    frozen = real_kafka_3.brokers[2]

    async def takes(look: Awaitable[object]) -> float:
        began = asyncio.get_running_loop().time()
        await look
        return asyncio.get_running_loop().time() - began

    async def silent() -> None:
        with pytest.raises(UnreachableError):
            await cluster.logs.ends([one, two, three])

    async def others_answer_at_once() -> bool:
        try:
            return await takes(cluster.logs.ends([one, two])) < 1.0 and await takes(cluster.logs.topics()) < 1.0
        except UnreachableError:
            return False

    try:
        await eventually(lambda: _warm(cluster))
        frozen.freeze()
        assert await takes(silent()) < 10.0
        with pytest.raises(UnreachableError, match="broker 3"):
            await cluster.logs.ends([three])
        # Several times, so that whoever is asked first for metadata is the frozen one now and then.
        for _ in range(5):
            await eventually(others_answer_at_once)
    finally:
        frozen.thaw()

    async def back() -> bool:
        try:
            return len(await cluster.logs.ends([one, two, three])) == 3
        except UnreachableError:
            return False

    await eventually(back)
    await cluster.close()


async def test_a_leader_that_moved_is_found_at_its_successor(real_kafka_3: RealKafka) -> None:
    """Leaders move while we hold old metadata: the look is repeated at the new leader within its deadline."""
    topic = fresh("moving")
    real_kafka_3.create_topic(topic, replicas=[[2, 1, 3]])
    place = TopicPartition(topic, 0)
    cluster = real_kafka_3.cluster()
    await cluster.warm()
    try:
        before = (await cluster.logs.ends([place]))[place]
        await asyncio.to_thread(real_kafka_3.move_leader, topic, 0, [1, 2, 3])

        async def moved() -> bool:
            after = (await cluster.logs.ends([place]))[place]
            assert after[:4] == before[:4]
            return after.leader_epoch > before.leader_epoch

        await eventually(moved)
    finally:
        await cluster.close()


async def _warm(cluster: KafkaCluster) -> bool:
    try:
        await cluster.warm()
    except UnreachableError:
        return False
    return cluster.is_warm


async def test_a_cluster_that_is_away_when_we_start_is_warm_soon_after_it_returns(
    real_kafka: RealKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_cluster, "KEEP_CONNECTED", timedelta(seconds=0.2))
    cluster = real_kafka.cluster(timeout=timedelta(seconds=2))
    (broker,) = real_kafka.brokers
    try:
        broker.freeze()
        with pytest.raises(UnreachableError, match="no broker answered"):
            await cluster.warm()
        assert not cluster.is_warm
        broker.thaw()
        await eventually(lambda: cluster.is_warm)
        # And found out again when it goes, although nobody asks for anything.
        broker.freeze()
        await eventually(lambda: not cluster.is_warm)
    finally:
        broker.thaw()
        await cluster.close()


async def test_a_broker_that_was_killed_and_started_again_is_used_again() -> None:
    # A broker that comes back is refused until its old session has ended.
    with running(properties={"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}) as kafka:
        cluster = kafka.cluster()
        await cluster.warm()
        topic = fresh("restart")
        kafka.create_topic(topic)
        place = TopicPartition(topic, 0)
        try:
            await cluster.ledger.put("before", b"1")
            await asyncio.to_thread(kafka.restart, kafka.brokers[0])

            async def back() -> bool:
                try:
                    await cluster.ledger.put("after", b"2")
                    ends = await cluster.logs.ends([place])
                except UnreachableError:
                    return False
                return place in ends

            await eventually(back, within=60)
            assert await cluster.ledger.find("") == {"before": b"1", "after": b"2"}
            assert await cluster.fence.users_gates() == {1: Gate.OPEN}
            await cluster.fence.close_users()
            await cluster.groups.write(fresh("group"), {place: CommittedOffset(0)})
        finally:
            await cluster.close()
