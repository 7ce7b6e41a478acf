"""What the prober leaves on disk.

    witness.json   what was probed and from when to when (`Info`); there once every lane has been answered
    probes.tsv     every probe; the first line is a header, fields are those of `Probe`, tab-separated

Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share, the brokers' traces included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from lab.load.journal import JournalError, read_header, read_lines, write_json

FORMAT = 1
FILE = "probes.tsv"
USERS, MIRROR = WHO = ("users", "mirror")
"""Who writes: the gates' own two words."""


class Outcome(StrEnum):
    """What one probe was told. UNKNOWN: there was no answer, or one that says nothing about the gate."""

    ACKED = "acked"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Lane(NamedTuple):
    """One broker, asked as one of the two."""

    member: str
    broker: str
    who: str


class Probe(NamedTuple):
    """One attempt to write one record.

    `sent_ns`: before the request was handed to the kernel. `settled_ns`: after its answer was read, or when it was
    given up. `code`: Kafka's error code, or in words why there was no answer. `offset`: -1 unless acknowledged.
    """

    sent_ns: int
    settled_ns: int
    member: str
    broker: str
    who: str
    outcome: Outcome
    code: str
    offset: int

    @property
    def lane(self) -> Lane:
        return Lane(self.member, self.broker, self.who)


@dataclass(frozen=True)
class Info:
    """What is witnessed. `ended_ns` is None while the prober runs, and for good when it was killed."""

    every_ms: int
    lanes: tuple[Lane, ...]
    started_ns: int
    ended_ns: int | None = None
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        write_json(folder / "witness.json", asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Info:
        """Raises: JournalError if the folder holds nothing this version can read."""
        path = folder / "witness.json"
        try:
            raw = json.loads(path.read_text())
        except FileNotFoundError:
            raise JournalError(
                f"{folder} holds no witness.json: no prober ran there, or not every broker answered"
            ) from None
        except ValueError as error:
            raise JournalError(f"{path} is not JSON ({error}): it cannot be judged") from None
        if raw.get("format") != FORMAT:
            raise JournalError(f"{path} has format {raw.get('format')}, this version reads {FORMAT}: run it again")
        return cls(**raw | {"lanes": tuple(Lane(*lane) for lane in raw["lanes"])})


def read_probes(folder: Path) -> Iterator[Probe]:
    """Every probe of a run, in the order of being settled."""
    path = folder / FILE
    if read_header(path).get("format") != FORMAT:
        raise JournalError(f"{path} is not of format {FORMAT}: run it again")
    for sent, settled, member, broker, who, outcome, code, offset in read_lines(path):
        yield Probe(int(sent), int(settled), member, broker, who, Outcome(outcome), code, int(offset))
