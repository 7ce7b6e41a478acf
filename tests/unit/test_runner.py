"""The runner behind `make test`: whatever goes wrong in any phase, the run as a whole fails and says where."""

import sys
import threading
from pathlib import Path

import pytest

from tests import run as runner

PASSES = "def test_one(): assert True\n"
FAILS = "def test_two(): assert False\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "BIN", Path(sys.executable).parent)
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    return tmp_path


def suite(tree: Path, **files: str) -> tuple[runner.Run, int]:
    for name, text in files.items():
        (tree / "tests" / "unit" / f"{name}.py").write_text(text)
    run = runner.Run()
    run.suite("tests/unit")
    return run, run.close()


def test_a_suite_that_passes_is_counted(tree: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, code = suite(tree, test_good=PASSES)
    assert code == 0
    assert run.counts == {"passed": 1, "failed": 0, "skipped": 0}
    assert capfd.readouterr().out.endswith("1 passed, 0 failed, 0 skipped\n")


def test_a_failing_test_fails_the_run_by_name(tree: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, code = suite(tree, test_good=PASSES, test_bad=FAILS)
    assert code == 1
    assert run.counts == {"passed": 1, "failed": 1, "skipped": 0}
    assert "failed: tests/unit" in capfd.readouterr().out


def test_a_folder_without_test_files_is_told_as_such(tree: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, code = suite(tree)
    assert code == 0
    assert "no test files" in capfd.readouterr().out


@pytest.mark.parametrize("text", ["def renamed(): assert True\n", "import no_such_module\n"])
def test_a_test_file_from_which_no_test_comes_fails_the_run(tree: Path, text: str) -> None:
    _, code = suite(tree, test_vanished=text)
    assert code == 1


def test_a_phase_that_fails_or_hangs_fails_the_run(tree: Path) -> None:
    for command, limit_s in ((["false"], 5), (["sleep", "60"], 0.2)):
        run = runner.Run()
        run.do("phase", command, limit_s)
        assert run.close() == 1


def test_a_phase_in_a_lane_beside_is_told_whole_when_it_is_over(tree: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = runner.Run()

    def beside() -> None:
        run.beside.lane = True
        run.do("good", [sys.executable, "-c", "print('said this')"], 20)
        run.do("bad", ["false"], 5)

    lane = threading.Thread(target=beside)
    lane.start()
    lane.join()
    assert run.close() == 1
    assert "=== good (beside)\nsaid this" in capfd.readouterr().out
