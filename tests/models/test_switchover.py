"""A drained switchover: two logs, both mirrors, brokers that hear late, attempts that come late, crashes at any time.

The lease's transitions and the roles that follow from it are the product's own (`dcdr.lease`, `dcdr.marker`), in the
order of the workflow's list of steps; the logs and mirrors around them are here. One partition, no transactions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest

from dcdr import lease
from dcdr.errors import DcdrError
from dcdr.marker import Role, role_of
from dcdr.model import LeaseRecord, Operation, Phase
from tests.models.explorer import Found, explore
from workflows import steps as names
from workflows.steps import Step

SITES = ("dc-a", "dc-b")
OPERATION = Operation(scope="lab", id="op", epoch=1, source="dc-a", target="dc-b")
DEADLINE = datetime(2026, 11, 21, tzinfo=UTC)
RECORDS = 3
THERE, BACK = 0, 1
"""The mirrors dc-a to dc-b and dc-b to dc-a; a mirror writes to the site of the other number."""

HERE = (names.BEGIN, names.CLOSE, names.CUT, names.DRAIN, names.CLOSE_MIRROR, names.HAND_OVER)
THERE_TOO = (names.OPEN, names.RETIRE, names.SEED, names.START, names.FINISH)
ORDER = tuple(step for step in names.SWITCHOVER if step in (*HERE, *THERE_TOO))
"""The steps that change or prove something here."""


@dataclass(frozen=True)
class World:
    """`logs`: record ids in order. `position`: where a running mirror reads next; `stored`: where it would start."""

    record: LeaseRecord
    gates: tuple[Role, ...] = (Role.ACTIVE, Role.STANDBY)
    """What each site's brokers obey: they hear of the record later."""
    logs: tuple[tuple[int, ...], ...] = ((), ())
    acked: tuple[int, ...] = ()
    """Acknowledged on dc-a, in order."""
    permitted: bool = False
    """A write that dc-a permitted and has not appended."""
    written: int = 0
    running: tuple[bool, ...] = (True, False)
    position: tuple[int, ...] = (0, 0)
    stored: tuple[int | None, ...] = (0, None)
    step: int = 0
    cut: int | None = None
    late: frozenset[Step] = frozenset()
    """Attempts that were given up on and may still act."""


@dataclass(frozen=True)
class Variant:
    """The protocol, or one that gets something wrong."""

    exactly_once: bool = True
    seeds: bool = True
    gates_mirrors: bool = True
    fence_first: bool = True
    settles: bool = True
    refuses_late: bool = True
    proves_drain: bool = True


def order(variant: Variant) -> tuple[Step, ...]:
    if variant.fence_first:
        return ORDER
    early = (names.CUT, names.DRAIN)
    return (*early, *(step for step in ORDER if step not in early))


CHANGES: dict[Step, Callable[[LeaseRecord], LeaseRecord]] = {
    names.BEGIN: lambda record: lease.begin(record, OPERATION, DEADLINE),
    names.CLOSE: lambda record: lease.close(record, OPERATION),
    names.CLOSE_MIRROR: lambda record: lease.close_mirror(record, OPERATION),
    names.HAND_OVER: lambda record: lease.hand_over(record, OPERATION, "ledger"),
    names.SEED: lambda record: lease.admit(record, OPERATION),
    names.FINISH: lambda record: lease.finish(record, OPERATION),
}
"""Steps whose effect is a compare-and-swap of the record."""

CONFIRMED = (names.CLOSE, names.CLOSE_MIRROR)
"""Those that wait for an agent to obey, and for the brokers."""


@cache
def changed(record: LeaseRecord, step: Step) -> LeaseRecord | None:
    """What the record becomes; None where the product refuses."""
    try:
        return CHANGES[step](record).model_copy(update={"seq": 0})
    except DcdrError:
        return None


def steps(world: World, variant: Variant) -> Iterator[tuple[str, World]]:
    yield from users(world)
    for mirror in (THERE, BACK):
        yield from mirrors(world, mirror, variant)
    for n, site in enumerate(SITES):
        role = role_of(world.record, site)
        if world.gates[n] is not role:
            yield f"{site}'s brokers hear {role.value}", put(world, "gates", n, role)
    if (reopened := undone(world.record)) is not None and world.record.phase is Phase.DRAINING:
        yield "the deadline passes: dc-a's agent opens it again", replace(world, record=reopened)
    plan = order(variant)
    if world.step < len(plan):
        step = plan[world.step]
        if step in CONFIRMED and (closed := changed(world.record, step)) not in (None, world.record):
            yield f"dc-a's agent obeys {step.name}", replace(world, record=closed)
        for after in does(world, step, variant):
            done = replace(after, step=world.step + 1)
            yield step.name, done
            if step in (names.CLOSE_MIRROR, names.HAND_OVER, names.RETIRE):
                yield f"{step.name}, and another attempt of it is left behind", replace(done, late=world.late | {step})
    for step in world.late:
        for after in does(world, step, variant, late=True):
            yield f"a late attempt of {step.name}", replace(after, late=world.late - {step})


@cache
def undone(record: LeaseRecord) -> LeaseRecord | None:
    try:
        return lease.reopen(record, OPERATION).model_copy(update={"seq": 0})
    except DcdrError:
        return None


def users(world: World) -> Iterator[tuple[str, World]]:
    """One application, which writes a record at a time, on whichever side takes it."""
    if world.permitted:
        new = world.written
        logs = (*world.logs[0], new), world.logs[1]
        yield (
            f"record {new} is appended and acknowledged at dc-a",
            replace(world, logs=logs, acked=(*world.acked, new), permitted=False, written=new + 1),
        )
    elif world.written < RECORDS:
        if world.gates[0] is Role.ACTIVE:
            yield f"record {world.written} is permitted at dc-a", replace(world, permitted=True)
        if world.gates[1] is Role.ACTIVE:
            logs = world.logs[0], (*world.logs[1], world.written)
            yield f"record {world.written} is written at dc-b", replace(world, logs=logs, written=world.written + 1)


def mirrors(world: World, mirror: int, variant: Variant) -> Iterator[tuple[str, World]]:
    name = "the mirror to dc-b" if mirror == THERE else "the mirror to dc-a"
    source, target = world.logs[mirror], 1 - mirror
    frozen = mirror == THERE and not world.running[THERE]
    """A worker that was cut off when its connector was stopped may go on."""
    may_write = not variant.gates_mirrors or world.gates[target] is Role.STANDBY
    room = len(world.logs[target]) < 2 * RECORDS + 2
    at = world.position[mirror]
    if (world.running[mirror] or frozen) and may_write and at < len(source) and room:
        logs = list(world.logs)
        logs[target] = (*logs[target], source[at])
        copied = replace(put(world, "position", mirror, at + 1), logs=tuple(logs))
        if variant.exactly_once:
            copied = put(copied, "stored", mirror, at + 1)
        yield f"{name} copies record {source[at]}", copied
    if world.running[mirror]:
        if world.stored[mirror] != at and not variant.exactly_once:
            yield f"{name} stores its position", put(world, "stored", mirror, at)
        if at != (world.stored[mirror] or 0):
            yield f"{name} dies and starts again", put(world, "position", mirror, world.stored[mirror] or 0)


def does(world: World, step: Step, variant: Variant, late: bool = False) -> Iterator[World]:
    """One attempt of a step: the world after it; nothing where it waits or is refused."""
    if step in CHANGES and (step not in CONFIRMED or late):
        record = changed(world.record, step)
        if record is None and late and not variant.refuses_late and step is names.CLOSE_MIRROR:
            record = world.record.model_copy(update={"holder": "dc-a", "epoch": 1, "phase": Phase.OPEN, "op_id": None})
        if record is None:
            return
        world = replace(world, record=record)
    if step is names.CLOSE:
        if world.record.closed and world.gates[0] is Role.NONE:
            yield world
    elif step is names.CLOSE_MIRROR and not late:
        if not world.record.mirrored and world.gates[1] is Role.NONE:
            yield world
    elif step is names.CUT:
        if not (variant.settles and world.permitted):
            yield replace(world, cut=len(world.logs[0]))
    elif step is names.DRAIN:
        if not variant.proves_drain or (world.stored[THERE] or 0) >= (world.cut or 0):
            yield world
    elif step is names.OPEN:
        if world.gates[1] is Role.ACTIVE:
            yield world
    elif step is names.RETIRE:
        yield put(world, "running", THERE, False)
    elif step is names.SEED:
        if not world.running[BACK]:
            # The ledger's end of dc-b at the cut: what it held before users could write there.
            end = len([one for one in world.logs[1] if one in world.logs[0][: world.cut]])
            yield put(world, "stored", BACK, end if variant.seeds else None)
    elif step is names.START:
        if not (world.running[THERE] or world.running[BACK]):
            position = put(world, "position", BACK, world.stored[BACK] or 0)
            yield put(position, "running", BACK, True)
    elif step in CHANGES:
        yield world


def wrong(world: World) -> str:
    if world.gates == (Role.ACTIVE, Role.ACTIVE):
        return "both sites permit writes"
    for site, log in zip(SITES, world.logs, strict=True):
        if len(set(log)) < len(log):
            return f"a record stands twice at {site}"
    opened = world.record.holder == "dc-b"
    if (
        opened
        and world.gates[1] is Role.ACTIVE
        and [one for one in world.logs[1] if one in world.acked] != list(world.acked)
    ):
        return "dc-b is open, and a record that dc-a acknowledged is missing or out of order there"
    return ""


def key(world: World) -> Hashable:
    record = world.record
    seen = record.holder, record.epoch, record.turn, record.phase, record.op_id, record.closed, record.mirrored
    return seen, *(getattr(world, field) for field in World.__dataclass_fields__ if field != "record")


def put(world: World, field: str, n: int, value: object) -> World:
    pair = list(getattr(world, field))
    pair[n] = value
    change: dict[str, Any] = {field: tuple(pair)}
    return replace(world, **change)


def search(variant: Variant) -> Found:
    start = World(LeaseRecord(scope="lab", holder="dc-a", epoch=1))
    return explore(start, lambda world: steps(world, variant), wrong, key)


def test_the_protocol_loses_doubles_and_reorders_nothing() -> None:
    search(Variant()).assert_safe()


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        (Variant(exactly_once=False), "twice at dc-b"),
        (Variant(seeds=False), "twice at dc-a"),
        (Variant(gates_mirrors=False), "twice"),
        (Variant(fence_first=False), "missing"),
        (Variant(settles=False), "missing"),
        (Variant(proves_drain=False), "missing"),
        (Variant(refuses_late=False), "both sites"),
    ],
    ids=["at least once", "no seeds", "mirrors without gates", "drained before the fence", "not settled", "not drained",
         "late attempts accepted"],
)  # fmt: skip
def test_a_wrong_variant_is_found_out(variant: Variant, says: str) -> None:
    search(variant).assert_tells(says)
