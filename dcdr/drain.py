"""The cut, the drain proof and the looks at the ends: decisions over offsets, without asking anybody.

Numbers of two clusters are never compared: transaction markers, aborted records and compaction make them differ for
good. Drained means: from the mirror's stored position to the cut, a read_committed reader sees no record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from dcdr.errors import MisconfiguredError
from dcdr.model import Cut, CutRow, LogEnds, OffsetRange, Operation, TailRow, Topic, TopicPartition, Verdict

INTERNAL_ENDING = ".internal"
HEARTBEATS = "heartbeats"
"""MM2's own, on every cluster its heartbeat connector ever wrote to: it says that a mirror is alive, nothing more."""


def is_internal(topic: str, reserved: Iterable[str] = ()) -> bool:
    """Whether a topic never crosses: Kafka's own (`__`), the `.internal` ending, `heartbeats`, or one reserved by name.

    No pattern such as `connect-.*`: a user's `connect-clicks` must be mirrored (design, section 9). MM2's own policy
    also leaves out a leading dot; such a topic is refused by preflight rather than silently left behind.
    """
    return topic.startswith("__") or topic.endswith(INTERNAL_ENDING) or topic == HEARTBEATS or topic in set(reserved)


def mirrored_topics(topics: Mapping[str, Topic], reserved: Iterable[str] = ()) -> dict[str, Topic]:
    """The topics a switchover answers for: every one that is not internal."""
    names = frozenset(reserved)
    return {name: topic for name, topic in sorted(topics.items()) if not is_internal(name, names)}


def partitions_of(topics: Mapping[str, Topic]) -> list[TopicPartition]:
    """All partitions of `topics`, sorted."""
    return [
        TopicPartition(name, number) for name, topic in sorted(topics.items()) for number in range(topic.partitions)
    ]


def unsettled(ends: Mapping[TopicPartition, LogEnds]) -> list[str]:
    """Partitions whose log end, high watermark and last stable offset differ, with the numbers; empty when settled."""
    return [
        f"{place}: log end {at.leo}, high watermark {at.hw}, last stable {at.lso}"
        for place, at in sorted(ends.items())
        if not at.settled
    ]


def take_cut(
    operation: Operation, topics: Mapping[str, Topic], ends: Mapping[TopicPartition, LogEnds], now: datetime
) -> Cut:
    """The cut over all of `topics`. Precondition: every partition is settled."""
    rows = []
    for place in partitions_of(topics):
        at = ends[place]
        rows.append(
            CutRow(
                topic=place.topic,
                partition=place.partition,
                topic_id=topics[place.topic].topic_id,
                start=at.start,
                end=at.leo,
                leader_epoch=at.leader_epoch,
            )
        )
    return Cut(operation=operation, taken_at=now, rows=tuple(rows))


def beyond(cut: Cut, mirrored: Mapping[TopicPartition, int]) -> list[TopicPartition]:
    """Partitions whose stored offset lies at or behind the cut: the log grew since, or the offset is not this log's."""
    return [place for place, row in cut.by_partition.items() if row.end > 0 and mirrored.get(place, -1) >= row.end]


def unproven(
    cut: Cut, mirrored: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, LogEnds] | None = None
) -> dict[TopicPartition, OffsetRange]:
    """Ranges of the source that must hold no visible record for the cut to be drained; empty ones are left out.

    `mirrored` is M: the stored offset of the last copied record, absent where none was ever copied. `ends`: looked at
    again where M is `beyond` the cut; a late record that was copied already is the last look's affair.

    Raises: MisconfiguredError when a stored offset lies at or behind the log end: a recreated topic, a foreign alias.
    """
    now = ends or {}
    ranges: dict[TopicPartition, OffsetRange] = {}
    for place, row in cut.by_partition.items():
        last = mirrored.get(place)
        end = max(row.end, now[place].leo) if place in now else row.end
        if last is not None and last >= end and row.end > 0:
            raise MisconfiguredError(
                f"the mirror's stored offset {last} of {place} lies at or beyond the log end {end}: the topic was "
                "recreated, or the stored offsets belong to another cluster; reset this partition's connector offset"
            )
        first = row.start if last is None else max(row.start, last + 1)
        if first < row.end:
            ranges[place] = OffsetRange(first, row.end)
    return ranges


def lost_to_retention(cut: Cut, mirrored: Mapping[TopicPartition, int]) -> list[str]:
    """Partitions whose log starts behind the mirror's position: what lay between was deleted before it was copied."""
    return [
        f"{place}: {row.start - mirrored[place] - 1} offsets before {row.start} were deleted before they were copied"
        for place, row in cut.by_partition.items()
        if place in mirrored and mirrored[place] + 1 < row.start and row.start < row.end
    ]


def prove(
    cut: Cut,
    mirrored: Mapping[TopicPartition, int],
    target_topics: Mapping[str, Topic],
    target_ends: Mapping[TopicPartition, LogEnds],
    verdicts: Mapping[TopicPartition, Verdict],
) -> Cut:
    """The complete ledger entry: the cut, M, the target's settled ends and topic ids, and what was shown."""
    rows = []
    for place, row in cut.by_partition.items():
        rows.append(
            row.model_copy(
                update={
                    "mirrored": mirrored.get(place),
                    "target_topic_id": target_topics[place.topic].topic_id,
                    "target_end": target_ends[place].leo,
                    "verdict": verdicts[place],
                }
            )
        )
    return cut.model_copy(update={"rows": tuple(rows), "complete": True})


def read_all(row: CutRow, position: int) -> bool:
    """Whether a group at `position` (the next offset to read) has no visible record of the drained `row` left.

    M is the last visible record: from M + 1 to the cut the drain's reader saw none.
    """
    if position > row.end:
        return False
    return position == row.end or row.mirrored is None or row.mirrored < position


def changes(cut: Cut, topics: Mapping[str, Topic], ends: Mapping[TopicPartition, LogEnds]) -> list[str]:
    """What differs on the source from the cut: ends, leader epochs, ids, partition counts, topics. Empty is good."""
    found: list[str] = []
    counts: dict[str, int] = {}
    for place, row in cut.by_partition.items():
        counts[place.topic] = counts.get(place.topic, 0) + 1
        topic = topics.get(place.topic)
        if topic is None or topic.topic_id != row.topic_id:
            found.append(f"{place}: the topic was deleted or recreated after the cut")
            continue
        at = ends.get(place)
        if at is None:
            found.append(f"{place}: nobody told its ends")
        elif not (at.leo == at.hw == at.lso == row.end):
            found.append(f"{place}: cut at {row.end}, now log end {at.leo}, high watermark {at.hw}, stable {at.lso}")
        elif at.leader_epoch != row.leader_epoch:
            found.append(f"{place}: the leader changed after the cut (epoch {row.leader_epoch} to {at.leader_epoch})")
    for name, topic in sorted(topics.items()):
        if counts.get(name, 0) != topic.partitions:
            found.append(f"{name}: {counts.get(name, 0)} partitions at the cut, {topic.partitions} now")
    return found


def target_changes(ledger: Cut, ends: Mapping[TopicPartition, LogEnds]) -> list[str]:
    """Partitions of the target that grew after the ledger was written: something still writes there."""
    return [
        f"{place}: the ledger says {row.target_end}, the target is at {ends[place].leo if place in ends else 'unknown'}"
        for place, row in ledger.by_partition.items()
        if place not in ends or ends[place].leo != row.target_end
    ]


def tail(cut: Cut, topics: Mapping[str, Topic], ends: Mapping[TopicPartition, LogEnds]) -> tuple[TailRow, ...]:
    """What the old active took after the cut: offsets beyond it, and whole topics that were not there."""
    rows = cut.by_partition
    found = []
    for place in partitions_of(topics):
        at = ends.get(place)
        if at is None:
            continue
        row = rows.get(place)
        first = at.start if row is None else row.end
        if at.leo > first:
            found.append(TailRow(topic=place.topic, partition=place.partition, first=first, end=at.leo))
    return tuple(found)


def seed(ledger: Cut, stored: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
    """Offsets for the reverse direction: the target's end - 1, None (start at the beginning) where the end is 0.

    `stored`: keys the connector holds already; those the ledger does not name are forgotten, so that a topic created
    later starts at its beginning.
    """
    seeds: dict[TopicPartition, int | None] = dict.fromkeys(stored)
    for place, row in ledger.by_partition.items():
        if row.target_end is None:
            raise MisconfiguredError(
                f"ledger entry of {ledger.operation.id} has no target end for {place}: not complete"
            )
        seeds[place] = row.target_end - 1 if row.target_end > 0 else None
    return seeds
