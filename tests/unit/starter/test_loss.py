"""A loss report as people read it: in a terminal and in the Temporal UI."""

from __future__ import annotations

from datetime import UTC, datetime

from dcdr.model import EntryRef, LossBound, LostRows, TailCase, TailResult
from lab.check.loss import Claim, Loss
from starter.loss import loss_table
from tests.unit.starter.test_cli import dcdr
from workflows.tail import details

ROW = LostRows(
    topic="orders",
    partition=3,
    case=TailCase.TAIL,
    first=100,
    last=141,
    records=40,
    bytes=8000,
    first_at=datetime(2026, 11, 21, 3, 0, 0, tzinfo=UTC),
    last_at=datetime(2026, 11, 21, 3, 0, 2, tzinfo=UTC),
)


def result(rows: int = 1, bound: int | None = 90) -> TailResult:
    return TailResult(
        scope="lab",
        operation_id="fo-1",
        source="dc-a",
        target="dc-b",
        entry=EntryRef(key="lab/fo-1/loss/abc", digest="abc"),
        cases={TailCase.NONE: 50, TailCase.TAIL: rows},
        records=40 * rows,
        bytes=8000 * rows,
        bound=LossBound(records=bound),
        rows=tuple(ROW.model_copy(update={"partition": 3 + n}) for n in range(min(rows, 100))),
    )


def test_the_table_has_totals_and_every_row() -> None:
    text = loss_table(result())
    assert "dc-a to dc-b: 40 records lost, 8000 bytes (announced: at most 90)" in text
    assert "50 none, 1 tail, 0 behind, 0 diverged" in text
    for cell in ("orders-3", "100", "141", "2026-11-21 03:00:02"):
        assert cell in text
    assert "announced: nobody knew how many" in loss_table(result(bound=None))
    assert "... and 20 more partitions" in loss_table(result(120))


def test_the_ui_shows_the_first_rows_and_where_the_rest_is() -> None:
    text = details(result(30))
    assert "**1200 records lost**" in text
    assert text.count("orders-") == 20
    assert "and 10 more: `dcdr loss lab`" in text
    assert "the bound said unknown" in details(result(bound=None))


def test_what_is_printed_as_json_is_what_the_checker_reads() -> None:
    """Neither imports the other: this holds them together."""
    found = Loss.from_json(result(2).model_dump(mode="json"))
    assert found.tails == {("orders", 3): Claim(100, 141, 40), ("orders", 4): Claim(100, 141, 40)}
    assert (found.source, found.target, found.bound) == ("dc-a", "dc-b", 90)


def test_without_temporal_the_report_cannot_be_had() -> None:
    assert dcdr("loss", "lab").returncode == 6
    assert dcdr("loss", "No_Scope").returncode == 2
