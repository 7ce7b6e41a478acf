"""A worker in which named steps do nothing: `DCDR_MUTANT=drain.prove python -m tests.integration.mutant_worker`.

Guards in other steps that would notice are silenced with it, unless the name ends with `!`. It is the product's worker
in everything else. What it gets wrong is what the checker has to notice.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio import activity

from activities import cut, mirror
from activities.step import ask
from dcdr.intent import Ask, Intent
from dcdr.model import LogEnds, StepInput, StepResult, TopicPartition, Verdict
from dcdr.ports import Directory
from worker import __main__, assembly
from workflows import steps


async def _not_compared(_target: object, ends: Mapping[TopicPartition, LogEnds], *_tails: object) -> Any:
    """What `mirror.close` asks before it writes the ledger, not asked: are the last records the source's?"""
    return dict.fromkeys(ends, Verdict.UNCOMPARED)


def _none_short(*_args: object) -> list[TopicPartition]:
    """What `mirror.start` asks before it starts, not asked: which partitions stand below their seeds?"""
    return []


SILENCED: Mapping[str, Callable[[], None]] = {
    "drain.prove": lambda: setattr(cut, "verdicts", _not_compared),
    "mirror.seed": lambda: setattr(mirror, "_short", _none_short),
}
"""Guards elsewhere in the product that would notice the missing step and stop."""


def idle(step: str, directory: Directory) -> Callable[..., Any]:
    """A step of this name that says it is done. Of `fence.close` the intent remains: no record without it is handed
    over."""

    @activity.defn(name=step)
    async def nothing(given: StepInput) -> StepResult:
        if step == steps.CLOSE.name:
            await ask(directory.scope(given.operation.scope), Intent(operation=given.operation, ask=Ask.CLOSE))
        return StepResult(started=datetime.now(UTC), took=timedelta(), entry=given.entry, note="MUTANT: did nothing")

    return nothing


def main() -> int:
    given = os.environ["DCDR_MUTANT"].split(",")
    missing = [step.removesuffix("!") for step in given]
    real = assembly.activities_of

    def mutated(directory: Directory, looked: assembly.Looked = lambda _: None) -> list[Callable[..., Any]]:
        known = {_name(step): step for step in real(directory, looked)}
        unknown = set(missing) - set(known)
        assert not unknown, f"no such step: {unknown}"
        return [
            *(step for name, step in known.items() if name not in missing),
            *(idle(name, directory) for name in missing),
        ]

    assembly.activities_of = mutated
    for step in given:
        SILENCED.get(step, lambda: None)()
    return __main__.main()


def _name(step: Callable[..., Any]) -> str:
    definition: Any = getattr(step, "__temporal_activity_definition")
    return str(definition.name)


if __name__ == "__main__":
    sys.exit(main())
