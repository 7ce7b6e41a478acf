"""What agents, gates and JMH wrote, as numbers: pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench.errors import BenchError
from bench.model import Figure
from dcdr.marker import Role
from lab.gates import Change

TOLD = re.compile(r"brokers of \S+ are told (?P<role>\w+), epoch (?P<epoch>\d+), mono_ns=(?P<mono_ns>\d+)\n")
VALID = re.compile(r"^dcdr_agent_marker_valid_seconds\S* (?P<seconds>\S+)$", re.MULTILINE)
PRODUCE, UNIT, KINDS = ".produceOneTopic", "ns/op", {"bare", "wrapped"}
COST_AIM_NS = 1000.0


class Told(NamedTuple):
    """What an agent decided to tell its brokers. `mono_ns`: CLOCK_MONOTONIC when the store's answer was there."""

    role: str
    epoch: int
    mono_ns: int


def told(log: Path) -> Iterator[Told]:
    """Every such line of an agent's log, oldest first; one that is being written just now is left out."""
    for found in TOLD.finditer(log.read_text()):
        yield Told(found["role"], int(found["epoch"]), int(found["mono_ns"]))


def delay_ms(decided: Told, changes: Iterable[Change], nodes: Collection[tuple[str, str]]) -> float | None:
    """From the agent's decision until the last of `nodes`, each (node, process), let users in or shut them out.

    Returns: None while one of them has not.
    """
    wanted = "open" if decided.role == Role.ACTIVE else "closed"
    first: dict[tuple[str, str], int] = {}
    for change in changes:
        if change.mono_ns >= decided.mono_ns and change.users == wanted:
            first.setdefault((change.node, change.process), change.mono_ns)
    if not nodes or not set(nodes) <= first.keys():
        return None
    return (max(first[node] for node in nodes) - decided.mono_ns) / 1e6


def valid_s(metrics: str) -> float:
    """How long the marker holds, as an agent's /metrics tells it. Raises: BenchError when it is not there."""
    found = VALID.search(metrics)
    if found is None:
        raise BenchError(f"the agent tells no dcdr_agent_marker_valid_seconds:\n{metrics[:500]}")
    return float(found["seconds"])


def longest_gap(sent: Sequence[float], began: float) -> float:
    """The longest time between two renewals of which the later one was sent after `began`.

    Raises: BenchError when there are none.
    """
    gaps = [after - before for before, after in pairwise(sent) if after > began]
    if not gaps:
        raise BenchError("the lease was not renewed after the fault")
    return max(gaps)


def produce_costs(results: Iterable[dict[str, Any]], user: str) -> list[Figure]:
    """What `authorize()` takes for a produce of one topic, ns, by every iteration in JMH's JSON; and what the wrapping
    adds: wrapped minus bare, medians.

    Raises: BenchError when one of the two was not measured, or not in nanoseconds.
    """
    found: dict[str, tuple[float, ...]] = {}
    for one in results:
        metric, how = one["primaryMetric"], one["params"]
        if one["benchmark"].endswith(PRODUCE) and how["user"] == user and metric["scoreUnit"] == UNIT:
            found[how["authorizer"]] = tuple(value for fork in metric["rawData"] for value in fork)
    if found.keys() != KINDS or not all(found.values()):
        raise BenchError(f"JMH measured {sorted(found) or 'nothing'} of a produce by {user} in {UNIT}, not {KINDS}")
    added = median(found["wrapped"]) - median(found["bare"])
    return [
        Figure(name=f"produce by {user}: the broker's own authorizer", unit="ns", values=found["bare"]),
        Figure(name=f"produce by {user}: behind our gates", unit="ns", values=found["wrapped"]),
        Figure(name=f"produce by {user}: wrapped minus bare, medians", unit="ns", values=(added,), aim=COST_AIM_NS),
    ]
