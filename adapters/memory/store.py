"""The world's file: one row of SQLite, one transaction a call, shared by any number of processes.

A process killed at any moment leaves the world as it was before or after a call, never in between. That a machine
loses power is not promised (`synchronous=OFF`): it is a stand-in for tests.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.memory.state import World
from dcdr.errors import MisconfiguredError

_SCHEMA = """
CREATE TABLE world (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE calls (number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL);
"""
_BUSY_SECONDS = 10.0


class WorldFile:
    """Reads and writes the world; safe for threads and processes."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise MisconfiguredError(f"there is no world at {path}: make one with MemoryWorld.create")
        self.path = path
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA synchronous=OFF")
        self._held: tuple[int, str, World] | None = None
        """The world as we last saw it, with its version: parsed again only when another process wrote."""

    @classmethod
    def create(cls, path: Path, world: World) -> WorldFile:
        """Raises: FileExistsError, so that no test inherits another one's world."""
        path.touch(exist_ok=False)
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(_SCHEMA)
        db.execute("INSERT INTO world VALUES (1, 1, ?)", (world.model_dump_json(),))
        db.close()
        return cls(path)

    @contextmanager
    def change(self, call: str | None = None) -> Iterator[World]:
        """The world, to be changed in place; nothing is kept when the body raises. `call` goes to the trace."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                version, before, world = self._current()
                self._held = None  # the body may leave it half changed
                yield world
                world.watch()
                after = world.model_dump_json()
                if after != before:
                    version += 1
                    self._db.execute("UPDATE world SET version = ?, body = ?", (version, after))
                if call is not None:
                    self._db.execute("INSERT INTO calls (name) VALUES (?)", (call,))
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            self._held = (version, after, world)

    def look(self) -> World:
        """A copy of the world as it stands."""
        with self._lock:
            return World.model_validate_json(self._body())

    def delay(self, method: str, dc: str | None) -> float:
        """Seconds a planted fault makes this call wait before anything else."""
        with self._lock:
            self._held = self._current()
            return self._held[2].delay(method, dc)

    def calls(self) -> list[str]:
        with self._lock:
            return [name for (name,) in self._db.execute("SELECT name FROM calls ORDER BY number")]

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _current(self) -> tuple[int, str, World]:
        """Version, body and world; another process's write since the last look is seen."""
        (version,) = self._db.execute("SELECT version FROM world").fetchone()
        if self._held is not None and self._held[0] == version:
            return self._held
        version, body = self._db.execute("SELECT version, body FROM world").fetchone()
        return version, body, World.model_validate_json(body)

    def _body(self) -> str:
        (body,) = self._db.execute("SELECT body FROM world").fetchone()
        return str(body)
