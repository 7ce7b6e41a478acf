"""The command line: what it refuses, how it exits, and that it starts fast."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError, RetryState, TerminatedError
from temporalio.service import RPCError, RPCStatusCode
from typer.testing import CliRunner

from dcdr import errors
from dcdr.model import (
    FailoverRequest,
    Holding,
    LossBound,
    OperationKind,
    Outcome,
    StepReport,
    StepState,
    TransitionReport,
)
from starter import cli, client
from starter.client import Ended
from starter.show import next_sentence, report_table

ROOT = Path(__file__).parents[3]
CODES = {
    name: getattr(cli, name)
    for name in (
        *("DONE", "FAILED", "USAGE", "REFUSED", "RUNNING", "HOLDING", "UNREACHABLE", "AS_BEFORE", "SUPERSEDED"),
        "NOT_WATCHED",
        "INTERRUPTED",
    )
}


def dcdr(*arguments: str, address: str = "127.0.0.1:1") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dcdr", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "TEMPORAL_ADDRESS": address, "TERM": "dumb", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def report(outcome: Outcome = Outcome.DONE, **more: Any) -> TransitionReport:
    done = outcome is Outcome.DONE
    return TransitionReport(
        scope="lab",
        operation_id="op-1",
        source="dc-a",
        target="dc-b",
        outcome=outcome,
        epoch=2 if done else 1,
        active="dc-b" if done else "dc-a",
        **more,
    )


def test_the_exit_codes_are_the_documented_ones_and_differ() -> None:
    documented = {int(code) for code in re.findall(r"(?:: |, )(\d+) [a-z]", (cli.__doc__ or "").replace("\n", " "))}
    documented |= {int(code) for code in re.findall(r",\s(\d+) ", cli.__doc__ or "")}
    assert documented == set(CODES.values())
    assert len(set(CODES.values())) == len(CODES)


def test_every_documented_exit_code_is_used_somewhere() -> None:
    used = {node.id for node in ast.walk(ast.parse(inspect.getsource(cli))) if isinstance(node, ast.Name)}
    assert set(CODES) <= used
    loads = inspect.getsource(cli)
    assert all(len(re.findall(rf"\b{name}\b", loads)) >= 2 for name in CODES)


def test_help_is_there_without_loading_temporal_or_any_client() -> None:
    program = (
        "import sys; sys.argv = ['dcdr', 'switchover', '--help']\n"
        "from starter.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('temporalio', 'confluent_kafka', 'kafka', 'httpx', 'rich.live') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "--to" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "[]"


def test_help_lists_the_lab_and_does_not_load_temporal() -> None:
    program = (
        "import sys; sys.argv = ['dcdr', '--help']\n"
        "from starter.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('temporalio' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert re.search(r"\blab\b", ran.stdout)
    assert ran.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    "arguments",
    [
        ("switchover", "Bad Scope", "--to", "dc-b"),
        ("switchover", "lab", "--to", "dc_b"),
        ("plan", "../etc", "--to", "dc-b"),
        ("recover", "Lab"),
        ("abort", "lab/x"),
        ("status", "-x-"),
        ("failover", "lab", "--to", "dc_b"),
        ("accept-loss", "Lab", "--unknown"),
    ],
)
def test_a_name_nobody_can_have_is_a_usage_error_before_anybody_is_asked(arguments: tuple[str, ...]) -> None:
    given = arguments if arguments[1][0] != "-" else (arguments[0], "--", *arguments[1:])
    ran = CliRunner().invoke(cli.app, list(given))
    assert ran.exit_code == cli.USAGE
    assert ran.stdout == ""
    assert re.fullmatch(r"error: (scope|target): a name has lower-case letters.* \(given: '.*'\)\n", ran.stderr)


def test_without_temporal_the_exit_code_and_the_words_say_what_to_set() -> None:
    ran = dcdr("switchover", "lab", "--to", "dc-b")
    assert ran.returncode == cli.UNREACHABLE
    assert "no Temporal service at 127.0.0.1:1" in ran.stderr
    assert "TEMPORAL_ADDRESS" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Callable[[Coroutine[Any, Any, int]], int]:
    """Run a command's body as `_run` does, without ending this process."""

    class Left(Exception):  # noqa: N818 - where the process would end
        pass

    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise Left

    monkeypatch.setattr(os, "_exit", leave)

    def run(body: Coroutine[Any, Any, int]) -> int:
        with pytest.raises(Left):
            cli._run(body)
        return codes.pop()

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.PlanRefusedError("lagging"), cli.REFUSED),
        (errors.InvalidRequestError("no such scope"), cli.REFUSED),
        (errors.ConflictError("a transition is running"), cli.REFUSED),
        (errors.UnreachableError("no answer"), cli.UNREACHABLE),
        (RPCError("gone", RPCStatusCode.UNAVAILABLE, b""), cli.UNREACHABLE),
        (errors.PermanentError("recovery failed"), cli.FAILED),
        (errors.SupersededError("late"), cli.FAILED),
        (KeyboardInterrupt(), cli.INTERRUPTED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_each_kind_of_trouble_has_its_exit_code(
    left: Callable[..., int], capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    async def body() -> int:
        raise error

    assert left(body()) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert isinstance(error, KeyboardInterrupt) or "error: " in said.err


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        (Ended(report()), cli.DONE),
        (Ended(report(Outcome.PLANNED)), cli.DONE),
        (Ended(report(Outcome.AS_BEFORE)), cli.AS_BEFORE),
        (Ended(report(Outcome.SUPERSEDED, why="handed back")), cli.SUPERSEDED),
        (Ended(report(Outcome.AS_BEFORE), failure="not drained"), cli.AS_BEFORE),
        (Ended(None, refused=True, failure="lagging"), cli.REFUSED),
        (Ended(None, unreachable=True, failure="no answer"), cli.UNREACHABLE),
        (Ended(None, failure="terminated"), cli.FAILED),
    ],
)
def test_each_end_has_its_exit_code_and_only_a_report_goes_to_stdout(
    capsys: pytest.CaptureFixture[str], ended: Ended, code: int
) -> None:
    assert cli._tell(ended, cli.Output.JSON) == code
    said = capsys.readouterr()
    if ended.report is None:
        assert said.out == ""
    else:
        assert TransitionReport.model_validate_json(said.out) == ended.report
    assert ("error: " in said.err) is bool(ended.failure)


class Run:
    """A handle whose run has ended."""

    def __init__(self, end: TransitionReport | BaseException) -> None:
        self.end = end

    async def result(self) -> TransitionReport:
        if isinstance(self.end, TransitionReport):
            return self.end
        raise WorkflowFailureError(cause=self.end)


def failed_step(error: ApplicationError) -> ActivityError:
    failure = ActivityError(
        "Activity task failed",
        scheduled_event_id=1,
        started_event_id=2,
        identity="worker",
        activity_type="status.preflight",
        activity_id="status.preflight",
        retry_state=RetryState.NON_RETRYABLE_FAILURE,
    )
    failure.__cause__ = error
    return failure


@pytest.mark.parametrize(
    ("cause", "refused", "unreachable", "says"),
    [
        (ApplicationError("lagging", type="PlanRefusedError"), True, False, "lagging"),
        (
            failed_step(ApplicationError("no data center 'x'", type="InvalidRequestError")),
            True,
            False,
            "no data center",
        ),
        (failed_step(ApplicationError("Kafka is silent", type="UnreachableError")), False, True, "Kafka is silent"),
        (failed_step(ApplicationError("loop", type="MirrorLoopError")), False, False, "loop"),
        (TerminatedError("by hand"), False, False, "TerminatedError: by hand"),
    ],
)
async def test_a_failed_run_is_told_in_the_words_of_the_step_that_failed(
    cause: BaseException, refused: bool, unreachable: bool, says: str
) -> None:
    ended = await client.ended(Run(cause))  # type: ignore[arg-type]
    assert (ended.report, ended.refused, ended.unreachable) == (None, refused, unreachable)
    assert says in ended.failure


async def test_an_undone_run_that_failed_still_brings_its_report() -> None:
    told = report(Outcome.AS_BEFORE, why="not drained")
    cause = ApplicationError("undone", told.model_dump(mode="json"), type="AsBefore")
    ended = await client.ended(Run(cause))  # type: ignore[arg-type]
    assert ended.report == told
    assert ended.failure == "undone"


def test_ctrl_c_detaches_and_aborts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Handle:
        id, first_execution_run_id = "dcdr/lab/transition", "run-1"

    async def started(*_: object) -> Handle:
        return Handle()

    async def watch(_: object) -> Any:
        yield []
        await asyncio.sleep(60)

    async def connect() -> None:
        return None

    monkeypatch.setattr(client, "start", started)
    monkeypatch.setattr(client, "watch", watch)
    monkeypatch.setattr("workflows.temporal.connect", connect)

    async def interrupted() -> int:
        from dcdr.model import SwitchoverRequest

        task = asyncio.create_task(
            cli._switchover(SwitchoverRequest(scope="lab", target="dc-b"), 60.0, cli.Output.JSON)
        )
        await asyncio.sleep(0.05)
        task.cancel()
        return await task

    assert asyncio.run(interrupted()) == cli.INTERRUPTED
    said = capsys.readouterr()
    assert said.out == ""
    assert "detached; the operation goes on. Look at it with: dcdr status lab" in said.err


@pytest.mark.parametrize("given", [(), ("--records", "3", "--unknown")])
def test_an_acceptance_names_one_bound(given: tuple[str, ...]) -> None:
    ran = CliRunner().invoke(cli.app, ["accept-loss", "lab", *given])
    assert ran.exit_code == cli.USAGE
    assert "either --records N" in ran.stderr


HELD = Holding(
    source="dc-a",
    target="dc-b",
    bound=LossBound(records=120, known=100, assumed=20),
    why="above the budget of 5 records",
    since=datetime(2026, 11, 30, 12, tzinfo=UTC),
    until=datetime(2026, 11, 30, 12, 15, tzinfo=UTC),
)


def test_what_holds_is_told_with_how_to_answer_it() -> None:
    said = client.how_to_accept("lab", HELD)
    assert "until 2026-11-30 12:15:00 UTC with: dcdr accept-loss lab --records 120 --reason TEXT" in said
    assert "dcdr lease handover lab --to dc-a" in said
    unknown = HELD.model_copy(update={"bound": LossBound(records=None)})
    assert "dcdr accept-loss lab --unknown" in client.how_to_accept("lab", unknown)


@pytest.mark.parametrize(
    ("kind", "state", "says"),
    [
        ("Failover", "RUNNING", "goes on by itself"),
        ("Failover", "COMPLETED", "Failing back is yours to decide"),
        ("Failover", "TERMINATED", "dcdr recover lab"),
        ("Switchover", "FAILED", "dcdr lease show lab"),
        ("Switchover", "COMPLETED", "nothing"),
    ],
)
def test_the_next_thing_to_do_is_said_in_a_sentence(kind: str, state: str, says: str) -> None:
    assert says in next_sentence("lab", kind, state, None)


@pytest.mark.parametrize(
    ("wait", "timeout", "says"), [(False, 60.0, "NEXT: accept the loss"), (True, 0.2, "still holding")]
)
def test_a_failover_that_holds_has_an_exit_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wait: bool, timeout: float, says: str
) -> None:
    class Handle:
        id, first_execution_run_id = "dcdr/lab/transition", "run-1"

    async def started(*_: object) -> Handle:
        return Handle()

    async def watch(_: object) -> Any:
        yield []
        await asyncio.sleep(60)

    async def holds(*_: object) -> Holding:
        return HELD

    async def ensured(*_: Any) -> None:
        pass

    async def connect() -> None:
        return None

    monkeypatch.setattr(client, "start", started)
    monkeypatch.setattr(client, "watch", watch)
    monkeypatch.setattr(client, "holding", holds)
    monkeypatch.setattr("workflows.temporal.connect", connect)
    monkeypatch.setattr("starter.watch.ensured", ensured)
    request = FailoverRequest(scope="lab", target="dc-b")
    assert asyncio.run(cli._transition(request, timeout, cli.Output.TABLE, wait=wait)) == cli.HOLDING
    said = capsys.readouterr()
    assert says in said.err
    assert "HOLDING: above the budget of 5 records" in said.err
    assert said.out == ""


def test_a_failovers_report_shows_the_loss_who_accepted_it_and_where_the_time_went() -> None:
    split = {"detect": timedelta(seconds=7), "fence": timedelta(milliseconds=90), "open": timedelta(milliseconds=10)}
    text = report_table(
        report(
            kind=OperationKind.FAILOVER,
            loss=HELD.bound,
            accepted_by="ann (120 records)",
            rto=split,
            outage=timedelta(seconds=7.1),
        )
    )
    for part in (
        "failover of lab, dc-a to dc-b: done",
        "loss: Lost would be at most 120 records (100 seen, 20 assumed)",
        "the loss was accepted by ann (120 records)",
        "without writes for 7,100 ms: detect 7,000, fence 90, open 10",
    ):
        assert part in text


def test_a_report_shows_the_steps_the_outage_and_every_group_that_is_not_exact() -> None:
    step = StepReport(
        name="fence.close",
        title="close users on dc-a",
        state=StepState.DONE,
        duration=timedelta(milliseconds=31),
        effect=timedelta(milliseconds=14),
        in_outage=True,
        note="refused by 3 brokers",
    )
    groups = [
        {"group": "slow", "verdict": "approximate", "partitions": 2, "lag": 9, "bound": 5, "note": "no checkpoint"}
    ]
    tail = [{"topic": "orders", "partition": 0, "first": 10, "end": 12}]
    told = TransitionReport.model_validate(
        report(steps=(step,), outage=timedelta(milliseconds=105), warnings=("careful",)).model_dump()
        | {"groups": groups, "tail": tail}
    )
    text = report_table(told)
    for part in (
        "1*", "close users on dc-a", "31", "14", "refused by 3 brokers", "dc-b is active, epoch 2", "105 ms",
        "group slow: approximate, lag 9, may re-read 5 (no checkpoint)", "warning: careful",
        "TAIL on dc-a: orders-0 offsets 10 to 11",
    ):  # fmt: skip
        assert part in text
    assert json.loads(told.model_dump_json())["steps"][0]["effect"]
