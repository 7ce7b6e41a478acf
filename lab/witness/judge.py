"""Judge from three witnesses whether two sides were ever writable at once, and how long a closing took. Pure.

**What is certain.** An acknowledgement proves that its cluster let one write through at some instant between `sent_ns`
and `answered_ns`, and no more than that. A gate's trace gives openings that are not later, and closings that are not
earlier, than they were. Nothing here is called an anomaly unless every history that fits the evidence has it; what only
may have happened makes the run "not proven" (exit code 3), which passes nowhere either.

**Two at once**, for two that must exclude each other: users on one member and users on the other, or users and the
mirror on one member. Call them X and Y.

* *Gates*: some gate of X and some gate of Y stood open at one instant, each for `STALL_NS` before and after it. The
  margin covers a broker's thread that is set aside between changing its gate and reading the clock.
* *Gates and acknowledgements*: a write to X was sent and answered within a time in which a gate of Y stood open (with
  the same margin). Its instant lies between the two, so at that instant both let writes through.
* *Acknowledgements alone*: X acknowledged x1, Y acknowledged y, X acknowledged x2; y was sent after the answer of x1,
  and x2 after the answer of y, so their instants are in that order. If never both were writable, X was closed and Y
  opened between the first two, and the reverse between the last two: the lease moved there and back between the sending
  of x1 and the answer of x2. Where these are less than `TURN_NS` apart there was no time for that, so both were
  writable at once. One x and one y alone prove nothing, whatever their order: that is a switchover.

  `TURN_NS` is the one assumption. A takeover waits for L, 7 s in the quickest preset, and a switchover cannot begin
  before the one before it has ended, checks both clusters, and drains a mirror that was started only then.

**Past its gate**: a member acknowledged a write, and no gate of that member was open at any instant between its sending
and its answer. A gate whose process ended without a last word counts as open until its successor speaks.

**Closed late**: a write was *sent* later than the bound and acknowledged, or a gate stood open later than the bound
(with the margin). A write that was sent before and answered after it is not proof: its answer may only have been late.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple

from lab.gates import Change
from lab.witness.probes import MIRROR, USERS, WHO, Info, Outcome, Probe

STALL_NS = 25_000_000
TURN_NS = 1_000_000_000
GAP_NS = 200_000_000
LIVE_NS = 1_000_000_000
HEARD_NS = 1_000_000_000
"""What a gate did so long ago is on record: an expiry is noticed within 100 ms, and a thread of its own writes it."""
FOREVER = 1 << 62
PROCESSES = frozenset({"broker", "controller"})

Party = tuple[str, str]
"""(member, users or mirror): what may or may not write."""
Times = list[tuple[int, int]]


class Write(NamedTuple):
    """One acknowledged write."""

    sent_ns: int
    answered_ns: int
    member: str
    who: str


class Trace(NamedTuple):
    """What a broker's gates said, oldest first, those of its controller included.

    `heard_ns`: so long its last words held, because it runs; None where nobody can tell: it is down, or frozen.
    """

    member: str
    broker: str
    changes: tuple[Change, ...]
    heard_ns: int | None


class Span(NamedTuple):
    """A gate stood open, certainly until `until_ns`; from `closed_ns` on it was certainly closed."""

    opened_ns: int
    until_ns: int
    closed_ns: int


@dataclass(frozen=True)
class Evidence:
    """What there is to judge by. `load` is None when no load was named; `heard_ns`: how far the traces are complete."""

    info: Info
    probes: Sequence[Probe]
    load: Sequence[Write] | None
    traces: Sequence[Trace]
    heard_ns: int

    @property
    def started_ns(self) -> int:
        return self.info.started_ns

    @cached_property
    def ended_ns(self) -> int:
        """When the prober was told to end; of one that was killed, its last word."""
        return self.info.ended_ns or max((probe.settled_ns for probe in self.probes), default=self.started_ns)

    @cached_property
    def members(self) -> list[str]:
        return sorted({lane.member for lane in self.info.lanes})

    @cached_property
    def writes(self) -> dict[str, dict[Party, list[Write]]]:
        """witness -> who wrote where -> acknowledged writes, of the time that is judged."""
        probes = [
            Write(probe.sent_ns, probe.settled_ns, probe.member, probe.who)
            for probe in self.probes
            if probe.outcome is Outcome.ACKED
        ]
        found: dict[str, dict[Party, list[Write]]] = {}
        for witness, writes in {"probes": probes, "load": self.load or []}.items():
            of = found[witness] = {(member, who): [] for member in self.members for who in WHO}
            for write in writes:
                if write.sent_ns >= self.started_ns and write.answered_ns <= self.ended_ns:
                    of.setdefault((write.member, write.who), []).append(write)
        return found

    def all_writes(self, party: Party) -> list[Write]:
        return [write for of in self.writes.values() for write in of.get(party, ())]


@dataclass(frozen=True)
class Closing:
    """Users of `member`, who could write until `since_ns`, must be shut out `within_s` seconds after it, and stay so
    until `until_ns` (default: the end)."""

    member: str
    since_ns: int
    within_s: float
    until_ns: int | None = None

    @property
    def deadline_ns(self) -> int:
        return self.since_ns + round(self.within_s * 1e9)


class Kind(StrEnum):
    """Kinds of anomaly."""

    TWO_WRITABLE = "two-writable"
    BOTH_GATES = "both-gates"
    PAST_ITS_GATE = "past-its-gate"
    CLOSED_LATE = "closed-late"


MEANING = {
    Kind.TWO_WRITABLE: "users could write on both members at once",
    Kind.BOTH_GATES: "users and the mirror could write on one member at once",
    Kind.PAST_ITS_GATE: "acknowledged while every gate of its member was closed",
    Kind.CLOSED_LATE: "users could still write when the bound was over",
}


class Finding(NamedTuple):
    """One anomaly, by whom it was seen, and where it begins and ends."""

    kind: Kind
    witness: str
    where: str
    first_ns: int
    last_ns: int
    detail: str


class Pause(NamedTuple):
    """A time without an acknowledged write of users anywhere; `before` and `after` are the members beside it."""

    first_ns: int
    last_ns: int
    before: str
    after: str

    @property
    def seconds(self) -> float:
        return (self.last_ns - self.first_ns) / 1e9


class Closed(NamedTuple):
    """How a closing went, in seconds after its event: the last write of users was sent and answered; the gates' end.

    None: nothing was acknowledged, or no gate was open, after the event.
    """

    member: str
    within_s: float
    last_sent_s: float | None
    last_answered_s: float | None
    gate_s: float | None


@dataclass
class Verdict:
    """What the judge found. `not_proven`: why nothing wrong being found does not count."""

    started_ns: int
    ended_ns: int
    findings: list[Finding] = field(default_factory=list)
    not_proven: list[str] = field(default_factory=list)
    closings: list[Closed] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)
    lanes: dict[str, dict[str, int]] = field(default_factory=dict)
    load: dict[str, int] = field(default_factory=dict)
    open_times: dict[str, Times] = field(default_factory=dict)
    unheard: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.findings and not self.not_proven

    @property
    def exit_code(self) -> int:
        """0 clean, 1 anomalies, 3 nothing wrong was found and nothing was proven."""
        return 1 if self.findings else 3 if self.not_proven else 0


def judge(evidence: Evidence, closings: Iterable[Closing] = ()) -> Verdict:
    """Judge what happened between the prober's start and its end."""
    verdict = Verdict(evidence.started_ns, evidence.ended_ns)
    gates = _Gates(evidence)
    _enough(evidence, gates, verdict)
    members = evidence.members
    rivals = [(Kind.TWO_WRITABLE, (one, USERS), (two, USERS)) for one, two in pairwise(members)]
    rivals += [(Kind.BOTH_GATES, (member, USERS), (member, MIRROR)) for member in members]
    for kind, one, two in rivals:
        _never_both(kind, one, two, evidence, gates, verdict)
    for member in members:
        for who in WHO:
            _behind_its_gate((member, who), evidence, gates, verdict)
    for closing in closings:
        _closed_within(closing, evidence, gates, verdict)
    verdict.pauses = list(_pauses(evidence))
    return verdict


# --- the gates ---


def spans(trace: Trace) -> Iterator[tuple[str, Span]]:
    """(users or mirror, when that gate of one process stood open)."""
    series: dict[tuple[str, str], list[Change]] = {}
    for change in trace.changes:
        series.setdefault((change.node, change.process), []).append(change)
    for lines in series.values():
        for who in WHO:
            opened = said = -1
            for line in lines:
                if getattr(line, who) == "open":
                    opened, said = line.mono_ns if opened < 0 else opened, line.mono_ns
                elif opened >= 0:
                    # The next process of that name tells when it came, not when the one before it ended.
                    yield who, Span(opened, said if line.reason == "started" else line.mono_ns, line.mono_ns)
                    opened = -1
            if opened >= 0:
                yield who, Span(opened, max(said, trace.heard_ns or 0), FOREVER)


class _Gates:
    """When gates stood open, of all processes of a member together."""

    def __init__(self, evidence: Evidence) -> None:
        self.since_ns = evidence.started_ns
        self.heard_ns = min(evidence.ended_ns, evidence.heard_ns)
        self.known: set[str] = set(evidence.members)
        """Members whose traces are whole."""
        self.spans: dict[Party, list[Span]] = {(member, who): [] for member in evidence.members for who in WHO}
        for trace in evidence.traces:
            for who, span in spans(trace):
                self.spans.setdefault((trace.member, who), []).append(span)

    def surely(self, party: Party, margin_ns: int = STALL_NS) -> Times:
        """When a gate was certainly open."""
        return self._merged((one.opened_ns + margin_ns, one.until_ns - margin_ns) for one in self.spans[party])

    def told(self, party: Party) -> Times:
        """When a gate was open by its own words."""
        return self.surely(party, 0)

    def possibly(self, party: Party) -> Times:
        """When a gate may have been open; the other times it was certainly closed."""
        return self._merged((one.opened_ns, one.closed_ns) for one in self.spans[party])

    def _merged(self, times: Iterable[tuple[int, int]]) -> Times:
        merged: Times = []
        for first, last in sorted((max(first, self.since_ns), min(last, self.heard_ns)) for first, last in times):
            if first >= last:
                continue
            if merged and first <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], last))
            else:
                merged.append((first, last))
        return merged


def overlaps(one: Times, two: Times) -> Times:
    """The times common to two lists, each in order and without overlaps of its own."""
    found, i, j = [], 0, 0
    while i < len(one) and j < len(two):
        first, last = max(one[i][0], two[j][0]), min(one[i][1], two[j][1])
        if first < last:
            found.append((first, last))
        i, j = (i + 1, j) if one[i][1] < two[j][1] else (i, j + 1)
    return found


# --- the rules ---


def _never_both(kind: Kind, one: Party, two: Party, evidence: Evidence, gates: _Gates, verdict: Verdict) -> None:
    where = f"{_name(one)} and {_name(two)}"
    certain = overlaps(gates.surely(one), gates.surely(two))
    for first, last in certain:
        detail = f"gates of both open for {_ms(last - first + 2 * STALL_NS)}"
        verdict.findings.append(Finding(kind, "gates", where, first, last, detail))
    for first, last in overlaps(gates.told(one), gates.told(two)):
        if not overlaps(certain, [(first, last)]):
            long = f"{_ms(last - first)} at {_at(first, evidence)}"
            verdict.not_proven.append(f"{where}: gates of both open for {long}, too short to be certain")
    for x, y in ((one, two), (two, one)):
        for witness, of in evidence.writes.items():
            inside = list(_inside(of[x], gates.surely(y)))
            if inside:
                detail = f"{len(inside)} writes of {_name(x)} while the gate of {_name(y)} was open"
                verdict.findings.append(_finding(kind, f"{witness} and gates", where, inside, detail))
        seen = {witness: _turns(of[x], of[y]) for witness, of in evidence.writes.items()}
        if not any(seen.values()):
            seen = {"load and probes": _turns(evidence.all_writes(x), evidence.all_writes(y))}
        for witness, turns in seen.items():
            if turns:
                detail = f"{len(turns)} writes of {_name(y)} between two of {_name(x)}, without the time to move twice"
                verdict.findings.append(_finding(kind, witness, where, turns, detail))


def _turns(outer: Sequence[Write], inner: Sequence[Write]) -> list[Write]:
    """Writes of `inner` that certainly lie between two of `outer`, with less than `TURN_NS` from first to last."""
    by_answer = sorted(outer, key=lambda write: write.answered_ns)
    answers, sent_last = [w.answered_ns for w in by_answer], list(accumulate((w.sent_ns for w in by_answer), max))
    by_sending = sorted(outer, key=lambda write: write.sent_ns)
    sendings = [w.sent_ns for w in by_sending]
    answered_first = list(accumulate((w.answered_ns for w in reversed(by_sending)), min))[::-1]
    found = []
    for write in inner:
        before, after = bisect_right(answers, write.sent_ns) - 1, bisect_left(sendings, write.answered_ns)
        if before >= 0 and after < len(sendings) and answered_first[after] - sent_last[before] < TURN_NS:
            found.append(write)
    return found


def _inside(writes: Iterable[Write], times: Times) -> Iterator[Write]:
    """Writes that were sent and answered within one of the times."""
    starts = [first for first, _ in times]
    for write in writes:
        index = bisect_right(starts, write.sent_ns) - 1
        if index >= 0 and write.answered_ns <= times[index][1]:
            yield write


def _behind_its_gate(party: Party, evidence: Evidence, gates: _Gates, verdict: Verdict) -> None:
    if party[0] not in gates.known:
        return
    times = gates.possibly(party)
    ends = [last for _, last in times]
    for witness, of in evidence.writes.items():
        past = []
        for write in of[party]:
            index = bisect_left(ends, write.sent_ns)
            shut = index == len(times) or times[index][0] > write.answered_ns
            if shut and write.answered_ns <= gates.heard_ns:
                past.append(write)
        if past:
            detail = f"{len(past)} writes although no gate was open"
            verdict.findings.append(_finding(Kind.PAST_ITS_GATE, f"{witness} and gates", _name(party), past, detail))


def _closed_within(closing: Closing, evidence: Evidence, gates: _Gates, verdict: Verdict) -> None:
    party, since, deadline = (closing.member, USERS), closing.since_ns, closing.deadline_ns
    end = min(closing.until_ns or FOREVER, evidence.ended_ns)
    what = f"{_name(party)} closed within {closing.within_s:g} s of {_at(since, evidence)}"
    if closing.member not in evidence.members:
        verdict.not_proven.append(f"{what}: no such member; there are {', '.join(evidence.members)}")
        return
    if min(end, gates.heard_ns) <= deadline or since < evidence.started_ns:
        verdict.not_proven.append(f"{what}: the witnesses did not see all of that time")
    written = evidence.all_writes(party)
    if not any(write.answered_ns > since - LIVE_NS and write.sent_ns < deadline for write in written):
        verdict.not_proven.append(f"{what}: nothing was acknowledged there just before, so nothing was closed")
    for witness, of in evidence.writes.items():
        writes = [write for write in of[party] if write.sent_ns < end]
        if late := [write for write in writes if write.sent_ns > deadline]:
            over = (max(write.sent_ns for write in late) - since) / 1e9
            detail = f"{len(late)} writes were sent after the bound, the last {over:.3f} s after the event"
            verdict.findings.append(_finding(Kind.CLOSED_LATE, witness, _name(party), late, detail))
        if slow := [write for write in writes if write.sent_ns <= deadline < write.answered_ns]:
            verdict.not_proven.append(f"{what}: {len(slow)} writes of the {witness} were answered after the bound only")
    certain = overlaps(gates.surely(party), [(deadline, end)])
    for first, last in certain:
        over = (last + STALL_NS - since) / 1e9
        detail = f"a gate was open until {over:.3f} s after the event"
        verdict.findings.append(Finding(Kind.CLOSED_LATE, "gates", _name(party), first, last, detail))
    if not certain and overlaps(gates.told(party), [(deadline, end)]):
        verdict.not_proven.append(f"{what}: a gate closed too near to the bound to be certain")
    after = [write for write in written if write.answered_ns > since and write.sent_ns < end]
    ends = [last for _, last in overlaps(gates.told(party), [(since, end)])]
    verdict.closings.append(
        Closed(
            closing.member,
            closing.within_s,
            _seconds(max((write.sent_ns for write in after), default=None), since),
            _seconds(max((write.answered_ns for write in after), default=None), since),
            _seconds(max(ends, default=None), since),
        )
    )


# --- whether there is anything to judge by ---


def _enough(evidence: Evidence, gates: _Gates, verdict: Verdict) -> None:
    missing = verdict.not_proven
    if len(evidence.members) != 2:
        missing.append(f"{len(evidence.members)} members were probed, not two")
    if evidence.info.ended_ns is None:
        missing.append("the prober was not ended in order: it runs still, or was killed")
    if evidence.heard_ns < evidence.ended_ns:
        missing.append("the traces were read too soon after the end: judge again")
    moments: dict[tuple[str, str, str], list[int]] = {lane: [] for lane in evidence.info.lanes}
    told: dict[tuple[str, str, str], Counter[str]] = {lane: Counter() for lane in evidence.info.lanes}
    for probe in evidence.probes:
        if evidence.started_ns <= probe.sent_ns <= evidence.ended_ns:
            moments[probe.lane].append(probe.sent_ns)
            told[probe.lane][probe.outcome.value] += 1
    for lane in evidence.info.lanes:
        name, outcomes = f"{lane.broker} as {lane.who}", told[lane]
        verdict.lanes[name] = {outcome.value: outcomes[outcome.value] for outcome in Outcome}
        if not outcomes[Outcome.ACKED.value] + outcomes[Outcome.REFUSED.value]:
            missing.append(f"{name}: no probe was answered")
        times = sorted([evidence.started_ns, *moments[lane], evidence.ended_ns])
        worst = max(after - before for before, after in pairwise(times))
        if worst > GAP_NS:
            missing.append(f"{name}: no probe for {_ms(worst)}, {_ms(GAP_NS)} is allowed")
    if not any(evidence.writes["probes"][member, USERS] for member in evidence.members):
        missing.append("no probe of users was ever acknowledged: nobody was writable")
    if evidence.load is not None:
        verdict.load = {member: len(evidence.writes["load"][member, USERS]) for member in evidence.members}
        if not any(verdict.load.values()):
            missing.append("the load has no acknowledgement in this time")
        if strangers := {write.member for write in evidence.load} - set(evidence.members):
            missing.append(f"the load wrote to {', '.join(sorted(strangers))}, which is no member of this lab")
    _whole_traces(evidence, gates, verdict)


def _whole_traces(evidence: Evidence, gates: _Gates, verdict: Verdict) -> None:
    known = {trace.broker: trace for trace in evidence.traces}
    for lane in evidence.info.lanes:
        if lane.broker not in known:
            known[lane.broker] = Trace(lane.member, lane.broker, (), None)
    for trace in known.values():
        reasons = []
        # Each has said something before the prober's start: it had answered, so it was up.
        if absent := PROCESSES - {one.process for one in trace.changes if one.mono_ns <= evidence.started_ns}:
            reasons.append(f"no trace of its {' and '.join(sorted(absent))} from before the prober's start")
        if lost := sum(one.lines_lost for one in trace.changes if one.mono_ns >= evidence.started_ns):
            reasons.append(f"its trace lacks {lost} lines")
        if reasons:
            gates.known.discard(trace.member)
            verdict.not_proven.append(f"{trace.broker}: {', '.join(reasons)}")
        for who, span in spans(trace):
            if span.until_ns < min(span.closed_ns, evidence.ended_ns) and span.closed_ns > evidence.started_ns:
                name = f"{trace.broker} ended with the gate of {who} open; last heard at {_at(span.until_ns, evidence)}"
                verdict.unheard.append(name)
    for (member, who), _ in sorted(gates.spans.items()):
        verdict.open_times[_name((member, who))] = gates.told((member, who))


def _pauses(evidence: Evidence) -> Iterator[Pause]:
    writes = [write for member in evidence.members for write in evidence.all_writes((member, USERS))]
    writes.sort(key=lambda write: write.answered_ns)
    for before, after in pairwise(writes):
        if after.answered_ns - before.answered_ns > GAP_NS:
            yield Pause(before.answered_ns, after.answered_ns, before.member, after.member)


# --- words ---


def _finding(kind: Kind, witness: str, where: str, writes: Sequence[Write], detail: str) -> Finding:
    first, last = min(write.sent_ns for write in writes), max(write.answered_ns for write in writes)
    return Finding(kind, witness, where, first, last, detail)


def _name(party: Party) -> str:
    return f"{party[1]} of {party[0]}"


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.1f} ms"


def _at(ns: int, evidence: Evidence) -> str:
    return f"{(ns - evidence.started_ns) / 1e9:+.3f} s"


def _seconds(ns: int | None, since_ns: int) -> float | None:
    return None if ns is None else (ns - since_ns) / 1e9


__all__ = ["Closing", "Evidence", "Finding", "Kind", "Trace", "Verdict", "Write", "judge", "overlaps", "spans"]
