"""ProduceFence: closing and opening the users' gates, seen by what they do to users."""

from __future__ import annotations

import asyncio
import time

import pytest
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from dcdr.errors import MisconfiguredError
from dcdr.model import Gate, TopicPartition
from dcdr.ports import ProduceFence
from tests.contract.kafka_real import RealKafka, eventually, running
from tests.contract.kafka_world import KafkaWorld, RealKafkaWorld, fresh


async def all_gates(fence: ProduceFence, gate: Gate) -> None:
    await eventually(lambda: _all(fence, gate))


async def _all(fence: ProduceFence, gate: Gate) -> bool:
    return set((await fence.users_gates()).values()) == {gate}


async def all_group_gates(fence: ProduceFence, gate: Gate) -> None:
    async def check() -> bool:
        return set((await fence.group_gates()).values()) == {gate}

    await eventually(check)


@pytest.mark.real
async def test_a_cluster_that_denies_by_default_is_recognised_behind_its_fence_too(real: RealKafkaWorld) -> None:
    assert (await real.fence.rules()).default_deny is True
    await real.fence.close_users()
    await real.fence.freeze_groups()
    await eventually(lambda: _denied(real.fence, users=True, groups=True))
    assert (await real.fence.rules()).default_deny is True


async def test_rules_tell_what_stands(fence: ProduceFence) -> None:
    rules = await fence.rules()
    assert (rules.authorizer, rules.default_deny, rules.canary_granted) == (True, True, True)
    assert (rules.users_denied, rules.groups_denied) == (False, False)
    await fence.close_users()
    await eventually(lambda: _denied(fence, users=True, groups=False))
    await fence.freeze_groups()
    await eventually(lambda: _denied(fence, users=True, groups=True))
    await fence.open_users()
    await eventually(lambda: _denied(fence, users=False, groups=True))
    await fence.thaw_groups()
    await eventually(lambda: _denied(fence, users=False, groups=False))


async def _denied(fence: ProduceFence, *, users: bool, groups: bool) -> bool:
    rules = await fence.rules()
    return (rules.users_denied, rules.groups_denied) == (users, groups)


async def test_closing_and_opening_twice_is_like_once(world: KafkaWorld) -> None:
    place = TopicPartition(await world.topic(), 0)
    for _ in range(2):
        await world.fence.close_users()
    await all_gates(world.fence, Gate.CLOSED)
    for _ in range(2):
        await world.fence.open_users()
    await all_gates(world.fence, Gate.OPEN)
    assert await world.produce(place, ["a"])


async def test_behind_a_closed_gate_no_user_writes_or_creates(world: KafkaWorld) -> None:
    place = TopicPartition(await world.topic(), 0)
    assert await world.produce(place, ["before"])
    await world.fence.close_users()
    await all_gates(world.fence, Gate.CLOSED)
    assert not await world.produce(place, ["behind"])
    assert not await world.app_creates_topic()
    assert (await world.logs.ends([place]))[place].leo == 1
    await world.fence.open_users()
    await all_gates(world.fence, Gate.OPEN)
    assert await world.produce(place, ["after"])
    assert await world.app_creates_topic()


async def test_frozen_groups_cannot_commit_and_may_again(world: KafkaWorld) -> None:
    place = TopicPartition(await world.topic(), 0)
    group = fresh("group")
    await world.produce(place, ["a", "b"])
    assert await world.app_commits(group, place, 1)
    await world.fence.freeze_groups()
    await all_group_gates(world.fence, Gate.CLOSED)
    assert not await world.app_commits(group, place, 2)
    # We still read, and write, what the group may not.
    assert (await world.groups.committed([group]))[group][place].offset == 1
    await world.fence.thaw_groups()
    await all_group_gates(world.fence, Gate.OPEN)
    assert await world.app_commits(group, place, 2)


async def test_the_two_gates_are_independent(world: KafkaWorld) -> None:
    place = TopicPartition(await world.topic(), 0)
    await world.fence.freeze_groups()
    await all_group_gates(world.fence, Gate.CLOSED)
    assert set((await world.fence.users_gates()).values()) == {Gate.OPEN}
    assert await world.produce(place, ["a"])
    await world.fence.close_users()
    await world.fence.thaw_groups()
    await all_gates(world.fence, Gate.CLOSED)
    await all_group_gates(world.fence, Gate.OPEN)
    assert await world.app_commits(fresh("group"), place, 0)


async def test_the_mirrors_gate_is_seen_beside_the_users_one(world: KafkaWorld) -> None:
    await _mirror_gates(world.fence, Gate.OPEN)
    await world.mirror_allowed(False)
    await _mirror_gates(world.fence, Gate.CLOSED)
    assert set((await world.fence.users_gates()).values()) == {Gate.OPEN}
    await world.mirror_allowed(True)
    await _mirror_gates(world.fence, Gate.OPEN)


async def _mirror_gates(fence: ProduceFence, gate: Gate) -> None:
    async def check() -> bool:
        return set((await fence.mirror_gates()).values()) == {gate}

    await eventually(check)


@pytest.mark.real
async def test_without_a_mirrors_canary_its_gate_cannot_be_asked_for(real_kafka: RealKafka) -> None:
    cluster = real_kafka.cluster(mirror_canary=None)
    await cluster.warm()
    try:
        with pytest.raises(MisconfiguredError, match=r"kafka\.mirror_canary"):
            await cluster.fence.mirror_gates()
    finally:
        await cluster.close()


@pytest.mark.real
async def test_opening_leaves_other_peoples_rules_alone(real: RealKafkaWorld) -> None:
    theirs = AclBinding(
        ResourceType.TOPIC, "secret", ResourcePatternType.LITERAL, "User:*", "*", AclOperation.WRITE,
        AclPermissionType.DENY,
    )  # fmt: skip
    admin = real.kafka.admin()
    for created in admin.create_acls([theirs]).values():
        created.result(10)
    await real.fence.close_users()
    await real.fence.open_users()
    one = AclBindingFilter(
        ResourceType.TOPIC, "secret", ResourcePatternType.LITERAL, "User:*", "*", AclOperation.ANY,
        AclPermissionType.ANY,
    )  # fmt: skip
    assert len(admin.describe_acls(one).result(10)) == 1
    for deleted in admin.delete_acls([one]).values():
        deleted.result(10)


@pytest.mark.real
async def test_a_frozen_broker_is_unknown_and_costs_one_deadline(real_kafka_3: RealKafka) -> None:
    cluster = real_kafka_3.cluster()
    await cluster.warm()
    frozen = real_kafka_3.brokers[2]
    expected = {1: Gate.OPEN, 2: Gate.OPEN, frozen.node: Gate.UNKNOWN}

    async def known_within_the_deadline() -> bool:
        began = time.monotonic()
        fence = cluster.fence
        users, groups, mirror = await asyncio.gather(fence.users_gates(), fence.group_gates(), fence.mirror_gates())
        assert users[frozen.node] is groups[frozen.node] is mirror[frozen.node] is Gate.UNKNOWN
        return time.monotonic() - began < 2.0 and users == groups == mirror == expected

    try:
        await cluster.fence.verify_canary()
        await all_gates(cluster.fence, Gate.OPEN)
        await all_group_gates(cluster.fence, Gate.OPEN)
        frozen.freeze()
        await eventually(known_within_the_deadline)
    finally:
        frozen.thaw()
    await all_gates(cluster.fence, Gate.OPEN)
    await cluster.close()


@pytest.mark.real
async def test_a_broker_without_a_canary_partition_is_unknown_and_a_misconfiguration(real_kafka_3: RealKafka) -> None:
    topic = fresh("half-canary")
    await asyncio.to_thread(lambda: real_kafka_3.create_topic(topic, replicas=[[1], [3]]))
    real_kafka_3.allow_canary(topic)
    cluster = real_kafka_3.cluster(canary_topic=topic)
    await cluster.warm()
    try:
        with pytest.raises(MisconfiguredError, match=r"brokers \[2\] lead no partition"):
            await cluster.fence.verify_canary()
        await eventually(lambda: _is(cluster.fence, {1: Gate.OPEN, 2: Gate.UNKNOWN, 3: Gate.OPEN}))
    finally:
        await cluster.close()


async def _is(fence: ProduceFence, gates: dict[int, Gate]) -> bool:
    return await fence.users_gates() == gates


@pytest.mark.real
async def test_a_cluster_without_an_authorizer_cannot_be_closed_and_says_so() -> None:
    with running(authorizer="") as kafka:
        cluster = kafka.cluster()
        await cluster.warm()
        rules = await cluster.fence.rules()
        assert not rules.authorizer
        for change in (cluster.fence.close_users, cluster.fence.freeze_groups):
            with pytest.raises(MisconfiguredError, match=r"authorizer\.class\.name"):
                await change()
        await cluster.close()


@pytest.mark.real
async def test_a_cluster_that_allows_what_no_rule_forbids_is_recognised() -> None:
    with running(rules_for_app=False, properties={"allow.everyone.if.no.acl.found": "true"}) as kafka:
        cluster = kafka.cluster()
        await cluster.warm()
        assert (await cluster.fence.rules()).default_deny is False
        # With our own rules standing the default is asked of something they do not speak of.
        await cluster.fence.close_users()
        await cluster.fence.freeze_groups()
        await eventually(lambda: _denied(cluster.fence, users=True, groups=True))
        assert (await cluster.fence.rules()).default_deny is False
        kafka.allow("app", (ResourceType.TRANSACTIONAL_ID, "*", AclOperation.ALL))
        assert (await cluster.fence.rules()).default_deny is False
        kafka.allow("app", (ResourceType.BROKER, "kafka-cluster", AclOperation.IDEMPOTENT_WRITE))
        assert (await cluster.fence.rules()).default_deny is None, "nothing is left to ask about"
        await cluster.close()
