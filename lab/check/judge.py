"""The judge: attempts and logs in, anomalies out. Pure; one pass over each log and each attempt.

What it relies on: at most one acknowledged record outstanding per key, so a key's sequence numbers are in order of
time; attempts are unique; two logs of one partition hold the same visible records in the same order when nothing went
wrong, apart from the standby's end, which may lag behind.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from lab.check.loss import Loss, Orphans
from lab.check.model import (
    Anomaly,
    Attempt,
    Committed,
    Demands,
    Evidence,
    Kind,
    Log,
    Outcome,
    Read,
    Seen,
    TopicPartition,
    Verdict,
)

IDLE_NS = 500_000_000
"""A producer that was silent for this long may have missed a whole switchover; its acknowledgements prove no more that
its side was open in between."""

REFUSED = frozenset({"TOPIC_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED"})

Place = tuple[TopicPartition, int]


class _Found:
    """Counts anomalies and keeps the first of each kind."""

    def __init__(self, evidence: Evidence, samples: int) -> None:
        self._evidence, self._most = evidence, samples
        self.counts: dict[Kind, int] = dict.fromkeys(Kind, 0)
        self.samples: list[Anomaly] = []

    def add(self, kind: Kind, dc: str, place: Place, attempt: int | None, detail: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= self._most:
            (topic, partition), offset = place
            label = self._evidence.label(attempt)
            self.samples.append(Anomaly(kind, dc, topic, partition, offset, label, detail))


def judge(evidence: Evidence, demands: Demands | None = None, loss: Loss | None = None) -> Verdict:
    """Judge a run; with `loss`, a run with a failover: exactly what the report names may be missing.

    Raises: ValueError when the active side is not among the logs, or the report is about other sides.
    """
    demands = demands or Demands()
    if evidence.active not in evidence.logs:
        raise ValueError(f"no log of the active side {evidence.active!r}; there are: {', '.join(evidence.logs)}")
    if loss is not None:
        _about_these(evidence, demands, loss)
    found = _Found(evidence, demands.samples)
    foreign: Counter[str] = Counter()
    places = {
        dc: _walk(evidence, dc, log, found, demands.foreign, foreign) for dc, log in sorted(evidence.logs.items())
    }
    orphans = None if loss is None else Orphans(evidence, loss, places)
    _lost(evidence, demands, places, orphans, found)
    for dc, log in evidence.logs.items():
        if dc != evidence.active:
            _only_on(evidence, dc, places, orphans, found)
            _same_order(evidence.logs[evidence.active], evidence.active, places[dc], dc, found)
        if dc == evidence.active or demands.standby_complete:
            _last_values(evidence, dc, log, orphans, found)
            _whole_transactions(evidence, dc, places[dc], orphans, found)
    _one_writer(evidence, found)
    group_facts, group_doubts = _groups(evidence, demands, places, orphans is not None, found)
    facts, doubts = _substance(evidence, demands, 0 if loss is None else 1)
    if orphans is not None:
        facts["loss"], more = _reported(evidence, orphans, places, found)
        doubts += more
    facts["foreign records"] = dict(foreign)
    facts["groups"] = group_facts
    return Verdict(found.counts, found.samples, doubts + group_doubts, facts)


def _walk(
    evidence: Evidence, dc: str, log: Log, found: _Found, allow_foreign: bool, foreign: Counter[str]
) -> dict[int, Place]:
    """Look at every record of one log; return where each attempt is first."""
    attempts = evidence.attempts
    places: dict[int, Place] = {}
    for tp, records in log.items():
        topic, partition = tp
        last_seq: dict[str | None, int] = {}
        for seen in records:
            number = seen.attempt
            attempt = attempts.get(number) if number is not None else None
            if number is None or attempt is None:
                foreign[dc] += 1
                if not allow_foreign:
                    found.add(Kind.PHANTOM, dc, (tp, seen.offset), number, "no attempt of the judged runs")
                continue
            first = places.get(number)
            if first is not None:
                detail = f"also at {first[0][0]}-{first[0][1]}@{first[1]}"
                found.add(Kind.DUPLICATED, dc, (tp, seen.offset), number, detail)
            else:
                places[number] = (tp, seen.offset)
            if (
                seen.key != attempt.key
                or seen.value != attempt.value
                or seen.headers != attempt.headers
                or (seen.timestamp is not None and seen.timestamp != attempt.timestamp)
                or topic != attempt.topic
                or (attempt.partition >= 0 and partition != attempt.partition)
            ):
                found.add(Kind.ALTERED, dc, (tp, seen.offset), number, _difference(seen, attempt, topic, partition))
            if attempt.outcome is Outcome.FAIL:
                found.add(Kind.PHANTOM, dc, (tp, seen.offset), number, f"was not written: {attempt.code or 'failed'}")
            if attempt.outcome is Outcome.OK and first is None:
                if attempt.key is not None:
                    before = last_seq.get(attempt.key, -1)
                    if attempt.seq < before:
                        detail = f"key {attempt.key}: number {attempt.seq} after {before}"
                        found.add(Kind.REORDERED, dc, (tp, seen.offset), number, detail)
                    else:
                        last_seq[attempt.key] = attempt.seq
                if attempt.dc == dc and attempt.offset >= 0 and attempt.offset != seen.offset:
                    detail = f"acknowledged at offset {attempt.offset}"
                    found.add(Kind.MOVED, dc, (tp, seen.offset), number, detail)
    return places


def _difference(seen: Seen, attempt: Attempt, topic: str, partition: int) -> str:
    parts = []
    if seen.key != attempt.key:
        parts.append(f"key {seen.key!r}, sent {attempt.key!r}")
    if seen.value != attempt.value:
        parts.append("value is a tombstone" if seen.value == -1 else "value differs")
    if seen.headers != attempt.headers:
        parts.append("headers differ")
    if seen.timestamp is not None and seen.timestamp != attempt.timestamp:
        parts.append(f"timestamp {seen.timestamp}, sent {attempt.timestamp}")
    if topic != attempt.topic:
        parts.append(f"sent to topic {attempt.topic}")
    if attempt.partition >= 0 and partition != attempt.partition:
        parts.append(f"acknowledged in partition {attempt.partition}")
    return "; ".join(parts)


def _lost(
    evidence: Evidence,
    demands: Demands,
    places: dict[str, dict[int, Place]],
    orphans: Orphans | None,
    found: _Found,
) -> None:
    on_active = places[evidence.active]
    standbys = [dc for dc in places if dc != evidence.active] if demands.standby_complete else []
    for number, attempt in evidence.attempts.items():
        if attempt.outcome is not Outcome.OK or attempt.topic in evidence.compacted:
            continue
        if number not in on_active and (orphans is None or not orphans.lost(number)):
            _add_lost(Kind.MISSING, evidence.active, number, attempt, found)
        for dc in standbys:
            if number not in places[dc]:
                _add_lost(Kind.STANDBY_MISSING, dc, number, attempt, found)


def _add_lost(kind: Kind, dc: str, number: int, attempt: Attempt, found: _Found) -> None:
    place = ((attempt.topic, attempt.partition), attempt.offset)
    found.add(kind, dc, place, number, f"acknowledged on {attempt.dc or '?'} (the offset is that side's)")


def _only_on(
    evidence: Evidence, dc: str, places: dict[str, dict[int, Place]], orphans: Orphans | None, found: _Found
) -> None:
    """Nothing may be left behind on a standby, whatever its producer was told, but what a loss report names."""
    on_active = places[evidence.active]
    for number, place in places[dc].items():
        attempt = evidence.attempts[number]
        if number not in on_active and attempt.topic not in evidence.compacted:
            if orphans is not None and dc == orphans.loss.source and orphans.before_a_common_one(place):
                found.add(Kind.HOLE, dc, place, number, f"{evidence.active} has a later record of this partition")
            if orphans is not None and orphans.lost(number):
                continue
            found.add(Kind.OLD_ONLY, dc, place, number, f"its producer was told: {attempt.outcome}")


def _same_order(log: Log, dc: str, others: dict[int, Place], other: str, found: _Found) -> None:
    """What both sides hold, they hold in the same order and in the same partition."""
    for tp, records in log.items():
        highest = -1
        met: set[int] = set()
        for seen in records:
            if seen.attempt is None or seen.attempt not in others or seen.attempt in met:
                continue
            met.add(seen.attempt)
            place, offset = others[seen.attempt]
            if place != tp:
                detail = f"on {other} it is in {place[0]}-{place[1]}"
                found.add(Kind.ALTERED, dc, (tp, seen.offset), seen.attempt, detail)
            elif offset < highest:
                detail = f"on {other} (offset {offset}) it stands before a record that precedes it here"
                found.add(Kind.REORDERED, dc, (tp, seen.offset), seen.attempt, detail)
            else:
                highest = offset


def _last_values(evidence: Evidence, dc: str, log: Log, orphans: Orphans | None, found: _Found) -> None:
    """The last value of each key of a compacted topic is the last acknowledged one, or one that may have come since."""
    if not evidence.compacted:
        return
    wanted: dict[tuple[str, str | None], tuple[int, Attempt]] = {}
    possible: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    for number, attempt in evidence.attempts.items():
        if attempt.topic not in evidence.compacted or (orphans is not None and orphans.lost(number)):
            continue
        key = (attempt.topic, attempt.key)
        if attempt.outcome is Outcome.OK:
            if key not in wanted or attempt.seq > wanted[key][1].seq:
                wanted[key] = (number, attempt)
        elif attempt.outcome is Outcome.INFO:
            possible[key].append(number)
    last: dict[tuple[str, str | None], tuple[TopicPartition, Seen]] = {}
    for tp, records in log.items():
        if tp[0] in evidence.compacted:
            for seen in records:
                last[(tp[0], seen.key)] = (tp, seen)
    for key, (number, attempt) in wanted.items():
        later = {other for other in possible[key] if evidence.attempts[other].seq >= attempt.seq}
        standing = last.get(key)
        if standing is None:
            if not attempt.tombstone and not any(evidence.attempts[other].tombstone for other in later):
                place = ((attempt.topic, attempt.partition), attempt.offset)
                found.add(Kind.STALE, dc, place, number, f"key {attempt.key} has no value any more")
            continue
        tp, seen = standing
        if seen.attempt != number and seen.attempt not in later:
            ends = evidence.label(seen.attempt)
            detail = f"key {attempt.key} ends with {ends}, acknowledged last: number {attempt.seq}"
            found.add(Kind.STALE, dc, (tp, seen.offset), number, detail)


def _whole_transactions(
    evidence: Evidence, dc: str, places: dict[int, Place], orphans: Orphans | None, found: _Found
) -> None:
    """A transaction whose commit got no answer is there whole or not at all.

    A failover may cut through it: a mirror copies partitions one by one. What the loss report names is left out.
    """
    unanswered: dict[str, list[int]] = defaultdict(list)
    for number, attempt in evidence.attempts.items():
        if orphans is not None and orphans.lost(number):
            continue
        if attempt.txn and attempt.outcome is Outcome.INFO and attempt.topic not in evidence.compacted:
            unanswered[attempt.txn].append(number)
    for txn, numbers in unanswered.items():
        visible = sum(number in places for number in numbers)
        if 0 < visible < len(numbers):
            gone = next(number for number in numbers if number not in places)
            attempt = evidence.attempts[gone]
            place = ((attempt.topic, attempt.partition), attempt.offset)
            found.add(Kind.TORN, dc, place, gone, f"transaction {txn}: {visible} of {len(numbers)} records are visible")


def _one_writer(evidence: Evidence, found: _Found) -> None:
    """No record is sent and acknowledged on one side strictly inside a time in which the other side was open."""
    settled: dict[str, list[tuple[int, Attempt]]] = defaultdict(list)
    for number, attempt in evidence.attempts.items():
        if attempt.settled_ns:
            settled[attempt.producer].append((number, attempt))
    open_times: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for series in settled.values():
        series.sort(key=lambda item: item[1].settled_ns)
        for dc, first, last in _open_times(attempt for _, attempt in series):
            open_times[dc].append((first, last))
    merged = {dc: _merge(times) for dc, times in open_times.items()}
    for dc, times in merged.items():
        starts = [first for first, _ in times]
        for series in settled.values():
            for number, attempt in series:
                if attempt.outcome is not Outcome.OK or attempt.dc == dc or not attempt.dc:
                    continue
                index = bisect_left(starts, attempt.sent_ns) - 1
                if index >= 0 and attempt.settled_ns < times[index][1]:
                    place = ((attempt.topic, attempt.partition), attempt.offset)
                    detail = f"{dc} was acknowledging before and after it"
                    found.add(Kind.TWO_WRITERS, attempt.dc, place, number, detail)


def _open_times(attempts: Iterable[Attempt]) -> Iterator[tuple[str, int, int]]:
    """(side, first acknowledgement, last send of an acknowledged record) of stretches without a failure or a pause."""
    dc, first, last, latest = "", 0, 0, 0
    for attempt in attempts:
        broken = attempt.outcome is not Outcome.OK or attempt.dc != dc or attempt.settled_ns - latest > IDLE_NS
        if broken:
            if dc and last > first:
                yield dc, first, last
            dc = ""
        if attempt.outcome is Outcome.OK:
            if not dc:
                dc, first, last = attempt.dc, attempt.settled_ns, attempt.sent_ns
            last, latest = max(last, attempt.sent_ns), attempt.settled_ns
    if dc and last > first:
        yield dc, first, last


def _merge(times: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(times):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


# --- a failover's loss report ---


def _about_these(evidence: Evidence, demands: Demands, loss: Loss) -> None:
    if loss.target != evidence.active:
        raise ValueError(f"the loss report is about a failover to {loss.target}, and {evidence.active} is active")
    if loss.source not in evidence.logs:
        raise ValueError(
            f"no log of {loss.source}, which the loss report is about; there are: {', '.join(evidence.logs)}"
        )
    if demands.standby_complete:
        raise ValueError(f"{loss.source} was left behind by a failover: it cannot be asked to be complete")


def _reported(
    evidence: Evidence, orphans: Orphans, places: dict[str, dict[int, Place]], found: _Found
) -> tuple[dict[str, object], list[str]]:
    """Hold the report against the old side's log, record by record. Returns: counts, and what is not proven."""
    loss = orphans.loss
    old, on_active = evidence.logs[loss.source], places[evidence.active]
    told: Counter[str] = Counter()
    for tp, claim in sorted(loss.tails.items()):
        if not any(tp[0] == topic for topic, _ in old):
            told["records of topics that are not judged"] += claim.records
            continue
        seen = [record for record in old.get(tp, ()) if claim.first <= record.offset <= claim.last]
        # What a compacted log had when the report was made may have been replaced since.
        fits = len(seen) <= claim.records if tp[0] in evidence.compacted else len(seen) == claim.records
        ends = [record.offset for record in (*seen[:1], *seen[-1:])] == [claim.first, claim.last]
        if not fits or not (ends or tp[0] in evidence.compacted):
            where = f"{seen[0].offset} to {seen[-1].offset}" if seen else "none"
            detail = (
                f"it says {claim.records} records from {claim.first} to {claim.last}; there are {len(seen)}: {where}"
            )
            found.add(Kind.MISREPORTED, loss.source, (tp, claim.first), None, detail)
        for record in seen:
            attempt = evidence.attempts.get(record.attempt) if record.attempt is not None else None
            if record.attempt is None or attempt is None:
                told["foreign"] += 1
            elif record.attempt in on_active:
                place, offset = on_active[record.attempt]
                detail = f"on {evidence.active} it is at {place[0]}-{place[1]}@{offset}"
                found.add(Kind.NOT_LOST, loss.source, (tp, record.offset), record.attempt, detail)
            else:
                told["acknowledged" if attempt.outcome is Outcome.OK else "without an answer"] += 1
    lost = [
        number
        for number, (tp, _) in places[loss.source].items()
        if number not in on_active and tp[0] not in evidence.compacted
    ]
    if loss.bound is not None and len(lost) > loss.bound:
        number = lost[loss.bound]
        detail = f"{len(lost)} records were lost, at most {loss.bound} were announced"
        found.add(Kind.BEYOND_BOUND, loss.source, places[loss.source][number], number, detail)
    doubts = [
        f"{topic}-{partition} is {case} on {loss.source}: the report names no records of it"
        for (topic, partition), case in sorted(loss.unsettled.items())
        if (topic, partition) in old
    ]
    return {"partitions": len(loss.tails), "bound": loss.bound, **told}, doubts


# --- groups ---


class _Positions:
    """Translates positions of one partition on any side into offsets of the active side."""

    def __init__(self, evidence: Evidence, places: dict[str, dict[int, Place]], tp: TopicPartition) -> None:
        self._logs = {dc: log.get(tp, ()) for dc, log in evidence.logs.items()}
        self._offsets: dict[str, list[int]] = {}
        self._active, self._tp = evidence.active, tp
        self._on_active = places[evidence.active]

    def of(self, dc: str, offset: int) -> int:
        """The active side's offset right behind the last record that precedes `offset` on `dc`."""
        if dc == self._active:
            return offset
        log = self._logs.get(dc, ())
        offsets = self._offsets.setdefault(dc, [seen.offset for seen in log])
        for index in range(bisect_left(offsets, offset) - 1, -1, -1):
            number = log[index].attempt
            place = self._on_active.get(number) if number is not None else None
            if place is not None and place[0] == self._tp:
                return place[1] + 1
        return 0


def _groups(
    evidence: Evidence, demands: Demands, places: dict[str, dict[int, Place]], failed_over: bool, found: _Found
) -> tuple[dict[str, dict[str, object]], list[str]]:
    on_active = places[evidence.active]
    by_place: dict[tuple[str, TopicPartition], list[Read | Committed]] = defaultdict(list)
    for event in evidence.groups:
        by_place[(event.group, (event.topic, event.partition))].append(event)
    facts: dict[str, dict[str, object]] = {
        group: {"received": 0, "distinct": 0, "skipped": 0, "re-read": 0, "uncommitted again": 0, "sides": []}
        for group in evidence.group_names
    }
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    sides: dict[str, Counter[str]] = defaultdict(Counter)
    spared: Counter[str] = Counter()
    for (group, tp), events in sorted(by_place.items()):
        events.sort(key=lambda event: event.at_ns)
        positions = _Positions(evidence, places, tp)
        received: set[int] = set()
        low = high = -1
        committed = -1
        for event in events:
            if isinstance(event, Committed):
                position = positions.of(event.dc, event.offset)
                committed = max(committed, position)
                low = position if low < 0 else low
                continue
            totals[group]["received"] += 1
            sides[group][event.dc] += 1
            place = on_active.get(event.attempt) if event.attempt is not None else None
            if event.attempt is None or place is None or place[0] != tp:
                continue
            low = place[1] if low < 0 else low
            high = max(high, place[1])
            if place[1] < committed:
                totals[group]["re-read"] += 1
                spared[group] += 1
                # After a failover groups go on where the mirror's checkpoints put them, which is early by design.
                if spared[group] > demands.rereads.get(group, 0) and not failed_over:
                    detail = f"group {group} had committed up to {committed}; again on {event.dc}@{event.offset}"
                    found.add(Kind.REREAD, evidence.active, place, event.attempt, detail)
            elif event.attempt in received:
                totals[group]["uncommitted again"] += 1
            received.add(event.attempt)
        totals[group]["distinct"] += len(received)
        totals[group]["skipped"] += _skipped(evidence, tp, low, high, received, group, found)
    doubts = []
    for group in facts:
        facts[group].update(totals[group])
        facts[group]["sides"] = dict(sides[group])
        if demands.switchovers:
            if not sides[group]:
                doubts.append(f"group {group} received nothing")
            elif evidence.active not in sides[group] or len(sides[group]) < 2:
                doubts.append(f"group {group} read on {', '.join(sides[group])} only: no resumption is shown")
    return facts, doubts


def _skipped(
    evidence: Evidence, tp: TopicPartition, low: int, high: int, received: set[int], group: str, found: _Found
) -> int:
    """Records of the active side between the first position and the last record received that never arrived."""
    log = evidence.logs[evidence.active].get(tp, ())
    last: dict[str | None, int] = {}
    if tp[0] in evidence.compacted:
        # What a later record of the same key replaced may have been compacted away where the group was reading.
        last = {seen.key: seen.offset for seen in log}
    count = 0
    for seen in log:
        if not low <= seen.offset < high or seen.attempt is None or seen.attempt in received:
            continue
        if seen.attempt not in evidence.attempts or (last and last[seen.key] != seen.offset):
            continue
        count += 1
        found.add(Kind.SKIPPED, evidence.active, (tp, seen.offset), seen.attempt, f"by group {group}")
    return count


# --- is there anything to judge? ---


def _substance(evidence: Evidence, demands: Demands, failovers: int) -> tuple[dict[str, object], list[str]]:
    outcomes: Counter[str] = Counter()
    acked: Counter[str] = Counter()
    refused = 0
    line: list[tuple[int, str]] = []
    for attempt in evidence.attempts.values():
        outcomes[attempt.outcome] += 1
        refused += attempt.code in REFUSED
        if attempt.outcome is Outcome.OK:
            acked[attempt.dc] += 1
            if attempt.producer not in evidence.pinned:
                line.append((attempt.sent_ns, attempt.dc))
    line.sort()
    stretches: list[tuple[str, int]] = []
    for _, dc in line:
        if stretches and stretches[-1][0] == dc:
            stretches[-1] = (dc, stretches[-1][1] + 1)
        else:
            stretches.append((dc, 1))
    doubts = []
    for dc, partitions in evidence.blocked.items():
        if partitions:
            names = ", ".join(f"{topic}-{partition}" for topic, partition in list(partitions)[:5])
            doubts.append(f"{dc}: {len(partitions)} partitions end in an open transaction ({names})")
    if not acked:
        doubts.append("nothing was acknowledged")
    for dc, count in stretches:
        if count < demands.min_acks:
            doubts.append(f"only {count} records were acknowledged in a stretch on {dc}, {demands.min_acks} are wanted")
    changes = max(0, len(stretches) - 1)
    if demands.switchovers is not None:
        if changes != demands.switchovers:
            doubts.append(f"acknowledgements changed sides {changes} times, not {demands.switchovers}")
        if refused < demands.switchovers - failovers:  # a side that dies refuses nobody
            doubts.append(f"{refused} refusals in {demands.switchovers} switchovers: was traffic flowing at the fence?")
        if stretches and stretches[-1][0] != evidence.active:
            doubts.append(f"the last acknowledgements came from {stretches[-1][0]}, not from {evidence.active}")
    facts: dict[str, object] = {
        "attempts": {outcome.value: outcomes[outcome] for outcome in Outcome},
        "acknowledged": dict(acked),
        "refused": refused,
        "stretches": [f"{dc}: {count}" for dc, count in stretches],
        "records": {dc: sum(map(len, log.values())) for dc, log in evidence.logs.items()},
    }
    return facts, doubts
