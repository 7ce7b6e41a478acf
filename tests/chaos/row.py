"""What a row of the matrix is, and what it has to show."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from dcdr.model import TailResult
from lab import gates
from lab.load import Load
from lab.witness import Closing
from tests.integration.support import Stage


class End(StrEnum):
    """How the operation ended. An operation ends in no other way."""

    DONE = "done"
    AS_BEFORE = "as before"
    REFUSED = "refused"
    FAILED_OVER = "failed over"
    """The other side is active, and this one is left behind, closed, with a tail that was computed."""


@dataclass
class Shown:
    """What a row saw happen: how the fault was seen to fire, how the operation ended, which side is active now; and of
    a failover, what its loss report says: exactly that may be missing."""

    fired: str
    end: End
    active: str
    loss: TailResult | None = None


@dataclass
class Scene:
    """What a row acts in: the stage, with a load flowing on the side `here`."""

    stage: Stage
    load: Load
    here: str
    there: str
    closings: list[Closing] = field(default_factory=list)
    """What the witnesses are asked about."""


Play = Callable[[Scene], Awaitable[Shown]]


@dataclass(frozen=True)
class Row:
    """One fault and what must come of it.

    `play` arranges and injects the fault under load, asserts that it fired, and says what it saw; the runner then holds
    the estate to that: at rest with the right side active, users writing there, and the checker's verdict clean.
    `expect` are the ends that are allowed.
    """

    name: str
    play: Play
    expect: frozenset[End] = field(default_factory=lambda: frozenset({End.DONE}))
    rest_s: float = 90.0
    fence: str = gates.AUTHORIZER
    """The mode of the lab it is played on."""
    automatic: bool = False
    """It is played on a lab whose agents take the lease over by themselves."""
    witnessed: bool = False
    """Gates, load and a prober of both sides have to show that never two were writable."""
    spoils: bool = False
    """It leaves something behind that later rows would stumble over."""

    @property
    def kind(self) -> tuple[str, bool]:
        """Which of `KINDS` of labs it is played on."""
        return self.fence, self.automatic


KINDS = (*((mode, False) for mode in gates.MODES), (gates.AUTHORIZER, True))
"""(mode of the fence, whether agents take over by themselves)."""
