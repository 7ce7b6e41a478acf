"""The lease's waiting times, and the four inequalities without which they are unsafe or useless.

Symbols: R renew period, T one attempt's time-out, E the store's election gap, V how long a committed renewal may be
believed, from the moment it was *sent*, P the longest pause between a broker's permission and its append, rho the
clocks' rate error, L how long a candidate waits after it saw the record change, r how often a broker asks for its
marker, H how long trouble must last before an agent gives the lease up.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SECONDS = Field(gt=0, le=3600)


class Preset(StrEnum):
    """Sets of waiting times. The store needs its election gap in any of them; `test` is for tests on one machine."""

    FAST = "fast"
    STANDARD = "standard"
    CAREFUL = "careful"
    TEST = "test"


class LeaseTiming(BaseModel):
    """Waiting times in seconds. Raises at construction, with the inequality and the numbers, when they do not fit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    renew: float = SECONDS
    attempt: float = SECONDS
    election: float = SECONDS
    validity: float = SECONDS
    pause: float = SECONDS
    wait: float = SECONDS
    refresh: float = SECONDS
    hysteresis: float = SECONDS
    clock_rate_error: float = Field(default=0.001, ge=0, lt=0.1)

    @classmethod
    def of(cls, preset: Preset) -> LeaseTiming:
        """The waiting times of `preset`."""
        return PRESETS[preset]

    @property
    def silence(self) -> float:
        """How long an agent stands by without a sign of life of the one that acts for the same data center.

        A renew period and two attempts: from one commit to the next it is a renew period and an attempt, of a living
        agent that loses none. By R1 no less than the election gap is then left of what the other one had proven last,
        for a renewal of its own and the brokers' next question; with the presets also where the change was seen a renew
        period and an attempt late, because no watch showed it. None of this is about safety: where both think that it
        is their turn, the compare-and-swap decides, and the other one stands by.
        """
        return self.renew + 2 * self.attempt

    @model_validator(mode="after")
    def _holds(self) -> Self:
        if broken := self.broken():
            raise ValueError("; ".join(broken))
        return self

    def broken(self) -> list[str]:
        """Every inequality that does not hold, with its numbers and what to change."""
        r, t, e, v, p, w = self.renew, self.attempt, self.election, self.validity, self.pause, self.wait
        slow, fast = w * (1 - self.clock_rate_error), v * (1 + self.clock_rate_error) + p
        rules = (
            (
                v >= r + 2 * t + e,
                f"R1 validity >= renew + 2 attempt + election: {v:g} < {r:g} + 2 * {t:g} + {e:g} = "
                f"{r + 2 * t + e:g} s. One lost attempt and one election would close the gate: raise validity, "
                "or lower the others",
            ),
            (
                slow >= fast,
                f"R2 wait (1 - rho) >= validity (1 + rho) + pause: {slow:g} < {fast:g} s, with wait {w:g}, "
                f"validity {v:g}, pause {p:g}, rho {self.clock_rate_error:g}. The lease could move before the old gate "
                "has closed: raise wait, or lower validity or pause",
            ),
            (
                self.refresh <= v / 4,
                f"R3 refresh <= validity / 4: {self.refresh:g} > {v / 4:g} s. A broker that misses some answers would "
                "close: lower refresh",
            ),
            (
                self.hysteresis + r < w,
                f"R4 hysteresis + renew < wait: {self.hysteresis:g} + {r:g} >= {w:g} s. An unfit holder would lose the "
                "lease instead of handing it over: lower hysteresis, or raise wait",
            ),
        )
        return [text for holds, text in rules if not holds]


PRESETS: dict[Preset, LeaseTiming] = {
    Preset.FAST: LeaseTiming(renew=1.5, attempt=1, election=3, validity=9, pause=4, wait=14, refresh=1.5, hysteresis=6),
    Preset.STANDARD: LeaseTiming(
        renew=4, attempt=2, election=5, validity=18, pause=8, wait=30, refresh=3, hysteresis=10
    ),
    Preset.CAREFUL: LeaseTiming(
        renew=8, attempt=3, election=8, validity=36, pause=18, wait=60, refresh=6, hysteresis=20
    ),
    Preset.TEST: LeaseTiming(
        renew=0.4, attempt=0.5, election=3, validity=5, pause=1, wait=7, refresh=0.3, hysteresis=2
    ),
}
