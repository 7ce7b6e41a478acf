"""The tail: what a failover lost, exactly, once the old side answers again and is closed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from temporalio import workflow

from workflows.temporal import tail_id
from workflows.transition import PHASE, SCOPE

with workflow.unsafe.imports_passed_through():
    from activities.tail import TailActivities
    from dcdr.errors import DcdrError, InvalidRequestError
    from dcdr.model import KeysRequest, LostKeys, LostRows, TailCase, TailRequest, TailResult
    from workflows import policies, steps

SHOWN = 20


def check_tail_identity(request: TailRequest | None) -> None:
    """Raises: InvalidRequestError when this run was started under another id (it could run beside another one), or
    with `null`, which decodes as any type."""
    scope = "SCOPE" if request is None else request.scope
    here = workflow.info().workflow_id
    if request is None or here != tail_id(scope):
        raise InvalidRequestError(
            f"the tail of scope {scope} is computed under the workflow id {tail_id(scope)} only, with an input such as "
            f'{{"scope": "{scope}"}}; this run has {here}'
        )


@workflow.defn(name="Tail", failure_exception_types=[DcdrError])
class TailWorkflow:
    """Started by the watch when the old side is back, or by a person; the report is its result."""

    @workflow.run
    async def run(self, request: TailRequest) -> TailResult:
        check_tail_identity(request)
        workflow.upsert_search_attributes([SCOPE.value_set(request.scope), PHASE.value_set("Tail")])
        workflow.set_current_details(f"closing the side of **{request.scope}** that was left behind")
        # The SDK's overloads do not know a policy that is handed over whole.
        do: Callable[..., Awaitable[TailResult]] = workflow.execute_activity_method
        await do(
            TailActivities.close,
            request,
            activity_id=steps.CLOSE_BEHIND.name,
            summary=steps.CLOSE_BEHIND.title,
            **policies.TAIL,
        )
        workflow.set_current_details(f"computing the tail of **{request.scope}**")
        result = await do(
            TailActivities.compute, request, activity_id=steps.TAIL.name, summary=steps.TAIL.title, **policies.TAIL
        )
        workflow.upsert_search_attributes([PHASE.value_set("Done")])
        workflow.set_current_details(details(result))
        return result


@workflow.defn(name="TailKeys", failure_exception_types=[DcdrError])
class TailKeysWorkflow:
    """On request: keys are the application's own data, and what a run returns stands in Temporal's history."""

    @workflow.run
    async def run(self, request: KeysRequest) -> LostKeys:
        do: Callable[..., Awaitable[LostKeys]] = workflow.execute_activity_method
        return await do(
            TailActivities.keys, request, activity_id=steps.KEYS.name, summary=steps.KEYS.title, **policies.LOOK
        )


def details(result: TailResult) -> str:
    """The loss as Markdown, the first rows of it."""
    counts = ", ".join(f"{result.cases.get(case, 0)} {case.value}" for case in TailCase)
    lines = [
        f"**{result.records} records lost** ({result.bytes} bytes) that {result.source} took and {result.target} never "
        f"had; the bound said {'unknown' if result.bound.records is None else result.bound.records}",
        "",
        f"partitions: {counts}; report {result.entry.digest[:12]} in the ledger of {result.target}",
        "",
    ]
    if result.rows:
        head = _row("partition", "case", "first", "last", "records", "bytes", "")
        lines += [head, "|---|---|--:|--:|--:|--:|---|"]
    lines += [_cells(row) for row in result.rows[:SHOWN]]
    if (more := len(result.rows) - SHOWN) > 0:
        lines.append(f"\nand {more} more: `dcdr loss {result.scope}`")
    return "\n".join(lines)


def _cells(row: LostRows) -> str:
    first, last = ("" if at is None else str(at) for at in (row.first, row.last))
    place = f"{row.topic}-{row.partition}"
    return _row(place, row.case.value, first, last, str(row.records), str(row.bytes), row.note)


def _row(*cells: str) -> str:
    """A row of a Markdown table. The UI sets no space between columns, so the cells bring their own."""
    return "|" + "|".join(f"\u00a0{cell}\u00a0" for cell in cells) + "|"
