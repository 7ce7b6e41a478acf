"""The outage is measured between acknowledgements, and only counts when traffic was flowing."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from lab.load.journal import Writer
from lab.load.outage import Ack, eras, median_and_worst, outages, read_acks

MS = 1_000_000


def stream(cluster: str, start_ms: int, end_ms: int, every_ms: int = 1, producer: str = "p0") -> list[Ack]:
    return [Ack(at * MS - MS // 2, at * MS, cluster, producer) for at in range(start_ms, end_ms + 1, every_ms)]


def test_the_outage_lies_between_the_last_and_the_first_acknowledgement() -> None:
    acks = stream("A", 0, 3000) + stream("B", 3105, 5000)
    (move,) = outages(acks)
    assert (move.source, move.target) == ("A", "B")
    assert move.seconds == pytest.approx(0.105)
    assert move.windows == (50, 50, 50, 50)
    assert move.flowing


def test_there_and_back_is_two_outages() -> None:
    acks = stream("A", 0, 3000) + stream("B", 3100, 6000) + stream("A", 6200, 8000)
    assert [round(move.seconds, 3) for move in outages(acks)] == [0.1, 0.2]


def test_an_answer_that_was_late_does_not_make_another_era() -> None:
    acks = [*stream("A", 0, 3000), Ack(2999 * MS, 3150 * MS, "A", "p1"), *stream("B", 3105, 5000)]
    assert [era.cluster for era in eras(acks)] == ["A", "B"]


def test_traffic_that_stopped_before_the_fence_does_not_count() -> None:
    acks = stream("A", 0, 2800) + stream("A", 2950, 3000, 25) + stream("B", 3100, 5000)
    (move,) = outages(acks)
    assert not move.flowing
    with pytest.raises(ValueError, match="nothing was measured"):
        median_and_worst([move])


def test_the_median_and_the_worst_of_several() -> None:
    acks, now = [], 0
    for cluster, gap in zip("ABABA", (0, 100, 200, 300, 400), strict=True):
        acks += stream(cluster, now + gap, now + gap + 2000)
        now += gap + 2000
    assert median_and_worst(outages(acks)) == pytest.approx((0.25, 0.4))


def test_acknowledgements_are_read_from_the_log(tmp_path: Path) -> None:
    numbers = count(1)

    def write(name: str, role: str) -> None:
        writer = Writer(tmp_path / f"producer-{name}.tsv", {"run": "r", "producer": name, "role": role})
        writer.line("I", 1, "A", 1, 1)
        for txn in ("", "", 1, 2, 3):
            number = next(numbers)
            writer.line("S", number, "orders", "", 1, 1, 1, 1, number * 10, txn)
            writer.line("A", number, 1, 0, 1, 1, number * 10 + 5)
        writer.line("C", 1, 1, 999)
        writer.line("X", 2, "on-purpose", 999)
        writer.line("Q", 3, "_TIMED_OUT", 999)
        writer.close()

    write("p0", "follow")
    write("pin", "pinned")
    assert read_acks(tmp_path) == [Ack(10, 15, "A", "p0"), Ack(20, 25, "A", "p0"), Ack(30, 999, "A", "p0")]
