"""Connector settings that are safety settings: MM2's defaults break the promise in four ways.

Source: Kafka 4.3 `connect/mirror` (`MirrorConnectorConfig`, `MirrorSourceConfig`, `MirrorCheckpointConfig`); each rule
says what the unsafe value does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

IDENTITY = "org.apache.kafka.connect.mirror.IdentityReplicationPolicy"
BYTE_ARRAY = "org.apache.kafka.connect.converters.ByteArrayConverter"
DEFAULT_REQUEST_SIZE = 1_048_576
"""`max.request.size` of a Java producer; a topic's default `max.message.bytes` is 12 larger."""


class Rule(NamedTuple):
    """`key` must be `value`; `default` is what Connect or MM2 takes when it is absent; `harm` is why we refuse."""

    key: str
    value: str
    default: str
    harm: str


_BOTH = (
    Rule("replication.policy.class", IDENTITY, "DefaultReplicationPolicy", "topics would be renamed on the target"),
)

_SOURCE = (
    *_BOTH,
    Rule("sync.topic.acls.enabled", "false", "true", "the fence's DENY rules would be copied to the other cluster"),
    Rule(
        "source.consumer.isolation.level",
        "read_committed",
        "read_uncommitted",
        "records of aborted transactions would be copied as data",
    ),
    Rule("exactly.once.support", "required", "requested", "a restart of the mirror could copy records twice"),
    Rule("offset-syncs.topic.location", "target", "source", "offset syncs would be lost with the source"),
    Rule(
        "heartbeats.replication.enabled",
        "false",
        "true",
        "heartbeat topics would cross under another name, whatever the topic filter says",
    ),
    Rule("errors.tolerance", "none", "none", "refused records would be skipped while the stored offset advances"),
    Rule("key.converter", BYTE_ARRAY, "the worker's", "keys would be rewritten"),
    Rule("value.converter", BYTE_ARRAY, "the worker's", "values would be rewritten"),
    Rule("header.converter", BYTE_ARRAY, "SimpleHeaderConverter", "binary headers would become text"),
)

_CHECKPOINT = (
    *_BOTH,
    Rule(
        "offset-syncs.topic.location", "target", "source", "translation would read another topic than the mirror writes"
    ),
)


def _violations(name: str, config: Mapping[str, str], rules: Collection[Rule]) -> list[str]:
    found = []
    for rule in rules:
        value = config.get(rule.key, rule.default)
        if value.lower() != rule.value.lower():
            found.append(f"{name}: {rule.key}={value}, must be {rule.value}: {rule.harm}")
    return found


def _aliases(name: str, config: Mapping[str, str], source: str, target: str) -> list[str]:
    wanted = {"source.cluster.alias": source, "target.cluster.alias": target}
    return [
        f"{name}: {key}={config.get(key, 'unset')}, must be {alias}: the alias is part of every stored offset's key"
        for key, alias in wanted.items()
        if config.get(key) != alias
    ]


def lint_source(
    name: str,
    config: Mapping[str, str],
    source: str,
    target: str,
    topics: Collection[str],
    kept: Collection[str] = (),
) -> list[str]:
    """What is unsafe in a MirrorSourceConnector's configuration, each with the harm it does; empty when safe.

    `topics`: names that must cross; one that the connector's own filter leaves out would never drain. `kept`: names
    that must not; one that passes would overwrite the other data center's own (Connect's offsets, our ledger).
    """
    found = _violations(name, config, _SOURCE) + _aliases(name, config, source, target)
    if config.get("producer.override.acks", "all") not in ("all", "-1"):
        found.append(f"{name}: producer.override.acks must be all: acknowledged copies could be lost")
    reset = config.get("source.consumer.auto.offset.reset", config.get("consumer.auto.offset.reset", "earliest"))
    if reset != "earliest":
        found.append(
            f"{name}: source.consumer.auto.offset.reset={reset}, must be earliest: the first records of a new topic "
            "would be skipped, and no proof would see it"
        )
    if config.get("transforms"):
        found.append(f"{name}: transforms={config['transforms']}: a transform may drop or rewrite records; remove it")
    if config.get("replication.factor", "2") != "-1" and not config.get("replication.factor", "").isdigit():
        found.append(f"{name}: replication.factor must be -1 or a number: the default is 2, whatever the source has")
    return found + _crossing(name, config, topics, kept)


def _crossing(name: str, config: Mapping[str, str], topics: Collection[str], kept: Collection[str]) -> list[str]:
    try:
        left = [topic for topic in sorted(topics) if not passes(config, topic)]
        taken = [topic for topic in sorted(kept) if passes(config, topic)]
    except re.error as error:
        return [f"{name}: its topic filter cannot be read: {error}; write it with plainer regular expressions"]
    found = []
    if left:
        found.append(f"{name}: its topic filter leaves out {', '.join(left)}: they would never be mirrored")
    if taken:
        found.append(
            f"{name}: its topic filter lets {', '.join(taken)} pass: they belong to one data center and would "
            r"overwrite the other's; add them to topics.exclude, or .*\.internal"
        )
    renamed = [topic for topic in sorted(topics) if topic.endswith("heartbeats")]
    if renamed:
        found.append(f"{name}: {', '.join(renamed)} ends with 'heartbeats', which the identity policy renames")
    return found


def lint_checkpoint(name: str, config: Mapping[str, str], source: str, target: str) -> list[str]:
    """What is unsafe in a MirrorCheckpointConnector's configuration; empty when safe."""
    return _violations(name, config, _CHECKPOINT) + _aliases(name, config, source, target)


def passes(config: Mapping[str, str], topic: str) -> bool:
    """Whether MM2 would mirror `topic`: DefaultTopicFilter (comma lists of regular expressions, exclude wins), and the
    replication policy's own rule, which knows fewer internal names than one would think: no `connect-*`, and of
    `.internal` only MM2's own.

    Raises: re.error when a pattern cannot be read.
    Source: Kafka 4.3.1, `DefaultTopicFilter`, `ReplicationPolicy.isInternalTopic`.
    """
    include = _patterns(config.get("topics", ".*"))
    exclude = _patterns(config.get("topics.exclude", r"mm2.*\.internal, .*\.replica, __.*"))
    if topic.startswith(("__", ".")) or topic.endswith(".checkpoints.internal"):
        return False
    if topic.startswith("mm2") and topic.endswith(".internal"):
        return False
    return any(p.fullmatch(topic) for p in include) and not any(p.fullmatch(topic) for p in exclude)


def _patterns(listing: str) -> list[re.Pattern[str]]:
    return [re.compile(part.strip()) for part in listing.split(",") if part.strip()]


def producer_limit(config: Mapping[str, str]) -> int:
    """Largest request, in bytes, the mirror's producer sends to the target."""
    return int(config.get("producer.override.max.request.size", DEFAULT_REQUEST_SIZE))


def oversized(config: Mapping[str, str], limits: Mapping[str, int]) -> list[str]:
    """Topics that may hold records the mirror's producer cannot send; `limits` is each topic's `max.message.bytes`."""
    most = producer_limit(config) + 12
    return [
        f"{topic} accepts records of {limit} bytes, the mirror's producer sends at most {most - 12}: raise the "
        "connector's producer.override.max.request.size, or lower the topic's max.message.bytes"
        for topic, limit in sorted(limits.items())
        if limit > most
    ]
