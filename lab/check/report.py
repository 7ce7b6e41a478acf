"""A verdict as a person or a machine reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lab.check.model import MEANING, Kind
from lab.check.run import Checked

WORDS = {0: "clean", 1: "anomalies", 3: "nothing proven"}


def as_json(checked: Checked) -> dict[str, Any]:
    verdict = checked.verdict
    return {
        "verdict": WORDS[verdict.exit_code],
        "exit_code": verdict.exit_code,
        "active": checked.active,
        "counts": {kind.value: verdict.counts[kind] for kind in Kind},
        "first": [{**anomaly._asdict(), "kind": anomaly.kind.value} for anomaly in verdict.samples],
        "not_proven": verdict.vacuous,
        "facts": verdict.facts,
        "outages_s": [round(move.seconds, 4) for move in checked.moves],
        "flowing": [move.flowing for move in checked.moves],
        "took_s": dict(checked.seconds),
    }


def as_table(checked: Checked) -> Iterator[str]:
    """Lines for a terminal; the last one is the verdict."""
    verdict = checked.verdict
    facts = verdict.facts
    yield f"active side     {checked.active}"
    for name in ("acknowledged", "refused", "attempts", "stretches", "records", "foreign records"):
        yield f"{name:<15} {_plain(facts.get(name))}"
    if "loss" in facts:
        yield f"{'reported lost':<15} {_plain(facts['loss'])}"
    for move in checked.moves:
        steady = "" if move.flowing else "  (traffic was not steady before it)"
        yield f"outage          {move.seconds * 1000:.0f} ms{steady}"
    groups = facts.get("groups")
    if isinstance(groups, dict):
        for group, seen in groups.items():
            yield f"group           {group}: {_plain(seen)}"
    yield ""
    for kind in Kind:
        yield f"{kind.value:<16} {verdict.counts[kind]:>8}  {MEANING[kind]}"
    if verdict.samples:
        yield ""
        yield "first offending records:"
        for anomaly in verdict.samples:
            yield f"  {anomaly}"
    for reason in verdict.vacuous:
        yield f"not proven: {reason}"
    yield ""
    yield f"verdict: {WORDS[verdict.exit_code]}"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items()) or "-"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "-"
    return str(value)
