"""The nouns. Everything that crosses a wire (workflow payload, etcd, ledger topic) is a frozen pydantic model here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

ScopeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
DataCenterName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class Message(BaseModel):
    """Base of what travels: frozen, unknown keys refused, so that a typo in a hand-written JSON is heard."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TopicPartition(NamedTuple):
    """One partition of one topic; sorts by topic, then number."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


# --- requests and plans ---------------------------------------------------------------------------------------------


class SwitchoverRequest(Message):
    """What a person asks for; one flat JSON object, so that the Temporal UI's form and `--input` can carry it."""

    scope: ScopeName
    target: DataCenterName
    reason: Annotated[str, StringConstraints(max_length=400)] = ""
    requested_by: Annotated[str, StringConstraints(max_length=100)] = ""
    dry_run: bool = False
    """Preflight and plan only: nothing is changed."""


BY_ITSELF = frozenset({"watch", "worker"})
"""`requested_by` of failovers that no person asked for: they go on from a takeover, and never ask for one."""


class FailoverRequest(Message):
    """`target` is to become active although the active side is lost. Started by the watch, or asked for by a person."""

    scope: ScopeName
    target: DataCenterName
    reason: Annotated[str, StringConstraints(max_length=400)] = ""
    requested_by: Annotated[str, StringConstraints(max_length=100)] = ""


class LossAcceptance(Message):
    """A person accepts to lose what is not on the target: at most `records` (None: although nobody knows how many).

    Valid once, for the bound that it names: a bound that has grown since is asked for again.
    """

    records: Annotated[int, Field(ge=0)] | None
    by: Annotated[str, StringConstraints(max_length=100)] = ""
    reason: Annotated[str, StringConstraints(max_length=400)] = ""


class AbortRequest(Message):
    """Who wants the operation undone, and why."""

    by: Annotated[str, StringConstraints(max_length=100)] = ""
    reason: Annotated[str, StringConstraints(max_length=400)] = ""


class RecoveryRequest(Message):
    """Finish or undo whatever operation the scope's lease still names."""

    scope: ScopeName
    requested_by: Annotated[str, StringConstraints(max_length=100)] = ""


class Mirror(Message):
    """One direction of mirroring; it runs on the target's Connect cluster."""

    source: DataCenterName
    target: DataCenterName
    source_connector: str
    checkpoint_connector: str
    heartbeat_connector: str

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"


class Timing(Message):
    """Waiting times of one operation, taken from the settings when it was planned."""

    drain_deadline: timedelta
    operation_deadline: timedelta
    quiet: timedelta
    lagging_group_budget: int


class OperationKind(StrEnum):
    """SWITCHOVER: planned, drained, the lease is handed over. FAILOVER: taken over, the source is lost."""

    SWITCHOVER = "switchover"
    FAILOVER = "failover"


class Operation(Message):
    """Who acts: every step carries it, and a target or a record that has moved on refuses it.

    `epoch` is that of the source's tenure, so the target's is `epoch + 1`: after the handover of a switchover, and from
    the beginning of a failover. `turn` is that of the record it was planned from.
    """

    scope: ScopeName
    id: str
    epoch: int
    turn: int = 0
    source: DataCenterName
    target: DataCenterName
    kind: OperationKind = OperationKind.SWITCHOVER


class SwitchoverPlan(Message):
    """What a switchover will do, decided once by `plan_switchover`; the workflow carries it from step to step."""

    operation: Operation
    retiring: Mirror
    standing: Mirror
    timing: Timing
    topics: int
    partitions: int
    left_out: tuple[str, ...]
    """Topics that are not mirrored: internal ones, by exact name or the `.internal` ending."""
    groups: tuple[str, ...]
    warnings: tuple[str, ...] = ()


# --- lease ----------------------------------------------------------------------------------------------------------


class Phase(StrEnum):
    """ACQUIRED: taken over, not open yet. OPEN: the holder's users may write. DRAINING: a switchover is under way."""

    ACQUIRED = "ACQUIRED"
    OPEN = "OPEN"
    DRAINING = "DRAINING"


class Pause(Message):
    """No takeover by itself until `until`. `maintenance`: the holder keeps the lease although its Kafka is unwell."""

    until: datetime
    maintenance: bool = False
    by: Annotated[str, StringConstraints(max_length=100)] = ""
    reason: Annotated[str, StringConstraints(max_length=400)] = ""


class LeaseRecord(Message):
    """Who may be written to. Changed by compare-and-swap only; see `dcdr.lease` for the transitions allowed.

    `op_id` names the unfinished operation, whatever the phase says. `deadline` is for whoever finds it left behind.
    `ledger` is the digest of the ledger entry the handover named: from then on only that entry counts. `turn` counts
    the operations that have ended, undone ones too: an attempt of any of them is late for good. `mirrored` says whether
    the mirror may write to the data center that does not hold the lease; `cuts` how often this operation's was retaken.
    `closed` says whether the holder's users are kept out while it drains: the intent alone does not begin the outage.
    `behind` names the data center that a failover left: what it holds is not what the holder's users have seen, and it
    takes nothing over until a failback has set it right. `last_open` is set by a takeover: the data center whose users
    wrote last, whoever took the lease since; it is handed back to that one alone. `acquired_at` is when the lease was
    last taken over, by the taker's wall clock, and `acquired_after_s` how long before that it had last seen a sign of
    life: for people and for the cool-down, never for safety. `pause` keeps agents from taking over by themselves.
    `keeper` names the one of the holder's agents that acts, None before any has: only agents set it.
    """

    scope: ScopeName
    holder: DataCenterName
    epoch: Annotated[int, Field(ge=1, lt=2**62)]
    seq: Annotated[int, Field(ge=0)] = 0
    turn: Annotated[int, Field(ge=0)] = 0
    phase: Phase = Phase.OPEN
    op_id: str | None = None
    op_source: DataCenterName | None = None
    op_target: DataCenterName | None = None
    op_kind: OperationKind = OperationKind.SWITCHOVER
    deadline: datetime | None = None
    ledger: str | None = None
    closed: bool = False
    mirrored: bool = True
    cuts: Annotated[int, Field(ge=0)] = 0
    behind: DataCenterName | None = None
    last_open: DataCenterName | None = None
    acquired_at: datetime | None = None
    acquired_after_s: float | None = None
    pause: Pause | None = None
    keeper: str | None = None

    @property
    def operation(self) -> Operation | None:
        """The unfinished operation this record names, with the epoch it started from."""
        if self.op_id is None or self.op_source is None or self.op_target is None:
            return None
        moved = self.holder == self.op_target
        return Operation(
            scope=self.scope,
            id=self.op_id,
            epoch=self.epoch - 1 if moved else self.epoch,
            turn=self.turn,
            source=self.op_source,
            target=self.op_target,
            kind=self.op_kind,
        )


class StoredLease(NamedTuple):
    """A record and the revision it was read at: the token of the next compare-and-swap."""

    record: LeaseRecord
    revision: int


# --- Kafka ----------------------------------------------------------------------------------------------------------


class Topic(NamedTuple):
    """`topic_id` is Kafka's UUID as text; `config` holds the effective values the preflight looks at."""

    name: str
    topic_id: str
    partitions: int
    config: Mapping[str, str] = {}


class LogEnds(NamedTuple):
    """Offsets of one partition as its leader knows them.

    `start`: first offset kept; `leo`: next offset to be written; `hw`: first offset not yet on all in-sync replicas;
    `lso`: first offset of an open transaction, else `hw`; `leader_epoch`: -1 where the broker does not tell.
    """

    start: int
    leo: int
    hw: int
    lso: int
    leader_epoch: int = -1

    @property
    def settled(self) -> bool:
        return self.leo == self.hw == self.lso


class OffsetRange(NamedTuple):
    """Offsets `[first, end)`."""

    first: int
    end: int


class RecordDigest(NamedTuple):
    """A visible record: its offset, a digest over key, value, headers and timestamp (not the offset), and one over the
    key alone, empty where there is no key."""

    offset: int
    digest: bytes
    key: bytes = b""


class VisibleRecords(NamedTuple):
    """The records a read_committed consumer sees in a range, lowest offsets first.

    `complete` is False when the read stopped at the limit, or before the end of the range (an open transaction).
    """

    records: tuple[RecordDigest, ...]
    complete: bool


class Span(NamedTuple):
    """A visible batch by its header: `records` of them, somewhere in the offsets `[first, end)`."""

    first: int
    end: int
    records: int


class Spans(NamedTuple):
    """The visible batches that touch a range, in order; `complete` as in `VisibleRecords`."""

    spans: tuple[Span, ...]
    complete: bool


class Measured(NamedTuple):
    """The visible records of a range, counted and not kept.

    `first`, `last`: offsets, None where there is none. `size`: bytes of keys, values and headers, before compression.
    `earliest_ms`, `latest_ms`: of the records' own timestamps. `digest`: over all of them in order, so that two equal
    ones hold the same records, whatever their offsets. `complete` is False when the read ended before the end of the
    range (an open transaction).
    """

    records: int = 0
    size: int = 0
    first: int | None = None
    last: int | None = None
    earliest_ms: int | None = None
    latest_ms: int | None = None
    digest: bytes = b""
    complete: bool = False


class Gate(StrEnum):
    """What one broker answered the canary. UNKNOWN is never taken for CLOSED."""

    OPEN = "open"
    CLOSED = "closed"
    UNKNOWN = "unknown"


class FenceRules(NamedTuple):
    """What stands in a cluster's authorizer: the users' DENY rules, and the groups' one."""

    authorizer: bool
    default_deny: bool | None
    """`allow.everyone.if.no.acl.found` is false. None: it cannot be seen while our own rules stand."""
    users_denied: bool
    groups_denied: bool
    super_users: frozenset[str] = frozenset()
    canary_granted: bool = True
    """Without our DENY rules the canary may write to its topic and commit in its group: so a refusal is the fence's."""
    ungated: tuple[int, ...] = ()
    """Brokers that do not run our authorizer, where the settings say that all do."""


class OpenTransaction(NamedTuple):
    """A transaction that has begun and neither committed nor aborted."""

    transactional_id: str
    producer_id: int
    state: str
    partitions: tuple[TopicPartition, ...]


class GroupKind(StrEnum):
    """CONSUMER covers classic and KIP-848 consumer groups; the others cannot be carried over from here."""

    CONSUMER = "consumer"
    SHARE = "share"
    STREAMS = "streams"
    OTHER = "other"


class GroupInfo(NamedTuple):
    """A group as its coordinator describes it."""

    name: str
    kind: GroupKind
    state: str
    members: int


class CommittedOffset(NamedTuple):
    """A committed position: the next offset to read, and the application's own metadata string."""

    offset: int
    metadata: str = ""


# --- Connect --------------------------------------------------------------------------------------------------------


class ConnectorState(StrEnum):
    """Connect's own words."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    UNASSIGNED = "UNASSIGNED"
    RESTARTING = "RESTARTING"


class Connector(NamedTuple):
    """A connector: its target state, its tasks' states, its configuration (secrets as Connect's own references)."""

    name: str
    state: ConnectorState
    tasks: tuple[ConnectorState, ...]
    config: Mapping[str, str]
    trace: str = ""

    @property
    def running(self) -> bool:
        states = (self.state, *self.tasks)
        return bool(self.tasks) and all(state is ConnectorState.RUNNING for state in states)

    @property
    def stopped(self) -> bool:
        return self.state is ConnectorState.STOPPED and not self.tasks

    @property
    def failed(self) -> bool:
        return ConnectorState.FAILED in (self.state, *self.tasks)


# --- ledger ---------------------------------------------------------------------------------------------------------


class EntryRef(Message):
    """A ledger entry by key and content: `key` ends with the digest, so two attempts never overwrite each other."""

    key: str
    digest: str


class Verdict(StrEnum):
    """What was shown of one partition. All are drained: no visible record lies between M and the cut.

    COMPARED: besides, the last records of both sides are the same. EMPTY: the source holds no visible record to
    compare. UNCOMPARED: the target no longer holds them (retention, compaction).
    """

    COMPARED = "compared"
    EMPTY = "empty"
    UNCOMPARED = "uncompared"


class CutRow(Message):
    """One source partition at the cut: `end` is LEO = HW = LSO there. `mirrored` (M) is the offset of the last record
    the mirror copied, None where it never copied one. `target_end` is LSO = HW = LEO on the target."""

    topic: str
    partition: int
    topic_id: str
    start: int
    end: int
    leader_epoch: int = -1
    mirrored: int | None = None
    target_topic_id: str | None = None
    target_end: int | None = None
    verdict: Verdict | None = None


class Entry(Message):
    """Base of what stands in the ledger topic: whose it is, and its key by kind and content."""

    operation: Operation

    @property
    def kind(self) -> str:
        raise NotImplementedError

    def body(self) -> bytes:
        return self.model_dump_json(exclude_defaults=False).encode()

    def reference(self) -> EntryRef:
        digest = hashlib.sha256(self.body()).hexdigest()
        return EntryRef(key=f"{self.operation.scope}/{self.operation.id}/{self.kind}/{digest}", digest=digest)

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        return cls.model_validate_json(body)


class Cut(Entry):
    """All source partitions at one moment, with the operation that looked."""

    taken_at: datetime
    rows: tuple[CutRow, ...]
    complete: bool = False
    """True once every row holds its proof (M, target end): this is the entry the handover names."""

    @property
    def by_partition(self) -> dict[TopicPartition, CutRow]:
        return {TopicPartition(row.topic, row.partition): row for row in self.rows}

    @property
    def kind(self) -> str:
        return "ledger" if self.complete else "cut"


# --- failover -------------------------------------------------------------------------------------------------------


class FailoverMode(StrEnum):
    """Whether a failover opens the new side by itself when what it loses is inside the budget."""

    AUTOMATIC = "automatic"
    ASK = "ask"
    NEVER = "never"


class FailoverPolicy(Message):
    """What may be lost without asking anybody, and how the journal that knows it is kept."""

    mode: FailoverMode = FailoverMode.AUTOMATIC
    max_lost_records: Annotated[int, Field(ge=0)] | None = 100_000
    """The loss bound up to which a failover goes on by itself; None: any number that is known."""
    max_lost_seconds: Annotated[float, Field(ge=0)] | None = 120.0
    journal_every: timedelta = timedelta(seconds=2)
    rate_factor: Annotated[float, Field(ge=1)] = 1.5
    """For what was accepted since the journal's last look: the highest rate seen, times this."""
    acceptance_valid: timedelta = timedelta(minutes=15)
    cool_down: timedelta = timedelta(hours=1)
    """No second takeover by itself within; a person may ask."""
    open_without_workflow_after: timedelta | None = None
    """Temporal away for so long after a takeover: the agent opens by itself, by the same budget. None: never."""
    even_behind_acls: str = ""
    """`fence: acl` does not close a side that is cut off. A failover then asks, unless the owner says here, in his own
    words, that it need not: the words are kept in the report."""


class Watermarks(Message):
    """One look at both sides of a running mirror, kept on the standby: what is known when the active side is dark.

    `ends`: the source's log ends (LEO), of every topic that is to be mirrored. `mirrored`: M, the source offset of the
    last record copied, as Connect stores it. `unread`: where the first record beyond M may stand if that is not M + 1
    (or 0 without an M): what lies before was looked at and holds none (markers, aborted or deleted records). `since`:
    everything accepted before that moment had been copied at `taken_at`; None while that was never seen. `peak_per_s`:
    the most offsets a second that the source grew by between two looks, over the last minutes; None before there were
    two. `every_s`: the longest time between two looks that lay in a row. `topic_ids`: the source's. `tasks`,
    `exactly_once`: of the mirror's source connector, for when its Connect is not to be asked; 0 where it never was.
    """

    scope: ScopeName
    source: DataCenterName
    target: DataCenterName
    epoch: int
    taken_at: datetime
    topic_ids: dict[str, str]
    ends: dict[str, dict[int, int]]
    mirrored: dict[str, dict[int, int]]
    unread: dict[str, dict[int, int]] = {}
    since: datetime | None = None
    peak_per_s: float | None = None
    every_s: float
    tasks: int = 0
    exactly_once: bool = False


class ForkRow(Message):
    """One partition where the histories of both sides part. `target_end`: LSO = HW = LEO there, before it opened;
    `target_topic_id` is empty where the target does not have it at all: then everything the source holds is its tail.
    `mirrored` (M): offset on the source of the last record the target holds; None where it never copied one."""

    topic: str
    partition: int
    target_topic_id: str
    target_end: int
    mirrored: int | None = None
    source_topic_id: str | None = None
    source_end: int | None = None
    """As the journal saw it last; None where it never did."""


class LossBound(Message):
    """What a failover loses at most, known before it opens. None: nobody knows.

    `known`: offsets that the journal saw on the source beyond M. `assumed`: what may have been accepted between the
    journal's last look and the moment after which the source cannot have accepted anything (`until`), at the highest
    rate seen. Offsets count transaction markers and compacted holes like records: the bound errs on the careful side.
    """

    records: int | None
    known: int = 0
    assumed: int = 0
    since: datetime | None = None
    """Everything accepted before it is on the target."""
    until: datetime | None = None
    journal_at: datetime | None = None
    why: str = ""
    """Why nothing is known, or what the bound rests on."""

    @property
    def seconds(self) -> float | None:
        """How much time is lost at most."""
        if self.since is None or self.until is None:
            return None
        return max(0.0, (self.until - self.since).total_seconds())


class Fork(Entry):
    """Where both sides part, written on the target before it opens and after nothing could write there any more."""

    taken_at: datetime
    rows: tuple[ForkRow, ...]
    bound: LossBound
    exactly_once: bool
    """The mirror's records and M are atomic: then visible records of the source beyond M are exactly the tail."""

    @property
    def by_partition(self) -> dict[TopicPartition, ForkRow]:
        return {TopicPartition(row.topic, row.partition): row for row in self.rows}

    @property
    def kind(self) -> str:
        return "fork"


class TailCase(StrEnum):
    """What a partition of the old side was found to be, against the fork."""

    NONE = "none"
    TAIL = "tail"
    BEHIND = "behind"
    """It lost records that the target has (unclean restart, lost disk)."""
    DIVERGED = "diverged"
    """Another topic under the same name, or content that cannot be a continuation: for a person."""


class LostRows(Message):
    """The tail of one partition: visible records of the old side that were never copied, offsets in `[first, last]`."""

    topic: str
    partition: int
    case: TailCase
    first: int | None = None
    last: int | None = None
    records: int = 0
    bytes: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    note: str = ""


class LossReport(Entry):
    """What a failover lost, computed when the old side was back: every partition with a tail, and every one that is
    behind or diverged; `checked` counts all."""

    taken_at: datetime
    rows: tuple[LostRows, ...]
    checked: int
    records: int
    bytes: int
    bound: LossBound
    exactly_once: bool

    @property
    def kind(self) -> str:
        return "loss"


class TailPart(Message):
    """What a run of the tail's computation has done so far, kept beside the ledger's entries: a run that lost its
    worker goes on behind `done`. The next run overwrites it."""

    run: str
    fork: str
    """Digest of the Fork entry it is computed against."""
    done: TopicPartition
    """The last partition of this part; they are taken in order."""
    checked: int
    rows: tuple[LostRows, ...]


class TailRequest(Message):
    """Compute the tail that the last failover of `scope` left on the old side."""

    scope: ScopeName
    operation_id: str | None = None
    """None: of the last failover."""
    requested_by: Annotated[str, StringConstraints(max_length=100)] = ""


class TailResult(Message):
    """Totals and where the whole report stands (`entry`, in the ledger topic of the surviving side)."""

    scope: ScopeName
    operation_id: str
    source: DataCenterName
    target: DataCenterName
    entry: EntryRef
    cases: dict[TailCase, int]
    """Partitions by case."""
    records: int
    bytes: int
    bound: LossBound
    rows: tuple[LostRows, ...] = ()
    """The first hundred."""


class KeysRequest(Message):
    """Whose records were lost: distinct keys of the reported tail of one topic, `limit` at most."""

    scope: ScopeName
    topic: Annotated[str, StringConstraints(min_length=1, max_length=249)]
    operation_id: str | None = None
    """None: of the last failover."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class LostKeys(Message):
    """In order of partition and offset; UTF-8 where it is that, else `hex:` and the bytes. `more`: not all of them."""

    topic: str
    keys: tuple[str, ...]
    more: bool


# --- results --------------------------------------------------------------------------------------------------------


class StepState(StrEnum):
    PENDING = "pending"
    NOW = "NOW"
    DONE = "done"
    SKIPPED = "skipped"
    UNDONE = "undone"
    FAILED = "failed"


class StepReport(Message):
    """One step as it happened. `duration` is measured by the workflow, so it holds Temporal's own share too;
    `effect` is what the activity itself took."""

    name: str
    title: str
    state: StepState
    started: datetime | None = None
    duration: timedelta | None = None
    effect: timedelta | None = None
    note: str = ""
    in_outage: bool = False


class GroupVerdict(StrEnum):
    """EXACT: the same record comes next. APPROXIMATE: re-reads at most `bound` records. SKIPPED: not carried."""

    EXACT = "exact"
    APPROXIMATE = "approximate"
    SKIPPED = "skipped"


class GroupResult(Message):
    """One consumer group as it was placed, or why it was not."""

    group: str
    verdict: GroupVerdict
    partitions: int
    lag: int = 0
    bound: int = 0
    """Records that may be read twice; 0 when exact."""
    note: str = ""


class GroupPositions(Entry):
    """Where the groups stood on the source once they were frozen: from then on nobody can commit there.

    `committed`: group, topic, partition.
    """

    committed: dict[str, dict[str, dict[int, CommittedOffset]]]
    skipped: tuple[GroupResult, ...] = ()

    @property
    def kind(self) -> str:
        return "groups"

    @property
    def by_group(self) -> dict[str, dict[TopicPartition, CommittedOffset]]:
        return {
            group: {
                TopicPartition(topic, partition): position
                for topic, positions in topics.items()
                for partition, position in positions.items()
            }
            for group, topics in self.committed.items()
        }


class TailRow(Message):
    """Records accepted on the old active after the cut: offsets `[first, end)` of one partition, never silent."""

    topic: str
    partition: int
    first: int
    end: int


class StepInput(Message):
    """What every step is handed: who acts, and the ledger entry (or the cut) it acts on."""

    operation: Operation
    entry: EntryRef | None = None


class StepResult(Message):
    """What every step answers: when its effect began, how long it took, one line for people, counts for machines."""

    started: datetime
    took: timedelta
    note: str = ""
    counts: dict[str, int] = {}
    entry: EntryRef | None = None


class TransactionsResult(StepResult):
    """Transactional ids that were taken over because their transaction was still open."""

    fenced: tuple[str, ...] = ()


class GroupsResult(StepResult):
    groups: tuple[GroupResult, ...] = ()


class HandoverResult(StepResult):
    """`changed` is not empty when the last look found something after the cut: then nothing was handed over."""

    changed: tuple[str, ...] = ()


class ReopenResult(StepResult):
    """`moved`: the handover had committed, so nothing was reopened and there is only forward."""

    moved: bool = False
    begun: bool = True
    """False: the intent was never written, so there is nothing to undo."""


class VerifyResult(StepResult):
    tail: tuple[TailRow, ...] = ()
    producers: int = 0
    """Producers with a live sequence on the partitions of the tail; without a tail nobody wrote, so 0."""


class ForkResult(StepResult):
    """Where both sides part (`entry`), what is lost at most, and why it may not go on by itself ("" when it may)."""

    bound: LossBound
    hold: str = ""


class TakeoverResult(StepResult):
    """What the lease says of a failover. Exactly one of `operation` (to be carried out: a new one, or one that was left
    unfinished), `ask` (the source holds the lease: its taking over can be asked for) and `refused` (why neither)."""

    operation: Operation | None = None
    ask: Operation | None = None
    refused: str = ""
    adopted: bool = False
    """`operation` was begun by another run, or by the target's agent."""
    holder: DataCenterName
    epoch: int
    acquired_at: datetime | None = None
    acquired_after_s: float | None = None
    acceptance_valid: timedelta


class Holding(Message):
    """A failover that does not go on by itself: what it would lose at most, and why it asks. An acceptance names this
    bound; after `until` it is computed again, and asked for anew."""

    source: DataCenterName
    target: DataCenterName
    bound: LossBound
    why: str
    since: datetime
    until: datetime


class LeftoverResult(StepResult):
    """An operation the lease still names: where it stands, and the ledger entry its handover named."""

    operation: Operation | None = None
    moved: bool = False
    deadline: datetime | None = None


class Outcome(StrEnum):
    """Never "unknown": an operation ends as done or as before."""

    DONE = "done"
    AS_BEFORE = "as before"
    PLANNED = "planned only"
    SUPERSEDED = "superseded"
    """The lease moved meanwhile: the operation ended without touching a gate, and another one goes on from there."""


class TransitionReport(Message):
    """What an operation did, for people and for the checker. Tables per partition stay in the ledger topic."""

    scope: ScopeName
    operation_id: str
    source: DataCenterName
    target: DataCenterName
    outcome: Outcome
    epoch: int
    active: DataCenterName
    why: str = ""
    ledger: EntryRef | None = None
    topics: int = 0
    partitions: int = 0
    records_at_cut: int = 0
    verdicts: dict[Verdict, int] = {}
    """Partitions by what was shown of them; each partition's own stands in the ledger entry."""
    groups: tuple[GroupResult, ...] = ()
    transactions_fenced: tuple[str, ...] = ()
    tail: tuple[TailRow, ...] = ()
    producers_left: int = 0
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    outage: timedelta | None = None
    """From the confirmed closing on the source to the flip, by the activities' own clocks; what producers felt is
    measured by the load generator. Of a failover: from the source's last sign of life to the flip."""
    kind: OperationKind = OperationKind.SWITCHOVER
    loss: LossBound | None = None
    """Of a failover: what is lost at most."""
    accepted_by: str = ""
    """Who accepted a loss above the budget."""
    rto: dict[str, timedelta] = {}
    """Of a failover: detect, decide, fence, record, (hold,) open, flip, in this order: each from the end of the one
    before it. What was not measured is not in it."""
    recovered: tuple[str, ...] = ()
    """Operations left behind that this run finished or undid first, and their groups that are not exact."""
    steps: tuple[StepReport, ...] = ()
