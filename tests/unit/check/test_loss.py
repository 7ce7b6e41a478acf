"""A loss report against both logs: one that is true passes, and every way in which it can be false is seen."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lab.check.judge import judge
from lab.check.loss import Claim, Loss
from lab.check.model import Demands, Kind, Outcome, Read, TopicPartition
from tests.unit.check.histories import COMPACTED, History, failed_over, where
from tests.unit.check.test_judge import FAST

PLAIN = ("orders", "clicks")


@FAST
@given(seed=st.integers(0, 10_000))
def test_a_true_report_passes_and_nothing_else_may_be_missing(seed: int) -> None:
    history, loss = failed_over(seed)
    verdict = judge(history.build(), Demands(switchovers=1), loss)
    assert not verdict.samples, verdict.samples
    assert verdict.exit_code == 0, verdict.vacuous
    assume(any(tp[0] in PLAIN for tp in loss.tails))
    assert judge(history.build(), Demands(switchovers=1)).exit_code == 1


def tails(history: History, loss: Loss, at_least: int = 1) -> list[tuple[TopicPartition, Claim]]:
    """Tails of topics that are not compacted."""
    return [(tp, claim) for tp, claim in sorted(loss.tails.items()) if tp[0] in PLAIN and claim.records >= at_least]


def with_tail(loss: Loss, tp: TopicPartition, claim: Claim | None) -> Loss:
    rest = {place: held for place, held in loss.tails.items() if place != tp}
    return replace(loss, tails=rest if claim is None else {**rest, tp: claim})


# --- each plant spoils one thing; None if this history has no room for it ---

Plant = Callable[[History, Loss, random.Random], Loss | None]


def leave_a_lost_record_out(history: History, loss: Loss, rng: random.Random) -> Loss | None:
    """The report begins one record too late."""
    if not (found := tails(history, loss, 2)):
        return None
    tp, claim = rng.choice(found)
    second = next(seen.offset for seen in history.logs["dc-a"][tp] if seen.offset > claim.first)
    number = next(seen.attempt for seen in history.logs["dc-a"][tp] if seen.offset == claim.first)
    assert number is not None
    history.attempts[number].outcome = Outcome.OK
    history.attempts[number].dc, history.attempts[number].partition = "dc-a", tp[1]
    history.attempts[number].offset = claim.first
    return with_tail(loss, tp, Claim(second, claim.last, claim.records - 1))


def leave_a_partition_out(history: History, loss: Loss, rng: random.Random) -> Loss | None:
    found = tails(history, loss)
    return with_tail(loss, rng.choice(found)[0], None) if found else None


def report_a_record_that_is_there(history: History, loss: Loss, rng: random.Random) -> Loss | None:
    """The report begins one record too early."""
    for tp, claim in tails(history, loss):
        before = [seen for seen in history.logs["dc-a"][tp] if seen.offset < claim.first]
        if before:
            return with_tail(loss, tp, Claim(before[-1].offset, claim.last, claim.records + 1))
    return None


def make_a_hole(history: History, loss: Loss, rng: random.Random) -> Loss | None:
    """A record in the middle never came to the new side; the report even names it, and all behind it that did come."""
    for tp, records in sorted(history.logs["dc-a"].items()):
        here = [seen.attempt for seen in history.logs["dc-b"][tp]]
        common = [seen for seen in records if seen.attempt in here]
        if tp[0] not in PLAIN or len(common) < 3:
            continue
        gone = common[-2]
        assert gone.attempt is not None
        place, index = where(history, "dc-b", gone.attempt)
        del history.logs["dc-b"][place][index]
        history.groups = [e for e in history.groups if not (isinstance(e, Read) and e.attempt == gone.attempt)]
        beyond = [seen for seen in records if seen.offset >= gone.offset]
        return with_tail(loss, tp, Claim(gone.offset, beyond[-1].offset, len(beyond)))
    return None


def name_the_wrong_partition(history: History, loss: Loss, rng: random.Random) -> Loss | None:
    for tp, claim in tails(history, loss):
        other = (tp[0], 1 - tp[1]) if tp[1] < 2 else None
        if other and other not in loss.tails:
            return with_tail(with_tail(loss, tp, None), other, claim)
    return None


def count_one_too_many(history: History, loss: Loss, rng: random.Random) -> Loss | None:
    if not (found := tails(history, loss)):
        return None
    tp, claim = rng.choice(found)
    return with_tail(loss, tp, claim._replace(records=claim.records + 1))


def end_where_nothing_is(history: History, loss: Loss, rng: random.Random) -> Loss | None:
    if not (found := tails(history, loss)):
        return None
    tp, claim = rng.choice(found)
    return with_tail(loss, tp, claim._replace(last=claim.last + 5))


def announce_too_little(history: History, loss: Loss, rng: random.Random) -> Loss | None:
    lost = sum(claim.records for tp, claim in loss.tails.items() if tp[0] not in COMPACTED)
    return replace(loss, bound=lost - 1) if lost else None


def double_after_the_failover(history: History, loss: Loss, rng: random.Random) -> Loss | None:
    """A mirror task that woke up late wrote a record once more."""
    records = next(records for tp, records in sorted(history.logs["dc-b"].items()) if tp[0] in PLAIN and records)
    records.append(records[0]._replace(offset=records[-1].offset + 1))
    return loss


def copy_the_tail_late(history: History, loss: Loss, rng: random.Random) -> Loss | None:
    """A mirror task that woke up after the opening brought a lost record after all, behind the new side's own."""
    if not (found := tails(history, loss)):
        return None
    tp, claim = rng.choice(found)
    seen = next(seen for seen in history.logs["dc-a"][tp] if seen.offset == claim.first)
    records = history.logs["dc-b"][tp]
    records.append(seen._replace(offset=records[-1].offset + 1 if records else 0))
    return loss


def lose_it_on_the_old_side_too(history: History, loss: Loss, rng: random.Random) -> Loss | None:
    """An acknowledged record that neither side has: no report can name it."""
    for tp, claim in tails(history, loss):
        for index, seen in enumerate(history.logs["dc-a"][tp]):
            attempt = history.attempts[seen.attempt] if seen.attempt is not None else None
            if seen.offset >= claim.first and attempt is not None and attempt.outcome is Outcome.OK:
                del history.logs["dc-a"][tp][index]
                return loss
    return None


PLANTS: dict[str, tuple[Plant, Kind]] = {
    "a lost record that the report leaves out": (leave_a_lost_record_out, Kind.MISSING),
    "... which the old side still has": (leave_a_lost_record_out, Kind.OLD_ONLY),
    "a partition that the report leaves out": (leave_a_partition_out, Kind.OLD_ONLY),
    "a record reported as lost that is there": (report_a_record_that_is_there, Kind.NOT_LOST),
    "a hole in the middle": (make_a_hole, Kind.HOLE),
    "the tail of the wrong partition": (name_the_wrong_partition, Kind.OLD_ONLY),
    "a wrong count": (count_one_too_many, Kind.MISREPORTED),
    "a wrong end": (end_where_nothing_is, Kind.MISREPORTED),
    "a bound that was too small": (announce_too_little, Kind.BEYOND_BOUND),
    "a record doubled after the failover": (double_after_the_failover, Kind.DUPLICATED),
    "a lost record that came late": (copy_the_tail_late, Kind.NOT_LOST),
    "an acknowledged record that is nowhere": (lose_it_on_the_old_side_too, Kind.MISSING),
}


@pytest.mark.parametrize("name", PLANTS)
@settings(FAST, max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_one_planted_falsehood_is_seen(name: str, seed: int) -> None:
    plant, kind = PLANTS[name]
    history, true = failed_over(seed)
    false = plant(history, true, random.Random(seed))
    assume(false is not None)
    verdict = judge(history.build(), Demands(), false)
    assert verdict.counts[kind] > 0, verdict.samples
    assert verdict.exit_code == 1


def test_there_is_a_plant_for_every_kind_that_a_report_brings() -> None:
    assert {Kind.NOT_LOST, Kind.HOLE, Kind.MISREPORTED, Kind.BEYOND_BOUND} <= {kind for _, kind in PLANTS.values()}


# --- what must not be called an anomaly ---


def test_groups_that_read_again_after_a_failover_are_counted_and_not_blamed() -> None:
    again = 0
    for seed in range(5):
        history, loss = failed_over(seed)
        verdict = judge(history.build(), Demands(switchovers=1), loss)
        assert verdict.counts[Kind.REREAD] == 0
        groups: Any = verdict.facts["groups"]
        again += sum(seen["re-read"] + seen["uncommitted again"] for seen in groups.values())
    assert again > 0


def test_records_without_an_answer_may_be_in_the_tail_and_are_counted() -> None:
    history, loss = failed_over(3)
    tp, claim = next((tp, claim) for tp, claim in tails(history, loss))
    number = next(seen.attempt for seen in history.logs["dc-a"][tp] if seen.offset == claim.last)
    assert number is not None
    history.attempts[number].outcome = Outcome.INFO
    verdict = judge(history.build(), Demands(), loss)
    assert verdict.clean, verdict.samples
    told: Any = verdict.facts["loss"]
    assert told["without an answer"] >= 1


def test_a_partition_that_diverged_proves_nothing() -> None:
    history, loss = failed_over(4)
    place = next(tp for tp in history.logs["dc-a"] if tp not in loss.tails)
    verdict = judge(history.build(), Demands(), replace(loss, unsettled={place: "diverged"}))
    assert verdict.exit_code == 3
    assert "is diverged on dc-a" in verdict.vacuous[0]


def test_rows_of_topics_that_nobody_judges_are_counted() -> None:
    history, loss = failed_over(5)
    verdict = judge(history.build(), Demands(), with_tail(loss, ("others", 0), Claim(7, 9, 3)))
    assert verdict.clean, verdict.samples
    told: Any = verdict.facts["loss"]
    assert told["records of topics that are not judged"] == 3


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"target": "dc-a", "source": "dc-b"}, "failover to dc-a, and dc-b is active"),
        ({"source": "dc-x"}, "no log of dc-x"),
    ],
)
def test_a_report_about_other_sides_is_refused(spoil: dict[str, str], said: str) -> None:
    history, loss = failed_over(6)
    with pytest.raises(ValueError, match=said):
        judge(history.build(), Demands(), replace(loss, **spoil))  # type: ignore[arg-type]


def test_the_side_left_behind_cannot_be_asked_to_be_complete() -> None:
    history, loss = failed_over(6)
    with pytest.raises(ValueError, match="cannot be asked to be complete"):
        judge(history.build(), Demands(standby_complete=True), loss)


# --- the file ---

ROW = {"topic": "orders", "partition": 1, "case": "tail", "first": 7, "last": 9, "records": 2, "bytes": 20, "note": ""}
RESULT: dict[str, Any] = {
    "scope": "lab",
    "source": "dc-a",
    "target": "dc-b",
    "records": 2,
    "bound": {"records": 30},
    "rows": [
        ROW,
        {**ROW, "partition": 2, "case": "behind", "first": None, "last": None, "records": 0},
        {**ROW, "partition": 3, "first": None, "last": None, "records": 0, "note": "offsets 3 to 5 were deleted"},
        {**ROW, "partition": 4, "case": "diverged", "records": 12},
    ],
}


def test_a_result_and_a_ledger_entry_are_read_alike(tmp_path: Path) -> None:
    entry = {k: v for k, v in RESULT.items() if k not in ("scope", "source", "target")}
    entry["operation"] = {"scope": "lab", "id": "fo-1", "source": "dc-a", "target": "dc-b"}
    for number, report in enumerate((RESULT, entry)):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(report))
        found = Loss.read(path)
        assert (found.source, found.target, found.bound) == ("dc-a", "dc-b", 30)
        assert found.tails == {("orders", 1): Claim(7, 9, 2)}
        assert found.unsettled == {("orders", 2): "behind", ("orders", 3): "tail", ("orders", 4): "diverged"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no loss report"),
        ("[]", "is no loss report"),
        ('{"rows": []}', "is no loss report"),
        (json.dumps({**RESULT, "records": 200}), "counts 200 records and lists 2: it is cut short"),
    ],
)
def test_a_file_that_is_no_whole_report_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        Loss.read(path)
    with pytest.raises(ValueError, match="cannot be read"):
        Loss.read(tmp_path / "nowhere")
