"""`dcdr lab witness` and `dcdr lab judge`: probe both sides, then judge from all three witnesses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.check.report import WORDS
from lab.errors import LabError, UsageError
from lab.estate import Lab
from lab.load.journal import JournalError
from lab.witness.evidence import gather
from lab.witness.judge import MEANING, Closed, Closing, Verdict
from lab.witness.judge import judge as judge_evidence
from lab.witness.prober import EVERY_MS, journal, probe, targets

CLOSED = re.compile(r"(?P<member>[^@]+)@(?P<since>\d+)(\.\.(?P<until>\d+))?=(?P<within>\d+(\.\d+)?)")


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


def witness(
    out: Annotated[Path, typer.Option(help="Folder for what the prober sees.")],
    lab: Annotated[str, typer.Option("--lab", envvar="DCDR_LAB", help="The lab to probe.")] = "default",
    every_ms: Annotated[int, typer.Option(help="Milliseconds between two probes.", min=5, max=50)] = EVERY_MS,
    seconds: Annotated[
        float | None, typer.Option(help="How long; without it until SIGINT or SIGTERM.", min=0.1)
    ] = None,
) -> None:
    """Write to every broker of both sides all the time, and note what each says.

    Exit codes: 0 ended as asked; 1 a broker did not answer at the start; 2 the request makes no sense.
    """
    with contextlib.suppress(OSError):
        # It proves nothing while it waits for a processor, and a data center that starts up takes all of them. No nice
        # value: Linux shares the processors out among sessions first (`man sched`, autogroup), and this is one.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        whom = targets(Lab.open(lab))
        asyncio.run(probe(whom, journal(out), every_ms, seconds))
    except LabError as error:
        _say(f"error: {error}")
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None
    _say(f"witnessed {len(whom)} lanes, in {out}")


def judge(
    run: Annotated[Path, typer.Option(help="Folder of the prober.")],
    lab: Annotated[str, typer.Option("--lab", envvar="DCDR_LAB", help="The lab it probed.")] = "default",
    load_run: Annotated[
        list[Path] | None, typer.Option(help="Folder of a load that ran meanwhile, repeatable: the third witness.")
    ] = None,
    closed: Annotated[
        list[str] | None,
        typer.Option(
            help="DC@NS=SECONDS or DC@NS..NS=SECONDS, repeatable: users of DC were shut out so many seconds after the "
            "first moment (CLOCK_MONOTONIC, nanoseconds) and until the second, or the end."
        ),
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the verdict.")] = Output.TABLE,
) -> None:
    """Judge from the gates' traces, the load and the prober: never two writable sides, and closed in time.

    Exit codes: 0 clean; 1 anomalies; 2 the request makes no sense; 3 nothing wrong was found but nothing is proven.
    """
    try:
        closings = [_closing(text) for text in closed or []]
        verdict = judge_evidence(gather(Lab.open(lab), run, load_run or []), closings)
    except (JournalError, LabError, OSError, ValueError) as error:
        _say(f"error: {error}")
        raise typer.Exit(3 if isinstance(error, JournalError) else 2) from None
    if output is Output.JSON:
        print(json.dumps(as_json(verdict), indent=2))
    else:
        print("\n".join(as_table(verdict)))
    raise typer.Exit(verdict.exit_code)


def as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "verdict": WORDS[verdict.exit_code],
        "exit_code": verdict.exit_code,
        **asdict(verdict),
        "findings": [finding._asdict() for finding in verdict.findings],
        "closings": [closed._asdict() for closed in verdict.closings],
        "pauses": [{**pause._asdict(), "seconds": pause.seconds} for pause in verdict.pauses],
    }


def as_table(verdict: Verdict) -> Iterator[str]:
    """Lines for a terminal; the last one is the verdict. Moments are seconds since the prober's start."""

    def at(ns: int) -> str:
        return f"{(ns - verdict.started_ns) / 1e9:.3f}"

    yield f"witnessed       {at(verdict.ended_ns)} s from {verdict.started_ns} ns"
    for lane, told in verdict.lanes.items():
        yield f"probes          {lane}: {', '.join(f'{count} {outcome}' for outcome, count in told.items())}"
    for member, count in verdict.load.items():
        yield f"load            {member}: {count} acknowledged"
    for party, times in verdict.open_times.items():
        opened = ", ".join(f"{at(first)} to {at(last)}" for first, last in times)
        yield f"gate            {party}: {opened or 'never open'}"
    for pause in verdict.pauses:
        yield f"nobody wrote    {pause.seconds:.3f} s from {at(pause.first_ns)}, {pause.before} to {pause.after}"
    for closed in verdict.closings:
        yield f"closed          {_closed(closed)}"
    for text in verdict.unheard:
        yield f"no last word    {text}"
    yield ""
    for kind, meaning in MEANING.items():
        yield f"{kind.value:<16} {sum(one.kind is kind for one in verdict.findings):>4}  {meaning}"
    for one in verdict.findings:
        yield f"  {one.kind} by {one.witness}: {one.where}, {at(one.first_ns)} to {at(one.last_ns)}: {one.detail}"
    for reason in verdict.not_proven:
        yield f"not proven: {reason}"
    yield ""
    yield f"verdict: {WORDS[verdict.exit_code]}"


def _closed(closed: Closed) -> str:
    if closed.last_sent_s is None or closed.last_answered_s is None:
        wrote = "no write after it"
    else:
        wrote = f"last write sent {closed.last_sent_s:.3f} and answered {closed.last_answered_s:.3f} s after it"
    gate = "no gate known open" if closed.gate_s is None else f"gates open until {closed.gate_s:.3f} s"
    return f"{closed.member} within {closed.within_s:g} s: {wrote}, {gate}"


def _closing(text: str) -> Closing:
    found = CLOSED.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not DC@NS=SECONDS or DC@NS..NS=SECONDS")
    until = int(found["until"]) if found["until"] else None
    return Closing(found["member"], int(found["since"]), float(found["within"]), until)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
