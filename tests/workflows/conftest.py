from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

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
