"""What an agent believes, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dcdr import tenure
from dcdr.bounds import PRESETS, Preset
from dcdr.marker import Marker, Role
from dcdr.model import LeaseRecord, Pause, Phase, StoredLease
from dcdr.tenure import Tenure

TIMING = PRESETS[Preset.TEST]  # validity 5 s, wait 7 s
A = LeaseRecord(scope="lab", holder="dc-a", epoch=1)


def at(revision: int, record: LeaseRecord = A, **changes: Any) -> StoredLease:
    return StoredLease(record.model_copy(update=changes), revision)


def role(known: Tenure, now: float) -> Role:
    return tenure.marker(known, now, TIMING).role


def test_without_a_record_nobody_is_told_anything() -> None:
    assert tenure.marker(Tenure("dc-a"), 0, TIMING) == Marker(0, Role.NONE, 0)


def test_the_holder_counts_from_the_send_and_closes_at_the_end_of_its_validity() -> None:
    holder = tenure.committed(Tenure("dc-a"), at(1), sent=10.0, now=14.0)
    assert tenure.marker(holder, 14.0, TIMING) == Marker(1, Role.ACTIVE, 1.0)
    assert role(holder, 15.0) is Role.NONE


def test_reading_that_one_is_the_holder_proves_nothing() -> None:
    holder = tenure.read(Tenure("dc-a"), at(1), sent=0, now=0)
    assert holder.holds
    assert role(holder, 0) is Role.NONE


def test_the_other_side_is_standby_for_as_long_as_its_last_read_is_fresh() -> None:
    other = tenure.read(Tenure("dc-b"), at(1), sent=0, now=0)
    assert role(other, 4.9) is Role.STANDBY
    assert role(other, 5.0) is Role.NONE
    again = tenure.read(other, at(1), sent=4, now=4)
    assert role(again, 8.9) is Role.STANDBY
    assert again.since == other.since, "the record did not change"


@pytest.mark.parametrize(
    "lost",
    [{"holder": "dc-b", "epoch": 2}, {"phase": Phase.DRAINING, "op_id": "x", "closed": True}, {"epoch": 2}],
    ids=["another holder", "draining", "another epoch"],
)
def test_a_record_that_gives_other_rights_ends_the_old_ones_at_once(lost: dict[str, Any]) -> None:
    holder = tenure.committed(Tenure("dc-a"), at(1), sent=0, now=0)
    assert role(tenure.saw(holder, at(2, **lost), now=1), 1) is Role.NONE


def test_a_renewal_of_ones_own_that_a_watch_shows_first_keeps_what_was_proven() -> None:
    holder = tenure.committed(Tenure("dc-a"), at(1), sent=0, now=0)
    shown = tenure.saw(holder, at(2, seq=1), now=1)
    assert role(shown, 4.9) is Role.ACTIVE
    assert role(tenure.committed(shown, at(2, seq=1), sent=1, now=2), 5.9) is Role.ACTIVE


def test_an_old_answer_changes_nothing() -> None:
    other = tenure.read(Tenure("dc-b"), at(5, holder="dc-b", epoch=2), sent=0, now=0)
    assert tenure.saw(other, at(4), now=1) == other
    assert tenure.read(other, at(4), sent=1, now=1) == other
    assert tenure.committed(other, at(4), sent=1, now=1) == other


def test_the_lease_is_taken_over_only_after_the_wait_on_ones_own_clock() -> None:
    other = tenure.saw(Tenure("dc-b"), at(1), now=100.0)
    assert not tenure.may_take_over(other, 106.9, TIMING)
    assert tenure.may_take_over(other, 107.0, TIMING)
    alive = tenure.saw(other, at(2, seq=1), now=106.9)
    assert not tenure.may_take_over(alive, 113.8, TIMING)


def test_nobody_takes_over_from_itself_or_without_a_record() -> None:
    assert not tenure.may_take_over(tenure.saw(Tenure("dc-a"), at(1), now=0), 1000, TIMING)
    assert not tenure.may_take_over(Tenure("dc-b"), 1000, TIMING)


def test_a_takeover_opens_nothing_and_ends_every_operation() -> None:
    draining = A.model_copy(
        update={"phase": Phase.DRAINING, "op_id": "x", "op_source": "dc-a", "op_target": "dc-b", "turn": 3}
    )
    taken = tenure.takeover(draining, "dc-b", floor=7)
    assert (taken.holder, taken.epoch, taken.phase, taken.op_id) == ("dc-b", 8, Phase.ACQUIRED, None)
    assert taken.turn == 4
    for dc in ("dc-a", "dc-b"):
        known = tenure.committed(tenure.read(Tenure(dc), StoredLease(taken, 2), 0, 0), StoredLease(taken, 2), 0, 0)
        assert role(known, 0) is Role.NONE


def test_who_reads_that_another_agent_acts_proves_nothing_by_it_until_the_silence_is_over() -> None:
    second = tenure.read(Tenure("dc-a", "second"), at(1, keeper="first", closed=True, phase=Phase.DRAINING), 0, 0)
    assert second.stands_by
    assert tenure.marker(second, 0, TIMING).valid_s == 0, "not even that nobody may write"
    assert not tenure.may_act(second, TIMING.silence - 0.1, TIMING)
    assert tenure.may_act(second, TIMING.silence, TIMING)


def test_a_holder_that_reads_that_nobody_may_write_may_say_so() -> None:
    holder = tenure.read(Tenure("dc-a", "first"), at(1, keeper="first", closed=True, phase=Phase.DRAINING), 0, 0)
    assert tenure.marker(holder, 1, TIMING) == Marker(1, Role.NONE, 4.0)


def test_another_agent_of_the_holder_is_nothing_to_the_other_side() -> None:
    other = tenure.read(Tenure("dc-b", "first"), at(1, keeper="first"), sent=0, now=0)
    assert not other.stands_by
    assert role(tenure.saw(other, at(2, keeper="second"), now=1), 4.9) is Role.STANDBY


def test_a_record_is_written_in_the_agents_name_and_in_nobodys_for_another_side() -> None:
    me = Tenure("dc-a", "second")
    assert tenure.signed(me, A).keeper == "second"
    assert tenure.signed(me, A.model_copy(update={"holder": "dc-b", "keeper": "second"})).keeper is None


NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
PAUSED = Pause(until=NOW + HOUR, reason="CHG-1")


def test_a_side_that_a_failover_left_behind_never_takes_over() -> None:
    behind = at(1, A, holder="dc-b", epoch=2, behind="dc-a")
    known = tenure.saw(Tenure("dc-a"), behind, now=0)
    assert not tenure.may_take_over(known, 1_000_000, TIMING)
    other = tenure.saw(Tenure("dc-a"), at(1, A, holder="dc-b", epoch=2), now=0)
    assert tenure.may_take_over(other, TIMING.wait, TIMING)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"pause": PAUSED}, "takeovers are paused until 2026-11-21 13:00:00 UTC: CHG-1"),
        ({"pause": PAUSED.model_copy(update={"until": NOW})}, ""),
        ({"acquired_at": NOW - HOUR}, ""),
        ({"acquired_at": NOW - HOUR + timedelta(seconds=1)}, "the last takeover was at 2026-11-21 11:00:01 UTC"),
    ],
    ids=["nothing", "a pause", "a pause that is over", "the cool-down is over", "the cool-down"],
)
def test_a_pause_and_the_cool_down_hold_an_agent_back_and_no_person(changes: dict[str, Any], why: str) -> None:
    record = at(1, A, **changes).record
    found = tenure.held_back(record, "dc-b", NOW, HOUR)
    assert found.startswith(why)
    assert bool(found) == bool(why)
    assert tenure.held_back(record, "dc-b", NOW, HOUR, asked=True) == ""


@pytest.mark.parametrize("asked", [False, True])
def test_what_a_side_holds_keeps_it_back_whoever_asks_and_the_way_out_is_told(asked: bool) -> None:
    record = at(1, A, holder="dc-b", epoch=2, behind="dc-a").record
    why = tenure.held_back(record, "dc-a", NOW, HOUR, asked=asked)
    assert "opening it would lose what users wrote on dc-b" in why
    assert "dcdr lease bootstrap" in why
    assert tenure.held_back(record, "dc-b", NOW, HOUR, asked=asked) == ""


def test_maintenance_ends_by_itself_and_is_more_than_a_pause() -> None:
    kept = at(1, A, pause=PAUSED.model_copy(update={"maintenance": True})).record
    assert tenure.in_maintenance(kept, NOW)
    assert not tenure.in_maintenance(kept, NOW + HOUR)
    assert not tenure.in_maintenance(at(1, A, pause=PAUSED).record, NOW)
    assert not tenure.in_maintenance(A, NOW)


def test_a_takeover_says_when_it_was_and_who_was_open_last_however_often_the_lease_is_taken() -> None:
    taken = tenure.takeover(A, "dc-b", 0, at=NOW, after_s=7.25)
    assert (taken.acquired_at, taken.acquired_after_s, taken.last_open, taken.behind) == (NOW, 7.25, "dc-a", None)
    again = tenure.takeover(taken, "dc-a", 0)
    assert (again.holder, again.last_open) == ("dc-a", "dc-a")
    assert tenure.takeover(again, "dc-b", 0).last_open == "dc-a"
    draining = A.model_copy(update={"holder": "dc-b", "phase": Phase.DRAINING})
    assert tenure.takeover(draining, "dc-a", 0).last_open == "dc-b"


def test_a_pause_and_who_is_behind_outlast_a_takeover() -> None:
    taken = tenure.takeover(at(1, A, pause=PAUSED, behind="dc-a").record, "dc-b", 0)
    assert (taken.pause, taken.behind) == (PAUSED, "dc-a")
