"""`dcdr loss`: what the last failover lost. Its exit codes are `dcdr`'s."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from temporalio.client import Client, WorkflowHandle

    from dcdr.model import KeysRequest, LostRows, TailRequest, TailResult
    from workflows.tail import TailWorkflow


class LossOutput(StrEnum):
    TABLE = "table"
    JSON = "json"


def loss(
    scope: Annotated[str, typer.Argument(help="The scope: what fails over together.")],
    compute: Annotated[
        bool, typer.Option("--compute", help="Compute it (again); the watch does so when the old side is back.")
    ] = False,
    keys: Annotated[str, typer.Option("--keys", help="Instead: keys of the lost records of this topic.")] = "",
    limit: Annotated[int, typer.Option(help="With --keys: how many at most, up to 1000.")] = 100,
    timeout: Annotated[float, typer.Option(help="Seconds to wait with --compute; it goes on after them.")] = 600.0,
    output: Annotated[LossOutput, typer.Option("-o", "--output", help="table or json.")] = LossOutput.TABLE,
) -> None:
    """What the last failover of SCOPE lost: records its old side took and its new side never had."""
    from starter.cli import _run, _scope, _valid

    if keys:
        from dcdr.model import KeysRequest

        _run(_keys(_valid(KeysRequest, scope=scope, topic=keys, limit=limit), output))
    _run(_loss(_scope(scope), compute, timeout, output))


async def compute_tail(client: Client, request: TailRequest) -> WorkflowHandle[TailWorkflow, TailResult]:
    """Start the computation, or join the one that runs."""
    from temporalio.common import WorkflowIDConflictPolicy

    from workflows.tail import TailWorkflow
    from workflows.temporal import TASK_QUEUE, TASK_TIMEOUT, tail_id

    return await client.start_workflow(
        TailWorkflow.run,
        request,
        id=tail_id(request.scope),
        task_queue=TASK_QUEUE,
        task_timeout=TASK_TIMEOUT,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=f"tail of {request.scope}",
    )


async def _loss(scope: str, compute: bool, timeout: float, output: LossOutput) -> int:
    from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
    from temporalio.exceptions import ApplicationError
    from temporalio.service import RPCError, RPCStatusCode

    from dcdr.model import TailRequest
    from starter.cli import DONE, FAILED, REFUSED, RUNNING, _say, _user
    from starter.client import REFUSALS, _innermost
    from workflows.tail import TailWorkflow
    from workflows.temporal import connect, tail_id

    client = await connect()
    if compute:
        handle = await compute_tail(client, TailRequest(scope=scope, requested_by=_user()))
    else:
        handle = client.get_workflow_handle_for(TailWorkflow.run, tail_id(scope))
        try:
            running = (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            _say(
                f"no loss report of {scope}: it had no failover, or its old side is not back yet. What is lost at most "
                f"stands in: dcdr status {scope}. Compute it with: dcdr loss {scope} --compute"
            )
            return DONE
        if running:
            _say(f"the tail of {scope} is being computed ({handle.id}); wait for it with: dcdr loss {scope} --compute")
            return RUNNING
    try:
        async with asyncio.timeout(timeout):
            result = await handle.result()
    except TimeoutError:
        _say(f"still being computed after {timeout:.0f} s; look again with: dcdr loss {scope}")
        return RUNNING
    except WorkflowFailureError as error:
        cause = _innermost(error)
        _say(f"error: {cause.message if isinstance(cause, ApplicationError) else cause}")
        return REFUSED if isinstance(cause, ApplicationError) and cause.type in REFUSALS else FAILED
    typer.echo(loss_table(result) if output is LossOutput.TABLE else result.model_dump_json())
    return DONE


async def _keys(request: KeysRequest, output: LossOutput) -> int:
    from temporalio.client import WorkflowFailureError
    from temporalio.exceptions import ApplicationError

    from starter.cli import DONE, FAILED, REFUSED, _say
    from starter.client import REFUSALS, _innermost
    from workflows.tail import TailKeysWorkflow
    from workflows.temporal import TASK_QUEUE, TASK_TIMEOUT, connect, tail_id

    client = await connect()
    try:
        found = await client.execute_workflow(
            TailKeysWorkflow.run,
            request,
            id=f"{tail_id(request.scope)}-keys",
            task_queue=TASK_QUEUE,
            task_timeout=TASK_TIMEOUT,
        )
    except WorkflowFailureError as error:
        cause = _innermost(error)
        _say(f"error: {cause.message if isinstance(cause, ApplicationError) else cause}")
        return REFUSED if isinstance(cause, ApplicationError) and cause.type in REFUSALS else FAILED
    if output is LossOutput.JSON:
        typer.echo(found.model_dump_json())
        return DONE
    for key in found.keys:
        typer.echo(key)
    if found.more:
        _say(f"there are more than these {len(found.keys)}: --limit takes up to 1000")
    return DONE


def loss_table(result: TailResult) -> str:
    """The report as text: totals, then the partitions that are not without a tail."""
    from rich.console import Console
    from rich.table import Table

    from dcdr.model import TailCase

    bound = result.bound
    announced = "nobody knew how many" if bound.records is None else f"at most {bound.records}"
    lines = [
        f"failover {result.operation_id} of {result.scope}, {result.source} to {result.target}: "
        f"{result.records} records lost, {result.bytes} bytes (announced: {announced})",
        "partitions: " + ", ".join(f"{result.cases.get(case, 0)} {case.value}" for case in TailCase),
        f"whole report: {result.entry.key} in the ledger of {result.target}",
    ]
    table = Table(box=None, pad_edge=False)
    for name in ("partition", "case", "first", "last", "records", "bytes", "from", "to", ""):
        table.add_column(name, justify="right" if name in ("first", "last", "records", "bytes") else "left")
    for row in result.rows:
        table.add_row(*_cells(row))
    told = sum(count for case, count in result.cases.items() if case is not TailCase.NONE)
    console = Console(width=200, highlight=False)
    with console.capture() as captured:
        for line in lines:
            console.print(line, markup=False)
        if result.rows:
            console.print(table)
        if told > len(result.rows):
            console.print(f"... and {told - len(result.rows)} more partitions, in the ledger")
    return captured.get().rstrip()


def _cells(row: LostRows) -> tuple[str, ...]:
    first, last = ("" if at is None else str(at) for at in (row.first, row.last))
    began, ended = ("" if at is None else f"{at:%Y-%m-%d %H:%M:%S}" for at in (row.first_at, row.last_at))
    place = f"{row.topic}-{row.partition}"
    return (place, row.case.value, first, last, str(row.records), str(row.bytes), began, ended, row.note)
