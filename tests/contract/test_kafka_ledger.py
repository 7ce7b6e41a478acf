"""Ledger: what is put is there for everybody, at once and for good."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime

import pytest

from adapters.kafka import ledger as kafka_ledger
from dcdr import loss
from dcdr.errors import MisconfiguredError
from dcdr.model import Watermarks
from dcdr.ports import Ledger
from tests.contract.kafka_world import RealKafkaWorld, fresh


async def test_an_entry_is_read_back_and_an_unknown_key_is_none(ledger: Ledger) -> None:
    key = fresh("lab/op") + "/cut/abc"
    assert await ledger.get(key) is None
    await ledger.put(key, b"body")
    assert await ledger.get(key) == b"body"
    await ledger.put(key, b"body")
    assert await ledger.get(key) == b"body"


async def test_the_latest_body_under_a_key_counts(ledger: Ledger) -> None:
    key = fresh("lab/op")
    for number in range(20):
        await ledger.put(key, str(number).encode())
        assert await ledger.get(key) == str(number).encode()


async def test_entries_are_found_by_prefix(ledger: Ledger) -> None:
    scope = fresh("lab")
    await ledger.put(f"{scope}/op-1/cut/a", b"1")
    await ledger.put(f"{scope}/op-1/ledger/b", b"2")
    await ledger.put(f"{scope}/op-2/cut/c", b"3")
    assert await ledger.find(f"{scope}/op-1/") == {f"{scope}/op-1/cut/a": b"1", f"{scope}/op-1/ledger/b": b"2"}
    assert len(await ledger.find(f"{scope}/")) == 3
    assert await ledger.find(f"{scope}/op-3/") == {}
    assert await ledger.find(f"{scope}/", "/cut/c") == {f"{scope}/op-2/cut/c": b"3"}


async def test_an_entry_of_ten_thousand_partitions_fits(ledger: Ledger) -> None:
    rows = [
        {"topic": f"topic-{n // 10}", "partition": n % 10, "topic_id": f"{n:022d}", "start": n, "end": n * 7919}
        for n in range(10_000)
    ]
    body = json.dumps(rows).encode()
    key = fresh("lab/op")
    await ledger.put(key, body)
    assert await ledger.get(key) == body


def _journal(second: int) -> Watermarks:
    """Of 10,000 partitions that the mirror has nearly caught up with."""
    rng = random.Random(second)
    ends = {f"team-{n % 40}.events.{n:04d}.v1": {p: rng.randrange(10**10) for p in range(10)} for n in range(1000)}
    return Watermarks(
        scope="lab",
        source="dc-a",
        target="dc-b",
        epoch=1,
        taken_at=datetime(2026, 3, 1, 12, 0, second, tzinfo=UTC),
        topic_ids={topic: f"{n:022d}" for n, topic in enumerate(ends)},
        ends=ends,
        mirrored={
            topic: {p: max(0, end - 1 - rng.randrange(200)) for p, end in rows.items()} for topic, rows in ends.items()
        },
        peak_per_s=2000.0,
        every_s=2.0,
    )


async def test_a_journal_of_ten_thousand_partitions_is_there_as_it_was_written_last(ledger: Ledger) -> None:
    key = loss.journal_key(fresh("lab"), "dc-b")
    for second in range(3):
        await ledger.put(key, loss.pack(_journal(second)))
    found = await ledger.get(key)
    assert found is not None
    assert loss.unpack(found) == _journal(2)
    assert list(await ledger.find(key)) == [key], "one key, however often it is written"


@pytest.mark.real
async def test_a_process_that_starts_while_the_other_side_is_dark_finds_the_journal(real: RealKafkaWorld) -> None:
    key = loss.journal_key(fresh("lab"), "dc-b")
    await real.ledger.put(key, loss.pack(_journal(7)))
    later = real.kafka.cluster()
    try:
        assert loss.unpack(await later.ledger.get(key) or b"") == _journal(7)
    finally:
        await later.close()


@pytest.mark.real
async def test_another_process_sees_an_entry_at_once(real: RealKafkaWorld) -> None:
    key = fresh("lab/op")
    other = real.kafka.cluster()
    await other.warm()
    try:
        for number in range(20):
            await other.ledger.put(key, b"%d" % number)
            assert await real.ledger.get(key) == b"%d" % number
    finally:
        await other.close()


@pytest.mark.real
async def test_entries_that_left_memory_are_read_from_the_log(
    real: RealKafkaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_ledger, "RECENT_BYTES", 1000)
    scope = fresh("lab")
    bodies = {f"{scope}/{number}": b"%d" % number * 200 for number in range(20)}
    for key, body in bodies.items():
        await real.ledger.put(key, body)
    assert await real.ledger.find(f"{scope}/") == bodies
    assert await real.ledger.get(f"{scope}/0") == bodies[f"{scope}/0"]


@pytest.mark.real
async def test_a_process_that_starts_later_finds_everything(real: RealKafkaWorld) -> None:
    key = fresh("lab/op")
    await real.ledger.put(key, b"before")
    later = real.kafka.cluster()
    assert await later.ledger.get(key) == b"before"
    await later.close()


@pytest.mark.real
async def test_an_entry_larger_than_the_topic_takes_says_which_setting(real: RealKafkaWorld) -> None:
    topic = fresh("small.internal")
    real.kafka.create_topic(topic, config={"cleanup.policy": "compact", "max.message.bytes": "1000"})
    cluster = real.kafka.cluster(ledger_topic=topic)
    noise = "".join(chr(33 + (n * n) % 90) + str(n) for n in range(2000)).encode()
    with pytest.raises(MisconfiguredError, match=r"max\.message\.bytes"):
        await cluster.ledger.put("key", noise)
    await cluster.ledger.put("key", b"small")
    assert await cluster.ledger.get("key") == b"small"
    await cluster.close()


@pytest.mark.real
async def test_a_missing_ledger_topic_is_a_misconfiguration(real: RealKafkaWorld) -> None:
    cluster = real.kafka.cluster(ledger_topic=fresh("missing.internal"))
    with pytest.raises(MisconfiguredError, match="create it"):
        await cluster.ledger.get("key")
    with pytest.raises(MisconfiguredError, match="create it"):
        await cluster.ledger.put("key", b"body")
    await cluster.close()
