"""Two keepers and a store: who holds the lease, what their brokers may be told, and what is obeyed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from adapters.memory import MemoryWorld
from adapters.memory.ports import MemoryIntentStore, MemoryLeaseStore
from adapters.memory.store import WorldFile
from agent.keeper import Keeper, NoRecordError, RolledBackError
from dcdr.bounds import PRESETS, LeaseTiming, Preset
from dcdr.errors import UnreachableError
from dcdr.intent import Ask, Intent
from dcdr.marker import Role
from dcdr.model import Operation, Pause, Phase

TIMING = PRESETS[Preset.TEST]  # renew 0.4 s, validity 5 s, wait 7 s
OPERATION = Operation(scope="lab", id="one", epoch=1, source="dc-a", target="dc-b")
START = datetime(2026, 11, 21, tzinfo=UTC)


class Pair:
    """Both agents of an estate, on one clock that a test moves."""

    def __init__(self, path: Path, timing: LeaseTiming = TIMING, **how: Any) -> None:
        self.timing = timing
        self.world = MemoryWorld.create(path, open_transaction=False)
        self.time = 0.0
        file = WorldFile(path)
        self.store, self.wishes = MemoryLeaseStore(file), MemoryIntentStore(file)
        self.a, self.b = (self.keeper(dc, **how) for dc in ("dc-a", "dc-b"))

    def keeper(self, dc: str, name: str = "first", **how: Any) -> Keeper:
        return Keeper(
            dc, "lab", self.store, self.wishes, self.timing, identity=f"{name} of {dc}", clock=lambda: self.time,
            now=lambda: START + timedelta(seconds=self.time), **how,
        )  # fmt: skip

    async def beat(self, *keepers: Keeper, fit: bool = True) -> None:
        for keeper in keepers or (self.a, self.b):
            while await keeper.beat(fit):
                pass

    @property
    def acting(self) -> str | None:
        record = self.world.lease()
        assert record is not None
        return record.keeper

    async def ask(self, ask: Ask, operation: Operation = OPERATION, **more: Any) -> None:
        wish = Intent(
            operation=operation, ask=ask, deadline=START + timedelta(seconds=60), ledger="digest", cuts=0, **more
        )
        await self.wishes.write("lab", await self.wishes.read("lab"), wish)

    async def close(self) -> None:
        """The operation has begun, and its wish to close dc-a is there."""
        await self.ask(Ask.BEGIN)
        await self.beat(self.a)
        await self.ask(Ask.CLOSE)

    @property
    def roles(self) -> tuple[Role, Role]:
        return self.a.marker().role, self.b.marker().role


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path / "world")


@pytest.fixture
def ready(tmp_path: Path) -> Callable[..., Pair]:
    return lambda **how: Pair(tmp_path / "other", **how)


async def test_before_the_first_renewal_nobody_may_write(pair: Pair) -> None:
    assert pair.roles == (Role.NONE, Role.NONE)
    await pair.a._look(True)
    assert pair.roles[0] is Role.NONE, "that it is named in the record proves nothing"
    await pair.beat()
    assert pair.roles == (Role.ACTIVE, Role.STANDBY)


async def test_a_holder_that_cannot_reach_the_store_closes_when_its_validity_ends(pair: Pair) -> None:
    await pair.beat()
    pair.world.fail("lease.swap", times=-1)
    pair.time = 4.9
    with pytest.raises(UnreachableError):
        await pair.a.beat(True)
    assert pair.a.marker().role is Role.ACTIVE
    assert pair.a.marker().valid_s == pytest.approx(0.1)
    pair.time = 5.0
    assert pair.a.marker().role is Role.NONE


async def test_an_answer_that_was_lost_is_found_by_the_next_look_and_renewed_again(pair: Pair) -> None:
    await pair.beat()
    pair.world.lose_answer("lease.swap")
    pair.time = 1.0
    with pytest.raises(UnreachableError):
        await pair.a.beat(True)
    assert pair.a.marker().valid_s == pytest.approx(4.0), "nothing was proven"
    await pair.beat(pair.a)
    assert pair.a.marker().valid_s == pytest.approx(5.0)


async def test_an_unfit_holder_renews_no_more_and_goes_on_when_it_is_fit_again(pair: Pair) -> None:
    await pair.beat()
    pair.time = 5.0
    await pair.beat(pair.a, fit=False)
    assert pair.a.marker().role is Role.NONE
    await pair.beat(pair.a)
    assert pair.a.marker().role is Role.ACTIVE
    assert pair.a.marker().epoch == 1


async def test_nobody_takes_over_unless_told_to(pair: Pair) -> None:
    await pair.beat()
    pair.time = 1000.0
    await pair.beat(pair.b)
    assert not pair.b.known.holds


async def test_a_lease_without_signs_of_life_is_taken_over_after_the_wait_and_opens_nothing(
    ready: Callable[..., Pair],
) -> None:
    pair = ready(automatic=True)
    await pair.beat()
    pair.b.heard_of(4)
    pair.time = 6.9
    await pair.beat(pair.b)
    assert not pair.b.known.holds
    pair.time = 7.0
    await pair.beat(pair.b, fit=False)
    assert not pair.b.known.holds, "an unfit side does not take over"
    await pair.beat(pair.b)
    record = pair.b.known.record
    assert record is not None
    assert (record.holder, record.epoch, record.phase) == ("dc-b", 5, Phase.ACQUIRED)
    assert pair.roles == (Role.NONE, Role.NONE)
    await pair.beat(pair.a)
    assert not pair.a.known.holds
    assert pair.roles == (Role.NONE, Role.NONE), "the mirror is not admitted either"


async def test_no_lease_is_taken_over_before_a_broker_told_which_epoch_it_remembers(ready: Callable[..., Pair]) -> None:
    """Store and disk may both have been restored from a backup: then only the brokers know better."""
    pair = ready(automatic=True, obeyed=True)
    await pair.beat()
    pair.time = 100.0
    await pair.beat(pair.b)
    assert not pair.b.known.holds
    pair.b.heard_of(0)
    pair.b.heard_of(6)
    await pair.beat(pair.b)
    assert pair.b.known.record is not None
    assert (pair.b.known.record.holder, pair.b.known.record.epoch) == ("dc-b", 7)


async def test_a_switchover_by_intents_and_what_the_brokers_are_told_on_the_way(pair: Pair) -> None:
    await pair.beat()
    told = [pair.roles]
    for ask in (Ask.BEGIN, Ask.CLOSE, Ask.CLOSE_MIRROR, Ask.HAND_OVER, Ask.ADMIT, Ask.FINISH):
        await pair.ask(ask)
        await pair.beat()
        await pair.beat()
        if told[-1] != pair.roles:
            told.append(pair.roles)
    assert told == [
        (Role.ACTIVE, Role.STANDBY),
        (Role.NONE, Role.STANDBY),
        (Role.NONE, Role.NONE),
        (Role.NONE, Role.ACTIVE),
        (Role.STANDBY, Role.ACTIVE),
    ]
    record = pair.b.known.record
    assert record is not None
    assert (record.holder, record.epoch, record.op_id) == ("dc-b", 2, None)


async def test_an_intent_of_an_operation_that_is_over_changes_nothing_but_the_sign_of_life(pair: Pair) -> None:
    await pair.beat()
    await pair.ask(Ask.HAND_OVER)
    await pair.beat()
    assert pair.roles == (Role.ACTIVE, Role.STANDBY)


async def test_past_the_deadline_the_holder_opens_again_without_any_workflow(pair: Pair) -> None:
    await pair.beat()
    await pair.close()
    await pair.beat()
    assert pair.a.marker().role is Role.NONE
    for second in range(1, 62):
        pair.time = float(second)
        await pair.beat()
    assert pair.roles == (Role.ACTIVE, Role.STANDBY)


async def test_a_missing_record_is_never_created(pair: Pair) -> None:
    pair.world.set_lease(None)
    with pytest.raises(NoRecordError, match="dcdr lease bootstrap"):
        await pair.b.beat(True)
    assert pair.world.lease() is None


async def test_a_record_that_was_rolled_back_opens_nothing(ready: Callable[..., Pair]) -> None:
    pair = ready(floor=lambda: 3)
    for _ in range(2):
        with pytest.raises(RolledBackError, match="--epoch-floor 3"):
            await pair.beat(pair.a)
    await pair.beat(pair.b)
    assert pair.roles == (Role.NONE, Role.NONE)
    assert pair.world.lease() is not None


async def test_what_a_broker_remembers_counts_as_well(pair: Pair) -> None:
    await pair.beat()
    pair.a.heard_of(2)
    assert pair.a.marker().role is Role.NONE
    with pytest.raises(RolledBackError):
        await pair.a.beat(True)


async def test_whoever_waits_for_another_marker_hears_of_it_at_once(pair: Pair) -> None:
    await pair.beat()
    waiting = asyncio.create_task(pair.a.until_another(pair.a.marker(), 30.0))
    await asyncio.sleep(0)
    await pair.close()
    await pair.beat(pair.a)
    assert (await asyncio.wait_for(waiting, 5)).role is Role.NONE


async def test_whoever_waits_in_vain_is_told_how_long_the_marker_still_holds(pair: Pair) -> None:
    await pair.beat()
    told = await pair.a.until_another(pair.a.marker(), 0.01)
    assert (told.role, told.valid_s) == (Role.ACTIVE, 5.0)


async def test_a_sign_of_life_is_no_news_and_any_other_change_is(pair: Pair) -> None:
    await pair.beat()
    await pair.beat()
    stored = await pair.store.read("lab")
    assert stored is not None
    assert not pair.a.is_news(stored), "the holder's own renewal"
    assert not pair.b.is_news(stored), "it looks every period anyway"
    assert pair.a.is_news(None)
    moved = stored._replace(record=stored.record.model_copy(update={"phase": Phase.DRAINING}))
    assert pair.a.is_news(moved)
    assert pair.b.is_news(moved)


# --- two agents of one data center ---


async def test_of_two_agents_of_the_holder_one_acts_and_the_other_says_nothing(pair: Pair) -> None:
    second = pair.keeper("dc-a", "second")
    for tick in range(30):
        pair.time = tick * TIMING.renew
        await pair.beat(second, pair.a) if tick % 2 else await pair.beat(pair.a, second)
        assert (pair.acting, pair.a.acts, second.acts) == ("first of dc-a", True, False)
        assert (pair.a.marker().role, pair.a.speaks, second.speaks) == (Role.ACTIVE, True, False)
    record = pair.world.lease()
    assert record is not None
    assert record.seq == 30, "the second did not renew"


async def test_who_stands_by_obeys_nothing_and_does_not_say_that_the_other_closed(pair: Pair) -> None:
    second = pair.keeper("dc-a", "second")
    await pair.beat(pair.a, second)
    await pair.ask(Ask.BEGIN)
    await pair.beat(second)
    assert pair.world.lease() == pair.a.known.record, "nothing was written"
    await pair.close()
    await pair.beat(pair.a, second)
    assert (pair.a.marker().role, pair.a.speaks) == (Role.NONE, True)
    assert not second.speaks


@pytest.mark.parametrize("preset", list(Preset))
async def test_the_second_acts_before_what_the_first_told_runs_out(preset: Preset, tmp_path: Path) -> None:
    """At its worst: no watch, the change seen as late as may be, and an attempt lost. The brokers' question is left."""
    timing = PRESETS[preset]
    pair = Pair(tmp_path / "world", timing=timing)
    second = pair.keeper("dc-a", "second")
    await pair.beat(pair.a)  # sent at 0, and dead from here
    pair.time = timing.renew + timing.attempt
    await pair.beat(second)
    seen = second.known.since
    pair.time = second._next_beat(seen + timing.silence - 0.01)
    assert pair.time == pytest.approx(seen + timing.silence), "it does not sleep beyond it"
    pair.world.fail("lease.swap")
    with pytest.raises(UnreachableError):
        await second.beat(True)
    pair.time += timing.attempt
    await pair.beat(second)
    assert second.marker().role is Role.ACTIVE
    assert (second.speaks, second.acts, pair.acting) == (True, True, "second of dc-a")
    assert pair.a.marker().valid_s > 0, "the brokers still believe the first one"


async def test_who_was_frozen_while_another_acted_stands_by_and_closes_nothing(pair: Pair) -> None:
    second = pair.keeper("dc-a", "second")
    await pair.close()
    await pair.beat(pair.a, second)
    assert pair.a.marker().role is Role.NONE  # told, and then it is frozen
    for second_s in range(1, 70):
        pair.time = float(second_s)
        await pair.beat(second)
    assert second.marker().role is Role.ACTIVE, "past the deadline it has opened again"
    assert not pair.a.speaks, "before its first beat, too: it knows nothing that is still proven"
    await pair.beat(pair.a)
    assert (pair.a.acts, pair.a.speaks, pair.acting) == (False, False, "second of dc-a")
    for tick in range(20):
        pair.time += TIMING.renew
        await pair.beat(pair.a, second)
        assert (pair.acting, second.marker().role, pair.a.speaks) == ("second of dc-a", Role.ACTIVE, False), tick


async def test_who_has_just_been_replaced_takes_back_what_it_had_proven(pair: Pair) -> None:
    second = pair.keeper("dc-a", "second")
    await pair.beat(pair.a, second)
    pair.time = TIMING.silence
    await pair.beat(second)
    assert pair.a.marker().role is Role.ACTIVE
    await pair.beat(pair.a)
    assert (pair.a.marker().valid_s, pair.a.speaks) == (0.0, False), "the other one may close at any moment"


async def test_a_restarted_agent_is_the_one_that_acted_and_goes_on_at_once(pair: Pair) -> None:
    second = pair.keeper("dc-a", "second")
    await pair.beat(pair.a, second)
    pair.time = TIMING.silence - 0.1
    again = pair.keeper("dc-a")
    await pair.beat(again, second)
    assert (again.marker().role, second.acts) == (Role.ACTIVE, False)
    stranger = pair.keeper("dc-a", "lost its disk")
    await pair.beat(stranger)
    assert not stranger.acts


async def test_two_that_want_to_act_at_once_do_not_renew_in_turns(pair: Pair) -> None:
    """Each has seen nothing for long enough; one swap wins, and the loser sees who it was."""
    others = [pair.keeper("dc-a", name) for name in ("second", "third")]
    await pair.beat(pair.a, *others)
    pair.time = TIMING.silence + 1
    await asyncio.gather(*(pair.beat(one) for one in others))
    won = pair.acting
    assert won in ("second of dc-a", "third of dc-a")
    names = set()
    for _ in range(20):
        pair.time += TIMING.renew
        await asyncio.gather(*(pair.beat(one) for one in (*others, pair.a)))
        names.add(pair.acting)
    assert names == {won}
    assert sum(one.acts for one in (*others, pair.a)) == 1


async def test_the_sign_of_life_that_a_watch_shows_counts_for_who_stands_by(pair: Pair) -> None:
    second = pair.keeper("dc-a", "second")
    await pair.beat(pair.a, second)
    pair.time = 0.3
    await pair.beat(pair.a)
    stored = await pair.store.read("lab")
    assert not second.is_news(stored)
    second.changed(stored)
    assert second.known.since == 0.3
    assert second._next_beat(1.5) == pytest.approx(0.3 + TIMING.silence)


async def test_a_second_agent_that_is_fit_acts_where_the_first_is_not(pair: Pair) -> None:
    second = pair.keeper("dc-a", "second")
    await pair.beat(pair.a, second)
    pair.time = TIMING.silence
    await pair.beat(pair.a, fit=False)
    await pair.beat(second, fit=False)
    assert pair.acting == "first of dc-a"
    await pair.beat(second)
    assert second.marker().role is Role.ACTIVE


async def test_after_a_handover_the_other_sides_agents_do_not_wait(pair: Pair) -> None:
    await pair.beat()
    for ask in (Ask.BEGIN, Ask.CLOSE, Ask.CLOSE_MIRROR, Ask.HAND_OVER):
        await pair.ask(ask)
        await pair.beat(pair.a)
    handed_over = pair.world.lease()
    assert handed_over is not None
    assert handed_over.keeper is None, "nobody of the new holder has acted yet"
    twin = pair.keeper("dc-b", "second")
    await asyncio.gather(pair.beat(pair.b), pair.beat(twin))
    assert pair.acting in ("first of dc-b", "second of dc-b")
    assert sorted(one.marker().role for one in (pair.b, twin)) == [Role.ACTIVE, Role.NONE]
    assert pair.a.speaks, "of the side without the lease every agent tells what it reads"


async def test_of_two_that_may_take_over_one_does(ready: Callable[..., Pair]) -> None:
    pair = ready(automatic=True)
    twin = pair.keeper("dc-b", "second", automatic=True)
    await pair.beat(pair.a, pair.b, twin)
    pair.time = TIMING.wait
    await asyncio.gather(pair.beat(pair.b), pair.beat(twin))
    await pair.beat(pair.b, twin)
    record = pair.world.lease()
    assert record is not None
    assert (record.holder, record.epoch) == ("dc-b", 2)
    assert sorted((pair.b.acts, twin.acts)) == [False, True]


async def test_who_stands_by_does_not_write_under_an_epoch_that_is_over(pair: Pair) -> None:
    second = pair.keeper("dc-a", "second", floor=lambda: 7)
    await pair.beat(pair.a, second)
    pair.time = TIMING.silence
    with pytest.raises(RolledBackError):
        await second.beat(True)
    assert (second.speaks, pair.acting) == (False, "first of dc-a")


# --- the watch, and the beginning ---


async def test_the_other_sides_sign_of_life_counts_from_when_it_came(ready: Callable[..., Pair]) -> None:
    pair = ready(automatic=True)
    await pair.beat()
    assert pair.b.known.since == 0.0
    pair.time = 0.3
    await pair.beat(pair.a)
    pair.b.changed(await pair.store.read("lab"))
    assert pair.b.known.since == 0.3, "what the watch shows is not looked at again before it counts"
    assert pair.b._next_beat(7.2) == pytest.approx(0.3 + TIMING.wait), "no renew period later"
    assert pair.b._next_beat(0.3) == pytest.approx(0.3 + TIMING.renew)
    pair.time = 8.0
    assert pair.b._next_beat(7.9) == pytest.approx(7.9 + TIMING.renew), "one that may not take over does not spin"


async def test_the_holder_takes_no_word_of_the_watch_for_its_own_renewal(pair: Pair) -> None:
    await pair.beat()
    before, pair.time = pair.a.known, 1.0
    pair.a.changed(await pair.store.read("lab"))
    assert pair.a.known == before


async def test_a_restarted_agent_speaks_once_it_has_proven_its_role_or_read_that_it_has_none(pair: Pair) -> None:
    await pair.beat()
    holder, standby = pair.keeper("dc-a"), pair.keeper("dc-b")
    spoke = [holder.speaks]
    for _ in range(2):
        await holder.beat(True)
        spoke.append(holder.speaks)
    assert spoke == [False, False, True], "a read proves nothing to the holder, a renewal does"
    await standby.beat(True)
    assert standby.speaks, "a read proves to the other side that the mirror may write"
    pair.time += TIMING.validity + 1
    assert (holder.marker().role, holder.speaks) == (Role.NONE, False), "the gates need no word to run out"


async def test_a_restarted_agent_says_at_once_that_nobody_may_write(pair: Pair) -> None:
    await pair.close()
    await pair.beat(pair.a)
    holder = pair.keeper("dc-a")
    await holder.beat(True)
    assert holder.speaks
    assert holder.marker().role is Role.NONE


def expect_held(pair: Pair, why: str) -> None:
    assert why in pair.b.holds_back
    assert not pair.b.known.holds


async def silent(pair: Pair) -> None:
    """dc-a has renewed, and has shown no sign of life since for as long as it takes."""
    await pair.beat()
    pair.time = 7.0


async def paused(pair: Pair, hours: float, *, maintenance: bool = False) -> None:
    until = START + timedelta(hours=hours)
    await pair.ask(Ask.PAUSE, pause=Pause(until=until, maintenance=maintenance, reason="CHG-1"))
    await pair.beat()


async def test_a_takeover_says_when_it_was_and_how_long_nothing_had_been_seen(ready: Callable[..., Pair]) -> None:
    pair = ready(automatic=True)
    await silent(pair)
    pair.time = 7.5
    await pair.beat(pair.b)
    record = pair.b.known.record
    assert record is not None
    assert (record.acquired_at, record.acquired_after_s) == (START + timedelta(seconds=7.5), 7.5)
    assert record.last_open == "dc-a"


async def test_a_pause_holds_takeovers_back_and_ends_by_itself(ready: Callable[..., Pair]) -> None:
    pair = ready(automatic=True)
    await pair.beat()
    await paused(pair, 1)
    pair.time = 3599.0
    await pair.beat(pair.b)
    expect_held(pair, "takeovers are paused until 2026-11-21 01:00:00 UTC: CHG-1")
    pair.time = 3600.0
    await pair.beat(pair.b)
    assert pair.b.known.holds
    assert pair.b.holds_back == ""


async def test_the_next_takeover_by_itself_waits_for_the_cool_down(ready: Callable[..., Pair]) -> None:
    pair = ready(automatic=True, cool_down=timedelta(hours=1))
    await silent(pair)
    await pair.beat(pair.b)
    assert pair.b.known.holds
    await pair.beat(pair.a)
    pair.time = 3606.0
    await pair.beat(pair.a)
    assert "the last takeover was at 2026-11-21 00:00:07 UTC" in pair.a.holds_back
    pair.time = 3607.0
    await pair.beat(pair.a)
    assert pair.a.known.holds


async def test_a_side_that_is_not_ready_or_not_fit_takes_nothing_over_and_says_why(ready: Callable[..., Pair]) -> None:
    lacks = ["dc-b lacks topic orders"]
    pair = ready(automatic=True, ready=lambda: lacks[0])
    await silent(pair)
    await pair.beat(pair.b)
    expect_held(pair, "dc-b lacks topic orders")
    lacks[0] = ""
    await pair.beat(pair.b, fit=False)
    expect_held(pair, "the Kafka of dc-b is not well")
    await pair.beat(pair.b)
    assert pair.b.known.holds


async def test_what_holds_an_agent_back_is_said_once_for_each_change(
    ready: Callable[..., Pair], caplog: pytest.LogCaptureFixture
) -> None:
    lacks = ["dc-b lacks topic orders"]
    pair = ready(automatic=True, ready=lambda: lacks[0])
    caplog.set_level("INFO", "dcdr.keeper")
    for lacks[0] in ("dc-b lacks topic orders", "dc-b lacks topic orders", ""):
        await pair.beat(pair.b)
        await pair.beat(pair.b)
    said = [line.getMessage() for line in caplog.records if "a takeover by" in line.getMessage()]
    assert said == [
        "scope lab: a takeover by dc-b: dc-b lacks topic orders",
        "scope lab: a takeover by dc-b: nothing speaks against it",
    ]


async def test_a_person_has_the_lease_taken_over_although_it_is_paused_and_not_automatic(
    ready: Callable[..., Pair],
) -> None:
    pair = ready(cool_down=timedelta(hours=1))
    await pair.beat()
    await paused(pair, 1)
    pair.time = 7.0
    await pair.beat(pair.b)
    expect_held(pair, "takeovers are paused")
    await pair.ask(Ask.TAKE_OVER)
    await pair.beat(pair.b)
    assert pair.b.known.holds
    await pair.beat(pair.b)
    assert pair.b.known.record is not None
    assert pair.b.known.record.phase is Phase.ACQUIRED, "the wish is carried out, and opens nothing"


async def test_whoever_asks_for_a_takeover_waits_for_the_arithmetic_all_the_same(pair: Pair) -> None:
    await pair.beat()
    await pair.ask(Ask.TAKE_OVER)
    pair.time = 6.9
    await pair.beat(pair.b)
    expect_held(pair, "dc-a still shows signs of life")
    assert pair.b._next_beat(6.9) == pytest.approx(7.0), "it comes as soon as it may"
    pair.time = 7.0
    await pair.beat(pair.b)
    assert pair.b.known.holds


async def test_a_takeover_that_is_asked_for_is_refused_to_a_side_that_is_unfit_unready_or_left_behind(
    ready: Callable[..., Pair],
) -> None:
    lacks = [""]
    pair = ready(ready=lambda: lacks[0])
    await silent(pair)
    await pair.ask(Ask.TAKE_OVER)
    await pair.beat(pair.b, fit=False)
    expect_held(pair, "the Kafka of dc-b is not well")
    lacks[0] = "the mirror to dc-b never caught up"
    await pair.beat(pair.b)
    expect_held(pair, "the mirror to dc-b never caught up")
    lacks[0] = ""
    record = pair.a.known.record
    assert record is not None
    pair.world.set_lease(record.model_copy(update={"behind": "dc-b"}).model_dump_json())
    pair.time = 100.0
    await pair.beat(pair.b)
    pair.time = 200.0
    await pair.beat(pair.b)
    expect_held(pair, "dc-b was left by a failover")


async def test_a_wish_that_is_too_old_takes_nothing_over(pair: Pair) -> None:
    await pair.beat()
    await pair.ask(Ask.TAKE_OVER)
    pair.time = 60.0
    await pair.beat(pair.b)
    expect_held(pair, "lease.automatic is off")


async def test_in_maintenance_an_unfit_holder_goes_on_until_the_time_is_over_or_the_store_is_out_of_reach(
    pair: Pair,
) -> None:
    await pair.beat()
    await paused(pair, 1, maintenance=True)
    pair.time = 100.0
    await pair.beat(pair.a, fit=False)
    assert pair.a.marker().role is Role.ACTIVE
    pair.world.fail("lease.swap", times=1)
    pair.time = 106.0
    with pytest.raises(UnreachableError):
        await pair.a.beat(False)
    assert pair.a.marker().role is Role.NONE
    await pair.beat(pair.a, fit=False)
    assert pair.a.marker().role is Role.ACTIVE
    pair.time = 3606.0
    await pair.beat(pair.a, fit=False)
    assert pair.a.marker().role is Role.NONE


async def test_a_pause_without_maintenance_does_not_keep_an_unfit_holder(pair: Pair) -> None:
    await pair.beat()
    await paused(pair, 1)
    pair.time = 100.0
    await pair.beat(pair.a, fit=False)
    assert pair.a.marker().role is Role.NONE
