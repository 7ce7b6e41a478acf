"""`python -m bench`: measure the outage of a switchover three ways, on one lab, and print what they are to each other.

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
from enum import StrEnum
from typing import Annotated

import typer

from bench import report
from bench.errors import BenchError
from bench.model import Contestant, Series
from bench.series import Say, Wanted, code_digest, measure
from dcdr.errors import DcdrError
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


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


def bench(
    lab: Annotated[
        str, typer.Option("--lab", help="The lab to measure on; it is reset, so give it one of its own.")
    ] = "bench",
    switchovers: Annotated[int, typer.Option(min=1, help="Runs that count, in each series.")] = FULL,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK} runs instead of {FULL}.")] = False,
    series: Annotated[
        list[Contestant] | None, typer.Option("--series", help="Which series, repeatable; all by default.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Records a second.")] = 2000.0,
    size: Annotated[int, typer.Option(help="Bytes of a record's value.")] = 200,
    brokers: Annotated[int, typer.Option(help="Brokers a data center, 1 or 3, where the lab has to be started.")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure every series anew.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab up afterwards.")] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="table or json.")] = Output.TABLE,
) -> None:
    """Measure the producer-visible outage: the workflow, a bare script, a runbook; and the workflow's naive client.

    Every series is kept when it is done, and taken from there by the next call as long as code and numbers are the
    same: what was interrupted goes on with the series it was at.
    """
    wanted = Wanted(QUICK if quick else switchovers, rate, size)
    try:
        results = _results(lab, series or list(Contestant), wanted, brokers, fresh, keep)
    except UsageError as error:
        _say(f"error: {error}")
        raise typer.Exit(2) from None
    except (BenchError, LabError, LoadError, JournalError, ReadError, DcdrError) as error:
        _say(f"error: {error}")
        raise typer.Exit(1) from None
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    if output is Output.JSON:
        print(json.dumps(report.document(results, machine), indent=1))
    else:
        print(report.tables(results, machine))
    unclean = [one for one, found in results.items() if one.must_be_clean and not found.clean]
    if unclean:
        _say(f"error: the checker does not call these series clean: {', '.join(unclean)}")
        raise typer.Exit(1)


def _results(
    name: str, contestants: list[Contestant], wanted: Wanted, brokers: int, fresh: bool, keep: bool
) -> dict[Contestant, Series]:
    folder = state_root() / "bench" / Home.of(name).name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _say(f"results in {folder}")
    found: dict[Contestant, Series] = {}
    to_do = []
    for one in dict.fromkeys(contestants):
        kept = None if fresh else Series.read(folder, one)
        if kept is not None and _same(kept, wanted, brokers):
            _say(f"{one}: taken from {kept.started}")
            found[one] = kept
        else:
            to_do.append(one)
    if to_do:
        was_up = _is_up(name)
        opened = up(name, brokers, None, True, _say)
        done = False
        try:
            for one in to_do:
                found[one] = asyncio.run(measure(opened, one, wanted, folder, _clocked(_say)))
                found[one].write(folder)
                _say(f"{one}: p50 {found[one].p50:,.0f} ms, worst {found[one].worst:,.0f} ms, {found[one].verdict}")
            done = all(series.clean or not series.contestant.must_be_clean for series in found.values())
        finally:
            if not keep and not was_up:
                down(name, done, _say)  # what went wrong can be looked at
    return {one: found[one] for one in Contestant if one in found}


def _same(kept: Series, wanted: Wanted, brokers: int) -> bool:
    return (kept.code, kept.switchovers, kept.rate, kept.size, kept.brokers) == (
        code_digest(),
        wanted.switchovers,
        wanted.rate,
        wanted.size,
        brokers,
    )


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
    typer.run(bench)


if __name__ == "__main__":
    main()
