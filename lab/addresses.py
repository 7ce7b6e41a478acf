"""Where everything lives: sites, processes, ports and links of one lab. Pure, apart from trying whether a port is free.

Every site has a loopback address of its own, `<prefix>.<n>`; the clients' place is one more. What crosses from one site
to another goes through a *link*: a listening port at the source's address, and behind it a fault proxy that leads to
the destination. A link is named `<source>-><destination>:<service>`; with several brokers it has one entry for each.
The one way inside a site that has links is each broker's to its agent, named by the processes.
"""

from __future__ import annotations

import hashlib
import random
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lab.errors import LabError

MEMBERS = ("dc-a", "dc-b")
ARBITER = "dc-c"
CLIENTS = "client"
SITES = (*MEMBERS, ARBITER, CLIENTS)
LOOPBACK = "127.0.0.1"
HERE = "here"
"""The machine's own loopback address, for the one server that cannot live anywhere else: the Temporal dev server tells
its inner services to find each other at 127.0.0.1, whatever address it is told to listen on (server 1.32)."""
FIRST_PORT, LAST_PORT = 20_000, 31_999
"""Below the kernel's ephemeral range (32768 up), so that no outgoing connection takes a restarting server's port."""

LISTENERS = {"CLIENT": CLIENTS, "MIRROR": "", "CONTROL": ARBITER, "INTERNAL": None, "CONTROLLER": None}
"""Broker listeners and the site they are advertised to through a link; "" is the other member, None is not a link."""

LISTENER_SERVICE = "kafka"

WORKER = "worker"
WORKERS = {WORKER: ARBITER, **{f"{WORKER}-{member}": member for member in MEMBERS}}
"""Names of the product's workers, and where each one runs."""


@dataclass(frozen=True, order=True)
class Address:
    """A TCP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        host, _, port = text.rpartition(":")
        return cls(host, int(port))


@dataclass(frozen=True)
class LinkEntry:
    """One fault proxy of a link: who dials `listen` ends up at `upstream`."""

    proxy: str
    listen: Address
    upstream: Address


@dataclass(frozen=True)
class Link:
    """A way from one site, or process, to another for one service."""

    source: str
    destination: str
    service: str
    entries: tuple[LinkEntry, ...]

    @property
    def name(self) -> str:
        return f"{self.source}->{self.destination}:{self.service}"

    @property
    def listen(self) -> tuple[Address, ...]:
        return tuple(entry.listen for entry in self.entries)


def other(member: str) -> str:
    return MEMBERS[1 - MEMBERS.index(member)]


def brokers(member: str, count: int) -> tuple[str, ...]:
    """Process names of a member's brokers."""
    return tuple(f"kafka-{member}-{number}" for number in range(1, count + 1))


@dataclass(frozen=True)
class Plan:
    """All addresses of a lab. `ports` is keyed `<process>/<purpose>`."""

    prefix: str
    brokers: int
    ports: Mapping[str, Address]
    links: tuple[Link, ...]

    def site(self, name: str) -> str:
        return site_address(self.prefix, name)

    def link(self, source: str, destination: str, service: str) -> Link:
        name = f"{source}->{destination}:{service}"
        for link in self.links:
            if link.name == name:
                return link
        raise KeyError(name)

    def crossing(self, site: str, inward: bool = True, outward: bool = True) -> list[Link]:
        """Links between a site and the others: those that lead to it, and those that lead out of it."""
        return [
            link
            for link in self.links
            if link.source in SITES and ((inward and link.destination == site) or (outward and link.source == site))
        ]

    def temporal(self, site: str) -> Address:
        """Temporal's frontend as a process at `site` reaches it."""
        there = self.ports["temporal/frontend"]
        return self.link(site, ARBITER, "temporal").listen[0] if site in MEMBERS else there

    def connect(self, site: str, member: str) -> Address:
        """REST of a member's Connect as a process at `site` reaches it."""
        own = self.ports[f"connect-{member}/rest"]
        return own if site == member else self.link(site, member, "connect").listen[0]

    def agent(self, broker: str) -> Address:
        """Where a broker asks for its marker."""
        return self.link(broker, f"agent-{site_of(broker)}", "marker").listen[0]

    def kafka(self, member: str, listener: str) -> list[Address]:
        """How to reach a member's brokers on a listener, as they advertise it."""
        through = LISTENERS[listener]
        if through is None:
            return [self.ports[f"{broker}/{listener.lower()}"] for broker in brokers(member, self.brokers)]
        return list(self.link(through or other(member), member, LISTENER_SERVICE).listen)


def site_address(prefix: str, site: str) -> str:
    return LOOPBACK if site == HERE else f"{prefix}.{SITES.index(site) + 1}"


def site_of(name: str) -> str:
    """The site itself, or the one of a process that is named after it."""
    return next(site for site in SITES if site in name)


def wanted_ports(broker_count: int) -> Iterator[tuple[str, str]]:
    """(key, site) of every port a lab needs, in a fixed order."""
    for member in MEMBERS:
        for broker in brokers(member, broker_count):
            for listener in LISTENERS:
                yield f"{broker}/{listener.lower()}", member
        yield f"connect-{member}/rest", member
        yield f"agent-{member}/marker", member
        yield f"agent-{member}/status", member
    for site in (*MEMBERS, ARBITER):
        yield f"etcd-{site}/client", site
        yield f"etcd-{site}/peer", site
        yield f"egress/{site}", site
    yield "etcd-kube/client", ARBITER
    yield "etcd-kube/peer", ARBITER
    yield "kube-apiserver/https", ARBITER
    yield "temporal/frontend", HERE
    yield "temporal/ui", ARBITER
    yield "toxiproxy/api", CLIENTS
    yield "endpoint-proxy/bootstrap", CLIENTS


def link_targets(broker_count: int) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """(source, destination, service, port keys behind it) of every link."""
    for member in MEMBERS:
        for listener, source in LISTENERS.items():
            if source is not None:
                keys = tuple(f"{broker}/{listener.lower()}" for broker in brokers(member, broker_count))
                yield source or other(member), member, LISTENER_SERVICE, keys
        for broker in brokers(member, broker_count):
            yield broker, f"agent-{member}", "marker", (f"agent-{member}/marker",)
        yield ARBITER, member, "connect", (f"connect-{member}/rest",)
        yield other(member), member, "connect", (f"connect-{member}/rest",)
        yield member, ARBITER, "temporal", ("temporal/frontend",)
    stores = (*MEMBERS, ARBITER)
    for source in stores:
        for destination in stores:
            if source != destination:
                yield source, destination, "etcd-peer", (f"etcd-{destination}/peer",)
                yield source, destination, "etcd", (f"etcd-{destination}/client",)
    yield CLIENTS, ARBITER, "kubernetes", ("kube-apiserver/https",)


def make_plan(prefix: str, broker_count: int, is_free: Callable[[Address], bool]) -> Plan:
    """Give every process and every link a free port, lowest first.

    Raises: LabError when the range holds too few free ports.
    """
    candidates = {site: iter(range(FIRST_PORT, LAST_PORT + 1)) for site in SITES}
    candidates[HERE] = iter(_shared_ports(prefix))

    def take(site: str) -> Address:
        host = site_address(prefix, site)
        for port in candidates[site]:
            if is_free(address := Address(host, port)):
                return address
        raise LabError(f"no free port between {FIRST_PORT} and {LAST_PORT} on {host}: pass another --site-prefix")

    ports = {key: take(site) for key, site in wanted_ports(broker_count)}
    links = []
    for source, destination, service, keys in link_targets(broker_count):
        entries = tuple(
            LinkEntry(f"{source}.{destination}.{service}.{number}", take(site_of(source)), ports[key])
            for number, key in enumerate(keys, 1)
        )
        links.append(Link(source, destination, service, entries))
    return Plan(prefix, broker_count, ports, tuple(links))


def _shared_ports(prefix: str) -> list[int]:
    """Ports for the address that all labs share: each prefix begins elsewhere, so that a lab that is down meanwhile,
    or planned at the same moment, seldom wants the same one."""
    _, second, third = (int(part) for part in prefix.split("."))
    everything = range(FIRST_PORT, LAST_PORT + 1)
    start = (second * 256 + third) * 7 % len(everything)
    return [*everything[start:], *everything[:start]]


def prefixes(seed: str, taken: Sequence[str]) -> Iterator[str]:
    """Loopback prefixes to try, in an order that depends on `seed`, so that two labs seldom want the same one."""
    generator = random.Random(hashlib.sha256(seed.encode()).digest())
    for _ in range(200):
        prefix = f"127.{generator.randint(16, 250)}.{generator.randint(1, 250)}"
        if prefix not in taken:
            yield prefix


def port_is_free(address: Address) -> bool:
    """Try to bind it. SO_REUSEADDR, as every server does: a connection in TIME_WAIT does not make a port taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError:
            return False
    return True
