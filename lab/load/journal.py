"""The outcome log: what was sent, what came of it, and what the consumer groups saw.

One run is one folder:

    run.json               what the run is: id, topics, groups, client, rate (`RunInfo`)
    producer-<name>.tsv    every attempt of one producer
    member-<name>.tsv      everything one group member received and committed
    lock                   held (flock) while the load lives
    live.json              counters, replaced several times a second
    summary.json           written last

A .tsv file begins with one JSON line after `#`. Its other lines are tab-separated, the first field says what they are.
Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share; record timestamps are Unix
milliseconds, so the wall time of an attempt is its timestamp.

Producers                                                          on disk
    S n topic key seq timestamp value headers mono txn             before the record is handed to the client library
    A n client partition offset timestamp mono                     acknowledged        } before the next record of
    F n code mono                                                  certainly not written } the same key is sent
    U n code mono                                                  may have been written }
    C txn client mono          transaction committed: its A records count from here
    X txn code mono            transaction certainly aborted: nothing of it may ever be seen
    Q txn code mono            a commit whose outcome is unknown
    I client cluster mono took a client was created; took is the time until it was usable, in nanoseconds
    T client code mono         why a client was given up

Members
    I client cluster mono took
    P client topic partition offset mono   where the member starts in a partition it was given
    R client topic partition offset attempt mono
    K client topic partition offset mono   a commit that was acknowledged; offset is the next one to read
    T client code mono

`key` is empty for a record without one. `value` and `headers` are the digests of `records`. An attempt without a second
line was on its way when the log ended: it may have been written.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


class JournalError(Exception):
    """A run's files are missing, damaged or of another format; the text says what to do."""


@dataclass(frozen=True)
class RunInfo:
    """What a run is.

    `topics` maps a name to its kind, `producers` a name to "follow" or "pinned". `topic_ids` holds, for the cluster the
    run began on, the id of each topic: a topic that was made anew since has another one.
    """

    run: str
    started_unix_ms: int
    started_mono_ns: int
    topics: Mapping[str, str]
    producers: Mapping[str, str]
    groups: tuple[str, ...]
    client: str
    rate: float
    size: int
    pid: int
    topic_ids: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        write_json(folder / "run.json", asdict(self))

    @classmethod
    def read(cls, folder: Path) -> RunInfo:
        """Raises: JournalError if the folder holds no run this version can read."""
        path = folder / "run.json"
        try:
            raw = json.loads(path.read_text())
        except FileNotFoundError:
            raise JournalError(f"{folder} holds no run (no run.json): give the folder that the load printed") from None
        except ValueError as error:
            raise JournalError(f"{path} is not JSON ({error}): the run cannot be judged") from None
        if raw.get("format") != FORMAT:
            raise JournalError(f"{path} has format {raw.get('format')}, this version reads {FORMAT}: run it again")
        raw["groups"] = tuple(raw["groups"])
        return cls(**raw)


@dataclass
class Writer:
    """Appends lines to one file. A line is on its way to the disk when `flush` returns, and on it after `close`."""

    path: Path
    header: Mapping[str, Any]
    _lines: list[str] = field(default_factory=list)
    _fd: int = -1

    def __post_init__(self) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self.line("#" + json.dumps(dict(self.header)))
        self.flush()

    def line(self, *fields: object) -> None:
        self._lines.append("\t".join(map(str, fields)))

    def flush(self) -> None:
        """Hand all lines to the kernel: they survive the death of this process from here on."""
        if not self._lines:
            return
        self._lines.append("")
        data = memoryview("\n".join(self._lines).encode())
        self._lines.clear()
        while data:
            data = data[os.write(self._fd, data) :]

    def close(self) -> None:
        if self._fd >= 0:
            self.flush()
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1


def read_header(path: Path) -> dict[str, Any]:
    """Raises: JournalError if the file does not start with its header."""
    with path.open("rb") as file:
        first = file.readline()
    try:
        if not first.startswith(b"#"):
            raise ValueError("no header")
        header: dict[str, Any] = json.loads(first[1:])
    except ValueError as error:
        raise JournalError(f"{path} does not start with a journal header ({error}): it is not an outcome log") from None
    return header


def read_lines(path: Path) -> Iterator[list[str]]:
    """The lines of a journal, split into fields, without the header and without a last line that was torn off."""
    with path.open("r", encoding="utf-8", newline="\n") as file:
        file.readline()
        for line in file:
            if line[-1] == "\n":
                yield line[:-1].split("\t")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step: a reader sees the old or the new one."""
    fresh = path.with_suffix(path.suffix + ".new")
    fresh.write_text(json.dumps(content, indent=2) + "\n")
    fresh.replace(path)


class RunLock:
    """Held by the process that writes a run; the checker asks whether it is held."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "lock").open("a")

    def take(self) -> bool:
        """Take the lock for the life of this process. False if somebody holds it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        self._file.close()

    @classmethod
    def is_held(cls, folder: Path) -> bool:
        lock = cls(folder)
        try:
            return not lock.take()
        finally:
            lock.release()
