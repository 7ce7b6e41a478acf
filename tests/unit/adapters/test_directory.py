"""From settings to ports: what a worker serves, and that it comes up when nothing answers."""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from adapters.directory import SettingsDirectory, build_directory
from dcdr.errors import InvalidRequestError, UnreachableError
from dcdr.settings import Settings


def nowhere() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    password = tmp_path / "password"
    password.write_text("secret\n")

    def member(number: int) -> dict[str, Any]:
        user = {"username": "u", "password_file": password}
        return {
            "kafka": {"bootstrap": [nowhere()], "admin": user, "canary": user, "canary_topic": f"canary-{number}"},
            "connect": {"url": f"http://{nowhere()}", "group_id": f"connect-{number}"},
            "endpoint": [f"198.18.0.{number}:9092"],
        }

    scope = {
        "members": {"dc-a": member(1), "dc-b": member(2)},
        "arbiters": ["dc-c"],
        "store": {"endpoints": [nowhere()], "request_timeout": "PT0.3S"},
        "endpoint": {"api_server": f"https://{nowhere()}"},
    }
    document: dict[str, Any] = {
        "scopes": {"orders": scope},
        "drain": {"deadline": "PT7S", "lagging_group_budget": 5},
    }
    return Settings(**document)


@pytest.fixture
def directory(settings: Settings) -> SettingsDirectory:
    return build_directory(settings)


async def test_a_scope_holds_what_its_settings_say(directory: SettingsDirectory) -> None:
    assert directory.names() == ("orders",)
    scope = directory.scope("orders")
    assert set(scope.members) == {"dc-a", "dc-b"}
    assert scope.arbiters == ("dc-c",)
    assert scope.timing.drain_deadline.total_seconds() == 7
    assert scope.timing.lagging_group_budget == 5
    assert scope.member("dc-b").connect_group_id == "connect-2"
    assert scope.source_connector.format(source="a", target="b") == "mm2-source.a-to-b"
    await directory.close()


async def test_only_connects_workers_and_the_canary_are_left_out_of_the_groups_by_themselves(
    directory: SettingsDirectory,
) -> None:
    scope = directory.scope("orders")
    assert scope.own_groups == {
        "connect-1": "the workers of dc-a's Connect",
        "connect-2": "the workers of dc-b's Connect",
        "canary-1": "the canary's own group",
        "canary-2": "the canary's own group",
    }
    assert scope.group_exclude == ()
    await directory.close()


async def test_topics_that_stay_home_are_those_of_both_sides(directory: SettingsDirectory) -> None:
    for dc in ("dc-a", "dc-b"):
        reserved = directory.scope("orders").member(dc).reserved_topics
        assert {"canary-1", "canary-2", "dcdr-ledger.internal", "connect-offsets.internal", "heartbeats"} <= reserved
    await directory.close()


async def test_an_unknown_scope_is_refused_with_the_known_ones(directory: SettingsDirectory) -> None:
    with pytest.raises(InvalidRequestError, match="orders"):
        directory.scope("payments")
    await directory.close()


async def test_a_worker_comes_up_while_nothing_answers(
    directory: SettingsDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        await directory.warm()
    assert time.monotonic() - start < 30
    said = "\n".join(record.getMessage() for record in caplog.records)
    for name in ("lease store", "endpoint", "Kafka of dc-a", "Kafka of dc-b", "Connect of dc-a", "Connect of dc-b"):
        assert f"orders: {name} is not warm" in said
    assert "secret" not in said.replace("secret file", "")
    with pytest.raises(UnreachableError):
        await directory.scope("orders").lease.read("orders")
    await directory.close()
