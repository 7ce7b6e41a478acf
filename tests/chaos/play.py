"""How a row is played and judged, in the matrix and in the tests that take some of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

from lab.check.report import WORDS, as_table
from lab.check.run import Checked
from lab.load import Load
from lab.witness import Witness, gather, judge
from lab.witness.cli import as_table as witness_table
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
            here = stage.here()
            async with stage.load(rate=RATE) as load, _witnessed(stage, row, load) as scene:
                await stage.flowing(load, here)
                shown = await row.play(scene)
                assert shown.fired, "nothing shows that the fault fired"
                assert shown.end in row.expect, f"ended as {shown.end}, expected {' or '.join(row.expect)}"
                assert not stage.lab.fault.active(), stage.lab.fault.active()
                await stage.flowing(load, shown.active)
            checked = await _judged(stage, row, shown)
            verdict = WORDS[checked.verdict.exit_code]
            assert checked.verdict.clean, "\n".join(as_table(checked))
            stage.spoiled = row.spoils
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}"
        told = stage.folder / f"{uuid4().hex[:8]}.story"
        # Before anything is reset: what is not seen now is gone.
        await asyncio.to_thread(_tell, stage, told)
        error += f"\n(what the lab saw: {told.name} in its folder)"
    outcome = str(shown.end) if shown else ""
    fired = shown.fired if shown else ""
    seconds = round(time.monotonic() - began, 1)
    return Result(row.name, not error, fired, outcome, verdict, seconds, commit, results.now(), error)


async def _judged(stage: Stage, row: Row, shown: Shown) -> Checked:
    """The checker's word on the estate at rest. A side that a failover left behind need not be complete, and exactly
    what the loss report names may be missing: a suffix of each partition, each record of it, and nothing else."""
    if shown.loss is None:
        await stage.at_rest(shown.active, seconds=row.rest_s)
        return await stage.judge(standby_complete=True)
    await stage.at_rest_after_failover(shown.active, seconds=row.rest_s)
    return await stage.judge(loss=shown.loss)


def _tell(stage: Stage, path: Path) -> None:
    path.write_text("\n\n".join(f"--- {title}\n{text}" for title, text in stage.story()))


@contextlib.asynccontextmanager
async def _witnessed(stage: Stage, row: Row, load: Load) -> AsyncIterator[Scene]:
    """The scene, and the witnesses' word on it. Raises: AssertionError with all they say when they are not content."""
    scene = Scene(stage, load, stage.here(), stage.there())
    if not row.witnessed:
        yield scene
        return
    witness = Witness(stage.lab, stage.folder / f"{uuid4().hex[:8]}.witness")
    await asyncio.to_thread(witness.start)
    try:
        yield scene
        await asyncio.to_thread(witness.stop)
    finally:
        witness.kill()
    evidence = await asyncio.to_thread(gather, stage.lab, witness.out, [load.out])
    seen = await asyncio.to_thread(judge, evidence, scene.closings)
    assert seen.clean, "\n".join(witness_table(seen))
