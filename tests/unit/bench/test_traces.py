"""What agents, gates and JMH wrote, as numbers; the agent's own lines are those of a real keeper."""

import json
import logging
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from adapters.memory import MemoryWorld
from adapters.memory.ports import MemoryIntentStore, MemoryLeaseStore
from adapters.memory.store import WorldFile
from agent.keeper import Keeper
from bench.errors import BenchError
from bench.traces import Told, delay_ms, longest_gap, produce_costs, told, valid_s
from dcdr.bounds import PRESETS, Preset
from lab import gates
from lab.gates import Change

MS = 1_000_000
NODES = {("1", "broker"), ("1", "controller")}
CLOSED = Told("NONE", 7, 1000 * MS)


def change(at_ms: float, users: str, process: str = "broker", reason: str = "marker") -> Change:
    role = "ACTIVE" if users == "open" else "NONE"
    return Change("1", process, users, "closed", role, 7, reason, int(at_ms * MS))


async def test_what_an_agent_tells_its_brokers_is_read_from_its_own_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    MemoryWorld.create(tmp_path / "world")
    file, clock = WorldFile(tmp_path / "world"), [12.5]
    keeper = Keeper(
        "dc-a", "lab", MemoryLeaseStore(file), MemoryIntentStore(file), PRESETS[Preset.TEST], clock=lambda: clock[0]
    )
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            while await keeper.beat(True):
                pass
            clock[0] += 1
    log = tmp_path / "agent.log"
    log.write_text("".join(f"2026-11-21 10:00:00 INFO {one.name} {one.getMessage()}\n" for one in caplog.records))
    proven = Told("ACTIVE", 1, 12_500 * MS)
    assert list(told(log)) == [proven], "each change once, with its time; further renewals are no news"


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    log.write_text(
        "... scope lab: brokers of dc-b are told NONE, epoch 3, mono_ns=5\nsomething else\n"
        "... scope lab: brokers of dc-b are told STANDBY, epoch 3, mono_ns=17"
    )
    assert list(told(log)) == [Told("NONE", 3, 5)]


def test_a_closing_lasts_until_the_last_process_refuses() -> None:
    changes = [change(500, "open"), change(1003, "closed"), change(1009, "closed", "controller")]
    assert delay_ms(CLOSED, changes, NODES) == 9


def test_a_process_that_has_not_followed_keeps_the_closing_open() -> None:
    changes = [change(900, "closed", "controller"), change(1003, "closed")]
    assert delay_ms(CLOSED, changes, NODES) is None, "what was closed before the decision did not follow it"
    assert delay_ms(CLOSED, changes, set()) is None, "no process, no answer"


def test_a_later_line_about_the_same_state_does_not_lengthen_a_change() -> None:
    changes = [change(1003, "closed"), change(1004, "closed", "controller"), change(4000, "closed", reason="expired")]
    assert delay_ms(CLOSED, changes, NODES) == 4


def test_an_opening_looks_for_open_gates() -> None:
    opened = Told("ACTIVE", 7, 2000 * MS)
    changes = [change(1003, "closed"), change(2001, "closed", "controller", "unreachable")]
    assert delay_ms(opened, changes, NODES) is None
    changes += [change(2002, "open"), change(2006, "open", "controller")]
    assert delay_ms(opened, changes, NODES) == 6


def test_changes_are_read_as_the_authorizer_writes_them(tmp_path: Path) -> None:
    line = {
        "scope": "lab", "dc": "dc-a", "node": 1, "process": "broker", "users": "closed", "mirror": "closed",
        "role": "NONE", "epoch": 7, "reason": "marker", "mono_ns": 1002 * MS, "wall_ms": 5, "agent": None,
    }  # fmt: skip
    trace = tmp_path / "gate.jsonl"
    trace.write_text(f"{json.dumps(line)}\n{json.dumps(line | {'process': 'controller', 'mono_ns': 1007 * MS})}\n")
    changes = list(gates.changes(trace))
    assert delay_ms(CLOSED, changes, {(one.node, one.process) for one in changes}) == 7


def test_the_validity_is_found_among_the_metrics() -> None:
    text = (
        "# HELP dcdr_agent_marker_valid_seconds how long\n# TYPE dcdr_agent_marker_valid_seconds gauge\n"
        'dcdr_agent_marker_valid_seconds{scope="lab",dc="dc-a"} 7.832\ndcdr_agent_epoch{scope="lab",dc="dc-a"} 3\n'
    )
    assert valid_s(text) == 7.832
    with pytest.raises(BenchError, match="tells no"):
        valid_s("dcdr_agent_epoch 3\n")


def test_the_gap_of_a_fault_is_the_longest_that_ends_after_it_began() -> None:
    sent = [0.0, 9.0, 10.5, 13.9, 15.4]
    assert longest_gap(sent, 11.0) == pytest.approx(3.4), "what was before is not the fault's"
    assert longest_gap(sent, 14.0) == pytest.approx(1.5)
    with pytest.raises(BenchError, match="not renewed"):
        longest_gap(sent, 15.4)


def jmh(raw_of: dict[str, Sequence[Sequence[float]]], unit: str = "ns/op") -> list[dict[str, Any]]:
    """Results as JMH writes them, for two users and two benchmarks; only one of each is asked for."""
    found = []
    for (kind, raw), name, user in product(raw_of.items(), ("produceOneTopic", "fetchTenTopics"), ("app", "admin")):
        wanted = (name, user) == ("produceOneTopic", "app")
        found.append(
            {
                "benchmark": f"dcdr.authorizer.AuthorizeBenchmark.{name}",
                "params": {"authorizer": kind, "user": user},
                "primaryMetric": {"scoreUnit": unit, "rawData": raw if wanted else [[9e9]]},
            }
        )
    return found


def test_the_cost_of_a_produce_is_wrapped_minus_bare() -> None:
    bare, wrapped, added = produce_costs(jmh({"bare": [[200, 210], [190]], "wrapped": [[300, 340], [310]]}), "app")
    assert (bare.values, wrapped.values) == ((200, 210, 190), (300, 340, 310))
    assert (added.values, added.aim, added.met) == ((110,), 1000, True)


@pytest.mark.parametrize("found", [jmh({"bare": [[200]]}), jmh({"bare": [[1]], "wrapped": [[1]]}, "us/op"), []])
def test_a_cost_that_was_not_measured_is_said(found: list[dict[str, Any]]) -> None:
    with pytest.raises(BenchError, match="JMH measured"):
        produce_costs(found, "app")
