"""What the watch of a scope decides from the lease record it saw: pure functions over a state that is carried along.

Level-triggered: `decide` judges the record as it stands, whatever changes led to it and however often it is asked. So
a change that came while something else ran is not lost, it is judged again when that has ended, and one that is told
twice does nothing the second time.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import Field

from dcdr.model import DataCenterName, LeaseRecord, Message, OperationKind, Phase, ScopeName

FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=5), timedelta(minutes=5)
"""Before a failover that ended without finishing is started again: short at first, for whoever killed it by mistake."""
CHANGES_PER_RUN = 100
"""Of the lease, before the watch goes on under a fresh history: about 3,000 events where three sites watch."""


class Sight(Message):
    """What of a lease record the watch compares. Renewals (`seq`) and the inner steps of a drain are not among it."""

    holder: DataCenterName
    epoch: int
    phase: Phase
    op_id: str | None = None
    op_kind: OperationKind = OperationKind.SWITCHOVER
    behind: DataCenterName | None = None

    @classmethod
    def of(cls, record: LeaseRecord) -> Sight:
        """The sight that `record` offers."""
        return cls(
            holder=record.holder,
            epoch=record.epoch,
            phase=record.phase,
            op_id=record.op_id,
            op_kind=record.op_kind,
            behind=record.behind,
        )

    def __str__(self) -> str:
        operation = f", {self.op_kind.value} {self.op_id}" if self.op_id else ""
        behind = f", {self.behind} behind" if self.behind else ""
        return f"{self.holder} {self.phase.value}, epoch {self.epoch}{operation}{behind}"


class WatchOrder(Message):
    """Tell when the lease of `scope` is anything else than `known`."""

    scope: ScopeName
    known: Sight | None = None


class Seen(Message):
    """A linearizable read: the record, its revision, when (aware UTC), and the sites that have workers of their own."""

    record: LeaseRecord
    revision: int
    at: datetime
    sites: tuple[DataCenterName, ...] = ()


class RunEnd(Message):
    """What was found under a workflow id: `running` when it had not ended within the time one waits at once."""

    running: bool
    type: str = ""
    status: str = ""


class WatchState(Message):
    """All that a watch knows; its only input, so `{"scope": "lab"}` starts one, and carried from run to run.

    `busy`: a run is known to have the scope's transition id; `busy_epoch`: the epoch for which the watch itself started
    it, None where somebody else did. `told_epoch`: for that epoch, what ran was told that it is superseded.
    `tried_epoch`, `tries`, `not_before`: failovers started for that epoch, and when the next may be. `tail_epoch`: the
    tail of the failover of that epoch is being computed or was.
    """

    scope: ScopeName
    sites: tuple[DataCenterName, ...] = ()
    record: LeaseRecord | None = None
    revision: int = 0
    seen_at: datetime | None = None
    changed_at: datetime | None = None
    busy: bool = False
    busy_epoch: int | None = None
    told_epoch: int | None = None
    tried_epoch: int | None = None
    tries: int = 0
    not_before: datetime | None = None
    tail_epoch: int | None = None
    last_action: str = ""
    acted_at: datetime | None = None
    changes: int = 0
    duplicates: int = 0
    failures: int = 0
    """Of watching sites; what is tried again inside an activity's own retries is not counted."""
    failovers: int = 0
    superseded: int = 0
    tails: int = 0
    runs: int = 0
    """How often the watch went on under a fresh history."""
    changes_per_run: Annotated[int, Field(ge=1)] = CHANGES_PER_RUN


class Watching(Message):
    """What the query `watching` answers: the state, each site in a word, and the events of this run's history."""

    state: WatchState
    sites: dict[str, str]
    events: int


class Kind(StrEnum):
    """What the watch does about a record."""

    NOTHING = "nothing"
    FAILOVER = "failover"
    """Start it; or take up the one that nobody runs any more."""
    SUPERSEDE = "supersede"
    """Tell what runs under the transition's id that the lease was taken over; the failover follows its end."""
    TAIL = "tail"
    """Compute what the last failover left, as soon as the side that is behind answers."""


class Action(NamedTuple):
    """`epoch` binds it: for another epoch it is another action. `target`: who holds the lease."""

    kind: Kind
    epoch: int = 0
    target: str = ""


NOTHING = Action(Kind.NOTHING)


def decide(state: WatchState, record: LeaseRecord, now: datetime) -> Action:
    """What `record` asks for, given what was done already. `now`: aware UTC."""
    unfinished = record.op_id is not None and record.op_kind is OperationKind.FAILOVER
    if record.phase is Phase.ACQUIRED or unfinished:
        if state.busy:
            ours, told = state.busy_epoch == record.epoch, state.told_epoch == record.epoch
            # With an operation in the record, what runs is most likely that operation, and goes on by itself.
            if ours or told or record.op_id is not None:
                return NOTHING
            return Action(Kind.SUPERSEDE, record.epoch, record.holder)
        if state.tried_epoch == record.epoch and state.not_before is not None and now < state.not_before:
            return NOTHING
        return Action(Kind.FAILOVER, record.epoch, record.holder)
    if (
        record.phase is Phase.OPEN
        and record.op_id is None
        and record.behind is not None
        and state.tail_epoch != record.epoch
    ):
        return Action(Kind.TAIL, record.epoch, record.holder)
    return NOTHING


def saw(state: WatchState, seen: Seen) -> WatchState:
    """A site, or a read-back, showed `seen`. What was known already, or is older, changes nothing but the count.

    A store that was restored from a copy counts its revisions anew; whoever must know reads back (`trust`).
    """
    if state.record is not None and (
        Sight.of(seen.record) == Sight.of(state.record) or seen.revision <= state.revision
    ):
        return state.model_copy(update={"duplicates": state.duplicates + 1})
    return trust(state, seen)


def trust(state: WatchState, seen: Seen) -> WatchState:
    """A linearizable read that was sent just now: what it says stands, whatever was known before."""
    changed = state.record is None or Sight.of(seen.record) != Sight.of(state.record)
    update: dict[str, object] = {"record": seen.record, "revision": seen.revision, "seen_at": seen.at}
    if seen.sites:
        update["sites"] = seen.sites
    if changed:
        update |= {"changes": state.changes + 1, "changed_at": seen.at}
    return state.model_copy(update=update)


def started(state: WatchState, action: Action, now: datetime) -> WatchState:
    """The failover that `action` asks for runs now, under the transition's id."""
    again = state.tried_epoch == action.epoch
    tries = state.tries + 1 if again else 1
    update: dict[str, object] = {
        "busy": True,
        "busy_epoch": action.epoch,
        "tried_epoch": action.epoch,
        "tries": tries,
        "not_before": None,
        "failovers": state.failovers + 1,
    }
    return _did(state, update, f"started the failover to {action.target}, epoch {action.epoch}", now)


def taken(state: WatchState) -> WatchState:
    """The transition's id is in use by a run that the watch did not start."""
    return state.model_copy(update={"busy": True, "busy_epoch": None})


def told(state: WatchState, action: Action, now: datetime) -> WatchState:
    """What runs was told that epoch `action.epoch` supersedes it."""
    update: dict[str, object] = {"told_epoch": action.epoch, "superseded": state.superseded + 1}
    return _did(state, update, f"told the running operation that epoch {action.epoch} supersedes it", now)


def ended(state: WatchState, now: datetime) -> WatchState:
    """What ran under the transition's id has ended. If it was ours and did not finish, the next one waits a while."""
    update: dict[str, object] = {"busy": False, "busy_epoch": None}
    if state.busy_epoch is not None and state.busy_epoch == state.tried_epoch:
        update["not_before"] = now + pause(state.tries)
    return state.model_copy(update=update)


def tailing(state: WatchState, action: Action, now: datetime) -> WatchState:
    """The tail of the failover of `action.epoch` is being computed."""
    update: dict[str, object] = {"tail_epoch": action.epoch, "tails": state.tails + 1}
    return _did(state, update, f"started the tail of the failover of epoch {action.epoch}", now)


def failed(state: WatchState) -> WatchState:
    """A site's watching activity failed for good."""
    return state.model_copy(update={"failures": state.failures + 1})


def next_run(state: WatchState) -> WatchState:
    """What the next history begins with."""
    return state.model_copy(update={"runs": state.runs + 1})


def pause(tries: int) -> timedelta:
    """How long after the end of try number `tries` (from 1) the next failover of the same epoch may start."""
    return min(FIRST_PAUSE * (1 << min(tries - 1, 10)), LONGEST_PAUSE)


def _did(state: WatchState, update: dict[str, object], what: str, now: datetime) -> WatchState:
    return state.model_copy(update={**update, "last_action": what, "acted_at": now})
