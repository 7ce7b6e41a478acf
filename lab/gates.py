"""What the brokers' gates say of themselves: the authorizer's trace, one line for each change."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lab.addresses import MEMBERS
from lab.estate import Lab
from lab.waiting import wait_for

AUTHORIZER, ACL = MODES = ("authorizer", "acl")
"""What keeps users out of the side that is not active. In `acl` mode there is no trace."""
OBEYED_LIMIT_S = 30.0


class Change(NamedTuple):
    """One change of one node's gates. `mono_ns`: the machine's CLOCK_MONOTONIC, not later than an opening, not earlier
    than a closing, and of an expiry its very moment. `lines_lost`: so many changes before it are not on record."""

    node: str
    process: str
    users: str
    mirror: str
    role: str
    epoch: int
    reason: str
    mono_ns: int
    lines_lost: int = 0


def changes(trace: Path) -> Iterator[Change]:
    """Every change on record, oldest first; a line that is being written just now is left out."""
    if not trace.exists():
        return
    for line in trace.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            found = json.loads(line)
            yield Change(**{name: found[name] for name in Change._fields if name in found})


def history(lab: Lab, seconds: float) -> list[tuple[str, Change]]:
    """(member, change) of both members within the last `seconds`, oldest first."""
    since_ns = time.monotonic_ns() - round(seconds * 1e9)
    found = [
        (member, change)
        for member in MEMBERS
        for broker in lab.brokers(member)
        for change in changes(lab.home.trace(broker))
        if change.mono_ns >= since_ns
    ]
    return sorted(found, key=lambda one: one[1].mono_ns)


def as_table(rows: Sequence[tuple[str, Change]]) -> Iterator[str]:
    """Lines for a terminal; times are seconds since the first of them."""
    yield f"{'seconds':>9}  {'side':<6} {'node':<14} {'users':<7} {'mirror':<7} {'role':<8} {'epoch':>5}  why"
    for member, one in rows:
        at = (one.mono_ns - rows[0][1].mono_ns) / 1e9
        node = f"{one.node}/{one.process}"
        gates = f"{one.users:<7} {one.mirror:<7} {one.role:<8} {one.epoch:>5}  {one.reason}"
        yield f"{at:>9.3f}  {member:<6} {node:<14} {gates}"


def standing(lab: Lab, member: str) -> dict[tuple[str, str], Change]:
    """The last change of each (node, process) of `member`."""
    return {
        (change.node, change.process): change
        for broker in lab.brokers(member)
        for change in changes(lab.home.trace(broker))
    }


def wait_until_obeyed(
    lab: Lab, member: str, role: str = "", epoch: int = 0, *, closed: bool = False, stop: threading.Event | None = None
) -> str:
    """Wait until every broker and controller of `member` lets the same ones write: users (ACTIVE) or the mirror
    (STANDBY), or who `role` says; under `epoch` or a later one. `closed`: nobody (NONE) will do, too.

    Returns: the role. Raises: LabError when that does not happen in 30 s.
    """
    wanted = {role} if role else {"ACTIVE", "STANDBY", *(("NONE",) if closed else ())}
    processes = 2 * len(lab.brokers(member))  # combined nodes: a broker and a controller each

    def agreed() -> str | None:
        found = standing(lab, member)
        told = {change.role for change in found.values()}
        fresh = all(change.epoch >= epoch for change in found.values())
        return told.pop() if fresh and len(found) == processes and len(told) == 1 and told <= wanted else None

    return wait_for(
        f"{member}: every gate says {' or '.join(sorted(wanted))}", agreed, OBEYED_LIMIT_S, stop=stop,
        hint=lambda: f": {'; '.join(f'{one.node}/{one.process} {one.role}' for one in standing(lab, member).values())}",
    )  # fmt: skip
