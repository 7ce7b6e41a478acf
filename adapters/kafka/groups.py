"""Consumer groups of one cluster: who they are, where they stand, and where we put them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from adapters.kafka import messages
from adapters.kafka.messages import error_name
from adapters.kafka.trouble import (
    FENCED_INSTANCE_ID,
    FENCED_MEMBER_EPOCH,
    GROUP_ID_NOT_FOUND,
    ILLEGAL_GENERATION,
    NON_EMPTY_GROUP,
    REBALANCE_IN_PROGRESS,
    STALE_COORDINATOR,
    STALE_MEMBER_EPOCH,
    UNKNOWN_MEMBER_ID,
    UNSTABLE_OFFSET_COMMIT,
    UNSUPPORTED_VERSION,
    refusal,
)
from adapters.kafka.wire import ACT, GROUP_COORDINATOR, Refused, Wire, together
from dcdr.errors import ConflictError
from dcdr.model import CommittedOffset, GroupInfo, GroupKind, TopicPartition

_HAS_MEMBERS: Final = frozenset({UNKNOWN_MEMBER_ID, ILLEGAL_GENERATION, REBALANCE_IN_PROGRESS, NON_EMPTY_GROUP,
                                 FENCED_MEMBER_EPOCH, STALE_MEMBER_EPOCH})  # fmt: skip
"""What a commit from outside a group is answered while the group has members."""

_DESCRIBED: Final = frozenset({0, GROUP_ID_NOT_FOUND, UNSUPPORTED_VERSION})
"""The latter two: a group of the other protocol, or of none; a broker on which the new protocol is switched off."""
_GONE: Final = frozenset({UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID})
"""It left by itself meanwhile, or another member took its static name over."""

_REASON: Final = "dcdr: this data center is not the active one"
"""What the broker's log says of a removed member."""

Offsets = Mapping[TopicPartition, CommittedOffset]


class KafkaConsumerGroups:
    """`dcdr.ports.ConsumerGroups` of one cluster."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def groups(self) -> tuple[GroupInfo, ...]:
        """ListGroups at every broker, then the members of those that are not empty.

        `members` is 0 for share and streams groups: they are named in reports, not carried over.
        Raises: UnreachableError when a broker is silent: its groups would be missing.
        """
        await self._wire.metadata()
        answers = await self._wire.all(
            self._wire.known_nodes, lambda node: messages.LIST_GROUPS(states_filter=[], types_filter=[])
        )
        found = await together(self._described(node, answer) for node, answer in answers.items())
        return tuple(sorted(group for share in found for group in share))

    async def committed(self, groups: Collection[str]) -> Mapping[str, Offsets]:
        """One OffsetFetch to each coordinator for all of its groups, stable offsets only.

        Raises: UnreachableError when offsets of an open transaction are still pending after the deadline.
        """

        async def ask(node: int, names: Sequence[str]) -> Mapping[str, Offsets | Refused]:
            response = await self._wire.call(
                node,
                messages.OFFSET_FETCH(
                    groups=[
                        messages.OFFSET_FETCH.OffsetFetchRequestGroup(
                            group_id=name, member_id=None, member_epoch=-1, topics=None
                        )
                        for name in names
                    ],
                    require_stable=True,
                ),
            )
            return {group.group_id: _offsets(group) for group in response.groups}

        return await self._wire.by_coordinator(
            GROUP_COORDINATOR, groups, ask, "reading the offsets of group", retry=(UNSTABLE_OFFSET_COMMIT,)
        )

    async def write(self, group: str, offsets: Offsets) -> None:
        """OffsetCommit from outside the group (generation -1), without leader epochs.

        Raises: ConflictError when the group has members on this cluster.
        """
        if not offsets:
            return

        async def ask(node: int, names: Sequence[str]) -> Mapping[str, bool | Refused]:
            codes = {
                answer.error_code: TopicPartition(topic.name, answer.partition_index)
                for topic in (await self._wire.call(node, _commit(group, offsets), lane=ACT)).topics
                for answer in topic.partitions
                if answer.error_code
            }
            if busy := _HAS_MEMBERS & codes.keys():
                raise ConflictError(
                    f"{self._wire.dc}: group {group!r} has members here ({error_name(min(busy))}); "
                    "its consumers must be stopped, or it is left out with groups.exclude"
                )
            heals = STALE_COORDINATOR & codes.keys()
            if codes and not heals:
                code, partition = min(codes.items())
                raise refusal(self._wire.dc, code, f"committing {partition} for group {group!r}")
            return {group: Refused(min(heals)) if heals else True}

        await self._wire.by_coordinator(GROUP_COORDINATOR, (group,), ask, "committing for group")

    async def expel(self, groups: Collection[str]) -> int:
        """LeaveGroup with the ids of all members, as Kafka's own Admin.removeMembersFromConsumerGroup does.

        It serves members of either protocol (the new one's since 4.0, KAFKA-18188), and asks for READ on the group,
        which a super user has while ordinary users are denied it. A static member is named by both of its names, so
        that whoever took its place meanwhile stays.
        """

        async def ask(node: int, names: Sequence[str]) -> Mapping[str, int | Refused]:
            described = await self._describe(node, names, names)
            refused = {g.group_id: Refused(g.error_code) for g in described if g.error_code not in _DESCRIBED}
            peopled = [group for group in described if group.members]
            removed = await together(self._leave(node, group) for group in peopled)
            left = dict(zip((group.group_id for group in peopled), removed, strict=True))
            return {name: refused.get(name) or left.get(name, 0) for name in names}

        found = await self._wire.by_coordinator(GROUP_COORDINATOR, groups, ask, "removing the members of group")
        return sum(found.values())

    async def _leave(self, node: int, group: messages.Message) -> int | Refused:
        """How many of the members that `group` was described with were removed now."""
        identity = messages.LEAVE_GROUP.MemberIdentity
        request = messages.LEAVE_GROUP(
            group_id=group.group_id,
            members=[
                identity(member_id=member.member_id, group_instance_id=_static_name(member), reason=_REASON)
                for member in group.members
            ],
        )
        answer = await self._wire.call(node, request, lane=ACT)
        codes = [answer.error_code, *(member.error_code for member in answer.members)]
        if failed := next((code for code in codes if code and code not in _GONE), 0):
            return Refused(failed)
        return codes[1:].count(0)

    async def _describe(self, node: int, classic: Sequence[str], modern: Sequence[str]) -> list[messages.Message]:
        """Groups with their members, asked for as groups of either protocol."""
        asked = []
        if classic:
            asked.append(messages.DESCRIBE_GROUPS(groups=classic, include_authorized_operations=False))
        if modern:
            asked.append(messages.CONSUMER_GROUP_DESCRIBE(group_ids=modern, include_authorized_operations=False))
        answers = await together(self._wire.call(node, request) for request in asked)
        return [group for answer in answers for group in answer.groups]

    async def _described(self, node: int, answer: messages.Message) -> list[GroupInfo]:
        if answer.error_code:
            raise refusal(self._wire.dc, answer.error_code, f"listing groups at broker {node}")
        peopled = defaultdict(list)
        for group in answer.groups:
            if group.group_state not in ("Empty", "Dead"):
                peopled[group.group_type.lower()].append(group.group_id)
        described = await self._describe(node, peopled["classic"], peopled["consumer"])
        members = {group.group_id: len(group.members) for group in described}
        return [
            GroupInfo(
                group.group_id,
                kind_of(group.group_type, group.protocol_type),
                group.group_state,
                members.get(group.group_id, 0),
            )
            for group in answer.groups
        ]


def kind_of(group_type: str, protocol_type: str) -> GroupKind:
    """Kafka's group type and protocol type in our words; Connect's own groups are classic ones of another protocol."""
    match group_type.lower():
        case "share":
            return GroupKind.SHARE
        case "streams":
            return GroupKind.STREAMS
        case "classic" | "consumer" if protocol_type in ("", "consumer"):
            return GroupKind.CONSUMER
        case _:
            return GroupKind.OTHER


def _static_name(member: messages.Message) -> str | None:
    """`group.instance.id`, which the two protocols' descriptions call differently."""
    name: str | None = member.group_instance_id if hasattr(member, "group_instance_id") else member.instance_id
    return name


def _offsets(group: messages.Message) -> Offsets | Refused:
    if group.error_code == GROUP_ID_NOT_FOUND:
        return {}
    if group.error_code:
        return Refused(group.error_code)
    found: dict[TopicPartition, CommittedOffset] = {}
    for topic in group.topics:
        for partition in topic.partitions:
            if partition.error_code:
                return Refused(partition.error_code)
            if partition.committed_offset >= 0:
                found[TopicPartition(topic.name, partition.partition_index)] = CommittedOffset(
                    partition.committed_offset, partition.metadata or ""
                )
    return found


def _commit(group: str, offsets: Offsets) -> messages.Message:
    of_topic = messages.OFFSET_COMMIT.OffsetCommitRequestTopic
    topics: defaultdict[str, list[messages.Message]] = defaultdict(list)
    for partition, position in offsets.items():
        topics[partition.topic].append(
            of_topic.OffsetCommitRequestPartition(
                partition_index=partition.partition,
                committed_offset=position.offset,
                committed_leader_epoch=-1,
                committed_metadata=position.metadata,
            )
        )
    return messages.OFFSET_COMMIT(
        group_id=group,
        generation_id_or_member_epoch=-1,
        member_id="",
        group_instance_id=None,
        topics=[of_topic(name=topic, partitions=share) for topic, share in topics.items()],
    )
