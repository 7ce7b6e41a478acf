"""Ratios, aims and tables: pure, from the series to text or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.model import FAILOVERS, Contestant, Figure, Measured, Series, Trial
from lab import gates

Results = Mapping[Contestant, Series]
Trials = Mapping[Trial, Measured]

P50_AIM_MS, WORST_AIM_MS, STEP_AIM_MS, RUNBOOK_AIM = 250.0, 600.0, 15.0, 20.0
NAMES = {
    Contestant.WORKFLOW: "workflow (a)",
    Contestant.FLOOR: "bare script (b)",
    Contestant.RUNBOOK: "runbook (c)",
    Contestant.NAIVE: "(a), naive client",
}


@dataclass(frozen=True)
class Aim:
    """One figure of the table. `met` is None where nothing was aimed at."""

    name: str
    value: float
    unit: str
    aim: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        return "" if self.met is None else ("met" if self.met else "NOT MET")


@dataclass(frozen=True)
class Share:
    """A step's median part of the outage, in ms of those a producer felt, and what it took as a whole."""

    name: str
    title: str
    whole_ms: float
    effect_ms: float | None
    inside_ms: float
    share: float


def steps_inside(series: Series) -> int:
    """How many steps stand inside the outage by the workflow's own list."""
    return max((sum(step.in_outage for step in run.steps) for run in series.runs), default=0)


def ratios(results: Results, rival: Series | None = None) -> list[Aim]:
    """Everything that compares, as far as the series are there. `rival`: the workflow's with the other fence."""
    found = []
    a, b, c = (results.get(one) for one in (Contestant.WORKFLOW, Contestant.FLOOR, Contestant.RUNBOOK))
    if a and c:
        value = c.p50 / a.p50
        found.append(Aim("runbook / workflow (c/a)", value, "times", f"at least {RUNBOOK_AIM:g}", value >= RUNBOOK_AIM))
    if a and b:
        steps = steps_inside(a)
        each = (a.p50 - b.p50) / steps
        found.append(Aim("workflow / bare script (a/b)", a.p50 / b.p50, "times"))
        found.append(
            Aim(
                f"Temporal's part: (a - b) for each of {steps} steps",
                each,
                "ms",
                f"at most {STEP_AIM_MS:g}",
                each <= STEP_AIM_MS,
            )
        )
    if a and rival:
        of = {series.wanted.fence: series.p50 for series in (a, rival)}
        value = of[gates.AUTHORIZER] / of[gates.ACL]
        found.append(Aim("workflow: our gates / ACLs", value, "times", "at most 1", value <= 1))
    return found


def absolutes(results: Results) -> list[Aim]:
    """The workflow's own outage against its aims: this machine's, not a promise."""
    a = results.get(Contestant.WORKFLOW)
    if a is None:
        return []
    return [
        Aim("outage of the workflow, p50", a.p50, "ms", f"under {P50_AIM_MS:g}", a.p50 < P50_AIM_MS),
        Aim("outage of the workflow, worst", a.worst, "ms", f"under {WORST_AIM_MS:g}", a.worst < WORST_AIM_MS),
    ]


def shares(series: Series) -> list[Share]:
    """Medians of each step that touches the outage of any run, in their order; last what no step covers."""
    titles: dict[str, str] = {}
    for run in series.runs:
        for step in sorted(run.steps, key=lambda step: step.started_ns):
            if run.inside_ms(step) > 0:
                titles.setdefault(step.name, step.title)
    found = []
    for name, title in titles.items():
        whole, effect, inside, part = [], [], [], []
        for run in series.runs:
            for step in run.steps:
                if step.name == name:
                    whole.append(step.ms)
                    inside.append(run.inside_ms(step))
                    part.append(run.inside_ms(step) / run.outage_ms)
                    effect += [] if step.effect_ms is None else [step.effect_ms]
        found.append(
            Share(name, title, median(whole), median(effect) if effect else None, median(inside), median(part))
        )
    rest = [run.uncovered_ms for run in series.runs]
    parts = [run.uncovered_ms / run.outage_ms for run in series.runs]
    found.append(
        Share("between steps", "from step to step, and clients", median(rest), None, median(rest), median(parts))
    )
    return found


def tables(results: Results, machine: str, trials: Trials, rival: Series | None = None) -> str:
    """What a person reads."""
    said = f"times are this machine's ({machine}) and of this hour; the ratios are what to compare"
    lines = [*(_outages(results, rival) if results else ()), *(_promises(trials) if trials else ()), "", said]
    return "\n".join(lines)


def _promises(trials: Trials) -> list[str]:
    """What was measured besides; the worst value is what is held against the aim."""
    what = "failovers" if set(trials) <= set(FAILOVERS) else "lease and gates"
    lines = ["", f"{what:<76}{'n':>5}{'p50':>10}{'worst':>10}"]
    for trial, measured in trials.items():
        lines.append(f"{trial}, load average before {measured.load_average:g}")
        for one in measured.figures:
            text = f"  {one.name + ', ' + one.unit:<74}{len(one.values):>5}{one.p50:>10,.2f}{one.worst:>10,.2f}"
            lines.append(text + _aimed(one))
    return lines


def _aimed(figure: Figure) -> str:
    if figure.met is None:
        return ""
    median = "" if figure.p50_aim is None else f"p50 {figure.p50_aim:g}, "
    return f"  aim: {median}at most {figure.aim:g}: {'met' if figure.met else 'NOT MET'}"


def _outages(results: Results, rival: Series | None) -> list[str]:
    lines = ["", f"{'producer-visible outage':<28}" + "".join(f"{NAMES[one]:>19}" for one in results)]

    def row(name: str, cells: Iterable[str]) -> None:
        lines.append(f"{name:<28}" + "".join(f"{cell:>19}" for cell in cells))

    every = list(results.values())
    row("fence", (one.wanted.fence for one in every))
    row("p50, ms", (f"{one.p50:,.0f}" for one in every))
    row("worst, ms", (f"{one.worst:,.0f}" for one in every))
    row("slowest producer, p50, ms", (f"{one.slowest_p50:,.0f}" for one in every))
    row("slowest producer, worst, ms", (f"{one.slowest_worst:,.0f}" for one in every))
    row("switchovers (discarded)", (f"{len(one.runs)} ({len(one.discarded)})" for one in every))
    row("acknowledged records", (f"{one.acknowledged:,}" for one in every))
    row("checker", (one.verdict for one in every))
    row("load average before", (f"{one.load_average:g}" for one in every))
    lines.append("")
    for aim in (*ratios(results, rival), *absolutes(results)):
        value = f"{aim.value:,.1f}" if aim.value < 100 else f"{aim.value:,.0f}"
        text = f"{aim.name:<46}{value:>9} {aim.unit:<6}"
        lines.append(f"{text} aim: {aim.aim}: {aim.verdict}" if aim.aim else text.rstrip())
    for contestant, series in results.items():
        if contestant is Contestant.NAIVE:
            continue
        lines += [
            "",
            f"{NAMES[contestant] + ', median of each step':<44}{'ms':>8}{'effect':>8}{'inside':>8}{'share':>8}",
        ]
        for one in shares(series):
            effect = "" if one.effect_ms is None else f"{one.effect_ms:,.1f}"
            lines.append(f"  {one.name:<42}{one.whole_ms:>8,.1f}{effect:>8}{one.inside_ms:>8,.1f}{one.share:>7.0%}")
    lines += [
        "",
        "inside: the step's part of the outage; steps run side by side, so shares may add up to more than 100 %",
    ]
    return lines


def document(results: Results, machine: str, trials: Trials, rival: Series | None = None) -> dict[str, Any]:
    """What a program reads."""
    return {
        "machine": machine,
        "aims": [asdict(aim) for aim in (*ratios(results, rival), *absolutes(results))],
        "gates": {
            str(trial): {
                "figures": [
                    {**one.model_dump(), "p50": one.p50, "worst": one.worst, "met": one.met} for one in measured.figures
                ],
                "fence": measured.wanted.fence,
                "started": measured.started,
                "load_average": measured.load_average,
            }
            for trial, measured in trials.items()
        },
        "series": {
            str(contestant): {
                "outage_ms": {"p50": series.p50, "worst": series.worst, "all": series.outages},
                "slowest_producer_ms": {"p50": series.slowest_p50, "worst": series.slowest_worst},
                "runs": len(series.runs),
                "discarded": list(series.discarded),
                "verdict": series.verdict,
                "anomalies": series.anomalies,
                "acknowledged": series.acknowledged,
                "fence": series.wanted.fence,
                "started": series.started,
                "load_average": series.load_average,
                "steps": [asdict(share) for share in shares(series)],
            }
            for contestant, series in results.items()
        },
    }
