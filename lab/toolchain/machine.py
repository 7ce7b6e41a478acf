"""`python3 -m lab.toolchain.machine [LIST]`: see to it that this machine has the tools that nothing else here brings.

What LIST (default: `apt-packages.txt`) names and is missing is installed by apt when run as root; otherwise the command
is printed. Python and Go are only checked. Runs on the system's python3, before there is a virtual environment.

Exit codes: 0 all is there, 1 something is missing and could not be installed.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

LIST = Path(__file__).resolve().parents[2] / "apt-packages.txt"
APT_DEADLINE_S = 15 * 60
GO_AT_LEAST = (1, 26)


def lacking(listing: str) -> list[str]:
    """Name the packages of `listing` (lines of `package evidence`, `#` comments) whose evidence is not found."""
    pairs = [line.split() for line in listing.splitlines() if line.strip() and not line.startswith("#")]
    return [package for package, evidence in pairs if not _found(evidence)]


def _found(evidence: str) -> bool:
    if evidence.startswith("py:"):
        return importlib.util.find_spec(evidence.removeprefix("py:")) is not None
    return shutil.which(evidence) is not None


def go_problem(version: str | None) -> str | None:
    """Say what is wrong with this Go (`go env GOVERSION`, such as `go1.26.8`; None: there is no Go), if anything."""
    least = ".".join(map(str, GO_AT_LEAST))
    advice = f"install Go {least} or later (go.dev/doc/install) and put it on the PATH"
    if version is None:
        return f"go was not found: {advice}"
    number = re.match(r"go(\d+)\.(\d+)", version)
    if number and (int(number[1]), int(number[2])) < GO_AT_LEAST:
        return f"{version} is too old for what the lab builds: {advice}"
    return None  # a development version has no number: let the build tell


def main() -> int:
    listing = Path(sys.argv[1] if sys.argv[1:] else LIST).read_text()
    missing = lacking(listing)
    if missing:
        install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            print(f"error: missing: {', '.join(missing)}\nInstall them: sudo {' '.join(install)}", file=sys.stderr)
            return 1
        print(f"installing {', '.join(missing)}", file=sys.stderr)
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-q"], install):
            code = subprocess.run(command, env=quiet, timeout=APT_DEADLINE_S, check=False).returncode
            if code != 0:
                print(f"error: {' '.join(command)} failed with {code}", file=sys.stderr)
                return 1
        if still := lacking(listing):
            print(f"error: still missing after the installation: {', '.join(still)}", file=sys.stderr)
            return 1
    go = shutil.which("go")
    version = go and subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, timeout=60, check=False)
    if problem := go_problem(version.stdout.strip() if version else None):
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
