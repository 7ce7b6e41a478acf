"""Look: the preflight before, the verification after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress

from temporalio import activity

from activities.step import Steps, Stopwatch, both, connector_of, expel, read_lease
from dcdr import drain
from dcdr.book import LedgerBook
from dcdr.errors import InvalidRequestError, TransientError
from dcdr.lease import Standing
from dcdr.model import Gate, Mirror, StepInput, SwitchoverRequest, TopicPartition, VerifyResult
from dcdr.plan import Estate, MemberView, Preflight, Severity, check_request, examine, mirror_of
from dcdr.ports import Directory, Member, Scope

RETRY_SECONDS, RETRY_PAUSE = 20.0, 1.0
"""What may heal by itself (a rebalance, a topic just created) is looked at again for this long before it is refused."""

TAIL_ROWS = 100
"""Of a tail, what a report lists: Temporal's payloads are bounded, and the step's counts have all."""


class StatusActivities(Steps):
    """Nothing here changes anything, with two exceptions: a mirror that has not seen a new topic is told to look, and
    members that stayed on a standby where groups are frozen are put out of their groups."""

    def __init__(self, directory: Directory, book: LedgerBook) -> None:
        super().__init__(directory)
        self._book = book

    @activity.defn(name="status.preflight")
    async def preflight(self, request: SwitchoverRequest) -> Preflight:
        """Everything that must hold before a switchover to `request.target` may start."""
        scope = self._directory.scope(request.scope)
        check_request(scope, request.target)
        give_up, nudged = time.monotonic() + RETRY_SECONDS, False
        while True:
            estate = await observe(scope, request.target)
            found = examine(scope, request.target, estate)
            healing = [f for f in found.findings if f.severity is Severity.RETRY]
            final = any(f.severity is Severity.BLOCKER for f in found.findings)
            if not healing or final or time.monotonic() >= give_up:
                return found
            activity.heartbeat([str(f) for f in healing])
            if not nudged and any(f.check == "topics" for f in healing):
                nudged = True
                await self._nudge(scope, request.target)
            if any(f.check == "groups" for f in healing) and _frozen(estate.members[request.target]):
                with suppress(TransientError):  # the next look has it
                    await expel(scope, request.target)
            await asyncio.sleep(RETRY_PAUSE)

    async def _nudge(self, scope: Scope, target: str) -> None:
        """Have the mirror look for the source's topics now; by itself it does so every 30 s or so.

        No answer, as from a mirror that cannot reach the source, is not our finding: the next look has it.
        """
        source = next(name for name in scope.members if name != target)
        with suppress(TransientError):
            await scope.member(target).connect.reload(mirror_of(scope, source, target).source_connector)

    @activity.defn(name="status.mirrors")
    async def mirrors(self, request: SwitchoverRequest) -> tuple[Mirror, Mirror]:
        """The retiring mirror and the standing one of a switchover to `request.target`."""
        scope = self._directory.scope(request.scope)
        check_request(scope, request.target)
        source = next(name for name in scope.members if name != request.target)
        return mirror_of(scope, source, request.target), mirror_of(scope, request.target, source)

    @activity.defn(name="source.verify")
    async def verify(self, step: StepInput) -> VerifyResult:
        """Look at the old active once more: what it took after the cut is a tail, never silent."""
        async with self.holding(step.operation, Standing.MOVED) as scope:
            watch = Stopwatch()
            source, target = both(scope, step.operation)
            standing = mirror_of(scope, step.operation.target, step.operation.source)
            if not (await connector_of(source, standing.source_connector)).stopped:
                note = f"the mirror {standing} runs already: what it writes cannot be told from a tail by offsets"
                return VerifyResult(**watch.so_far(), note=note)
            ledger = await self._book.read(scope, step.operation, step.entry)
            topics = drain.mirrored_topics(await source.logs.topics(), source.reserved_topics | target.reserved_topics)
            ends = await source.logs.ends(drain.partitions_of(topics))
            found = drain.tail(ledger, topics, ends)
            records = sum(row.end - row.first for row in found)
            # By the ends, not by the producers' state: that keeps whoever wrote until the fence closed, for a day.
            writing = await source.logs.active_producers([TopicPartition(r.topic, r.partition) for r in found])
            note = (
                f"{records} offsets behind the cut on {len(found)} partitions"
                if found
                else "nothing came after the cut"
            )
            producers = max(writing.values(), default=0)
            return VerifyResult(
                **watch.so_far(),
                tail=found[:TAIL_ROWS],
                producers=producers,
                note=note,
                counts={"tail": records, "tail_partitions": len(found)},
            )


async def observe(scope: Scope, target: str) -> Estate:
    """One look at everything preflight judges, all questions side by side.

    Raises: InvalidRequestError for an unknown target; UnreachableError if a part of the estate does not answer.
    """
    if target not in scope.members:
        raise InvalidRequestError(f"{scope.name} has no data center {target!r}")
    source = next(name for name in scope.members if name != target)
    stored, endpoint, old, new, transactions = await asyncio.gather(
        read_lease(scope),
        scope.endpoint.read(),
        _view(scope.member(source), scope.gated),
        _view(scope.member(target), scope.gated),
        scope.member(source).transactions.open(),
    )
    topics = drain.mirrored_topics(old.topics, old.reserved | new.reserved)
    retiring = mirror_of(scope, source, target)
    # The positions first: read after the ends, they could be ahead of them without anything being wrong.
    mirrored = await scope.member(target).positions.current(retiring.source_connector)
    ends = await scope.member(source).logs.ends(drain.partitions_of(topics))
    return Estate(
        lease=stored.record,
        endpoint=endpoint,
        members={source: old, target: new},
        mirrored=mirrored,
        ends=ends,
        open_transactions=len(transactions),
    )


def _frozen(view: MemberView) -> bool:
    """Whether no member that is put out can come back: the rule stands, and every broker obeys it."""
    return view.rules.groups_denied and set(view.group_gates.values()) == {Gate.CLOSED}


async def _view(member: Member, gated: bool) -> MemberView:
    rules, brokers, topics, connectors, groups = await asyncio.gather(
        member.fence.rules(),
        member.logs.brokers(),
        member.logs.topics(configs=True),
        member.connect.connectors(),
        member.groups.groups(),
    )
    user_gates: Mapping[int, Gate] = {}
    group_gates: Mapping[int, Gate] = {}
    if rules.authorizer:  # without one the canary proves nothing, and preflight says so by itself
        user_gates, group_gates = await asyncio.gather(member.fence.users_gates(), member.fence.group_gates())
    mirror_gates = await member.fence.mirror_gates() if gated and rules.authorizer else None
    return MemberView(
        rules=rules,
        brokers=brokers,
        user_gates=user_gates,
        group_gates=group_gates,
        mirror_gates=mirror_gates,
        topics=topics,
        connectors=connectors,
        groups=groups,
        reserved=member.reserved_topics,
    )
