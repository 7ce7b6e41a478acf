"""Members that stayed on the old side are put out of their groups, and nothing waits for that for long."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from activities import status, step
from activities.fence import FenceActivities
from activities.status import StatusActivities
from dcdr.errors import MisconfiguredError, SupersededError
from dcdr.model import StepResult, SwitchoverRequest
from dcdr.plan import Preflight
from tests.unit.activities.test_groups import Moving
from tests.unit.activities.test_hand_over import Estate, do

LET_IN = "commits taken by every broker, 2"


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Moving]:
    return lambda **world: Moving(tmp_path / "lab.world", **world)


def members(estate: Estate, dc: str) -> dict[str, int]:
    held = estate.world._file.look().clusters[dc].groups
    return {name: group.members for name, group in held.items() if group.members}


async def let_in(moving: Moving) -> StepResult:
    result: StepResult = await do(FenceActivities(moving.estate.directory).let_groups_in, moving.order)
    return result


async def ready(moving: Moving) -> Moving:
    """Everything up to the step that lets consumers in."""
    await moving.moved()
    await do(FenceActivities(moving.estate.directory).open, moving.order)
    await moving.place()
    return moving


async def test_members_of_carried_groups_are_removed_before_consumers_are_let_in(build: Callable[..., Moving]) -> None:
    moving = build()
    moving.stands("slow", 10)
    moving.world.members("dc-a", "slow", 1)
    moving.world.members("dc-a", "shares", 3)
    await ready(moving)
    before = len(moving.world.calls())
    assert (await let_in(moving)).note == f"{LET_IN}; 3 members that stayed on dc-a were removed"
    assert members(moving.estate, "dc-a") == {"shares": 3, "connect-dc-a": 1}
    calls = moving.world.calls()[before:]
    assert calls.index("dc-a/groups.expel") < calls.index("dc-b/fence.thaw_groups")


async def test_a_repeated_step_finds_nobody_and_says_nothing(build: Callable[..., Moving]) -> None:
    moving = await ready(build())
    assert "2 members" in (await let_in(moving)).note
    assert (await let_in(moving)).note == LET_IN


async def test_an_old_side_that_is_gone_keeps_no_consumer_out(build: Callable[..., Moving]) -> None:
    moving = await ready(build())
    moving.world.cut_off("dc-a")
    note = (await let_in(moving)).note
    assert (
        note == f"{LET_IN}; members that may have stayed on dc-a were not removed: dc-a gave no answer: it is cut off"
    )
    assert not moving.world.groups_frozen("dc-b")


async def test_an_old_side_that_is_silent_is_not_waited_for(
    build: Callable[..., Moving], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "EXPEL_SECONDS", 0.05)
    moving = await ready(build())
    moving.world.hang("groups.expel", 30, dc="dc-a")
    began = time.monotonic()
    note = (await let_in(moving)).note
    assert time.monotonic() - began < 10
    assert note.endswith("were not removed: dc-a did not remove its members within 0.05 s")
    assert not moving.world.groups_frozen("dc-b")


async def test_an_old_side_that_refuses_keeps_no_consumer_out(build: Callable[..., Moving]) -> None:
    moving = await ready(build())
    moving.world.fail("groups.expel", error=MisconfiguredError, dc="dc-a")
    assert "members that may have stayed on dc-a were not removed: " in (await let_in(moving)).note
    assert not moving.world.groups_frozen("dc-b")


async def test_an_attempt_that_came_too_early_or_an_undo_removes_nobody(build: Callable[..., Moving]) -> None:
    moving = build()
    await moving.close()
    with pytest.raises(SupersededError):
        await let_in(moving)
    await do(moving.estate.lease.reopen, moving.order)
    await do(FenceActivities(moving.estate.directory).thaw, moving.order)
    assert members(moving.estate, "dc-a") == {"reports": 2, "connect-dc-a": 1}


# --- the way back


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "RETRY_SECONDS", 0.3)
    monkeypatch.setattr(status, "RETRY_PAUSE", 0.01)


async def preflight(estate: Estate, target: str = "dc-b") -> Preflight:
    given: Any = SwitchoverRequest(scope="lab", target=target)
    found: Preflight = await do(StatusActivities(estate.directory, estate.book).preflight, given)
    return found


async def test_members_on_a_frozen_standby_do_not_block_the_way_there(tmp_path: Path) -> None:
    estate = Estate(tmp_path / "lab.world")
    estate.world.members("dc-b", "billing", 2)
    assert (await preflight(estate)).blockers == ()
    assert members(estate, "dc-b") == {"connect-dc-b": 1}
    assert members(estate, "dc-a") == {"reports": 2, "connect-dc-a": 1}


async def test_members_that_could_come_back_are_left_alone_and_named(tmp_path: Path) -> None:
    estate = Estate(tmp_path / "lab.world")
    estate.world.members("dc-b", "billing", 2)
    estate.world.set_rules("dc-b", groups_denied=False)
    (finding,) = (await preflight(estate)).blockers
    assert "groups with members on the standby dc-b: billing (2)" in str(finding)
    assert "dc-b/groups.expel" not in estate.world.calls()


async def test_members_that_could_not_be_removed_are_named(tmp_path: Path) -> None:
    estate = Estate(tmp_path / "lab.world")
    estate.world.members("dc-b", "billing", 2)
    estate.world.fail("groups.expel", -1, dc="dc-b")
    (finding,) = (await preflight(estate)).blockers
    assert "billing (2)" in str(finding)


async def test_nobody_is_removed_from_the_active_side(tmp_path: Path) -> None:
    estate = Estate(tmp_path / "lab.world")
    assert (await preflight(estate, "dc-a")).blockers
    assert members(estate, "dc-a") == {"reports": 2, "connect-dc-a": 1}
