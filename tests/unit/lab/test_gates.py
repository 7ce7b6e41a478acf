"""The trace of the gates, read."""

from __future__ import annotations

import json
from pathlib import Path

from lab.gates import Change, as_table, changes

LINE = {
    "scope": "lab", "dc": "dc-a", "node": 1, "process": "broker", "users": "open", "mirror": "closed", "role": "ACTIVE",
    "epoch": 7, "reason": "marker", "mono_ns": 5_000_000_000, "wall_ms": 1, "agent": None, "detail": None,
}  # fmt: skip


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    trace = tmp_path / "gate.jsonl"
    assert list(changes(trace)) == []
    trace.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE)[:40])
    (only,) = changes(trace)
    assert (only.users, only.mirror, only.epoch, only.lines_lost) == ("open", "closed", 7, 0)


def test_the_table_counts_from_its_first_line() -> None:
    first = Change("1", "broker", "closed", "closed", "NONE", 7, "marker", 5_000_000_000)
    later = first._replace(users="open", role="ACTIVE", mono_ns=5_250_000_000)
    lines = list(as_table([("dc-a", first), ("dc-b", later)]))
    assert [line.split()[0] for line in lines[1:]] == ["0.000", "0.250"]
    assert lines[2].split()[1:] == ["dc-b", "1/broker", "open", "closed", "ACTIVE", "7", "marker"]
    assert len(list(as_table([]))) == 1
