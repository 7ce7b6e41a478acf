"""Bad days of the agents and gates on the real lab: the most telling rows of the matrix (`tests.chaos.gates`)."""

from __future__ import annotations

import pytest

from tests.chaos import gates
from tests.chaos.play import play
from tests.integration.support import Stage

pytestmark = pytest.mark.timeout(420)
ROWS = {row.name: row for row in gates.rows()}
TELLING = (
    "the agent is killed",
    "the agent is frozen and thawed",
    "the active site is cut off from the store",
    "a broker is restarted while closed",
    "both sets of connectors are started by hand",
    "every process dies before the handover",
    "every process dies after the handover",
)


@pytest.mark.parametrize("name", TELLING)
async def test_a_bad_day(stage: Stage, name: str) -> None:
    result = await play(stage, ROWS[name], "")
    assert result.ok, result.error
