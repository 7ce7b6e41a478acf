"""The runbook as a script: it parses, and it is told everything it asks for."""

import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "bench" / "runbook.sh"
CONTESTANTS = SCRIPT.with_name("contestants.py").read_text()


def test_the_runbook_is_a_script_bash_can_read() -> None:
    done = subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True, check=False, timeout=10)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_runbook_is_told_every_variable_it_uses() -> None:
    text = SCRIPT.read_text()
    own = set(re.findall(r"^([A-Z_]+)=", text, re.MULTILINE)) | {"LINENO", "BASH_COMMAND"}
    used = set(re.findall(r"\$\{?([A-Z_]{2,})", text)) - own
    told = set(re.findall(r'"([A-Z_]{2,})":', CONTESTANTS))
    for role in ("SOURCE", "TARGET"):
        told |= {role, *(f"{role}_{what}" for what in re.findall(r'f"\{role\}_([A-Z]+)"', CONTESTANTS))}
    assert "TARGET_KAFKA" in used
    assert used <= told


def test_the_runbook_fails_loudly_when_a_command_fails(tmp_path: Path) -> None:
    estate = tmp_path / "estate"
    names = set(re.findall(r"\$\{?([A-Z_]{2,})", SCRIPT.read_text())) - {
        "LINENO",
        "BASH_COMMAND",
        "TIMES",
        "WORK",
        "LOOKS",
    }
    estate.write_text("".join(f"{name}=nothing\n" for name in sorted(names)))
    done = subprocess.run(
        ["bash", str(SCRIPT), str(estate), str(tmp_path / "times")],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode != 0
    assert "runbook: line" in done.stderr
    assert not (tmp_path / "times").exists()


@pytest.mark.parametrize("word", ["password", "token="])
def test_the_runbook_holds_no_secret_on_a_command_line(word: str) -> None:
    lines = [line for line in SCRIPT.read_text().splitlines() if not line.lstrip().startswith("#")]
    assert not [line for line in lines if word in line.lower()]
