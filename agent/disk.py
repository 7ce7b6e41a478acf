"""Small files that must survive the machine: replaced whole and synced."""

from __future__ import annotations

import os
from pathlib import Path


def keep(path: Path, text: str) -> None:
    """Have `path` hold `text` for good. Raises: OSError when the disk does not take it."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
