"""One lab, opened by name: its addresses, users, processes and faults, for the CLI, for tests and for benches."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka.admin import AdminClient

from lab import processes
from lab.addresses import ARBITER, CLIENTS, MEMBERS, WORKERS, Address, Plan, brokers
from lab.errors import LabError, UsageError
from lab.kafka import client_config
from lab.processes import Identity, ProcessState
from lab.record import Document, Home, plan_from_json
from lab.toxiproxy import Toxiproxy

if TYPE_CHECKING:
    from lab.faults import Faults

ROOMS = str(Path(__file__).resolve().parent.parent)
"""Where the packages live; our own processes import them from there."""


@dataclass(frozen=True)
class Process:
    """One process of a lab, by name. The record on disk is read anew with every call: others may have restarted it."""

    home: Home
    name: str

    @property
    def _entry(self) -> dict[str, Any]:
        known = self.home.load()["processes"]
        if self.name not in known:
            raise UsageError(f"no process {self.name} in lab {self.home.name}; there are: {', '.join(sorted(known))}")
        entry: dict[str, Any] = known[self.name]
        return entry

    @property
    def site(self) -> str:
        return str(self._entry["site"])

    @property
    def log(self) -> Path:
        return self.home.log(self.name)

    @property
    def identity(self) -> Identity | None:
        """The process as it was started last; None when it never was."""
        identity = self._entry.get("identity")
        return Identity.from_json(identity) if identity else None

    @property
    def pid(self) -> int | None:
        return self.identity.pid if self.identity else None

    @property
    def state(self) -> ProcessState:
        return processes.state_of(self.identity) if self.identity else ProcessState.DOWN

    @property
    def starts(self) -> int:
        """How often it has been started since the lab was planned."""
        return int(self._entry.get("starts", 0))

    def start(self, extra: Mapping[str, str] | None = None) -> bool:
        """Start it as it is recorded: same ports, same data. False when it is alive already.

        Args:
            extra: environment of this one start, such as a failpoint.
        Raises: LabError when the program cannot be executed.
        """
        with self.home.change() as document:
            entry = document["processes"][self.name]
            if (
                entry.get("identity")
                and processes.state_of(Identity.from_json(entry["identity"])) is not ProcessState.DOWN
            ):
                return False
            environment = {**_inherited(), **entry["environment"], **(extra or {})}
            try:
                identity = processes.spawn(entry["argv"], environment, self.log, document["token"])
            except OSError as error:
                raise LabError(f"cannot start {self.name} ({entry['argv'][0]}): {error.strerror}") from error
            entry["identity"] = identity.to_json()
            entry["starts"] = entry.get("starts", 0) + 1
        return True

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Raises: LabError when it is not running."""
        processes.end([self._alive()], 0)

    def stop(self, grace_s: float = 20.0) -> None:
        """SIGTERM, and SIGKILL past the grace; nothing to do when it is down."""
        if (identity := self.identity) is not None:
            processes.end([identity], grace_s)

    def freeze(self) -> None:
        """SIGSTOP. Raises: LabError when it is not running."""
        processes.send(self._alive(), signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT. Raises: LabError when it is not running."""
        processes.send(self._alive(), signal.SIGCONT)

    def restart(self, grace_s: float = 20.0) -> None:
        """Stop it, then start it on the same ports and data; `lab.fault.restart` waits as well until it serves."""
        self.stop(grace_s)
        self.start()

    def tail(self, lines: int = 12) -> str:
        """The last lines of its log, indented."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(f"    {line[:300]}" for line in text.splitlines()[-lines:])

    def _alive(self) -> Identity:
        identity = self.identity
        if identity is None or processes.state_of(identity) is ProcessState.DOWN:
            raise LabError(f"{self.name} is not running; `dcdr lab fault restart {self.name}` starts it")
        return identity


class Lab:
    """A lab that has been planned; `Lab.open` finds it by name."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.document: Document = home.load()
        self.plan: Plan = plan_from_json(self.document["plan"])

    @classmethod
    def open(cls, name: str | None = None) -> Lab:
        """The lab `name` (default: `$DCDR_LAB`, else `default`).

        Raises: LabError when it is not there; UsageError when it cannot be.
        """
        return cls(Home.of(name or os.environ.get("DCDR_LAB") or "default"))

    @property
    def name(self) -> str:
        return self.home.name

    @property
    def settings(self) -> Path:
        """The product's settings for this estate."""
        return self.home.settings

    @property
    def process_names(self) -> list[str]:
        return list(self.home.load()["processes"])

    def process(self, name: str) -> Process:
        """Raises: UsageError when there is no such process."""
        process = Process(self.home, name)
        process._entry  # noqa: B018  (asks for its existence)
        return process

    @property
    def worker_names(self) -> list[str]:
        """The product's workers that `up` was told to start; none with `--no-worker`."""
        return [name for name in self.process_names if name in WORKERS]

    def site_processes(self, site: str) -> list[Process]:
        """What runs at a site. Raises: UsageError when there is no such site, or nothing of ours runs there."""
        entries = self.home.load()["processes"]
        names = [name for name, entry in entries.items() if entry["site"] == site]
        if not names or site == CLIENTS:  # what runs there are the faults' own tools
            raise UsageError(f"no site {site!r} that can fail; there are: {', '.join(sorted((*MEMBERS, ARBITER)))}")
        return [Process(self.home, name) for name in names]

    @property
    def automatic(self) -> bool:
        """Whether the agents take the lease over by themselves."""
        return bool(self.document["automatic"])

    @cached_property
    def toxiproxy(self) -> Toxiproxy:
        return Toxiproxy(self.plan.ports["toxiproxy/api"])

    @property
    def fence_mode(self) -> str:
        """`authorizer` or `acl`: what keeps users out of the standby."""
        return str(self.document["fence"])

    @property
    def bootstrap(self) -> Address:
        """The one address that applications bootstrap from; it leads to the active side."""
        return self.plan.ports["endpoint-proxy/bootstrap"]

    def password(self, user: str) -> str:
        path = Path(self.document["users"][user])
        return path.read_text().rstrip("\n")

    def client_config(self, user: str, member: str | None = None, listener: str = "CLIENT") -> dict[str, Any]:
        """librdkafka settings: through the endpoint, or pinned to one member on a listener."""
        where: Sequence[Address] = [self.bootstrap] if member is None else self.plan.kafka(member, listener)
        return client_config(where, user, self.password(user))

    def admin(self, member: str) -> AdminClient:
        """A super user inside the site: no link in between, so that faults do not reach it."""
        return AdminClient(self.client_config("admin", member, "INTERNAL"))

    def brokers(self, member: str) -> tuple[str, ...]:
        return brokers(member, self.plan.brokers)

    def connect_url(self, member: str) -> str:
        """REST of a member's Connect worker, without a link in between."""
        return f"http://{self.plan.ports[f'connect-{member}/rest']}"

    def environment(self, site: str = ARBITER) -> dict[str, str]:
        """What `python -m worker` at `site` and the CLI need to find this estate."""
        return {
            "DCDR_LAB": self.name,
            "DCDR_SETTINGS": str(self.home.site_settings(site)),
            "TEMPORAL_ADDRESS": str(self.plan.temporal(site)),
            "TEMPORAL_NAMESPACE": "dr",
        }

    @property
    def fault(self) -> Faults:
        """Break things, see what is broken, and heal."""
        from lab.faults import Faults  # late: it imports this module

        return Faults(self)


def _inherited() -> dict[str, str]:
    """What our processes take over from whoever starts them: enough to run, nothing that steers them."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "JAVA_HOME", "USER")
    return {key: os.environ[key] for key in kept if key in os.environ} | {"PYTHONPATH": ROOMS, "PYTHONUNBUFFERED": "1"}


def python() -> str:
    return sys.executable
