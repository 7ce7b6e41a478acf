"""Failpoints fire once in a folder's life; what cannot be read is refused before a worker serves."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from activities.failpoints import ACTS, Failpoints
from dcdr.errors import MisconfiguredError, PermanentError, UnreachableError


@pytest.fixture
def armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DCDR_FAILPOINT_DIR", str(tmp_path))
    return tmp_path


def fired(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def parse(monkeypatch: pytest.MonkeyPatch, text: str) -> Failpoints:
    monkeypatch.setenv("DCDR_FAILPOINT", text)
    return Failpoints.from_environment()


async def test_nothing_is_armed_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DCDR_FAILPOINT", raising=False)
    await Failpoints.from_environment().reach("fence.close", "before")


@pytest.mark.parametrize(("act", "error"), [("lose", UnreachableError), ("fail", PermanentError)])
async def test_an_armed_step_fails_once_and_never_again_in_this_folder(
    armed: Path, monkeypatch: pytest.MonkeyPatch, act: str, error: type[Exception]
) -> None:
    points = parse(monkeypatch, f"fence.close:after:{act}")
    await points.reach("fence.close", "before")
    await points.reach("fence.open", "after")
    assert fired(armed) == []
    with pytest.raises(error, match=r"fence\.close"):
        await points.reach("fence.close", "after")
    assert fired(armed) == [f"fence.close.after.{act}"]
    await points.reach("fence.close", "after")
    await Failpoints.from_environment().reach("fence.close", "after")  # the next worker


async def test_a_killed_process_leaves_its_mark_before_it_dies(armed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, list[str]]] = []

    class Dead(BaseException):
        pass

    def kill(pid: int, number: int) -> None:
        seen.append((pid, number, fired(armed)))
        raise Dead

    monkeypatch.setattr(os, "kill", kill)
    points = parse(monkeypatch, "lease.hand_over:before:kill")
    with pytest.raises(Dead):
        await points.reach("lease.hand_over", "before")
    await points.reach("lease.hand_over", "before")
    assert seen == [(os.getpid(), signal.SIGKILL, ["lease.hand_over.before.kill"])]


async def test_a_held_step_waits_for_its_release(armed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = parse(monkeypatch, "cut.take:before:hold")
    held = asyncio.create_task(points.reach("cut.take", "before"))
    async with asyncio.timeout(5):
        while not (armed / "cut.take.before.hold").exists():  # noqa: ASYNC110 - the mark is what other processes see
            await asyncio.sleep(0.001)
        assert not held.done()
        (armed / "release").touch()
        await held


async def test_several_points_fire_each_on_its_own(armed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = parse(monkeypatch, "fence.close:before:lose, fence.close:after:fail")
    with pytest.raises(UnreachableError):
        await points.reach("fence.close", "before")
    with pytest.raises(PermanentError):
        await points.reach("fence.close", "after")


@pytest.mark.parametrize(
    "text",
    [
        "fence.close",
        "fence.close:before",
        "fence.close:during:kill",
        "a:before:explode",
        "a:before:kill:now",
        "a:before:kill,",
    ],
)
@pytest.mark.usefixtures("armed")
def test_a_variable_that_cannot_be_read_is_refused_with_its_form(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with pytest.raises(MisconfiguredError) as refused:
        parse(monkeypatch, text)
    assert all(act in str(refused.value) for act in (*ACTS, "<step>", "before|after"))


@pytest.mark.parametrize("folder", [None, "", "/nowhere/at/all"])
def test_a_folder_that_remembers_is_required(monkeypatch: pytest.MonkeyPatch, folder: str | None) -> None:
    if folder is None:
        monkeypatch.delenv("DCDR_FAILPOINT_DIR", raising=False)
    else:
        monkeypatch.setenv("DCDR_FAILPOINT_DIR", folder)
    with pytest.raises(MisconfiguredError, match="needs DCDR_FAILPOINT_DIR, a folder"):
        parse(monkeypatch, "fence.close:before:kill")
