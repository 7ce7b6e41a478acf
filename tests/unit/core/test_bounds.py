"""The lease's arithmetic: the presets keep it, and what breaks it is refused with the inequality and the numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from dcdr.bounds import PRESETS, LeaseTiming, Preset
from dcdr.settings import DrainSettings

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "bounds.md"
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines() if "|" in line]


@pytest.mark.parametrize("preset", Preset)
def test_every_preset_keeps_the_arithmetic(preset: Preset) -> None:
    assert LeaseTiming.of(preset).broken() == []
    assert LeaseTiming(**LeaseTiming.of(preset).model_dump()) == PRESETS[preset]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"election": 12}, "R1 validity >= renew + 2 attempt + election: 18 < 4 + 2 * 2 + 12 = 20 s"),
        ({"pause": 13}, "R2 wait (1 - rho) >= validity (1 + rho) + pause: 29.97 < 31.018 s"),
        ({"clock_rate_error": 0.09}, "rho 0.09"),
        ({"refresh": 5}, "R3 refresh <= validity / 4: 5 > 4.5 s"),
        ({"hysteresis": 26}, "R4 hysteresis + renew < wait: 26 + 4 >= 30 s"),
    ],
)
def test_what_breaks_the_arithmetic_is_refused_with_the_numbers(change: dict[str, float], says: str) -> None:
    with pytest.raises(ValidationError) as refused:
        LeaseTiming(**{**PRESETS[Preset.STANDARD].model_dump(), **change})
    assert says in str(refused.value)


@pytest.mark.parametrize("change", [{"renew": 0}, {"validity": float("nan")}, {"wait": float("inf")}, {"renews": 1}])
def test_a_time_that_is_none_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        LeaseTiming(**{**PRESETS[Preset.STANDARD].model_dump(), **change})


@given(
    validity=st.floats(min_value=1, max_value=300),
    pause=st.floats(min_value=0.1, max_value=300),
    rate=st.floats(min_value=0, max_value=0.09),
    more=st.floats(min_value=-0.5, max_value=0.5),
)
def test_a_wait_is_taken_exactly_when_the_slowest_holder_has_closed_before_the_fastest_candidate_moves(
    validity: float, pause: float, rate: float, more: float
) -> None:
    least = (validity * (1 + rate) + pause) / (1 - rate)
    timing = LeaseTiming.model_construct(
        renew=validity / 8, attempt=validity / 8, election=validity / 8, validity=validity, pause=pause,
        wait=least * (1 + more), refresh=validity / 8, hysteresis=validity / 8, clock_rate_error=rate,
    )  # fmt: skip
    assume(abs(more) > 1e-6)
    refused = any(text.startswith("R2") for text in timing.broken())
    assert refused == (more < 0)
    if not refused:  # in true time: the candidate's clock runs fast, the holder's slow
        assert timing.wait / (1 + rate) >= validity / (1 - rate) + pause - 1e-6


def numbers(timing: LeaseTiming) -> dict[str, float]:
    """The page's symbols."""
    return {
        "R": timing.renew,
        "T": timing.attempt,
        "E": timing.election,
        "V": timing.validity,
        "P": timing.pause,
        "L": timing.wait,
        "r": timing.refresh,
        "H": timing.hysteresis,
        "rho": timing.clock_rate_error,
        "skew": 2.0,
        "operation_deadline": DrainSettings().operation_deadline.total_seconds(),
    }


def test_the_page_of_bounds_has_every_waiting_time_of_every_preset() -> None:
    names = {row[1].strip("`"): (row[0], row[3:]) for row in ROWS if row[1].strip("`") in LeaseTiming.model_fields}
    assert names.keys() == LeaseTiming.model_fields.keys()
    for name, (symbol, cells) in names.items():
        assert [float(cell) for cell in cells] == [getattr(PRESETS[preset], name) for preset in Preset]
        assert all(numbers(PRESETS[preset])[symbol] == getattr(PRESETS[preset], name) for preset in Preset)


def test_every_number_on_the_page_of_bounds_is_what_its_formula_gives() -> None:
    bounds = [row for row in ROWS if row[1].startswith("`") and len(row) == 8]
    assert len(bounds) >= 15
    for what, formula, *cells, _measured, _by in bounds:
        promised = [eval(formula.strip("`"), {}, numbers(PRESETS[preset])) for preset in Preset]
        assert [float(cell) for cell in cells] == pytest.approx(promised, abs=1e-9), what


@pytest.mark.parametrize("preset", list(Preset))
def test_the_silence_leaves_time_for_the_second_agent_to_speak_before_anything_runs_out(preset: Preset) -> None:
    t = PRESETS[preset]
    assert t.validity - t.silence >= t.election
    seen_late, own_renewal = t.renew + t.attempt, t.attempt
    assert seen_late + t.silence + own_renewal < t.validity
