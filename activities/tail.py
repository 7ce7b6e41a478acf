"""What a failover lost, exactly: the old side is back, its fence is closed, its logs are read against the fork."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from temporalio import activity

from activities.step import (
    Steps,
    Stopwatch,
    connector_of,
    expel,
    read_lease,
    settle_groups,
    settle_users,
    until_gates,
)
from activities.witness import last_visible
from dcdr import drain, lease, tail
from dcdr.errors import (
    ConflictError,
    InvalidRequestError,
    MisconfiguredError,
    NotYetError,
    PlanRefusedError,
    TransientError,
)
from dcdr.lease import Standing
from dcdr.model import (
    EntryRef,
    Fork,
    ForkRow,
    Gate,
    KeysRequest,
    LeaseRecord,
    LossReport,
    LostKeys,
    LostRows,
    Measured,
    OffsetRange,
    RecordDigest,
    StepResult,
    TailCase,
    TailPart,
    TailRequest,
    TailResult,
    Topic,
    TopicPartition,
)
from dcdr.plan import mirror_of
from dcdr.ports import Member, Scope
from dcdr.tail import Old

BATCH = 200
"""Partitions looked at together: what is in memory, and what a retry does again at most."""
CLOSE_READ = 8
"""Of them, compared record by record at once, where the mirror is not exactly-once."""
REACH = 16_384
"""Offsets of the target, back from the fork, in which the last record copied is looked for: more than a mirror copies
between two of its commits at 1,600 records a second and partition."""
KEYS_CHARACTERS = 200_000
"""Of an answer with keys: Temporal's payloads are bounded, and keys may be long."""
log = logging.getLogger("dcdr.tail")


class TailActivities(Steps):
    """Closes the side left behind, then reads both; writes nothing else but the report, and notes of how far it got, to
    the survivor's ledger."""

    @activity.defn(name="tail.close")
    async def close(self, request: TailRequest) -> StepResult:
        """What the failover could not do while the old side was dark: deny users and groups there, and put out the
        members that stayed. A consumer that could reach it all the while reads there and learns nothing otherwise.

        Raises: NotYetError while a broker lets groups in; UnreachableError.
        """
        scope = self._directory.scope(request.scope)
        watch = Stopwatch()
        record = (await read_lease(scope)).record
        old = record.behind
        if old is None:
            return StepResult(**watch.so_far(), note="no side is behind: nothing to close")
        fence = scope.member(old).fence
        try:
            await asyncio.gather(fence.close_users(), fence.freeze_groups())
            brokers = await until_gates(fence.group_gates, Gate.CLOSED, f"groups of {old}")
            removed = await expel(scope, old)
        finally:
            after = (await read_lease(scope)).record
            if after.behind != old:  # failed back meanwhile: the record says how its gates belong
                await settle_users(fence, after, old)
                await settle_groups(fence, after, old)
        note = f"users and groups refused by every broker of {old}, {brokers}; {removed} members that stayed removed"
        return StepResult(**watch.so_far(), note=note, counts={"brokers": brokers, "members": removed})

    @activity.defn(name="tail.compute")
    async def compute(self, request: TailRequest) -> TailResult:
        """Every partition against the Fork entry, in batches; the LossReport goes to the surviving side's ledger.

        Beats with how far it is. What is done is kept in the ledger, so a retry goes on behind the last whole batch.

        Raises: InvalidRequestError when there was no failover; PlanRefusedError when the mirror to the old side may
            write there already; NotYetError while the old side is not closed, has not settled, or still grows.
        """
        scope = self._directory.scope(request.scope)
        record = (await read_lease(scope)).record
        reference, fork = await find_fork(scope, record, request.operation_id)
        source, target = scope.member(fork.operation.source), scope.member(fork.operation.target)
        await _closed(scope, record, fork)
        ours, theirs = await asyncio.gather(source.logs.topics(configs=True), target.logs.topics())
        mirrored = drain.mirrored_topics(ours, source.reserved_topics | target.reserved_topics)
        places = sorted({*fork.by_partition, *drain.partitions_of(mirrored)})
        run = activity.info().workflow_run_id or ""
        parts = await _parts(scope, fork, reference, run)
        checked = sum(part.checked for part in parts)
        rows = [found for part in parts for found in part.rows]
        if parts:
            places = [place for place in places if place > parts[-1].done]
        reader = _Reader(fork, source, target, mirrored, theirs)
        for first in range(0, len(places), BATCH):
            activity.heartbeat(
                {"checked": checked, "left": len(places) - first, "records": sum(found.records for found in rows)}
            )
            batch = places[first : first + BATCH]
            found = tail.worth_telling(await reader.read(batch))
            part = TailPart(
                run=run,
                fork=reference.digest,
                done=batch[-1],
                checked=len(batch),
                rows=tuple(found),
            )
            await target.ledger.put(_part_key(fork, len(parts)), part.model_dump_json().encode())
            parts.append(part)
            checked += len(batch)
            rows += found
        # Closed all the time: what was read first cannot have grown since.
        await _closed(scope, (await read_lease(scope)).record, fork)
        return await _report(scope, fork, rows, checked)

    @activity.defn(name="tail.keys")
    async def keys(self, request: KeysRequest) -> LostKeys:
        """Keys of reported lost records, from the old side.

        Raises: InvalidRequestError when there is no report, or it names no tail of this topic.
        """
        scope = self._directory.scope(request.scope)
        _, fork = await find_fork(scope, (await read_lease(scope)).record, request.operation_id)
        # One computed twice says the same twice: the old side was closed.
        bodies = list((await _reports(scope, fork)).values())
        if not bodies:
            raise InvalidRequestError(f"the tail of {fork.operation.source} is not reported yet")
        ranges = {
            TopicPartition(row.topic, row.partition): OffsetRange(row.first, row.last + 1)
            for row in LossReport.from_body(bodies[-1]).rows
            if row.topic == request.topic and row.case is TailCase.TAIL and row.first is not None
            and row.last is not None
        }  # fmt: skip
        if not ranges:
            raise InvalidRequestError(f"the loss report of {fork.operation.id} names no tail of topic {request.topic}")
        found = await scope.member(fork.operation.source).logs.keys(ranges, request.limit + 1)
        kept: list[str] = []
        for key in found[: request.limit]:
            kept.append(_text(key))
            if sum(map(len, kept)) > KEYS_CHARACTERS:
                kept.pop()
                break
        return LostKeys(topic=request.topic, keys=tuple(kept), more=len(kept) < len(found))


async def find_fork(scope: Scope, record: LeaseRecord, operation_id: str | None) -> tuple[EntryRef, Fork]:
    """The Fork entry of a failover (None: of the last one), from the surviving side's ledger, checked.

    Raises: InvalidRequestError when the record knows of no failover, or none has this id.
    """
    if operation_id is None and record.behind is None:
        raise InvalidRequestError(
            f"scope {scope.name} has no side that a failover left behind: there is no tail to compute. "
            "Name an earlier failover by its operation id"
        )
    # The record forgets the operation's id when it ends, and keeps the digest of the entry it opened with.
    digest = record.ledger or ""
    ledger = scope.member(record.holder).ledger
    if operation_id is None:
        found = await ledger.find(f"{scope.name}/", f"/fork/{digest}") if digest else {}
    else:
        found = await ledger.find(f"{scope.name}/{operation_id}/fork/")
        # A step that was repeated may have written twice: what the lease opened with counts.
        found = {key: body for key, body in found.items() if key.endswith(digest)} if len(found) > 1 else found
    asked = f"of failover {operation_id}" if operation_id else f"{digest[:12] or '(none named)'} of the last failover"
    if len(found) != 1:
        raise InvalidRequestError(
            f"{len(found)} Fork entries {asked} stand in the ledger of {record.holder}: without exactly one nobody can "
            "say where both sides part"
        )
    ((key, body),) = found.items()
    named = key.rsplit("/", 1)[1]
    if hashlib.sha256(body).hexdigest() != named:
        raise MisconfiguredError(f"ledger entry {key} on {record.holder} does not match its digest: it was altered")
    return EntryRef(key=key, digest=named), Fork.from_body(body)


async def _closed(scope: Scope, record: LeaseRecord, fork: Fork) -> None:
    """Nobody can write to the old side: neither users, nor a mirror towards it. Otherwise its tail could still grow.

    Raises: PlanRefusedError when the lease or Connect says that the mirror may write there; NotYetError when a broker
        does not refuse users; UnreachableError without an answer.
    """
    old, new = fork.operation.source, fork.operation.target
    if record.holder == old or record.mirrored or record.behind != old:
        raise PlanRefusedError(
            f"the tail of {old} cannot be computed any more: the lease names {record.holder}, and {old} "
            f"{'may be written to' if record.holder == old else 'is not behind, or its mirror may write there'}. "
            "The report that was made before stands in the ledger"
        )
    if record.operation is not None and lease.standing(record, fork.operation) is not Standing.MOVED:
        raise NotYetError(f"operation {record.op_id} is under way: the tail is computed after it")
    fence = scope.member(old).fence
    await until_gates(fence.users_gates, Gate.CLOSED, f"users of {old}")
    if scope.gated:
        await until_gates(fence.mirror_gates, Gate.CLOSED, f"the mirror's gate of {old}")
    standing = mirror_of(scope, new, old)
    try:
        stopped = (await connector_of(scope.member(old), standing.source_connector)).stopped
    except TransientError:
        # Where brokers obey the lease, the mirror is refused by them whatever Connect would say: `mirrored` is false.
        if not scope.gated:
            raise
        return
    if not stopped:
        raise ConflictError(
            f"connector {standing.source_connector} on {old} is not STOPPED: what it writes cannot be told from a "
            "tail. Stop it; a failback starts it again"
        )


class _Reader:
    """Reads partitions of both sides and says what each is."""

    def __init__(
        self,
        fork: Fork,
        source: Member,
        target: Member,
        ours: Mapping[str, Topic],
        theirs: Mapping[str, Topic],
    ) -> None:
        self._fork, self._rows = fork, fork.by_partition
        self._source, self._target = source, target
        self._ours, self._theirs = ours, theirs

    async def read(self, places: Sequence[TopicPartition]) -> list[LostRows]:
        """One row for each of `places`.

        Raises: NotYetError when the old side has not settled, or grew while it was read.
        """
        held = await self._held(places)
        rows: dict[TopicPartition, LostRows] = {}
        left: dict[TopicPartition, Old] = {}
        for place in places:
            old = held.get(place)
            said = tail.by_offsets(place, self._rows.get(place), old, self._source.name)
            if said is not None or old is None:
                rows[place] = said or tail.row(place, TailCase.NONE)
            else:
                left[place] = old
        seen = await self._source.logs.measure({p: tail.beyond(self._rows.get(p), old) for p, old in left.items()})
        if self._fork.exactly_once:
            strange = await self._strangers(left)
        else:
            strange = {}
            closer = [place for place in left if seen[place].records and place in self._rows]
            for first in range(0, len(closer), CLOSE_READ):
                some = {place: left[place] for place in closer[first : first + CLOSE_READ]}
                shorter, unlike = await self._by_content(some, seen)
                seen = {**seen, **shorter}
                strange |= unlike
        for place, old in left.items():
            note = strange.get(place, "")
            found = tail.lost(place, self._rows.get(place), old, seen[place], self._source.name, note)
            rows[place] = found.model_copy(update={"case": TailCase.DIVERGED}) if note else found
        again = await self._source.logs.ends(list(held))
        grown = [place for place, old in held.items() if again[place].leo != old.ends.leo]
        if grown:
            raise NotYetError(f"{self._source.name} still grows: {', '.join(map(str, grown[:5]))}; it is read again")
        return [rows[place] for place in places]

    async def _held(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, Old]:
        """Those of `places` that the old side has, settled."""
        there = [p for p in places if p.topic in self._ours and p.partition < self._ours[p.topic].partitions]
        ends = await self._source.logs.ends(there)
        open_still = drain.unsettled(ends)
        if open_still:
            raise NotYetError(
                f"{self._source.name} has not settled, {len(open_still)} partitions: {'; '.join(open_still[:5])}. An "
                "open transaction ends by its own time-out; until then its records are neither lost nor kept"
            )
        return {place: Old(self._ours[place.topic].topic_id, at) for place, at in ends.items()}

    async def _strangers(self, held: Mapping[TopicPartition, Old]) -> dict[TopicPartition, str]:
        """Partitions whose record at M is not the one the target ended with: M is not about these logs.

        The second witness of a drain, here for the fork: one stored number a partition is not much to rest on.
        """
        compared = {
            place: self._rows[place]
            for place in held
            if place in self._rows and self._rows[place].mirrored is not None and self._comparable(place)
        }
        anchors = await self._anchors(compared, held)
        theirs = await last_visible(self._target.logs, await self._before_the_fork(compared), 1)
        return {
            place: f"the record at {fork.mirrored} is not the last one that {self._target.name} had: "
            "their histories differ before the fork"
            for place, fork in compared.items()
            if tail.ends_alike(anchors[place], theirs.get(place, ()), compacted=False) is False
        }

    def _comparable(self, place: TopicPartition) -> bool:
        """Both sides keep records and times as they were written, and the target's topic is still that of the fork."""
        config = self._ours[place.topic].config
        kept = "compact" not in config.get("cleanup.policy", "")
        timed = config.get("message.timestamp.type", "CreateTime") == "CreateTime"
        now = self._theirs.get(place.topic)
        return kept and timed and now is not None and now.topic_id == self._rows[place].target_topic_id

    async def _anchors(
        self, rows: Mapping[TopicPartition, ForkRow], held: Mapping[TopicPartition, Old]
    ) -> dict[TopicPartition, RecordDigest | None]:
        """The old side's last visible record up to M: M itself, unless the mirror was seeded behind a marker."""
        ranges = {
            place: OffsetRange(held[place].ends.start, fork.mirrored + 1)
            for place, fork in rows.items()
            if fork.mirrored is not None
        }
        found = await last_visible(self._source.logs, ranges, 1)
        return {place: found[place][-1] if found.get(place) else None for place in rows}

    async def _before_the_fork(self, rows: Mapping[TopicPartition, ForkRow]) -> dict[TopicPartition, OffsetRange]:
        """What the target still has of its log before it opened."""
        ends = await self._target.logs.ends(list(rows)) if rows else {}
        return {
            place: OffsetRange(min(ends[place].start, fork.target_end), fork.target_end) for place, fork in rows.items()
        }

    async def _by_content(
        self, held: Mapping[TopicPartition, Old], seen: Mapping[TopicPartition, Measured]
    ) -> tuple[dict[TopicPartition, Measured], dict[TopicPartition, str]]:
        """What is left of `seen` without the records that the target has beyond M; and where content does not fit."""
        rows = {place: self._rows[place] for place in held}
        gone = {place for place in rows if not self._same_topic(place)}
        strange = dict.fromkeys(gone, f"{self._target.name} has another topic under this name since the fork")
        rows = {place: fork for place, fork in rows.items() if place not in gone}
        whole = await self._before_the_fork(rows)
        near = {place: OffsetRange(max(r.first, r.end - REACH), r.end) for place, r in whole.items()}
        anchors = await self._anchors(rows, held)
        theirs = await self._target.logs.visible(near, REACH)
        ours = await self._source.logs.visible({p: tail.beyond(rows[p], held[p]) for p in rows}, REACH)
        rest = {}
        for place in rows:
            found = tail.copied(
                anchors[place],
                ours[place].records,
                theirs[place].records,
                theirs_whole=near[place].first == 0,
                ours_whole=ours[place].complete,
            )
            if found.records is None:
                strange[place] = found.why
            elif found.records:
                behind = ours[place].records[found.records - 1].offset + 1
                rest[place] = OffsetRange(behind, held[place].ends.leo)
        return dict(await self._source.logs.measure(rest)) if rest else {}, strange

    def _same_topic(self, place: TopicPartition) -> bool:
        now = self._theirs.get(place.topic)
        return now is not None and now.topic_id == self._rows[place].target_topic_id


def _text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return f"hex:{key.hex()}"


def _part_key(fork: Fork, number: int) -> str:
    return f"{fork.operation.scope}/{fork.operation.id}/tail/{number:06d}"


async def _parts(scope: Scope, fork: Fork, reference: EntryRef, run: str) -> list[TailPart]:
    """What earlier attempts of this run have done."""
    ledger = scope.member(fork.operation.target).ledger
    parts: list[TailPart] = []
    for _, body in sorted((await ledger.find(f"{fork.operation.scope}/{fork.operation.id}/tail/")).items()):
        part = TailPart.model_validate_json(body)
        if (part.run, part.fork) != (run, reference.digest):
            break  # of an earlier run, which got further than this one so far
        parts.append(part)
    return parts


async def _reports(scope: Scope, fork: Fork) -> Mapping[str, bytes]:
    ledger = scope.member(fork.operation.target).ledger
    return await ledger.find(f"{fork.operation.scope}/{fork.operation.id}/loss/")


async def _report(scope: Scope, fork: Fork, rows: Sequence[LostRows], checked: int) -> TailResult:
    """Write the report, and answer with its totals."""
    listed = tail.worth_telling(rows)
    report = LossReport(
        operation=fork.operation,
        taken_at=datetime.now(UTC),
        rows=tuple(listed),
        checked=checked,
        # A diverged partition's records are not counted as lost: nobody knows which of them are.
        records=sum(found.records for found in listed if found.case is TailCase.TAIL),
        bytes=sum(found.bytes for found in listed if found.case is TailCase.TAIL),
        bound=fork.bound,
        exactly_once=fork.exactly_once,
    )
    entry = report.reference()
    await scope.member(fork.operation.target).ledger.put(entry.key, report.body())
    return TailResult(
        scope=scope.name,
        operation_id=fork.operation.id,
        source=fork.operation.source,
        target=fork.operation.target,
        entry=entry,
        cases=tail.cases(listed, checked),
        records=report.records,
        bytes=report.bytes,
        bound=fork.bound,
        rows=report.rows[: tail.LISTED],
    )
