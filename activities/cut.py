"""Transactions, settling and the cut, the drain proof, the mirror's gate and the ledger entry."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

from temporalio import activity

from activities.step import Steps, Stopwatch, ask, both, read_lease, until_gates
from activities.witness import source_tails, target_tails, verdicts
from dcdr import drain
from dcdr.book import LedgerBook
from dcdr.errors import DeadlineError, TransientError
from dcdr.intent import Ask, Intent
from dcdr.lease import Standing
from dcdr.model import (
    Cut,
    Gate,
    LogEnds,
    Operation,
    StepInput,
    StepResult,
    Topic,
    TopicPartition,
    TransactionsResult,
    Verdict,
)
from dcdr.plan import mirror_of
from dcdr.ports import Directory, Member, Scope
from dcdr.settle import FIRST_WAIT, LONGEST_WAIT, connector_of, settled, transactional_ids

GROUP_OFFSETS = "__consumer_offsets"
STALLED_SECONDS, PATIENCE = 3.0, 2.0
"""No progress for this long: the mirror's tasks are looked at, and restarted where they failed. After that twice as
long, and so on: each time it costs a mirror that is only slow some seconds."""


class CutActivities(Steps):
    """From the closed fence to the ledger entry."""

    def __init__(self, directory: Directory, book: LedgerBook) -> None:
        super().__init__(directory)
        self._book = book
        self._known_ids: tuple[str, list[str]] = ("", [])

    @activity.defn(name="transactions.fence")
    async def fence_transactions(self, step: StepInput) -> TransactionsResult:
        """List transactions still open on the source's users' topics and take their ids over: they abort at once.

        Nobody is waited for: a producer that is alive gets an error at its next call and starts over at the endpoint.
        Kafka's coordinator cannot refuse a late attempt here; what it would abort is a transaction that the closed
        fence already keeps from writing.
        """
        async with self.holding(step.operation, Standing.DRAINING) as scope:
            watch = Stopwatch()
            source, target = both(scope, step.operation)
            ids = await _fence_open(source, source.reserved_topics | target.reserved_topics)
            note = f"fenced {', '.join(ids)}" if ids else "none was open"
            return TransactionsResult(**watch.so_far(), fenced=ids, note=note, counts={"fenced": len(ids)})

    @activity.defn(name="cut.take")
    async def take(self, step: StepInput) -> TransactionsResult:
        """Wait until LEO = HW = LSO on every partition of the source, then write those ends down: the first look.

        A transaction that began behind the back of `transactions.fence` is fenced here.
        """
        async with self.holding(step.operation, Standing.DRAINING, lasting=False) as scope:
            watch = Stopwatch()
            source, target = both(scope, step.operation)
            topics = await self._mirrored(source, target)
            places = drain.partitions_of(topics)
            late: set[str] = set()

            async def free() -> None:
                # Begun by a request that was checked before the fence closed: nobody will end it in time.
                late.update(await _fence_open(source, source.reserved_topics | target.reserved_topics))

            ends = await settled(source, places, free)
            cut = drain.take_cut(step.operation, topics, ends, datetime.now(UTC))
            entry = await self._book.write(scope, cut)
            counts = {
                "topics": len(topics),
                "partitions": len(places),
                "offsets": sum(at.leo - at.start for at in ends.values()),
            }
            note = f"{counts['partitions']} partitions of {counts['topics']} topics settled"
            note += f"; fenced late: {', '.join(sorted(late))}" if late else ""
            return TransactionsResult(
                **watch.so_far(), entry=entry, fenced=tuple(sorted(late)), note=note, counts=counts
            )

    @activity.defn(name="drain.prove")
    async def prove(self, step: StepInput) -> StepResult:
        """Wait until a reader placed at M + 1 sees no visible record before the cut, on every partition.

        Raises: DeadlineError with what is left when the drain deadline (counted from the cut) has passed.
        """
        async with self.holding(step.operation, Standing.DRAINING, lasting=False) as scope:
            watch = Stopwatch()
            cut = await self._book.read(scope, step.operation, step.entry)
            # Asked for now, beside the wait: a question to Connect costs 7 to 100 ms, and the outage is under way.
            ids = asyncio.create_task(self._mirror_ids(scope, step.operation))
            try:
                looks, behind = await self._drained(scope, cut)
                with suppress(TransientError):  # `mirror.close` asks again
                    await ids
            finally:
                ids.cancel()
            note = f"proven at look {looks}"
            if behind:
                note += f"; {len(behind)} partitions lost records to retention before they were copied"
            counts = {"partitions": len(cut.rows), "looks": looks, "lost_to_retention": len(behind)}
            return StepResult(**watch.so_far(), entry=step.entry, note=note, counts=counts)

    async def _drained(self, scope: Scope, cut: Cut) -> tuple[int, list[str]]:
        source, target = both(scope, cut.operation)
        mirror = mirror_of(scope, cut.operation.source, cut.operation.target)
        deadline = cut.taken_at + scope.timing.drain_deadline
        counts: dict[str, int] = {}
        for row in cut.rows:
            counts[row.topic] = counts.get(row.topic, 0) + 1
        looks, wait, best, moved_at, patience = 0, FIRST_WAIT, -1, time.monotonic(), STALLED_SECONDS
        while True:
            looks += 1
            mirrored, there = await asyncio.gather(
                target.positions.current(mirror.source_connector), target.logs.topics()
            )
            missing = [name for name, n in counts.items() if name not in there or there[name].partitions < n]
            beyond = drain.beyond(cut, mirrored)
            now = await source.logs.ends(beyond) if beyond else {}
            ranges = drain.unproven(cut, mirrored, now)
            if ranges:
                seen = await source.logs.visible(ranges, limit=1)
                ranges = {p: r for p, r in ranges.items() if seen[p].records or not seen[p].complete}
            if not ranges and not missing:
                return looks, drain.lost_to_retention(cut, mirrored)
            left = sum(r.end - r.first for r in ranges.values()) + len(missing)
            activity.heartbeat({"partitions": len(ranges), "offsets": left, "missing_topics": missing})
            if best < 0 or left < best:
                best, moved_at = left, time.monotonic()
            if datetime.now(UTC) >= deadline:
                places = ", ".join(f"{p} from {r.first} to {r.end}" for p, r in sorted(ranges.items())[:5])
                raise DeadlineError(
                    f"not drained in {scope.timing.drain_deadline.total_seconds():.0f} s: {len(ranges)} partitions, "
                    f"at most {left} records left ({places or 'topics missing on the target: ' + ', '.join(missing)}). "
                    f"Look at connector {mirror.source_connector} on {target.name}"
                )
            if time.monotonic() - moved_at > patience:
                unknown = bool(missing) or any(place not in mirrored for place in ranges)
                await _revive(target, mirror.source_connector, reload=unknown)
                moved_at, patience = time.monotonic(), patience * PATIENCE
            await asyncio.sleep(wait)
            wait = min(wait * 1.5, LONGEST_WAIT)

    @activity.defn(name="mirror.close")
    async def close_mirror(self, step: StepInput) -> StepResult:
        """Close the mirror's gate on the target and fence its transactional ids, wait until the target stands still,
        compare, write the ledger.

        From here nothing of the retiring mirror can write to the target, whatever its tasks still believe. The gate is
        the lease's: whatever undoes the operation or takes the cut again opens it. In ACL mode there is none.

        Raises: MirrorContentError when the last records of both sides differ.
        """
        async with self.holding(step.operation, Standing.DRAINING) as scope:
            watch = Stopwatch()
            operation = step.operation
            cut = await self._book.read(scope, operation, step.entry)
            source, target = both(scope, operation)
            mirror = mirror_of(scope, operation.source, operation.target)
            places = [TopicPartition(row.topic, row.partition) for row in cut.rows]

            async def close() -> tuple[int, Mapping[TopicPartition, LogEnds]]:
                # The ids in both modes: what a task left open, it cannot end behind a closed gate.
                brokers, _ = await asyncio.gather(_shut_out(scope, operation), self._fence_mirror(scope, operation))
                return brokers, await settled(target, places)

            (brokers, ends), ours = await asyncio.gather(close(), source_tails(source, cut))
            topics, mirrored, theirs = await asyncio.gather(
                target.logs.topics(),
                target.positions.current(mirror.source_connector),
                target_tails(target, ends),
            )
            # What came and was copied after the cut is the last look's affair: another cut follows.
            late = drain.beyond(cut, mirrored)
            shown = await verdicts(
                target, ends, {place: tail for place, tail in ours.items() if place not in late}, theirs
            )
            ledger = drain.prove(cut, mirrored, topics, ends, shown)
            entry = await self._book.write(scope, ledger)
            records = sum(row.end - row.start for row in ledger.rows)
            by_verdict = Counter(shown.values())
            shut = f"; mirror refused by every broker, {brokers}" if brokers else ""
            compared = f"{by_verdict[Verdict.COMPARED]} partitions compared"
            return StepResult(
                **watch.so_far(),
                entry=entry,
                note=f"ledger {entry.digest[:12]} on both sides; {compared}{shut}",
                counts={"partitions": len(ledger.rows), "offsets": records}
                | ({"brokers": brokers} if brokers else {})
                | {verdict.value: by_verdict[verdict] for verdict in Verdict},
            )

    async def _fence_mirror(self, scope: Scope, operation: Operation) -> None:
        await scope.member(operation.target).transactions.fence(await self._mirror_ids(scope, operation))

    async def _mirror_ids(self, scope: Scope, operation: Operation) -> list[str]:
        """The retiring mirror's transactional ids, asked for once an operation and process."""
        if self._known_ids[0] != operation.id:
            mirror = mirror_of(scope, operation.source, operation.target)
            ids = await transactional_ids(scope.member(operation.target), mirror)
            self._known_ids = (operation.id, ids)
        return self._known_ids[1]

    async def _mirrored(self, source: Member, target: Member) -> dict[str, Topic]:
        topics = await source.logs.topics()
        return drain.mirrored_topics(topics, source.reserved_topics | target.reserved_topics)


def _users(topic: str, reserved: frozenset[str]) -> bool:
    """Whether a transaction on `topic` is a user's: one that only commits consumer offsets would still move a group."""
    return topic == GROUP_OFFSETS or not drain.is_internal(topic, reserved)


async def _fence_open(source: Member, reserved: frozenset[str]) -> tuple[str, ...]:
    """Take over the ids of users' open transactions. Returns: the ids."""
    ids = tuple(
        sorted(
            transaction.transactional_id
            for transaction in await source.transactions.open()
            if any(_users(place.topic, reserved) for place in transaction.partitions)
        )
    )
    if ids:
        await source.transactions.fence(ids)
    return ids


async def _shut_out(scope: Scope, operation: Operation) -> int:
    """Close the mirror's gate on the target by the record; how many brokers then refused the mirror's canary.

    0 in ACL mode, where the mirror has no gate. The record is read before anything is asked: an attempt that was
    overtaken by another cut cannot close what that cut needs open.
    """
    if not scope.gated:
        return 0
    cuts = (await read_lease(scope)).record.cuts
    await ask(scope, Intent(operation=operation, ask=Ask.CLOSE_MIRROR, cuts=cuts))
    fence = scope.member(operation.target).fence
    return await until_gates(fence.mirror_gates, Gate.CLOSED, f"mirror of {operation.target}")


async def _revive(target: Member, connector: str, *, reload: bool) -> None:
    """Restart what has failed; else, with `reload`, let the connector look for new topics at once."""
    found = await connector_of(target, connector)
    if not found.running:
        await target.connect.restart(connector, only_failed=True)
    elif reload:
        await target.connect.reload(connector)
