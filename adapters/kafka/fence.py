"""The users' gates of one cluster as ACLs, confirmed by what they do to a canary (design, section 4.5 and 4.6)."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import Final, NamedTuple

from adapters.kafka import messages
from adapters.kafka.trouble import (
    CLUSTER_AUTHORIZATION_FAILED,
    COORDINATOR_LOAD_IN_PROGRESS,
    COORDINATOR_NOT_AVAILABLE,
    GROUP_AUTHORIZATION_FAILED,
    ILLEGAL_GENERATION,
    NOT_COORDINATOR,
    SECURITY_DISABLED,
    TOPIC_AUTHORIZATION_FAILED,
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    UNKNOWN_MEMBER_ID,
    UNKNOWN_TOPIC_OR_PARTITION,
    refusal,
)
from adapters.kafka.wire import ACT, LOOK, Wire, both, together
from dcdr.errors import MisconfiguredError, UnreachableError
from dcdr.model import FenceRules, Gate

log = logging.getLogger(__name__)

GATE_TIMEOUT: Final = timedelta(seconds=1)
"""For one broker's answer to the canary; a broker that is silent for longer is UNKNOWN."""

# Kafka's numbers: org.apache.kafka.common.acl and .resource.
_ANY = 1
_TOPIC, _GROUP, _CLUSTER, _TRANSACTIONAL_ID = 2, 3, 4, 5
_MATCH, _LITERAL = 2, 3
_ALL, _READ, _WRITE, _CREATE, _DELETE, _ALTER = 2, 3, 4, 5, 6, 7
_DENY, _ALLOW = 2, 3
_EVERYBODY, _EVERYWHERE, _EVERY_NAME = "User:*", "*", "*"


class Rule(NamedTuple):
    """DENY of one operation on all resources of a type, for everybody, from everywhere."""

    resource: int
    operation: int


USERS: Final = (Rule(_TOPIC, _WRITE), Rule(_TOPIC, _CREATE), Rule(_TOPIC, _DELETE), Rule(_TOPIC, _ALTER))
GROUPS: Final = (Rule(_GROUP, _READ),)

_PAST_THE_GROUP_GATE: Final = frozenset({0, UNKNOWN_TOPIC_OR_PARTITION, TOPIC_AUTHORIZATION_FAILED, NOT_COORDINATOR,
                                         COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, ILLEGAL_GENERATION,
                                         UNKNOWN_MEMBER_ID})  # fmt: skip
"""A broker checks READ on the group before anything else (KafkaApis.handleOffsetCommitRequest): these come later."""


class KafkaProduceFence:
    """`dcdr.ports.ProduceFence` of one cluster, in ACL mode.

    `canary` speaks as an ordinary user with ALLOW WRITE on `canary_topic` and ALLOW READ on the group of that name,
    `mirror_canary` as one of the authorizer's mirror principals with that WRITE.
    """

    def __init__(self, wire: Wire, canary: Wire, canary_topic: str, mirror_canary: Wire | None = None) -> None:
        self._wire = wire
        self._canary = canary
        self._topic = canary_topic
        self._mirror_canary = mirror_canary

    async def rules(self) -> FenceRules:
        """The rules one broker obeys just now, and what it does where there are none.

        Kafka hides `allow.everyone.if.no.acl.found` and `super.users` from DescribeConfigs (it takes every setting it
        has no definition of for a secret): the first is found out by effect, the second stays empty.
        """
        probe = f"dcdr-probe-{uuid.uuid4()}"
        described = await self._wire.any(
            lambda: messages.DESCRIBE_ACLS(
                resource_type_filter=_ANY,
                resource_name_filter=probe,
                pattern_type_filter=_MATCH,
                principal_filter=None,
                host_filter=None,
                operation=_ANY,
                permission_type=_ANY,
            )
        )
        if described.error_code == SECURITY_DISABLED:
            return FenceRules(authorizer=False, default_deny=False, users_denied=False, groups_denied=False)
        if described.error_code:
            raise refusal(self._wire.dc, described.error_code, "describing ACLs")
        ours: set[Rule] = set()
        others: set[int] = set()
        for resource in described.resources:
            for acl in resource.acls:
                rule = Rule(resource.resource_type, acl.operation)
                everybody = (acl.principal, acl.host, acl.permission_type) == (_EVERYBODY, _EVERYWHERE, _DENY)
                if everybody and resource.pattern_type == _LITERAL and rule in (*USERS, *GROUPS):
                    ours.add(rule)
                else:
                    others.add(resource.resource_type)
        default_deny, granted = await both(self._default_deny(probe, others, ours), self._canary_granted())
        return FenceRules(
            authorizer=True,
            default_deny=default_deny,
            users_denied=ours.issuperset(USERS),
            groups_denied=ours.issuperset(GROUPS),
            canary_granted=granted,
        )

    async def close_users(self) -> None:
        await self._deny(USERS)

    async def open_users(self) -> None:
        await self._allow(USERS)

    async def freeze_groups(self) -> None:
        await self._deny(GROUPS)

    async def thaw_groups(self) -> None:
        await self._allow(GROUPS)

    async def users_gates(self) -> Mapping[int, Gate]:
        """The canary produces one record (acks=1) to the partition each broker leads, on warm connections.

        A broker that leads no partition of the canary's topic cannot be asked and is UNKNOWN: see `verify_canary`.
        """
        return await self._ask_all(partial(self._produce, self._canary))

    async def group_gates(self) -> Mapping[int, Gate]:
        """The canary's group commits an offset at every broker, its coordinator or not: the right is checked first."""
        return await self._ask_all(self._commit)

    async def mirror_gates(self) -> Mapping[int, Gate]:
        """As `users_gates`, to the same partitions, as the mirror's canary."""
        if self._mirror_canary is None:
            raise MisconfiguredError(
                f"{self._wire.dc}: nobody can ask for the mirror's gate: kafka.mirror_canary is not set"
            )
        return await self._ask_all(partial(self._produce, self._mirror_canary))

    async def verify_canary(self) -> None:
        """Check that every broker leads a partition of the canary's topic.

        Raises: MisconfiguredError with the brokers that do not, and the assignment that would be right.
        """
        await self._wire.metadata([self._topic])
        nodes = self._wire.known_nodes
        topic = self._wire.known_topics.get(self._topic)
        if topic is None:
            raise MisconfiguredError(
                f"{self._wire.dc}: the canary's topic {self._topic!r} does not exist; create it with one partition of "
                f"one replica on each broker: kafka-topics.sh --create --replica-assignment {','.join(map(str, nodes))}"
            )
        without = sorted(set(nodes) - set(topic.leaders.values()))
        if without:
            raise MisconfiguredError(
                f"{self._wire.dc}: brokers {without} lead no partition of {self._topic!r}, so nobody can see whether "
                "they are closed; give each a partition of one replica with kafka-reassign-partitions.sh"
            )

    # --- rules ------------------------------------------------------------------------------------------------------

    async def _deny(self, rules: Collection[Rule]) -> None:
        """One request, one atomic batch in the metadata log; rules that stand already are left as they are."""
        creation = messages.CREATE_ACLS.AclCreation
        response = await self._wire.any(
            lambda: messages.CREATE_ACLS(
                creations=[
                    creation(
                        resource_type=rule.resource,
                        resource_name=_EVERY_NAME,
                        resource_pattern_type=_LITERAL,
                        principal=_EVERYBODY,
                        host=_EVERYWHERE,
                        operation=rule.operation,
                        permission_type=_DENY,
                    )
                    for rule in rules
                ]
            ),
            lane=ACT,
        )
        self._check((result.error_code for result in response.results), "creating DENY rules")

    async def _allow(self, rules: Collection[Rule]) -> None:
        """Delete by filters with every field filled in: nobody else's rule matches."""
        acl_filter = messages.DELETE_ACLS.DeleteAclsFilter
        response = await self._wire.any(
            lambda: messages.DELETE_ACLS(
                filters=[
                    acl_filter(
                        resource_type_filter=rule.resource,
                        resource_name_filter=_EVERY_NAME,
                        pattern_type_filter=_LITERAL,
                        principal_filter=_EVERYBODY,
                        host_filter=_EVERYWHERE,
                        operation=rule.operation,
                        permission_type=_DENY,
                    )
                    for rule in rules
                ]
            ),
            lane=ACT,
        )
        codes = [result.error_code for result in response.filter_results]
        codes += [acl.error_code for result in response.filter_results for acl in result.matching_acls]
        self._check(codes, "deleting DENY rules")

    def _check(self, codes: Iterable[int], tried: str) -> None:
        failed = next((code for code in codes if code), None)
        if failed == SECURITY_DISABLED:
            raise MisconfiguredError(
                f"{self._wire.dc}: {tried}: the brokers have no authorizer, so there is nothing to close users with; "
                "set authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"
            )
        if failed is not None:
            raise refusal(self._wire.dc, failed, tried)

    async def _canary_granted(self) -> bool:
        """Whether rules grant the canary what its gates are asked with; DENY rules are not looked at."""

        async def granted(resource: int, operation: int) -> bool:
            described = await self._wire.any(
                lambda: messages.DESCRIBE_ACLS(
                    resource_type_filter=resource,
                    resource_name_filter=self._topic,
                    pattern_type_filter=_MATCH,
                    principal_filter=None,
                    host_filter=None,
                    operation=_ANY,
                    permission_type=_ALLOW,
                )
            )
            everybody = {_EVERYBODY, f"User:{self._canary.username}"}
            acls = [acl for found in described.resources for acl in found.acls]
            return any(acl.principal in everybody and acl.operation in (operation, _ALL) for acl in acls)

        return all(await together((granted(_TOPIC, _WRITE), granted(_GROUP, _READ))))

    async def _default_deny(self, probe: str, others: Collection[int], ours: Collection[Rule]) -> bool | None:
        """Is a user refused what no rule speaks of? Asked as the canary, about things that do not exist.

        `others`: resource types on which rules of other people match `probe`, so that no default is asked any more.
        Where such rules exist for topics and groups alike, the default matters to neither: that counts as denied.
        Where every type has rules, our own among them, nobody can see the default: None.
        """
        if {_TOPIC, _GROUP} <= set(others):
            return True
        ruled = {*others, *(rule.resource for rule in ours)}
        if _TRANSACTIONAL_ID not in ruled:
            described = await self._canary.any(lambda: messages.DESCRIBE_TRANSACTIONS(transactional_ids=[probe]))
            return bool(described.transaction_states[0].error_code == TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
        if _GROUP not in ruled:
            groups = await self._canary.any(
                lambda: messages.DESCRIBE_GROUPS(groups=[probe], include_authorized_operations=False)
            )
            return bool(groups.groups[0].error_code == GROUP_AUTHORIZATION_FAILED)
        if _TOPIC not in ruled:
            topics = await self._canary.any(
                lambda: messages.METADATA(
                    topics=[messages.METADATA.MetadataRequestTopic(name=probe)], allow_auto_topic_creation=False
                )
            )
            return bool(topics.topics[0].error_code == TOPIC_AUTHORIZATION_FAILED)
        # On a fenced standby: the cluster itself is a resource of its own, about which few clusters have rules.
        of_cluster = partial(
            messages.DESCRIBE_ACLS,
            resource_type_filter=_CLUSTER,
            resource_name_filter=None,
            pattern_type_filter=_ANY,
            principal_filter=None,
            host_filter=None,
            operation=_ANY,
            permission_type=_ANY,
        )
        if (await self._wire.any(of_cluster)).resources:
            return None
        return bool((await self._canary.any(of_cluster)).error_code == CLUSTER_AUTHORIZATION_FAILED)

    # --- the canary -------------------------------------------------------------------------------------------------

    async def _ask_all(self, ask: Callable[[int], Awaitable[Gate]]) -> Mapping[int, Gate]:
        """Ask the brokers we know while Metadata is asked whether there are more, and these then."""
        first = self._wire.known_nodes
        answers, _ = await both(_ask_each(first, ask), self._wire.metadata([self._topic]))
        now = self._wire.known_nodes
        late = await _ask_each([node for node in now if node not in first], ask)
        gates = {**answers, **late}
        return {node: gates[node] for node in now}

    async def _produce(self, canary: Wire, node: int) -> Gate:
        topic = self._wire.known_topics.get(self._topic)
        if topic is None:
            topic = (await self._wire.metadata([self._topic])).get(self._topic)
        partition = next((p for p, leader in topic.leaders.items() if leader == node), None) if topic else None
        if partition is None:
            log.warning("%s: broker %d leads no partition of %s: its gate is unknown", self._wire.dc, node, self._topic)
            return Gate.UNKNOWN
        of_topic = messages.PRODUCE.TopicProduceData
        record = messages.small_batch(int(time.time() * 1000), None, b"canary")
        request = messages.PRODUCE(
            transactional_id=None,
            acks=1,
            timeout_ms=int(GATE_TIMEOUT.total_seconds() * 1000),
            topic_data=[
                of_topic(
                    name=self._topic, partition_data=[of_topic.PartitionProduceData(index=partition, records=record)]
                )
            ],
        )
        response = await canary.call(node, request, lane=LOOK, timeout=GATE_TIMEOUT.total_seconds())
        code = response.responses[0].partition_responses[0].error_code
        return produce_verdict(code)

    async def _commit(self, node: int) -> Gate:
        of_topic = messages.OFFSET_COMMIT.OffsetCommitRequestTopic
        position = of_topic.OffsetCommitRequestPartition(
            partition_index=0, committed_offset=0, committed_leader_epoch=-1, committed_metadata=""
        )
        request = messages.OFFSET_COMMIT(
            group_id=self._topic,
            generation_id_or_member_epoch=-1,
            member_id="",
            group_instance_id=None,
            topics=[of_topic(name=self._topic, partitions=[position])],
        )
        response = await self._canary.call(node, request, lane=LOOK, timeout=GATE_TIMEOUT.total_seconds())
        return commit_verdict(response.topics[0].partitions[0].error_code)


def produce_verdict(code: int) -> Gate:
    """What an answer to a canary's Produce says about the gate it has to pass."""
    if code == TOPIC_AUTHORIZATION_FAILED:
        return Gate.CLOSED
    return Gate.OPEN if code == 0 else Gate.UNKNOWN


def commit_verdict(code: int) -> Gate:
    """What an answer to the canary's OffsetCommit says about the groups' gate."""
    if code == GROUP_AUTHORIZATION_FAILED:
        return Gate.CLOSED
    return Gate.OPEN if code in _PAST_THE_GROUP_GATE else Gate.UNKNOWN


async def _ask_each(nodes: Collection[int], ask: Callable[[int], Awaitable[Gate]]) -> Mapping[int, Gate]:
    async def one(node: int) -> Gate:
        try:
            return await ask(node)
        except UnreachableError as error:
            log.warning("%s: its gate is unknown", error)
            return Gate.UNKNOWN

    wanted = list(nodes)
    return dict(zip(wanted, await together(one(node) for node in wanted), strict=True))
