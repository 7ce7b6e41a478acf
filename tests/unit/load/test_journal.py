"""The outcome log survives the death of its writer, and a damaged one is refused, not guessed at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.check.model import Committed, Outcome, Read
from lab.check.runs import read_runs
from lab.load.journal import JournalError, RunInfo, RunLock, Writer, read_lines

CLUSTERS = {"idA": "dc-a", "idB": "dc-b"}


def run_info(folder: Path, run: str = "r1", **topics: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    RunInfo(run, 1, 1, topics or {"orders": "keyed"}, {"p0": "follow"}, ("live",), "good", 100.0, 200, 1).write(folder)


def producer(folder: Path, lines: list[tuple[object, ...]], run: str = "r1", role: str = "follow") -> None:
    writer = Writer(folder / "producer-p0.tsv", {"run": run, "producer": "p0", "role": role})
    for line in lines:
        writer.line(*line)
    writer.close()


def sent(number: int, txn: object = "", key: str = "k") -> tuple[object, ...]:
    return ("S", number, "orders", key, number, 1000 + number, 11, 22, 10 * number, txn)


def test_lines_that_were_flushed_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    code = (
        "import sys, time; from pathlib import Path; from lab.load.journal import Writer\n"
        f"w = Writer(Path({str(path)!r}), {{}}); w.line('S', 1); w.flush(); w.line('S', 2)\n"
        "print('written', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        child.send_signal(signal.SIGKILL)
    assert list(read_lines(path)) == [["S", "1"]]


def test_a_line_that_was_torn_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("#{}\nS\t1\nS\t2\tor")
    assert list(read_lines(path)) == [["S", "1"]]


def test_a_journal_is_never_overwritten(tmp_path: Path) -> None:
    Writer(tmp_path / "x.tsv", {}).close()
    with pytest.raises(FileExistsError):
        Writer(tmp_path / "x.tsv", {})


def test_outcomes_are_read_as_the_producer_was_told(tmp_path: Path) -> None:
    run_info(tmp_path)
    producer(
        tmp_path,
        [
            ("I", 1, "idA", 5, 5),
            *[sent(number) for number in range(1, 5)],
            ("A", 1, 1, 2, 77, 1001, 15),
            ("F", 2, "TOPIC_AUTHORIZATION_FAILED", 25),
            ("U", 3, "_MSG_TIMED_OUT", 35),
        ],
    )
    attempts = list(read_runs([tmp_path], CLUSTERS).attempts.values())
    assert [a.outcome for a in attempts] == [Outcome.OK, Outcome.FAIL, Outcome.INFO, Outcome.INFO]
    assert (attempts[0].dc, attempts[0].partition, attempts[0].offset) == ("dc-a", 2, 77)
    assert attempts[1].code == "TOPIC_AUTHORIZATION_FAILED"


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (("C", 1, 1, 90), Outcome.OK),
        (("X", 1, "on-purpose", 90), Outcome.FAIL),
        (("Q", 1, "_TIMED_OUT", 90), Outcome.INFO),
        (None, Outcome.INFO),
    ],
)
def test_a_transaction_decides_about_its_records(
    tmp_path: Path, end: tuple[object, ...] | None, outcome: Outcome
) -> None:
    run_info(tmp_path)
    lines: list[tuple[object, ...]] = [("I", 1, "idA", 5, 5), sent(1, 1), sent(2, 1)]
    lines += [("A", 1, 1, 0, 7, 1001, 15), ("A", 2, 1, 0, 8, 1002, 15)]
    producer(tmp_path, [*lines, end] if end else lines)
    assert {a.outcome for a in read_runs([tmp_path], CLUSTERS).attempts.values()} == {outcome}


def test_a_group_s_events_name_sides_and_attempts(tmp_path: Path) -> None:
    run_info(tmp_path)
    producer(tmp_path, [sent(1)])
    writer = Writer(tmp_path / "member-live-0.tsv", {"run": "r1", "group": "live", "member": "live-0"})
    writer.line("I", 1, "idB", 1, 1)
    writer.line("P", 1, "orders", 0, 3, 1)
    writer.line("R", 1, "orders", 0, 3, "r1.p0.1", 40)
    writer.line("R", 1, "orders", 0, 4, "zz.p0.1", 41)
    writer.line("K", 1, "orders", 0, 5, 50)
    writer.close()
    runs = read_runs([tmp_path], CLUSTERS)
    number = next(iter(runs.attempts))
    assert runs.groups == [
        Read(40, "live", "dc-b", "orders", 0, 3, number),
        Read(41, "live", "dc-b", "orders", 0, 4, None),
        Committed(50, "live", "dc-b", "orders", 0, 5),
    ]
    assert runs.names.label(number) == "r1.p0.1"


def test_a_run_that_still_writes_is_refused(tmp_path: Path) -> None:
    run_info(tmp_path)
    lock = RunLock(tmp_path)
    assert lock.take()
    with pytest.raises(JournalError, match="still running"):
        read_runs([tmp_path], CLUSTERS)
    lock.release()
    read_runs([tmp_path], CLUSTERS)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no run"):
        read_runs([tmp_path], CLUSTERS)


def test_a_cluster_nobody_named_is_refused(tmp_path: Path) -> None:
    run_info(tmp_path)
    producer(tmp_path, [("I", 1, "idC", 5, 5)])
    with pytest.raises(JournalError, match="idC"):
        read_runs([tmp_path], CLUSTERS)


@pytest.mark.parametrize("line", [("A", 9, 1, 0, 7, 1001, 15), ("S", 1), ("S", "x", "orders", "", 1, 1, 1, 1, 1, "")])
def test_a_damaged_journal_is_refused(tmp_path: Path, line: tuple[object, ...]) -> None:
    run_info(tmp_path)
    producer(tmp_path, [line])
    with pytest.raises(JournalError, match="damaged"):
        read_runs([tmp_path], CLUSTERS)


def test_two_runs_keep_their_attempts_apart(tmp_path: Path) -> None:
    for run in ("r1", "r2"):
        run_info(tmp_path / run, run)
        producer(tmp_path / run, [sent(1)], run)
    runs = read_runs([tmp_path / "r1", tmp_path / "r2"], CLUSTERS)
    assert sorted(map(runs.names.label, runs.attempts)) == ["r1.p0.1", "r2.p0.1"]
