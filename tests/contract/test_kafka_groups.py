"""ConsumerGroups: who they are, where they stand, and where we put them."""

from __future__ import annotations

import pytest

from dcdr.errors import ConflictError, InvalidRequestError
from dcdr.model import CommittedOffset, Gate, GroupKind, TopicPartition
from tests.contract.kafka_world import KafkaWorld, RealKafkaWorld, fresh
from tests.contract.test_kafka_fence import all_group_gates


async def test_a_group_nobody_knows_has_no_offsets(world: KafkaWorld) -> None:
    name = fresh("group")
    assert await world.groups.committed([name]) == {name: {}}
    assert await world.groups.committed([]) == {}


async def test_what_is_written_is_read_back_with_its_metadata(world: KafkaWorld) -> None:
    topic = await world.topic(3)
    group, other = fresh("group"), fresh("group")
    offsets = {
        TopicPartition(topic, 0): CommittedOffset(5, "state of the application"),
        TopicPartition(topic, 2): CommittedOffset(0),
    }
    await world.groups.write(group, offsets)
    await world.groups.write(group, offsets)
    await world.groups.write(other, {TopicPartition(topic, 1): CommittedOffset(7)})
    committed = await world.groups.committed([group, other])
    assert committed == {group: offsets, other: {TopicPartition(topic, 1): CommittedOffset(7)}}


async def test_a_write_moves_backwards_too_and_leaves_other_partitions_alone(world: KafkaWorld) -> None:
    topic = await world.topic(2)
    group = fresh("group")
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await world.groups.write(group, {first: CommittedOffset(9), second: CommittedOffset(9)})
    await world.groups.write(group, {first: CommittedOffset(3)})
    assert (await world.groups.committed([group]))[group] == {first: CommittedOffset(3), second: CommittedOffset(9)}


async def test_a_group_with_members_is_listed_and_not_written(world: KafkaWorld) -> None:
    topic = await world.topic()
    group = fresh("group")
    place = TopicPartition(topic, 0)
    await world.app_commits(group, place, 1)
    await world.join(group, topic)
    (found,) = [g for g in await world.groups.groups() if g.name == group]
    assert (found.kind, found.members) == (GroupKind.CONSUMER, 1)
    with pytest.raises(ConflictError, match=group):
        await world.groups.write(group, {place: CommittedOffset(0)})
    assert (await world.groups.committed([group]))[group] == {place: CommittedOffset(1)}


async def test_a_group_without_members_is_listed_as_empty(world: KafkaWorld) -> None:
    group = fresh("group")
    await world.app_commits(group, TopicPartition(await world.topic(), 0), 0)
    (found,) = [g for g in await world.groups.groups() if g.name == group]
    assert (found.kind, found.state, found.members) == (GroupKind.CONSUMER, "Empty", 0)


async def test_members_are_removed_and_their_group_can_be_written_then(world: KafkaWorld) -> None:
    topic = await world.topic()
    group, other = fresh("group"), fresh("group")
    place = TopicPartition(topic, 0)
    await world.join(group, topic)
    await world.join(other, topic)
    await world.fence.freeze_groups()  # else they join again
    await all_group_gates(world.fence, Gate.CLOSED)
    assert await world.groups.expel([group, fresh("nobody-knows")]) == 1
    assert await world.groups.expel([group]) == 0
    assert await _members(world, group) == 0
    assert await _members(world, other) == 1
    await world.groups.write(group, {place: CommittedOffset(0)})


async def _members(world: KafkaWorld, group: str) -> int:
    return sum(found.members for found in await world.groups.groups() if found.name == group)


@pytest.mark.real
@pytest.mark.parametrize(
    "settings",
    [{"group.protocol": "consumer"}, {"group.instance.id": "till-7"},
     {"group.protocol": "consumer", "group.instance.id": "till-7"}],
    ids=["new protocol", "static", "static of the new protocol"],
)  # fmt: skip
async def test_members_of_every_kind_are_removed(real: RealKafkaWorld, settings: dict[str, str]) -> None:
    topic = await real.topic()
    group = fresh("group")
    await real.join(group, topic, **settings)
    await real.fence.freeze_groups()
    await all_group_gates(real.fence, Gate.CLOSED)
    assert await real.groups.expel([group]) == 1
    assert await _members(real, group) == 0
    await real.groups.write(group, {TopicPartition(topic, 0): CommittedOffset(0)})


async def test_a_partition_that_does_not_exist_cannot_be_committed(world: KafkaWorld) -> None:
    with pytest.raises(InvalidRequestError):
        await world.groups.write(fresh("group"), {TopicPartition(fresh("no-topic"), 0): CommittedOffset(0)})


@pytest.mark.real
async def test_a_group_of_the_new_protocol_is_counted_and_not_written_either(real: RealKafkaWorld) -> None:
    topic = await real.topic()
    group = fresh("group")
    await real.join(group, topic, **{"group.protocol": "consumer"})
    (found,) = [g for g in await real.groups.groups() if g.name == group]
    assert (found.kind, found.members) == (GroupKind.CONSUMER, 1)
    place = TopicPartition(topic, 0)
    with pytest.raises(ConflictError):
        await real.groups.write(group, {place: CommittedOffset(3)})
    await real.leave_all()
    await real.groups.write(group, {place: CommittedOffset(3)})
    assert (await real.groups.committed([group]))[group] == {place: CommittedOffset(3)}


@pytest.mark.real
async def test_offsets_of_an_open_transaction_are_not_taken_for_committed(real: RealKafkaWorld) -> None:
    """A consume-transform-produce application commits its positions within the transaction."""
    topic = await real.topic()
    group, txn = fresh("group"), fresh("txn")
    place = TopicPartition(topic, 0)
    await real.groups.write(group, {place: CommittedOffset(1)})
    await real.begin(txn, place, ["x"])
    await real.send_offset(txn, group, place, 2)
    await real.transactions.fence([txn])
    assert (await real.groups.committed([group]))[group] == {place: CommittedOffset(1)}


@pytest.mark.real
async def test_a_hundred_groups_are_read_in_one_go(real: RealKafkaWorld) -> None:
    place = TopicPartition(await real.topic(), 0)
    names = [fresh("group") for _ in range(100)]
    for number, name in enumerate(names):
        await real.groups.write(name, {place: CommittedOffset(number)})
    committed = await real.groups.committed(names)
    assert [committed[name][place].offset for name in names] == list(range(100))
    assert set(names) <= {group.name for group in await real.groups.groups()}
