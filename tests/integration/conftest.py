"""One real lab for the session; every test finds it at rest, with one side active."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from lab import gates
from lab.down import down
from tests.integration.support import Stage, quietly

KEEP = "DCDR_TEST_LAB"
"""Name of a lab to use and to leave running, for work on the tests themselves; by default one of our own."""


@asynccontextmanager
async def _opened(suffix: str, fence: str) -> AsyncIterator[Stage]:
    kept = os.environ.get(KEEP)
    name = (kept or f"t{os.getpid()}") + suffix
    try:
        yield await Stage.open(name, fence=fence)
    finally:
        if not kept:
            down(name, True, quietly)


@pytest_asyncio.fixture(scope="session")
async def the_lab() -> AsyncIterator[Stage]:
    """The lab, up for the whole session."""
    async with _opened("", gates.AUTHORIZER) as stage:
        yield stage


@pytest_asyncio.fixture(scope="module")
async def the_cooperative_lab() -> AsyncIterator[Stage]:
    """A lab in ACL mode, where a step that is left out leaves something open: up for one module."""
    async with _opened("-acl", gates.ACL) as stage:
        yield stage


@pytest_asyncio.fixture
async def stage(the_lab: Stage) -> Stage:
    """The lab at rest: fresh, or as the last test left it if that ended with a clean verdict."""
    await the_lab.ready()
    return the_lab


@pytest_asyncio.fixture
async def cooperative(the_cooperative_lab: Stage) -> Stage:
    """The lab in ACL mode, at rest as `stage` is."""
    await the_cooperative_lab.ready()
    return the_cooperative_lab


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """A folder that remembers which failpoints have fired, for workers that succeed one another."""
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure tells what the lab saw: after the session the lab and its logs are gone."""
    report = yield
    used = getattr(item, "funcargs", {})
    stage = used.get("stage") or used.get("cooperative")
    if report.failed and isinstance(stage, Stage):
        for title, told in stage.story():
            report.sections.append((title, told))
    return report
