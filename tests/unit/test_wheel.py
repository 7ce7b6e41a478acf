"""The wheel adds one name to site-packages, and its `dcdr` works without the work tree."""

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"adapters", "activities", "workflows", "worker", "starter", "agent", "lab"}
LIMIT_S = 120


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def test_an_installed_wheel_adds_one_name_and_its_command_runs_far_from_the_tree(tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)
    [wheel] = tmp_path.glob("*.whl")
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    [packages] = home.glob("lib/python*/site-packages")
    uv = Path(sys.executable).with_name("uv")
    run(
        uv,
        "pip",
        "install",
        "--quiet",
        "--offline",
        "--no-deps",
        "--python",
        home / "bin" / "python",
        wheel,
        cwd=tmp_path,
    )
    names = {path.name for path in packages.iterdir() if not path.name.endswith((".dist-info", ".pth", ".py"))}
    assert names - {"__pycache__"} == {"dcdr"}
    assert {path.name for path in (packages / "dcdr" / "_rooms").iterdir()} == ROOMS
    assert (packages / "dcdr" / "_rooms" / "lab" / "toolchain" / "kafka" / "pom.xml").exists()

    # The libraries come from the environment the tests run in; its own link to the work tree does not come along,
    # because .pth files are not followed twice.
    [libraries] = Path(sys.prefix).glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(f"{libraries}\n")
    assert "Usage" in run(home / "bin" / "dcdr", "--help", cwd=tmp_path)
    show = "import os, dcdr.__main__ as m; m.open_rooms(); import workflows; print(dcdr.__file__, workflows.__file__)"
    for path in run(home / "bin" / "python", "-c", f"import dcdr; {show}", cwd=tmp_path).split():
        assert Path(path).is_relative_to(packages)
