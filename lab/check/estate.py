"""The checker against a lab, in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lab.check.logs import Cluster
from lab.check.model import Demands
from lab.check.run import Checked, check
from lab.load.clients import common
from lab.load.estate import Estate


def check_lab(
    name: str,
    folders: Sequence[Path] = (),
    demands: Demands | None = None,
    active: str | None = None,
    catch_up_s: float = 30.0,
    say: Callable[[str], None] = lambda line: None,
) -> Checked:
    """Judge runs of a lab (default: all of them); the active side is the one its endpoint leads to, unless named.

    Raises: LabError, JournalError, ReadError.
    """
    estate = Estate.open(name)
    reader = estate.credentials("admin")
    clusters = [Cluster(member, common(estate.address(member, "internal"), reader)) for member in estate.members]
    where = active or common(estate.bootstrap, reader)
    return check(list(folders) or estate.run_folders(), clusters, where, demands, catch_up_s, say)
