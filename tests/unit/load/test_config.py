"""A load that makes no sense is refused before it starts; what is sent when is decided by plain code."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError
from pydantic import ValidationError
from typer import Typer
from typer.testing import CliRunner

from lab.check.cli import check
from lab.load.cli import load
from lab.load.clients import ProducerClient, fate
from lab.load.config import Credentials, Kind, LoadConfig
from lab.load.sender import Source

GOOD: dict[str, Any] = {"bootstrap": "127.0.0.1:9092", "topics": {"orders": "keyed"}, "out": Path("x")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bootstrap": "127.0.0.1"}, "host:port"),
        ({"topics": {}}, "at least one"),
        ({"topics": {"orders": "sorted"}}, "keyed"),
        ({"rate": 0}, "greater than 0"),
        ({"size": 20}, "96"),
        ({"groups": {"a b": "live"}}, "no usable name"),
        ({"pinned": {"pin": "dc-a"}}, "host:port"),
        ({"run": "R 1"}, "lower case"),
        ({"producers": 0}, "nothing would be written"),
        ({"credentials": {"username": "u", "password_file": "/nowhere/p"}}, "does not exist"),
        ({"unheard": 1}, "not permitted"),
    ],
)
def test_nonsense_is_refused_with_what_to_do(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        LoadConfig(**{**GOOD, **change})


def test_the_rate_is_shared_among_the_kinds_present() -> None:
    config = LoadConfig(**{**GOOD, "topics": {"orders": "keyed", "clicks": "unkeyed"}, "rate": 800})
    assert config.rate_of(Kind.KEYED) == 500
    assert config.rate_of(Kind.UNKEYED) == 300


def test_a_password_is_in_no_text_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hush-hush\n")
    config = LoadConfig(**{**GOOD, "credentials": Credentials(username="app", password_file=file)})
    assert config.credentials is not None
    assert config.credentials.password() == "hush-hush"
    assert "hush" not in config.model_dump_json() + repr(config)


def test_a_key_has_one_record_on_its_way_at_most() -> None:
    source = Source("orders", Kind.KEYED, "r-p0", keys=2, tombstone_every=0, rate=100)
    one, two = source.next(), source.next()
    assert one is not None
    assert two is not None
    assert one.key != two.key
    assert source.next() is None
    source.done(one)
    again = source.next()
    assert again is not None
    assert (again.key, again.seq) == (one.key, 1)


def test_tombstones_come_in_compacted_topics_only() -> None:
    compacted = Source("profiles", Kind.COMPACTED, "r", keys=1, tombstone_every=10, rate=100)
    keyed = Source("orders", Kind.KEYED, "r", keys=1, tombstone_every=10, rate=100)
    for source, wanted in ((compacted, 2), (keyed, 0)):
        found = 0
        for _ in range(20):
            record = source.next()
            assert record is not None
            found += record.tombstone
            source.done(record)
        assert found == wanted


def test_what_an_outage_kept_back_is_not_sent_in_one_burst() -> None:
    source = Source("clicks", Kind.UNKEYED, "r", keys=1, tombstone_every=0, rate=1000)
    assert source.due(time.monotonic_ns() + 5 * 10**9) <= 50


def test_a_refusal_is_only_certain_while_nothing_can_have_been_repeated() -> None:
    client = ProducerClient(1, {"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    client.ever_answered = True
    refused = KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert fate(refused, 10_000_000, client) == "F"
    assert fate(refused, 90_000_000, client) == "U"
    assert fate(KafkaError._MSG_TIMED_OUT, 10_000_000, client) == "U"
    assert fate(KafkaError._PURGE_QUEUE, 10_000_000, client) == "U"
    assert fate(KafkaError.MSG_SIZE_TOO_LARGE, 10_000_000, client) == "F"
    client.discard()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["load", "--bootstrap", "127.0.0.1:1"], "--topic and --out"),
        (["load", "--topic", "orders"], "NAME:KIND"),
        (["load", "--bootstrap", "127.0.0.1:1", "--topic", "orders:odd", "--out", "x"], "topics.orders"),
        (["load", "--user", "app"], "belong together"),
        (["check", "--cluster", "dc-a=127.0.0.1:1"], "two or more"),
        (["check", "--cluster", "dc-a=127.0.0.1:1", "--cluster", "dc-b=127.0.0.1:2"], "--run and --active"),
        (["check", "--allow-reread", "live"], "GROUP=N"),
        (["check", "--lab", "no-such-lab"], "no lab named"),
    ],
)
def test_a_command_line_that_makes_no_sense_ends_with_2(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCDR_STATE", str(tmp_path))
    monkeypatch.delenv("DCDR_LAB", raising=False)
    app = Typer()
    app.command()(load)
    app.command()(check)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr


def test_an_estate_that_does_not_answer_ends_the_load_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.load.runner.REACH_S", 0.5)
    app = Typer()
    app.command()(load)
    arguments = ["--bootstrap", "127.0.0.1:1", "--topic", "orders:keyed", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1, result.output
    assert "no answer from 127.0.0.1:1" in result.stderr
    assert not (tmp_path / "run").exists()
