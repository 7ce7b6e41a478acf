"""Which switchovers count, and what their outage was, from acknowledgements alone."""

from bench.series import _Attempt, judge
from lab.load.outage import Ack

MS = 1_000_000
CLUSTERS = {"dc-a": "id-a", "dc-b": "id-b"}
WALL = 10**18


def acks(cluster: str, producer: str, first_ms: int, last_ms: int, every_ms: int = 1) -> list[Ack]:
    """One acknowledgement every so often, each 1 ms after it was sent."""
    return [Ack((t - 1) * MS, t * MS, cluster, producer) for t in range(first_ms, last_ms + 1, every_ms)]


def attempt(number: int, target: str, began_ms: int, ended_ms: int) -> _Attempt:
    return _Attempt(number, target, began_ms * MS, ended_ms * MS, WALL, ())


def test_an_outage_is_last_acknowledgement_to_first_and_the_slowest_producer_is_named() -> None:
    log = acks("id-a", "p0", 1, 2000) + acks("id-a", "p1", 1, 1990)
    log += acks("id-b", "p0", 2100, 4000) + acks("id-b", "p1", 2500, 4000)
    runs, discarded = judge([attempt(1, "dc-b", 1500, 4000)], log, CLUSTERS)
    assert discarded == []
    (run,) = runs
    assert run.outage_ms == 100
    assert run.slowest_ms == 510
    assert (run.last_ack_ns, run.first_ack_ns) == (2000 * MS + WALL, 2100 * MS + WALL)


def test_a_transactional_producer_is_not_among_the_slowest() -> None:
    log = acks("id-a", "p0", 1, 2000) + acks("id-b", "p0", 2100, 4000)
    log += acks("id-a", "t0", 1, 1000) + acks("id-b", "t0", 3900, 4000)
    (run,), _ = judge([attempt(1, "dc-b", 1500, 4000)], log, CLUSTERS)
    assert run.slowest_ms == 100


def test_each_attempt_is_given_its_own_outage() -> None:
    log = acks("id-a", "p0", 1, 2000) + acks("id-b", "p0", 2050, 4000) + acks("id-a", "p0", 4200, 6000)
    runs, _ = judge([attempt(1, "dc-b", 1500, 3500), attempt(2, "dc-a", 3500, 6000)], log, CLUSTERS)
    assert [run.outage_ms for run in runs] == [50, 200]


def test_a_switchover_without_traffic_right_before_it_is_discarded() -> None:
    log = acks("id-a", "p0", 1, 1900) + acks("id-a", "p0", 2000, 2000) + acks("id-b", "p0", 2010, 4000)
    runs, discarded = judge([attempt(1, "dc-b", 1500, 4000)], log, CLUSTERS)
    assert runs == []
    assert "switchover 1: traffic was not steady" in discarded[0]


def test_a_switchover_in_which_the_producers_moved_to_and_fro_is_discarded() -> None:
    log = acks("id-a", "p0", 1, 2000) + acks("id-b", "p0", 2100, 2200)
    log += acks("id-a", "p0", 2300, 2400) + acks("id-b", "p0", 2500, 4000)
    runs, discarded = judge([attempt(1, "dc-b", 1500, 4000)], log, CLUSTERS)
    assert runs == []
    assert "moved 3 times" in discarded[0]


def test_a_switchover_to_another_side_than_asked_for_is_discarded() -> None:
    log = acks("id-a", "p0", 1, 2000) + acks("id-b", "p0", 2100, 4000)
    runs, discarded = judge([attempt(1, "dc-a", 1500, 4000)], log, CLUSTERS)
    assert runs == []
    assert len(discarded) == 1
