from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.testing import WorkflowEnvironment

from tests.workflows.harness import Case, server


@pytest_asyncio.fixture(scope="session")
async def environment() -> AsyncIterator[WorkflowEnvironment]:
    async with server() as running:
        yield running


@pytest.fixture
def case(environment: WorkflowEnvironment, tmp_path: Path) -> Case:
    """A fresh standard world."""
    return Case.build(environment, tmp_path)


@pytest.fixture
def build(environment: WorkflowEnvironment, tmp_path: Path) -> Callable[..., Case]:
    """Build a world with other than standard contents."""
    return lambda **world: Case.build(environment, tmp_path, **world)
