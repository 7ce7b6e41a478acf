"""Reads the outcome logs of load runs into what the judge understands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.check.model import Attempt, Committed, Outcome, Read
from lab.load.journal import JournalError, RunInfo, RunLock, read_header, read_lines

NUMBER_BITS = 32


class Names:
    """Turns attempt ids (`<run>.<producer>.<number>`) into numbers and back. Only ids of known producers have one."""

    def __init__(self) -> None:
        self._producers: dict[str, int] = {}
        self._names: list[str] = []

    def add(self, run: str, producer: str) -> int:
        """Register a producer; returns the number its attempts count from."""
        name = f"{run}.{producer}"
        if name not in self._producers:
            self._producers[name] = len(self._names) << NUMBER_BITS
            self._names.append(name)
        return self._producers[name]

    def number(self, attempt: str) -> int | None:
        name, _, number = attempt.rpartition(".")
        base = self._producers.get(name)
        return None if base is None or not number.isdigit() else base + int(number)

    def label(self, number: int) -> str:
        return f"{self._names[number >> NUMBER_BITS]}.{number & ((1 << NUMBER_BITS) - 1)}"


class Labels(Mapping[int, str]):
    """The attempt ids behind the numbers, made when they are asked for."""

    def __init__(self, names: Names, attempts: Mapping[int, Attempt]) -> None:
        self._names, self._attempts = names, attempts

    def __getitem__(self, number: int) -> str:
        return self._names.label(number)

    def __iter__(self) -> Iterator[int]:
        return iter(self._attempts)

    def __len__(self) -> int:
        return len(self._attempts)


@dataclass
class Runs:
    """All runs judged together."""

    attempts: dict[int, Attempt] = field(default_factory=dict)
    groups: list[Read | Committed] = field(default_factory=list)
    topics: dict[str, str] = field(default_factory=dict)
    group_names: list[str] = field(default_factory=list)
    pinned: set[str] = field(default_factory=set)
    infos: list[RunInfo] = field(default_factory=list)
    names: Names = field(default_factory=Names)


def read_runs(folders: Sequence[Path], clusters: Mapping[str, str]) -> Runs:
    """Read runs. `clusters` maps a cluster id to the name of its data center.

    Raises: JournalError when a folder holds no run, is damaged, or is still being written.
    """
    runs = Runs()
    for folder in folders:
        info = RunInfo.read(folder)
        if RunLock.is_held(folder):
            raise JournalError(f"the load of {folder} is still running (pid {info.pid}): stop it, then check")
        runs.infos.append(info)
        for topic, kind in info.topics.items():
            if runs.topics.setdefault(topic, kind) != kind:
                kinds = f"{runs.topics[topic]} and as {kind}"
                raise JournalError(f"topic {topic} was written as {kinds}: check the runs apart")
        runs.group_names += [group for group in info.groups if group not in runs.group_names]
        for path in sorted(folder.glob("producer-*.tsv")):
            _read_producer(path, clusters, runs)
    for folder in folders:  # members name attempts of any run
        for path in sorted(folder.glob("member-*.tsv")):
            _read_member(path, clusters, runs)
    return runs


def _read_producer(path: Path, clusters: Mapping[str, str], runs: Runs) -> None:
    header = read_header(path)
    producer = f"{header['run']}.{header['producer']}"
    base = runs.names.add(header["run"], header["producer"])
    if header["role"] == "pinned":
        runs.pinned.add(producer)
    sides: dict[str, str] = {}
    in_txn: dict[str, list[Attempt]] = {}
    delivered: set[int] = set()
    attempts = runs.attempts
    number = 0
    try:
        for fields in read_lines(path):
            what = fields[0]
            if what == "S":
                number = base + int(fields[1])
                attempt = Attempt(
                    producer,
                    fields[2],
                    fields[3] or None,
                    int(fields[4]),
                    int(fields[5]),
                    int(fields[6]),
                    int(fields[7]),
                    int(fields[8]),
                )
                if fields[9]:
                    attempt.txn = f"{producer}/{fields[9]}"
                    in_txn.setdefault(fields[9], []).append(attempt)
                attempts[number] = attempt
            elif what == "A":
                number = base + int(fields[1])
                attempt = attempts[number]
                attempt.dc = sides.get(fields[2], "")
                attempt.partition, attempt.offset = int(fields[3]), int(fields[4])
                attempt.settled_ns = int(fields[6])
                if attempt.txn:
                    delivered.add(id(attempt))
                elif attempt.dc:
                    attempt.outcome = Outcome.OK
            elif what in "FU":
                attempt = attempts[base + int(fields[1])]
                # What a transaction's own end says about it counts for more.
                attempt.outcome = Outcome.FAIL if what == "F" else Outcome.INFO
                attempt.code, attempt.settled_ns = fields[2], int(fields[3])
            elif what == "C":
                for attempt in in_txn.pop(fields[1], ()):
                    if id(attempt) in delivered and attempt.dc:
                        attempt.outcome = Outcome.OK
                    attempt.settled_ns = int(fields[3])
            elif what in "XQ":
                for attempt in in_txn.pop(fields[1], ()):
                    attempt.outcome = Outcome.FAIL if what == "X" else Outcome.INFO
                    attempt.code = attempt.code or fields[2]
                    attempt.settled_ns = int(fields[3])
            elif what == "I":
                if fields[2] and fields[2] not in clusters:
                    raise JournalError(
                        f"{path} speaks of cluster {fields[2]}, which is none of those to be read "
                        f"({', '.join(clusters) or 'none'}): was the lab made anew since that run?"
                    )
                sides[fields[1]] = clusters.get(fields[2], "")
    except (IndexError, KeyError, ValueError) as error:
        raise JournalError(f"{path} is damaged ({error!r}): the run cannot be judged") from None


def _read_member(path: Path, clusters: Mapping[str, str], runs: Runs) -> None:
    group = read_header(path)["group"]
    sides: dict[str, str] = {}
    number = runs.names.number
    try:
        for fields in read_lines(path):
            what = fields[0]
            if what == "R":
                _, client, topic, partition, offset, attempt, at = fields
                runs.groups.append(
                    Read(int(at), group, sides[client], topic, int(partition), int(offset), number(attempt))
                )
            elif what == "K":
                _, client, topic, partition, offset, at = fields
                runs.groups.append(Committed(int(at), group, sides[client], topic, int(partition), int(offset)))
            elif what == "I":
                sides[fields[1]] = clusters.get(fields[2], fields[2])
    except (IndexError, KeyError, ValueError) as error:
        raise JournalError(f"{path} is damaged ({error!r}): the run cannot be judged") from None
