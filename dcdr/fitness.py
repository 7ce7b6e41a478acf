"""When a data center is fit to be active: trouble counts only when it lasts, and a first look must have been good."""

from __future__ import annotations

from dataclasses import dataclass, replace

NEVER = float("-inf")


@dataclass(frozen=True)
class Fitness:
    """`well`: when the last good look began; `trouble`: what the last look found. Seconds, monotonic."""

    well: float = NEVER
    trouble: tuple[str, ...] = ("not looked at yet",)

    def looked(self, began: float, trouble: tuple[str, ...]) -> Fitness:
        """After a look that began at `began`."""
        return replace(self, trouble=trouble) if trouble else Fitness(began, ())

    def fit(self, now: float, hysteresis: float) -> bool:
        """Whether the last good look is not older than `hysteresis` seconds; looks that hang grow old like bad ones."""
        return now - self.well < hysteresis
