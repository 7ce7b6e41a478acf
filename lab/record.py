"""What a lab remembers on disk: `lab.json` and the files beside it.

<state>/labs/<name>/lab.json        addresses, users, processes; written anew by one rename, so never half
<state>/labs/<name>/settings.yaml   the product's settings for this estate, as seen from the arbiter
<state>/labs/<name>/secrets/        passwords and tokens (0700)
<state>/labs/<name>/config/         what the servers read
<state>/labs/<name>/data/           what the servers write
<state>/labs/<name>/logs/           one file a process
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.addresses import ARBITER, Address, Link, LinkEntry, Plan
from lab.errors import LabError, UsageError

VERSION = 5
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
Document = dict[str, Any]


def state_root() -> Path:
    """`$DCDR_STATE`, or `~/.local/state/dcdr`."""
    return Path(os.environ.get("DCDR_STATE") or "~/.local/state/dcdr").expanduser().absolute()


def lab_names() -> list[str]:
    """Labs that have a record, up or not."""
    return sorted(path.parent.name for path in state_root().glob("labs/*/lab.json"))


def taken_prefixes(besides: str) -> list[str]:
    """Loopback prefixes of all labs but `besides`, whatever version wrote them: each may be up, and is not ours to
    remove. A record that cannot be read takes none; whether a port is free is tried anyway."""
    found = []
    for name in lab_names():
        if name != besides:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found.append(str(json.loads(Home.of(name).record.read_text())["plan"]["prefix"]))
    return found


@dataclass(frozen=True)
class Home:
    """The folder of one lab."""

    name: str
    path: Path

    @classmethod
    def of(cls, name: str) -> Home:
        """Raises: UsageError on a name that cannot be one."""
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name for a lab: lower case letters, digits and dashes, at most 32")
        return cls(name, state_root() / "labs" / name)

    @property
    def record(self) -> Path:
        return self.path / "lab.json"

    @property
    def settings(self) -> Path:
        return self.path / "settings.yaml"

    @property
    def secrets(self) -> Path:
        return self.path / "secrets"

    @property
    def config(self) -> Path:
        return self.path / "config"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def trace(self, broker: str) -> Path:
        """Every change of a broker's gates, one JSON object a line."""
        return self.logs / f"gate-{broker}.jsonl"

    def site_settings(self, site: str) -> Path:
        """The product's settings as its processes at `site` see the estate."""
        return self.settings if site == ARBITER else self.config / f"settings-{site}.yaml"

    def create(self) -> None:
        for folder in (self.path, self.secrets, self.config, self.data, self.logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def purge(self) -> None:
        """Remove everything but the lock of who is purging."""
        for entry in self.path.iterdir() if self.path.exists() else ():
            if entry.name == "operation.lock":
                continue
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)

    def load(self) -> Document:
        """Raises: LabError when there is no such lab, or its record is of another version."""
        try:
            document: Document = json.loads(self.record.read_text())
        except FileNotFoundError:
            known = ", ".join(lab_names()) or "none"
            raise LabError(
                f"no lab named {self.name} (known: {known}); start it with `dcdr lab up --lab {self.name}`"
            ) from None
        if document.get("version") != VERSION:
            raise LabError(
                f"{self.record} was written by another version of the lab: remove {self.path} and start anew"
            )
        return document

    @contextlib.contextmanager
    def change(self) -> Iterator[Document]:
        """Read, change and write the record as one step; others wait for it."""
        with _locked(self.path / "record.lock", wait=True):
            document = self.load()
            yield document
            self.write(document)

    def write(self, document: Document) -> None:
        write_private(self.record, json.dumps(document, indent=1) + "\n")

    @contextlib.contextmanager
    def operation(self) -> Iterator[None]:
        """Held by up, reset and down: one of them at a time.

        Raises: LabError when another one is at work. The kernel gives the lock back when its holder dies.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(self.path / "operation.lock", wait=False):
            yield


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads; it appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(temporary, path)


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise LabError(f"another lab command is at work on {path.parent.name}: wait for it, or end it") from None
        yield


def plan_to_json(plan: Plan) -> Document:
    return {
        "prefix": plan.prefix,
        "brokers": plan.brokers,
        "ports": {key: str(address) for key, address in plan.ports.items()},
        "links": {
            link.name: [
                {"proxy": entry.proxy, "listen": str(entry.listen), "upstream": str(entry.upstream)}
                for entry in link.entries
            ]
            for link in plan.links
        },
    }


def plan_from_json(document: Document) -> Plan:
    links = []
    for name, entries in document["links"].items():
        sites, _, service = name.partition(":")
        source, _, destination = sites.partition("->")
        parsed = tuple(
            LinkEntry(entry["proxy"], Address.parse(entry["listen"]), Address.parse(entry["upstream"]))
            for entry in entries
        )
        links.append(Link(source, destination, service, parsed))
    ports = {key: Address.parse(address) for key, address in document["ports"].items()}
    return Plan(document["prefix"], document["brokers"], ports, tuple(links))
