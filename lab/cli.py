"""`dcdr lab`: the command line of the lab.

Exit codes: 0 done, 1 it could not be done (the message says what to do next), 2 the request makes no sense.
Data goes to standard output, progress and errors to standard error.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from lab.down import down as end_lab
from lab.errors import LabError, UsageError
from lab.up import up as start_lab

app = typer.Typer(help="Start, break, look at and end a real two-data-center estate.", no_args_is_help=True)

Name = Annotated[str, typer.Option("--lab", "--name", envvar="DCDR_LAB", help="Which lab.")]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn the lab's errors into one message and an exit code."""
    try:
        yield
    except UsageError as error:
        say(f"error: {error}")
        raise typer.Exit(2) from None
    except LabError as error:
        say(f"error: {error}")
        raise typer.Exit(1) from None


@app.command()
def up(
    name: Name = "default",
    brokers: Annotated[int, typer.Option(help="Brokers a site: 1 or 3.")] = 1,
    site_prefix: Annotated[str | None, typer.Option(help="Loopback network of the sites, such as 127.20.7.")] = None,
    worker: Annotated[bool, typer.Option(help="Start the product's worker too.")] = True,
) -> None:
    """Start the lab, or go on where an earlier start ended."""
    started = time.monotonic()
    with explained():
        lab = start_lab(name, brokers, site_prefix, worker, say)
    say(f"lab {name} is up after {time.monotonic() - started:.1f} s")
    print(f"bootstrap      {lab.bootstrap}")
    print(f"temporal ui    {lab.document['temporal']['ui']}")
    print(f"settings       {lab.settings}")
    print(f"record         {lab.home.record}")


@app.command()
def down(
    name: Name = "default",
    purge: Annotated[bool, typer.Option(help="Remove its data, logs and secrets as well.")] = False,
) -> None:
    """End exactly what `up` started."""
    with explained():
        ended = end_lab(name, purge, say)
    say(f"lab {name}: {ended} processes ended{', everything removed' if purge else ''}")


if __name__ == "__main__":
    app()
