"""A day on which dc-a hands over to dc-b, as three witnesses saw it. A test spoils one thing and wants it seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lab.gates import Change
from lab.witness.judge import Evidence, Trace, Write
from lab.witness.probes import MIRROR, USERS, Info, Lane, Outcome, Probe

MS = 1_000_000
START = 1_000_000 * MS
END = START + 10_000 * MS
TICK = 25
LANES = tuple(Lane(dc, f"kafka-{dc}-1", who) for dc in ("dc-a", "dc-b") for who in (USERS, MIRROR))
MOVED = 5_000
"""dc-a closes, in milliseconds from the start; dc-b opens 100 later."""


def at(ms: float) -> int:
    return START + round(ms * MS)


def line(process: str, ms: float, users: bool = False, mirror: bool = False, reason: str = "marker") -> Change:
    role = "ACTIVE" if users else "STANDBY" if mirror else "NONE"
    words = ("open" if users else "closed", "open" if mirror else "closed")
    return Change("1", process, *words, role, 1, reason, at(ms))


def said(*lines: tuple[float, str]) -> list[Change]:
    """The same words of a broker and its controller: (ms, users, mirror, nobody, or a reason to be closed)."""
    return [
        line(process, ms, word == USERS, word == MIRROR, "marker" if word in (USERS, MIRROR, "nobody") else word)
        for process in ("broker", "controller")
        for ms, word in lines
    ]


@dataclass
class Day:
    """Evidence that can still be changed. `open` says, by (member, who), when writes are let through."""

    open: dict[tuple[str, str], list[tuple[float, float]]]
    traces: dict[str, list[Change]]
    probes: list[Probe] = field(default_factory=list)
    load: list[Write] | None = field(default_factory=list)
    ended_ns: int | None = END
    heard_ns: int = END

    def build(self) -> Evidence:
        traces = [Trace(dc, f"kafka-{dc}-1", tuple(lines), self.heard_ns) for dc, lines in self.traces.items()]
        return Evidence(Info(TICK, LANES, START, self.ended_ns), self.probes, self.load, traces, self.heard_ns)

    def probe(self, dc: str, who: str, ms: float, outcome: Outcome, took: float = 2) -> None:
        self.probes.append(Probe(at(ms), at(ms + took), dc, f"kafka-{dc}-1", who, outcome, "", -1))

    def write(self, dc: str, ms: float, took: float = 2) -> None:
        assert self.load is not None
        self.load.append(Write(at(ms), at(ms + took), dc, USERS))

    def opens(self, dc: str, who: str, ms: float) -> bool:
        return any(first <= ms and ms + 2 <= last for first, last in self.open[dc, who])

    def forget(self, dc: str, who: str, first: float, last: float) -> None:
        """In that time the probes were not answered."""
        for index, probe in enumerate(self.probes):
            if probe.member == dc and probe.who == who and at(first) <= probe.sent_ns < at(last):
                self.probes[index] = probe._replace(outcome=Outcome.UNKNOWN)

    def ticks(self) -> Iterator[int]:
        yield from range(0, 10_000, TICK)


def clean() -> Day:
    """Nothing went wrong; probes every 25 ms, the load's writes every 10."""
    day = Day(
        open={
            ("dc-a", USERS): [(0, MOVED)],
            ("dc-b", USERS): [(MOVED + 100, 10_000)],
            ("dc-a", MIRROR): [(MOVED + 300, 10_000)],
            ("dc-b", MIRROR): [(0, MOVED - 100)],
        },
        traces={
            "dc-a": said((-9000, "started"), (-8000, USERS), (MOVED, "nobody"), (MOVED + 300, MIRROR)),
            "dc-b": said((-9000, "started"), (-8000, MIRROR), (MOVED - 100, "nobody"), (MOVED + 100, USERS)),
        },
    )
    for ms in day.ticks():
        for dc, _, who in LANES:
            day.probe(dc, who, ms, Outcome.ACKED if day.opens(dc, who, ms) else Outcome.REFUSED)
    for ms in range(0, 9990, 10):
        for dc in ("dc-a", "dc-b"):
            if day.opens(dc, USERS, ms):
                day.write(dc, ms)
    return day
