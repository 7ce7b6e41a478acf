"""Histories of a handful of records, for the places where one record more or less decides."""

from __future__ import annotations

import pytest

from lab.check.judge import judge
from lab.check.model import Attempt, Committed, Evidence, Kind, Outcome, Read, Seen

ORDERS, PROFILES = ("orders", 0), ("profiles", 0)


def attempt(number: int, key: str, seq: int, outcome: Outcome = Outcome.OK, topic: str = "orders") -> Attempt:
    """Acknowledged (if it was) on dc-a at offset `number`."""
    at = number * 1000
    return Attempt("p0", topic, key, seq, at, number, number, at, outcome, "dc-a", 0, number, at + 1)


def seen(number: int, key: str, offset: int) -> Seen:
    return Seen(offset, number, key, number, number, number * 1000)


def carried(group_starts_at: int) -> Evidence:
    """Four records; a group committed behind the second on dc-a and went on at some offset of dc-b (10 to 13)."""
    attempts = {number: attempt(number, f"k{number}", 0) for number in range(4)}
    logs = {
        "dc-a": {ORDERS: [seen(number, f"k{number}", number) for number in range(4)]},
        "dc-b": {ORDERS: [seen(number, f"k{number}", 10 + number) for number in range(4)]},
    }
    events: list[Read | Committed] = [Read(at, "g", "dc-a", *ORDERS, at, at) for at in range(2)]
    events.append(Committed(5, "g", "dc-a", *ORDERS, 2))
    events += [Read(offset, "g", "dc-b", *ORDERS, offset, offset - 10) for offset in range(group_starts_at, 14)]
    return Evidence(attempts, logs, "dc-b", groups=events, group_names=("g",))


@pytest.mark.parametrize(("start", "again", "left_out"), [(11, 1, 0), (12, 0, 0), (13, 0, 1), (10, 2, 0)])
def test_a_group_carried_over_is_judged_to_the_record(start: int, again: int, left_out: int) -> None:
    counts = judge(carried(start)).counts
    assert (counts[Kind.REREAD], counts[Kind.SKIPPED]) == (again, left_out)


def test_a_group_is_not_blamed_for_what_compaction_took_from_it() -> None:
    """dc-a had compacted number 0 away before the group came; dc-b still shows it."""
    attempts = {number: attempt(number, "k", number, topic="profiles") for number in range(3)}
    logs = {
        "dc-a": {PROFILES: [seen(2, "k", 2)]},
        "dc-b": {PROFILES: [seen(number, "k", number) for number in range(3)]},
    }
    events: list[Read | Committed] = [Committed(1, "g", "dc-a", *PROFILES, 0), Read(2, "g", "dc-a", *PROFILES, 2, 2)]
    evidence = Evidence(attempts, logs, "dc-b", frozenset({"profiles"}), events, ("g",))
    assert judge(evidence).counts[Kind.SKIPPED] == 0


@pytest.mark.parametrize(("seq", "stale"), [(0, 1), (1, 0), (2, 0)])
def test_only_an_unanswered_value_that_came_later_may_stand_last(seq: int, stale: int) -> None:
    """Number 1 was acknowledged as the key's second value; the unanswered number 2 ends up behind it."""
    attempts = {
        0: attempt(0, "k", 0, topic="profiles"),
        1: attempt(1, "k", 1, topic="profiles"),
        2: attempt(2, "k", seq, Outcome.INFO, "profiles"),
    }
    logs = {"dc-a": {PROFILES: [seen(number, "k", number) for number in range(3)]}}
    assert judge(Evidence(attempts, logs, "dc-a", frozenset({"profiles"}))).counts[Kind.STALE] == stale
