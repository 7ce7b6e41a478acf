"""`dcdr`: start, watch and abort switchovers and failovers; `dcdr lab` runs the estate to try it on.

Exit codes: 0 done, 1 failed, 2 usage, 3 refused (nothing was changed), 4 still running when --timeout ended,
5 a failover holds for its loss to be accepted (when --timeout ended, or with --no-wait), 6 Temporal or a part of the
estate cannot be reached, 7 undone (everything is as before), 8 superseded (the lease moved on, and the operation ended
without touching a gate), 9 nobody watches the lease, 130 interrupted (the operation goes on). Data goes to stdout,
progress to stderr.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from collections.abc import Coroutine
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from starter.loss import loss

if TYPE_CHECKING:
    from dcdr.model import FailoverRequest, SwitchoverRequest, TransitionReport
    from starter.client import Ended

app = typer.Typer(no_args_is_help=True, add_completion=True, help=__doc__, pretty_exceptions_enable=False)

app.command()(loss)

DONE, FAILED, USAGE, REFUSED, RUNNING, HOLDING, UNREACHABLE, AS_BEFORE, SUPERSEDED = 0, 1, 2, 3, 4, 5, 6, 7, 8
INTERRUPTED = 130
NOT_WATCHED = 9

NAME_RULE = "a name has lower-case letters, digits and dashes between them, at most 63 characters"


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


ScopeArgument = Annotated[str, typer.Argument(help="The scope: what fails over together.")]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="table, json, or jsonl (one line a step).")]


@app.command()
def switchover(
    scope: ScopeArgument,
    to: Annotated[str, typer.Option("--to", help="The data center that is to become active.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Preflight and plan only.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait; the operation goes on after it.")] = 600.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Move SCOPE to another data center without losing an acknowledged record. Ctrl-C detaches, it never aborts."""
    from dcdr.model import SwitchoverRequest

    request = _valid(SwitchoverRequest, scope=scope, target=to, reason=reason, requested_by=_user(), dry_run=dry_run)
    _run(_switchover(request, timeout, output))


@app.command()
def plan(
    scope: ScopeArgument,
    to: Annotated[str, typer.Option("--to", help="The data center that would become active.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Preflight and plan of a switchover; changes nothing."""
    from dcdr.model import SwitchoverRequest

    _run(
        _switchover(
            _valid(SwitchoverRequest, scope=scope, target=to, requested_by=_user(), dry_run=True), 120.0, output
        )
    )


@app.command()
def failover(
    scope: ScopeArgument,
    to: Annotated[str, typer.Option("--to", help="The data center that is to become active.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="While it holds: wait for an acceptance.")] = True,
    timeout: Annotated[float, typer.Option(help="Seconds to wait; the operation goes on after it.")] = 600.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make another data center active although the active one is lost. What was not mirrored is lost, and reported.

    The lease has to be taken over first: by itself, or because this asks for it. Ctrl-C detaches, it never aborts.
    """
    from dcdr.model import FailoverRequest

    request = _valid(FailoverRequest, scope=scope, target=to, reason=reason, requested_by=_user())
    _run(_transition(request, timeout, output, wait=wait))


@app.command("accept-loss")
def accept_loss(
    scope: ScopeArgument,
    records: Annotated[int | None, typer.Option("--records", help="At most so many records may be lost.")] = None,
    unknown: Annotated[bool, typer.Option("--unknown", help="Although nobody knows how many.")] = False,
    reason: Annotated[str, typer.Option(help="Why; kept in the report.")] = "",
) -> None:
    """Let a failover that holds go on. Counts once, for the bound that `dcdr status` shows."""
    scope = _scope(scope)
    if unknown is (records is not None):
        _say("error: say either --records N, the bound that dcdr status shows, or --unknown where it is not known")
        raise typer.Exit(USAGE)
    _run(_accept_loss(scope, records, reason))


@app.command()
def status(scope: ScopeArgument, output: OutputOption = Output.TABLE) -> None:
    """The steps of the running or last operation."""
    scope = _scope(scope)
    _run(_status(scope, output))


@app.command()
def watch(
    scope: ScopeArgument,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a sign of life.")] = 10.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Whether somebody would see the lease of SCOPE move; starts its watch where it does not run. Exit 9: nobody."""
    scope = _scope(scope)
    _run(_watch(scope, wait, output))


@app.command()
def abort(scope: ScopeArgument, reason: Annotated[str, typer.Option(help="Why.")] = "") -> None:
    """Undo the running operation; refused once its handover is scheduled."""
    scope = _scope(scope)
    _run(_abort(scope, reason))


@app.command()
def recover(scope: ScopeArgument, output: OutputOption = Output.TABLE) -> None:
    """Finish or undo an operation whose run was ended from outside."""
    _run(_recover(scope, output))


async def _switchover(request: SwitchoverRequest, timeout: float, output: Output) -> int:
    return await _transition(request, timeout, output)


async def _transition(
    request: SwitchoverRequest | FailoverRequest, timeout: float, output: Output, *, wait: bool = True
) -> int:
    from dcdr.model import FailoverRequest
    from starter import client as front
    from starter.show import Live
    from starter.watch import ensured
    from workflows.temporal import connect

    temporal = await connect()
    handle = await front.start(temporal, request)
    unplanned = isinstance(request, FailoverRequest)
    if unplanned:
        await ensured(temporal, request.scope, _say)
    undo = "" if unplanned else f"; abort with: dcdr abort {request.scope}"
    _say(f"{handle.id} started, run {handle.first_execution_run_id}{undo}")
    live = Live(jsonl=output is Output.JSONL)
    told = None
    try:
        async with asyncio.timeout(timeout):
            with live:
                async for table in front.watch(handle):
                    live.show(table)
                    held = await front.holding(temporal, request.scope) if unplanned else None
                    if held is not None and held != told:
                        told = held
                        _say(f"HOLDING: {held.why}\nNEXT: {front.how_to_accept(request.scope, held)}")
                        if not wait:
                            return HOLDING
            ended = await front.ended(handle)
    except TimeoutError:
        if unplanned and await front.holding(temporal, request.scope) is not None:
            _say(f"still holding after {timeout:.0f} s; look at it with: dcdr status {request.scope}")
            return HOLDING
        _say(f"still running after {timeout:.0f} s; look at it with: dcdr status {request.scope}")
        return RUNNING
    except asyncio.CancelledError:
        _say(f"detached; the operation goes on. Look at it with: dcdr status {request.scope}")
        return INTERRUPTED
    return _tell(ended, output)


def _tell(ended: Ended, output: Output) -> int:
    from dcdr.model import Outcome
    from starter.show import report_table

    report = ended.report
    if report is not None:
        _print(report, output, report_table)
    if ended.failure:
        _say(f"error: {ended.failure}")
    if report is None:
        return REFUSED if ended.refused else UNREACHABLE if ended.unreachable else FAILED
    return {Outcome.AS_BEFORE: AS_BEFORE, Outcome.SUPERSEDED: SUPERSEDED}.get(report.outcome, DONE)


async def _status(scope: str, output: Output) -> int:
    import json

    from temporalio.service import RPCError, RPCStatusCode

    from dcdr.model import StepReport
    from starter import client as front
    from starter.show import next_sentence, steps_table
    from starter.watch import ensured
    from workflows.temporal import connect
    from workflows.transition import transition_id

    temporal = await connect()
    await ensured(temporal, scope, _say)
    handle = temporal.get_workflow_handle(transition_id(scope))
    try:
        description = await handle.describe()
        table = await handle.query("steps", result_type=list[StepReport])
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            _say(f"scope {scope} had no operation yet; start one with: dcdr switchover {scope} --to DC")
            return DONE
        raise
    state = description.status.name if description.status else "UNKNOWN"
    held = await front.holding(temporal, scope) if state == "RUNNING" else None
    kind = description.workflow_type
    following = next_sentence(scope, kind, state, None if held is None else front.how_to_accept(scope, held))
    if output is Output.TABLE:
        typer.echo(f"{kind} {handle.id}: {'HOLDING' if held else state}")
        typer.echo(steps_table(table))
        if held is not None:
            typer.echo(f"\nHOLDING since {held.since:%Y-%m-%d %H:%M:%S} UTC: {held.why}")
        typer.echo(f"NEXT: {following}")
    else:
        rows = [row.model_dump(mode="json") for row in table]
        told = {"workflow": handle.id, "type": kind, "state": state, "steps": rows, "next": following}
        typer.echo(json.dumps(told | {"holding": None if held is None else held.model_dump(mode="json")}))
    return DONE


async def _accept_loss(scope: str, records: int | None, reason: str) -> int:
    from dcdr.model import LossAcceptance
    from starter import client as front
    from workflows.temporal import connect

    acceptance = _valid(LossAcceptance, records=records, by=_user(), reason=reason)
    typer.echo(await front.accept_loss(await connect(), scope, acceptance))
    return DONE


async def _watch(scope: str, wait: float, output: Output) -> int:
    from starter.watch import show

    alive = await show(scope, wait, output is not Output.TABLE, typer.echo, _say)
    return DONE if alive else NOT_WATCHED


async def _abort(scope: str, reason: str) -> int:
    from dcdr.model import AbortRequest
    from starter import client as front
    from workflows.temporal import connect

    typer.echo(await front.abort(await connect(), scope, _valid(AbortRequest, by=_user(), reason=reason)))
    return DONE


async def _recover(scope: str, output: Output) -> int:
    import json

    from dcdr.model import RecoveryRequest
    from starter import client as front
    from workflows.temporal import connect

    request = _valid(RecoveryRequest, scope=scope, requested_by=_user())
    said = await front.recover(await connect(), request)
    typer.echo("\n".join(said) if output is Output.TABLE else json.dumps(said))
    return DONE


def _print(report: TransitionReport, output: Output, table: Any) -> None:
    typer.echo(table(report) if output is Output.TABLE else report.model_dump_json())


def _valid(model: Any, **values: Any) -> Any:
    """Build a request, or leave with a usage error that names the value."""
    from pydantic import ValidationError

    try:
        return model(**values)
    except ValidationError as error:
        for item in error.errors():
            said = NAME_RULE if item["type"] == "string_pattern_mismatch" else item["msg"]
            _say(f"error: {'.'.join(map(str, item['loc']))}: {said} (given: {item['input']!r})")
        raise typer.Exit(USAGE) from error


def _scope(name: str) -> str:
    """The name if a scope can have it, else a usage error: an unknown id would only say that nothing runs."""
    from dcdr.model import RecoveryRequest

    request: RecoveryRequest = _valid(RecoveryRequest, scope=name)
    return request.scope


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _run(body: Coroutine[Any, Any, int]) -> NoReturn:
    """Run and leave with its exit code."""
    from temporalio.service import RPCError

    from dcdr.errors import ConflictError, DcdrError, InvalidRequestError, PlanRefusedError, UnreachableError

    try:
        code = asyncio.run(body)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (PlanRefusedError, InvalidRequestError, ConflictError) as error:
        _say(f"error: {error}")
        code = REFUSED
    except (UnreachableError, RPCError) as error:
        _say(f"error: {error}")
        code = UNREACHABLE
    except DcdrError as error:
        _say(f"error: {error}")
        code = FAILED
    # The SDK's own threads may abort the interpreter while it shuts down (sdk-python issue 300), so it is left at once.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _mount_lab() -> None:
    """`dcdr lab` belongs to the lab; it is mounted only when asked for, so that `dcdr` starts fast."""
    if {"lab", "demo"} & set(sys.argv[1:2]) or "--help" in sys.argv[1:2] or len(sys.argv) == 1:
        from lab.cli import app as lab_app
        from lab.cli import demo

        app.add_typer(lab_app, name="lab")
        app.command()(demo)


def _mount_agent() -> None:
    """`dcdr agent`, `dcdr lease` and `dcdr fence` belong to the agent; mounted like the lab."""
    if {"agent", "lease", "fence"} & set(sys.argv[1:2]) or "--help" in sys.argv[1:2] or len(sys.argv) == 1:
        from agent.cli import agent, fence, lease

        app.add_typer(agent, name="agent")
        app.add_typer(lease, name="lease")
        app.add_typer(fence, name="fence")


def main() -> None:
    """Entry point of the `dcdr` script."""
    _mount_lab()
    _mount_agent()
    app()
