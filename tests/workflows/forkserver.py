"""Imports everything once and forks workers for whoever asks: `python -m tests.workflows.forkserver PATH`.

A fresh interpreter needs a second or two of a core to import the product, and the tests of kills need many workers.
Forked before Temporal's runtime has started a thread, a worker is a process like any other and dies like one.

Each connection to the socket PATH is one worker: a line of JSON with `argv`, `env` and `log` comes in; `pid N`, then
what it prints, then `exit N` (negative: the signal) go out. The server ends when its parent does.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from tests.workflows import worker_process


def serve(path: Path) -> None:
    """Fork until standard input is closed, which happens with the parent's end."""
    workers: dict[int, socket.socket] = {}
    wake_in, wake_out = os.pipe()
    os.set_blocking(wake_out, False)
    signal.set_wakeup_fd(wake_out, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(str(path))
        listener.listen(16)
        for source in (listener, wake_in, sys.stdin):
            selector.register(source, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    _end(workers)
                    return
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    pid = _fork(connection, listener)
                    workers[pid] = connection
                else:
                    os.read(wake_in, 512)
                    _reap(workers)


def _fork(connection: socket.socket, listener: socket.socket) -> int:
    with connection.makefile("r") as lines:
        order = json.loads(lines.readline())
    pid = os.fork()
    if pid:
        connection.sendall(f"pid {pid}\n".encode())
        return pid
    code = 1
    try:
        listener.close()
        _work(connection, order)
        code = 0
    finally:  # never back into the server's loop
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _work(connection: socket.socket, order: dict[str, Any]) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(connection.fileno(), 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(order["env"])
    worker_process.main(order["argv"])


def _reap(workers: dict[int, socket.socket]) -> None:
    for pid, connection in list(workers.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with contextlib.suppress(OSError):  # nobody may be waiting any more
                connection.sendall(f"exit {os.waitstatus_to_exitcode(status)}\n".encode())
            connection.close()
            del workers[pid]


def _end(workers: dict[int, socket.socket]) -> None:
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
