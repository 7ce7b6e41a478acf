"""Faults of links and processes, each of which can be seen to have fired.

A link `dc-b->dc-a:kafka` is what dc-b dials to reach dc-a's Kafka. `forward` is the stream from the source to the
destination, `back` the answers. Patterns are shell-like: `dc-a->*`, `*:kafka`, `kafka-dc-a-*`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from lab import processes
from lab.addresses import CLIENTS, Address, Link
from lab.errors import LabError, UsageError
from lab.estate import Lab, Process
from lab.processes import ProcessState
from lab.readiness import wait_ready
from lab.waiting import wait_for

T = TypeVar("T")


class Direction(StrEnum):
    """Which stream of a link: from its source, to its source, or both."""

    FORWARD = "forward"
    BACK = "back"
    BOTH = "both"


STREAMS = {
    Direction.FORWARD: ("upstream",),
    Direction.BACK: ("downstream",),
    Direction.BOTH: ("upstream", "downstream"),
}


class Way(StrEnum):
    """Across the border of a site: what comes in, what goes out, or both."""

    IN = "in"
    OUT = "out"
    BOTH = "both"


START_ORDER = (
    ("toxiproxy", "egress"),
    ("etcd-",),
    ("kafka-", "agent-", "connect-", "kube-", "temporal"),
    ("endpoint-", "worker"),
)
"""Name prefixes: nothing is started before what must serve when it starts. Those side by side find one another, as they
do in a data center whose power is back."""
TOXICS = {"blackhole": "timeout", "delay": "latency", "reset": "reset_peer"}
_KINDS = {kind: fault for fault, kind in TOXICS.items()}
API_VERSIONS = bytes.fromhex("0000000a0012000000000001ffff")
"""Kafka's first request: size, ApiVersions, version 0, correlation id 1, no client id."""
ANSWER_S = 1.0


@dataclass(frozen=True)
class Fault:
    """One active fault: of a link (`kind` cut, blackhole, delay or reset) or a process (frozen or down)."""

    target: str
    kind: str
    direction: str = ""
    detail: str = ""


class Faults:
    """What can be broken in one lab; every method returns the names it hit.

    Raises (every method): UsageError when a pattern matches nothing; LabError when the fault cannot be set.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._proxy = lab.toxiproxy

    # --- links ---

    def links(self, *patterns: str) -> list[Link]:
        """Links that match one of the patterns."""
        return _matching(patterns, self._lab.plan.links, lambda link: link.name, "link")

    def cut(self, *patterns: str) -> list[str]:
        """Close what is connected and refuse what comes."""
        return self._each(patterns, lambda proxy: self._proxy.enable(proxy, False))

    def blackhole(self, *patterns: str, direction: Direction | str = Direction.BOTH) -> list[str]:
        """Swallow all data without closing anything. Healing closes the connections: what was swallowed is lost."""
        return self._toxic(patterns, "blackhole", direction, {"timeout": 0})

    def delay(
        self, *patterns: str, ms: int, jitter_ms: int = 0, direction: Direction | str = Direction.BOTH
    ) -> list[str]:
        """Hold everything back by `ms` +- `jitter_ms` milliseconds in each stream named."""
        if ms < 0 or not 0 <= jitter_ms <= ms:
            raise UsageError(f"a delay of {ms} ms +- {jitter_ms} ms cannot be: 0 <= jitter <= delay")
        return self._toxic(patterns, "delay", direction, {"latency": ms, "jitter": jitter_ms})

    def reset(self, *patterns: str) -> list[str]:
        """Until healed, answer the first data of a new connection with TCP RST; open ones close with their next data.

        The fault proxy decides at the start of a connection whether its end will be a reset.
        """
        return self._toxic(patterns, "reset", Direction.BOTH, {"timeout": 0})

    def heal(self, *patterns: str) -> list[str]:
        """Remove every fault of the links; with no pattern, of all."""

        def heal(proxy: str) -> None:
            for toxic in state[proxy]["toxics"]:
                self._proxy.remove_toxic(proxy, toxic["name"])
            if not state[proxy]["enabled"]:
                self._proxy.enable(proxy, True)

        state = self._proxy.proxies()
        return self._each(patterns or ("*",), heal)

    def answers(self, pattern: str) -> bool:
        """Whether Kafka's first request gets an answer through every link that matches: proof that a fault bites.

        Raises: UsageError for a link that does not lead to Kafka.
        """
        links = self.links(pattern)
        if other := [link.name for link in links if "kafka" not in link.service]:
            raise UsageError(f"{', '.join(other)}: only links to Kafka can be asked")
        return all(_answers(entry.listen) for link in links for entry in link.entries)

    # --- processes ---

    def processes(self, *patterns: str) -> list[Process]:
        """Processes that match one of the patterns."""
        names = _matching(patterns, self._lab.process_names, str, "process")
        return [self._lab.process(name) for name in names]

    def kill(self, *patterns: str) -> list[str]:
        """SIGKILL, and see them gone."""
        return self._apply(patterns, Process.kill, ProcessState.DOWN)

    def freeze(self, *patterns: str) -> list[str]:
        """SIGSTOP, and see them stand still."""
        return self._apply(patterns, Process.freeze, ProcessState.FROZEN)

    def thaw(self, *patterns: str) -> list[str]:
        """SIGCONT; one that is not frozen is left alone."""
        return self._apply(patterns, Process.thaw, ProcessState.RUNNING)

    def restart(self, *patterns: str, environment: dict[str, str] | None = None) -> list[str]:
        """Stop (where alive) and start on the same ports and data, and wait until they serve.

        Args:
            environment: what this one start is told on top, such as a failpoint; the next start forgets it.
        """
        hit = self.processes(*patterns)
        for process in hit:
            process.stop()
        for process in hit:
            process.start(environment or {})
        for process in hit:
            wait_ready(self._lab, process.name)
        return [process.name for process in hit]

    def restart_in_order(self, names: Iterable[str]) -> list[str]:
        """Start processes that are down, each as soon as those that must serve before it do. Returns: their names.

        Raises: LabError when one does not serve in time.
        """
        left = list(names)
        started = []
        for prefixes in START_ORDER:
            together = [name for name in left if name.startswith(prefixes)]
            for name in together:
                self._lab.process(name).start()
            for name in together:
                wait_ready(self._lab, name)
            started += together
        return started

    # --- sites ---

    def kill_site(self, site: str) -> list[str]:
        """SIGKILL everything that runs at a site, at once: what a data center does that loses its power.

        Raises: UsageError for a site that cannot fail; LabError when nothing runs there any more.
        """
        alive = {
            process.name: identity
            for process in self._lab.site_processes(site)
            if (identity := process.identity) is not None and processes.state_of(identity) is not ProcessState.DOWN
        }
        if not alive:
            raise LabError(f"nothing runs at {site}: `dcdr lab fault restart-site {site}` starts it")
        processes.end(alive.values(), 0)
        return list(alive)

    def restart_site(self, site: str) -> list[str]:
        """Start what is down at a site, and wait until it serves. Returns: what was down.

        Raises: UsageError for a site that cannot fail; LabError when something does not serve in time.
        """
        down = [one.name for one in self._lab.site_processes(site) if one.state is ProcessState.DOWN]
        return self.restart_in_order(down)

    def cut_site(
        self, site: str, direction: Way | str = Way.BOTH, *, with_clients: bool = False, silently: bool = False
    ) -> list[str]:
        """Part a site from all other sites; what runs there runs on. Returns: the links, for `heal`.

        Args:
            direction: `in`: nothing reaches it; `out`: nothing gets out of it. Both halves of every connection count,
                whoever dialled it; such data is swallowed, because a connection that is closed is so both ways.
            with_clients: the clients' place too. Without it users go on writing there until its gate closes.
            silently: swallow the data of `both` as well, instead of closing and refusing connections.
        Raises: UsageError for a site that cannot fail.
        """
        try:
            way = Way(direction)
        except ValueError:
            raise UsageError(f"direction {direction!r}: one of {', '.join(Way)}") from None
        self._lab.site_processes(site)
        there = [
            one for one in self._lab.plan.crossing(site) if with_clients or CLIENTS not in (one.source, one.destination)
        ]
        names = [link.name for link in there]
        if way is Way.BOTH:
            return self.blackhole(*names) if silently else self.cut(*names)
        for link in there:
            leads_in = link.destination == site
            forward = leads_in == (way is Way.IN)
            self.blackhole(link.name, direction=Direction.FORWARD if forward else Direction.BACK)
        return names

    # --- looking ---

    def active(self) -> list[Fault]:
        """Every fault there is, as the fault proxy and the kernel tell; a silent fault proxy is one itself."""
        found = []
        for name in self._lab.process_names:
            state = self._lab.process(name).state
            if state is not ProcessState.RUNNING:
                found.append(Fault(name, state.value))
        try:
            proxies = self._proxy.proxies()
        except LabError:
            return [*found, Fault("all links", "unknown", detail="the fault proxy does not answer")]
        for link in self._lab.plan.links:
            for entry in link.entries:
                found += _faults_of(link.name, proxies.get(entry.proxy))
        return list(dict.fromkeys(found))

    # --- pieces ---

    def _each(self, patterns: Iterable[str], work: Callable[[str], None]) -> list[str]:
        links = self.links(*patterns)
        for link in links:
            for entry in link.entries:
                work(entry.proxy)
        return [link.name for link in links]

    def _toxic(
        self, patterns: Iterable[str], fault: str, direction: Direction | str, attributes: dict[str, int]
    ) -> list[str]:
        try:
            streams = STREAMS[Direction(direction)]
        except ValueError:
            raise UsageError(f"direction {direction!r}: one of {', '.join(Direction)}") from None

        def add(proxy: str) -> None:
            for stream in streams:
                self._proxy.add_toxic(proxy, f"{fault}-{stream}", TOXICS[fault], stream, attributes)

        return self._each(patterns, add)

    def _apply(self, patterns: Iterable[str], work: Callable[[Process], None], expected: ProcessState) -> list[str]:
        hit = self.processes(*patterns)
        for process in hit:
            work(process)
        for process in hit:
            wait_for(f"{process.name}: {expected}", lambda p=process: p.state is expected, 10.0, every_s=0.005)  # type: ignore[misc]
        return [process.name for process in hit]


def _faults_of(link: str, proxy: dict[str, Any] | None) -> list[Fault]:
    if proxy is None:
        return [Fault(link, "missing", detail="the fault proxy does not know it: `dcdr lab up` again")]
    found = [] if proxy["enabled"] else [Fault(link, "cut")]
    for toxic in proxy["toxics"]:
        direction = Direction.FORWARD if toxic["stream"] == "upstream" else Direction.BACK
        detail = " ".join(f"{key}={value}" for key, value in toxic["attributes"].items() if value)
        found.append(Fault(link, _KINDS.get(toxic["type"], toxic["type"]), direction.value, detail))
    return found


def _matching(patterns: Iterable[str], candidates: Iterable[T], name: Callable[[T], str], kind: str) -> list[T]:
    everything = list(candidates)
    hit = []
    for pattern in patterns:
        matched = [one for one in everything if fnmatchcase(name(one), pattern)]
        if not matched:
            known = "\n".join(f"  {name(one)}" for one in everything)
            raise UsageError(f"no {kind} matches {pattern!r}; there are:\n{known}")
        hit += [one for one in matched if one not in hit]
    return hit


def _answers(address: Address) -> bool:
    try:
        with socket.create_connection((address.host, address.port), timeout=ANSWER_S) as connection:
            connection.sendall(API_VERSIONS)
            return bool(connection.recv(1))
    except OSError:
        return False
