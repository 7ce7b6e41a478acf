"""What a load run is asked to do, checked before anything is started."""

from __future__ import annotations

import re
import secrets
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lab.load.records import MAX_SIZE, MIN_SIZE

Bootstrap = str


class Kind(StrEnum):
    """How a topic is written, and so how it is judged."""

    KEYED = "keyed"
    UNKEYED = "unkeyed"
    COMPACTED = "compacted"
    TRANSACTIONAL = "transactional"


class ClientManners(StrEnum):
    """How the applications behave when they are refused."""

    GOOD = "good"
    NAIVE = "naive"


class GroupRole(StrEnum):
    """What a consumer group is there to show.

    LIVE keeps up with the log with two members. LAG reads a fraction of what is written. PARKED commits the end of
    the log at the start, has no members during the run, and comes back at the end to read on.
    """

    LIVE = "live"
    LAG = "lag"
    PARKED = "parked"


class Credentials(BaseModel):
    """SASL/PLAIN user, and the file that holds the password (its first line). The password never leaves the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    username: str
    password_file: Path

    def password(self) -> str:
        return self.password_file.read_text().splitlines()[0].strip()


class LoadConfig(BaseModel):
    """Everything a run needs. `weights` share `rate` among the kinds of topics that are present."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap: Bootstrap
    topics: dict[str, Kind]
    out: Path
    credentials: Credentials | None = None
    rate: float = Field(default=2000.0, gt=0, le=50_000)
    size: int = Field(default=200, ge=MIN_SIZE, le=MAX_SIZE)
    duration_s: float | None = Field(default=None, gt=0)
    client: ClientManners = ClientManners.GOOD
    producers: int = Field(default=2, ge=0, le=16)
    keys: int = Field(default=400, ge=1, le=100_000)
    transaction_records: int = Field(default=20, ge=1, le=1000)
    abort_every: int = Field(default=4, ge=0)
    tombstone_every: int = Field(default=10, ge=0)
    pinned: dict[str, Bootstrap] = Field(default_factory=dict)
    groups: dict[str, GroupRole] = Field(default_factory=dict)
    lag_share: float = Field(default=0.25, gt=0, lt=1)
    run: str = Field(default_factory=lambda: secrets.token_hex(3))

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        addresses = {"the bootstrap address": self.bootstrap}
        addresses |= {f"the pinned producer {name!r}": text for name, text in self.pinned.items()}
        for what, text in addresses.items():
            if not re.fullmatch(r"[^\s,:]+:\d{1,5}(,[^\s,:]+:\d{1,5})*", text):
                raise ValueError(f"{what} is {text!r}; give host:port")
        if not self.topics:
            raise ValueError("no topic to write to; give at least one as NAME:KIND")
        for name in (*self.pinned, *self.groups):
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"{name!r} is no usable name: letters, digits, - and _ only")
        if not re.fullmatch(r"[a-z0-9]{1,16}", self.run):
            raise ValueError(f"run id {self.run!r}: up to 16 lower case letters and digits")
        if not self.producers and not self.pinned and not self.transactional:
            raise ValueError("nothing would be written: no producers, none pinned, no transactional topic")
        if self.credentials is not None and not self.credentials.password_file.is_file():
            raise ValueError(f"password file {self.credentials.password_file} does not exist")
        return self

    @property
    def plain(self) -> dict[str, Kind]:
        """The topics written without transactions."""
        return {name: kind for name, kind in self.topics.items() if kind is not Kind.TRANSACTIONAL}

    @property
    def transactional(self) -> list[str]:
        return [name for name, kind in self.topics.items() if kind is Kind.TRANSACTIONAL]

    def rate_of(self, kind: Kind) -> float:
        """Records per second meant for all topics of a kind."""
        weights = {Kind.KEYED: 50, Kind.UNKEYED: 30, Kind.COMPACTED: 10, Kind.TRANSACTIONAL: 10}
        total = sum(weights[present] for present in set(self.topics.values()))
        return self.rate * weights[kind] / total
