"""From settings to ports: the scopes a worker serves, with every adapter behind them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from adapters.connect import ConnectControl
from adapters.etcd import EtcdClient, EtcdIntentStore, EtcdLeaseStore
from adapters.kafka import KafkaCluster
from adapters.kubernetes import KubernetesEndpoint
from dcdr.errors import DcdrError, InvalidRequestError
from dcdr.model import Timing
from dcdr.ports import Member, Scope
from dcdr.settings import Fence, MemberSettings, ScopeSettings, Settings

log = logging.getLogger(__name__)

HEARTBEATS = "heartbeats"
"""The mirror's own heartbeat topic on each side: says that a mirror lives, and is left out of the cut."""


class _Adapter(Protocol):
    async def warm(self) -> None: ...

    async def close(self) -> None: ...


@dataclass
class SettingsDirectory:
    """`dcdr.ports.Directory` over real servers. Use it from one event loop: `warm` first, `close` last."""

    scopes: dict[str, Scope]
    _adapters: dict[str, _Adapter] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.scopes))

    def scope(self, name: str) -> Scope:
        found = self.scopes.get(name)
        if found is None:
            raise InvalidRequestError(
                f"this worker serves no scope {name!r}; known: {', '.join(self.names()) or 'none'}"
            )
        return found

    async def warm(self) -> None:
        """Prepare every connection, side by side. What does not answer is logged and connected later: a worker must
        come up while a data center is down."""
        await self._each("is not warm", lambda adapter: adapter.warm())

    async def close(self) -> None:
        """Close every connection."""
        await self._each("did not close cleanly", lambda adapter: adapter.close())

    async def _each(self, trouble: str, act: Callable[[_Adapter], Awaitable[None]]) -> None:
        async def one(name: str, adapter: _Adapter) -> None:
            try:
                await act(adapter)
            except DcdrError as error:
                log.warning("%s %s: %s", name, trouble, error)

        await asyncio.gather(*(one(name, adapter) for name, adapter in self._adapters.items()))


def build_directory(settings: Settings) -> SettingsDirectory:
    """Make every adapter the settings name; nothing is connected yet.

    Raises: MisconfiguredError for settings no adapter could work with (a secret file that is missing, addresses an
    EndpointSlice cannot hold).
    """
    directory = SettingsDirectory({})
    for name, scope in settings.scopes.items():
        client = EtcdClient(scope.store.endpoints, timeout=scope.store.request_timeout)
        lease = EtcdLeaseStore(client, scope.store.prefix)
        agents = all(member.agent is not None for member in scope.members.values())
        intents = EtcdIntentStore(client, scope.store.prefix) if agents else None
        endpoint = KubernetesEndpoint(scope.endpoint, {dc: member.endpoint for dc, member in scope.members.items()})
        directory._adapters |= {f"{name}: lease store": lease, f"{name}: endpoint": endpoint}
        reserved = _reserved(scope.members.values())
        members = {}
        for dc, member in scope.members.items():
            kafka = KafkaCluster(dc, member.kafka, member.connect, scope.fence)
            connect = ConnectControl(dc, member.connect)
            directory._adapters |= {f"{name}: Kafka of {dc}": kafka, f"{name}: Connect of {dc}": connect}
            members[dc] = _member(dc, kafka, connect, member, reserved)
        directory.scopes[name] = _scope(name, settings, scope, members, lease, intents, endpoint)
    return directory


def _member(
    dc: str, kafka: KafkaCluster, connect: ConnectControl, settings: MemberSettings, reserved: frozenset[str]
) -> Member:
    return Member(
        name=dc,
        fence=kafka.fence,
        logs=kafka.logs,
        transactions=kafka.transactions,
        groups=kafka.groups,
        ledger=kafka.ledger,
        connect=connect,
        positions=kafka.positions,
        connect_group_id=settings.connect.group_id,
        reserved_topics=reserved,
    )


def _reserved(members: Iterable[MemberSettings]) -> frozenset[str]:
    """Names that must never cross, of both sides: a topic one side keeps to itself must not be fed by the other."""
    names = {HEARTBEATS}
    for member in members:
        names |= {*member.connect.internal_topics, member.connect.offsets_topic}
        names |= {member.kafka.canary_topic, member.kafka.ledger_topic, member.kafka.health_topic}
    return frozenset(names)


def _own_groups(members: Mapping[str, MemberSettings]) -> dict[str, str]:
    """Of both sides, on either: a Connect cluster may once have lived on the other one."""
    canaries = {member.kafka.canary_topic: "the canary's own group" for member in members.values()}
    return canaries | {member.connect.group_id: f"the workers of {dc}'s Connect" for dc, member in members.items()}


def _scope(
    name: str,
    settings: Settings,
    scope: ScopeSettings,
    members: dict[str, Member],
    lease: EtcdLeaseStore,
    intents: EtcdIntentStore | None,
    endpoint: KubernetesEndpoint,
) -> Scope:
    drain, mirror = settings.drain, scope.mirror
    return Scope(
        name=name,
        members=members,
        arbiters=scope.arbiters,
        lease=lease,
        intents=intents,
        endpoint=endpoint,
        timing=Timing(
            drain_deadline=drain.deadline,
            operation_deadline=drain.operation_deadline,
            quiet=drain.quiet,
            lagging_group_budget=drain.lagging_group_budget,
        ),
        entry_lag_limit=drain.entry_lag_limit,
        failover=scope.failover,
        cooperative=scope.fence is Fence.ACL,
        lease_timing=scope.lease.timing,
        own_groups=_own_groups(scope.members),
        group_exclude=scope.groups.exclude,
        source_connector=mirror.source_connector,
        checkpoint_connector=mirror.checkpoint_connector,
        heartbeat_connector=mirror.heartbeat_connector,
        gated=scope.fence is Fence.AUTHORIZER,
    )
