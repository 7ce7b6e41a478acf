"""Which of a data center's agents this one is, on its own disk: after a restart it is the same one."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from agent import disk
from dcdr.errors import MisconfiguredError


def identity(folder: Path, scope: str) -> str:
    """What `folder` holds; made once. Each agent needs a folder of its own: two that share one both act.

    Raises: MisconfiguredError when the file holds anything else, or cannot be used.
    """
    path = folder / f"{scope}.agent"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            disk.keep(path, f"{secrets.token_hex(8)}\n")
        found = path.read_text().strip()
    except OSError as error:
        raise MisconfiguredError(f"cannot use {path}: {error.strerror}; set agent.state") from error
    if not re.fullmatch("[0-9a-f]{16}", found):
        raise MisconfiguredError(f"{path} holds {found[:40]!r}, no agent's identity. Remove it: a new one is made")
    return found
