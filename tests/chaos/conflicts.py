"""Connect in the middle of a rebalance, on demand: a server before the real one that answers 409 to part of the calls.

A worker alone in its group answers 409 for some microseconds around a rebalance, which no test can aim at. Here every
write, and every look at offsets, is answered 409 the first times it is asked; then the real Connect gets it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

TIMES = 2
ANSWER = b'{"error_code": 409, "message": "Cannot complete request momentarily due to stale configuration"}'
FORWARD_S = 100.0


class Conflicts(ThreadingHTTPServer):
    """Forwards to `url`; `answered` counts the 409s of each call."""

    daemon_threads = True

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.connect = httpx.Client(base_url=url, timeout=FORWARD_S)
        self.answered: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def refuses(self, method: str, path: str) -> bool:
        """Whether this call is one too early; counts it if so."""
        if method == "GET" and not path.endswith("/offsets"):
            return False
        with self._lock:
            if self.answered[f"{method} {path}"] >= TIMES:
                return False
            self.answered[f"{method} {path}"] += 1
            return True


class _Handler(BaseHTTPRequestHandler):
    server: Conflicts
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.refuses(self.command, self.path):
            self._answer(409, ANSWER)
            return
        headers = {"Content-Type": "application/json"} if body else {}
        found = self.server.connect.request(self.command, self.path, content=body, headers=headers)
        self._answer(found.status_code, found.content)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - the names the base class calls

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Quiet: what was answered is counted."""


@contextmanager
def conflicts(url: str) -> Iterator[Conflicts]:
    """Serve on a free port until the block ends."""
    server = Conflicts(url)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        server.connect.close()
