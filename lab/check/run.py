"""From folders and addresses to a verdict."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.check.judge import judge
from lab.check.logs import Cluster, ClusterLog, ReadError, cluster_id, read
from lab.check.loss import Loss
from lab.check.model import Demands, Evidence, Outcome, Verdict
from lab.check.runs import Labels, Runs, read_runs
from lab.load.config import Kind
from lab.load.outage import Ack, Outage, outages

CATCH_UP_LOOK_S = 0.5


@dataclass(frozen=True)
class Checked:
    """A verdict with what else a reader wants to know."""

    verdict: Verdict
    active: str
    moves: tuple[Outage, ...]
    seconds: Mapping[str, float]


def check(
    folders: Sequence[Path],
    clusters: Sequence[Cluster],
    active: str | Mapping[str, Any],
    demands: Demands | None = None,
    catch_up_s: float = 30.0,
    say: Callable[[str], None] = lambda line: None,
    loss: Loss | None = None,
) -> Checked:
    """Read runs and both clusters, and judge.

    Args:
        folders: run folders, as the load wrote them; all runs that wrote to the topics.
        active: the name of the active data center, or librdkafka settings of the endpoint to ask for it.
        catch_up_s: with `standby_complete`, how long the standby may take to hold everything.
        loss: the report of a failover; exactly what it names may be missing.
    Raises: JournalError, ReadError; ValueError when the loss report is about other sides.
    """
    demands = demands or Demands()
    started = time.monotonic()
    ids = {cluster_id(cluster): cluster.name for cluster in clusters}
    if len(ids) < len(clusters):
        raise ReadError("two of the addresses lead to the same cluster: give one address for each data center")
    if not isinstance(active, str):
        found = cluster_id(Cluster("the endpoint", active))
        if found not in ids:
            raise ReadError(f"the endpoint leads to cluster {found}, which is none of the data centers given")
        active = ids[found]
    enabled = gc.isenabled()
    gc.disable()  # millions of small lasting objects: looking through them again and again doubles the time
    try:
        runs = read_runs(folders, ids)
        seconds = {"journals": round(time.monotonic() - started, 3)}
        say(f"{len(runs.attempts)} attempts of {len(runs.infos)} runs")
        logs: dict[str, ClusterLog] = {}
        mark = time.monotonic()
        # The active side first: what the standby gets meanwhile is on the active side already.
        for cluster in sorted(clusters, key=lambda cluster: cluster.name == active):
            logs[cluster.name] = read(cluster, runs.topics, runs.names.number)
        if demands.standby_complete:
            _wait_for_standby(clusters, active, runs, logs, catch_up_s, say)
        for name, log in logs.items():
            say(f"{sum(map(len, log.records.values()))} visible records on {name}")
        seconds["logs"] = round(time.monotonic() - mark, 3)
        mark = time.monotonic()
        verdict = judge(_evidence(runs, logs, active), demands, loss)
        seconds["judging"] = round(time.monotonic() - mark, 3)
        moves = tuple(outages(_acks(runs)))
    finally:
        if enabled:
            gc.enable()
    return Checked(verdict, active, moves, seconds)


def _wait_for_standby(
    clusters: Sequence[Cluster],
    active: str,
    runs: Runs,
    logs: dict[str, ClusterLog],
    catch_up_s: float,
    say: Callable[[str], None],
) -> None:
    """Read the standby again until it holds the last record of every partition, or the time is over.

    The last one, because a mirror keeps the order, and because compaction leaves it alone.
    """
    wanted = {place: records[-1].attempt for place, records in logs[active].records.items() if records}
    deadline = time.monotonic() + catch_up_s
    for cluster in clusters:
        if cluster.name == active:
            continue
        while time.monotonic() < deadline:
            held = logs[cluster.name].records
            behind = [
                place
                for place, last in wanted.items()
                if all(last != seen.attempt for seen in held.get(place, [])[-100:])
            ]
            if not behind:
                break
            say(f"{len(behind)} partitions of {cluster.name} are not complete yet; waiting for the mirror")
            time.sleep(CATCH_UP_LOOK_S)
            logs[cluster.name] = read(cluster, runs.topics, runs.names.number, logs[cluster.name])


def _acks(runs: Runs) -> list[Ack]:
    """What the followers were told, in the words of the outage's measurement."""
    return [
        Ack(attempt.sent_ns, attempt.settled_ns, attempt.dc, attempt.producer)
        for attempt in runs.attempts.values()
        if attempt.outcome is Outcome.OK and attempt.producer not in runs.pinned
    ]


def _evidence(runs: Runs, logs: Mapping[str, ClusterLog], active: str) -> Evidence:
    return Evidence(
        attempts=runs.attempts,
        logs={name: log.records for name, log in logs.items()},
        active=active,
        compacted=frozenset(topic for topic, kind in runs.topics.items() if kind == Kind.COMPACTED),
        groups=runs.groups,
        group_names=tuple(runs.group_names),
        pinned=frozenset(runs.pinned),
        blocked={name: log.blocked for name, log in logs.items()},
        labels=Labels(runs.names, runs.attempts),
    )
