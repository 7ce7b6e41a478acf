"""`dcdr lab load`: write numbered records until told to stop."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from lab.errors import LabError
from lab.load.config import ClientManners, Credentials, LoadConfig
from lab.load.estate import Estate
from lab.load.runner import LoadError, run


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


def load(
    lab: Annotated[str, typer.Option("--lab", envvar="DCDR_LAB", help="The lab to write to.")] = "default",
    bootstrap: Annotated[str | None, typer.Option(help="Write here instead of to a lab: host:port.")] = None,
    user: Annotated[str | None, typer.Option(help="SASL/PLAIN user; with --password-file.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File whose first line is the password.")] = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="NAME:KIND, repeatable; keyed, unkeyed, compacted or transactional.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="NAME:ROLE, repeatable; live, lag or parked. `none` for no group.")
    ] = None,
    pin: Annotated[
        list[str] | None, typer.Option(help="NAME=HOST:PORT or NAME=DC: a producer that never follows the endpoint.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Records a second, all topics together.")] = 2000.0,
    size: Annotated[int, typer.Option(help="Bytes of a value.")] = 200,
    duration: Annotated[float | None, typer.Option(help="Seconds; without it until SIGINT or SIGTERM.")] = None,
    client: Annotated[ClientManners, typer.Option(help="How the applications take a refusal.")] = ClientManners.GOOD,
    producers: Annotated[int, typer.Option(help="Producers without transactions.")] = 2,
    keys: Annotated[int, typer.Option(help="Keys a topic; each has one record on its way at most.")] = 400,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; in a lab by default its own.")] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the summary.")] = Output.TABLE,
) -> None:
    """Write numbered records and log the fate of each, until SIGINT, SIGTERM or --duration.

    Exit codes: 0 stopped as asked; 1 the estate cannot be written to; 2 the request makes no sense.
    """
    changes: dict[str, Any] = {
        "rate": rate,
        "size": size,
        "duration_s": duration,
        "client": client,
        "producers": producers,
        "keys": keys,
    }
    try:
        if topic:
            changes["topics"] = _pairs(topic, ":", "--topic NAME:KIND")
        if group:
            changes["groups"] = {} if group == ["none"] else _pairs(group, ":", "--group NAME:ROLE")
        if pin:
            changes["pinned"] = _pairs(pin, "=", "--pin NAME=HOST:PORT")
        if out is not None:
            changes["out"] = out
        config = _config(lab, bootstrap, user, password_file, changes)
    except ValidationError as error:
        for problem in error.errors():
            where = ".".join(map(str, problem["loc"]))
            print(f"error: {where + ': ' if where else ''}{problem['msg']}", file=sys.stderr)
        raise typer.Exit(2) from None
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"run {config.run} in {config.out}", file=sys.stderr)
    try:
        summary = run(config)
    except (LoadError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if output is Output.JSON:
        print(json.dumps(summary, indent=2))
        return
    print(f"run             {summary['run']}")
    print(f"folder          {summary['out']}")
    acked = sum(summary["acked"].values())
    print(f"acknowledged    {acked} in {summary['seconds']:.1f} s ({summary['acks_per_second']}/s)")
    print(f"refused         {summary['refused']}")
    print(f"unknown         {summary['unknown']}")
    for move in summary["outages"]:
        steady = "" if move["flowing"] else "  (traffic was not steady before it)"
        print(f"outage          {move['seconds'] * 1000:.0f} ms{steady}")


def _pairs(texts: list[str], separator: str, usage: str) -> dict[str, str]:
    found = {}
    for text in texts:
        name, middle, value = text.partition(separator)
        if not (name and middle and value):
            raise ValueError(f"{text!r} is not {usage}")
        found[name] = value
    return found


def _config(
    lab: str, bootstrap: str | None, user: str | None, password_file: Path | None, changes: dict[str, Any]
) -> LoadConfig:
    if (user is None) != (password_file is None):
        raise ValueError("--user and --password-file belong together")
    if user is not None and password_file is not None:
        changes["credentials"] = Credentials(username=user, password_file=password_file)
    if bootstrap is None:
        return Estate.open(lab).load_config(**changes)
    missing = [option for option, field in (("--topic", "topics"), ("--out", "out")) if field not in changes]
    if missing:
        raise ValueError(f"with --bootstrap, {' and '.join(missing)} must be given too")
    return LoadConfig(bootstrap=bootstrap, **changes)
