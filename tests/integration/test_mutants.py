"""The proof can fail: with one step of the switchover missing, on the real lab, the checker must say so.

Each worker here is the product's, with one step that does nothing (`mutant_worker`). What the product itself would
have noticed is asserted too, where it has a word. Most need a lab in ACL mode, because behind the authorizer's gates
they would leave nothing open. `make integration` runs them.
"""

from __future__ import annotations

import pytest

from activities.failpoints import Failpoint
from dcdr.model import Outcome, TransitionReport
from lab.check.model import Kind
from lab.check.report import as_table
from tests.integration.support import Stage, until
from workflows import steps

pytestmark = [pytest.mark.timeout(420), pytest.mark.thorough]
PLANTED = 10_000


def _done(report: TransitionReport | None) -> TransitionReport:
    """A mutant's report: it believes that all is well."""
    assert report is not None
    assert report.outcome is Outcome.DONE
    return report


async def test_with_the_drain_skipped_what_was_not_mirrored_is_missing(stage: Stage) -> None:
    here, there = stage.here(), stage.there()
    link = f"{there}->{here}:kafka"
    hold = Failpoint(steps.CLOSE.name, "before", "hold")
    async with stage.worker(hold, mutant=(steps.DRAIN.name,)) as worker, stage.load(rate=2500.0, groups={}) as load:
        handle = await stage.start(there)
        await worker.reached(hold)
        stage.lab.fault.cut(link)
        await stage.flowing(load, here, PLANTED + 2000)
        worker.release()
        await until("the handover", lambda: stage.lease().holder == there, 120)
        stage.lab.fault.heal(link)  # too late: the mirror's gate is closed
        await stage.flowing(load, there)
        stage.moved(_done((await stage.ended(handle)).report))
    checked = await stage.judge()
    counts = checked.verdict.counts
    assert checked.verdict.exit_code == 1, "\n".join(as_table(checked))
    assert counts[Kind.MISSING] >= PLANTED * 0.8, counts
    assert counts[Kind.OLD_ONLY] > 0


async def test_with_the_drain_skipped_the_last_records_of_both_sides_give_it_away(cooperative: Stage) -> None:
    """The same mistake, with the guard behind it: everything is as before."""
    stage = cooperative
    here, there = stage.here(), stage.there()
    link = f"{there}->{here}:kafka"
    hold = Failpoint(steps.CLOSE.name, "before", "hold")
    async with stage.worker(hold, mutant=(f"{steps.DRAIN.name}!",)) as worker, stage.load(groups={}) as load:
        handle = await stage.start(there)
        await worker.reached(hold)
        stage.lab.fault.cut(link)
        await stage.flowing(load, here, 500)
        worker.release()
        await until("the refusal", lambda: b"the last records of" in worker.log.read_bytes(), 60)
        stage.lab.fault.heal(link)  # the undo restarts the mirror's tasks, and waits for them
        ended = await stage.ended(handle)
        assert "the last records of" in ended.failure
        assert ended.report is not None
        assert ended.report.outcome is Outcome.AS_BEFORE
        await stage.flowing(load, here)
    await stage.at_rest(here)
    await stage.clean()


async def test_with_the_reverse_seed_skipped_every_record_comes_back_a_second_time(cooperative: Stage) -> None:
    stage = cooperative
    here, there = stage.here(), stage.there()
    async with stage.worker(mutant=(steps.SEED.name,)), stage.load(groups={}) as load:
        await stage.flowing(load, here, 2000)
        stage.moved(_done((await stage.ended(await stage.start(there))).report))
        await stage.flowing(load, there)
    checked = await stage.judge(standby_complete=True)
    assert checked.verdict.exit_code == 1, "\n".join(as_table(checked))
    assert checked.verdict.counts[Kind.DUPLICATED] >= 1000


async def test_with_the_reverse_seed_skipped_the_start_refuses_by_itself(cooperative: Stage) -> None:
    """The same mistake, with the guard behind it: nothing is copied back, and the run waits for a person."""
    stage = cooperative
    here, there = stage.here(), stage.there()
    async with stage.worker(mutant=(f"{steps.SEED.name}!",)) as worker, stage.load(groups={}) as load:
        await stage.flowing(load, here, 500)
        handle = await stage.start(there)
        await until("the refusal", lambda: b"stand below their seeds" in worker.log.read_bytes(), 120)
        await stage.flowing(load, there)
        await handle.terminate("shown")
        worker.end()
        async with stage.worker():  # one that has the step finishes what was left, then goes back
            report = stage.done(await stage.ended(await stage.start(here)), here)
        assert report.recovered
        stage.moves += 1
        await stage.flowing(load, here)
    await stage.clean()


async def test_with_the_fence_skipped_a_producer_that_stays_is_lost_and_reported(cooperative: Stage) -> None:
    """Slow enough to slip between the cut and the last look; a faster one would keep the handover from happening."""
    stage = cooperative
    here, there = stage.here(), stage.there()
    async with stage.worker(mutant=(steps.CLOSE.name,)):
        async with stage.load(groups={}) as load:  # for the record: an ordinary load before
            await stage.flowing(load, here, 500)
        pinned = {"producers": 0, "pinned": {"pin": here}, "topics": {"orders": "keyed"}, "rate": 30.0}
        async with stage.load(groups={}, **pinned) as load:
            report = _done((await stage.ended(await stage.start(there))).report)
            assert report.tail, "the last look at the old side saw nothing"
            stage.moved(report)
            await stage.flowing(load, here, 5)
        async with stage.load(groups={}) as load:
            await stage.flowing(load, there, 500)
    checked = await stage.judge()
    assert checked.verdict.exit_code == 1, "\n".join(as_table(checked))
    counts = checked.verdict.counts
    assert counts[Kind.MISSING] > 0
    assert counts[Kind.OLD_ONLY] > 0


async def test_with_the_fence_skipped_and_traffic_flowing_there_is_never_a_handover(cooperative: Stage) -> None:
    """What stands behind the fence: the last look sees every record that came after the cut."""
    stage = cooperative
    here, there = stage.here(), stage.there()
    hold = Failpoint(steps.RESTORE.name, "before", "hold")
    plain = {"topics": {"orders": "keyed"}, "rate": 100.0}
    async with stage.worker(hold, mutant=(steps.CLOSE.name,)) as worker, stage.load(groups={}, **plain) as load:
        await stage.flowing(load, here)
        handle = await stage.start(there)
        await worker.reached(hold)
        assert stage.lease().holder == here
        await stage.abort("shown")
        worker.release()
        report = (await stage.ended(handle)).report
        assert report is not None
        assert report.outcome is Outcome.AS_BEFORE
        await stage.flowing(load, here)
    await stage.at_rest(here)
    await stage.clean()
