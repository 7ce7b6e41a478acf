"""What a bench makes of a failover: the load's log, the report and the tail, put together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bench.errors import BenchError
from bench.failovers import PARTS, Failed, failed_over, figures
from dcdr.bounds import LeaseTiming, Preset
from dcdr.model import (
    EntryRef,
    LossBound,
    OperationKind,
    Outcome,
    StepReport,
    StepState,
    TailResult,
    TransitionReport,
)
from lab.load import Outage
from workflows import steps

TIMING = LeaseTiming.of(Preset.FAST)
FLIPPED = datetime(2026, 1, 1, tzinfo=UTC)
WALL_NS = round(FLIPPED.timestamp()) * 10**9
BOUND = LossBound(records=50, known=40, assumed=10)


def move(windows: tuple[int, ...] = (10, 10, 10, 10)) -> Outage:
    """The first acknowledgement of the new side comes 0.3 s after the flip began."""
    return Outage("a", "b", round(-15e9), round(0.3e9), windows, 10)


def report(bound: LossBound | None = BOUND) -> TransitionReport:
    flip = StepReport(
        name=steps.FLIP.name, title="", state=StepState.DONE, started=FLIPPED, duration=timedelta(seconds=0.1)
    )
    return TransitionReport(
        scope="lab", operation_id="x", source="dc-a", target="dc-b", outcome=Outcome.DONE, epoch=2, active="dc-b",
        kind=OperationKind.FAILOVER, loss=bound, rto={"detect": timedelta(seconds=14.1)}, steps=(flip,),
    )  # fmt: skip


TAIL = TailResult(
    scope="lab", operation_id="x", source="dc-a", target="dc-b", entry=EntryRef(key="k", digest="d"), cases={},
    records=42, bytes=4200, bound=BOUND,
)  # fmt: skip


def test_the_time_comes_from_the_load_and_its_parts_from_the_report() -> None:
    found = failed_over([move()], report(), TAIL, WALL_NS)
    assert found is not None
    assert found.rto_s == pytest.approx(15.3)
    assert found.parts == {"detect": 14.1}
    assert found.clients_s == pytest.approx(0.2), "from the flip's end"
    assert (found.bound, found.lost) == (50, 42)


def test_without_steady_traffic_before_it_a_failover_does_not_count() -> None:
    assert failed_over([move((0, 0, 0, 0))], report(), TAIL, WALL_NS) is None


@pytest.mark.parametrize(
    ("moves", "bound", "says"), [(2, BOUND, "moved 2 times"), (0, BOUND, "moved 0 times"), (1, None, "no bound")]
)
def test_what_is_no_failover_is_not_measured(moves: int, bound: LossBound | None, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        failed_over([move()] * moves, report(bound), TAIL, WALL_NS)


def test_the_median_and_the_worst_have_aims_of_their_own() -> None:
    def one(above: float, bound: int) -> Failed:
        return Failed(TIMING.wait + above, {"detect": TIMING.wait}, 0.1, bound, 100)

    quick, slow = one(0.5, 100), one(2.5, 300)
    above, *parts, lost, told, excess = figures([quick, quick, slow], TIMING, 1.0, 100.0)
    assert (above.p50, above.worst) == pytest.approx((0.5, 2.5))
    assert above.met, "the worst may last two more attempts of the store"
    assert not figures([slow], TIMING, 1.0, 100.0)[0].met, "the median may not"
    assert len(parts) == len(PARTS) + 1
    assert (lost.worst, told.worst) == (100, 300)
    assert excess.worst == pytest.approx(2.0)
    assert excess.met is False, "two seconds of traffic, one interval is the aim"
