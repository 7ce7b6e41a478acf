"""A failover: a holder that is cut off, a takeover, a fork written down, an opening; everything late, lost or repeated.

Who may take over, what the record becomes and which gates follow are the product's own (`dcdr.tenure`, `dcdr.lease`,
`dcdr.marker`). How long a candidate waits is `test_lease`'s affair: here a takeover comes when the old holder's brokers
have closed. One partition; both mirrors run all the time and write wherever a gate lets them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple

import pytest

from dcdr import lease, tenure
from dcdr.bounds import PRESETS, Preset
from dcdr.errors import DcdrError
from dcdr.lease import Standing
from dcdr.marker import Role, role_of
from dcdr.model import LeaseRecord, Operation, OperationKind, Phase, StoredLease
from dcdr.tenure import Tenure
from tests.models.explorer import Found, explore

SITES = ("dc-a", "dc-b")
DEADLINE = datetime(2026, 11, 21, tzinfo=UTC)
TIMING = PRESETS[Preset.TEST]
RECORDS, CUTS, LAST_EPOCH = 2, 2, 4


class Do(StrEnum):
    """The steps of a failover that change or prove something here."""

    TAKE_UP = "lease.take_up"
    FENCE = "failover.fence"
    RECORD = "failover.record"
    OPEN_UP = "failover.open_up"
    FINISH = "lease.finish"


ORDER = tuple(Do)
LASTING = (Do.TAKE_UP, Do.RECORD, Do.OPEN_UP, Do.FINISH)


class Entry(NamedTuple):
    """A record in a log; `copied`: by a mirror."""

    number: int
    copied: bool


class Attempt(NamedTuple):
    """A step on its way; `entry`: the fork's digest, once it is known."""

    step: Do
    operation: Operation
    entry: str | None


class Fork(NamedTuple):
    """What was written down, under its digest: where the log of `target` ended."""

    digest: str
    target: int
    end: int


@dataclass(frozen=True)
class World:
    """Pairs are by site. `appending`, `copying`: a write that the brokers let pass and have not appended yet."""

    record: LeaseRecord
    reach: tuple[bool, ...] = (True, True)
    """Whether the site's agent reaches the store."""
    cuts: int = 0
    gates: tuple[Role, ...] = (Role.ACTIVE, Role.STANDBY)
    """What each site's brokers obey: they hear of the record later."""
    logs: tuple[tuple[Entry, ...], ...] = ((), ())
    appending: tuple[bool, ...] = (False, False)
    copying: tuple[Entry | None, ...] = (None, None)
    position: tuple[int, ...] = (0, 0)
    """Where the mirror towards a site reads the other one's log next."""
    run: Attempt | None = None
    late: Attempt | None = None
    forks: frozenset[Fork] = frozenset()
    reported: frozenset[int] = frozenset()
    """Records that a failover's fork tells to be lost."""
    left: tuple[bool, ...] = (False, False)
    fault: str = ""

    @property
    def written(self) -> int:
        return sum(not entry.copied for log in self.logs for entry in log) + sum(self.appending)


@dataclass(frozen=True)
class Variant:
    """The protocol, or one that gets something wrong."""

    opens_at_takeover: bool = False
    behind_takes_over: bool = False
    opens_late: bool = False
    leaves_mirror: bool = False
    admits: bool = False
    fences: bool = True
    hands_back_to_anyone: bool = False


def steps(world: World, variant: Variant) -> Iterator[tuple[str, World]]:
    for n, site in enumerate(SITES):
        yield from outages(world, n, site)
        yield from users(world, n, site)
        yield from mirrors(world, n, site)
        yield from takes_over(world, n, site, variant)
        yield from handed_back(world, n, site, variant)
    yield from runs(world, variant)


def outages(world: World, n: int, site: str) -> Iterator[tuple[str, World]]:
    """A site that is cut off closes by itself; one that is not hears of the record."""
    if not world.reach[n]:
        yield f"{site} is back", put(world, "reach", n, True)
    elif world.cuts < CUTS:
        yield f"{site} is cut off", replace(put(world, "reach", n, False), cuts=world.cuts + 1)
    role = role_of(world.record, site) if world.reach[n] else Role.NONE
    if world.gates[n] is not role:
        yield (
            f"{site}'s brokers {'hear' if world.reach[n] else 'fall back to'} {role.value}",
            put(world, "gates", n, role),
        )


def users(world: World, n: int, site: str) -> Iterator[tuple[str, World]]:
    number = world.written
    if world.appending[n]:
        entry = Entry(number - 1, copied=False)
        yield f"record {entry.number} is acknowledged at {site}", append(put(world, "appending", n, False), n, entry)
    elif world.gates[n] is Role.ACTIVE and number < RECORDS and not any(world.appending):
        yield f"a record is permitted at {site}", put(world, "appending", n, True)


def mirrors(world: World, n: int, site: str) -> Iterator[tuple[str, World]]:
    """The mirror towards `site`. What came from there is not copied back: `test_switchover` is about that."""
    entry, log = world.copying[n], world.logs[1 - n]
    if entry is not None:
        yield f"the mirror's copy is appended at {site}", append(put(world, "copying", n, None), n, entry)
        return
    new = [at for at in range(world.position[n], len(log)) if not log[at].copied]
    if new and world.gates[n] is Role.STANDBY:
        after = put(world, "copying", n, Entry(log[new[0]].number, copied=True))
        yield (
            f"the mirror's copy of record {log[new[0]].number} passes at {site}",
            put(after, "position", n, new[0] + 1),
        )


@cache
def may_take_over(record: LeaseRecord, site: str) -> bool:
    """By the product, when nothing was heard of the holder for long enough, and a person asks."""
    known = Tenure(site, stored=StoredLease(record, 1), since=-TIMING.wait)
    return tenure.may_take_over(known, 0, TIMING) and not tenure.held_back(
        record, site, DEADLINE, timedelta(hours=1), asked=True
    )


def takes_over(world: World, n: int, site: str, variant: Variant) -> Iterator[tuple[str, World]]:
    record, other = world.record, 1 - n
    silent = not world.reach[other] and world.gates[other] is Role.NONE and not world.appending[other]
    if record.holder == site or not (silent and world.reach[n]) or record.epoch >= LAST_EPOCH:
        return
    asked = record.model_copy(update={"behind": None}) if variant.behind_takes_over else record
    if may_take_over(asked, site):
        taken = tenure.takeover(record, site, 0)
        if variant.opens_at_takeover:
            taken = taken.model_copy(update={"phase": Phase.OPEN})
        if variant.leaves_mirror:
            taken = taken.model_copy(update={"mirrored": True})
        yield f"{site} takes the lease over", wrote(world, taken)


def handed_back(world: World, n: int, site: str, variant: Variant) -> Iterator[tuple[str, World]]:
    """A person wishes it, the holder's agent obeys."""
    record = world.record
    if record.phase is not Phase.ACQUIRED or not reaches(world) or record.epoch >= LAST_EPOCH:
        return
    if variant.hands_back_to_anyone:
        record = record.model_copy(update={"last_open": None})
    wish = Operation(
        scope="lab", id="back", epoch=record.epoch, turn=record.turn, source=record.holder, target=site
    )  # fmt: skip
    after = changed(record, "hand back", Attempt(Do.FINISH, wish, None))
    if after is not None:
        yield f"the lease is handed back to {site}", wrote(world, after)


def runs(world: World, variant: Variant) -> Iterator[tuple[str, World]]:
    """One workflow at a time; of an attempt that was given up on, the rest may come at any time."""
    run, record = world.run, world.record
    if run is None:
        operation = record.operation or planned(record)
        if operation is not None:
            yield f"a run of {operation.id} begins", replace(world, run=Attempt(Do.TAKE_UP, operation, None))
    else:
        yield "the run dies", replace(world, run=None)
        for after, entry in does(world, run, variant):
            at = ORDER.index(run.step) + 1
            following = None if at == len(ORDER) else run._replace(step=ORDER[at], entry=entry)
            yield f"{run.step}", replace(after, run=following)
        if run.step in LASTING and world.late is None:
            yield f"an attempt of {run.step} is given up on", replace(world, late=run)
    if record.operation is not None and reaches(world):
        admitted = changed(record, "admit", Attempt(Do.FINISH, record.operation, None))
        if variant.admits and record.phase is Phase.OPEN:
            admitted = record.model_copy(update={"mirrored": True})
        if admitted is not None:
            yield "the mirror is let back, as after a switchover", wrote(world, admitted)
    if world.late is not None:
        for after, _ in does(world, world.late, variant, late=True):
            fault = ""
            if lease.standing(record, world.late.operation) is Standing.OVER and after.record != record:
                fault = f"an attempt of {world.late.operation.id}, which is over, changed the lease"
            yield f"a late attempt of {world.late.step}", replace(after, late=None, fault=fault)


@cache
def planned(record: LeaseRecord) -> Operation | None:
    if record.phase is not Phase.ACQUIRED:
        return None
    target = record.holder
    return Operation(
        scope="lab", id=f"failover-{record.epoch}", epoch=record.epoch - 1, turn=record.turn,
        source=SITES[1 - SITES.index(target)], target=target, kind=OperationKind.FAILOVER,
    )  # fmt: skip


@cache
def changed(record: LeaseRecord, what: str, attempt: Attempt) -> LeaseRecord | None:
    """What the record becomes; None where the product refuses."""
    operation = attempt.operation
    try:
        match what:
            case Do.TAKE_UP:
                after = lease.take_up(record, operation, DEADLINE)
            case Do.OPEN_UP:
                after = lease.open_up(record, operation, attempt.entry or "")
            case Do.FINISH:
                after = lease.finish(record, operation)
            case "admit":
                after = lease.admit(record, operation)
            case _:
                after = lease.hand_back(record, operation)
    except DcdrError:
        return None
    return after


def does(world: World, attempt: Attempt, variant: Variant, late: bool = False) -> Iterator[tuple[World, str | None]]:
    """One attempt of a step: the world after it and the fork it knows; nothing where it waits or is refused."""
    step, operation, entry = attempt
    record, target = world.record, SITES.index(operation.target)
    if step is Do.FENCE:
        quiet = world.gates[target] is Role.NONE and world.copying[target] is None
        if lease.standing(record, operation) is not Standing.OVER and (quiet or not variant.fences):
            yield world, entry
    elif step is Do.RECORD:
        # It looks at the lease, then writes under a digest of its own: too late, that is an entry nobody names.
        if late or lease.standing(record, operation) is not Standing.OVER:
            fork = Fork(f"{operation.id}/{len(world.logs[target])}", target, len(world.logs[target]))
            yield replace(world, forks=world.forks | {fork}), fork.digest
    elif reaches(world):
        after = changed(record, step, attempt)
        if step is Do.OPEN_UP and late and variant.opens_late and record.phase is Phase.ACQUIRED:
            opened = {"phase": Phase.OPEN, "ledger": entry, "behind": operation.source}
            after = record.model_copy(update=opened) if record.holder == operation.target else after
        if after is None:
            return
        if step is Do.OPEN_UP and after.behind != record.behind:
            world = opened_up(world, attempt)
        yield wrote(world, after), entry


def opened_up(world: World, attempt: Attempt) -> World:
    """What the fork that is named tells: the source's records that the target does not hold are lost."""
    target = SITES.index(attempt.operation.target)
    ends = [fork.end for fork in world.forks if (fork.digest, fork.target) == (attempt.entry, target)]
    there = {entry.number for entry in world.logs[target][: ends[0]]} if ends else None
    left = put(world, "left", 1 - target, True)
    if there is None:
        return left
    lost = {entry.number for entry in world.logs[1 - target]} - there
    return replace(left, reported=world.reported | lost)


def reaches(world: World) -> bool:
    """Whether the holder's agent reaches the store: it is the one that changes the record."""
    return world.reach[SITES.index(world.record.holder)]


def wrote(world: World, record: LeaseRecord) -> World:
    return replace(world, record=record.model_copy(update={"seq": 0}))


def append(world: World, n: int, entry: Entry) -> World:
    return put(world, "logs", n, (*world.logs[n], entry))


def put(world: World, field: str, n: int, value: object) -> World:
    pair = list(getattr(world, field))
    pair[n] = value
    change: dict[str, Any] = {field: tuple(pair)}
    return replace(world, **change)


def wrong(world: World) -> str:
    if world.fault:
        return world.fault
    if world.gates == (Role.ACTIVE, Role.ACTIVE):
        return "both sites permit writes"
    record = world.record
    named = [fork for fork in world.forks if fork.digest == record.ledger]
    if record.phase is Phase.OPEN and record.behind and not named:
        return f"{record.holder} is open, and nothing says where both sides part"
    for fork in named:
        if record.phase is Phase.OPEN and any(entry.copied for entry in world.logs[fork.target][fork.end :]):
            return f"the mirror wrote to {SITES[fork.target]} after it was written down where both sides part"
    acknowledged = {entry.number for log in world.logs for entry in log if not entry.copied}
    for n, site in enumerate(SITES):
        if world.left[n] and world.gates[n] is not Role.NONE:
            return f"{site} was left by a failover and is told {world.gates[n].value}"
        missing = acknowledged - world.reported - {entry.number for entry in world.logs[n]}
        if world.gates[n] is Role.ACTIVE and missing:
            return f"{site} is open, and nothing tells that record {min(missing)} is missing there"
    return ""


def key(world: World) -> Hashable:
    record = world.record
    seen = (
        record.holder, record.epoch, record.turn, record.phase, record.op_id, record.ledger, record.mirrored,
        record.behind, record.last_open,
    )  # fmt: skip
    return seen, *(getattr(world, field) for field in World.__dataclass_fields__ if field != "record")


def search(variant: Variant) -> Found:
    """Every state up to `LAST_EPOCH`."""
    start = World(LeaseRecord(scope="lab", holder="dc-a", epoch=1))
    return explore(start, lambda world: steps(world, variant), wrong, key)


def test_a_failover_loses_nothing_that_it_does_not_tell_and_never_opens_two_sides() -> None:
    search(Variant()).assert_safe()


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        (Variant(opens_at_takeover=True), "nothing tells that record 0 is missing"),
        (Variant(behind_takes_over=True), "dc-a was left by a failover and is told"),
        (Variant(opens_late=True), "which is over, changed the lease"),
        (Variant(leaves_mirror=True), "dc-a was left by a failover and is told STANDBY"),
        (Variant(admits=True), "dc-a was left by a failover and is told STANDBY"),
        (Variant(fences=False), "the mirror wrote to dc-b after"),
        (Variant(hands_back_to_anyone=True), "nothing tells that record 0 is missing"),
    ],
    ids=["opened at the takeover", "the side left behind takes over", "opened late", "the mirror's gate left open",
         "the mirror admitted", "not fenced", "handed back to whoever was not open last"],
)  # fmt: skip
def test_a_wrong_variant_is_found_out(variant: Variant, says: str) -> None:
    search(variant).assert_tells(says)
