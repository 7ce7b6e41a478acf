"""`make test` and `make check`: set up, build, check, run the suites, and tell at the end where the time went.

Two lanes run side by side at first. One builds the servers, which takes all that two cores can give, and then tests
each adapter against them, which mostly waits; what it prints comes when it is over. The other begins with what needs no
servers, style, types, arrows, unit and workflow tests, and leaves what computes most, the authorizer's tests and the
models, for the time when the servers are built. The shared lab has the machine to itself: with a second lab beside it,
a row missed its bound. Every phase runs even when an earlier one failed, except those that need the servers when these
could not be built, so that one run shows all that is wrong.

Runs on the system's python3, before there is a virtual environment. Exit codes: 0 all is well, 1 something is
not, 2 usage.
"""

import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
SLOWEST = 15
DEADLINE_S = {"setup": 20 * 60, "servers": 60 * 60, "check": 10 * 60, "suite": 40 * 60}
"""Seconds before a phase counts as hung. The cold build of kube-apiserver on a busy machine is what needs most."""
OPTIONS = {
    "tests/unit": ["-q", "-n", "2"],
    "tests/replay": ["-q"],
    "tests/models": ["-q", "-n", "2"],
    "tests/workflows": ["-q", "-n", "4", "--dist", "worksteal"],
    "tests/integration": ["-v", "-m", "not thorough"],
}
"""A workflow test mostly waits (for a heartbeat that will not come), so four run side by side on two cores."""
WITH_SERVERS = "tests/contract"
WITH_THE_LAB = "tests/integration"


@dataclass
class Phase:
    """One line of the closing table; `start` and `end` in seconds since the run began."""

    name: str
    start: float
    end: float
    ok: bool
    note: str = ""


@dataclass
class Run:
    """What happened so far."""

    began: float = field(default_factory=time.monotonic)
    phases: list[Phase] = field(default_factory=list)
    tests: list[tuple[float, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"passed": 0, "failed": 0, "skipped": 0})
    beside: threading.local = field(default_factory=threading.local)
    """`beside.lane` is set in a thread whose phases are told when they are over."""

    def do(self, name: str, command: Sequence[str | Path], deadline_s: float, note: str = "") -> Phase:
        """Run one command and note how it went; its output is passed through, in a lane beside at its end."""
        start = self.now()
        if getattr(self.beside, "lane", False):
            with tempfile.TemporaryFile("w+", errors="replace") as output:
                ok = _succeeds(command, deadline_s, output)
                output.seek(0)
                print(f"\n=== {name} (beside)\n{output.read()}", flush=True)
        else:
            print(f"\n=== {name}", flush=True)
            ok = _succeeds(command, deadline_s)
        return self.add(Phase(name, start, self.now(), ok, note))

    def add(self, phase: Phase) -> Phase:
        self.phases.append(phase)
        if not phase.ok:
            print(f"=== {phase.name} FAILED", flush=True)
        return phase

    def wait_for(self, what: str, wait: Callable[[], object]) -> None:
        """Wait, and note for how long."""
        start = self.now()
        wait()
        self.add(Phase(f"waiting for {what}", start, self.now(), True))

    def now(self) -> float:
        return time.monotonic() - self.began

    def suite(self, folder: str) -> None:
        """Run one suite of tests. A folder without a test file is told as such; one whose tests vanish fails."""
        files = sorted((ROOT / folder).rglob("test_*.py"))
        if not files:
            self.add(Phase(folder, self.now(), self.now(), True, "no test files"))
            return
        with tempfile.TemporaryDirectory() as scratch:
            report = Path(scratch, "report.xml")
            phase = self.do(
                folder,
                [BIN / "pytest", *OPTIONS.get(folder, ["-v"]), folder, f"--junitxml={report}"],
                DEADLINE_S["suite"],
            )
            phase.note = self._count(report)

    def junit(self) -> None:
        """Run the authorizer's own tests, outside the tree."""
        with tempfile.TemporaryDirectory() as scratch:
            pom, quiet = ROOT / "authorizer" / "pom.xml", "-Dmaven.test.redirectTestOutputToFile=true"
            maven = ["mvn", "-B", "-q", "-f", str(pom), "verify", f"-Ddcdr.build={scratch}", quiet]
            phase = self.do("authorizer (JUnit)", maven, DEADLINE_S["suite"])
            phase.note = self._count(*sorted(Path(scratch, "surefire-reports").glob("TEST-*.xml")))

    def _count(self, *reports: Path) -> str:
        counts = {"passed": 0, "failed": 0, "skipped": 0}
        cases = [
            case
            for report in reports
            if report.exists()
            for case in ElementTree.parse(report).getroot().iter("testcase")
        ]
        for case in cases:
            kinds = {child.tag for child in case}
            outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
            counts[outcome] += 1
            self.tests.append((float(case.get("time", "0")), f"{case.get('classname')}::{case.get('name')}"))
        for outcome, count in counts.items():
            self.counts[outcome] += count
        return ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)

    def close(self) -> int:
        """Print the table, the slowest tests, and the verdict."""
        print("\n=== where the time went (two lanes until the lab starts)")
        for phase in sorted(self.phases, key=lambda phase: phase.start):
            said = phase.note if phase.ok else f"FAILED  {phase.note}"
            print(f"  {phase.end - phase.start:7.1f} s  from {phase.start:6.1f}  {phase.name:<20} {said}")
        print(f"  {self.now():7.1f} s  in all")
        if self.tests:
            print(f"\n=== the slowest tests, with their set-up (of {len(self.tests)})")
            for seconds, name in sorted(self.tests, reverse=True)[:SLOWEST]:
                print(f"  {seconds:7.1f} s  {name}")
        broken = [phase.name for phase in self.phases if not phase.ok]
        print(f"\n{'failed: ' + ', '.join(broken) if broken else 'all is well'}")
        print("{passed} passed, {failed} failed, {skipped} skipped".format(**self.counts), flush=True)
        return 1 if broken else 0


def _succeeds(command: Sequence[str | Path], deadline_s: float, output: IO[str] | None = None) -> bool:
    """`output`: where both streams go, instead of ours."""
    errors = None if output is None else subprocess.STDOUT
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=deadline_s, check=False, stdout=output, stderr=errors)
    except subprocess.TimeoutExpired:
        print(f"no end after {deadline_s:.0f} s: {' '.join(map(str, command))}", flush=True)
        return False
    return done.returncode == 0


def check(run: Run) -> None:
    """Do what needs no server and is over within a minute."""
    run.do("format", [BIN / "ruff", "format", "--check", "--quiet", "."], DEADLINE_S["check"])
    run.do("lint", [BIN / "ruff", "check", "."], DEADLINE_S["check"])
    run.do("types", [BIN / "mypy"], DEADLINE_S["check"])
    run.do("import arrows", [BIN / "lint-imports"], DEADLINE_S["check"])
    run.suite("tests/unit")
    run.suite("tests/replay")


def test(run: Run) -> None:
    """Do everything."""
    is_checked = threading.Event()
    built: Future[bool] = Future()

    def with_servers() -> None:
        run.beside.lane = True
        start = run.now()
        try:
            built.set_result(_succeeds(["make", "toolchain"], DEADLINE_S["servers"]))
        finally:
            if not built.done():  # not even started
                built.set_result(False)
        run.add(Phase("servers", start, run.now(), built.result(), "jars and Go builds"))
        is_checked.wait()
        if built.result() and has_venv:
            run.suite(WITH_SERVERS)

    has_venv = False
    lane = threading.Thread(target=with_servers)
    lane.start()
    try:
        if has_venv := set_up(run):
            check(run)
    finally:
        is_checked.set()
    if has_venv:
        run.suite("tests/workflows")
        run.wait_for("the servers", built.result)
        if built.result():
            run.junit()
        run.suite("tests/models")
    run.wait_for("the other lane", lane.join)
    if has_venv and built.result():
        run.suite(WITH_THE_LAB)


def set_up(run: Run) -> bool:
    return run.do("setup (.venv)", ["make", "setup"], DEADLINE_S["setup"]).ok


def main() -> int:
    run = Run()
    match sys.argv[1:]:
        case ["check"]:
            if set_up(run):
                check(run)
        case ["test"]:
            if run.do("machine", ["make", "machine"], DEADLINE_S["setup"]).ok:
                test(run)
        case _:
            print("usage: python3 tests/run.py check|test", file=sys.stderr)
            return 2
    return run.close()


if __name__ == "__main__":
    sys.exit(main())
