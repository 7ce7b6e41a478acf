"""`dcdr lab`: the command line of the lab.

Exit codes: 0 done, 1 it could not be done (the message says what to do next), 2 the request makes no sense,
3 `status` found something down or broken.
Data goes to standard output, progress and errors to standard error.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from lab import gates
from lab import status as lab_status
from lab.check.cli import check
from lab.demo import demo as run_demo
from lab.down import down as end_lab
from lab.errors import LabError, UsageError
from lab.estate import Lab
from lab.faults import Direction
from lab.faults import Way as Border
from lab.load.cli import load
from lab.reset import reset as reset_lab
from lab.up import tell_agents
from lab.up import up as start_lab
from lab.witness.cli import judge, witness

app = typer.Typer(help="Start, break, look at and end a real two-data-center estate.", no_args_is_help=True)


class Format(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"


class Wanted(StrEnum):
    """A switch's position."""

    ON = "on"
    OFF = "off"


Name = Annotated[str, typer.Option("--lab", "--name", envvar="DCDR_LAB", help="Which lab.")]
Output = Annotated[Format, typer.Option("--output", "-o", help="table or json.")]
Links = Annotated[list[str], typer.Argument(help="Link names or patterns, such as 'dc-b->dc-a:kafka' or 'dc-a->*'.")]
Processes = Annotated[list[str], typer.Argument(help="Process names or patterns, such as 'kafka-dc-a-*'.")]
Way = Annotated[Direction, typer.Option(help="forward: from the link's source; back: the answers.")]
Site = Annotated[str, typer.Argument(help="dc-a, dc-b or dc-c.")]


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
    worker: Annotated[bool, typer.Option(help="Start the product's workers too, one a site.")] = True,
    fence: Annotated[
        str, typer.Option(help="What keeps users out of the standby: authorizer (the agents' markers) or acl.")
    ] = gates.AUTHORIZER,
    automatic: Annotated[
        bool | None,
        typer.Option("--automatic/--no-automatic", help="Agents take over by themselves (a new lab's do)."),
    ] = None,
) -> None:
    """Start the lab, or go on where an earlier start ended."""
    started = time.monotonic()
    with explained():
        lab = start_lab(name, brokers, site_prefix, worker, say, fence, automatic)
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


@app.command()
def reset(
    name: Name = "default",
    hard: Annotated[bool, typer.Option(help="Wipe and restart Kafka and Connect instead of cleaning them.")] = False,
) -> None:
    """Bring a used estate back to how `up` made it."""
    started = time.monotonic()
    with explained():
        reset_lab(name, hard, say)
    say(f"lab {name} is fresh after {time.monotonic() - started:.1f} s")


@app.command()
def automatic(
    wanted: Annotated[Wanted, typer.Argument(help="on or off.")],
    name: Name = "default",
) -> None:
    """Whether agents take the lease over by themselves; restarts them one by one."""
    with explained():
        lab = Lab.open(name)
        with lab.home.operation():
            tell_agents(lab, say, automatic=wanted is Wanted.ON)
    say(f"lab {name}: agents {'take over by themselves' if wanted is Wanted.ON else 'wait to be asked'}")


@app.command()
def status(name: Name = "default", output: Output = Format.TABLE) -> None:
    """What runs, what is broken, which side is open. Exit code 3 when something is down or broken."""
    with explained():
        observed = lab_status.observe(Lab.open(name))
    print(json.dumps(observed, indent=1) if output is Format.JSON else lab_status.render(observed))
    if not lab_status.healthy(observed):
        raise typer.Exit(3)


@app.command("gates")
def gates_trace(
    name: Name = "default",
    seconds: Annotated[float, typer.Option(min=0, help="How far back.")] = 3600,
    output: Output = Format.TABLE,
) -> None:
    """Every change of the gates, as brokers and controllers say of themselves. None in `acl` mode."""
    with explained():
        rows = gates.history(Lab.open(name), seconds)
    if output is Format.JSON:
        print(json.dumps([{"member": member, **change._asdict()} for member, change in rows], indent=1))
    else:
        print("\n".join(gates.as_table(rows)))


app.command()(load)
app.command()(check)
app.command()(witness)
app.command()(judge)


@app.command()
def env(name: Name = "default") -> None:
    """What the product's commands need to find this lab, to be evaluated by a shell: eval "$(dcdr lab env)"."""
    with explained():
        for key, value in Lab.open(name).environment().items():
            print(f"export {key}={shlex.quote(value)}")


def demo(
    name: Name = "demo",
    rate: Annotated[int, typer.Option(help="Records a second.")] = 1000,
    down: Annotated[bool, typer.Option(help="Take the lab down at the end.")] = False,
) -> None:
    """Two data centers, a live workload, there and back twice, then one killed; the checker's exit code is ours."""
    with explained():
        raise typer.Exit(run_demo(name, rate, keep=not down))


faults = typer.Typer(help="Break links and processes, see what is broken, and heal.", no_args_is_help=True)
app.add_typer(faults, name="fault")


def tell(verb: str, hit: list[str]) -> None:
    for one in hit:
        say(f"{verb} {one}")


@faults.command("list")
def fault_list(name: Name = "default", output: Output = Format.TABLE) -> None:
    """All links and processes, and what is broken of them."""
    with explained():
        lab = Lab.open(name)
        active = [asdict(one) for one in lab.fault.active()]
        links = [link.name for link in lab.plan.links]
    if output is Format.JSON:
        print(json.dumps({"links": links, "processes": lab.process_names, "active": active}, indent=1))
        return
    print("links\n" + "\n".join(f"  {one}" for one in links))
    print("processes\n" + "\n".join(f"  {one}" for one in lab.process_names))
    print("active" if active else "active: none")
    for one in active:
        print(f"  {one['target']} {one['kind']} {one['direction']} {one['detail']}".rstrip())


@faults.command()
def cut(links: Links, name: Name = "default") -> None:
    """Close what is connected and refuse what comes."""
    with explained():
        tell("cut", Lab.open(name).fault.cut(*links))


@faults.command()
def blackhole(links: Links, name: Name = "default", direction: Way = Direction.BOTH) -> None:
    """Swallow all data, close nothing."""
    with explained():
        tell("black-holed", Lab.open(name).fault.blackhole(*links, direction=direction))


@faults.command()
def delay(
    links: Links,
    ms: Annotated[int, typer.Option(help="Milliseconds, in each stream named.")],
    jitter: Annotated[int, typer.Option(help="Milliseconds more or less.")] = 0,
    name: Name = "default",
    direction: Way = Direction.BOTH,
) -> None:
    """Hold everything back."""
    with explained():
        tell("delayed", Lab.open(name).fault.delay(*links, ms=ms, jitter_ms=jitter, direction=direction))


@faults.command("reset")
def reset_link(links: Links, name: Name = "default") -> None:
    """Answer data with TCP RST, until healed (what is open already is closed in order)."""
    with explained():
        tell("reset", Lab.open(name).fault.reset(*links))


@faults.command()
def heal(
    links: Annotated[list[str] | None, typer.Argument(help="Link names or patterns; all when none is given.")] = None,
    name: Name = "default",
) -> None:
    """Remove every fault of links."""
    with explained():
        tell("healed", Lab.open(name).fault.heal(*(links or [])))


@faults.command()
def kill(processes: Processes, name: Name = "default") -> None:
    """SIGKILL."""
    with explained():
        tell("killed", Lab.open(name).fault.kill(*processes))


@faults.command()
def freeze(processes: Processes, name: Name = "default") -> None:
    """SIGSTOP."""
    with explained():
        tell("froze", Lab.open(name).fault.freeze(*processes))


@faults.command()
def thaw(processes: Processes, name: Name = "default") -> None:
    """SIGCONT."""
    with explained():
        tell("thawed", Lab.open(name).fault.thaw(*processes))


@faults.command()
def restart(processes: Processes, name: Name = "default") -> None:
    """Start again, on the same ports and data, and wait until it serves."""
    with explained():
        tell("restarted", Lab.open(name).fault.restart(*processes))


@faults.command("kill-site")
def kill_site(site: Site, name: Name = "default") -> None:
    """SIGKILL of everything that runs at a site, at once."""
    with explained():
        tell("killed", Lab.open(name).fault.kill_site(site))


@faults.command("restart-site")
def restart_site(site: Site, name: Name = "default") -> None:
    """Start again what is down at a site, in an order that works, and wait until it serves."""
    with explained():
        tell("restarted", Lab.open(name).fault.restart_site(site))


@faults.command("cut-site")
def cut_site(
    site: Site,
    direction: Annotated[
        Border, typer.Option(help="in: nothing reaches it; out: nothing gets out of it.")
    ] = Border.BOTH,
    with_clients: Annotated[bool, typer.Option("--with-clients", help="Part it from the clients, too.")] = False,
    silently: Annotated[bool, typer.Option("--silently", help="Swallow data instead of closing connections.")] = False,
    name: Name = "default",
) -> None:
    """Part a site from the other sites; `heal` joins them again."""
    with explained():
        lab = Lab.open(name)
        tell("cut", lab.fault.cut_site(site, direction, with_clients=with_clients, silently=silently))


if __name__ == "__main__":
    app()
