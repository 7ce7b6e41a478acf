"""What Connect says, in our words: each answer becomes the error that tells what to do next."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.connect import CHUNK, ConnectControl, read_connector, read_offsets
from dcdr.errors import ConflictError, DcdrError, MisconfiguredError, NotYetError, UnreachableError
from dcdr.model import ConnectorState, TopicPartition
from dcdr.settings import ConnectSettings, Credentials

Handler = Callable[[httpx.Request], httpx.Response]


def control(handler: Handler, credentials: Credentials | None = None) -> ConnectControl:
    settings = ConnectSettings(url="http://connect.test:8083/", group_id="connect", credentials=credentials)
    return ConnectControl("dc-b", settings, transport=httpx.MockTransport(handler))


def refusal(status: int, message: str) -> Handler:
    return lambda _: httpx.Response(status, json={"error_code": status, "message": message})


def page(status: int) -> Handler:
    return lambda _: httpx.Response(status, text="<html>hello")


REBALANCING = "Cannot complete request because of a conflicting operation (e.g. worker rebalance)"
NOT_STOPPED = "Connectors must be in the STOPPED state before their offsets can be modified."


@pytest.mark.parametrize(
    ("handler", "expected", "words"),
    [
        (refusal(409, REBALANCING), ConflictError, "try again"),
        (refusal(404, "Connector nobody not found"), MisconfiguredError, "Create the connector"),
        (refusal(404, "No status found for connector m"), NotYetError, "a moment ago"),
        (page(404), UnreachableError, "still starting"),
        (refusal(500, "Request timed out"), UnreachableError, "may still take effect"),
        (refusal(401, "User cannot access the resource."), MisconfiguredError, "credentials"),
        (refusal(400, NOT_STOPPED), ConflictError, "Stop it"),
        (refusal(400, "Connector config is invalid"), MisconfiguredError, "invalid"),
        (page(200), MisconfiguredError, "not Kafka Connect"),
    ],
)
async def test_every_refusal_becomes_our_error(handler: Handler, expected: type[DcdrError], words: str) -> None:
    connect = control(handler)
    with pytest.raises(expected, match=words) as caught:
        await connect.offsets("m")
    assert "connect.test" in str(caught.value)
    assert "dc-b" in str(caught.value) or expected is MisconfiguredError
    await connect.close()


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("cut")]
)
async def test_no_answer_is_unreachable(error: httpx.TransportError) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise error

    connect = control(handler)
    with pytest.raises(UnreachableError, match="unknown"):
        await connect.stop("m")
    await connect.close()


async def test_a_stop_that_does_not_show_is_not_yet_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.connect.READ_BACK", timedelta(0))

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            return httpx.Response(204)
        return httpx.Response(200, json={"name": "m", "connector": {"state": "RUNNING"}, "tasks": []})

    connect = control(handler)
    with pytest.raises(NotYetError, match="RUNNING"):
        await connect.stop("m")
    await connect.close()


async def test_a_seed_that_reads_back_otherwise_is_a_conflict() -> None:
    place = TopicPartition("t", 0)

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/config"):
            return httpx.Response(200, json={"source.cluster.alias": "dc-a"})
        return httpx.Response(200, json={"offsets": [row("dc-a", 0, 6)]})

    connect = control(handler)
    with pytest.raises(ConflictError, match="t-0 should be 7 and is 6"):
        await connect.seed("m", {place: 7}, source="dc-a")
    await connect.close()


async def test_seeds_go_out_in_chunks() -> None:
    sent: list[int] = []
    seeds: dict[TopicPartition, int | None] = {TopicPartition("t", n): n for n in range(2 * CHUNK + 1)}

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/config"):
            return httpx.Response(200, json={"source.cluster.alias": "dc-a"})
        if request.method == "PATCH":
            sent.append(len(json.loads(request.content)["offsets"]))
            return httpx.Response(200, json={"message": "done"})
        return httpx.Response(200, json={"offsets": [row("dc-a", n, n) for n in range(2 * CHUNK + 1)]})

    connect = control(handler)
    await connect.seed("m", seeds, source="dc-a")
    assert sent == [CHUNK, CHUNK, 1]
    await connect.close()


async def test_offsets_under_another_alias_are_not_the_connectors() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/config"):
            return httpx.Response(200, json={"source.cluster.alias": "dc-a"})
        return httpx.Response(200, json={"offsets": [row("dc-a", 0, 6), row("typo", 0, 99), row("typo", 1, 99)]})

    connect = control(handler)
    assert await connect.offsets("m") == {TopicPartition("t", 0): 6}
    await connect.close()


async def test_a_connector_name_is_quoted() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(202)

    connect = control(handler)
    await connect.restart("a/b c", only_failed=True)
    assert seen == ["/connectors/a%2Fb%20c/restart?includeTasks=true&onlyFailed=true"]
    await connect.close()


async def test_all_tasks_are_restarted_without_their_connector() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            seen.append(request.url.path)
            return httpx.Response(204)
        if request.url.path.endswith("/status"):
            return httpx.Response(200, json=status("RUNNING", "FAILED"))
        return httpx.Response(200, json={"name": "m", "tasks": [{"connector": "m", "task": n} for n in (0, 3)]})

    connect = control(handler)
    await connect.restart("m", only_failed=False)
    assert seen == ["/connectors/m/tasks/0/restart", "/connectors/m/tasks/3/restart"]
    await connect.close()


def status(*tasks: str) -> dict[str, Any]:
    return {
        "name": "m",
        "connector": {"state": "RUNNING"},
        "tasks": [{"id": n, "state": s} for n, s in enumerate(tasks)],
    }


async def test_no_task_is_restarted_while_one_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    starting = ["RESTARTING", "UNASSIGNED", "RUNNING"]
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            seen.append("restart")
            starting[:] = ["RESTARTING", "RUNNING"]
            return httpx.Response(204)
        if request.url.path.endswith("/status"):
            state = starting.pop(0) if len(starting) > 1 else starting[0]
            seen.append(state)
            return httpx.Response(200, json=status("RUNNING", state))
        return httpx.Response(200, json={"name": "m", "tasks": [{"connector": "m", "task": n} for n in (0, 1)]})

    connect = control(handler)
    await connect.restart("m", only_failed=False)
    assert seen == ["RESTARTING", "UNASSIGNED", "RUNNING", "restart", "RESTARTING", "RUNNING", "restart"]

    starting[:] = ["RESTARTING"]
    monkeypatch.setattr("adapters.connect.RESTART_TIMEOUT", timedelta(0))
    with pytest.raises(NotYetError, match=r"tasks \[1\] have been starting"):
        await connect.restart("m", only_failed=False)
    await connect.close()


@pytest.mark.parametrize(("state", "times"), [("RUNNING", 1), ("STOPPED", 0)])
async def test_a_reload_leaves_the_tasks_alone(state: str, times: int) -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            seen.append(request.url.raw_path.decode())
            return httpx.Response(204)
        return httpx.Response(200, json={"name": "m", "connector": {"state": state}, "tasks": []})

    connect = control(handler)
    await connect.reload("m")
    assert seen == ["/connectors/m/restart?includeTasks=false&onlyFailed=false"] * times
    await connect.close()


async def test_credentials_come_from_a_file_and_stay_out_of_errors(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return httpx.Response(401)

    connect = control(handler, Credentials(username="dcdr", password_file=password))
    with pytest.raises(MisconfiguredError) as caught:
        await connect.connectors()
    assert seen == [httpx.BasicAuth("dcdr", "s3cret")._auth_header]
    assert "s3cret" not in str(caught.value)
    await connect.close()
    with pytest.raises(MisconfiguredError, match="missing"):
        control(handler, Credentials(username="dcdr", password_file=tmp_path / "missing"))


def row(cluster: str, partition: int, offset: int) -> dict[str, Any]:
    return {"partition": {"cluster": cluster, "topic": "t", "partition": partition}, "offset": {"offset": offset}}


def test_a_connector_is_read_with_its_failed_tasks() -> None:
    entry = {
        "status": {
            "connector": {"state": "RUNNING", "worker_id": "w"},
            "tasks": [{"id": 1, "state": "FAILED", "trace": "boom"}, {"id": 0, "state": "RUNNING"}],
        },
        "info": {
            "config": {
                "tasks.max": "2",
                "source.cluster.sasl.jaas.config": "login password=hunter2",
                "target.cluster.sasl.jaas.config": "${file:/creds:jaas}",
            }
        },
    }
    found = read_connector("m", entry)
    assert found.tasks == (ConnectorState.RUNNING, ConnectorState.FAILED)
    assert found.trace == "boom"
    assert not found.running
    assert found.config == {"tasks.max": "2", "target.cluster.sasl.jaas.config": "${file:/creds:jaas}"}


@pytest.mark.parametrize("entry", [{}, {"status": {}}, {"status": {"connector": {"state": "DESTROYED"}}}])
def test_a_state_we_do_not_know_is_nothing_to_rely_on(entry: dict[str, Any]) -> None:
    found = read_connector("m", entry)
    assert found.state is ConnectorState.UNASSIGNED
    assert not found.running
    assert not found.stopped


def test_offsets_of_another_kind_of_connector_are_refused() -> None:
    with pytest.raises(MisconfiguredError, match="right connector"):
        read_offsets({"offsets": [{"partition": {"filename": "x"}, "offset": {"position": 3}}]})


@pytest.mark.parametrize("url", ["connect:8083", "http://", "ftp://connect", "http://connect:port"])
def test_an_address_nothing_can_be_sent_to_is_refused_at_once(url: str) -> None:
    with pytest.raises(MisconfiguredError, match=r"connect\.url of dc-b"):
        ConnectControl("dc-b", ConnectSettings(url=url, group_id="connect"))
