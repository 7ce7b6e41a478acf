"""Failovers on the real lab: the most telling rows of the matrix (`tests.chaos.failover`), each judged as it is there:
the lost set is a suffix of each partition and exactly what the loss report names, and never two sides were writable."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.chaos import failover
from tests.chaos.play import play
from tests.integration.support import Stage

pytestmark = pytest.mark.timeout(420)
ROWS = {row.name: row for row in failover.rows()}
TELLING = (
    "failover: the active site is killed",
    "failover: the active site is cut off",
    "failover: the source of a switchover dies in the drain",
    "failover: the loss is above the budget, and accepted once",
    "failover: the old side is back before the opening, handed back",
)


@pytest_asyncio.fixture(scope="module")
async def automatic(the_lab: Stage) -> AsyncIterator[None]:
    """For this module the agents of the session's lab take over by themselves."""
    await the_lab.automatic(True)
    try:
        yield
    finally:
        await the_lab.automatic(False)


@pytest.mark.parametrize("name", TELLING)
async def test_a_site_is_lost(automatic: None, stage: Stage, name: str) -> None:
    result = await play(stage, ROWS[name], "")
    assert result.ok, result.error
