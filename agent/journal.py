"""The watermark journal: while its data center is the standby, the agent looks at both sides of the mirror every few
seconds and keeps what it saw beside the standby, so that a dark source leaves a number behind and not a guess.

A look that fails writes nothing: the last one stays, with its time. One key in a compacted topic, so it never grows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

from agent.finisher import Estate
from agent.keeper import Keeper
from dcdr import drain, fork, loss, settle
from dcdr.errors import DcdrError, TransientError, UnreachableError
from dcdr.loss import JournalKeeper, Lag, Look
from dcdr.model import LeaseRecord, OffsetRange, Phase, TopicPartition, Watermarks
from dcdr.plan import mirror_of
from dcdr.ports import Member, Scope

log = logging.getLogger("dcdr.journal")

SOURCE_SECONDS = 4.0
"""For the source to answer one look across the link; then it counts as dark, and the last look stays."""
READ_AT_MOST = 200
"""Partitions a look that are read for whether anything is left to copy: idle ones that end with a marker."""
CONNECTOR_SECONDS = 60.0
"""How often Connect is asked how many tasks the mirror may have."""


class Journal:
    """Keeps the journal of the mirror towards `dc` while `keeper` shows that another data center is active.

    `every`: between two looks. `now`: aware; `clock`: seconds, monotonic.
    """

    def __init__(
        self,
        dc: str,
        keeper: Keeper,
        estate: Estate,
        every: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dc, self._keeper, self._estate, self._every = dc, keeper, estate, every
        self._now, self._clock = now, clock
        self._connected = AsyncExitStack()
        self._scope: Scope | None = None
        self._looks: JournalKeeper | None = None
        self._there: frozenset[str] = frozenset()
        self._asked = float("-inf")
        self.last: Watermarks | None = None
        """As it was written last, or found; None while this data center is not the standby."""

    async def watch(self) -> None:
        """Look for ever."""
        said = ""
        try:
            while True:
                began = self._clock()
                try:
                    await self.look()
                    said = ""
                except Exception as error:  # whatever it is, the lease is kept beside it
                    if str(error) != said:  # a dark source is dark for long
                        defect = not isinstance(error, DcdrError)
                        log.warning("%s: the journal stays as it is: %s", self._dc, error, exc_info=defect)
                        said = str(error)
                await asyncio.sleep(max(0.0, began + self._every.total_seconds() - self._clock()))
        finally:
            await self._connected.aclose()

    async def look(self) -> None:
        """One look, written down; nothing where this data center is not the standby.

        Raises: DcdrError when one side did not answer; what was written before stays.
        """
        record = self._keeper.known.record
        if record is None or not watched(record, self._dc):
            await self._leave()
            return
        if self._scope is None:
            self._scope = await self._connected.enter_async_context(self._estate())
        scope, target, source = self._scope, self._scope.member(self._dc), self._scope.member(record.holder)
        looks = await self._looks_of(scope, record)
        mirror = mirror_of(scope, source.name, target.name)
        reserved = source.reserved_topics | target.reserved_topics
        mirrored = await target.positions.current(mirror.source_connector)  # before the ends, or they may be older
        self._there = frozenset(await target.logs.topics())
        await self._ask_connect(looks, target, mirror.source_connector)
        try:
            async with asyncio.timeout(SOURCE_SECONDS):
                at, began = self._now(), self._clock()
                topics = drain.mirrored_topics(await source.logs.topics(), reserved)
                ends = await source.logs.ends(drain.partitions_of(topics))
                look = Look(
                    at=at,
                    began=began,
                    ended=self._clock(),
                    topic_ids={name: topic.topic_id for name, topic in topics.items()},
                    ends=ends,
                    mirrored={place: m for place, m in mirrored.items() if place in ends},
                )
                firsts = await _read(source, looks.doubtful(look))
        except TimeoutError as error:
            raise UnreachableError(f"{source.name} did not answer within {SOURCE_SECONDS:g} s") from error
        journal = looks.add(look, firsts)
        await target.ledger.put(loss.journal_key(scope.name, self._dc), loss.pack(journal))
        self.last = journal

    def reason(self) -> str:
        """Why this data center must not take over now, by what the mirror has copied; "" when it may."""
        return loss.ready(self.last, self._there, self._now())

    def lag(self) -> Lag | None:
        """How far the mirror is behind; None while this data center is not the standby, or has not looked."""
        return None if self.last is None else loss.lag(self.last, self._now())

    async def _leave(self) -> None:
        record = self._keeper.known.record
        if record is not None and record.holder == self._dc and record.phase is not Phase.ACQUIRED:
            self.last = self._looks = None
        if self._scope is not None:
            self._scope = None
            await self._connected.aclose()

    async def _looks_of(self, scope: Scope, record: LeaseRecord) -> JournalKeeper:
        """Of this tenure; one that was begun by an earlier process is continued."""
        known = self._looks
        if known is None or (known.source, known.epoch) != (record.holder, record.epoch):
            self.last = None
            before = await fork.read_journal(scope, self._dc)
            known = JournalKeeper(scope.name, record.holder, self._dc, record.epoch, self._every, before)
            self._looks, self.last = known, known.before
        return known

    async def _ask_connect(self, looks: JournalKeeper, target: Member, name: str) -> None:
        if self._clock() < self._asked + CONNECTOR_SECONDS:
            return
        self._asked = self._clock()
        try:
            found = await settle.connector_of(target, name)
        except TransientError as error:
            log.info("%s: %s", self._dc, error)
            return
        looks.tasks = settle.tasks_of(found)
        looks.exactly_once = found.config.get(fork.EXACTLY_ONCE) == "required"


def watched(record: LeaseRecord, dc: str) -> bool:
    """Whether the mirror towards `dc` is at work by this record, so that there is something to keep a journal of."""
    return record.holder != dc and record.phase is not Phase.ACQUIRED and record.behind != dc


async def _read(source: Member, ranges: dict[TopicPartition, OffsetRange]) -> dict[TopicPartition, int | None]:
    """The first record that a mirror would copy of each range, None where there is none; some of `ranges`."""
    some = dict(sorted(ranges.items())[:READ_AT_MOST])
    if not some:
        return {}
    return {
        place: found.records[0].offset if found.records else None
        for place, found in (await source.logs.visible(some, 1)).items()
        if found.records or found.complete
    }
