"""A process of ours for the length of a `with` block: nothing of it survives the block."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Child(ABC):
    """Ended in order by `stop` after a block that went well, and the hard way after one that failed."""

    _process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def start(self) -> Self:
        """Start it and wait until it does its work."""

    @abstractmethod
    def stop(self) -> object:
        """End it in order; returns what it leaves."""

    def kill(self) -> None:
        """End it the hard way; its files stay as they are."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()
