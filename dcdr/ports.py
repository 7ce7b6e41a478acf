"""What the core needs from the world, as Protocols. Adapters implement them; `adapters.memory` is a faithful stand-in.

Every method may raise `UnreachableError` (no answer in time; whether it took effect is unknown) and, where it writes,
`ConflictError`. Every write is idempotent: called twice, the end state is the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from dcdr.bounds import PRESETS, LeaseTiming, Preset
from dcdr.intent import Intent, StoredIntent
from dcdr.model import (
    CommittedOffset,
    Connector,
    FailoverPolicy,
    FenceRules,
    Gate,
    GroupInfo,
    LeaseRecord,
    LogEnds,
    Measured,
    OffsetRange,
    OpenTransaction,
    Spans,
    StoredLease,
    Timing,
    Topic,
    TopicPartition,
    VisibleRecords,
)


class LeaseStore(Protocol):
    """The record that says which data center may be written to. A committed compare-and-swap is the only proof."""

    async def read(self, scope: str) -> StoredLease | None:
        """Linearizable read; None where no record exists (it is never created by itself)."""

    async def swap(self, expected: StoredLease, record: LeaseRecord) -> StoredLease:
        """Write `record` if the stored revision is still `expected.revision`.

        Raises: ConflictError when somebody wrote in between (also when it was our own lost answer: read to find out).
        """

    async def bootstrap(self, record: LeaseRecord) -> StoredLease:
        """Create the record; an operator's act. Raises: ConflictError when one exists."""

    def watch(self, scope: str, after: StoredLease | None = None) -> AsyncIterator[StoredLease | None]:
        """Every change of the record after `after` (None: from now on); None where it was deleted.

        A hint to look, never a proof.
        """


class IntentStore(Protocol):
    """What workflows ask of the agents, one intent a scope, beside the lease record."""

    async def read(self, scope: str) -> StoredIntent:
        """Linearizable read; revision 0 where none was ever written."""

    async def write(self, scope: str, expected: StoredIntent, intent: Intent) -> StoredIntent:
        """Write if the stored revision is still `expected.revision`. Raises: ConflictError when it is not."""


class ProduceFence(Protocol):
    """The users' two gates of one cluster: producing (and topic changes), and group commits; and the mirror's, seen."""

    async def rules(self) -> FenceRules:
        """What stands in the authorizer now, read from the cluster."""

    async def close_users(self) -> None:
        """Deny every ordinary principal WRITE, CREATE, DELETE and ALTER on every topic."""

    async def open_users(self) -> None:
        """Remove exactly what `close_users` added."""

    async def users_gates(self) -> Mapping[int, Gate]:
        """Ask *every* broker by effect: the canary produces to the partition it leads. Keyed by broker id.

        A broker that gave no answer is UNKNOWN.
        """

    async def freeze_groups(self) -> None:
        """Deny every ordinary principal READ on every group: no commit, no join, no offset fetch."""

    async def thaw_groups(self) -> None:
        """Remove exactly what `freeze_groups` added."""

    async def group_gates(self) -> Mapping[int, Gate]:
        """Ask every broker by effect: a commit of the canary's group is refused for its authorization, or not."""

    async def mirror_gates(self) -> Mapping[int, Gate]:
        """As `users_gates`, asked by the mirror's canary. Only the lease moves this gate, and only in a gated scope.

        Raises: MisconfiguredError without such a canary.
        """


class Health(Protocol):
    """Whether one cluster could be the active one, judged by what it does."""

    async def trouble(self) -> tuple[str, ...]:
        """What speaks against it, a sentence each; empty when it takes a write with acks=all, most of its registered
        brokers are there, and its controllers have a leader. No answer in time is a sentence, not an error."""


class Logs(Protocol):
    """One cluster's topics and logs, read from the partition leaders."""

    async def brokers(self) -> tuple[int, ...]:
        """Ids of the brokers that are registered and not fenced, sorted."""

    async def topics(self, *, configs: bool = False) -> Mapping[str, Topic]:
        """All topics, internal ones included. `configs=True` adds the effective configuration (slower)."""

    async def ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, LogEnds]:
        """Start, LEO (ListOffsets with replica id -2), HW and LSO of each partition, from its leader."""

    async def visible(
        self, ranges: Mapping[TopicPartition, OffsetRange], limit: int
    ) -> Mapping[TopicPartition, VisibleRecords]:
        """What a read_committed consumer sees in each range: data records only, aborted ones left out.

        Reads at most `limit` records a partition; `limit=1` answers "is there any?".
        """

    async def spans(self, ranges: Mapping[TopicPartition, OffsetRange]) -> Mapping[TopicPartition, Spans]:
        """The batches of which a read_committed consumer sees records, by their headers alone: counting is cheap.

        The first batch may begin before the range. Every range is read to its end, or to the last stable offset.
        """

    async def measure(
        self, ranges: Mapping[TopicPartition, OffsetRange], limits: Mapping[TopicPartition, int] | None = None
    ) -> Mapping[TopicPartition, Measured]:
        """As `visible`, of ranges of any length: counts, sizes, times, a running digest. Keeps no record.

        `limits`: of these partitions no more than so many records, the first ones; reaching the limit is complete.
        """

    async def keys(self, ranges: Mapping[TopicPartition, OffsetRange], limit: int) -> tuple[bytes, ...]:
        """Distinct keys of the visible records of `ranges`, by partition and offset, `limit` at most; records without a
        key are passed over. Reads no further than it has to."""

    async def active_producers(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Number of producers with a live sequence whose last write is younger than a minute."""


class Transactions(Protocol):
    """One cluster's transaction coordinator."""

    async def open(self) -> tuple[OpenTransaction, ...]:
        """Transactions that have begun and not ended, of all principals (the mirror's too)."""

    async def fence(self, transactional_ids: Collection[str]) -> None:
        """Take over each id with InitProducerId: an open transaction is aborted, its producer can never write again."""


class ConsumerGroups(Protocol):
    """One cluster's groups and their committed offsets."""

    async def groups(self) -> tuple[GroupInfo, ...]:
        """All groups of all kinds."""

    async def committed(self, groups: Collection[str]) -> Mapping[str, Mapping[TopicPartition, CommittedOffset]]:
        """Committed positions; a group without any has an empty mapping."""

    async def write(self, group: str, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Commit for a group without members, without leader epochs.

        Raises: ConflictError when the group has members on this cluster.
        """

    async def expel(self, groups: Collection[str]) -> int:
        """Remove every member these groups have; how many were removed. Where they may, their clients join again."""


class Ledger(Protocol):
    """One cluster's compacted ledger topic."""

    async def put(self, key: str, body: bytes) -> None:
        """Durable (acks=all) on return."""

    async def get(self, key: str) -> bytes | None:
        """The latest body under this key, read to the end of the topic as of the call."""

    async def find(self, prefix: str, ending: str = "") -> Mapping[str, bytes]:
        """All entries whose key starts with `prefix` and ends with `ending`, read to the end of the topic as of the
        call. Entries are large: a key that is half known is asked for by both its ends."""


class MirrorControl(Protocol):
    """One Connect cluster over REST. 409 while it rebalances is a ConflictError."""

    async def connectors(self) -> Mapping[str, Connector]:
        """All connectors with state, tasks and configuration."""

    async def stop(self, connector: str) -> None:
        """Ask for STOPPED; returns when the request is accepted, not when the tasks have ended."""

    async def resume(self, connector: str) -> None:
        """Ask for RUNNING; returns when the request is accepted."""

    async def restart(self, connector: str, *, only_failed: bool) -> None:
        """Restart the tasks; with `only_failed` what has failed, be it tasks or the connector. STOPPED stays so."""

    async def reload(self, connector: str) -> None:
        """Restart the connector, not its tasks: it looks for new topics now and hands them on. STOPPED stays so.

        Never with its tasks: those would be stopped for their new topics while they start.
        """

    async def offsets(self, connector: str) -> Mapping[TopicPartition, int]:
        """Stored source offsets: of the last copied record, not of the next one."""

    async def seed(self, connector: str, offsets: Mapping[TopicPartition, int | None], *, source: str) -> None:
        """Overwrite stored offsets of a STOPPED connector; None forgets one (it then starts at the beginning).

        `source` is the cluster alias, part of the stored key.
        """


class MirrorPositions(Protocol):
    """A warm, read_committed tail of one Connect cluster's offsets topic: as `MirrorControl.offsets`, at once."""

    async def current(self, connector: str) -> Mapping[TopicPartition, int]:
        """Stored offsets as of the call or later: the tail has read to the end the topic had at the call."""


@dataclass(frozen=True)
class EndpointView:
    """Where clients are sent: the member whose addresses the endpoint holds (None: neither's), and its epoch."""

    dc: str | None
    epoch: int


class Endpoint(Protocol):
    """What clients bootstrap from."""

    async def read(self) -> EndpointView:
        """The target as it stands."""

    async def flip(self, dc: str, epoch: int) -> None:
        """Point clients at `dc`. Raises: SupersededError when the endpoint carries a later epoch already."""


@dataclass(frozen=True)
class Member:
    """One data-bearing data center, as the operator reaches it."""

    name: str
    fence: ProduceFence
    logs: Logs
    transactions: Transactions
    groups: ConsumerGroups
    ledger: Ledger
    connect: MirrorControl
    positions: MirrorPositions
    connect_group_id: str
    reserved_topics: frozenset[str]
    """Topics that must never cross: this Connect's internal ones, the canary, the ledger."""


NO_POLICY = FailoverPolicy()


@dataclass(frozen=True)
class Scope:
    """Everything that fails over together, with the names and limits its settings gave."""

    name: str
    members: Mapping[str, Member]
    arbiters: tuple[str, ...]
    lease: LeaseStore
    endpoint: Endpoint
    timing: Timing
    entry_lag_limit: int
    own_groups: Mapping[str, str]
    """Groups that are nobody's to carry, by exact name, each with what it is: Connect's workers, the canary."""
    group_exclude: tuple[str, ...]
    source_connector: str
    checkpoint_connector: str
    heartbeat_connector: str
    failover: FailoverPolicy = NO_POLICY
    lease_timing: LeaseTiming = PRESETS[Preset.STANDARD]
    intents: IntentStore | None = None
    """Where agents keep the lease: what they are asked. None: there are no agents, and steps change the record."""
    gated: bool = False
    """The brokers obey the agents' markers: a side that is cut off closes, and the mirror has a gate of its own. False
    (ACL mode): the fence is rules that stay as they are, and the mirror may always write."""

    def member(self, name: str) -> Member:
        return self.members[name]


class Directory(Protocol):
    """The scopes this worker serves."""

    def scope(self, name: str) -> Scope:
        """Raises: InvalidRequestError with the known names when there is no such scope."""

    def names(self) -> tuple[str, ...]:
        """Names of all scopes, sorted."""
