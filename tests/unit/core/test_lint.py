"""Connector settings: the safe baseline is clean, and every single unsafe setting is told with its harm."""

from __future__ import annotations

import pytest

from dcdr import lint

SAFE = {
    "connector.class": "org.apache.kafka.connect.mirror.MirrorSourceConnector",
    "source.cluster.alias": "dc-a",
    "target.cluster.alias": "dc-b",
    "replication.policy.class": "org.apache.kafka.connect.mirror.IdentityReplicationPolicy",
    "topics": ".*",
    "topics.exclude": r".*\.internal, .*\.replica, __.*, connect-configs, heartbeats",
    "heartbeats.replication.enabled": "false",
    "sync.topic.acls.enabled": "false",
    "sync.topic.configs.enabled": "true",
    "refresh.topics.interval.seconds": "30",
    "replication.factor": "-1",
    "offset-syncs.topic.replication.factor": "-1",
    "offset-syncs.topic.location": "target",
    "key.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
    "value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
    "header.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
    "source.consumer.isolation.level": "read_committed",
    "exactly.once.support": "required",
    "errors.tolerance": "none",
    "tasks.max": "4",
}
TOPICS = ("orders", "connect-clicks", "dr-test-20261121", "my-internal")
KEPT = ("connect-configs", "connect-offsets.internal", "dcdr-ledger.internal", "__consumer_offsets", "heartbeats")


def source(**changes: str | None) -> list[str]:
    return lint.lint_source("mm2-source", changed(changes), "dc-a", "dc-b", TOPICS, KEPT)


def changed(changes: dict[str, str | None]) -> dict[str, str]:
    config: dict[str, str | None] = {**SAFE, **changes}
    return {key: value for key, value in config.items() if value is not None}


def test_the_safe_baseline_of_both_connectors_is_clean() -> None:
    assert source() == []
    assert lint.lint_checkpoint("mm2-checkpoint", SAFE, "dc-a", "dc-b") == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("replication.policy.class", None),
        ("replication.policy.class", "org.apache.kafka.connect.mirror.DefaultReplicationPolicy"),
        ("sync.topic.acls.enabled", None),
        ("sync.topic.acls.enabled", "true"),
        ("source.consumer.isolation.level", None),
        ("source.consumer.isolation.level", "read_uncommitted"),
        ("exactly.once.support", None),
        ("exactly.once.support", "requested"),
        ("offset-syncs.topic.location", None),
        ("offset-syncs.topic.location", "source"),
        ("heartbeats.replication.enabled", None),
        ("heartbeats.replication.enabled", "true"),
        ("errors.tolerance", "all"),
        ("key.converter", None),
        ("value.converter", "org.apache.kafka.connect.json.JsonConverter"),
        ("header.converter", None),
        ("header.converter", "org.apache.kafka.connect.storage.SimpleHeaderConverter"),
        ("source.cluster.alias", None),
        ("source.cluster.alias", "dc-b"),
        ("target.cluster.alias", "dc-a"),
        ("producer.override.acks", "1"),
        ("transforms", "route"),
        ("replication.factor", None),
        ("source.consumer.auto.offset.reset", "latest"),
        ("topics.exclude", None),
        ("topics", "orders"),
    ],
)
def test_one_unsafe_setting_is_told_alone_with_its_key(key: str, value: str | None) -> None:
    found = source(**{key: value})
    assert len(found) == 1
    assert found[0].startswith("mm2-source: ")
    assert key in found[0] or "topic filter" in found[0]


def test_an_offset_reset_for_every_consumer_is_found_and_the_mirrors_own_wins() -> None:
    assert len(source(**{"consumer.auto.offset.reset": "latest"})) == 1
    own = {"consumer.auto.offset.reset": "latest", "source.consumer.auto.offset.reset": "earliest"}
    assert source(**own) == []


@pytest.mark.parametrize("acks", ["all", "-1"])
def test_acks_all_is_safe_in_both_spellings(acks: str) -> None:
    assert source(**{"producer.override.acks": acks}) == []


@pytest.mark.parametrize("key", ["replication.policy.class", "offset-syncs.topic.location", "source.cluster.alias"])
def test_a_checkpoint_connector_needs_the_same_names_and_the_same_sync_topic(key: str) -> None:
    found = lint.lint_checkpoint("mm2-checkpoint", changed({key: None}), "dc-a", "dc-b")
    assert len(found) == 1
    assert key in found[0]


@pytest.mark.parametrize("exclude", [r"mm2.*\.internal, .*\.replica, __.*", None])
def test_the_default_exclusion_of_kafka_43_lets_connects_own_topics_pass_and_is_refused(exclude: str | None) -> None:
    found = source(**{"topics.exclude": exclude})
    assert len(found) == 1
    assert "lets connect-configs, connect-offsets.internal, dcdr-ledger.internal, heartbeats pass" in found[0]
    assert "overwrite" in found[0]


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        ("connect-.*", "connect-clicks"),
        ("dr-.*", "dr-test-20261121"),
        (r".*[\-\.]internal", "my-internal"),
        ("orders", "orders"),
    ],
)
def test_a_pattern_that_swallows_a_users_topic_is_told_with_the_topic(pattern: str, left_out: str) -> None:
    found = source(**{"topics.exclude": f"{SAFE['topics.exclude']}, {pattern}"})
    assert found == [f"mm2-source: its topic filter leaves out {left_out}: they would never be mirrored"]


def test_a_users_topic_that_the_identity_policy_would_rename_is_told() -> None:
    found = lint.lint_source("mm2-source", SAFE, "dc-a", "dc-b", ["device-heartbeats"])
    assert found == ["mm2-source: device-heartbeats ends with 'heartbeats', which the identity policy renames"]


@pytest.mark.parametrize("key", ["topics", "topics.exclude"])
def test_a_filter_that_cannot_be_read_is_a_finding_and_no_crash(key: str) -> None:
    (found,) = source(**{key: "orders, *"})
    assert "topic filter cannot be read" in found


@pytest.mark.parametrize(
    ("config", "topic", "crosses"),
    [
        ({}, "orders", True),
        ({}, "x.replica", False),
        ({}, "__transaction_state", False),
        ({}, "my-internal", True),
        ({}, "my.internal", True),
        ({}, "mm2-offset-syncs.dc-b.internal", False),
        ({"topics.exclude": ""}, "mm2-status.internal", False),
        ({"topics.exclude": ""}, "dc-a.checkpoints.internal", False),
        ({"topics.exclude": ""}, ".hidden", False),
        ({"topics.exclude": ""}, "__consumer_offsets", False),
        ({"topics": "orders, pay.*"}, "payments", True),
        ({"topics": "orders, pay.*"}, "repayments", False),
        ({"topics": "orders, pay.*"}, "orders-2", False),
        ({"topics": ".*", "topics.exclude": "orders"}, "orders", False),
        ({"topics": "orders", "topics.exclude": "ord.*"}, "orders", False),
        ({"topics": ""}, "orders", False),
    ],
)
def test_the_filter_means_what_it_means_to_mirrormaker(config: dict[str, str], topic: str, crosses: bool) -> None:
    assert lint.passes(config, topic) is crosses


@pytest.mark.parametrize(
    ("size", "limit", "fits"),
    [
        (None, 1_048_588, True),  # Kafka's two defaults belong together
        (None, 1_048_589, False),
        ("2097152", 2_097_164, True),
        ("2097152", 2_097_165, False),
        ("1024", 1_048_588, False),
    ],
)
def test_a_topic_that_takes_more_than_the_mirrors_producer_sends_is_told(
    size: str | None, limit: int, fits: bool
) -> None:
    config = {} if size is None else {"producer.override.max.request.size": size}
    found = lint.oversized(config, {"orders": limit})
    assert (found == []) is fits
    assert fits or (f"{limit} bytes" in found[0] and "max.request.size" in found[0])
