"""Lease and fence: two agents, a store, brokers that may be paused between permission and append; every delay and loss.

The agents of one data center are one here, for two of them have more states than can be searched (340,000 with a
validity of a single tick). Nothing of the argument changes with their number: what an agent that acts does to the
record is a renewal, by compare-and-swap; every marker that opens goes back to such a commit, whose-ever, and holds V
from its send; and the other side's wait begins anew when it sees that commit or a later one. Standing by only takes
steps away.

One tick is one unit of every clock. The decisions are the agents' own (`dcdr.tenure`); the world around them is here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import pytest

from dcdr import tenure
from dcdr.bounds import LeaseTiming
from dcdr.marker import Role
from dcdr.model import LeaseRecord, Phase, StoredLease
from dcdr.tenure import NEVER, Tenure
from tests.models.explorer import Found, explore

SITES = ("dc-a", "dc-b")
VALIDITY, PAUSE, LAST_EPOCH = 3, 1, 3


class Renewal(NamedTuple):
    """A compare-and-swap on its way. `sent`: when; `wrote`: what it committed, None so far."""

    sent: float
    expected: StoredLease
    wrote: StoredLease | None = None


class World(NamedTuple):
    """`now` is always 0: times in it are shifted at each tick, and cut off where they make no difference any more."""

    store: StoredLease
    agents: tuple[Tenure, ...]
    renewals: tuple[Renewal | None, ...] = (None, None)
    markers: tuple[float, ...] = (NEVER, NEVER)
    """Until when each site's brokers believe that users may write."""
    pauses: tuple[int | None, ...] = (None, None)
    """Ticks until a write that was permitted has to be appended."""
    appended: str = ""
    """What was wrong with the last append."""


@dataclass(frozen=True)
class Variant:
    """The protocol, or one that gets something wrong."""

    wait: int = VALIDITY + PAUSE
    from_answer: bool = False
    """Validity counts from the answer instead of from the send."""
    reads_prove: bool = False
    """A holder's read counts like a renewal."""
    vanishes: bool = False
    """The store may lose the record before its time, as native leases were seen to; the other side then takes over."""
    expires: bool = True
    """Brokers close by themselves; without it only the agent's word closes them."""


@cache
def timing(variant: Variant) -> LeaseTiming:
    """The arithmetic in ticks. Not validated: wrong variants are what this is for."""
    return LeaseTiming.model_construct(
        renew=1, attempt=1, election=1, validity=VALIDITY, pause=PAUSE, wait=variant.wait, refresh=1, hysteresis=1,
        clock_rate_error=0.0,
    )  # fmt: skip


def start() -> World:
    store = StoredLease(LeaseRecord(scope="lab", holder="dc-a", epoch=1), 0)
    holder = tenure.committed(Tenure("dc-a"), store, 0, 0)
    other = tenure.read(Tenure("dc-b"), store, 0, 0)
    return World(store, (holder, other))


def steps(world: World, variant: Variant) -> Iterator[tuple[str, World]]:
    limits = timing(variant)
    if 0 not in world.pauses:  # a permitted write is appended within the pause that is allowed for
        yield "a tick", later(world, variant)
    for n, site in enumerate(SITES):
        agent, renewal = world.agents[n], world.renewals[n]
        if renewal is None:
            if agent.holds and agent.stored is not None:
                yield f"{site} sends a renewal", put(world, "renewals", n, Renewal(0, agent.stored))
        elif renewal.wrote is None:
            yield f"{site}'s renewal is lost", put(world, "renewals", n, None)
            if renewal.expected.revision == world.store.revision:
                wrote = StoredLease(tenure.renewal(world.store.record), world.store.revision + 1)
                yield (
                    f"{site}'s renewal commits",
                    put(world._replace(store=wrote), "renewals", n, renewal._replace(wrote=wrote)),
                )
        else:
            yield f"the answer to {site} is lost", put(world, "renewals", n, None)
            sent = 0 if variant.from_answer else renewal.sent
            heard = tenure.committed(agent, renewal.wrote, sent, 0)
            yield f"{site} hears that it holds the lease", put(put(world, "renewals", n, None), "agents", n, heard)
        if agent.stored != world.store:
            yield f"{site} reads the record", put(world, "agents", n, tenure.read(agent, world.store, 0, 0))
        elif variant.reads_prove and agent.holds and agent.proven < 0:
            yield f"{site} reads that it is the holder", put(world, "agents", n, replace(agent, proven=0))
        told = tenure.marker(agent, 0, limits)
        until = told.valid_s if told.role is Role.ACTIVE else NEVER
        if until != world.markers[n]:
            yield f"{site}'s brokers hear {told.role.value}", put(world, "markers", n, until)
        yield from takes_over(world, n, variant, limits)
        if world.markers[n] > 0 and world.pauses[n] is None:
            yield f"a write is permitted at {site}", put(world, "pauses", n, PAUSE)
        if world.pauses[n] is not None:
            overlap = f"a write was appended at {site} while {SITES[1 - n]} permits writes"
            appended = overlap if world.markers[1 - n] > 0 else ""
            yield f"it is appended at {site}", put(world, "pauses", n, None)._replace(appended=appended)


def takes_over(world: World, n: int, variant: Variant, limits: LeaseTiming) -> Iterator[tuple[str, World]]:
    agent, site = world.agents[n], SITES[n]
    if agent.stored != world.store or world.store.record.epoch >= LAST_EPOCH:
        return
    gone = variant.vanishes and not agent.holds
    if tenure.may_take_over(agent, 0, limits) or gone:
        taken = tenure.takeover(world.store.record, site, 0).model_copy(update={"phase": Phase.OPEN})
        stored = StoredLease(taken, world.store.revision + 1)
        after = world._replace(store=stored)
        yield f"{site} takes the lease over", put(after, "agents", n, tenure.committed(agent, stored, 0, 0))


def later(world: World, variant: Variant) -> World:
    """One tick on: every time that is kept lies one further back."""

    def back(moment: float, keep: int) -> float:
        return moment - 1 if moment - 1 >= -keep else NEVER

    return world._replace(
        agents=tuple(
            replace(a, since=max(a.since - 1, -variant.wait), proven=back(a.proven, VALIDITY)) for a in world.agents
        ),
        renewals=tuple(r and r._replace(sent=max(r.sent - 1, -VALIDITY - 1)) for r in world.renewals),
        markers=tuple((back(m, 0) if variant.expires else m) for m in world.markers),
        pauses=tuple(None if p is None else p - 1 for p in world.pauses),
    )


def key(world: World) -> Hashable:
    """What decides how a world goes on: of revisions only their order, of records what anybody looks at."""
    leases = [world.store, *(a.stored for a in world.agents if a.stored)]
    leases += [lease for r in world.renewals if r for lease in (r.expected, r.wrote) if lease]
    ranks = {revision: rank for rank, revision in enumerate(sorted({lease.revision for lease in leases}))}

    def seen(lease: StoredLease | None) -> Hashable:
        if lease is None:
            return None
        return ranks[lease.revision], lease.record.holder, lease.record.epoch

    return (
        seen(world.store),
        tuple((seen(a.stored), a.since, a.proven) for a in world.agents),
        tuple(r and (r.sent, seen(r.expected), seen(r.wrote)) for r in world.renewals),
        world.markers,
        world.pauses,
        world.appended,
    )


def put(world: World, field: str, n: int, value: object) -> World:
    pair = list(getattr(world, field))
    pair[n] = value
    change: dict[str, Any] = {field: tuple(pair)}
    return world._replace(**change)


def wrong(world: World) -> str:
    if world.appended:
        return world.appended
    return "both sites permit writes" if min(world.markers) > 0 else ""


def search(variant: Variant) -> Found:
    return explore(start(), lambda world: steps(world, variant), wrong, key)


@pytest.mark.parametrize("wait", [VALIDITY + PAUSE, VALIDITY + PAUSE + 1])
def test_with_the_arithmetic_kept_no_two_sites_ever_permit_writes(wait: int) -> None:
    search(Variant(wait=wait)).assert_safe()


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        (Variant(wait=VALIDITY), "appended"),
        (Variant(from_answer=True), "permit"),
        (Variant(reads_prove=True), ""),
        (Variant(vanishes=True), "permit"),
        (Variant(expires=False), "permit"),
    ],
    ids=[
        "no room for the pause",
        "validity from the answer",
        "a read as a proof",
        "a record that vanishes",
        "no expiry",
    ],
)
def test_a_wrong_variant_is_found_out(variant: Variant, says: str) -> None:
    search(variant).assert_tells(says, longest=15)
