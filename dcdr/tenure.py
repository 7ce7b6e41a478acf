"""What one agent knows of the lease, and what it may do with it. Times: seconds of its own monotonic clock.

Nobody is believed longer than can be proven. The holder's proof is a committed compare-and-swap of its own; another
agent's is a linearizable read. Both count from the moment the request was *sent*: the answer may have been on its way
for any time. What the record says about times is for people.

Of the holder's agents one acts: the record's `keeper`. The others stand by: they prove nothing and say nothing, until
they have seen no sign of life for `LeaseTiming.silence`; then they renew in their own name. To the other side that is a
renewal like any, and it waits anew: whichever agent proved something, the proof is over before the lease can move.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dcdr import lease
from dcdr.bounds import LeaseTiming
from dcdr.marker import Marker, Role, role_of
from dcdr.model import LeaseRecord, Phase, StoredLease

NEVER = float("-inf")


@dataclass(frozen=True)
class Tenure:
    """One data center's agent. `since`: when it first saw the record as it stands now; `proven`: when it sent what
    proved that the record stands, and for the holder that it is the holder. `identity`: its own among the data center's
    agents, and the same after a restart."""

    dc: str
    identity: str = ""
    stored: StoredLease | None = None
    since: float = NEVER
    proven: float = NEVER

    @property
    def record(self) -> LeaseRecord | None:
        return None if self.stored is None else self.stored.record

    @property
    def holds(self) -> bool:
        return self.record is not None and self.record.holder == self.dc

    @property
    def stands_by(self) -> bool:
        """Whether another agent of this data center is the one that acts, by the record."""
        return self.record is not None and self.holds and self.record.keeper not in (None, self.identity)


def saw(tenure: Tenure, stored: StoredLease, now: float) -> Tenure:
    """A read or a watch showed `stored`. An older revision than the known one is an old answer, and changes nothing.

    A change of holder, epoch or of this data center's role ends at once what was proven of the record before; so does
    another agent that acts for the holder.
    """
    known = tenure.stored
    if known is not None and stored.revision <= known.revision:
        return tenure
    after = replace(tenure, stored=stored, since=now)
    same = known is not None and _rights(known.record, tenure.dc) == _rights(stored.record, tenure.dc)
    return after if same and not after.stands_by else replace(after, proven=NEVER)


def read(tenure: Tenure, stored: StoredLease, sent: float, now: float) -> Tenure:
    """A linearizable read, sent at `sent`, answered `stored`. For the holder it never proves that anybody may write;
    that nobody may, it does."""
    after = saw(tenure, stored, now)
    opens = after.holds and role_of(stored.record, after.dc) is not Role.NONE
    if after.stored != stored or opens or after.stands_by:
        return after
    return replace(after, proven=max(after.proven, sent))


def committed(tenure: Tenure, stored: StoredLease, sent: float, now: float) -> Tenure:
    """A compare-and-swap of this agent, sent at `sent`, wrote `stored`; of a lease it gave away, as good as a read."""
    after = saw(tenure, stored, now)
    if after.stored != stored or after.stands_by:
        return after
    return replace(after, proven=max(after.proven, sent))


def marker(tenure: Tenure, now: float, timing: LeaseTiming) -> Marker:
    """What this agent may tell its brokers at `now`."""
    record = tenure.record
    if record is None:
        return Marker(0, Role.NONE, 0.0)
    left = max(0.0, tenure.proven + timing.validity - now)
    return Marker(record.epoch, role_of(record, tenure.dc) if left > 0 else Role.NONE, left)


def may_act(tenure: Tenure, now: float, timing: LeaseTiming) -> bool:
    """Whether this agent may renew for the holder: unless another one does, and shows signs of life."""
    return tenure.holds and (not tenure.stands_by or now - tenure.since >= timing.silence)


def signed(tenure: Tenure, record: LeaseRecord) -> LeaseRecord:
    """`record` as this agent writes it: in its own name, or in nobody's where another data center is to hold it."""
    return record.model_copy(update={"keeper": tenure.identity if record.holder == tenure.dc else None})


def may_take_over(tenure: Tenure, now: float, timing: LeaseTiming) -> bool:
    """Whether the holder's last sign of life is long enough ago, on this clock, for its brokers to have closed.

    Never for a side that a failover left behind: what it would open is not what users have seen last.
    """
    record = tenure.record
    if record is None or tenure.holds or record.behind == tenure.dc:
        return False
    return now - tenure.since >= timing.wait


def held_back(record: LeaseRecord, dc: str, now: datetime, cool_down: timedelta, *, asked: bool = False) -> str:
    """Why `dc` takes nothing over by itself now; empty when nothing speaks against it. `now`: aware, wall clock.

    Policy, not safety: where a person `asked`, neither the cool-down nor a pause holds `dc` back, only what it holds.
    """
    if record.behind == dc:
        return (
            f"{dc} was left by a failover and holds a history of its own: opening it would lose what users wrote on "
            f"{record.holder} since. Bring {record.holder} back; or decide to lose that, with `dcdr lease bootstrap`"
        )
    if asked:
        return ""
    if record.pause is not None and now < record.pause.until:
        return f"takeovers are paused until {record.pause.until:%Y-%m-%d %H:%M:%S} UTC: {record.pause.reason or '-'}"
    if record.acquired_at is not None and now < record.acquired_at + cool_down:
        return (
            f"the last takeover was at {record.acquired_at:%Y-%m-%d %H:%M:%S} UTC; the next one by itself comes "
            f"{cool_down.total_seconds():.0f} s later at the earliest, a person may ask for it now"
        )
    return ""


def in_maintenance(record: LeaseRecord, now: datetime) -> bool:
    """Whether the holder goes on although its Kafka is unwell, as a person wished until a time. `now`: wall clock."""
    return record.pause is not None and record.pause.maintenance and now < record.pause.until


def renewal(record: LeaseRecord, seq: int | None = None) -> LeaseRecord:
    """The holder's next sign of life, or the one of number `seq`."""
    return record.model_copy(update={"seq": record.seq + 1 if seq is None else seq})


def takeover(
    record: LeaseRecord, dc: str, floor: int, at: datetime | None = None, after_s: float | None = None
) -> LeaseRecord:
    """`dc` takes the lease of a holder that is gone: ACQUIRED, nobody writes anywhere, the mirror neither.

    `floor`: the highest epoch that any other place remembers (both clusters, this agent's disk). `at`: wall clock;
    `after_s`: how long ago the last sign of life was seen. Both are for people and for the bound of what is lost.
    """
    return record.model_copy(
        update={
            "seq": record.seq + 1,
            "holder": dc,
            "epoch": max(record.epoch, floor) + 1,
            "phase": Phase.ACQUIRED,
            "turn": record.turn + 1,
            "closed": False,
            "mirrored": False,
            "last_open": record.last_open if record.phase is Phase.ACQUIRED else record.holder,
            "acquired_at": at,
            "acquired_after_s": after_s,
            **lease.NO_OPERATION,
        }
    )


def _rights(record: LeaseRecord, dc: str) -> tuple[object, ...]:
    """What a proof is about: with any of these changed, it proves nothing more."""
    return record.holder, record.epoch, role_of(record, dc)
