"""Results on disk, one JSON line a row, in a folder named by the commit they were made at."""

from __future__ import annotations

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
    """The commit of the tree, with `-dirty` behind it when a tracked file differs or a source file is not tracked."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout

    changed = [line for line in git("status", "--porcelain").splitlines() if not line.startswith("??")]
    strange = [line for line in git("ls-files", "--others", "--exclude-standard").splitlines() if line.endswith(".py")]
    return git("rev-parse", "HEAD").strip()[:12] + (DIRTY if changed or strange else "")


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
