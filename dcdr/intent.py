"""What a workflow asks of the agents: it writes an intent beside the lease, and whoever holds the lease carries it out.

    workflow --writes--> intent --obeyed by the holder's agent--> lease record --told to the brokers--> gates

The workflow never writes the record. So the safety of the lease does not depend on how many workers are alive, what
they believe, or how late they come: an agent obeys an intent only where the record's own rules allow it, at the moment
of the compare-and-swap.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from dcdr import lease
from dcdr.lease import Standing
from dcdr.model import LeaseRecord, Message, Operation, OperationKind, Pause

GRACE = timedelta(seconds=30)
"""A worker that is alive finds an operation within seconds of its deadline; the holder's agent leaves it those."""


class Ask(StrEnum):
    """The transitions of `dcdr.lease` by name."""

    BEGIN = "begin"
    CLOSE = "close"
    CLOSE_MIRROR = "close mirror"
    EXTEND = "extend"
    HAND_OVER = "hand over"
    REOPEN = "reopen"
    ADMIT = "admit"
    FINISH = "finish"
    HAND_BACK = "hand back"
    TAKE_OVER = "take over"
    """Asked of the agent that does *not* hold the lease, by a person: as if takeovers were automatic, this once."""
    TAKE_UP = "take up"
    OPEN_UP = "open up"
    PAUSE = "pause"


class Intent(Message):
    """One wish for one operation. `cuts`: how often the record said that the cut was retaken when the wish was made;
    once more since then, and a last look (HAND_OVER) or a drained mirror (CLOSE_MIRROR) is worth nothing."""

    operation: Operation
    ask: Ask
    deadline: datetime | None = None
    """With BEGIN: past it the source opens again by itself. With TAKE_OVER: past it nobody wishes that any more."""
    ledger: str | None = None
    """With HAND_OVER: the digest of the ledger entry."""
    cuts: int | None = None
    pause: Pause | None = None
    """With PAUSE; None: end it."""
    requested_by: str = ""


class StoredIntent(NamedTuple):
    """An intent and the revision it was read at; revision 0 with None where none was ever written."""

    intent: Intent | None
    revision: int


def obey(record: LeaseRecord, intent: Intent) -> LeaseRecord:
    """The record after `intent`; the same record where it is carried out already.

    Raises: PlanRefusedError, SupersededError: the record's rules do not allow it, now or ever again.
    """
    operation = intent.operation
    match intent.ask:
        case Ask.BEGIN if intent.deadline is not None:
            return lease.begin(record, operation, intent.deadline)
        case Ask.CLOSE:
            return lease.close(record, operation)
        case Ask.CLOSE_MIRROR:
            return lease.close_mirror(record, operation, intent.cuts)
        case Ask.EXTEND:
            return lease.extend(record, operation, intent.cuts)
        case Ask.HAND_OVER if intent.ledger is not None and intent.cuts is not None:
            return lease.hand_over(record, operation, intent.ledger, intent.cuts)
        case Ask.REOPEN:
            return lease.reopen(record, operation)
        case Ask.ADMIT:
            return lease.admit(record, operation)
        case Ask.FINISH:
            return lease.finish(record, operation)
        case Ask.HAND_BACK:
            return lease.hand_back(record, operation)
        case Ask.TAKE_UP if intent.deadline is not None:
            return lease.take_up(record, operation, intent.deadline)
        case Ask.OPEN_UP if intent.ledger is not None:
            return lease.open_up(record, operation, intent.ledger)
        case Ask.PAUSE:
            return lease.pause(record, intent.pause)
        case Ask.TAKE_OVER if intent.deadline is not None:
            return record  # not the holder's to do
    raise ValueError(f"an intent to {intent.ask.value} lacks its deadline, ledger entry or count of cuts")


def wants_takeover(record: LeaseRecord, intent: Intent | None, dc: str, now: datetime) -> bool:
    """Whether somebody asks `dc`'s agent to take the lease over, from the record as it stands.

    A wish without a deadline is none: it would lie there until the holder fails some day, and nobody means it then.
    """
    if intent is None or intent.ask is not Ask.TAKE_OVER or intent.operation.target != dc:
        return False
    if intent.deadline is None or now >= intent.deadline:
        return False
    asked = (intent.operation.source, intent.operation.epoch, intent.operation.turn)
    return asked == (record.holder, record.epoch, record.turn)


def overdue(record: LeaseRecord, now: datetime) -> LeaseRecord | None:
    """What the holder does by itself past the operation's deadline: before the handover, open again. None: nothing."""
    operation = record.operation
    if operation is None or record.deadline is None or now < record.deadline:
        return None
    if lease.standing(record, operation) is not Standing.DRAINING:
        return None
    return lease.reopen(record, operation)


def left_behind(record: LeaseRecord, dc: str, now: datetime) -> Operation | None:
    """The operation that left `dc` the holder, moved or opened again, and that nobody finished in time."""
    operation = record.operation
    if operation is None or record.deadline is None or now < record.deadline + GRACE:
        return None
    if operation.kind is OperationKind.FAILOVER:
        return None  # it has its own way forward
    holders = {Standing.MOVED: operation.target, Standing.REOPENED: operation.source}
    return operation if holders.get(lease.standing(record, operation)) == dc else None
