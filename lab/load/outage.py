"""What producers saw of a switchover: from the last acknowledgement on one side to the first on the other."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from lab.load.journal import read_header, read_lines

WINDOW_NS = 50_000_000
QUIET_WINDOWS = 4
FLOWING_SHARE = 0.4


@dataclass(frozen=True, order=True, slots=True)
class Ack:
    """One acknowledgement. Times in nanoseconds of CLOCK_MONOTONIC; `cluster` as the log names it."""

    sent_ns: int
    acked_ns: int
    cluster: str
    producer: str


@dataclass(frozen=True, slots=True)
class Era:
    """A stretch of acknowledgements by one cluster."""

    cluster: str
    first_ack_ns: int
    last_ack_ns: int
    acks: int


@dataclass(frozen=True, slots=True)
class Outage:
    """One move of the producers.

    `windows` counts acknowledgements in the 50 ms windows that end with the last one on the old side, oldest first;
    `usual` is the median of the second before those. A measurement counts only if traffic was `flowing`.
    """

    source: str
    target: str
    last_ack_ns: int
    first_ack_ns: int
    windows: tuple[int, ...]
    usual: float

    @property
    def seconds(self) -> float:
        return (self.first_ack_ns - self.last_ack_ns) / 1e9

    @property
    def flowing(self) -> bool:
        """Each of the last four windows carried at least 40 % of what was usual."""
        return self.usual > 0 and all(count >= FLOWING_SHARE * self.usual for count in self.windows)


def read_acks(folder: Path, pinned: bool = False) -> list[Ack]:
    """All acknowledgements of a run's followers, and of its pinned producers if asked for; a transaction's count from
    its commit."""
    acks: list[Ack] = []
    for path in sorted(folder.glob("producer-*.tsv")):
        header = read_header(path)
        if header["role"] != "follow" and not pinned:
            continue
        clusters: dict[str, str] = {}
        sent: dict[str, tuple[int, str]] = {}
        delivered: dict[str, list[int]] = {}
        for fields in read_lines(path):
            match fields[0]:
                case "I":
                    clusters[fields[1]] = fields[2]
                case "S":
                    sent[fields[1]] = (int(fields[8]), fields[9])
                case "A":
                    sent_ns, txn = sent.pop(fields[1])
                    if txn:
                        delivered.setdefault(txn, []).append(sent_ns)
                    else:
                        acks.append(Ack(sent_ns, int(fields[6]), clusters.get(fields[2], ""), header["producer"]))
                case "C":
                    at = int(fields[3])
                    cluster = clusters.get(fields[2], "")
                    times = delivered.pop(fields[1], [])
                    acks += [Ack(sent_ns, at, cluster, header["producer"]) for sent_ns in times]
                case "X" | "Q":
                    delivered.pop(fields[1], None)
                case _:
                    pass
    return acks


def eras(acks: Iterable[Ack]) -> list[Era]:
    """The acknowledgements cut where the cluster changes.

    In the order of sending: an answer may be late, but what A acknowledged was sent before A closed, and what B
    acknowledged was sent after a client had found B open.
    """
    found: list[Era] = []
    for ack in sorted(acks):
        if found and found[-1].cluster == ack.cluster:
            last = found[-1]
            first_ns, last_ns = min(last.first_ack_ns, ack.acked_ns), max(last.last_ack_ns, ack.acked_ns)
            found[-1] = Era(ack.cluster, first_ns, last_ns, last.acks + 1)
        else:
            found.append(Era(ack.cluster, ack.acked_ns, ack.acked_ns, 1))
    return found


def outages(acks: Sequence[Ack]) -> list[Outage]:
    """One `Outage` for each change of cluster, in order of time."""
    times: dict[str, list[int]] = {}
    for ack in acks:
        times.setdefault(ack.cluster, []).append(ack.acked_ns)
    for series in times.values():
        series.sort()
    found = []
    stretches = eras(acks)
    for before, after in pairwise(stretches):
        series = times[before.cluster]

        def counted(back: int, series: list[int] = series, end: int = before.last_ack_ns) -> int:
            start = end - (back + 1) * WINDOW_NS
            return bisect_left(series, start + WINDOW_NS + 1) - bisect_left(series, start + 1)

        usual = median(counted(back) for back in range(QUIET_WINDOWS, QUIET_WINDOWS + 20))
        windows = tuple(counted(back) for back in reversed(range(QUIET_WINDOWS)))
        found.append(Outage(before.cluster, after.cluster, before.last_ack_ns, after.first_ack_ns, windows, usual))
    return found


def median_and_worst(measured: Sequence[Outage]) -> tuple[float, float]:
    """(p50, worst) in seconds. Raises: ValueError if there is none, or traffic was not flowing before one of them."""
    still = [outage for outage in measured if not outage.flowing]
    if not measured or still:
        raise ValueError(
            f"{len(still)} of {len(measured)} switchovers had no steady traffic before them: nothing was measured"
        )
    seconds = [outage.seconds for outage in measured]
    return median(seconds), max(seconds)
