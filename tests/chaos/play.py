"""How a row is played and judged, in the matrix and in the tests that take some of it."""

from __future__ import annotations

import asyncio
import time

from lab.check.report import WORDS, as_table
from tests.chaos import results
from tests.chaos.results import Result
from tests.chaos.row import Row, Scene, Shown
from tests.integration.support import Stage

ROW_S = 420.0
"""Longest time a row may take with everything that belongs to it."""
RATE = 200.0
"""Records a second."""


async def play(stage: Stage, row: Row, commit: str) -> Result:
    """Play one row and judge it; whatever goes wrong becomes its result."""
    began = time.monotonic()
    shown: Shown | None = None
    verdict, error = "", ""
    try:
        async with asyncio.timeout(ROW_S):
            here, there = stage.here(), stage.there()
            async with stage.load(rate=RATE) as load:
                await stage.flowing(load, here)
                shown = await row.play(Scene(stage, load, here, there))
                assert shown.fired, "nothing shows that the fault fired"
                assert shown.end in row.expect, f"ended as {shown.end}, expected {' or '.join(row.expect)}"
                assert not stage.lab.fault.active(), stage.lab.fault.active()
                await stage.flowing(load, shown.active)
            await stage.at_rest(shown.active, seconds=row.rest_s)
            checked = await stage.judge(standby_complete=True)
            verdict = WORDS[checked.verdict.exit_code]
            assert checked.verdict.clean, "\n".join(as_table(checked))
            stage.spoiled = row.spoils
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}"
    outcome = str(shown.end) if shown else ""
    fired = shown.fired if shown else ""
    seconds = round(time.monotonic() - began, 1)
    return Result(row.name, not error, fired, outcome, verdict, seconds, commit, results.now(), error)
