"""How steps and reports look in a terminal."""

from __future__ import annotations

import sys
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live as RichLive
from rich.table import Table

from dcdr.loss import describe
from dcdr.model import StepReport, StepState, TransitionReport

STYLE = {StepState.NOW: "bold yellow", StepState.DONE: "green", StepState.FAILED: "bold red", StepState.UNDONE: "cyan"}


def _ms(duration: timedelta | None) -> str:
    return "" if duration is None else f"{duration.total_seconds() * 1000:,.0f}"


def _table(steps: list[StepReport]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("step")
    table.add_column("state")
    table.add_column("ms", justify="right")
    table.add_column("effect ms", justify="right")
    table.add_column("")
    for number, step in enumerate(steps, 1):
        state = f"[{STYLE[step.state]}]{step.state}[/]" if step.state in STYLE else str(step.state)
        mark = "*" if step.in_outage else ""
        table.add_row(f"{number}{mark}", step.title, state, _ms(step.duration), _ms(step.effect), step.note)
    return table


def _render(*parts: Table | str) -> str:
    console = Console(width=150, force_terminal=sys.stdout.isatty(), highlight=False)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return captured.get().rstrip()


def steps_table(steps: list[StepReport]) -> str:
    """The step table as text; `*` marks the steps inside the outage."""
    return _render(_table(steps))


def report_table(report: TransitionReport) -> str:
    """A whole report as text."""
    lines = [
        f"{report.kind} of {report.scope}, {report.source} to {report.target}: {report.outcome}; "
        f"{report.active} is active, epoch {report.epoch}",
        f"{report.partitions} partitions of {report.topics} topics"
        + (f", {report.records_at_cut} offsets at the cut" if report.records_at_cut else ""),
    ]
    if report.verdicts:
        lines.append("drain proven; last records " + ", ".join(f"{n} {kind}" for kind, n in report.verdicts.items()))
    if report.why:
        lines.append(f"why: {report.why}")
    if report.loss is not None:
        lines.append(f"loss: {describe(report.loss)}")
    if report.accepted_by:
        lines.append(f"the loss was accepted by {report.accepted_by}")
    if report.rto:
        split = ", ".join(f"{name} {_ms(took)}" for name, took in report.rto.items())
        lines.append(f"without writes for {_ms(sum(report.rto.values(), timedelta()))} ms: {split}")
    elif report.outage is not None:
        lines.append(f"closed on every broker -> endpoint flipped: {_ms(report.outage)} ms (steps marked *)")
    if report.ledger is not None:
        lines.append(f"ledger entry {report.ledger.digest}")
    lines += [f"recovered: {said}" for said in report.recovered]
    lines += [f"warning: {said}" for said in report.warnings]
    if report.transactions_fenced:
        lines.append(f"transactions fenced: {', '.join(report.transactions_fenced)}")
    for group in report.groups:
        bound = f", may re-read {group.bound}" if group.bound else ""
        note = f" ({group.note})" if group.note else ""
        lines.append(f"group {group.group}: {group.verdict}, lag {group.lag}{bound}{note}")
    for row in report.tail:
        lines.append(f"TAIL on {report.source}: {row.topic}-{row.partition} offsets {row.first} to {row.end - 1}")
    return _render(_table(list(report.steps)), "", *lines)


def next_sentence(scope: str, kind: str, state: str, hold: str | None) -> str:
    """What to do next about the running or last operation: `kind` is its workflow's type, `state` Temporal's word for
    the run, `hold` how to answer a failover that asks."""
    if hold is not None:
        return hold
    if state == "RUNNING":
        return f"nothing; it goes on by itself. Look again with: dcdr status {scope}"
    if state != "COMPLETED":
        return f"if the lease names an unfinished operation (dcdr lease show {scope}): dcdr recover {scope}"
    if kind == "Failover":
        return "nothing by itself but the tail, once the old side is back. Failing back is yours to decide"
    return "nothing"


class Live:
    """A live table on a terminal's stderr, plain lines elsewhere; or JSON lines on stdout."""

    def __init__(self, *, jsonl: bool) -> None:
        self._jsonl = jsonl
        self._seen: dict[str, StepReport] = {}
        console = Console(stderr=True)
        self._live = RichLive(console=console, refresh_per_second=8) if console.is_terminal and not jsonl else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.__exit__(kind, error, trace)

    def show(self, steps: list[StepReport]) -> None:
        """Show the table as it stands now."""
        if self._live:
            self._live.update(_table(steps))
            return
        for step in steps:
            if self._seen.get(step.name) == step or step.state is StepState.PENDING:
                continue
            self._seen[step.name] = step
            if self._jsonl:
                print(step.model_dump_json(), flush=True)
            else:
                print(
                    f"{step.state:8} {step.title} {_ms(step.duration)} {step.note}".rstrip(),
                    file=sys.stderr,
                    flush=True,
                )
