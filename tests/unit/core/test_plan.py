"""Preflight: each bad estate gives its finding and what to do, the good one gives none; the plan refuses with all."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dcdr import lease
from dcdr.errors import InvalidRequestError, PlanRefusedError
from dcdr.lease import Standing
from dcdr.model import (
    ConnectorState,
    FenceRules,
    Gate,
    GroupInfo,
    GroupKind,
    LeaseRecord,
    LogEnds,
    Phase,
    SwitchoverPlan,
    SwitchoverRequest,
)
from dcdr.plan import Estate, Finding, Severity, check_request, examine, mirror_of, plan_switchover
from dcdr.ports import EndpointView
from tests.unit.core.estates import (
    GOOD,
    NEW,
    OLD,
    P0,
    P1,
    RUNNING,
    TIMING,
    TOPICS,
    new,
    old,
    scope,
    topic,
    with_connector,
    with_topic,
)

BLOCKER, RETRY, WARNING = Severity.BLOCKER, Severity.RETRY, Severity.WARNING
SOURCE, CHECKPOINT = "mm2-source.dc-a-to-dc-b", "mm2-checkpoint.dc-a-to-dc-b"
REVERSE, REVERSE_CHECKPOINT = "mm2-source.dc-b-to-dc-a", "mm2-checkpoint.dc-b-to-dc-a"
DENY = FenceRules(authorizer=True, default_deny=True, users_denied=True, groups_denied=True)


def findings(estate: Estate, target: str = "dc-b") -> tuple[Finding, ...]:
    return examine(scope(), target, estate).findings


def plan(estate: Estate) -> SwitchoverPlan:
    here = scope()
    mirrors = mirror_of(here, "dc-a", "dc-b"), mirror_of(here, "dc-b", "dc-a")
    request = SwitchoverRequest(scope="lab", target="dc-b")
    return plan_switchover(request, examine(here, "dc-b", estate), mirrors, "run-1")


def test_a_good_estate_has_no_finding_and_its_numbers_are_told() -> None:
    seen = examine(scope(), "dc-b", replace(GOOD, open_transactions=2))
    assert seen.findings == ()
    assert (seen.active, seen.epoch, seen.turn, seen.leftover) == ("dc-a", 7, 3, None)
    assert (seen.topics, seen.partitions, seen.left_out) == (2, 3, ("connect-configs",))
    assert (seen.groups, seen.open_transactions) == (("billing",), 2)
    assert seen.lag_records == 1 + 0 + 1


BAD: dict[str, tuple[Estate, Severity, str, str]] = {
    "target already active": (
        replace(GOOD, lease=LeaseRecord(scope="lab", holder="dc-b", epoch=8)),
        BLOCKER,
        "lease",
        "dc-b is already active since epoch 8",
    ),
    "operation left over": (
        replace(GOOD, lease=LeaseRecord(scope="lab", holder="dc-a", epoch=7, phase=Phase.DRAINING, op_id="old")),
        BLOCKER,
        "lease",
        "operation old is unfinished",
    ),
    "taken over, not open": (
        replace(GOOD, lease=LeaseRecord(scope="lab", holder="dc-a", epoch=7, phase=Phase.ACQUIRED)),
        BLOCKER,
        "lease",
        "its phase is ACQUIRED",
    ),
    "lease names a stranger": (
        replace(GOOD, lease=LeaseRecord(scope="lab", holder="dc-x", epoch=7)),
        BLOCKER,
        "lease",
        "dc-x, which is no member",
    ),
    "endpoint elsewhere": (
        replace(GOOD, endpoint=EndpointView("dc-b", 7)),
        BLOCKER,
        "endpoint",
        "names dc-b, the active side is dc-a",
    ),
    "endpoint nowhere": (replace(GOOD, endpoint=EndpointView(None, 0)), BLOCKER, "endpoint", "names no member"),
    "endpoint from the future": (
        replace(GOOD, endpoint=EndpointView("dc-a", 9)),
        BLOCKER,
        "endpoint",
        "would refuse the flip",
    ),
    "no authorizer on the active side": (
        old(rules=FenceRules(False, False, False, False), user_gates={}, group_gates={}),
        BLOCKER,
        "fence",
        "dc-a has no authorizer",
    ),
    "allow by default": (
        old(rules=OLD.rules._replace(default_deny=False)),
        BLOCKER,
        "fence",
        "allow.everyone.if.no.acl.found=true",
    ),
    "canary refused on one active broker": (
        old(user_gates={1: Gate.OPEN, 2: Gate.CLOSED}),
        RETRY,
        "fence",
        "cannot write to the active side dc-a: broker 2 closed",
    ),
    "canary unanswered": (old(user_gates={1: Gate.UNKNOWN, 2: Gate.OPEN}), RETRY, "fence", "broker 1 unknown"),
    "canary's group refused": (
        old(group_gates={1: Gate.CLOSED, 2: Gate.CLOSED}),
        RETRY,
        "fence",
        "canary's group cannot commit on the active side",
    ),
    "mirror's canary refused on the standby": (
        new(mirror_gates={1: Gate.OPEN, 2: Gate.CLOSED}),
        RETRY,
        "fence",
        "the mirror's canary cannot write to the standby dc-b (broker 2 closed)",
    ),
    "mirror's canary answered by nobody": (
        new(mirror_gates={}),
        RETRY,
        "fence",
        "the mirror's canary cannot write to the standby dc-b (no broker)",
    ),
    "mirror's canary taken for a user": (
        old(mirror_gates={1: Gate.CLOSED, 2: Gate.OPEN}),
        RETRY,
        "fence",
        "the mirror's canary can write to the active side dc-a: broker 2 open",
    ),
    "standby open": (
        new(user_gates={1: Gate.CLOSED, 2: Gate.OPEN}),
        RETRY,
        "fence",
        "users can write to the standby dc-b (broker 2 open)",
    ),
    "standby without rules": (new(rules=DENY._replace(users_denied=False)), RETRY, "fence", "(no DENY rule)"),
    "standby broker silent": (new(user_gates={1: Gate.CLOSED, 2: Gate.UNKNOWN}), RETRY, "fence", "broker 2 unknown"),
    "no live broker": (new(brokers=()), RETRY, "cluster", "dc-b has no live broker"),
    "connector missing": (
        new(connectors={k: v for k, v in NEW.connectors.items() if k != CHECKPOINT}),
        BLOCKER,
        "mirror",
        f"{CHECKPOINT} does not exist",
    ),
    "reverse connector missing": (
        old(connectors={k: v for k, v in OLD.connectors.items() if k != REVERSE}),
        BLOCKER,
        "mirror",
        f"{REVERSE} does not exist on dc-a",
    ),
    "mirror stopped": (
        new(connectors=with_connector(NEW.connectors, SOURCE, state=ConnectorState.STOPPED, tasks=())),
        RETRY,
        "mirror",
        "dc-a -> dc-b does not run (STOPPED; no tasks)",
    ),
    "mirror task failed": (
        new(
            connectors=with_connector(
                NEW.connectors, SOURCE, tasks=(RUNNING, ConnectorState.FAILED), trace="boom\n  at X"
            )
        ),
        RETRY,
        "mirror",
        "(RUNNING; RUNNING, FAILED): boom",
    ),
    "ACL sync on": (
        new(
            connectors=with_connector(
                NEW.connectors, SOURCE, config={**NEW.connectors[SOURCE].config, "sync.topic.acls.enabled": "true"}
            )
        ),
        BLOCKER,
        "mirror.config",
        "sync.topic.acls.enabled=true",
    ),
    "reverse unsafe": (
        old(
            connectors=with_connector(
                OLD.connectors, REVERSE, config={**OLD.connectors[REVERSE].config, "errors.tolerance": "all"}
            )
        ),
        BLOCKER,
        "mirror.config",
        f"{REVERSE}: errors.tolerance=all",
    ),
    "checkpoint unsafe": (
        new(
            connectors=with_connector(
                NEW.connectors,
                CHECKPOINT,
                config={**NEW.connectors[CHECKPOINT].config, "offset-syncs.topic.location": "source"},
            )
        ),
        BLOCKER,
        "mirror.config",
        f"{CHECKPOINT}: offset-syncs.topic.location=source",
    ),
    "internal topics would cross": (
        new(topics=with_topic(TOPICS, topic("connect-offsets")), reserved=NEW.reserved | {"connect-offsets"}),
        BLOCKER,
        "mirror.config",
        f"{SOURCE}: its topic filter lets connect-offsets pass",
    ),
    "both directions": (
        old(connectors=with_connector(OLD.connectors, REVERSE, state=RUNNING, tasks=(RUNNING,))),
        RETRY,
        "mirror",
        "copy records in circles",
    ),
    "reverse checkpoints run": (
        old(connectors=with_connector(OLD.connectors, REVERSE_CHECKPOINT, state=RUNNING, tasks=(RUNNING,))),
        RETRY,
        "mirror",
        "writes group offsets on the active side",
    ),
    "mirror behind": (
        replace(GOOD, ends={**GOOD.ends, P1: LogEnds(0, 101, 101, 101)}),
        RETRY,
        "mirror.lag",
        "about 103 records behind, more than 100",
    ),
    "stored offset of another log": (
        replace(GOOD, mirrored={**GOOD.mirrored, P0: 100}),
        BLOCKER,
        "mirror.offsets",
        "orders-0 at 100, log end 100",
    ),
    "record too large": (
        replace(GOOD, members={"dc-a": replace(OLD, topics=big), "dc-b": replace(NEW, topics=big)})
        if (big := with_topic(TOPICS, topic("orders", max_message_bytes="2000000")))
        else GOOD,
        BLOCKER,
        "mirror.size",
        "orders accepts records of 2000000 bytes",
    ),
    "topic missing on the target": (
        new(topics=with_topic(TOPICS, without="orders")),
        RETRY,
        "topics",
        "topic orders is missing on dc-b",
    ),
    "fewer partitions": (
        new(topics=with_topic(TOPICS, topic("orders", 1))),
        RETRY,
        "topics",
        "2 partitions on dc-a and 1 on dc-b",
    ),
    "more partitions": (
        new(topics=with_topic(TOPICS, topic("orders", 3))),
        BLOCKER,
        "topics",
        "more partitions on dc-b",
    ),
    "topic MM2 never mirrors": (
        old(topics=with_topic(TOPICS, topic(".hidden"))),
        BLOCKER,
        "topics",
        "takes .hidden for internal",
    ),
    "topic only there": (
        new(topics=with_topic(TOPICS, topic("left-over"))),
        WARNING,
        "topics",
        "only dc-b has left-over",
    ),
    "smaller records there": (
        new(topics=with_topic(TOPICS, topic("orders", max_message_bytes="1000"))),
        RETRY,
        "topics",
        "max.message.bytes is smaller on dc-b",
    ),
    "timestamps rewritten": (
        new(topics=with_topic(TOPICS, topic("orders", message_timestamp_type="LogAppendTime"))),
        BLOCKER,
        "topics",
        "new timestamps",
    ),
    "timestamps not stamped any more": (
        old(topics=with_topic(TOPICS, topic("orders", message_timestamp_type="LogAppendTime"))),
        WARNING,
        "topics",
        "LogAppendTime on the active side",
    ),
    "other cleanup": (
        new(topics=with_topic(TOPICS, topic("prices", 1))),
        RETRY,
        "topics",
        "prices: cleanup.policy differs",
    ),
    "members on the standby": (
        new(groups=(GroupInfo("billing", GroupKind.CONSUMER, "STABLE", 2),)),
        RETRY,
        "groups",
        "members on the standby dc-b: billing (2)",
    ),
    "share group": (
        old(groups=(*OLD.groups, GroupInfo("queue", GroupKind.SHARE, "", 1))),
        WARNING,
        "groups",
        "queue (share)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_told_with_its_severity_and_what_to_do(name: str) -> None:
    estate, severity, check, text = BAD[name]
    found = [finding for finding in findings(estate) if finding.check == check and text in str(finding)]
    assert len(found) == 1, findings(estate)
    assert found[0].severity is severity
    if check != "mirror.size":  # says it in one sentence
        assert found[0].remedy


@pytest.mark.parametrize("name", [name for name, (_, severity, _, _) in BAD.items() if severity is not WARNING])
def test_nothing_is_planned_over_a_bad_estate(name: str) -> None:
    estate, _, _, text = BAD[name]
    with pytest.raises(PlanRefusedError, match="refused, nothing was changed") as refused:
        plan(estate)
    assert text in str(refused.value)


def test_a_refusal_holds_every_reason() -> None:
    estate = replace(old(topics=with_topic(TOPICS, topic("a"), topic("b"))), endpoint=EndpointView(None, 0))
    with pytest.raises(PlanRefusedError) as refused:
        plan(estate)
    lines = str(refused.value).splitlines()[1:]
    assert len(lines) == 3
    assert [("endpoint" in line, "topic a" in line, "topic b" in line) for line in lines] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


def test_a_target_that_is_active_already_is_the_only_thing_said() -> None:
    """On an estate at rest the other way round, where the same look would find the endpoint and the mirrors wrong."""
    seen = findings(replace(GOOD, lease=LeaseRecord(scope="lab", holder="dc-a", epoch=7)), target="dc-a")
    assert [finding.check for finding in seen] == ["lease"]


def test_a_warning_is_carried_into_the_plan_and_stops_nothing() -> None:
    planned = plan(new(topics=with_topic(TOPICS, topic("left-over"))))
    assert len(planned.warnings) == 1
    assert "left-over" in planned.warnings[0]


def test_the_plan_names_an_operation_that_the_record_lets_begin() -> None:
    planned = plan(GOOD)
    assert lease.standing(GOOD.lease, planned.operation) is Standing.NOT_BEGUN
    begun = lease.begin(GOOD.lease, planned.operation, datetime(2026, 11, 21, tzinfo=UTC))
    assert begun.operation == planned.operation
    assert (planned.operation.source, planned.operation.target) == ("dc-a", "dc-b")
    assert (planned.timing, planned.groups, planned.left_out) == (TIMING, ("billing",), ("connect-configs",))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("dc-c", "arbiter of lab: it votes and holds no data; choose dc-a or dc-b"),
        ("dc-z", "no data center 'dc-z'; choose"),
    ],
)
def test_a_target_that_can_never_be_one_is_refused_with_those_that_can(target: str, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        check_request(scope(), target)
    with pytest.raises(InvalidRequestError):
        findings(GOOD, target)


def test_lag_counts_from_the_log_start_where_nothing_was_copied_and_never_below_zero() -> None:
    ends = {P0: LogEnds(90, 100, 100, 100), P1: LogEnds(10, 15, 15, 15)}
    assert examine(scope(), "dc-b", replace(GOOD, mirrored={P0: 20}, ends=ends)).lag_records == 10 + 5


def test_groups_are_left_out_by_their_whole_name_only_and_each_is_named_with_the_reason() -> None:
    names = ("connect-dc-a", "connect-dc-b", "my-connect-dc-a", "connect-dc-a-clicks", "__amazon", "not__internal")
    groups = [GroupInfo(name, GroupKind.CONSUMER, "EMPTY", 0) for name in names]
    estate = old(groups=(*groups, GroupInfo("queue", GroupKind.SHARE, "", 1), GroupInfo("sr", GroupKind.OTHER, "", 1)))
    seen = examine(scope(), "dc-b", estate)
    assert seen.groups == ("connect-dc-a-clicks", "my-connect-dc-a", "not__internal", "queue", "sr")
    assert {skipped.group: skipped.note for skipped in seen.skipped_groups} == {
        "__amazon": "groups.exclude: __.*",
        "connect-dc-a": "the workers of dc-a's Connect",
        "connect-dc-b": "the workers of dc-b's Connect",
        "queue": "a share group",
        "sr": "a group of another protocol",
    }


def test_workers_of_somebodys_connect_on_the_standby_are_in_nobodys_way() -> None:
    """Their groups hold no positions that would have to be set."""
    workers = GroupInfo("connect-of-a-team", GroupKind.OTHER, "Stable", 2)
    assert not examine(scope(), "dc-b", new(groups=(*NEW.groups, workers))).findings
