"""Ratios and shares from made-up series."""

from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.model import Contestant, Figure, Measured, Run, Series, StepTime, Trial, Wanted
from bench.report import absolutes, document, ratios, shares, tables

MS = 1_000_000
BEGAN = 1_000_000 * MS


def step(name: str, start_ms: float, end_ms: float, *, in_outage: bool = True) -> StepTime:
    start, end = BEGAN + int(start_ms * MS), BEGAN + int(end_ms * MS)
    return StepTime(name=name, title=name, started_ns=start, ended_ns=end, effect_ms=1.0, in_outage=in_outage)


def run(outage_ms: float, *steps: StepTime) -> Run:
    """An outage that begins at the origin."""
    end = BEGAN + int(outage_ms * MS)
    return Run(
        target="dc-b", outage_ms=outage_ms, slowest_ms=outage_ms + 5, last_ack_ns=BEGAN, first_ack_ns=end, steps=steps
    )


def series(contestant: Contestant, *runs: Run, verdict: str = "clean", fence: str = "authorizer") -> Series:
    return Series(
        contestant=contestant,
        code="0",
        wanted=Wanted(switchovers=len(runs), rate=2000, size=200, brokers=1, fence=fence),
        started="2026-01-01T00:00:00Z",
        load_average=0.5,
        runs=runs,
        discarded=("switchover 9: traffic was not steady",),
        verdict=verdict,
        anomalies={},
        acknowledged=1000,
    )


def outcome(a: float, b: float, c: float) -> dict[Contestant, Series]:
    inside = (step("one", -10, 20), step("two", 20, 50), step("after", 60, 90, in_outage=False))
    return {
        Contestant.WORKFLOW: series(Contestant.WORKFLOW, run(a, *inside), run(a + 2, *inside)),
        Contestant.FLOOR: series(Contestant.FLOOR, run(b, *inside)),
        Contestant.RUNBOOK: series(Contestant.RUNBOOK, run(c, *inside), verdict="anomalies"),
    }


def test_the_ratios_are_those_of_the_medians() -> None:
    found = {aim.name: aim for aim in ratios(outcome(a=99, b=60, c=4000))}
    assert found["runbook / workflow (c/a)"].value == 40
    assert found["runbook / workflow (c/a)"].met
    assert found["workflow / bare script (a/b)"].value == pytest.approx(100 / 60)
    assert found["workflow / bare script (a/b)"].met is None
    each = found["Temporal's part: (a - b) for each of 2 steps"]
    assert (each.value, each.met) == (20, False)


def test_an_aim_that_is_missed_is_said() -> None:
    found = outcome(a=600, b=590, c=1000)
    assert [aim.met for aim in ratios(found)] == [False, None, True]
    assert [aim.met for aim in absolutes(found)] == [False, False]
    text = tables(found, "a machine", {})
    assert text.count("NOT MET") == 3
    assert "a machine" in text


def test_what_was_not_measured_is_left_out() -> None:
    found = outcome(a=100, b=60, c=4000)
    del found[Contestant.RUNBOOK]
    assert next(aim.name for aim in ratios(found)) == "workflow / bare script (a/b)"
    assert "runbook" not in tables(found, "a machine", {})
    assert absolutes({Contestant.FLOOR: found[Contestant.FLOOR]}) == []


def test_a_steps_share_is_its_part_of_what_producers_felt() -> None:
    found = shares(series(Contestant.WORKFLOW, run(100, step("one", -30, 20), step("two", 20, 50))))
    assert [(one.name, one.whole_ms, one.inside_ms, one.share) for one in found] == [
        ("one", 50, 20, 0.2),
        ("two", 30, 30, 0.3),
        ("between steps", 50, 50, 0.5),
    ]


def test_steps_side_by_side_are_not_counted_twice() -> None:
    both = run(100, step("one", 0, 60), step("two", 10, 50), step("three", 40, 80), step("late", 120, 130))
    assert both.uncovered_ms == 20
    assert [one.name for one in shares(series(Contestant.FLOOR, both))] == ["one", "two", "three", "between steps"]


def test_a_document_says_what_the_tables_say() -> None:
    found = document(outcome(a=100, b=60, c=4000), "a machine", {})
    assert found["series"]["workflow"]["outage_ms"] == {"p50": 101, "worst": 102, "all": [100, 102]}
    assert found["series"]["runbook"]["verdict"] == "anomalies"
    assert [aim["met"] for aim in found["aims"]] == [True, None, False, True, True]


def test_a_series_is_kept_and_read_again(tmp_path: Path) -> None:
    kept = outcome(a=100, b=60, c=4000)[Contestant.WORKFLOW]
    kept.written(tmp_path)
    assert Series.read(tmp_path, Contestant.WORKFLOW) == kept
    assert Series.read(tmp_path, Contestant.FLOOR) is None


def test_a_result_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "floor.json").write_text('{"contestant": "floor"}')
    with pytest.raises(BenchError, match=r"floor\.json .* remove it"):
        Series.read(tmp_path, Contestant.FLOOR)


def measured(*figures: Figure) -> Measured:
    return Measured(
        trial=Trial.GATE,
        code="0",
        wanted=Wanted(switchovers=10, rate=2000, size=200, brokers=1, fence="authorizer"),
        started="2026-01-01T00:00:00Z",
        load_average=0.5,
        figures=figures,
    )


def test_the_worst_value_is_held_against_the_aim() -> None:
    closing = Figure(name="closing", unit="ms", values=(4, 60, 8), aim=50)
    opening = Figure(name="opening", unit="ms", values=(3, 50), aim=50)
    size = Figure(name="size", unit="MiB", values=(70,))
    assert [one.met for one in (closing, opening, size)] == [False, True, None]
    text = tables({}, "a machine", {Trial.GATE: measured(closing, opening, size)})
    rows = {row.split(",")[0].strip(): row.split() for row in text.splitlines() if row.startswith("  ")}
    assert rows["closing"][2:] == ["3", "8.00", "60.00", "aim:", "at", "most", "50:", "NOT", "MET"]
    assert rows["opening"][-1] == "met"
    assert rows["size"][-1] == "70.00", "nothing was aimed at"
    assert "producer-visible outage" not in text


def test_the_same_series_behind_the_other_fence_is_set_beside_it() -> None:
    found = {Contestant.WORKFLOW: series(Contestant.WORKFLOW, run(90))}
    acls = series(Contestant.WORKFLOW, run(100), fence="acl")
    (aim,) = ratios(found, acls)
    assert (aim.name, aim.value, aim.met) == ("workflow: our gates / ACLs", 0.9, True)
    (turned,) = ratios({Contestant.WORKFLOW: acls}, found[Contestant.WORKFLOW])
    assert turned.value == 0.9, "whichever of the two was measured last"
    text = tables(found, "a machine", {}, acls)
    assert "our gates / ACLs" in text
    assert "authorizer" in text


def test_a_document_holds_the_figures_too() -> None:
    figure = Figure(name="closing", unit="ms", values=(4, 60, 8), aim=50)
    found = document({}, "a machine", {Trial.GATE: measured(figure)})["gates"]["gate"]
    assert found["fence"] == "authorizer"
    assert found["figures"] == [
        {
            "name": "closing",
            "unit": "ms",
            "values": (4, 60, 8),
            "aim": 50,
            "p50_aim": None,
            "p50": 8,
            "worst": 60,
            "met": False,
        }
    ]


def test_figures_are_kept_and_read_again(tmp_path: Path) -> None:
    kept = measured(Figure(name="closing", unit="ms", values=(4.5,), aim=50)).written(tmp_path)
    assert Measured.read(tmp_path, Trial.GATE) == kept
    assert Measured.read(tmp_path, Trial.AGENT) is None
