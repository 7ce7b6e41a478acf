"""Results on disk, one JSON line a row, in a folder named by the code they were made with."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIRTY = "-dirty"


@dataclass(frozen=True)
class Result:
    """One row, played once. `fired` and `verdict` are empty when it did not get that far."""

    row: str
    ok: bool
    fired: str
    outcome: str
    verdict: str
    seconds: float
    commit: str
    at: str
    error: str = ""


def commit(root: Path = ROOT) -> str:
    """The commit of the tree."""
    return _git(root, "rev-parse", "HEAD").strip()[:12]


def code(root: Path = ROOT) -> str:
    """What the tree's code is, by content; `-dirty` behind it when it is not what is committed.

    Documents are left out: a corrected sentence must not throw an hour of rows away.
    """
    files = [line for line in _git(root, "ls-tree", "-r", "HEAD").splitlines() if _is_code(line.split("\t")[1])]
    status = _git(root, "status", "--porcelain", "--untracked-files=all").splitlines()
    changed = [line for line in status if not line.startswith("??") and _is_code(line[3:])]
    strange = [line for line in status if line.startswith("??") and line.endswith(".py")]
    return hashlib.sha256("\n".join(files).encode()).hexdigest()[:12] + (DIRTY if changed or strange else "")


def _is_code(path: str) -> bool:
    return not path.startswith("docs/") and not path.endswith(".md")


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout


def append(folder: Path, shard: str, result: Result) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{shard}.jsonl").open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def load(folder: Path) -> dict[str, Result]:
    """The last result of each row, whichever shard played it. A line that a crash cut short is not a result."""
    found: list[Result] = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                found.append(Result(**json.loads(line)))
            except (ValueError, TypeError):
                continue
    return {result.row: result for result in sorted(found, key=lambda result: result.at)}


def table(rows: Sequence[str], results: dict[str, Result]) -> list[str]:
    """The one table: a line for each row, played or not."""
    head = ("", "row", "fired", "outcome", "verdict", "s")
    lines = [head]
    for name in rows:
        result = results.get(name)
        if result is None:
            lines.append(("MISSING", name, "", "", "", ""))
            continue
        state = "ok" if result.ok else "FAILED"
        lines.append((state, name, result.fired, result.outcome, result.verdict, f"{result.seconds:.0f}"))
    widths = [min(max(len(line[column]) for line in lines), 60) for column in range(len(head))]
    text = ["  ".join(_fit(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    for name in rows:
        if (failed := results.get(name)) is not None and not failed.ok:
            text += ["", f"FAILED {name}", *(f"  {line}" for line in failed.error.splitlines()[:20])]
    return text


def summary(rows: Sequence[str], results: dict[str, Result]) -> tuple[int, int, int]:
    """(ok, failed, missing)."""
    played = [results[name] for name in rows if name in results]
    good = sum(result.ok for result in played)
    return good, len(played) - good, len(rows) - len(played)


def shard_of(rows: Sequence[str], number: int, count: int) -> list[str]:
    """Every `count`-th row from the `number`-th (1 is the first), so that each shard has some of every kind."""
    return list(rows[number - 1 :: count])


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def todo(rows: Iterable[str], results: dict[str, Result], again: bool) -> list[str]:
    """Rows still to be played: failed ones once more, and with `again` all."""
    return [name for name in rows if again or name not in results or not results[name].ok]


def _fit(cell: str, width: int) -> str:
    cell = cell.replace("\n", " ")
    return cell.ljust(width) if len(cell) <= width else cell[: width - 1] + "…"
