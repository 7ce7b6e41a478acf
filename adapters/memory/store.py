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
CREATE TABLE world (one INTEGER PRIMARY KEY CHECK (one = 1), body TEXT NOT NULL);
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

    @classmethod
    def create(cls, path: Path, world: World) -> WorldFile:
        """Raises: FileExistsError, so that no test inherits another one's world."""
        path.touch(exist_ok=False)
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(_SCHEMA)
        db.execute("INSERT INTO world VALUES (1, ?)", (world.model_dump_json(),))
        db.close()
        return cls(path)

    @contextmanager
    def change(self, call: str | None = None) -> Iterator[World]:
        """The world, to be changed in place; nothing is kept when the body raises. `call` goes to the trace."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                before = self._body()
                world = World.model_validate_json(before)
                yield world
                world.watch()
                after = world.model_dump_json()
                if after != before:
                    self._db.execute("UPDATE world SET body = ?", (after,))
                if call is not None:
                    self._db.execute("INSERT INTO calls (name) VALUES (?)", (call,))
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def look(self) -> World:
        """A copy of the world as it stands."""
        with self._lock:
            return World.model_validate_json(self._body())

    def calls(self) -> list[str]:
        with self._lock:
            return [name for (name,) in self._db.execute("SELECT name FROM calls ORDER BY number")]

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _body(self) -> str:
        (body,) = self._db.execute("SELECT body FROM world").fetchone()
        return str(body)
