"""What a failover loses: how far the mirror was, how fast the source grew, and whether that may be lost unasked.

Pure. Offsets are counted, so markers, aborted and compacted records count like others: every number here is "at most".
The arithmetic, and what it rests on, is in docs/reference/failover.md.
"""

from __future__ import annotations

import json
import math
import zlib
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from dcdr.bounds import LeaseTiming
from dcdr.errors import MisconfiguredError
from dcdr.model import (
    FailoverMode,
    FailoverPolicy,
    LeaseRecord,
    LogEnds,
    LossAcceptance,
    LossBound,
    OffsetRange,
    TopicPartition,
    Watermarks,
)

PEAK_WINDOW = timedelta(minutes=10)
"""How far back the highest rate is looked for; and so, how long a silent journal is believed: nobody knows how fast the
source grew in a longer gap than the rate was watched for."""
PENDING_LOOKS = 16
"""Earlier looks remembered until the mirror has passed them; when they are more, every second one is forgotten."""
HOLE_FACTOR = 4.0
"""A gap of so many journal periods between two looks is a hole, not a look's length."""


class Lag(NamedTuple):
    """How far the mirror is behind: `records` as of the last look, and the age of the first thing that may be missing.

    `seconds` grows while nobody looks. None: it has not been seen caught up.
    """

    records: int
    seconds: float | None


@dataclass(frozen=True)
class Look:
    """One look at both sides. `mirrored` (M) was read *before* the source was asked for `ends`.

    `at`: wall clock, before the ends were asked for. `began`, `ended`: seconds, monotonic, around the asking.
    """

    at: datetime
    began: float
    ended: float
    topic_ids: Mapping[str, str]
    ends: Mapping[TopicPartition, LogEnds]
    mirrored: Mapping[TopicPartition, int]


@dataclass
class _Pending:
    """An earlier look's ends that the mirror has not passed yet."""

    at: datetime
    short: dict[TopicPartition, int]


@dataclass
class JournalKeeper:
    """Looks become Watermarks. `before`: the journal as it was found, for a process that has just started."""

    scope: str
    source: str
    target: str
    epoch: int
    every: timedelta
    before: Watermarks | None = None
    tasks: int = 0
    exactly_once: bool = False
    _last: Look | None = None
    _ids: dict[str, str] = field(default_factory=dict)
    _unread: dict[TopicPartition, tuple[int, int]] = field(default_factory=dict)
    """(M when it was looked at, -1 for none; where the first record beyond it may stand)"""
    _looked: dict[TopicPartition, tuple[int, int]] = field(default_factory=dict)
    _since: datetime | None = None
    _pending: list[_Pending] = field(default_factory=list)
    _rates: deque[tuple[float, float]] = field(default_factory=deque)
    _spans: deque[tuple[float, float]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        mine = (self.scope, self.source, self.target, self.epoch)
        old = self.before
        if old is None or (old.scope, old.source, old.target, old.epoch) != mine:
            self.before = None
            return
        self._since = old.since
        self._ids, mirrored = dict(old.topic_ids), _flat(old.mirrored)
        self._unread = {place: (mirrored.get(place, -1), first) for place, first in _flat(old.unread).items()}
        self.tasks, self.exactly_once = self.tasks or old.tasks, self.exactly_once or old.exactly_once

    def doubtful(self, look: Look) -> dict[TopicPartition, OffsetRange]:
        """Ranges of the source that may hold nothing to copy: neither end nor M moved since the last look. Whoever
        reads them tells `add` what was found."""
        self._forget(look)
        if self._last is None:
            return {}
        found = {}
        for place, at in look.ends.items():
            old, m = self._last.ends.get(place), look.mirrored.get(place)
            if old is None or old.leo != at.leo or self._last.mirrored.get(place) != m or not at.settled:
                continue
            first = self._position(place, at, m)
            if first < at.leo and self._looked.get(place) != (first, at.leo):
                found[place] = OffsetRange(first, at.leo)
        return found

    def add(self, look: Look, firsts: Mapping[TopicPartition, int | None] | None = None) -> Watermarks:
        """The journal after `look`. `firsts`: of ranges that were `doubtful`, the first record found, None for none."""
        recreated = self._forget(look)
        for place, first in (firsts or {}).items():
            end = look.ends[place].leo
            found = end if first is None else first
            self._unread[place], self._looked[place] = (look.mirrored.get(place, -1), found), (found, end)
        if self._last is not None and look.began > self._last.began:
            self._measure(self._last, look)
        positions = {place: self._position(place, at, look.mirrored.get(place)) for place, at in look.ends.items()}
        self._catch_up(look, positions, recreated)
        self._last, self._ids = look, dict(look.topic_ids)
        mirrored = {place: m for place, m in look.mirrored.items() if place in look.ends}
        unread = {
            place: at
            for place, at in positions.items()
            if at != mirrored.get(place, -1) + 1 and mirrored.get(place, -1) < look.ends[place].leo
        }
        return Watermarks(
            scope=self.scope,
            source=self.source,
            target=self.target,
            epoch=self.epoch,
            taken_at=look.at,
            topic_ids=dict(look.topic_ids),
            ends=_nested({place: at.leo for place, at in look.ends.items()}),
            mirrored=_nested(mirrored),
            unread=_nested(unread),
            since=self._since,
            peak_per_s=self._peak(look),
            every_s=self._longest(),
            tasks=self.tasks,
            exactly_once=self.exactly_once,
        )

    def _position(self, place: TopicPartition, at: LogEnds, m: int | None) -> int:
        """Where the first record that the target lacks may stand. An M at or beyond the end is not this log's: M was
        read first."""
        then, known = self._unread.get(place, (-1, 0))
        if then > (-1 if m is None else m):
            known = 0  # the mirror was set back
        if m is None:
            return min(max(at.start, known), at.leo)
        if m >= at.leo:
            return at.start
        return min(max(m + 1, at.start, known), at.leo)

    def _forget(self, look: Look) -> set[str]:
        """Topics that were made anew since the last look; what was found in their old logs says nothing."""
        recreated = {name for name, known in look.topic_ids.items() if self._ids.get(name, known) != known}
        for found in (self._unread, self._looked):
            for place in [place for place in found if place.topic in recreated or place not in look.ends]:
                found.pop(place)
        return recreated

    def _measure(self, last: Look, look: Look) -> None:
        grown = 0
        for place, at in look.ends.items():
            old = last.ends.get(place)
            same = old is not None and last.topic_ids.get(place.topic) == look.topic_ids.get(place.topic)
            grown += max(0, at.leo - old.leo) if old is not None and same else at.leo
        apart = look.began - last.began
        # Each end was seen somewhere between a look's beginning and its end, so the growth may have taken less time.
        least = max(look.began - last.ended, apart / 2)
        self._rates.append((look.began, grown / least))
        if apart <= HOLE_FACTOR * self.every.total_seconds():
            self._spans.append((look.began, apart))
        oldest = look.began - PEAK_WINDOW.total_seconds()
        for kept in (self._rates, self._spans):
            while kept and kept[0][0] < oldest:
                kept.popleft()

    def _peak(self, look: Look) -> float | None:
        seen = [rate for _, rate in self._rates]
        old = self.before
        if old is not None and old.peak_per_s is not None and look.at - old.taken_at <= PEAK_WINDOW:
            seen.append(old.peak_per_s)
        return max(seen, default=None)

    def _longest(self) -> float:
        return max([self.every.total_seconds(), *(span for _, span in self._spans)])

    def _catch_up(self, look: Look, positions: Mapping[TopicPartition, int], recreated: Collection[str]) -> None:
        """The latest look of which the mirror has passed every end by now is how far it is caught up."""
        if self._last is not None and _set_back(self._last.mirrored, look.mirrored, look.ends):
            # Whoever sets a mirror back may have emptied the target before: what was copied once proves nothing.
            self._since, self._pending = None, []
        self._pending.append(_Pending(look.at, {place: at.leo for place, at in look.ends.items() if at.leo}))
        passed = -1
        for number, pending in enumerate(self._pending):
            # A topic that was deleted or made anew holds nothing of what was accepted then.
            pending.short = {
                place: end
                for place, end in pending.short.items()
                if place in positions
                and positions[place] < end
                and (pending.at == look.at or place.topic not in recreated)
            }
            if not pending.short:
                passed = number
        if passed >= 0:
            self._since = self._pending[passed].at
            del self._pending[: passed + 1]
        if len(self._pending) > PENDING_LOOKS:
            del self._pending[1:-1:2]


def journal_key(scope: str, target: str) -> str:
    """Under which the standby `target` keeps its journal in its ledger topic."""
    return f"{scope}/journal/{target}"


def pack(journal: Watermarks) -> bytes:
    """The journal as it is stored: M as its distance to the end, which is mostly 0, then JSON, then zlib."""
    shape = journal.model_dump(mode="json")
    shape["mirrored"] = {
        topic: {number: journal.ends[topic][number] - 1 - m for number, m in rows.items()}
        for topic, rows in journal.mirrored.items()
    }
    return zlib.compress(json.dumps(shape, separators=(",", ":")).encode(), 6)


def unpack(body: bytes) -> Watermarks:
    """What `pack` wrote. Raises: MisconfiguredError for anything else."""
    try:
        shape: dict[str, Any] = json.loads(zlib.decompress(body))
        shape["mirrored"] = {
            topic: {number: shape["ends"][topic][number] - 1 - behind for number, behind in rows.items()}
            for topic, rows in shape["mirrored"].items()
        }
        return Watermarks.model_validate(shape)
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MisconfiguredError(f"the journal cannot be read ({error}); the standby's agent writes it anew") from error


def until(record: LeaseRecord, timing: LeaseTiming) -> datetime | None:
    """The moment after which the old holder cannot have accepted anything, by the taker's clock. None: nobody noted
    when the lease was taken."""
    if record.acquired_at is None or record.acquired_after_s is None:
        return None
    last_sign = record.acquired_at - timedelta(seconds=record.acquired_after_s)
    believed = timing.validity * (1 + timing.clock_rate_error) + timing.pause
    return last_sign + timedelta(seconds=believed)


def bound(
    journal: Watermarks | None,
    mirrored: Mapping[TopicPartition, int],
    record: LeaseRecord,
    timing: LeaseTiming,
    policy: FailoverPolicy,
) -> LossBound:
    """What is lost at most when `record.holder` opens now. `mirrored`: M as of the fork.

    `records` is None where nobody knows, and `why` says which of its grounds is missing.
    """
    over = until(record, timing)
    if journal is None:
        return LossBound(records=None, until=over, why="there is no journal: nobody saw how far the source was")
    if stranger := _stranger(journal, record):
        return LossBound(records=None, until=over, why=stranger)
    known = sum(_missing(journal, mirrored).values())
    since = journal.since if known else journal.taken_at
    if _set_back(copied := _flat(journal.mirrored), mirrored, copied):
        since = None
    seen = LossBound(records=None, known=known, since=since, until=over, journal_at=journal.taken_at)
    if over is None:
        return _but(seen, "the lease does not say when it was taken over")
    if journal.peak_per_s is None:
        return _but(seen, "the journal holds one look only: nobody knows how fast the source grows")
    gap = max(0.0, (over - journal.taken_at).total_seconds())
    if gap > PEAK_WINDOW.total_seconds():
        return _but(
            seen,
            f"the journal's last look is {gap:.0f} s older than the moment the source was closed; a rate that was "
            f"watched for {PEAK_WINDOW.total_seconds():.0f} s says nothing about so long a gap",
        )
    # What came in bursts came in whole looks' worth: a part of one counts as a whole.
    seconds = math.ceil(gap / journal.every_s) * journal.every_s
    rate = journal.peak_per_s * policy.rate_factor
    assumed = math.ceil(rate * seconds)
    why = (
        f"{known} offsets seen beyond the mirror at {journal.taken_at:%H:%M:%S} UTC; then {seconds:.0f} s "
        f"at {rate:.0f} a second ({policy.rate_factor:g} times the highest rate seen)"
    )
    silent = gap - timing.validity * (1 + timing.clock_rate_error) - timing.pause
    if silent > timing.renew + HOLE_FACTOR * journal.every_s:
        why += f"; the journal had stopped {silent:.0f} s before the source's last sign of life"
    return seen.model_copy(update={"records": known + assumed, "assumed": assumed, "why": why})


def _but(bound: LossBound, why: str) -> LossBound:
    return bound.model_copy(update={"why": why})


def hold(bound: LossBound, policy: FailoverPolicy, gated: bool) -> str:
    """Why a failover with this `bound` must not go on by itself; "" when it may. Not `gated`: the fence of the lost
    side are rules (ACL mode), which do not close a side that is only cut off."""
    told = describe(bound)
    if policy.mode is FailoverMode.NEVER:
        return f"failover.mode is never: a person decides every failover. {told}"
    if policy.mode is FailoverMode.ASK:
        return f"failover.mode is ask. {told}"
    if not gated and not policy.even_behind_acls:
        return (
            "the fence is ACLs, which do not close a side that is only cut off: its users may still be writing, and "
            f"the bound counts only while it is dead. {told}"
        )
    if bound.records is None:
        return f"how much would be lost is not known: {bound.why or 'nobody said why'}. {told}"
    if policy.max_lost_records is not None and bound.records > policy.max_lost_records:
        return f"above the budget of {policy.max_lost_records} records (failover.max_lost_records). {told}"
    if policy.max_lost_seconds is not None:
        if bound.seconds is None:
            return f"the mirror was never seen caught up, so nobody knows how many seconds would be lost. {told}"
        if bound.seconds > policy.max_lost_seconds:
            return f"above the budget of {policy.max_lost_seconds:g} s (failover.max_lost_seconds). {told}"
    return ""


def describe(bound: LossBound) -> str:
    """The bound in one sentence for people."""
    seconds = "" if bound.seconds is None else f", of {bound.seconds:.0f} s"
    since = "" if bound.since is None else f" accepted after {bound.since:%Y-%m-%d %H:%M:%S} UTC"
    if bound.records is None:
        return f"Lost would be an unknown number of records{since}{seconds} ({bound.known} of them seen)"
    return (
        f"Lost would be at most {bound.records} records{since}{seconds} ({bound.known} seen, {bound.assumed} assumed)"
    )


def accepts(acceptance: LossAcceptance, bound: LossBound) -> str:
    """ "" when `acceptance` covers `bound`, else why it does not and what to send. Whether it was used before and how
    old it is, its keeper knows."""
    if bound.records is None:
        if acceptance.records is None:
            return ""
        return (
            f"the bound is not known ({bound.why}), so no number covers it: accept with records null to "
            "lose an unknown number"
        )
    if acceptance.records is None:
        return f"the bound is known by now: {bound.records} records. Accept that number"
    if acceptance.records < bound.records:
        return f"the bound is {bound.records} records, more than the {acceptance.records} accepted: accept it as it is"
    return ""


def lag(journal: Watermarks, now: datetime) -> Lag:
    """How far the mirror is behind, honestly: by what is not on the target, not by how fast it copies."""
    records = sum(_missing(journal, _flat(journal.mirrored)).values())
    seconds = None if journal.since is None else max(0.0, (now - journal.since).total_seconds())
    return Lag(records, seconds)


def ready(journal: Watermarks | None, topics_there: Collection[str], now: datetime) -> str:
    """Why the standby must not take over, by what its journal says; "" when it may. `topics_there`: on the target."""
    if journal is None:
        return (
            "there is no journal: what a failover would lose is not known. Is the agent of the standby running, and "
            "does it reach the source? It writes one as soon as it has seen both"
        )
    if journal.since is None:
        behind = lag(journal, now).records
        return (
            f"the mirror from {journal.source} was never seen caught up ({behind} offsets behind): see its tasks in "
            f"{journal.target}'s Connect, and wait until it has caught up once"
        )
    there = set(topics_there)
    if missing := sorted(topic for topic in journal.ends if topic not in there):
        return (
            f"{journal.target} lacks {len(missing)} topics of {journal.source} ({', '.join(missing[:5])}): the mirror "
            "makes them at its next look for new topics; if it does not, see its task's trace in Connect"
        )
    return ""


def _stranger(journal: Watermarks, record: LeaseRecord) -> str:
    """Why `journal` is not about the tenure that `record` ended; "" when it is."""
    if journal.scope != record.scope or journal.target != record.holder:
        return (
            f"the journal is about the mirror {journal.source} -> {journal.target} of {journal.scope}, and "
            f"{record.holder} took over in {record.scope}"
        )
    if journal.epoch != record.epoch - 1:
        return (
            f"the journal is of epoch {journal.epoch}, the tenure that ended was epoch {record.epoch - 1}: nobody "
            "watched the source in it"
        )
    return ""


def _set_back(
    before: Mapping[TopicPartition, int], mirrored: Mapping[TopicPartition, int], still: Collection[TopicPartition]
) -> bool:
    """Whether an M lies below what it was, or is gone although its partition is among `still`."""
    return any(mirrored[place] < m if place in mirrored else place in still for place, m in before.items())


def _missing(journal: Watermarks, mirrored: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    """Offsets that the journal saw on the source and that are not on the target as of `mirrored`, where there are."""
    found = {}
    for topic, rows in journal.ends.items():
        theirs, unread = journal.mirrored.get(topic, {}), journal.unread.get(topic, {})
        for number, end in rows.items():
            m, then, checked = mirrored.get(TopicPartition(topic, number)), theirs.get(number), unread.get(number, 0)
            if m is not None and m == then and m >= end:
                # At the journal's look M lay beyond the end already, and M was read first: it is another log's.
                m, checked = None, 0
            if then is not None and (m is None or m < then):
                checked = 0  # the mirror was set back: what was checked lay beyond the M of then
            position = checked if m is None else max(m + 1, checked)
            if position < end:
                found[TopicPartition(topic, number)] = end - position
    return found


def _nested(values: Mapping[TopicPartition, int]) -> dict[str, dict[int, int]]:
    found: dict[str, dict[int, int]] = {}
    for place, value in sorted(values.items()):
        found.setdefault(place.topic, {})[place.partition] = value
    return found


def _flat(values: Mapping[str, Mapping[int, int]]) -> dict[TopicPartition, int]:
    return {TopicPartition(topic, number): value for topic, rows in values.items() for number, value in rows.items()}
