"""The servers that all workflow tests share, and what everybody waited for when a test got no further."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client

from tests.workflows.harness import Case, Forks, server


@pytest_asyncio.fixture(scope="session")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    async with server(tmp_path_factory.mktemp("temporal")) as running:
        yield running


@pytest_asyncio.fixture(scope="session")
async def forks(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Forks]:
    async with Forks.running(tmp_path_factory.mktemp("forks")) as running:
        yield running


@pytest.fixture
def case(client: Client, tmp_path: Path) -> Case:
    """A fresh standard world."""
    return Case.build(client, tmp_path)


@pytest.fixture
def build(client: Client, tmp_path: Path) -> Callable[..., Case]:
    """Build a world with other than standard contents."""
    return lambda **world: Case.build(client, tmp_path, **world)


LOOP = pytest.StashKey[asyncio.AbstractEventLoop]()


@pytest_asyncio.fixture(autouse=True)
async def seen(request: pytest.FixtureRequest) -> None:
    """Remember the test's loop, for `pytest_runtest_makereport`."""
    request.node.stash[LOOP] = asyncio.get_running_loop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The trace of a test that ran out of time ends in the loop's own wait; where each task stands says more."""
    report = yield
    loop = item.stash.get(LOOP, None)
    if report.failed and call.when == "call" and loop is not None and "Timeout" in str(call.excinfo):
        waits = [f"{task.get_name()}\n" + "\n".join(_stands(task.get_coro())) for task in asyncio.all_tasks(loop)]
        report.sections.append(("tasks that had not ended", "\n".join(waits)))
    return report


def _stands(waiting: Any) -> Iterator[str]:
    """The lines a coroutine waits at, outermost first; the last one that is Python's."""
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None)
        if frame is not None:
            yield f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)
