"""`dcdr lab check`: read both clusters' logs and the outcome logs, and judge."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.check.estate import clusters_of, current_runs
from lab.check.logs import Cluster, ReadError
from lab.check.loss import Loss
from lab.check.model import Demands
from lab.check.report import as_json, as_table
from lab.check.run import check as check_runs
from lab.errors import LabError
from lab.load.clients import common
from lab.load.config import Credentials
from lab.load.estate import Estate
from lab.load.journal import JournalError


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


def check(
    lab: Annotated[str, typer.Option("--lab", envvar="DCDR_LAB", help="The lab to judge.")] = "default",
    run: Annotated[
        list[Path] | None, typer.Option(help="Folder of a run, repeatable; by default all of the lab.")
    ] = None,
    cluster: Annotated[
        list[str] | None, typer.Option(help="NAME=HOST:PORT, one for each data center, instead of a lab.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="SASL/PLAIN user who may read all; with --password-file.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File whose first line is the password.")] = None,
    active: Annotated[
        str | None, typer.Option(help="The active data center; in a lab by default the one its endpoint leads to.")
    ] = None,
    expect_switchovers: Annotated[int | None, typer.Option(help="How often the writers changed sides.")] = None,
    min_acks: Annotated[int, typer.Option(help="Acknowledgements wanted in each stretch on one side.")] = 1,
    standby_complete: Annotated[bool, typer.Option(help="The standby must hold everything too.")] = False,
    catch_up: Annotated[float, typer.Option(help="Seconds the standby may take for that.")] = 30.0,
    allow_reread: Annotated[
        list[str] | None, typer.Option(help="GROUP=N: this group may receive N committed records again.")
    ] = None,
    allow_foreign: Annotated[bool, typer.Option(help="Count records of other writers, but allow them.")] = False,
    loss: Annotated[
        Path | None,
        typer.Option(help="A failover's loss report, as `dcdr loss -o json` prints it: exactly that may be missing."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Offending records to print of each kind.")] = 10,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the verdict.")] = Output.TABLE,
) -> None:
    """Judge what a load wrote: nothing lost, doubled, reordered, altered or left behind, and no group set back.

    Exit codes: 0 clean; 1 anomalies; 2 the request makes no sense; 3 nothing wrong was found but nothing is proven, or
    the logs cannot be read.
    """
    try:
        demands = Demands(
            switchovers=expect_switchovers,
            min_acks=min_acks,
            standby_complete=standby_complete,
            rereads=_bounds(allow_reread or []),
            foreign=allow_foreign,
            samples=samples,
        )
        report = Loss.read(loss) if loss is not None else None
        folders, clusters, where = _subjects(lab, run, cluster, user, password_file, active)
    except (ValueError, LabError) as error:
        _say(f"error: {error}")
        raise typer.Exit(2) from None
    except (JournalError, ReadError) as error:
        _say(f"error: {error}")
        raise typer.Exit(3) from None
    try:
        checked = check_runs(folders, clusters, where, demands, catch_up, say=_say, loss=report)
    except ValueError as error:
        _say(f"error: {error}")
        raise typer.Exit(2) from None
    except (JournalError, ReadError, OSError) as error:
        _say(f"error: {error}")
        raise typer.Exit(3) from None
    if output is Output.JSON:
        print(json.dumps(as_json(checked), indent=2))
    else:
        print("\n".join(as_table(checked)))
    raise typer.Exit(checked.verdict.exit_code)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _bounds(texts: list[str]) -> dict[str, int]:
    found = {}
    for text in texts:
        group, _, bound = text.rpartition("=")
        if not group or not bound.isdigit():
            raise ValueError(f"{text!r} is not GROUP=N")
        found[group] = int(bound)
    return found


def _subjects(
    lab: str,
    run: list[Path] | None,
    cluster: list[str] | None,
    user: str | None,
    password_file: Path | None,
    active: str | None,
) -> tuple[list[Path], list[Cluster], str | dict[str, Any]]:
    """(run folders, clusters to read, the active side or how to ask for it)."""
    if (user is None) != (password_file is None):
        raise ValueError("--user and --password-file belong together")
    own = Credentials(username=user, password_file=password_file) if user and password_file else None
    where: str | dict[str, Any]
    if cluster:
        pairs = [text.partition("=") for text in cluster]
        if len(pairs) < 2 or not all(name and middle and address for name, middle, address in pairs):
            raise ValueError("give two or more --cluster NAME=HOST:PORT")
        if not run or active is None:
            raise ValueError("with --cluster, --run and --active must be given too")
        clusters = [Cluster(name, common(address, own)) for name, _, address in pairs]
        folders, where = list(run), active
    else:
        estate = Estate.open(lab)
        reader = own or estate.credentials("admin")
        clusters = clusters_of(estate, reader)
        folders = list(run) if run else current_runs(estate, clusters, _say)
        if not folders:
            raise ValueError(f"lab {lab} has no load run yet; start one with `dcdr lab load --lab {lab}`")
        where = active or common(estate.bootstrap, reader)
    names = [cluster.name for cluster in clusters]
    if isinstance(where, str) and where not in names:
        raise ValueError(f"--active {where} is none of {', '.join(names)}")
    return folders, clusters, where
