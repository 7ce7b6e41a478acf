"""The Temporal development server of the lab: its history outlives a restart, and its UI shows our attributes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import httpx

from lab import processes
from lab.addresses import Plan
from lab.errors import LabError
from lab.record import Home

NAMESPACE, TASK_QUEUE = "dr", "dr"
SEARCH_ATTRIBUTES = {
    "DrScope": "Keyword",
    "DrPhase": "Keyword",
    "DrActiveDC": "Keyword",
    "DrLagRecords": "Int",
    "DrDrill": "Bool",
}
DYNAMIC = {
    # One history shard is polled 20 times a second by default: after 30 steps each one would cost 50 ms more.
    "history.transferProcessorMaxPollRPS": "1000",
    "history.timerProcessorMaxPollRPS": "1000",
    "history.defaultWorkflowTaskTimeout": '"3s"',
}
PRAGMAS = {
    # A step is three writes, and the rollback journal forces each to the disk several times: a switchover's outage was
    # 470 ms with it and is 300 ms without. What the server wrote survives its SIGKILL; the machine's loss is the lab's.
    "journal_mode": "WAL",
    "synchronous": "OFF",
}
COMMAND_LIMIT_S = 20.0


def command(plan: Plan, home: Home, binary: Path) -> list[str]:
    frontend, ui = plan.ports["temporal/frontend"], plan.ports["temporal/ui"]
    argv = [
        str(binary), "server", "start-dev", "--ip", frontend.host, "--port", str(frontend.port),
        "--ui-ip", ui.host, "--ui-port", str(ui.port),
        "--ui-disable-news-fetch", "--db-filename", str(home.data / "temporal.db"), "--namespace", NAMESPACE,
        "--log-level", "warn",
    ]  # fmt: skip
    for name, kind in SEARCH_ATTRIBUTES.items():
        argv += ["--search-attribute", f"{name}={kind}"]
    for key, value in PRAGMAS.items():
        argv += ["--sqlite-pragma", f"{key}={value}"]
    for key, value in DYNAMIC.items():
        argv += ["--dynamic-config-value", f"{key}={value}"]
    return argv


def is_ready(plan: Plan) -> bool:
    """The UI's own API answers for the namespace, so frontend, history and the UI are there."""
    try:
        answer = httpx.get(f"http://{plan.ports['temporal/ui']}/api/v1/namespaces/{NAMESPACE}", timeout=2.0)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200


def declare(binary: Path, plan: Plan, log: Path) -> None:
    """Make sure of the search attributes: the server takes them from its command line only for a new namespace.

    Raises: LabError when the server refuses.
    """
    argv = ["operator", "search-attribute", "create", "--namespace", NAMESPACE]
    for name, kind in SEARCH_ATTRIBUTES.items():
        argv += ["--name", name, "--type", kind]
    done = processes.run([str(binary), *argv, *_address(plan)], os.environ, log, COMMAND_LIMIT_S)
    if done.returncode != 0:
        raise LabError(f"Temporal refused the search attributes: {done.stderr.strip()}")


def has_worker(binary: Path, plan: Plan, pid: int) -> bool:
    """The worker with this pid polls the task queue for workflows; the server lists those long gone as well."""
    argv = ["task-queue", "describe", "--task-queue", TASK_QUEUE, "--namespace", NAMESPACE, "-o", "json"]
    done = processes.run([str(binary), *argv, *_address(plan)], os.environ, Path(os.devnull), COMMAND_LIMIT_S)
    try:
        pollers = json.loads(done.stdout)["pollers"]
        return any(one["taskQueueType"] == "workflow" and one["identity"].endswith(f":{pid}") for one in pollers)
    except (ValueError, KeyError, TypeError):
        return False


def _address(plan: Plan) -> list[str]:
    return ["--address", str(plan.ports["temporal/frontend"])]
