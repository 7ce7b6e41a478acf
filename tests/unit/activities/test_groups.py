"""Consumer groups over the stand-in world: who is placed when, and by what, whatever becomes of the old side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from activities import groups as steps
from activities.fence import FenceActivities
from activities.groups import GroupActivities
from dcdr import translate
from dcdr.errors import ConflictError, MisconfiguredError, UnreachableError
from dcdr.model import EntryRef, GroupResult, GroupsResult, GroupVerdict, StepInput, TopicPartition
from tests.unit.activities.test_hand_over import OPERATION, Estate, do

ORDERS = TopicPartition("orders", 0)
EXACT, APPROXIMATE = GroupVerdict.EXACT, GroupVerdict.APPROXIMATE


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "OLD_SIDE_SECONDS", 0.05)


class Moving:
    """An estate on its way, with groups of its own: `slow` lags by 90 of 100 records unless a test says otherwise."""

    def __init__(self, path: Path, **world: Any) -> None:
        self.estate = Estate(path, **{"records": 100, **world})
        self.world = self.estate.world
        self.groups = GroupActivities(self.estate.directory, self.estate.book)
        self.entry: EntryRef | None = None

    def stands(self, group: str, offset: int, place: TopicPartition = ORDERS) -> None:
        self.world.commit_group("dc-a", group, *place, offset)

    def all_read(self, group: str) -> None:
        for partition in range(3):
            self.stands(group, self.world.ends("dc-a", "orders", partition).leo, TopicPartition("orders", partition))

    @property
    def order(self) -> StepInput:
        return StepInput(operation=OPERATION, entry=self.entry)

    async def close(self) -> None:
        self.entry = await self.estate.close()
        await do(self.estate.mirror.stop_checkpoint, self.order)

    async def keep(self) -> GroupsResult:
        result: GroupsResult = await do(self.groups.keep, self.order)
        return result

    async def moved(self) -> GroupsResult:
        """Everything up to the handover."""
        await self.close()
        carried = await self.keep()
        assert self.entry is not None
        await self.estate.hand_over(self.entry)
        return carried

    async def place(self, worker: GroupActivities | None = None) -> dict[str, GroupResult]:
        result: GroupsResult = await do((worker or self.groups).place, self.order)
        return {group.group: group for group in result.groups}

    async def let_in(self) -> None:
        await do(FenceActivities(self.estate.directory).open, self.order)
        await do(FenceActivities(self.estate.directory).let_groups_in, self.order)

    def on_target(self, group: str, place: TopicPartition = ORDERS) -> int | None:
        held = self.world.committed("dc-b", group).get(place)
        return None if held is None else held.offset

    def next_record(self, group: str, place: TopicPartition = ORDERS) -> str | None:
        """What the group would read next on dc-b."""
        offset = self.on_target(group, place)
        log = self.world._file.look().clusters["dc-b"].topics[place.topic].partitions[place.partition]
        return next((entry.value for entry in log.visible(offset or 0, log.next)), None)

    def kept(self) -> list[str]:
        return [key for key in self.world.ledger("dc-b") if key.startswith(f"lab/{OPERATION.id}/groups/")]


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Moving]:
    return lambda **world: Moving(tmp_path / "lab.world", **world)


async def test_positions_are_durable_on_the_target_before_the_handover(build: Callable[..., Moving]) -> None:
    moving = build()
    moving.stands("slow", 10)
    kept_at = await moving.moved()
    assert kept_at.entry is not None
    assert moving.kept() == [kept_at.entry.key]
    assert kept_at.note == "3 groups, 2 skipped"
    kept = await moving.estate.book.positions(moving.estate.directory.scope("lab"), OPERATION)
    assert kept is not None
    assert set(kept.committed) == {"billing", "reports", "slow"}
    assert kept.by_group["slow"][ORDERS].offset == 10
    assert [skipped.group for skipped in kept.skipped] == ["connect-dc-a", "shares"]


async def test_a_repeated_keep_writes_the_same_again(build: Callable[..., Moving]) -> None:
    moving = build()
    await moving.close()
    assert (await moving.keep()).entry == (await moving.keep()).entry
    assert len(moving.kept()) == 1


async def test_positions_that_were_not_made_durable_stop_the_handover(build: Callable[..., Moving]) -> None:
    moving = build()
    moving.stands("slow", 10)
    await moving.close()
    moving.world.fail("ledger.put", dc="dc-b")
    with pytest.raises(UnreachableError):
        await moving.keep()


async def test_a_lagging_group_is_placed_by_the_kept_positions_without_asking_where_it_stands(
    build: Callable[..., Moving],
) -> None:
    moving = build()
    moving.stands("slow", 10)
    await moving.moved()
    before = len(moving.world.calls())
    found = await moving.place()
    assert (found["slow"].verdict, found["slow"].lag, found["slow"].bound) == (EXACT, 90, 0)
    assert moving.next_record("slow") == "orders-0-r10"
    assert not [call for call in moving.world.calls()[before:] if call.startswith("dc-a/groups")]


async def test_an_old_side_that_died_after_the_handover_costs_exactness_where_it_was_needed_and_no_more(
    build: Callable[..., Moving],
) -> None:
    moving = build()
    moving.stands("slow", 10)
    moving.stands("slow", 100, TopicPartition("orders", 1))
    moving.stands("connect-clicks", 20)  # MM2's own filter leaves it out: it wrote nothing for it
    await moving.moved()
    moving.world.cut_off("dc-a")
    found = await moving.place(GroupActivities(moving.estate.directory, moving.estate.book))
    assert found["billing"].verdict is EXACT, "it had read everything"
    assert found["reports"].verdict is APPROXIMATE, "it lags by some records, and nobody can compare them any more"
    slow, clicks = found["slow"], found["connect-clicks"]
    assert (slow.verdict, slow.lag) == (APPROXIMATE, 90)
    assert slow.note == "not placed exactly: dc-a did not answer; the mirror's own checkpoint"
    at = moving.on_target("slow")
    assert at is not None
    assert moving.next_record("slow") == "orders-0-r7"
    assert slow.bound == moving.world.ends("dc-b", "orders", 0).leo - at
    assert moving.on_target("slow", TopicPartition("orders", 1)) == moving.world.ends("dc-b", "orders", 1).leo
    assert (clicks.verdict, moving.on_target("connect-clicks")) == (APPROXIMATE, 0)
    assert clicks.note == "no checkpoint: from the start; not placed exactly: dc-a did not answer"
    assert [name for name, result in found.items() if result.verdict is GroupVerdict.SKIPPED] == [
        "connect-dc-a",
        "shares",
    ]


async def test_a_lagging_group_is_placed_by_counting_and_few_records_are_read(build: Callable[..., Moving]) -> None:
    """The stand-in tells one span a record; `visible` is asked for the records at the place only."""
    moving = build(records=400)
    moving.stands("slow", 10)
    moving.stands("slower", 5)
    await moving.moved()
    before = len(moving.world.calls())
    found = await moving.place()
    assert (found["slow"].verdict, found["slower"].lag, found["slower"].note) == (EXACT, 395, "")
    assert moving.next_record("slower") == "orders-0-r5"
    asked = [call for call in moving.world.calls()[before:] if call.startswith("dc-a/logs")]
    assert asked.count("dc-a/logs.spans") == 1
    assert 0 < asked.count("dc-a/logs.visible") <= 3, "a round for each position of a partition"


async def test_what_counting_cannot_show_is_left_to_the_content(
    build: Callable[..., Moving], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translate, "count_back", lambda spans, count: None)
    moving = build()
    moving.stands("slow", 10)
    await moving.moved()
    assert (await moving.place())["slow"].verdict is EXACT
    assert moving.next_record("slow") == "orders-0-r10"


async def test_a_count_that_leads_to_another_record_is_not_believed(
    build: Callable[..., Moving], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = translate.count_back
    monkeypatch.setattr(translate, "count_back", lambda spans, count: right(spans, count - 1))
    moving = build()
    moving.stands("slow", 10)
    await moving.moved()
    assert (await moving.place())["slow"].verdict is EXACT
    assert moving.next_record("slow") == "orders-0-r10"


async def test_an_old_side_that_was_silent_for_a_moment_costs_nothing(
    build: Callable[..., Moving], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "OLD_SIDE_SECONDS", 5.0)
    moving = build()
    moving.stands("slow", 10)
    await moving.moved()
    moving.world.fail("logs.visible", times=3, dc="dc-a")
    assert (await moving.place())["slow"].verdict is EXACT


async def test_an_old_side_that_cannot_answer_at_all_is_not_asked_again(build: Callable[..., Moving]) -> None:
    moving = build()
    moving.stands("slow", 10)
    await moving.moved()
    moving.world.fail("logs.visible", times=-1, error=MisconfiguredError, dc="dc-a")
    slow = (await moving.place())["slow"]
    assert slow.verdict is APPROXIMATE
    assert "not placed exactly: logs.visible of dc-a: a planted fault" in slow.note


async def test_before_the_handover_a_silent_old_side_stops_the_step(build: Callable[..., Moving]) -> None:
    moving = build()
    moving.stands("slow", 10)
    await moving.close()
    moving.world.cut_off("dc-a")
    with pytest.raises(UnreachableError):
        await moving.keep()


async def test_where_what_was_kept_is_lost_and_the_old_side_is_dead_the_targets_own_word_is_reported(
    build: Callable[..., Moving],
) -> None:
    moving = build()
    await moving.moved()
    kept = moving.kept()
    with moving.world._file.change() as state:
        for key in kept:
            del state.clusters["dc-b"].ledger[key]
    moving.world.cut_off("dc-a")
    found = await moving.place()
    assert found["billing"].verdict is APPROXIMATE, "the mirror's checkpoints come late"
    assert found["billing"].note == "dc-a did not answer: where it was placed cannot be shown again"
    assert found["connect-dc-b"].verdict is GroupVerdict.SKIPPED


async def test_a_group_far_behind_spoils_no_other_group_on_its_partitions(build: Callable[..., Moving]) -> None:
    moving = build(lagging_group_budget=50)
    moving.stands("slow", 10)
    await moving.moved()
    found = await moving.place()
    assert {found[name].verdict for name in ("billing", "reports")} == {EXACT}
    assert (found["slow"].verdict, found["slow"].note) == (APPROXIMATE, "the mirror's own checkpoint")
    assert moving.next_record("reports") == "orders-0-r95"


async def test_a_position_beyond_the_log_end_is_not_written_and_not_called_exact(build: Callable[..., Moving]) -> None:
    moving = build()
    moving.stands("connect-lost", 150)
    moving.stands("connect-lost", 100, TopicPartition("orders", 1))
    await moving.moved()
    lost = (await moving.place())["connect-lost"]
    assert (lost.verdict, lost.partitions, lost.bound) == (APPROXIMATE, 1, 100)
    assert lost.note == "orders-0: its position 150 lies beyond the log end 100: it will reset by its own policy"
    assert moving.on_target("connect-lost") is None
    assert moving.on_target("connect-lost", TopicPartition("orders", 1)) == moving.world.ends("dc-b", "orders", 1).leo


async def test_a_position_the_target_holds_for_a_group_beyond_the_end_is_told(build: Callable[..., Moving]) -> None:
    moving = build()
    moving.stands("lost", 150)
    await moving.moved()
    there = moving.on_target("lost")
    lost = (await moving.place())["lost"]
    assert lost.verdict is APPROXIMATE
    assert f"it will resume at {there}, which the target held for it already" in lost.note
    assert moving.on_target("lost") == there


async def test_a_position_below_the_log_start_goes_on_with_the_oldest_record_kept_and_says_so(
    build: Callable[..., Moving],
) -> None:
    moving = build()
    moving.stands("slow", 10)
    with moving.world._file.change() as state:
        log = state.clusters["dc-a"].topics["orders"].partitions[0]
        state.settle([entry.value for entry in log.entries[:30] if entry.value], "gone")
        log.truncate(30)
    await moving.moved()
    slow = (await moving.place())["slow"]
    assert (slow.verdict, slow.lag) == (EXACT, 70)
    assert slow.note.startswith("orders-0: its position 10 lies below the log start 30: ")
    assert moving.next_record("slow") == "orders-0-r30"


async def test_a_step_that_finds_consumers_let_in_reports_what_can_still_be_seen_and_touches_nothing(
    build: Callable[..., Moving],
) -> None:
    moving = build()
    moving.stands("slow", 10)
    await moving.moved()
    await moving.place()
    await moving.let_in()
    moving.world.commit_group("dc-b", "slow", *ORDERS, 60)
    moving.world.cut_off("dc-a")
    found = await moving.place()
    assert moving.on_target("slow") == 60
    assert found["billing"].verdict is EXACT
    assert (found["slow"].verdict, found["slow"].lag, found["slow"].bound) == (APPROXIMATE, 90, 100)
    assert found["slow"].note == "consumers were let in already: where it was placed cannot be shown again"
    assert "connect-dc-a" in found


async def test_consumers_let_in_while_the_old_side_was_asked_keep_their_positions(build: Callable[..., Moving]) -> None:
    moving = build()
    moving.stands("slow", 10)
    await moving.moved()
    moving.world.hang("logs.visible", 0.3, dc="dc-a")
    attempt = asyncio.create_task(moving.place())
    await asyncio.sleep(0.1)
    await moving.let_in()
    with pytest.raises(ConflictError, match="let in on dc-b meanwhile"):
        await attempt


async def test_positions_with_another_content_than_their_name_says_are_not_believed(
    build: Callable[..., Moving],
) -> None:
    moving = build()
    moving.stands("slow", 10)
    await moving.moved()
    (key,) = moving.kept()
    scope = moving.estate.directory.scope("lab")
    with moving.world._file.change() as state:
        state.clusters["dc-b"].ledger[key] = state.clusters["dc-b"].ledger[key].replace(b"10", b"11")
    assert await moving.estate.book.positions(scope, OPERATION) is None
    assert (await moving.place())["slow"].verdict is EXACT, "the old side answers"
