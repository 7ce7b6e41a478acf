"""`dcdr`: start, watch and abort switchovers; `dcdr lab` runs the estate to try it on.

Exit codes: 0 done, 1 failed, 2 usage, 3 refused (nothing was changed), 4 still running when --timeout ended,
6 Temporal or a part of the estate cannot be reached, 7 undone (everything is as before), 8 nobody watches the lease,
130 interrupted (the operation goes on). Data goes to stdout, progress to stderr.
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

if TYPE_CHECKING:
    from dcdr.model import SwitchoverRequest, TransitionReport
    from starter.client import Ended

app = typer.Typer(no_args_is_help=True, add_completion=True, help=__doc__, pretty_exceptions_enable=False)

DONE, FAILED, USAGE, REFUSED, RUNNING, UNREACHABLE, AS_BEFORE, INTERRUPTED = 0, 1, 2, 3, 4, 6, 7, 130

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
    """Whether somebody would see the lease of SCOPE move; starts its watch where it does not run. Exit 8: nobody."""
    from starter import watch as watching

    scope = _scope(scope)
    _run(watching.show(scope, wait, output is not Output.TABLE, typer.echo, _say))


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
    from starter import client as front
    from starter.show import Live
    from workflows.temporal import connect

    temporal = await connect()
    handle = await front.start(temporal, request)
    _say(f"{handle.id} started, run {handle.first_execution_run_id}; abort with: dcdr abort {request.scope}")
    live = Live(jsonl=output is Output.JSONL)
    try:
        async with asyncio.timeout(timeout):
            with live:
                async for table in front.watch(handle):
                    live.show(table)
            ended = await front.ended(handle)
    except TimeoutError:
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
    return AS_BEFORE if report.outcome is Outcome.AS_BEFORE else DONE


async def _status(scope: str, output: Output) -> int:
    import json

    from temporalio.service import RPCError, RPCStatusCode

    from starter.show import steps_table
    from workflows.switchover import SwitchoverWorkflow
    from workflows.temporal import connect
    from workflows.transition import transition_id

    temporal = await connect()
    handle = temporal.get_workflow_handle_for(SwitchoverWorkflow.run, transition_id(scope))
    try:
        description = await handle.describe()
        table = await handle.query(SwitchoverWorkflow.report_steps)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            _say(f"scope {scope} had no operation yet; start one with: dcdr switchover {scope} --to DC")
            return DONE
        raise
    state = description.status.name if description.status else "UNKNOWN"
    if output is Output.TABLE:
        typer.echo(f"{description.workflow_type} {handle.id}: {state}")
        typer.echo(steps_table(table))
    else:
        rows = [row.model_dump(mode="json") for row in table]
        typer.echo(
            json.dumps({"workflow": handle.id, "type": description.workflow_type, "state": state, "steps": rows})
        )
    return DONE


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
