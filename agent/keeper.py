"""The lease as one data center's agent keeps it: beat by beat, renew, obey, look, take over.

A beat is one exchange with the store. What it proves counts from the moment it was sent; what went wrong in it proves
nothing and takes nothing away, because validity ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from dcdr import intent as intents
from dcdr import tenure
from dcdr.bounds import LeaseTiming
from dcdr.errors import ConflictError, DcdrError, PermanentError, SafetyError, TransientError
from dcdr.marker import Marker, Role
from dcdr.model import LeaseRecord, StoredLease
from dcdr.ports import IntentStore, LeaseStore
from dcdr.tenure import Tenure

log = logging.getLogger("dcdr.keeper")

UNSEEN = "its lease can be taken when none was seen for lease.wait; a switchover moves the lease of a side that lives"


class Keeper:
    """Keeps the lease of `scope` for `dc`. Of several agents of the holder one acts, the others stand by.

    `identity`: this agent's own, the same after a restart; a random one if not given.
    `automatic`: take the lease over when its holder shows no sign of life; `cool_down` after the last takeover at the
    earliest. `ready`: why this data center could not go on from what it holds, empty when it could. `floor`: the
    highest epoch this agent's disk remembers; `remember`: keeps an epoch there, before anything is told under it.
    `obeyed`: brokers obey what is told, and each remembers epochs too: no takeover before one of them was heard.
    `clock`: seconds, monotonic; `now`: aware, only for deadlines that people gave and for the cool-down.
    """

    def __init__(
        self,
        dc: str,
        scope: str,
        store: LeaseStore,
        wishes: IntentStore,
        timing: LeaseTiming,
        *,
        identity: str | None = None,
        automatic: bool = False,
        obeyed: bool = False,
        cool_down: timedelta = timedelta(0),
        ready: Callable[[], str] = lambda: "",
        floor: Callable[[], int] = lambda: 0,
        remember: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._scope, self._store, self._wishes = scope, store, wishes
        self._timing, self._automatic, self._floor, self._remember = timing, automatic, floor, remember
        self._obeyed, self._clock, self._now = obeyed, clock, now
        self._cool_down, self._ready = cool_down, ready
        self._asked = False
        self.holds_back = ""
        """Why this agent takes nothing over, be the holder gone or not; empty when nothing speaks against it."""
        self._known = Tenure(dc, identity or secrets.token_hex(8))
        self._heard: int | None = None
        self.beats = self.missed = 0
        """Exchanges with the store, and those that failed."""
        self._told = asyncio.Condition()
        self._wake = asyncio.Event()

    @property
    def known(self) -> Tenure:
        return self._known

    @property
    def _remembered(self) -> int:
        """The highest epoch that anybody of this data center remembers."""
        return max(self._heard or 0, self._floor())

    @property
    def speaks(self) -> bool:
        """Whether the brokers may be told anything: what is proven at this moment, or that the epoch is over.

        Else they go by what they were told last, which runs out by itself: by this agent, by the process before it, or
        by the one that acts while this one stands by. A NONE of an agent that only ran out of proof, because it was
        frozen or cut off, would close what that one holds open."""
        known = self._known
        if known.record is None or known.stands_by:
            return False
        return tenure.marker(known, self._clock(), self._timing).valid_s > 0 or known.record.epoch < self._remembered

    @property
    def acts(self) -> bool:
        """Whether this agent does not stand by. Of a side that does not hold the lease every agent looks."""
        return self._known.record is not None and not self._known.stands_by

    def marker(self) -> Marker:
        """What the brokers may be told at this moment: under an epoch that is over, nothing."""
        marker = tenure.marker(self._known, self._clock(), self._timing)
        return marker if marker.epoch >= self._remembered else Marker(marker.epoch, Role.NONE, 0.0)

    async def until_another(self, marker: Marker, seconds: float) -> Marker:
        """The marker as soon as its epoch or role is another one than `marker`'s, and may be told; as it stands after
        `seconds`."""

        def differs() -> bool:
            current = self.marker()
            return self.speaks and (current.epoch, current.role) != (marker.epoch, marker.role)

        async with self._told:
            with contextlib.suppress(TimeoutError):
                # A role that runs out is no news that anybody would wake us for: the brokers' own deadline ends it.
                await asyncio.wait_for(self._told.wait_for(differs), seconds)
        return self.marker()

    def heard_of(self, epoch: int) -> None:
        """A broker of this data center remembers `epoch`: no takeover goes below it."""
        self._heard = max(self._heard or 0, epoch)

    def wished(self) -> None:
        """Somebody wrote an intent: do not wait for the next beat's time."""
        self._wake.set()

    def changed(self, stored: StoredLease | None) -> None:
        """A watch showed `stored`: if that is news, do not wait either. The other side's sign of life is noted when it
        comes, not at the next look, so that a takeover does not wait for longer than it must."""
        if self.is_news(stored):
            self._wake.set()
        elif stored is not None and (self._known.stands_by or not self._known.holds):
            self._known = tenure.saw(self._known, stored, self._clock())

    def is_news(self, stored: StoredLease | None) -> bool:
        """One more sign of life is none: the holder hears its own, and would renew once more for each."""
        known = self._known.record
        return stored is None or known is None or tenure.renewal(known, stored.record.seq) != stored.record

    async def keep(self, fit: Callable[[], bool]) -> None:
        """Beat for ever: every renew period, and at once when there is news. `fit`: may this data center be active?"""
        while True:
            began = self._clock()
            self._wake.clear()
            self.beats += 1
            pressing = False
            try:
                pressing = await self.beat(fit())
            except TransientError as error:
                self.missed += 1
                log.warning("scope %s: no beat: %s", self._scope, error)
            except DcdrError as error:
                self.missed += 1
                log.error("scope %s: %s", self._scope, error)
            if pressing:
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.0, self._next_beat(began) - self._clock()))

    def _next_beat(self, began: float) -> float:
        """A renew period after the last one, or when the time of whoever is waited for is over, if that is sooner."""
        known = self._known
        over = known.since + (self._timing.silence if known.stands_by else self._timing.wait)
        waits = known.stands_by or ((self._automatic or self._asked) and not known.holds)
        soon = waits and over > self._clock()
        return min(began + self._timing.renew, over) if soon else began + self._timing.renew

    async def beat(self, fit: bool) -> bool:
        """One exchange. Returns: whether another one should follow at once.

        Raises: UnreachableError; NoRecordError; MisconfiguredError for a record that cannot be read; RolledBackError
        for one that would make us the holder under an epoch that is over.
        """
        known = self._known
        if known.stored is None or not self._willing(fit) or not tenure.may_act(known, self._clock(), self._timing):
            # Unfit, it does not renew: the lease runs out. It is looked at, to know when somebody else has it.
            await self._look(fit)
            return self._willing(fit) and tenure.may_act(self._known, self._clock(), self._timing)
        if known.stored.record.epoch < self._remembered:
            await self._look(fit)
            raise RolledBackError(self._scope, known.stored.record.epoch, self._remembered)
        wanted = await self._wanted(known.stored.record)
        try:
            await self._swap(known.stored, wanted)
        except ConflictError:
            await self._look(fit)
            return True
        return False

    def _willing(self, fit: bool) -> bool:
        """Whether the lease may be kept: for a Kafka that is well, or one that people work on."""
        record = self._known.record
        return fit or (record is not None and tenure.in_maintenance(record, self._now()))

    async def _look(self, fit: bool) -> None:
        sent = self._clock()
        stored = await self._store.read(self._scope)
        if stored is None:
            raise NoRecordError(self._scope)
        await self._learn(tenure.read(self._known, stored, sent, self._clock()))
        if await self._may_take_over(stored.record, fit):
            unseen = self._clock() - self._known.since
            taken = tenure.takeover(stored.record, self._known.dc, self._remembered, self._now(), unseen)
            with contextlib.suppress(ConflictError):  # a sign of life, or another agent of this data center
                await self._swap(stored, taken)
                log.warning("scope %s: %s took the lease over, epoch %d", self._scope, self._known.dc, taken.epoch)

    async def _may_take_over(self, record: LeaseRecord, fit: bool) -> bool:
        """Whether the time has come and nothing holds this agent back; what does is said once."""
        self._asked = False
        if self._known.holds:
            self.holds_back = ""
            return False
        over, why = tenure.may_take_over(self._known, self._clock(), self._timing), self._held_back(record, fit)
        if why or not over:
            wish = (await self._wishes.read(self._scope)).intent
            self._asked = intents.wants_takeover(record, wish, self._known.dc, self._now())
        if self._asked:
            why = self._held_back(record, fit)
        said = why or (f"{record.holder} still shows signs of life: {UNSEEN}" if self._asked and not over else "")
        if said != self.holds_back:
            log.info("scope %s: a takeover by %s: %s", self._scope, self._known.dc, said or "nothing speaks against it")
        self.holds_back = said
        return over and not why

    def _held_back(self, record: LeaseRecord, fit: bool) -> str:
        dc = self._known.dc
        if why := tenure.held_back(record, dc, self._now(), self._cool_down, asked=self._asked):
            return why
        if not (self._automatic or self._asked):
            return f"{dc} takes nothing over by itself: lease.automatic is off; a person may ask for it"
        if not fit:
            return f"the Kafka of {dc} is not well, or not for long enough"
        if self._obeyed and self._heard is None:
            return f"no broker of {dc} has told yet which epoch it remembers"
        return self._ready()

    async def _wanted(self, record: LeaseRecord) -> LeaseRecord:
        """The record after this beat: the intent's, the one past a deadline, or another sign of life."""
        wish = (await self._wishes.read(self._scope)).intent
        if wish is not None:
            try:
                obeyed = intents.obey(record, wish)
            except (PermanentError, SafetyError, ValueError) as error:
                log.info("scope %s: not obeyed: %s", self._scope, error)
            else:
                if obeyed != record:
                    return obeyed
        return intents.overdue(record, self._now()) or tenure.renewal(record)

    async def _swap(self, expected: StoredLease, record: LeaseRecord) -> None:
        sent = self._clock()
        stored = await self._store.swap(expected, tenure.signed(self._known, record))
        await self._learn(tenure.committed(self._known, stored, sent, self._clock()))

    async def _learn(self, known: Tenure) -> None:
        learnt, before, spoke, acted = self._clock(), self.marker(), self.speaks, self.acts
        if known.record is not None:
            self._remember(known.record.epoch)
        self._known = known
        if acted != self.acts:
            log.info(
                "scope %s: %s", self._scope, "acts" if self.acts else f"stands by, another agent of {known.dc} acts"
            )
        after = self.marker()
        if self.speaks and ((before.epoch, before.role) != (after.epoch, after.role) or not spoke):
            async with self._told:
                self._told.notify_all()
            # When the store's answer was there: beside the gates' own trace, this tells how long the brokers took.
            log.info(
                "scope %s: brokers of %s are told %s, epoch %d, mono_ns=%d",
                self._scope, known.dc, after.role.value, after.epoch, round(learnt * 1e9),
            )  # fmt: skip


class NoRecordError(PermanentError):
    """There is no lease record, and none is ever created by itself."""

    def __init__(self, scope: str) -> None:
        super().__init__(
            f"scope {scope} has no lease record. If this is a new estate, create it with `dcdr lease bootstrap "
            "--epoch-floor N`; if there was one, find out who removed it first, and give the highest epoch ever used"
        )


class RolledBackError(SafetyError):
    """The store shows an epoch that is over: it was restored from a backup, or somebody wrote the record."""

    def __init__(self, scope: str, found: int, remembered: int) -> None:
        super().__init__(
            f"the lease of {scope} says epoch {found}, but {remembered} was seen here: the store was rolled back, or "
            "the record was written by hand. Nobody is told to open. Find out which side was active last; then write "
            f"the record anew with `dcdr lease bootstrap --replace --epoch-floor {remembered}`"
        )
