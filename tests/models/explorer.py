"""Breadth-first search over every state a model can reach; the first bad one is shown with the shortest way to it."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

S = TypeVar("S")
LIMIT = 500_000


@dataclass(frozen=True)
class Found:
    """What a search saw: `path` names the steps to the first violation `what`; empty when there is none."""

    states: int
    what: str = ""
    path: tuple[str, ...] = ()

    @property
    def safe(self) -> bool:
        return not self.what

    def __str__(self) -> str:
        if self.safe:
            return f"safe in all of {self.states} states"
        steps = "\n".join(f"  {number}. {step}" for number, step in enumerate(self.path, 1))
        return f"after {self.states} states: {self.what}\n{steps}"

    def assert_safe(self) -> None:
        """Raises: AssertionError with the way to a violation, or when the search saw next to nothing."""
        print(self)
        assert self.safe, str(self)
        assert self.states > 1000, "the model hardly moved"

    def assert_tells(self, says: str, longest: int = 25) -> None:
        """Raises: AssertionError unless it found a violation that `says` so, by a way that can be read."""
        print(self)
        assert not self.safe
        assert says in self.what
        assert 3 <= len(self.path) <= longest, "a counterexample is there to be read"


def explore(
    start: S,
    steps: Callable[[S], Iterable[tuple[str, S]]],
    wrong: Callable[[S], str],
    key: Callable[[S], Hashable],
    limit: int = LIMIT,
) -> Found:
    """Search all states that `steps` leads to from `start`, until `wrong` names what is wrong with one.

    `key`: states of the same key behave alike, and only the first is looked into. Raises: AssertionError past `limit`
    states: a search that was cut short proves nothing.
    """
    came: dict[Hashable, tuple[Hashable, str] | None] = {key(start): None}
    waiting = deque([(start, key(start))])
    gc.disable()  # states know nothing of each other, and to look through all that are kept takes a fifth of the time
    try:
        while waiting:
            state, here = waiting.popleft()
            for name, after in steps(state):
                there = key(after)
                if there in came:
                    continue
                came[there] = (here, name)
                if what := wrong(after):
                    return Found(len(came), what, _way(came, there))
                waiting.append((after, there))
            assert len(came) <= limit, f"more than {limit} states: bound the model"
        return Found(len(came))
    finally:
        gc.enable()


def _way(came: dict[Hashable, tuple[Hashable, str] | None], last: Hashable) -> tuple[str, ...]:
    names: list[str] = []
    while (step := came[last]) is not None:
        last, name = step
        names.append(name)
    return tuple(reversed(names))
