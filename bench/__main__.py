"""`python -m bench`: measure the outage of a switchover three ways, on one lab, and print what they are to each other;
`python -m bench gates`: measure what the lease and the gates promise; `python -m bench watch`: what watching costs;
`python -m bench failovers`: lose a site again and again, and measure what users see of it.

Exit codes: 0 measured, and the checker found every record where it belongs (whether the aims are met is printed);
1 something could not be measured or the checker found an anomaly; 2 usage.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from bench import report
from bench.errors import BenchError
from bench.failovers import measure as measure_failovers
from bench.model import FAILOVERS, Contestant, Measured, Series, Trial, Wanted
from bench.series import Say, code_digest, measure
from bench.trials import measure as measure_trial
from bench.trials import measure_authorizer
from dcdr.errors import DcdrError
from dcdr.settings import Fence
from lab import Lab
from lab.check import ReadError
from lab.down import down
from lab.errors import LabError, UsageError
from lab.load import LoadError
from lab.load.journal import JournalError
from lab.processes import ProcessState
from lab.record import Home, state_root
from lab.up import up

FULL, QUICK = 10, 3
NAMES = (*Contestant, *Trial)
R = TypeVar("R", Series, Measured)


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


class Table(StrEnum):
    """Which series are measured where none is named."""

    OUTAGE = "outage"
    GATES = "gates"
    FAILOVERS = "failovers"

    @property
    def names(self) -> list[str]:
        gates = [one for one in Trial if one not in FAILOVERS]
        return {Table.OUTAGE: [*Contestant], Table.GATES: gates, Table.FAILOVERS: [*FAILOVERS]}[self]


def bench(
    table: Annotated[
        Table,
        typer.Argument(
            help="outage: how long producers stand still. gates: what lease and gates promise. failovers: a lost site."
        ),
    ] = Table.OUTAGE,
    lab: Annotated[
        str, typer.Option("--lab", help="The lab to measure on; it is reset, so give it one of its own.")
    ] = "bench",
    switchovers: Annotated[
        int,
        typer.Option(
            min=1, help="Runs that count, in each series; twice as many closings, half as many deaths and store faults."
        ),
    ] = FULL,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK} runs instead of {FULL}.")] = False,
    series: Annotated[
        list[str] | None,
        typer.Option("--series", help=f"Which series, repeatable; all of the table by default: {', '.join(NAMES)}."),
    ] = None,
    fence: Annotated[Fence, typer.Option(help="What keeps users out.")] = Fence.AUTHORIZER,
    rate: Annotated[float, typer.Option(help="Records a second.")] = 2000.0,
    size: Annotated[int, typer.Option(help="Bytes of a record's value.")] = 200,
    brokers: Annotated[int, typer.Option(help="Brokers a data center, 1 or 3, where the lab has to be started.")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure every series anew.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab up afterwards.")] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="table or json.")] = Output.TABLE,
) -> None:
    """Measure the producer-visible outage: the workflow, a bare script, a runbook; and the workflow's naive client. Or
    measure the lease and the gates, or failovers.

    Every series is kept when it is done, and taken from there by the next call as long as code and numbers are the
    same: what was interrupted goes on with the series it was at. Where the workflow was measured with the other fence
    too, the two are compared.
    """
    runs = QUICK if quick else switchovers
    wanted = Wanted(switchovers=runs, rate=rate, size=size, brokers=brokers, fence=fence.value)
    names = series or table.names
    try:
        if unknown := set(names).difference(NAMES):
            raise UsageError(f"--series {', '.join(unknown)}: one of {', '.join(NAMES)}")
        if Trial.GATE in names and fence is not Fence.AUTHORIZER:
            raise UsageError("the series `gate` measures what the authorizer traces: leave --fence, or name the others")
        if set(FAILOVERS) & set(names) and fence is not Fence.AUTHORIZER:
            raise UsageError("behind ACLs nothing is taken over without being asked for: leave --fence")
        results, trials = _results(lab, names, wanted, fresh, keep)
        rival = _rival(lab, wanted) if Contestant.WORKFLOW in results else None
    except UsageError as error:
        _say(f"error: {error}")
        raise typer.Exit(2) from None
    except (BenchError, LabError, LoadError, JournalError, ReadError, DcdrError) as error:
        _say(f"error: {error}")
        raise typer.Exit(1) from None
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    if output is Output.JSON:
        print(json.dumps(report.document(results, machine, trials, rival), indent=1))
    else:
        print(report.tables(results, machine, trials, rival))
    unclean = [one for one, found in results.items() if one.must_be_clean and not found.clean]
    if unclean:
        _say(f"error: the checker does not call these series clean: {', '.join(unclean)}")
        raise typer.Exit(1)


def _results(
    name: str, names: Sequence[str], wanted: Wanted, fresh: bool, keep: bool
) -> tuple[dict[Contestant, Series], dict[Trial, Measured]]:
    folder = _folder(name, wanted.fence)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _say(f"results in {folder}")
    say = _clocked(_say)
    runs = {one: _kept(Series, folder, one, wanted, fresh) for one in Contestant if one in names}
    trials = {one: _kept(Measured, folder, one, wanted, fresh) for one in Trial if one in names}
    if Trial.AUTHORIZER in trials and trials[Trial.AUTHORIZER] is None:  # it has the machine for itself
        trials[Trial.AUTHORIZER] = asyncio.run(measure_authorizer(wanted, folder, say)).written(folder)
    if None in (*runs.values(), *trials.values()):
        was_up = _is_up(name)
        opened = up(name, wanted.brokers, None, True, _say, wanted.fence, automatic=False)
        done = False
        try:
            for one, kept in runs.items():
                if kept is None:
                    runs[one] = found = asyncio.run(measure(opened, one, wanted, folder, say)).written(folder)
                    _say(f"{one}: p50 {found.p50:,.0f} ms, worst {found.worst:,.0f} ms, {found.verdict}")
            for trial, known in trials.items():
                by = measure_failovers if trial in FAILOVERS else measure_trial
                trials[trial] = known or asyncio.run(by(opened, trial, wanted, say)).written(folder)
            done = all(found.clean or not one.must_be_clean for one, found in runs.items() if found)
        finally:
            if not keep and not was_up:
                down(name, done, _say)  # what went wrong can be looked at
    return {one: found for one, found in runs.items() if found}, {one: found for one, found in trials.items() if found}


def _folder(name: str, fence: str) -> Path:
    return state_root() / "bench" / Home.of(name).name / fence


def _kept(kind: type[R], folder: Path, name: str, wanted: Wanted, fresh: bool) -> R | None:
    """An earlier result of the same code and numbers."""
    found = None if fresh else kind.read(folder, name)
    if found is None or (found.code, found.wanted) != (code_digest(), wanted):
        return None
    _say(f"{name}: taken from {found.started}")
    return found


def _rival(name: str, wanted: Wanted) -> Series | None:
    """The workflow's series with the other fence, where the same code was measured with the same numbers."""
    theirs = wanted.model_copy(update={"fence": next(one.value for one in Fence if one != wanted.fence)})
    return _kept(Series, _folder(name, theirs.fence), Contestant.WORKFLOW, theirs, False)


def _is_up(name: str) -> bool:
    try:
        lab = Lab.open(name)
    except LabError:
        return False
    return any(lab.process(process).state is not ProcessState.DOWN for process in lab.process_names)


def _clocked(say: Say) -> Say:
    began = time.monotonic()
    return lambda line: say(f"{time.monotonic() - began:6.0f} s  {line}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    # The load and the lab are sessions of their own: they have to be ended on the way out.
    signal.signal(signal.SIGTERM, _end)
    if sys.argv[1:2] == ["watch"]:  # it needs no lab, and takes other numbers
        from bench import watch

        del sys.argv[1]
        typer.run(watch.command)
        return
    typer.run(bench)


if __name__ == "__main__":
    main()
