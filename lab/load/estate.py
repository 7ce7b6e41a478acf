"""What load and checker need to know of a lab, read from its record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lab.load.config import Credentials, GroupRole, Kind, LoadConfig
from lab.record import Home

TOPICS = {
    "orders": Kind.KEYED,
    "clicks": Kind.UNKEYED,
    "profiles": Kind.COMPACTED,
    "payments": Kind.TRANSACTIONAL,
}
GROUPS = {"load-live": GroupRole.LIVE, "load-lag": GroupRole.LAG, "load-parked": GroupRole.PARKED}
STAYING = {name: role for name, role in GROUPS.items() if role is not GroupRole.PARKED}
"""Without the parked group: that one shows something only if a load ends on the other side than it began on."""


@dataclass(frozen=True)
class Estate:
    """One lab's addresses and users."""

    home: Home
    document: dict[str, Any]

    @classmethod
    def open(cls, name: str) -> Self:
        """Raises: lab.errors.LabError when there is no such lab."""
        home = Home.of(name)
        return cls(home, home.load())

    @property
    def bootstrap(self) -> str:
        return str(self.document["bootstrap"])

    @property
    def members(self) -> list[str]:
        return list(self.document["kafka"])

    @property
    def runs(self) -> Path:
        """The folder that holds a folder for each load run."""
        return self.home.path / "load"

    def credentials(self, user: str) -> Credentials:
        return Credentials(username=user, password_file=Path(self.document["users"][user]))

    def address(self, member: str, listener: str) -> str:
        return ",".join(self.document["kafka"][member][listener])

    def load_config(self, **changes: Any) -> LoadConfig:
        """The usual load of a lab; `changes` are fields of `LoadConfig`.

        A pinned producer may name a member, as in `pinned={"pin": "dc-a"}`.

        Raises: pydantic.ValidationError (a ValueError) on settings that make no sense.
        """
        pinned = {
            name: self.address(where, "client") if where in self.members else where
            for name, where in (changes.pop("pinned", None) or {}).items()
        }
        settings: dict[str, Any] = {
            "bootstrap": self.bootstrap,
            "credentials": self.credentials("app"),
            "topics": TOPICS,
            "groups": GROUPS,
            "out": self.runs / "unnamed",
            "pinned": pinned,
            **changes,
        }
        config = LoadConfig(**settings)
        return config if "out" in changes else config.model_copy(update={"out": self.runs / config.run})

    def run_folders(self) -> list[Path]:
        """All runs of this lab, oldest first."""
        found = [path.parent for path in self.runs.glob("*/run.json")]
        return sorted(found, key=lambda path: (path / "run.json").stat().st_mtime)
