"""Failovers under load: how long producers stand still beyond the lease's floor L, where that time goes, and how far
the bound of what is lost is from the truth.

Each begins on a fresh estate: there is no way back to a side that was left behind but its failback.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode

from adapters.directory import build_directory
from bench.errors import BenchError
from bench.floor import unix_ns
from bench.model import Figure, Measured, Trial, Wanted
from bench.series import CATCH_UP_S, FIRST_S, STEADY_S, Say, code_digest, flow
from bench.trials import Stand, more, renewals
from dcdr.bounds import LeaseTiming
from dcdr.model import Outcome, TailResult, TransitionReport
from dcdr.settings import Settings
from lab import Lab, store
from lab.addresses import MEMBERS, other
from lab.check import Demands
from lab.check.estate import check_lab
from lab.check.loss import Loss
from lab.check.report import WORDS
from lab.load import Load, Outage, outages, read_acks
from lab.load.estate import STAYING, Estate
from lab.reset import reset
from lab.up import tell_agents
from lab.waiting import wait_for
from workflows import steps
from workflows.temporal import CONVERTER, tail_id
from workflows.transition import transition_id

R = TypeVar("R", TransitionReport, TailResult)
P50_AIM_S, WORST_AIM_S = 1.0, 1.0
"""Above L; the worst may last two more attempts of the store."""
READY_LIMIT_S, REPORT_LIMIT_S, TAIL_LIMIT_S = 60.0, 180.0, 300.0
LOOK_S, ANSWER_S = 0.1, 2.0
PARTS = ("detect", "decide", "fence", "record", "open", "flip")


@dataclass(frozen=True)
class Failed:
    """One failover that counts. Seconds: `rto_s` from the last acknowledgement on the old side to the first on the new
    one, `parts` as the report splits it, `clients_s` from the end of the flip to that first one. Records: `bound` as it
    was told before the opening, `lost` as the tail has it."""

    rto_s: float
    parts: dict[str, float]
    clients_s: float
    bound: int
    lost: int


async def measure(lab: Lab, trial: Trial, wanted: Wanted, say: Say) -> Measured:
    """Fail over as often as is wanted, each time on a fresh estate.

    Raises: BenchError when one does not come, loses more than it said, or is not called clean by the checker; LabError,
    LoadError, ReadError, JournalError.
    """
    settings = Settings.load(lab.settings)
    directory = build_directory(settings)
    scope = settings.scopes[store.SCOPE]
    stand = Stand(lab, directory.scope(store.SCOPE), scope.lease.timing, wanted, lambda line: say(f"{trial}: {line}"))
    started, load_average = datetime.now(UTC), os.getloadavg()[0]
    address = str(lab.plan.ports["temporal/frontend"])
    client = await Client.connect(address, namespace="dr", data_converter=CONVERTER)
    found: list[Failed] = []
    discarded = 0
    await asyncio.to_thread(tell_agents, lab, stand.say, automatic=True)
    try:
        while len(found) < wanted.switchovers:
            if discarded > wanted.switchovers + 2:
                raise BenchError(f"{trial}: traffic was not steady before {discarded} failovers")
            share = (len(found) + 0.5) / wanted.switchovers  # deaths are spread evenly over the renew period
            one = await _once(stand, client, trial, share)
            discarded += one is None
            found += [] if one is None else [one]
    finally:
        await asyncio.to_thread(tell_agents, lab, stand.say, automatic=False)
        await directory.close()
    return Measured(
        trial=trial,
        code=code_digest(),
        wanted=wanted,
        started=f"{started:%Y-%m-%dT%H:%M:%SZ}",
        load_average=round(load_average, 1),
        figures=tuple(figures(found, stand.timing, scope.failover.journal_every.total_seconds(), wanted.rate)),
    )


def figures(found: Sequence[Failed], timing: LeaseTiming, journal_s: float, rate: float) -> list[Figure]:
    """What is told of all failovers together. `journal_s`: seconds between two looks of the journal; `rate`: records a
    second."""

    def seconds(name: str, values: Sequence[float], **aims: float) -> Figure:
        return Figure(name=name, unit="s", values=tuple(values), **aims)

    above = [one.rto_s - timing.wait for one in found]
    excess = [(one.bound - one.lost) / rate for one in found]
    return [
        seconds(
            f"no acknowledgement, above L = {timing.wait:g} s",
            above,
            aim=2 * timing.attempt + WORST_AIM_S,
            p50_aim=P50_AIM_S,
        ),
        *(seconds(f"  {part}", [one.parts.get(part, 0.0) for one in found]) for part in PARTS),
        seconds("  flip to the first acknowledgement", [one.clients_s for one in found]),
        Figure(name="lost", unit="records", values=tuple(float(one.lost) for one in found)),
        Figure(name="lost at most, as told before", unit="records", values=tuple(float(one.bound) for one in found)),
        seconds("  bound above the truth, in traffic", excess, aim=journal_s),
    ]


async def _once(stand: Stand, client: Client, trial: Trial, share: float) -> Failed | None:
    """One failover, from a fresh estate to the checker's verdict. Returns: None where traffic was not steady before."""
    lab, wanted = stand.lab, stand.wanted
    await asyncio.to_thread(reset, lab.name, False, lambda line: None)
    source, target = MEMBERS[0], other(MEMBERS[0])
    out = lab.home.path / "load" / f"bench-{trial}-{time.time_ns()}"
    config = Estate.open(lab.name).load_config(rate=wanted.rate, size=wanted.size, groups=STAYING, out=out)
    load = Load(config)
    try:
        await asyncio.to_thread(load.start)
        await flow(load, lab, source, wanted.rate, FIRST_S)
        await asyncio.to_thread(wait_for, f"{target} ready to take over", lambda: _ready(lab, target), READY_LIMIT_S)
        began = datetime.now(UTC)
        async with renewals(stand, source) as sent:
            await more(sent, 2)  # the first one seen may be old
            await asyncio.sleep(max(0.0, sent[-1] + share * stand.timing.renew - time.monotonic()))
            await asyncio.to_thread(_strike, lab, trial, source)
        report = await _result(client, transition_id(store.SCOPE), TransitionReport, began, REPORT_LIMIT_S, _any)
        if report.outcome is not Outcome.DONE or report.loss is None or report.loss.records is None:
            raise BenchError(f"the failover to {target} ended as {report.outcome}: {report.why or report.loss}")
        count = int(wanted.rate * STEADY_S)
        await asyncio.to_thread(load.wait_for_acks, count, REPORT_LIMIT_S, lab.document["cluster_ids"][target])
        await asyncio.to_thread(_mend, lab, trial, source)
        tail = await _result(
            client,
            tail_id(store.SCOPE),
            TailResult,
            began,
            TAIL_LIMIT_S,
            lambda found: found.operation_id == report.operation_id,
        )
        await asyncio.to_thread(load.stop)
    except BaseException:
        load.kill()
        raise
    if tail.records > report.loss.records:
        raise BenchError(f"{tail.records} records were lost, and at most {report.loss.records} were announced")
    await asyncio.to_thread(_check, lab, out, tail)
    moves = outages(await asyncio.to_thread(read_acks, out))
    failed = failed_over(moves, report, tail, time.time_ns() - time.monotonic_ns())
    if failed is None:
        stand.say("discarded: traffic was not steady before it")
    else:
        stand.say(f"{failed.rto_s:.2f} s; lost {failed.lost} of at most {failed.bound}")
    return failed


def failed_over(moves: Sequence[Outage], report: TransitionReport, tail: TailResult, wall_ns: int) -> Failed | None:
    """What the load's log, the report and the tail say together. `wall_ns`: what to add to a monotonic time for a Unix
    time. Returns: None where traffic was not steady before the site was lost.

    Raises: BenchError when the producers did not move exactly once, or the report tells no bound.
    """
    if len(moves) != 1:
        raise BenchError(f"the producers moved {len(moves)} times in one failover")
    if report.loss is None or report.loss.records is None:
        raise BenchError("the report tells no bound of what is lost")
    (move,) = moves
    if not move.flowing:
        return None
    flipped = next(step for step in report.steps if step.name == steps.FLIP.name)
    if flipped.started is None or flipped.duration is None:
        raise BenchError("the report does not say when the endpoint was flipped")
    return Failed(
        rto_s=move.seconds,
        parts={name: took.total_seconds() for name, took in report.rto.items()},
        clients_s=(move.first_ack_ns + wall_ns - unix_ns(flipped.started + flipped.duration)) / 1e9,
        bound=report.loss.records,
        lost=tail.records,
    )


def _strike(lab: Lab, trial: Trial, site: str) -> None:
    if trial is Trial.SITE_KILLED:
        lab.fault.kill_site(site)
    else:  # users there would go on writing until its gate closes, and the time without them would begin later
        lab.fault.cut_site(site, with_clients=True)


def _mend(lab: Lab, trial: Trial, site: str) -> None:
    if trial is Trial.SITE_KILLED:
        lab.fault.restart_site(site)
    else:
        lab.fault.heal()


def _ready(lab: Lab, dc: str) -> bool:
    try:
        answer = httpx.get(f"http://{lab.plan.ports[f'agent-{dc}/status']}/status", timeout=ANSWER_S)
    except httpx.TransportError:
        return False
    said = answer.json() if answer.is_success else {"holds_back": "no answer"}
    return not said["holds_back"] and not said["unready"]


def _check(lab: Lab, out: Path, tail: TailResult) -> None:
    loss = Loss.from_json(tail.model_dump(mode="json"))
    verdict = check_lab(lab.name, [out], Demands(switchovers=1), None, CATCH_UP_S, loss=loss).verdict
    if not verdict.clean:
        said = "; ".join((*map(str, verdict.samples[:5]), *verdict.vacuous))
        raise BenchError(f"the checker calls the failover {WORDS[verdict.exit_code]}: {said}")


def _any(_: Any) -> bool:
    return True


async def _result(
    client: Client, workflow_id: str, kind: type[R], since: datetime, limit_s: float, fits: Callable[[R], bool]
) -> R:
    """What a run under this id answers that was started after `since`. Raises: BenchError past the limit."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        run = await _run(client, workflow_id)
        if run is not None and run.start_time >= since:
            handle = client.get_workflow_handle(workflow_id, run_id=run.run_id, result_type=kind)
            waiting: Awaitable[R] = handle.result()
            try:
                result = await asyncio.wait_for(waiting, max(1.0, deadline - time.monotonic()))
            except TimeoutError:
                break
            except WorkflowFailureError as error:  # the watch starts another one
                told = str(error.cause)
            else:
                if fits(result):
                    return result
                told = "it is about another failover"
        else:
            told = "it was not started"
        await asyncio.sleep(LOOK_S)
    raise BenchError(f"{workflow_id} gave no result within {limit_s:.0f} s: {told}")


async def _run(client: Client, workflow_id: str) -> Any:
    """The latest run under this id; None where there never was one."""
    try:
        return await client.get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise BenchError(f"Temporal does not answer: {error}") from error
