"""One series: a fresh estate, steady traffic, switchovers to and fro, and the checker's verdict at the end."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.contestants import ROOT, open_switcher
from bench.errors import BenchError
from bench.mirror import wait_until_close
from bench.model import Contestant, Run, Series, StepTime, Wanted
from lab import Lab
from lab.addresses import MEMBERS, other
from lab.check import Demands
from lab.check.estate import check_lab
from lab.check.report import WORDS
from lab.load import ClientManners, Load, Outage, outages, read_acks
from lab.load.estate import STAYING, Estate
from lab.load.outage import Ack
from lab.reset import reset

Say = Callable[[str], None]
ROOMS = (
    "dcdr", "adapters", "activities", "workflows", "worker", "starter", "agent", "bench", "lab/load",
    "authorizer/src/main", "authorizer/src/jmh",
)  # fmt: skip
SOURCES = (".py", ".sh", ".java")
STEADY_S = 4.0
"""Traffic between two switchovers, so that the second before the fence can be looked at."""
FIRST_S = 12.0
"""Traffic before the first: within two looks, 5 s apart, the checkpoint connector finds the load's groups and starts
its task anew for them. A stop that meets the starting task takes Connect's graceful time-out of 10 s."""
CLOSE_S = 0.5
"""How far the mirror may be behind, in seconds of traffic: every contestant drains the same."""
ACKS_LIMIT_S = 60.0
CATCH_UP_S = 60.0


@dataclass(frozen=True)
class _Attempt:
    """One switchover as it was asked for: between `began_ns` and `ended_ns` (CLOCK_MONOTONIC) the writers moved."""

    number: int
    target: str
    began_ns: int
    ended_ns: int
    wall_ns: int
    """What to add to a monotonic time for a Unix time."""
    steps: tuple[StepTime, ...]


def code_digest() -> str:
    """Names the code that is measured: a result of other code is not taken for this one's."""
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            if path.suffix in SOURCES:
                digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


async def measure(lab: Lab, contestant: Contestant, wanted: Wanted, folder: Path, say: Say) -> Series:
    """Run one series.

    Raises: BenchError when a switchover fails or traffic never flows; LabError, LoadError, ReadError, JournalError.
    """
    say(f"{contestant}: a fresh estate")
    await asyncio.to_thread(reset, lab.name, False, lambda line: None)
    started = datetime.now(UTC)
    manners = ClientManners.NAIVE if contestant is Contestant.NAIVE else ClientManners.GOOD
    out = lab.home.path / "load" / f"bench-{contestant}-{started:%H%M%S}"
    config = Estate.open(lab.name).load_config(
        rate=wanted.rate, size=wanted.size, client=manners, groups=STAYING, out=out
    )
    load = Load(config)
    async with open_switcher(contestant, lab, folder) as switcher:
        try:
            await asyncio.to_thread(load.start)
            await flow(load, lab, MEMBERS[0], wanted.rate, FIRST_S)
            load_average = os.getloadavg()[0]
            source, attempts = MEMBERS[0], list[_Attempt]()
            runs: list[Run] = []
            discarded: list[str] = []
            while len(runs) < wanted.switchovers:
                if len(attempts) > 2 * wanted.switchovers + 2:
                    raise BenchError(f"{contestant}: too many runs without steady traffic: {'; '.join(discarded)}")
                for _ in range(wanted.switchovers - len(runs)):
                    target = other(source)
                    say(f"{contestant}: switchover {len(attempts) + 1}, {source} to {target}")
                    began_ns = time.monotonic_ns()
                    steps = await switcher.switch(source, target)
                    await flow(load, lab, target, wanted.rate)
                    now = time.monotonic_ns()
                    wall = time.time_ns() - now
                    attempts.append(_Attempt(len(attempts) + 1, target, began_ns, now, wall, tuple(steps)))
                    source = target
                runs, discarded = judge(attempts, await asyncio.to_thread(read_acks, out), lab.document["cluster_ids"])
                for line in discarded:
                    say(f"{contestant}: discarded {line}")
            await asyncio.to_thread(load.stop)
        except BaseException:
            load.kill()
            raise
    say(f"{contestant}: checking {out.name}")
    demands = Demands(switchovers=len(attempts), standby_complete=contestant.must_be_clean)
    checked = await asyncio.to_thread(check_lab, lab.name, [out], demands, None, CATCH_UP_S)
    verdict = checked.verdict
    for line in (*map(str, verdict.samples[:5]), *verdict.vacuous):
        say(f"{contestant}: {line}")
    return Series(
        contestant=contestant,
        code=code_digest(),
        wanted=wanted,
        started=f"{started:%Y-%m-%dT%H:%M:%SZ}",
        load_average=round(load_average, 1),
        runs=tuple(runs),
        discarded=tuple(discarded),
        verdict=WORDS[verdict.exit_code],
        anomalies={kind.value: count for kind, count in verdict.counts.items() if count},
        acknowledged=sum(load.summary["acked"].values()),
    )


async def flow(load: Load, lab: Lab, dc: str, rate: float, seconds: float = STEADY_S) -> None:
    """Wait until `dc` has acknowledged some seconds' worth of records, and its mirror is close behind."""
    cluster = lab.document["cluster_ids"][dc]
    await asyncio.to_thread(load.wait_for_acks, int(rate * seconds), ACKS_LIMIT_S, cluster)
    await asyncio.to_thread(wait_until_close, lab, dc, int(rate * CLOSE_S))


def judge(attempts: Sequence[_Attempt], acks: Sequence[Ack], clusters: dict[str, str]) -> tuple[list[Run], list[str]]:
    """Find each attempt's outage in the load's log.

    Args:
        clusters: data center -> cluster id, as the log names it.
    Returns: the runs that count, and why the others do not.
    """
    moves = outages(acks)
    names = sorted({ack.producer for ack in acks if ack.producer.startswith("p")})
    single = [outages([ack for ack in acks if ack.producer == name]) for name in names]
    runs, discarded = [], []
    for attempt in attempts:
        found = _within(moves, attempt)
        if len(found) != 1:
            discarded.append(f"switchover {attempt.number}: the producers moved {len(found)} times")
            continue
        move = found[0]
        if not move.flowing or move.target != clusters[attempt.target]:
            windows = ", ".join(map(str, move.windows))
            discarded.append(
                f"switchover {attempt.number}: traffic was not steady before the fence ({windows} acknowledgements in "
                f"the last 50 ms windows, {move.usual:g} are usual)"
            )
            continue
        own = [one.seconds for each in single for one in _within(each, attempt)]
        runs.append(
            Run(
                target=attempt.target,
                outage_ms=move.seconds * 1000,
                slowest_ms=max(own, default=move.seconds) * 1000,
                last_ack_ns=move.last_ack_ns + attempt.wall_ns,
                first_ack_ns=move.first_ack_ns + attempt.wall_ns,
                steps=attempt.steps,
            )
        )
    return runs, discarded


def _within(moves: Sequence[Outage], attempt: _Attempt) -> list[Outage]:
    return [one for one in moves if attempt.began_ns <= one.last_ack_ns and one.first_ack_ns <= attempt.ended_ns]
