"""Start, watch, freeze and end the lab's processes: exactly ours, also after a crash of whoever started them.

A process is known by its pid, its start time in clock ticks and the kernel's boot id: a number that has been given to
somebody else since is not ours. Each one also carries the lab's token in its environment, so that a process which was
started but not recorded (a crash in between) is found again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

TOKEN_VARIABLE = "DCDR_LAB_TOKEN"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcessState(StrEnum):
    """What the kernel says about a recorded process. `down`: it is gone, or the pid belongs to somebody else now."""

    RUNNING = "running"
    FROZEN = "frozen"
    DOWN = "down"


@dataclass(frozen=True)
class Identity:
    """One process for good: `pid` alone may be given to another one later."""

    pid: int
    start_ticks: int
    boot_id: str

    def to_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "start_ticks": self.start_ticks, "boot_id": self.boot_id}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Identity:
        return cls(int(document["pid"]), int(document["start_ticks"]), str(document["boot_id"]))


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Identity | None:
    """The identity of a live process, None when there is none (a zombie counts as none)."""
    stat = _stat(pid)
    return Identity(pid, int(stat[19]), boot_id()) if stat is not None and stat[0] not in "ZX" else None


def state_of(identity: Identity) -> ProcessState:
    _reap(identity.pid)
    stat = _stat(identity.pid)
    if stat is None or stat[0] in "ZX" or int(stat[19]) != identity.start_ticks or boot_id() != identity.boot_id:
        return ProcessState.DOWN
    return ProcessState.FROZEN if stat[0] in "Tt" else ProcessState.RUNNING


def resident_bytes(identity: Identity) -> int:
    """Resident memory; 0 when the process is gone."""
    try:
        return int(Path(f"/proc/{identity.pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def cpu_s(identity: Identity) -> float:
    """Processor seconds it has spent so far, of all its threads; 0 when the process is gone."""
    stat = _stat(identity.pid) if state_of(identity) is not ProcessState.DOWN else None
    return (int(stat[11]) + int(stat[12])) / _TICKS if stat is not None else 0.0


def uptime_s(identity: Identity) -> float:
    """Seconds since the process was started."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - identity.start_ticks / _TICKS)


def spawn(argv: Sequence[str], environment: Mapping[str, str], log: Path, token: str) -> Identity:
    """Start a process in a session of its own, so that it outlives its starter; both outputs are appended to `log`.

    Raises: OSError when the program cannot be executed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawnp(
        argv[0],
        list(argv),
        {**environment, TOKEN_VARIABLE: token},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
    )
    stat = _stat(pid)  # there even when the process has ended: nobody but us can have reaped it
    return Identity(pid, int(stat[19]) if stat else -1, boot_id())


def send(identity: Identity, number: signal.Signals) -> bool:
    """Signal a process and what it started (its own group); False when it is gone."""
    if state_of(identity) is ProcessState.DOWN:
        return False
    try:
        if os.getpgid(identity.pid) == identity.pid:
            os.killpg(identity.pid, number)
        else:
            os.kill(identity.pid, number)
    except ProcessLookupError:
        return False
    return True


def end(identities: Iterable[Identity], grace_s: float) -> int:
    """End processes: politely, then after `grace_s` seconds for good (0: at once). Returns how many were alive.

    Raises: TimeoutError when one of them is still there 10 s after SIGKILL (the kernel does not let go of it).
    """
    ours = [one for one in identities if state_of(one) is not ProcessState.DOWN]
    for one in ours:
        if grace_s > 0:
            send(one, signal.SIGTERM)
            send(one, signal.SIGCONT)  # a frozen one hears nothing else
    left = _wait_gone(ours, grace_s)
    for one in left:
        send(one, signal.SIGKILL)
    if left := _wait_gone(left, 10.0):
        raise TimeoutError(f"still there after SIGKILL: pid {', '.join(str(one.pid) for one in left)}")
    return len(ours)


def session_of(identity: Identity) -> int | None:
    """The session leader's pid: of a recorded process itself, and of the children it has started."""
    try:
        return os.getsid(identity.pid)
    except ProcessLookupError:
        return None


def with_token(token: str) -> list[Identity]:
    """Every live process of this user that carries the lab's token."""
    wanted = f"{TOKEN_VARIABLE}={token}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # somebody else's, or gone
            continue
        if wanted in environment.split(b"\0") and (identity := identify(int(entry.name))) is not None:
            found.append(identity)
    return found


def _wait_gone(identities: Sequence[Identity], limit_s: float) -> list[Identity]:
    deadline = time.monotonic() + limit_s
    left = list(identities)
    while left := [one for one in left if state_of(one) is not ProcessState.DOWN]:
        if time.monotonic() >= deadline:
            break
        time.sleep(0.02)
    return left


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the state on, which is the third (proc(5)); None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _reap(pid: int) -> None:
    """Take notice of a child that has ended, where we are its parent: else it would stay as a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def run(
    argv: Sequence[str], environment: Mapping[str, str], log: Path, limit_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a short command to its end; what it said is appended to `log` as well.

    Raises: subprocess.TimeoutExpired past `limit_s` seconds; OSError when it cannot be executed.
    """
    done = subprocess.run(
        list(argv), env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s,
        check=False, start_new_session=True,
    )  # fmt: skip
    with log.open("a") as file:
        file.write(done.stdout + done.stderr)
    return done
