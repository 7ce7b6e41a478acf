"""Members seen and removed from outside: which broker is asked about whom, and what its answers mean."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from functools import partial

import pytest

from adapters.kafka import messages
from adapters.kafka.groups import KafkaConsumerGroups
from adapters.kafka.messages import Message
from adapters.kafka.wire import Wire
from dcdr.errors import DcdrError, MisconfiguredError, UnreachableError
from tests.unit.adapters.kafka.fake_broker import FakeBroker, brokers, metadata

OLD, NEW, IDLE = "old-protocol", "new-protocol", "idle"
MEMBERS: dict[str, tuple[tuple[str, str | None], ...]] = {OLD: (("m1", None), ("m2", "till-7")), NEW: (("m3", None),)}
"""Member ids and static names."""
NOT_THERE, NOT_COORDINATOR, SWITCHED_OFF = 69, 16, 35


def response(request: Message) -> Message:
    return messages._BY_REQUEST[request][0]


def coordinators(where: Mapping[str, int]) -> Message:
    made = response(messages.FIND_COORDINATOR)
    return made(
        throttle_time_ms=0,
        coordinators=[
            made.Coordinator(key=key, node_id=node, host="127.0.0.1", port=1, error_code=0, error_message=None)
            for key, node in where.items()
        ],
    )


def classic(names: Sequence[str], code: int = 0) -> Message:
    """DescribeGroups v5: a group of the other protocol is dead, which is no error."""
    made = response(messages.DESCRIBE_GROUPS)
    group = made.DescribedGroup
    return made(
        throttle_time_ms=0,
        groups=[
            group(
                error_code=code, group_id=name, group_state="Stable" if name == OLD else "Dead",
                protocol_type="consumer", protocol_data="range", authorized_operations=set(),
                members=[
                    group.DescribedGroupMember(
                        member_id=member, group_instance_id=static, client_id="c", client_host="h",
                        member_metadata=b"", member_assignment=b"",
                    )
                    for member, static in (MEMBERS[OLD] if name == OLD and not code else ())
                ],
            )
            for name in names
        ],
    )  # fmt: skip


def modern(names: Sequence[str], code: int = NOT_THERE) -> Message:
    """ConsumerGroupDescribe: `code` for every group but `NEW`."""
    made = response(messages.CONSUMER_GROUP_DESCRIBE)
    group, member = made.DescribedGroup, made.DescribedGroup.Member
    return made(
        throttle_time_ms=0,
        groups=[
            group(
                error_code=0 if name == NEW else code, error_message=None, group_id=name, group_state="Stable",
                group_epoch=3, assignment_epoch=3, assignor_name="uniform", authorized_operations=-1,
                members=[
                    member(
                        member_id=who, instance_id=static, rack_id=None, member_epoch=3, client_id="c", client_host="h",
                        subscribed_topic_names=["t"], subscribed_topic_regex=None,
                        assignment=member.Assignment(topic_partitions=[]),
                        target_assignment=member.TargetAssignment(topic_partitions=[]),
                    )
                    for who, static in (MEMBERS[NEW] if name == NEW else ())
                ],
            )
            for name in names
        ],
    )  # fmt: skip


def left(group: str, codes: Sequence[int] = (), code: int = 0) -> Message:
    made = response(messages.LEAVE_GROUP)
    return made(
        throttle_time_ms=0,
        error_code=code,
        members=[
            made.MemberResponse(member_id=member, group_instance_id=static, error_code=of_member)
            for (member, static), of_member in zip(MEMBERS[group], codes, strict=False)
        ],
    )


@pytest.fixture
async def two() -> AsyncIterator[dict[int, FakeBroker]]:
    """Broker 1 coordinates the group of the old protocol and the idle one, broker 2 that of the new."""
    async with brokers(2) as made:
        for node, (of, names) in enumerate([(OLD, [OLD, IDLE]), (NEW, [NEW])], 1):
            broker = made[node]
            broker.on(messages.METADATA, lambda: metadata(made, {}))
            broker.on(messages.FIND_COORDINATOR, lambda: coordinators({OLD: 1, IDLE: 1, NEW: 2}))
            broker.on(messages.DESCRIBE_GROUPS, partial(classic, names))
            broker.on(messages.CONSUMER_GROUP_DESCRIBE, partial(modern, names))
            broker.on(messages.LEAVE_GROUP, partial(left, of, [0] * len(MEMBERS[of])))
        yield made


@pytest.fixture
async def groups(two: dict[int, FakeBroker]) -> AsyncIterator[KafkaConsumerGroups]:
    wire = Wire("dc-a", [two[1].address], None, timeout=timedelta(seconds=3))
    yield KafkaConsumerGroups(wire)
    await wire.close()


def listed(protocols: Mapping[str, str]) -> Message:
    made = response(messages.LIST_GROUPS)
    return made(
        throttle_time_ms=0,
        error_code=0,
        groups=[
            made.ListedGroup(
                group_id=name, protocol_type="consumer", group_type=protocol,
                group_state="Empty" if name == IDLE else "Stable",
            )
            for name, protocol in protocols.items()
        ],
    )  # fmt: skip


async def test_members_are_counted_where_there_are_some(
    two: dict[int, FakeBroker], groups: KafkaConsumerGroups
) -> None:
    two[1].on(messages.LIST_GROUPS, lambda: listed({OLD: "classic", IDLE: "classic"}))
    two[2].on(messages.LIST_GROUPS, lambda: listed({NEW: "consumer"}))
    assert {group.name: group.members for group in await groups.groups()} == {OLD: 2, NEW: 1, IDLE: 0}
    assert two[1].times(messages.CONSUMER_GROUP_DESCRIBE) + two[2].times(messages.DESCRIBE_GROUPS) == 0


def asked_to_leave(broker: FakeBroker) -> list[tuple[str, list[tuple[str, str | None]]]]:
    return [
        (request.group_id, [(member.member_id, member.group_instance_id) for member in request.members])
        for request in broker.requests(messages.LEAVE_GROUP)
    ]


async def test_members_of_both_protocols_are_removed_by_name_at_their_groups_coordinator(
    two: dict[int, FakeBroker], groups: KafkaConsumerGroups
) -> None:
    assert await groups.expel([OLD, NEW, IDLE]) == 3
    assert asked_to_leave(two[1]) == [(OLD, list(MEMBERS[OLD]))], "the idle group has nobody"
    assert asked_to_leave(two[2]) == [(NEW, list(MEMBERS[NEW]))]
    (request,) = two[1].requests(messages.LEAVE_GROUP)
    assert {member.reason for member in request.members} == {"dcdr: this data center is not the active one"}


async def test_without_groups_nobody_is_asked(two: dict[int, FakeBroker], groups: KafkaConsumerGroups) -> None:
    assert await groups.expel([]) == 0
    assert (two[1].asked, two[2].asked) == ([], [])


@pytest.mark.parametrize("gone", [25, 82])
async def test_a_member_that_left_or_was_replaced_meanwhile_is_not_counted(
    two: dict[int, FakeBroker], groups: KafkaConsumerGroups, gone: int
) -> None:
    two[1].on(messages.LEAVE_GROUP, lambda: left(OLD, [0, gone]))
    assert await groups.expel([OLD]) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (partial(left, OLD, code=30), MisconfiguredError),
        (partial(left, OLD, [0, 30]), MisconfiguredError),
        (partial(left, OLD, [0, -1]), UnreachableError),
    ],
)
async def test_a_member_that_could_not_be_removed_is_no_success(
    two: dict[int, FakeBroker], groups: KafkaConsumerGroups, answer: partial[Message], error: type[DcdrError]
) -> None:
    two[1].on(messages.LEAVE_GROUP, answer)
    with pytest.raises(error, match=f"removing the members of group '{OLD}'"):
        await groups.expel([OLD])


async def test_a_coordinator_that_moved_is_looked_up_again(
    two: dict[int, FakeBroker], groups: KafkaConsumerGroups
) -> None:
    described = iter([classic([OLD], NOT_COORDINATOR), classic([OLD]), classic([OLD])])
    removed = iter([left(OLD, code=NOT_COORDINATOR), left(OLD, [0, 0])])
    two[1].on(messages.DESCRIBE_GROUPS, lambda: next(described))
    two[1].on(messages.CONSUMER_GROUP_DESCRIBE, lambda: modern([OLD]))
    two[1].on(messages.LEAVE_GROUP, lambda: next(removed))
    assert await groups.expel([OLD]) == 2
    assert two[1].times(messages.FIND_COORDINATOR) + two[2].times(messages.FIND_COORDINATOR) == 3


async def test_brokers_without_the_new_protocol_remove_the_members_of_the_old(
    two: dict[int, FakeBroker], groups: KafkaConsumerGroups
) -> None:
    two[1].on(messages.CONSUMER_GROUP_DESCRIBE, lambda: modern([OLD, IDLE], SWITCHED_OFF))
    assert await groups.expel([OLD, IDLE]) == 2


async def test_a_group_that_could_not_be_described_is_no_success(
    two: dict[int, FakeBroker], groups: KafkaConsumerGroups
) -> None:
    two[1].on(messages.DESCRIBE_GROUPS, lambda: classic([OLD, IDLE], 30))
    with pytest.raises(MisconfiguredError):
        await groups.expel([OLD])
