"""The lease record's transitions, as pure functions: what may follow what.

    OPEN(A) --begin--> DRAINING(A, op) --hand_over--> OPEN(B, epoch + 1, op) --admit--> OPEN(B, op) --finish--> OPEN(B)
                         |        ^ |
                         +-extend-+ +--reopen--> OPEN(A, op) --finish--> OPEN(A)

`closed` says whether users are kept out of A while it drains: from `close` on, and without it nothing is handed over.
`mirrored` says whether the mirror may write to the other side: not from `close_mirror` on, and again after `admit` (the
old direction is stopped and fenced), `extend` or `reopen`.

    ACQUIRED(B, epoch + n) --take_up--> ACQUIRED(B, op) --open_up--> OPEN(B, op) --finish--> OPEN(B), A behind
          |                                  |
          +------------hand_back-------------+----> OPEN(A, epoch + 1)

A takeover (`dcdr.tenure`) makes ACQUIRED: nobody writes anywhere, the mirror neither, until a failover has written down
where both sides part. It is handed back only to the side that was open last, whoever has taken it over since.

The handover is the point of no return. `reopen` and `hand_over` both start from DRAINING under the same operation id,
so of a late handover and an early undo exactly one can win. The operation id is cleared last: an id without a run is an
unfinished operation, whatever the phase says; clearing it counts the turn, so that what was undone cannot begin again.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from dcdr.errors import PlanRefusedError, SupersededError
from dcdr.model import LeaseRecord, Operation, OperationKind, Pause, Phase

NO_OPERATION = {
    "op_id": None,
    "op_source": None,
    "op_target": None,
    "op_kind": OperationKind.SWITCHOVER,
    "deadline": None,
}
"""What a record says of an operation when there is none."""


class Standing(StrEnum):
    """Where an operation stands, judged from the record alone."""

    NOT_BEGUN = "not begun"
    DRAINING = "draining"
    TAKEN = "taken over"
    """A failover's lease is acquired and its holder not open yet."""
    MOVED = "moved"
    """The handover committed, or the failover opened: only forward."""
    REOPENED = "reopened"
    """The undo committed: the source is the active side again."""
    OVER = "over"
    """The record names no operation, or another one: this operation may do nothing any more."""


def standing(record: LeaseRecord, operation: Operation) -> Standing:
    """Where `operation` stands according to `record`."""
    if record.op_id != operation.id:
        planned_from = (record.op_id, record.holder, record.epoch, record.turn, record.phase)
        if operation.kind is OperationKind.FAILOVER:
            start = (None, operation.target, operation.epoch + 1, operation.turn, Phase.ACQUIRED)
        else:
            start = (None, operation.source, operation.epoch, operation.turn, Phase.OPEN)
        return Standing.NOT_BEGUN if planned_from == start else Standing.OVER
    if record.holder == operation.target and record.epoch == operation.epoch + 1:
        return Standing.TAKEN if record.phase is Phase.ACQUIRED else Standing.MOVED
    if record.holder == operation.source and record.epoch == operation.epoch:
        return Standing.DRAINING if record.phase is Phase.DRAINING else Standing.REOPENED
    return Standing.OVER


def require(record: LeaseRecord, operation: Operation, *allowed: Standing) -> Standing:
    """Return the standing if it is one of `allowed`.

    Raises: SupersededError naming what the record says now.
    """
    found = standing(record, operation)
    if found in allowed:
        return found
    raise SupersededError(
        f"operation {operation.id} of scope {operation.scope} is {found.value}: the lease names {record.holder}, "
        f"epoch {record.epoch}, phase {record.phase.value}, operation {record.op_id or 'none'}; "
        "this attempt came too late and leaves things to the operation that owns the lease"
    )


def users_may_write(record: LeaseRecord, dc: str) -> bool:
    """Whether `dc`'s users' gate belongs open by this record; what a late attempt restores."""
    return record.holder == dc and (
        record.phase is Phase.OPEN or (record.phase is Phase.DRAINING and not record.closed)
    )


def groups_may_commit(record: LeaseRecord, dc: str) -> bool:
    """Whether `dc`'s consumers belong let in: not from the intent on, for a step of it may have frozen them already."""
    return record.holder == dc and record.phase is Phase.OPEN


def begin(record: LeaseRecord, operation: Operation, deadline: datetime) -> LeaseRecord:
    """OPEN -> DRAINING under `operation`. The same operation again: unchanged.

    Raises: PlanRefusedError when the record is not open under the operation's source and epoch.
    """
    found = standing(record, operation)
    if found is Standing.DRAINING:
        return record
    if operation.kind is not OperationKind.SWITCHOVER or found is not Standing.NOT_BEGUN:
        raise PlanRefusedError(
            f"cannot begin: the lease of {operation.scope} names {record.holder}, epoch {record.epoch}, "
            f"phase {record.phase.value}, operation {record.op_id or 'none'}; "
            f"expected {operation.source}, epoch {operation.epoch}, phase OPEN and no operation, none ended meanwhile. "
            "Run preflight again"
        )
    if record.behind == operation.target:
        raise PlanRefusedError(
            f"cannot begin: {operation.target} was left by a failover and holds a history of its own. "
            "It has to be failed back first"
        )
    return record.model_copy(
        update={
            "seq": record.seq + 1,
            "phase": Phase.DRAINING,
            "op_id": operation.id,
            "op_source": operation.source,
            "op_target": operation.target,
            "op_kind": OperationKind.SWITCHOVER,
            "deadline": deadline,
            "ledger": None,
            "closed": False,
            "cuts": 0,
        }
    )


def close(record: LeaseRecord, operation: Operation) -> LeaseRecord:
    """DRAINING: users are kept out of the source from here on. Already so: unchanged.

    Raises: SupersededError when the operation does not drain any more.
    """
    require(record, operation, Standing.DRAINING)
    return record if record.closed else record.model_copy(update={"seq": record.seq + 1, "closed": True})


def hand_over(record: LeaseRecord, operation: Operation, ledger: str, cuts: int | None = None) -> LeaseRecord:
    """DRAINING(source) -> OPEN(target, epoch + 1), naming the ledger entry by its digest. Already moved: unchanged.

    `cuts`: what the record counted before the last look, for whoever cannot name the revision that was looked at.

    Raises: SupersededError when the operation was undone or replaced, moved with another ledger entry, or the cut was
    taken again meanwhile; PlanRefusedError when users of the source were never kept out.
    """
    if require(record, operation, Standing.DRAINING, Standing.MOVED) is Standing.MOVED:
        if record.ledger != ledger:
            raise SupersededError(f"operation {operation.id} moved already, with ledger entry {record.ledger}")
        return record
    if not record.closed:
        raise PlanRefusedError(
            f"operation {operation.id} cannot hand over: {operation.source} was never closed to users"
        )
    if cuts is not None and cuts != record.cuts:
        raise SupersededError(
            f"operation {operation.id}: the cut was taken again ({record.cuts} times, {cuts} when this handover looked)"
        )
    return record.model_copy(
        update={
            "seq": record.seq + 1,
            "holder": operation.target,
            "epoch": operation.epoch + 1,
            "phase": Phase.OPEN,
            "ledger": ledger,
            "closed": False,
            "mirrored": False,
        }
    )


def close_mirror(record: LeaseRecord, operation: Operation, cuts: int | None = None) -> LeaseRecord:
    """DRAINING: the mirror may not write to the target any more. Already so: unchanged.

    `cuts`: what the record counted when this was decided. A wish that comes after the cut was taken again would keep
    the mirror from bringing over what came late.

    Raises: SupersededError when the operation does not drain any more, or the cut was taken again meanwhile.
    """
    require(record, operation, Standing.DRAINING)
    if cuts is not None and cuts != record.cuts:
        raise SupersededError(
            f"operation {operation.id}: the cut was taken again ({record.cuts} times, {cuts} when the mirror was to be "
            "closed)"
        )
    return record if not record.mirrored else record.model_copy(update={"seq": record.seq + 1, "mirrored": False})


def admit(record: LeaseRecord, operation: Operation) -> LeaseRecord:
    """After the handover, the old direction stopped: the mirror may write to the old source. Already so: unchanged.

    Raises: SupersededError when the operation has not moved, or is over; PlanRefusedError after a failover.
    """
    require(record, operation, Standing.MOVED)
    if record.behind == operation.source:
        raise PlanRefusedError(
            f"the mirror may not write to {operation.source}: a failover left it, and what was lost stands there only. "
            "It has to be failed back first"
        )
    return record if record.mirrored else record.model_copy(update={"seq": record.seq + 1, "mirrored": True})


def extend(record: LeaseRecord, operation: Operation, cuts: int | None = None) -> LeaseRecord:
    """DRAINING -> DRAINING: the cut is taken again. A handover that looked before this has lost its record.

    `cuts`: the count this follows; where the record counts more, it is done already and unchanged.

    Raises: SupersededError when the operation does not drain any more.
    """
    require(record, operation, Standing.DRAINING)
    if cuts is not None and record.cuts > cuts:
        return record
    return record.model_copy(update={"seq": record.seq + 1, "cuts": record.cuts + 1, "mirrored": True})


def reopen(record: LeaseRecord, operation: Operation) -> LeaseRecord:
    """DRAINING -> OPEN(source), same epoch, same operation id. Already reopened: unchanged.

    Raises: SupersededError when the handover committed, or the operation is over.
    """
    if require(record, operation, Standing.DRAINING, Standing.REOPENED) is Standing.REOPENED:
        return record
    return record.model_copy(update={"seq": record.seq + 1, "phase": Phase.OPEN, "closed": False, "mirrored": True})


def finish(record: LeaseRecord, operation: Operation) -> LeaseRecord:
    """Clear the operation id: nothing is left to do. Already cleared: unchanged.

    Raises: SupersededError when the record still drains.
    """
    if standing(record, operation) in (Standing.OVER, Standing.NOT_BEGUN):
        return record
    require(record, operation, Standing.MOVED, Standing.REOPENED)
    return record.model_copy(update={"seq": record.seq + 1, "turn": record.turn + 1, **NO_OPERATION})


def take_up(record: LeaseRecord, operation: Operation, deadline: datetime) -> LeaseRecord:
    """ACQUIRED(target): `operation`, a failover, goes on from here. The same operation again: unchanged.

    Raises: PlanRefusedError when the record is not that of the takeover it was planned from.
    """
    found = standing(record, operation)
    if found in (Standing.TAKEN, Standing.MOVED):
        return record
    if operation.kind is not OperationKind.FAILOVER or found is not Standing.NOT_BEGUN:
        raise PlanRefusedError(
            f"the failover {operation.id} cannot begin: the lease of {operation.scope} names {record.holder}, epoch "
            f"{record.epoch}, phase {record.phase.value}, operation {record.op_id or 'none'}; expected "
            f"{operation.target}, epoch {operation.epoch + 1}, phase ACQUIRED and no operation"
        )
    return record.model_copy(
        update={
            "seq": record.seq + 1,
            "op_id": operation.id,
            "op_source": operation.source,
            "op_target": operation.target,
            "op_kind": OperationKind.FAILOVER,
            "deadline": deadline,
            "ledger": None,
        }
    )


def open_up(record: LeaseRecord, operation: Operation, ledger: str) -> LeaseRecord:
    """ACQUIRED(target) -> OPEN(target), naming the entry that says where both sides part. Already open: unchanged.

    From here the source is `behind`: it takes nothing over, and the mirror may not write there before a failback.

    Raises: SupersededError when the operation is over, or opened with another entry.
    """
    if require(record, operation, Standing.TAKEN, Standing.MOVED) is Standing.MOVED:
        if record.ledger != ledger:
            raise SupersededError(f"operation {operation.id} opened already, with ledger entry {record.ledger}")
        return record
    return record.model_copy(
        update={"seq": record.seq + 1, "phase": Phase.OPEN, "ledger": ledger, "behind": operation.source}
    )


def pause(record: LeaseRecord, wish: Pause | None) -> LeaseRecord:
    """Keep agents from taking over by themselves until `wish.until`; None: no longer. Already so: unchanged."""
    return record if record.pause == wish else record.model_copy(update={"seq": record.seq + 1, "pause": wish})


def hand_back(record: LeaseRecord, operation: Operation) -> LeaseRecord:
    """ACQUIRED(source) -> OPEN(target, epoch + 1): a takeover that never opened is taken back. Already done: unchanged.

    An unfinished failover ends with it. Source and target may be the same: after two takeovers the holder can be the
    side that was open last.

    Raises: PlanRefusedError when the record is not one of a takeover, or has opened since, or was last open elsewhere.
    """
    if (record.holder, record.epoch, record.turn) == (operation.target, operation.epoch + 1, operation.turn + 1):
        return record
    acquired = (record.holder, record.epoch, record.turn, record.phase)
    if acquired != (operation.source, operation.epoch, operation.turn, Phase.ACQUIRED):
        raise PlanRefusedError(
            f"the lease of {operation.scope} cannot be handed back to {operation.target}: it names {record.holder}, "
            f"epoch {record.epoch}, phase {record.phase.value}. Only a lease that was taken over and never opened "
            "(ACQUIRED) is given back; use a switchover"
        )
    if record.last_open not in (None, operation.target):
        raise PlanRefusedError(
            f"the lease of {operation.scope} cannot be handed back to {operation.target}: {record.last_open} was open "
            f"last, and may hold what never came over. Hand it back to {record.last_open}, or fail over"
        )
    return record.model_copy(
        update={
            "seq": record.seq + 1,
            "turn": record.turn + 1,
            "holder": operation.target,
            "epoch": operation.epoch + 1,
            "phase": Phase.OPEN,
            "mirrored": True,
            **NO_OPERATION,
        }
    )
