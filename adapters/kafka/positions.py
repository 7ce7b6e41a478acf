"""Where the mirror stands: a warm tail of Connect's offsets topic."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

from adapters.kafka.records import Record
from adapters.kafka.tail import CATCH_UP, Tail
from adapters.kafka.wire import Wire
from dcdr.errors import MisconfiguredError
from dcdr.model import TopicPartition

LANE = "positions"


class Stored(NamedTuple):
    """One record of the offsets topic: the last copied offset of a partition; None where it was forgotten."""

    connector: str
    cluster: str
    partition: TopicPartition
    offset: int | None


class KafkaMirrorPositions:
    """`dcdr.ports.MirrorPositions`: the stored source offsets of the connectors of one Connect cluster."""

    def __init__(self, wire: Wire, offsets_topic: str) -> None:
        self._dc = wire.dc
        self._stored: defaultdict[str, defaultdict[str, dict[TopicPartition, int]]]
        self._stored = defaultdict(lambda: defaultdict(dict))
        self._tail = Tail(wire, offsets_topic, self._apply, self._stored.clear, lane=LANE)

    async def current(self, connector: str) -> Mapping[TopicPartition, int]:
        """Offsets committed before this call are in the answer; a connector that stored none has an empty one.

        Raises: MisconfiguredError when it stored offsets under several cluster aliases: which ones count is unknown.
        """
        await self._tail.catch_up()
        by_cluster = {cluster: offsets for cluster, offsets in self._stored[connector].items() if offsets}
        if len(by_cluster) > 1:
            raise MisconfiguredError(
                f"{self._dc}: {connector} has stored offsets of several source clusters "
                f"({', '.join(sorted(by_cluster))}); "
                "stop it and forget those of the wrong alias: PATCH /connectors/<name>/offsets with null"
            )
        return dict(next(iter(by_cluster.values()), {}))

    async def keep_up(self, within: timedelta = CATCH_UP) -> None:
        """Read what is new, so that the next `current` has little left to read."""
        await self._tail.catch_up(within)

    def _apply(self, _: TopicPartition, record: Record) -> None:
        stored = parse(record)
        if stored is None:
            return
        offsets = self._stored[stored.connector][stored.cluster]
        if stored.offset is None:
            offsets.pop(stored.partition, None)
        else:
            offsets[stored.partition] = stored.offset


def parse(record: Record) -> Stored | None:
    """Read one record as MirrorSourceConnector stores it; None for what checkpoint and heartbeat connectors store.

    Key: `["<connector>", {"cluster": ..., "partition": n, "topic": ...}]`; value: `{"offset": n}` or nothing.
    Source: MirrorUtils.wrapPartition and wrapOffset; OffsetStorageWriter for the pair.
    """
    place = _parse_key(record.key or b"")
    if place is None:
        return None
    if record.value is None:
        return Stored(*place, None)
    try:
        value = json.loads(record.value)
    except ValueError:
        return None
    match value:
        case None:
            return Stored(*place, None)
        case {"offset": int(offset)}:
            return Stored(*place, offset)
        case _:
            return None


@functools.lru_cache(maxsize=1 << 16)
def _parse_key(key: bytes) -> tuple[str, str, TopicPartition] | None:
    """The same few keys come with every poll of the mirror."""
    try:
        parsed = json.loads(key)
    except ValueError:
        return None
    match parsed:
        case [
            str(connector),
            {"cluster": str(cluster), "topic": str(topic), "partition": int(number), **others},
        ] if not others:
            return connector, cluster, TopicPartition(topic, number)
        case _:
            return None
