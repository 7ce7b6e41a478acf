"""What counts as played, and that the table tells everything that is missing or wrong."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.chaos import results
from tests.chaos.matrix import MATRIX
from tests.chaos.results import Result
from workflows import steps

GOOD = Result("one", True, "pid 7 SIGKILL", "done", "clean", 12.3, "abc", "2026-01-01T00:00:00Z")
BAD = replace(GOOD, row="two", ok=False, verdict="anomalies", error="AssertionError: missing 3\nmore")


def test_the_last_result_of_a_row_counts_whichever_shard_played_it(tmp_path: Path) -> None:
    later = replace(BAD, row="one", at="2026-01-01T00:01:00Z")
    results.append(tmp_path, "shard-2-of-2", later)
    results.append(tmp_path, "shard-1-of-2", GOOD)
    assert results.load(tmp_path) == {"one": later}


def test_a_line_that_a_crash_cut_short_is_no_result(tmp_path: Path) -> None:
    results.append(tmp_path, "s", GOOD)
    with (tmp_path / "s.jsonl").open("a") as file:
        file.write(json.dumps(asdict(BAD))[:40])
    assert results.load(tmp_path) == {"one": GOOD}


def test_failed_and_missing_rows_are_played_again_and_good_ones_are_not() -> None:
    found = {"one": GOOD, "two": BAD}
    assert results.todo(["one", "two", "three"], found, again=False) == ["two", "three"]
    assert results.todo(["one", "two", "three"], found, again=True) == ["one", "two", "three"]


def test_the_table_has_every_row_and_says_why_one_failed() -> None:
    text = "\n".join(results.table(["one", "two", "three"], {"one": GOOD, "two": BAD}))
    assert "ok       one" in text
    assert "MISSING  three" in text
    assert "FAILED two\n  AssertionError: missing 3" in text
    assert results.summary(["one", "two", "three"], {"one": GOOD, "two": BAD}) == (1, 1, 1)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_hold_every_row_once(count: int) -> None:
    names = [row.name for row in MATRIX]
    dealt = [name for number in range(1, count + 1) for name in results.shard_of(names, number, count)]
    assert sorted(dealt) == sorted(names)


def test_changed_code_is_never_taken_for_what_was_played_and_a_document_makes_no_difference(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.invalid")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "docs").mkdir()
    for name in ("a.py", "docs/page.txt", "README.md"):
        (tmp_path / name).write_text("1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    clean = results.code(tmp_path)
    assert not clean.endswith(results.DIRTY)
    (tmp_path / "notes.txt").write_text("not a source\n")
    (tmp_path / "docs" / "page.txt").write_text("2\n")
    (tmp_path / "README.md").write_text("2\n")
    assert results.code(tmp_path) == clean
    git("commit", "-qam", "documents")
    assert results.code(tmp_path) == clean
    (tmp_path / "b.py").write_text("2\n")
    assert results.code(tmp_path) == clean + results.DIRTY
    (tmp_path / "b.py").unlink()
    (tmp_path / "a.py").write_text("3\n")
    assert results.code(tmp_path) == clean + results.DIRTY
    git("commit", "-qam", "second")
    assert results.code(tmp_path) not in {clean, clean + results.DIRTY}


def test_the_matrix_kills_before_and_after_every_step_and_aborts_before_every_step_to_the_handover() -> None:
    names = [row.name for row in MATRIX]
    assert len(names) == len(set(names))
    for step in steps.SWITCHOVER:
        assert f"kill -9 before and after {step.name}" in names
    for step in steps.TO_THE_HANDOVER[:-1]:
        assert f"abort before {step.name}" in names
