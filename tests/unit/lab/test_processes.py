"""Processes of a lab: ours and only ours, whatever happens to pids."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab import processes
from lab.processes import Identity, ProcessState
from lab.waiting import wait_for

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, 1); print('deaf', flush=True); time.sleep(60)",
]


@pytest.fixture
def token() -> Iterator[str]:
    made = uuid.uuid4().hex
    yield made
    processes.end(processes.with_token(made), 0)


def start(token: str, log: Path, argv: list[str] = SLEEP) -> Identity:
    return processes.spawn(argv, {"PATH": os.environ["PATH"]}, log, token)


def test_a_process_has_a_session_of_its_own_and_writes_to_its_log(token: str, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "one.log"
    one = start(token, log, [sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid(), flush=True)"])
    wait_for("its word", lambda: log.exists() and "\n" in log.read_text(), 10)
    assert log.read_text() == "True\n"
    wait_for("its end", lambda: processes.state_of(one) is ProcessState.DOWN, 10)


def test_a_freeze_and_a_thaw_can_be_seen(token: str, tmp_path: Path) -> None:
    one = start(token, tmp_path / "log")
    processes.send(one, signal.SIGSTOP)
    wait_for("frozen", lambda: processes.state_of(one) is ProcessState.FROZEN, 5)
    processes.send(one, signal.SIGCONT)
    wait_for("running", lambda: processes.state_of(one) is ProcessState.RUNNING, 5)


def test_a_pid_that_belongs_to_somebody_else_now_is_left_alone(token: str, tmp_path: Path) -> None:
    somebody = start(token, tmp_path / "log")
    remembered = replace(somebody, start_ticks=somebody.start_ticks - 1)
    assert processes.state_of(remembered) is ProcessState.DOWN
    assert processes.end([remembered], 0) == 0
    assert not processes.send(remembered, signal.SIGKILL)
    assert processes.state_of(somebody) is ProcessState.RUNNING


def test_the_time_a_process_has_worked_is_counted_until_it_is_gone(token: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    busy = start(token, log, [sys.executable, "-c", "while True: pass"])
    idle = start(token, tmp_path / "idle")
    wait_for("some work", lambda: processes.cpu_s(busy) >= 0.2, 30)
    assert processes.cpu_s(busy) > processes.cpu_s(idle)
    processes.end([busy], 0)
    assert processes.cpu_s(busy) == 0


def test_an_identity_from_before_a_reboot_is_nobody(token: str, tmp_path: Path) -> None:
    somebody = start(token, tmp_path / "log")
    assert processes.state_of(replace(somebody, boot_id="another boot")) is ProcessState.DOWN


def test_a_frozen_process_hears_the_polite_end(token: str, tmp_path: Path) -> None:
    one = start(token, tmp_path / "log")
    processes.send(one, signal.SIGSTOP)
    since = time.monotonic()
    assert processes.end([one], 30) == 1
    assert time.monotonic() - since < 10
    assert processes.state_of(one) is ProcessState.DOWN


def test_a_deaf_process_is_ended_past_its_grace(token: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    one = start(token, log, STUBBORN)
    wait_for("deaf", lambda: "deaf" in log.read_text(), 10)
    assert processes.end([one], 0.2) == 1
    assert processes.state_of(one) is ProcessState.DOWN


def test_children_end_with_their_parent(token: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True); p.wait()"
    one = start(token, log, [sys.executable, "-c", script, *SLEEP])
    child = int(wait_for("the child's pid", lambda: log.read_text().strip() or None, 10))
    processes.end([one], 0)
    wait_for("the child's end", lambda: processes.identify(child) is None, 10)


def test_an_unrecorded_process_is_found_by_its_token_and_nobody_else_is(token: str, tmp_path: Path) -> None:
    one = start(token, tmp_path / "log")
    with subprocess.Popen(SLEEP, env={**os.environ, processes.TOKEN_VARIABLE: f"{token}x"}) as bystander:
        try:
            wait_for("both to be there", lambda: processes.identify(bystander.pid), 5)
            assert processes.with_token(token) == [one]
        finally:
            bystander.kill()


def test_a_program_that_is_not_there_is_an_error(token: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        start(token, tmp_path / "log", [str(tmp_path / "nothing")])
