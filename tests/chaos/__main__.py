"""`python -m tests.chaos`: play the matrix on a real lab and end in one table.

    python -m tests.chaos                      all rows that have not passed yet with this code
    python -m tests.chaos --shard 2/3          every third row, on a lab of its own; run the others beside it
    python -m tests.chaos --only 'kill .*cut'  rows whose name matches
    python -m tests.chaos --table              play nothing, print the table of this code

Results are kept under ${DCDR_STATE}/chaos/<code>/, named by the content of all tracked files but documents, and a row
that passed is not played again with the same code; with changes that are not committed the name ends in `-dirty`,
nothing is resumed, and nothing there counts.

Exit codes: 0 every row passed with this code; 1 a row failed or was not played; 2 usage.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lab.down import down
from lab.errors import LabError
from lab.record import state_root
from lab.reset import reset
from tests.chaos import results
from tests.chaos.matrix import MATRIX
from tests.chaos.play import play
from tests.chaos.results import DIRTY
from tests.chaos.row import KINDS
from tests.integration.support import Stage, quietly

FRESH_EVERY = 20
"""Rows between two resets: what the checker reads for one row is what all since the last one wrote."""


async def ready(stage: Stage) -> None:
    """The lab at rest; one that a gentle reset does not clean is wiped. Raises: LabError when there is none left."""
    stage.end_workers()
    try:
        await stage.ready()
    except LabError as error:
        say(f"reset the hard way: {error}")
        await asyncio.to_thread(reset, stage.lab.name, True, quietly)
        stage.spoiled = True
        await stage.ready()


async def play_all(names: Sequence[str], shard: str, folder: Path, lab: str, kind: tuple[str, bool], code: str) -> None:
    rows = {row.name: row for row in MATRIX}
    fence, automatic = kind
    stage = await Stage.open(lab, fence=fence, automatic=automatic)
    try:
        for number, name in enumerate(names, 1):
            if results.code() != code:
                say(f"the code is not {code} any more: what comes would not count. Run again")
                return
            stage.spoiled |= len(stage.runs) >= FRESH_EVERY
            await ready(stage)
            result = await play(stage, rows[name], results.commit())
            results.append(folder, shard, result)
            word = "ok" if result.ok else "FAILED"
            say(f"{number}/{len(names)} {word} {name} ({result.seconds:.0f} s) {result.fired}")
            if result.error:
                say("  " + result.error.replace("\n", "\n  "))
    finally:
        stage.end_workers()  # one that is left would serve the next lab of this name


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="play every N-th row from the I-th")
    parser.add_argument("--only", default="", metavar="REGEX", help="rows whose name it matches somewhere")
    parser.add_argument("--again", action="store_true", help="play rows too that have passed at this commit")
    parser.add_argument("--lab", default="", help="lab to use, and one of each kind (default: chaos-<I>)")
    parser.add_argument("--keep", action="store_true", help="leave the lab running")
    parser.add_argument("--table", action="store_true", help="play nothing")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    given = parser.parse_args()
    shard = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", given.shard)
    if shard is None or int(shard[1]) > int(shard[2]):
        parser.error(f"--shard {given.shard}: I/N with 1 <= I <= N")
    given.number, given.count = int(shard[1]), int(shard[2])
    try:
        re.compile(given.only)
    except re.error as error:
        parser.error(f"--only {given.only!r} is no regular expression: {error}")
    return given


def main() -> int:
    given = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended then, as by Ctrl-C
    names = [row.name for row in MATRIX if re.search(given.only, row.name)]
    names = results.shard_of(names, given.number, given.count)
    if not names:
        print(f"error: no row matches {given.only!r} in shard {given.shard}", file=sys.stderr)
        return 2
    code, commit = results.code(), results.commit()
    folder = state_root() / "chaos" / code
    again = given.again or code.endswith(DIRTY)
    wanted = [] if given.table else results.todo(names, results.load(folder), again)
    say(f"{len(wanted)} of {len(names)} rows to play with code {code}; results in {folder}")
    kinds = {row.name: row.kind for row in MATRIX}
    for kind in KINDS:  # one after the other: the machine carries one lab
        if not (chosen := [name for name in wanted if kinds[name] == kind]):
            continue
        fence, automatic = kind
        lab = f"{given.lab or f'chaos-{given.number}'}-{'automatic' if automatic else fence}"
        try:
            asyncio.run(play_all(chosen, f"shard-{given.number}-of-{given.count}", folder, lab, kind, code))
        except LabError as error:
            say(f"the lab is lost: {error}")
        except KeyboardInterrupt:
            say("stopped: run again to go on")
            return 1
        finally:
            if not given.keep:
                with contextlib.suppress(LabError):  # it may be lost
                    down(lab, True, quietly)
    found = results.load(folder)
    good, failed, missing = results.summary(names, found)
    if given.output == "json":
        print(
            json.dumps(
                {
                    "code": code,
                    "commit": commit,
                    "rows": [asdict(found[n]) if n in found else {"row": n} for n in names],
                }
            )
        )
    else:
        print("\n".join(results.table(names, found)))
        print(f"\ncode {code} at commit {commit}: {good} ok, {failed} failed, {missing} missing of {len(names)} rows")
    return 0 if good == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
