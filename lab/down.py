"""`lab down`: end exactly what `up` started, recorded or not, and on request remove what it left on disk."""

from __future__ import annotations

from collections.abc import Sequence

from lab import processes
from lab.processes import Identity
from lab.record import Home
from lab.waiting import Say

ORDER: Sequence[tuple[tuple[str, ...], float]] = (
    (("worker", "endpoint-proxy", "connect-"), 5.0),
    (("kafka-",), 15.0),
    (("",), 5.0),
)
"""Name prefixes and seconds of grace: first those who would complain about the others. "" is everybody left."""


def end_processes(home: Home, grace: bool, say: Say) -> int:
    """End what carries the lab's identities or token. Returns how many processes were alive."""
    document = home.load()
    recorded = {
        name: Identity.from_json(entry["identity"])
        for name, entry in document["processes"].items()
        if entry.get("identity")
    }
    ended = 0
    left = dict(recorded)
    if grace:
        for starts, seconds in ORDER:
            stage = {name: one for name, one in left.items() if name.startswith(starts)}
            if count := processes.end(stage.values(), seconds):
                say(f"ended {', '.join(stage)}")
            ended += count
            left = {name: one for name, one in left.items() if name not in stage}
    else:
        ended += processes.end(left.values(), 0)
    # What was started right before a crash and never recorded, and children that left their group.
    strays = processes.with_token(document["token"])
    if strays:
        say(f"ending {len(strays)} processes that no record names: pid {', '.join(str(one.pid) for one in strays)}")
    ended += processes.end(strays, 3.0 if grace else 0)
    with home.change() as changed:
        for entry in changed["processes"].values():
            entry.pop("identity", None)
    return ended


def down(name: str, purge: bool, say: Say) -> int:
    """End the lab's processes; with `purge` remove its folder's content too. Returns how many were alive.

    Raises: LabError when there is no such lab, or another command is at work on it.
    """
    home = Home.of(name)
    home.load()
    with home.operation():
        ended = end_processes(home, grace=not purge, say=say)
        if purge:
            home.purge()
    return ended
