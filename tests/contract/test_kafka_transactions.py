"""Transactions: found while they are open, ended by taking their ids over."""

from __future__ import annotations

import pytest

from dcdr.model import OffsetRange, TopicPartition
from tests.contract.kafka_real import eventually
from tests.contract.kafka_world import KafkaWorld, RealKafkaWorld, fresh


async def test_an_open_transaction_is_listed_with_its_partitions_until_it_ends(world: KafkaWorld) -> None:
    place = TopicPartition(await world.topic(2), 1)
    txn = fresh("txn")
    assert txn not in {t.transactional_id for t in await world.transactions.open()}
    await world.begin(txn, place, ["a", "b"])
    (found,) = [t for t in await world.transactions.open() if t.transactional_id == txn]
    assert found.partitions == (place,)
    assert found.state == "Ongoing"
    assert await world.end(txn, commit=True)

    async def gone() -> bool:
        return txn not in {t.transactional_id for t in await world.transactions.open()}

    await eventually(gone)


async def test_fencing_aborts_what_was_open_and_its_producer_never_writes_again(world: KafkaWorld) -> None:
    place = TopicPartition(await world.topic(), 0)
    txn = fresh("txn")
    await world.produce(place, ["before"])
    await world.begin(txn, place, ["open"])
    before = (await world.logs.ends([place]))[place]
    assert before.lso == 1 < before.hw
    await world.transactions.fence([txn])
    # The abort is complete on return: the marker is written, nothing holds the last stable offset back.
    ends = (await world.logs.ends([place]))[place]
    assert ends.settled
    assert ends.leo == before.leo + 1
    seen = (await world.logs.visible({place: OffsetRange(0, ends.leo)}, 10))[place]
    assert seen.complete
    assert [record.offset for record in seen.records] == [0]
    assert not await world.end(txn, commit=True)
    assert (await world.logs.ends([place]))[place] == ends


async def test_fencing_twice_or_an_id_nobody_used_is_no_error(world: KafkaWorld) -> None:
    ids = [fresh("txn") for _ in range(5)]
    await world.transactions.fence(ids)
    await world.transactions.fence([*ids, fresh("txn")])
    await world.transactions.fence([])
    assert not {t.transactional_id for t in await world.transactions.open()} & set(ids)


@pytest.mark.real
async def test_many_open_transactions_are_fenced_at_once(real: RealKafkaWorld) -> None:
    topic = await real.topic(3)
    ids = [fresh("txn") for _ in range(6)]
    for number, txn in enumerate(ids):
        await real.begin(txn, TopicPartition(topic, number % 3), ["x"])
    assert set(ids) <= {t.transactional_id for t in await real.transactions.open()}
    await real.transactions.fence(ids)
    assert not set(ids) & {t.transactional_id for t in await real.transactions.open()}
    places = [TopicPartition(topic, number) for number in range(3)]
    assert all(ends.settled for ends in (await real.logs.ends(places)).values())
