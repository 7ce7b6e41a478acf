"""Which member of the lease store leads, and moving that, against a stand-in of etcd's maintenance calls."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lab import store
from lab.addresses import Address, Plan

IDS = {"dc-a": "9007199254740993", "dc-b": "2", "dc-c": "3"}
"""As etcd's JSON has them: 64 bits as text."""


class Members:
    """Three members, one port each, and who leads them."""

    def __init__(self) -> None:
        self.leader = "dc-c"
        self.asked: list[str] = []
        self.servers = {site: ThreadingHTTPServer(("127.0.0.1", 0), self._handler(site)) for site in store.STORE_SITES}
        for server in self.servers.values():
            threading.Thread(target=server.serve_forever, daemon=True).start()
        ports = {f"etcd-{site}/client": Address("127.0.0.1", one.server_port) for site, one in self.servers.items()}
        self.plan = Plan("127.0.0", 1, ports, ())

    def _handler(self, site: str) -> type[BaseHTTPRequestHandler]:
        members = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                code, answer = members.answer(site, self.path, body)
                text = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        return Handler

    def answer(self, site: str, path: str, body: dict[str, str]) -> tuple[int, dict[str, object]]:
        if path == "/v3/maintenance/status":
            leader = {"leader": IDS[self.leader]} if self.leader else {}
            return 200, {"header": {"member_id": IDS[site]}, **leader}
        assert path == "/v3/maintenance/transfer-leadership"
        self.asked.append(site)
        if site != self.leader:
            return 400, {"message": "etcdserver: not leader"}
        self.leader = next(one for one, number in IDS.items() if number == body["targetID"])
        return 200, {}


@pytest.fixture
def members() -> Iterator[Members]:
    made = Members()
    yield made
    for server in made.servers.values():
        server.shutdown()
        server.server_close()


def test_the_leader_is_the_member_that_says_so_itself(members: Members) -> None:
    assert store.leader(members.plan) == "dc-c"
    members.leader = ""
    assert store.leader(members.plan) is None


def test_the_leader_is_asked_to_make_way_and_nobody_else(members: Members) -> None:
    store.lead(members.plan, "dc-a")
    assert members.leader == "dc-a"
    store.lead(members.plan, "dc-a")
    assert members.asked == ["dc-c"], "a leader that is there already is left alone"
