"""The highest epoch this agent has seen, on its own disk: one of the places that keep an epoch from a second use."""

from __future__ import annotations

from pathlib import Path

from agent import disk
from dcdr.errors import MisconfiguredError


class EpochFile:
    """One number in a file, replaced whole and synced. Only ever grows."""

    def __init__(self, folder: Path, scope: str) -> None:
        """Raises: MisconfiguredError when the file holds anything else than a number."""
        self._path = folder / f"{scope}.epoch"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            text = self._path.read_text()
        except FileNotFoundError:
            text = "0"
        except OSError as error:
            raise MisconfiguredError(f"cannot read {self._path}: {error.strerror}; set agent.state") from error
        if not text.strip().isdecimal():
            raise MisconfiguredError(
                f"{self._path} holds {text[:40]!r}, not an epoch. Write the highest epoch of `dcdr lease show` into it"
            )
        self.highest = int(text)

    def saw(self, epoch: int) -> None:
        """Remember `epoch` before anything is done under it. Raises: OSError when the disk does not take it."""
        if epoch <= self.highest:
            return
        disk.keep(self._path, f"{epoch}\n")
        self.highest = epoch
