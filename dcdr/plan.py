"""Decide: may this switchover start, and what will it do? Pure functions over an `Estate` that somebody observed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dcdr import drain, lint
from dcdr.errors import InvalidRequestError, PlanRefusedError
from dcdr.model import (
    Connector,
    ConnectorState,
    DataCenterName,
    FenceRules,
    Gate,
    GroupInfo,
    GroupKind,
    GroupResult,
    GroupVerdict,
    LeaseRecord,
    LogEnds,
    Message,
    Mirror,
    Operation,
    Phase,
    SwitchoverPlan,
    SwitchoverRequest,
    Timing,
    Topic,
    TopicPartition,
)
from dcdr.ports import EndpointView, Scope


class Severity(StrEnum):
    """BLOCKER: nothing starts. RETRY: may heal, so preflight looks again for a bounded time. WARNING: told."""

    BLOCKER = "blocker"
    RETRY = "retry"
    WARNING = "warning"


class Finding(Message):
    """One thing preflight has to say, and what to do about it."""

    severity: Severity
    check: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text}. {self.remedy}" if self.remedy else self.text


class Preflight(Message):
    """What preflight found; small enough for any estate (no row per partition)."""

    scope: str
    active: DataCenterName
    epoch: int
    turn: int = 0
    leftover: Operation | None
    endpoint: DataCenterName | None
    findings: tuple[Finding, ...]
    topics: int = 0
    partitions: int = 0
    left_out: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    skipped_groups: tuple[GroupResult, ...] = ()
    open_transactions: int = 0
    lag_records: int = 0
    timing: Timing

    @property
    def blockers(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity is not Severity.WARNING)


@dataclass(frozen=True)
class MemberView:
    """One member as it was observed."""

    rules: FenceRules
    brokers: tuple[int, ...]
    user_gates: Mapping[int, Gate]
    group_gates: Mapping[int, Gate]
    topics: Mapping[str, Topic]
    connectors: Mapping[str, Connector]
    groups: tuple[GroupInfo, ...]
    reserved: frozenset[str]
    mirror_gates: Mapping[int, Gate] | None = None
    """What the mirror's canary was answered; None in ACL mode, where the mirror has no gate."""


@dataclass(frozen=True)
class Estate:
    """Everything the preflight judges. `mirrored` and `ends` are the source's, for the retiring mirror."""

    lease: LeaseRecord
    endpoint: EndpointView
    members: Mapping[str, MemberView]
    mirrored: Mapping[TopicPartition, int] = field(default_factory=dict)
    ends: Mapping[TopicPartition, LogEnds] = field(default_factory=dict)
    open_transactions: int = 0


def mirror_of(scope: Scope, source: str, target: str) -> Mirror:
    """The mirror from `source` to `target`, with its connectors' names."""
    fill = {"source": source, "target": target}
    return Mirror(
        source=source,
        target=target,
        source_connector=scope.source_connector.format(**fill),
        checkpoint_connector=scope.checkpoint_connector.format(**fill),
        heartbeat_connector=scope.heartbeat_connector.format(**fill),
    )


def check_request(scope: Scope, target: str) -> None:
    """Refuse a target that can never be one.

    Raises: InvalidRequestError naming what is possible.
    """
    members = " or ".join(sorted(scope.members))
    if target in scope.arbiters:
        raise InvalidRequestError(
            f"{target} is an arbiter of {scope.name}: it votes and holds no data; choose {members}"
        )
    if target not in scope.members:
        raise InvalidRequestError(f"{scope.name} has no data center {target!r}; choose {members}")


def carried(scope: Scope, groups: Iterable[GroupInfo]) -> tuple[GroupInfo, ...]:
    """The groups a switchover answers for, sorted by name."""
    return tuple(sorted((group for group in groups if not _left_out(scope, group.name)), key=lambda group: group.name))


def skipped(scope: Scope, groups: Iterable[GroupInfo]) -> tuple[GroupResult, ...]:
    """The groups whose positions are not carried over, each with the reason; sorted by name."""
    reasons = {group.name: _left_out(scope, group.name) or _other_kind(group.kind) for group in groups}
    return tuple(
        GroupResult(group=name, verdict=GroupVerdict.SKIPPED, partitions=0, note=reason)
        for name, reason in sorted(reasons.items())
        if reason
    )


def _left_out(scope: Scope, group: str) -> str:
    """Why `group` is left out, empty when it is not."""
    if group in scope.own_groups:
        return scope.own_groups[group]
    return next((f"groups.exclude: {p}" for p in scope.group_exclude if re.fullmatch(p, group)), "")


def _other_kind(kind: GroupKind) -> str:
    if kind is GroupKind.CONSUMER:
        return ""
    return "a group of another protocol" if kind is GroupKind.OTHER else f"a {kind.value} group"


def examine(scope: Scope, target: str, estate: Estate) -> Preflight:
    """Judge the estate for a switchover to `target`. Order of findings: lease, clusters, mirror, topics, groups."""
    check_request(scope, target)
    lease = estate.lease
    source = next(name for name in scope.members if name != target)
    old, new = estate.members[source], estate.members[target]
    topics = drain.mirrored_topics(old.topics, old.reserved | new.reserved)
    groups = carried(scope, old.groups)
    findings = [
        *_lease(lease, source, target),
        *_endpoint(estate.endpoint, lease, source),
        *(finding for name in (source, target) for finding in _cluster(name, estate.members[name])),
        *_gates(source, old, target, new),
        *_mirror(scope, source, old, target, new, topics),
        *_stored(estate, topics, source),
        *_topics(source, target, topics, new, old.reserved | new.reserved),
        *_groups(target, groups, carried(scope, new.groups)),
    ]
    lag = _lag(estate, topics)
    if lag > scope.entry_lag_limit:
        findings.append(
            _block(
                "mirror.lag",
                f"the mirror {source} -> {target} is about {lag} records behind, more than {scope.entry_lag_limit}",
                "wait until it has caught up, or raise drain.entry_lag_limit",
                Severity.RETRY,
            )
        )
    if lease.op_id is None and lease.holder == target:
        # Everything else was judged as if the other side were active, and would send people the wrong way.
        findings = _lease(lease, source, target)
    return Preflight(
        scope=scope.name,
        active=lease.holder,
        epoch=lease.epoch,
        turn=lease.turn,
        leftover=lease.operation,
        endpoint=estate.endpoint.dc,
        findings=tuple(findings),
        topics=len(topics),
        partitions=sum(topic.partitions for topic in topics.values()),
        left_out=tuple(sorted(set(old.topics) - set(topics))),
        groups=tuple(group.name for group in groups),
        skipped_groups=skipped(scope, old.groups),
        open_transactions=estate.open_transactions,
        lag_records=lag,
        timing=scope.timing,
    )


def plan_switchover(
    request: SwitchoverRequest, preflight: Preflight, mirrors: tuple[Mirror, Mirror], operation_id: str
) -> SwitchoverPlan:
    """The plan, or a refusal with every reason.

    `mirrors`: the retiring one (source to target) and the standing one.

    Raises: PlanRefusedError; nothing was changed.
    """
    if preflight.blockers:
        reasons = "\n".join(f"- {finding}" for finding in preflight.blockers)
        raise PlanRefusedError(
            f"switchover of {request.scope} to {request.target} refused, nothing was changed:\n{reasons}"
        )
    retiring, standing = mirrors
    return SwitchoverPlan(
        operation=Operation(
            scope=request.scope,
            id=operation_id,
            epoch=preflight.epoch,
            turn=preflight.turn,
            source=retiring.source,
            target=retiring.target,
        ),
        retiring=retiring,
        standing=standing,
        timing=preflight.timing,
        topics=preflight.topics,
        partitions=preflight.partitions,
        left_out=preflight.left_out,
        groups=preflight.groups,
        warnings=tuple(str(f) for f in preflight.findings if f.severity is Severity.WARNING),
    )


def _block(check: str, text: str, remedy: str = "", severity: Severity = Severity.BLOCKER) -> Finding:
    return Finding(severity=severity, check=check, text=text, remedy=remedy)


def _lease(lease: LeaseRecord, source: str, target: str) -> list[Finding]:
    if lease.op_id is not None:
        return [
            _block(
                "lease",
                f"operation {lease.op_id} is unfinished",
                f"the next switchover finishes or undoes it first; to do so now: dcdr recover {lease.scope}",
            )
        ]
    if lease.holder == target:
        return [_block("lease", f"{target} is already active since epoch {lease.epoch}", "there is nothing to do")]
    if lease.holder != source:
        return [
            _block(
                "lease",
                f"the lease names {lease.holder}, which is no member of this scope ({source}, {target})",
                "the record or the settings are wrong: correct the one that is",
            )
        ]
    if lease.phase is not Phase.OPEN:
        return [
            _block("lease", f"{lease.holder} holds the lease but its phase is {lease.phase.value}", "open it first")
        ]
    return []


def _endpoint(endpoint: EndpointView, lease: LeaseRecord, source: str) -> list[Finding]:
    found = []
    if endpoint.dc != source:
        found.append(
            _block(
                "endpoint",
                f"the bootstrap endpoint names {endpoint.dc or 'no member'}, the active side is {source}",
                "somebody changed it by hand: point it back before a switchover",
            )
        )
    if endpoint.epoch > lease.epoch:
        found.append(
            _block(
                "endpoint",
                f"the bootstrap endpoint carries epoch {endpoint.epoch}, the lease only {lease.epoch}: "
                "it would refuse the flip after the handover",
                "was the lease's store restored from a backup? Give the record that epoch, as "
                "docs/reference/settings.md tells",
            )
        )
    return found


def _cluster(name: str, view: MemberView) -> list[Finding]:
    found = []
    if not view.brokers:
        found.append(_block("cluster", f"{name} has no live broker", "start its brokers", Severity.RETRY))
    if not view.rules.authorizer:
        return [
            *found,
            _block(
                "fence",
                f"{name} has no authorizer, so nothing can refuse a producer there",
                "set authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer on every broker",
            ),
        ]
    if view.rules.ungated:
        found.append(
            _block(
                "fence",
                f"brokers {', '.join(map(str, view.rules.ungated))} of {name} do not run our authorizer: nobody closes "
                "them",
                "install it as authorizer/README.md tells, one broker after another; or set the scope's fence: acl",
            )
        )
    if view.rules.default_deny is False:
        found.append(
            _block(
                "fence",
                f"{name} runs with allow.everyone.if.no.acl.found=true: one DENY rule would cut off every reader too",
                "set it to false and grant users explicitly",
            )
        )
    return found


def _gates(source: str, old: MemberView, target: str, new: MemberView) -> list[Finding]:
    def wrong(gates: Mapping[int, Gate], wanted: Gate) -> str:
        return ", ".join(
            f"broker {broker} {gate.value}" for broker, gate in sorted(gates.items()) if gate is not wanted
        )

    found = []
    if text := wrong(old.user_gates, Gate.OPEN):
        found.append(
            _block(
                "fence",
                f"the canary cannot write to the active side {source}: {text}",
                "check the canary's grants and topic, and the brokers",
                Severity.RETRY,
            )
        )
    if text := wrong(old.group_gates, Gate.OPEN):
        found.append(
            _block(
                "fence",
                f"the canary's group cannot commit on the active side {source} ({text}), so its refusal would prove "
                "nothing",
                "check its READ grant on the group, and that no DENY READ on groups is left there",
                Severity.RETRY,
            )
        )
    if not new.rules.canary_granted:
        found.append(
            _block(
                "fence",
                f"no rule grants the canary its WRITE on its topic and its READ on its group on {target}: closed, that "
                f"cannot be seen, and {target} could not be shown to be open after the handover",
                f"grant both to the canary's principal on {target}",
            )
        )
    if not new.rules.users_denied or wrong(new.user_gates, Gate.CLOSED):
        found.append(
            _block(
                "fence",
                f"users can write to the standby {target} ({wrong(new.user_gates, Gate.CLOSED) or 'no DENY rule'})",
                f"in ACL mode add the DENY rules of docs/how-to/switchover.md on {target}, else look at its agent; "
                "then look for records written there",
                Severity.RETRY,
            )
        )
    if new.mirror_gates is not None and (text := wrong(new.mirror_gates, Gate.OPEN) or _unasked(new.mirror_gates)):
        found.append(
            _block(
                "fence",
                f"the mirror's canary cannot write to the standby {target} ({text}): its refusal would prove nothing",
                f"grant it WRITE on the canary topic on {target}, list it in dcdr.authorizer.mirror.principals there, "
                "remove DENY rules that an earlier ACL mode left; then look at the agent",
                Severity.RETRY,
            )
        )
    if old.mirror_gates is not None and Gate.OPEN in old.mirror_gates.values():
        found.append(
            _block(
                "fence",
                f"the mirror's canary can write to the active side {source}: {wrong(old.mirror_gates, Gate.CLOSED)}",
                f"list it in dcdr.authorizer.mirror.principals on every broker of {source}; if it is there, look at "
                "the agent before anything else",
                Severity.RETRY,
            )
        )
    return found


def _unasked(gates: Mapping[int, Gate]) -> str:
    return "" if gates else "no broker"


def _mirror(
    scope: Scope, source: str, old: MemberView, target: str, new: MemberView, topics: Mapping[str, Topic]
) -> list[Finding]:
    retiring, standing = mirror_of(scope, source, target), mirror_of(scope, target, source)
    reserved = old.reserved | new.reserved
    kept = {name for name in (*old.topics, *new.topics, *reserved) if drain.is_internal(name, reserved)}
    found = []
    for mirror, host in ((retiring, new), (standing, old)):
        for name in (mirror.source_connector, mirror.checkpoint_connector):
            connector = host.connectors.get(name)
            if connector is None:
                text = f"connector {name} does not exist on {mirror.target}'s Connect"
                found.append(_block("mirror", text, "create it"))
                continue
            if name == mirror.source_connector:
                unsafe = lint.lint_source(name, connector.config, mirror.source, mirror.target, topics, kept)
            else:
                unsafe = lint.lint_checkpoint(name, connector.config, mirror.source, mirror.target)
            found += [_block("mirror.config", text, "change the connector's configuration") for text in unsafe]
    running = new.connectors.get(retiring.source_connector)
    if running is not None:
        if not running.running:
            tasks = ", ".join(running.tasks) or "no tasks"
            trace = f": {running.trace.splitlines()[0]}" if running.trace else ""
            found.append(
                _block(
                    "mirror",
                    f"the mirror {retiring} does not run ({running.state.value}; {tasks}){trace}",
                    f"resume or restart {running.name} on {target}'s Connect and let it catch up",
                    Severity.RETRY,
                )
            )
        limits = {
            name: int(topic.config["max.message.bytes"])
            for name, topic in topics.items()
            if "max.message.bytes" in topic.config
        }
        found += [_block("mirror.size", text) for text in lint.oversized(running.config, limits)]
    for name, harm in (
        (standing.source_connector, "both directions at once copy records in circles"),
        (standing.checkpoint_connector, "it writes group offsets on the active side"),
    ):
        waiting = old.connectors.get(name)
        if waiting is not None and not waiting.stopped:
            found.append(
                _block(
                    "mirror",
                    f"{name} of the mirror {standing} is {waiting.state.value} with {len(waiting.tasks)} tasks beside "
                    f"{retiring}",
                    f"stop it on {source}'s Connect: {harm}"
                    if waiting.state is not ConnectorState.STOPPED
                    else "if its tasks' status stays, Connect left it behind: delete the connector and create it again "
                    "with initial_state STOPPED (its stored offsets are kept)",
                    Severity.RETRY,
                )
            )
    return found


def _stored(estate: Estate, topics: Mapping[str, Topic], source: str) -> list[Finding]:
    """Stored offsets that cannot belong to these logs; the drain would refuse them, inside the outage."""
    stale = [
        f"{place} at {estate.mirrored[place]}, log end {at.leo}"
        for place, at in sorted(estate.ends.items())
        if place.topic in topics and 0 < at.leo <= estate.mirrored.get(place, -1)
    ]
    if not stale:
        return []
    return [
        _block(
            "mirror.offsets",
            f"the mirror's stored offsets lie beyond the log ends of {source}: {', '.join(stale[:5])}",
            "the topic was recreated, or the offsets belong to another cluster: reset them with the connector stopped",
        )
    ]


def _topics(
    source: str, target: str, topics: Mapping[str, Topic], new: MemberView, reserved: frozenset[str]
) -> list[Finding]:
    found = []
    for name, topic in topics.items():
        if name.startswith("."):
            found.append(
                _block("topics", f"MM2's policy takes {name} for internal and never mirrors it", "rename the topic")
            )
            continue
        other = new.topics.get(name)
        if other is None:
            found.append(
                _block(
                    "topics",
                    f"topic {name} is missing on {target}",
                    "the mirror creates it at its next refresh; if it does not, look at the connector's log",
                    Severity.RETRY,
                )
            )
            continue
        if other.partitions < topic.partitions:
            found.append(
                _block(
                    "topics",
                    f"topic {name} has {topic.partitions} partitions on {source} and {other.partitions} on {target}",
                    "the mirror adds them at its next refresh",
                    Severity.RETRY,
                )
            )
        elif other.partitions > topic.partitions:
            found.append(
                _block(
                    "topics",
                    f"topic {name} has more partitions on {target} than on {source}",
                    "recreate it on the standby",
                )
            )
        found += _topic_config(name, topic, other, target)
    extra = sorted(set(drain.mirrored_topics(new.topics, reserved)) - set(topics))
    if extra:
        found.append(
            _block(
                "topics",
                f"only {target} has {', '.join(extra)}: after the switchover they would be mirrored to {source}",
                "delete them there if they are left over from topics deleted on the active side",
                Severity.WARNING,
            )
        )
    return found


def _topic_config(name: str, topic: Topic, other: Topic, target: str) -> list[Finding]:
    found = []
    ours, theirs = topic.config, other.config
    if int(theirs.get("max.message.bytes", 0) or 0) < int(ours.get("max.message.bytes", 0) or 0):
        found.append(
            _block("topics", f"{name}: max.message.bytes is smaller on {target}", "raise it there", Severity.RETRY)
        )
    if theirs.get("message.timestamp.type", "CreateTime") != "CreateTime":
        found.append(
            _block(
                "topics",
                f"{name}: message.timestamp.type is LogAppendTime on {target}: copies would get new timestamps",
                f"set it to CreateTime on {target}",
            )
        )
    elif ours.get("message.timestamp.type", "CreateTime") != "CreateTime":
        found.append(
            _block(
                "topics",
                f"{name}: message.timestamp.type is LogAppendTime on the active side and CreateTime on {target}",
                "after the switchover the producers' own timestamps are kept",
                Severity.WARNING,
            )
        )
    if sorted(theirs.get("cleanup.policy", "").split(",")) != sorted(ours.get("cleanup.policy", "").split(",")):
        found.append(
            _block("topics", f"{name}: cleanup.policy differs on {target}", "the mirror copies it soon", Severity.RETRY)
        )
    return found


def _groups(target: str, groups: tuple[GroupInfo, ...], there: tuple[GroupInfo, ...]) -> list[Finding]:
    found = []
    busy = [group for group in there if group.kind is GroupKind.CONSUMER and group.members > 0]
    if busy:
        names = ", ".join(f"{group.name} ({group.members})" for group in busy)
        found.append(
            _block(
                "groups",
                f"groups with members on the standby {target}: {names}",
                "their positions cannot be set while they consume there: stop those consumers",
                Severity.RETRY,
            )
        )
    others = [group for group in groups if group.kind is not GroupKind.CONSUMER]
    if others:
        names = ", ".join(f"{group.name} ({group.kind.value})" for group in others)
        found.append(
            _block(
                "groups",
                f"not carried over, positions of these kinds cannot be set from here: {names}",
                "move them with Kafka's own tools",
                Severity.WARNING,
            )
        )
    return found


def _lag(estate: Estate, topics: Mapping[str, Topic]) -> int:
    """Offsets between the mirror's position and the log ends: an upper bound of the records still to copy."""
    behind = 0
    for place in drain.partitions_of(topics):
        at = estate.ends.get(place)
        if at is None:
            continue
        last = estate.mirrored.get(place)
        behind += max(0, at.leo - (at.start if last is None else max(at.start, last + 1)))
    return behind
