"""What a bench measures and keeps on disk."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import BenchError


class Contestant(StrEnum):
    """Who switches over. NAIVE is the workflow again, under clients that use their library's defaults."""

    WORKFLOW = "workflow"
    FLOOR = "floor"
    RUNBOOK = "runbook"
    NAIVE = "naive"

    @property
    def must_be_clean(self) -> bool:
        """Whether the checker's verdict decides. A runbook may set a lagging group back; what it did is printed."""
        return self is not Contestant.RUNBOOK


class Trial(StrEnum):
    """What is measured without a switchover: of the lease and the gates, and of failovers."""

    GATE = "gate"
    TAKEOVER = "takeover"
    RENEWAL = "renewal"
    AGENT = "agent"
    AUTHORIZER = "authorizer"
    SITE_KILLED = "site-killed"
    SITE_CUT = "site-cut"


FAILOVERS = (Trial.SITE_KILLED, Trial.SITE_CUT)


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StepTime(_Kept):
    """One step as it was timed. Times are Unix nanoseconds; `effect_ms` is the step's own time without Temporal."""

    name: str
    title: str
    started_ns: int
    ended_ns: int
    effect_ms: float | None = None
    in_outage: bool = False

    @property
    def ms(self) -> float:
        return (self.ended_ns - self.started_ns) / 1e6


class Run(_Kept):
    """One switchover that counts.

    `outage_ms`: last acknowledgement on the source to the first on the target, any producer. `slowest_ms`: the longest
    such time of a single producer. `first_ns`, `last_ns`: the two moments, Unix nanoseconds.
    """

    target: str
    outage_ms: float
    slowest_ms: float
    last_ack_ns: int
    first_ack_ns: int
    steps: tuple[StepTime, ...]

    def inside_ms(self, step: StepTime) -> float:
        """How much of the outage the step covers."""
        return max(0, min(step.ended_ns, self.first_ack_ns) - max(step.started_ns, self.last_ack_ns)) / 1e6

    @property
    def uncovered_ms(self) -> float:
        """What of the outage no step covers: the way from step to step, and the clients' own time."""
        covered, reached = 0, self.last_ack_ns
        for step in sorted(self.steps, key=lambda step: step.started_ns):
            start, end = max(step.started_ns, reached), min(step.ended_ns, self.first_ack_ns)
            if end > start:
                covered, reached = covered + end - start, end
        return (self.first_ack_ns - self.last_ack_ns - covered) / 1e6


class Wanted(_Kept):
    """What a series is asked for, and on what kind of lab: results of other numbers are other results."""

    switchovers: int
    rate: float
    size: int
    brokers: int
    fence: str


class _Result(_Kept):
    """What is kept of one series, and under which circumstances it was measured."""

    code: str
    wanted: Wanted
    started: str
    load_average: float

    @property
    def name(self) -> str:
        raise NotImplementedError

    def written(self, folder: Path) -> Self:
        """Keep it in `folder`."""
        path = folder / f"{self.name}.json"
        fresh = path.with_suffix(".new")
        fresh.write_text(self.model_dump_json(indent=1) + "\n")
        fresh.replace(path)
        return self

    @classmethod
    def read(cls, folder: Path, name: str) -> Self | None:
        """None where there is none. Raises: BenchError when the file cannot be read."""
        path = folder / f"{name}.json"
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise BenchError(
                f"{path} is not a result of this version ({error.error_count()} faults): remove it"
            ) from None


class Figure(_Kept):
    """All values of one thing that was measured. `aim`: the highest that the worst of them should be, `p50_aim`: that
    their median should be."""

    name: str
    unit: str
    values: tuple[float, ...]
    aim: float | None = None
    p50_aim: float | None = None

    @property
    def p50(self) -> float:
        return median(self.values)

    @property
    def worst(self) -> float:
        return max(self.values)

    @property
    def met(self) -> bool | None:
        """None where nothing was aimed at."""
        aims = [(self.worst, self.aim), (self.p50, self.p50_aim)]
        said = [value <= aim for value, aim in aims if aim is not None]
        return all(said) if said else None


class Measured(_Result):
    """What one trial found."""

    trial: Trial
    figures: tuple[Figure, ...]

    @property
    def name(self) -> str:
        return self.trial


class Series(_Result):
    """All runs of one contestant. `verdict` is the checker's word, `anomalies` its counts where they are not zero."""

    contestant: Contestant
    runs: tuple[Run, ...]
    discarded: tuple[str, ...]
    verdict: str
    anomalies: dict[str, int]
    acknowledged: int

    @property
    def name(self) -> str:
        return self.contestant

    @property
    def outages(self) -> list[float]:
        return [run.outage_ms for run in self.runs]

    @property
    def p50(self) -> float:
        return median(self.outages)

    @property
    def worst(self) -> float:
        return max(self.outages)

    @property
    def slowest_p50(self) -> float:
        return median(run.slowest_ms for run in self.runs)

    @property
    def slowest_worst(self) -> float:
        return max(run.slowest_ms for run in self.runs)

    @property
    def clean(self) -> bool:
        return self.verdict == "clean"
