"""Small decisions of the adapter: what an answer means."""

from __future__ import annotations

import json

import pytest

from adapters.kafka import messages
from adapters.kafka.fence import commit_verdict, produce_verdict
from adapters.kafka.groups import kind_of
from adapters.kafka.messages import error_name, response_to
from adapters.kafka.positions import Stored, parse
from adapters.kafka.records import Record
from adapters.kafka.trouble import refusal
from dcdr.errors import DcdrError, InvalidRequestError, MisconfiguredError, UnreachableError
from dcdr.model import Gate, GroupKind, TopicPartition
from tests.unit.adapters.kafka.fake_broker import answer_frame


@pytest.mark.parametrize(("code", "gate"), [(0, Gate.OPEN), (29, Gate.CLOSED)])
def test_a_produce_says_open_or_closed(code: int, gate: Gate) -> None:
    assert produce_verdict(code) is gate


@pytest.mark.parametrize("code", [-1, 3, 6, 7, 9, 19, 20, 31, 56, 58, 9999])
def test_any_other_answer_to_a_produce_is_unknown(code: int) -> None:
    assert produce_verdict(code) is Gate.UNKNOWN


@pytest.mark.parametrize("code", [0, 3, 14, 15, 16, 22, 25, 29])
def test_a_commit_that_got_past_the_groups_right_is_open(code: int) -> None:
    assert commit_verdict(code) is Gate.OPEN


def test_a_commit_refused_for_the_group_is_closed_and_the_rest_unknown() -> None:
    assert commit_verdict(30) is Gate.CLOSED
    assert {commit_verdict(code) for code in (-1, 7, 31, 58, 9999)} == {Gate.UNKNOWN}


@pytest.mark.parametrize(
    ("group_type", "protocol", "kind"),
    [
        ("classic", "consumer", GroupKind.CONSUMER),
        ("Classic", "", GroupKind.CONSUMER),
        ("consumer", "consumer", GroupKind.CONSUMER),
        ("classic", "connect", GroupKind.OTHER),
        ("classic", "sr", GroupKind.OTHER),
        ("share", "share", GroupKind.SHARE),
        ("streams", "streams", GroupKind.STREAMS),
        ("tomorrow", "consumer", GroupKind.OTHER),
    ],
)
def test_the_kind_of_a_group(group_type: str, protocol: str, kind: GroupKind) -> None:
    assert kind_of(group_type, protocol) is kind


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (29, MisconfiguredError),
        (31, MisconfiguredError),
        (3, InvalidRequestError),
        (42, InvalidRequestError),
        (7, UnreachableError),
        (-1, UnreachableError),
    ],
)
def test_error_codes_become_our_errors(code: int, error: type[DcdrError]) -> None:
    made = refusal("dc-a", code, "asking")
    assert type(made) is error
    assert "dc-a: asking" in str(made)
    assert error_name(code) in str(made)


def test_an_unknown_error_code_keeps_its_number() -> None:
    assert error_name(9999) == "error 9999"


def stored(key: object, value: object) -> Stored | None:
    return parse(
        Record(0, 0, json.dumps(key).encode(), None if value is None else json.dumps(value).encode(), headers=())
    )


PLACE = {"cluster": "dc-a", "partition": 3, "topic": "t"}


def test_an_offset_record_of_the_mirror_is_understood() -> None:
    assert stored(["c", PLACE], {"offset": 7}) == ("c", "dc-a", TopicPartition("t", 3), 7)
    assert stored(["c", PLACE], None) == ("c", "dc-a", TopicPartition("t", 3), None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (["c", {**PLACE, "group": "g"}], {"offset": 1}),
        (["c", {"sourceClusterAlias": "a", "targetClusterAlias": "b"}], {"offset": 1}),
        (["c", {**PLACE, "partition": "3"}], {"offset": 1}),
        (["c", PLACE], {"position": 1}),
        (["c", PLACE], {"offset": "1"}),
        (["c", PLACE, "more"], {"offset": 1}),
        ("c", {"offset": 1}),
        (None, {"offset": 1}),
    ],
)
def test_what_is_not_the_mirrors_is_left_aside(key: object, value: object) -> None:
    assert stored(key, value) is None


def test_bytes_that_are_no_json_are_left_aside() -> None:
    assert parse(Record(0, 0, b"\xff", b"{}", ())) is None
    assert parse(Record(0, 0, None, b"{}", ())) is None
    assert parse(Record(0, 0, json.dumps(["c", PLACE]).encode(), b"\xff", ())) is None


def test_a_group_of_the_new_protocol_survives_the_wire() -> None:
    response = messages.ConsumerGroupDescribeResponse
    group, member = response.DescribedGroup, response.DescribedGroup.Member
    places = member.Assignment.AssignedTopic
    assignment = member.Assignment(topic_partitions=[places(topic_name="t", partitions=[0, 1])])
    sent = response(
        throttle_time_ms=0,
        groups=[
            group(
                error_code=0, error_message=None, group_id="g", group_state="Stable", group_epoch=3,
                assignment_epoch=3, assignor_name="uniform", authorized_operations=-1,
                members=[
                    member(
                        member_id="m", instance_id=None, rack_id=None, member_epoch=3, client_id="c", client_host="h",
                        subscribed_topic_names=["t"], subscribed_topic_regex=None, assignment=assignment,
                        target_assignment=member.TargetAssignment(topic_partitions=[]),
                    )
                ],
            )
        ],
    )  # fmt: skip
    received = response_to(messages.CONSUMER_GROUP_DESCRIBE, answer_frame(sent, 1)[4:])
    assert [(g.group_id, [m.member_id for m in g.members]) for g in received.groups] == [("g", ["m"])]
    assert received.groups[0].members[0].assignment.topic_partitions[0].partitions == [0, 1]
