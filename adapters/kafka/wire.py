"""A small, warm request layer to the brokers of one cluster: every request is sent to the broker we mean.

Why not a finished client: a look at a log must go straight to the leader, a canary to each broker, and a broker that
is frozen may cost only its own requests, and not more than their deadline. Client libraries choose brokers themselves
and hide what they wait for.

One TCP connection carries one *lane* to one broker. A broker answers a connection's requests one after the other, in
order; what must not wait behind another request goes on a lane of its own.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeVar

from adapters.kafka import messages
from adapters.kafka.messages import Message, error_name
from adapters.kafka.trouble import (
    LEADER_NOT_AVAILABLE,
    STALE_COORDINATOR,
    STALE_LEADER,
    UNKNOWN_SERVER_ERROR,
    UNKNOWN_TOPIC_OR_PARTITION,
    refusal,
)
from dcdr.errors import InvalidRequestError, MisconfiguredError, TransientError, UnreachableError
from dcdr.model import TopicPartition
from dcdr.settings import Credentials

REQUEST_TIMEOUT: Final = timedelta(seconds=2)
"""For one request, connecting included."""
HEDGE_S: Final = 0.1
"""A question that any broker can answer is put to the next one too when the first is silent for this long."""
UNKNOWN_S: Final = 1.0
"""For a topic that no broker knows to become known: Metadata of a new one reaches the brokers within moments."""
BACKOFF_S: Final = (0.002, 0.005, 0.01, 0.02, 0.05)
"""Between two tries after a stale leader or coordinator; the last one repeats until the deadline."""
LOOK: Final = "look"
"""The lane of quick questions."""
ACT: Final = "act"
"""The lane of changes, which may wait for a controller or a coordinator."""

GROUP_COORDINATOR: Final = 0
TRANSACTION_COORDINATOR: Final = 1

_BUFFER: Final = 4 << 20
_MAX_FRAME: Final = 256 << 20

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Address:
    """Where a broker listens. `node` is its id; negative for a bootstrap address whose id we do not know yet."""

    node: int
    host: str
    port: int

    def __str__(self) -> str:
        who = f"broker {self.node}" if self.node >= 0 else "bootstrap"
        return f"{who} at {self.host}:{self.port}"


@dataclass(frozen=True)
class TopicMetadata:
    """One topic as Metadata told: Kafka's UUID, and the leader of each partition (-1: none)."""

    name: str
    topic_id: str
    leaders: Mapping[int, int]


@dataclass(frozen=True)
class Refused:
    """A broker's error code for one partition, group or transactional id, where others may have been answered."""

    code: int


@dataclass
class _Cluster:
    """What we know of the cluster; replaced piecemeal by each Metadata answer."""

    addresses: dict[int, Address] = field(default_factory=dict)
    topics: dict[str, TopicMetadata] = field(default_factory=dict)
    coordinators: dict[tuple[int, str], int] = field(default_factory=dict)


class Connection:
    """One authenticated TCP connection; requests may be sent before earlier ones are answered."""

    def __init__(self, where: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client_id: str) -> None:
        self._where = where
        self._reader = reader
        self._writer = writer
        self._client_id = client_id
        self._ids = itertools.count(1)
        self._waiting: dict[int, tuple[Any, asyncio.Future[Message]]] = {}
        self._broken: Exception | None = None
        self._pump = asyncio.create_task(self._read(), name=f"kafka {where}")

    @property
    def usable(self) -> bool:
        return self._broken is None

    async def ask(self, request: Message) -> Message:
        """Send one request and wait for its answer. Raises: UnreachableError when the connection breaks first."""
        if self._broken is not None:
            raise UnreachableError(f"{self._where}: {self._broken}") from self._broken
        number = next(self._ids)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (type(request), answer)
        try:
            self._writer.write(messages.frame(request, number, self._client_id))
            return await answer
        except (OSError, EOFError) as error:
            self.abort(error)
            raise UnreachableError(
                f"{self._where}: the connection broke: {str(error) or type(error).__name__}"
            ) from error

    def abort(self, reason: Exception) -> None:
        """Give the connection up: whoever still waits on it is told, and it is never used again."""
        if self._broken is None:
            self._broken = reason
        self._pump.cancel()
        self._writer.transport.abort()
        for _, answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionError(str(reason) or type(reason).__name__))
        self._waiting.clear()

    async def close(self) -> None:
        self.abort(ConnectionError("closed by us"))
        await asyncio.gather(self._pump, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while True:
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                if size > _MAX_FRAME:
                    raise ConnectionError(f"a frame of {size} bytes: this is not a Kafka listener without TLS")
                payload = await self._reader.readexactly(size)
                request_class, answer = self._waiting.pop(messages.correlation(payload))
                if not answer.done():
                    answer.set_result(messages.response_to(request_class, payload))
        except asyncio.IncompleteReadError as error:
            self.abort(ConnectionError("closed by the broker") if not error.partial else error)
        except Exception as error:
            # Whatever went wrong (a reset, an answer we cannot read): the stream cannot be trusted any more.
            self.abort(error)


class Wire:
    """Requests of one principal to the brokers of one cluster."""

    def __init__(
        self,
        dc: str,
        bootstrap: Sequence[str],
        credentials: Credentials | None,
        *,
        timeout: timedelta = REQUEST_TIMEOUT,
        client_id: str = "dcdr",
        directory: Wire | None = None,
    ) -> None:
        """`directory`: another principal's Wire whose metadata this one shares (a canary may not see all of it)."""
        self.dc = dc
        self._bootstrap = tuple(Address(-1 - i, *_split(address)) for i, address in enumerate(bootstrap))
        self._credentials = credentials
        self._timeout = timeout.total_seconds()
        self._client_id = client_id
        self._cluster: _Cluster = directory._cluster if directory is not None else _Cluster()
        self._connections: dict[tuple[int, str], Connection] = {}
        self._locks: defaultdict[tuple[int, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._preferred = 0

    @property
    def username(self) -> str:
        """Who this speaks as; empty without authentication."""
        return self._credentials.username if self._credentials else ""

    # --- requests ---------------------------------------------------------------------------------------------------

    async def call(self, node: int, request: Message, *, lane: str = LOOK, timeout: float | None = None) -> Message:
        """Ask one broker. Every request here may be repeated, so a connection that broke is replaced once.

        Raises: UnreachableError when there is no answer within `timeout` seconds.
        """
        address = self._address(node)
        limit = self._timeout if timeout is None else timeout
        connection: Connection | None = None
        try:
            async with asyncio.timeout(limit):
                for last in (False, True):
                    connection = await self._connection(address, lane)
                    try:
                        return await connection.ask(request)
                    except UnreachableError:
                        if last:
                            raise
        except TimeoutError as error:
            if connection is not None:
                connection.abort(TimeoutError(f"no answer within {limit:g} s"))
            self._forget_node(node)
            raise UnreachableError(
                f"{self.dc}: {address} did not answer {messages.name(request)} within {limit:g} s; "
                "is the process alive and the network to it open?"
            ) from error
        except UnreachableError as error:
            self._forget_node(node)
            raise UnreachableError(f"{self.dc}: {messages.name(request)} failed: {error}") from error
        raise AssertionError("not reached")

    async def any(self, request: Callable[[], Message], *, lane: str = LOOK, timeout: float | None = None) -> Message:
        """Ask whichever broker answers first; a silent one costs `HEDGE_S`, not the deadline.

        `request` builds the message anew for each broker. Raises: UnreachableError when nobody answered.
        """
        failures: list[TransientError] = []
        running: set[asyncio.Task[tuple[int, Message]]] = set()

        async def ask(node: int) -> tuple[int, Message]:
            return node, await self.call(node, request(), lane=lane, timeout=timeout)

        candidates = iter(self._candidates())
        exhausted = False
        try:
            while True:
                if not exhausted:
                    node = next(candidates, None)
                    if node is None:
                        exhausted = True
                    else:
                        running.add(asyncio.create_task(ask(node)))
                if not running:
                    raise UnreachableError(
                        f"{self.dc}: no broker answered {messages.name(request())}: "
                        + "; ".join(dict.fromkeys(str(failure) for failure in failures))
                    )
                done, running = await asyncio.wait(
                    running, timeout=None if exhausted else HEDGE_S, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    try:
                        self._preferred, response = task.result()
                        return response
                    except TransientError as error:
                        failures.append(error)
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.gather(*running, return_exceptions=True)

    async def all(
        self, nodes: Iterable[int], request: Callable[[int], Message], *, lane: str = LOOK, timeout: float | None = None
    ) -> dict[int, Message]:
        """Ask every one of `nodes`, side by side. Raises: UnreachableError when one of them is silent."""
        wanted = tuple(nodes)
        answers = await together(self.call(node, request(node), lane=lane, timeout=timeout) for node in wanted)
        return dict(zip(wanted, answers, strict=True))

    # --- who is where -----------------------------------------------------------------------------------------------

    @property
    def known_nodes(self) -> tuple[int, ...]:
        """Ids of the brokers that the last Metadata answer named, sorted."""
        return tuple(sorted(self._cluster.addresses))

    @property
    def known_topics(self) -> Mapping[str, TopicMetadata]:
        """What earlier Metadata answers told."""
        return self._cluster.topics

    async def metadata(self, topics: Collection[str] | None = ()) -> Mapping[str, TopicMetadata]:
        """Ask for brokers and topics (None: all topics, none: the brokers only), and remember the answer.

        Returns: the topics asked for that exist.
        """

        def request() -> Message:
            named = None
            if topics is not None:
                named = [messages.METADATA.MetadataRequestTopic(name=topic) for topic in topics]
            return messages.METADATA(topics=named, allow_auto_topic_creation=False)

        answer = await self.any(request)
        self._cluster.addresses = {b.node_id: Address(b.node_id, b.host, b.port) for b in answer.brokers}
        found = {
            topic.name: TopicMetadata(
                topic.name, _uuid(topic.topic_id), {p.partition_index: p.leader_id for p in topic.partitions}
            )
            for topic in answer.topics
            if topic.error_code == 0
        }
        if topics is None:
            self._cluster.topics = dict(found)
        else:
            for name in topics:
                self._cluster.topics.pop(name, None)
            self._cluster.topics.update(found)
        return found

    def leader(self, partition: TopicPartition) -> int | None:
        """The leader as far as we know; None when we do not."""
        topic = self._cluster.topics.get(partition.topic)
        node = topic.leaders.get(partition.partition, -1) if topic is not None else -1
        return node if node >= 0 and node in self._cluster.addresses else None

    async def by_leader(
        self,
        partitions: Collection[TopicPartition],
        ask: Callable[[int, Sequence[TopicPartition]], Awaitable[Mapping[TopicPartition, T | Refused]]],
        tried: str,
    ) -> dict[TopicPartition, T]:
        """Put each leader's partitions to `ask`, side by side; it may refuse single ones.

        Stale leaders are looked up again and asked again until the deadline.
        Raises: UnreachableError, or what `trouble.refusal` makes of an error code that will not heal.
        """
        found: dict[TopicPartition, T] = {}
        pending = set(partitions)
        codes: dict[TopicPartition, int] = {}
        backoff = itertools.chain(BACKOFF_S, itertools.repeat(BACKOFF_S[-1]))
        began = asyncio.get_running_loop().time()
        refresh = {p.topic for p in pending if self.leader(p) is None}
        while pending:
            if refresh:
                await self.metadata(refresh)
            shares: defaultdict[int, list[TopicPartition]] = defaultdict(list)
            for partition in sorted(pending):
                node = self.leader(partition)
                if node is not None:
                    shares[node].append(partition)
                else:
                    topic = self.known_topics.get(partition.topic)
                    exists = topic is not None and partition.partition in topic.leaders
                    codes[partition] = LEADER_NOT_AVAILABLE if exists else UNKNOWN_TOPIC_OR_PARTITION
            for answers in await together(ask(node, share) for node, share in shares.items()):
                for partition, answer in answers.items():
                    if not isinstance(answer, Refused):
                        found[partition] = answer
                        pending.discard(partition)
                        continue
                    code = codes[partition] = answer.code
                    if code not in STALE_LEADER:
                        raise refusal(self.dc, code, f"{tried} {partition}")
            if pending:
                passed = asyncio.get_running_loop().time() - began
                unknown = {p for p in pending if codes.get(p) == UNKNOWN_TOPIC_OR_PARTITION}
                if passed > self._timeout or (unknown and passed > UNKNOWN_S):
                    worst = min(unknown or pending)
                    raise refusal(
                        self.dc,
                        codes.get(worst, UNKNOWN_SERVER_ERROR),
                        f"{tried} {worst} ({len(pending)} partitions in all)",
                    )
                await asyncio.sleep(next(backoff))
                refresh = {p.topic for p in pending}
        return found

    async def by_coordinator(
        self,
        kind: int,
        keys: Collection[str],
        ask: Callable[[int, Sequence[str]], Awaitable[Mapping[str, T | Refused]]],
        tried: str,
        *,
        retry: Collection[int] = (),
    ) -> dict[str, T]:
        """Put each coordinator's keys to `ask`, side by side; as `by_leader`, for groups or transactional ids.

        `retry`: further error codes that heal within moments.
        """
        found: dict[str, T] = {}
        pending = set(keys)
        codes: dict[str, int] = {}
        backoff = itertools.chain(BACKOFF_S, itertools.repeat(BACKOFF_S[-1]))
        deadline = asyncio.get_running_loop().time() + self._timeout
        while pending:
            codes |= await self._find_coordinators(kind, pending)
            shares: defaultdict[int, list[str]] = defaultdict(list)
            for key in sorted(pending):
                node = self._cluster.coordinators.get((kind, key))
                if node is not None and node in self._cluster.addresses:
                    shares[node].append(key)
            for answers in await together(ask(node, share) for node, share in shares.items()):
                for key, answer in answers.items():
                    if not isinstance(answer, Refused):
                        found[key] = answer
                        pending.discard(key)
                        continue
                    code = codes[key] = answer.code
                    if code in STALE_COORDINATOR:
                        self._cluster.coordinators.pop((kind, key), None)
                    elif code not in retry:
                        raise refusal(self.dc, code, f"{tried} {key!r}")
            if pending:
                if asyncio.get_running_loop().time() > deadline:
                    worst = min(pending)
                    raise UnreachableError(
                        f"{self.dc}: {tried} {worst!r} ({len(pending)} in all): still "
                        f"{error_name(codes.get(worst, UNKNOWN_SERVER_ERROR))} after {self._timeout:g} s; try again"
                    )
                await asyncio.sleep(next(backoff))
        return found

    async def _find_coordinators(self, kind: int, keys: Collection[str]) -> dict[str, int]:
        unknown = sorted(k for k in keys if self._cluster.coordinators.get((kind, k)) not in self._cluster.addresses)
        if not unknown:
            return {}
        answer = await self.any(lambda: messages.FIND_COORDINATOR(key_type=kind, coordinator_keys=unknown))
        codes: dict[str, int] = {}
        for coordinator in answer.coordinators:
            if coordinator.error_code == 0:
                self._cluster.coordinators[kind, coordinator.key] = coordinator.node_id
            elif coordinator.error_code in STALE_COORDINATOR:
                codes[coordinator.key] = coordinator.error_code
            else:
                raise refusal(self.dc, coordinator.error_code, f"finding the coordinator of {coordinator.key!r}")
        if any(c.error_code == 0 and c.node_id not in self._cluster.addresses for c in answer.coordinators):
            await self.metadata()
        return codes

    # --- connections ------------------------------------------------------------------------------------------------

    async def warm(self, lanes: Iterable[str] = (LOOK, ACT)) -> tuple[str, ...]:
        """Connect to every broker on each lane, and ask something on the connections there are: a dead one is found.

        Returns: what is wrong with single brokers, in words. Raises: UnreachableError when no broker answers at all.
        """
        await self.metadata()

        async def probe(node: int, lane: str) -> str | None:
            try:
                await self.call(node, _hello(), lane=lane)
            except TransientError as error:
                return str(error)
            return None

        found = await together(probe(node, lane) for node in self.known_nodes for lane in lanes)
        return tuple(dict.fromkeys(problem for problem in found if problem is not None))

    async def close(self) -> None:
        connections = tuple(self._connections.values())
        self._connections.clear()
        await asyncio.gather(*(connection.close() for connection in connections))

    def _address(self, node: int) -> Address:
        if node < 0:
            return self._bootstrap[-1 - node]
        known = self._cluster.addresses.get(node)
        if known is None:
            raise InvalidRequestError(f"{self.dc}: there is no broker {node}; known are {self.known_nodes or 'none'}")
        return known

    def _candidates(self) -> list[int]:
        known = sorted(self.known_nodes, key=lambda node: node != self._preferred)
        return [*known, *(address.node for address in self._bootstrap)]

    def _forget_node(self, node: int) -> None:
        """It gave no answer: who leads and coordinates what it had is asked anew next time."""
        for name in [n for n, topic in self._cluster.topics.items() if node in topic.leaders.values()]:
            del self._cluster.topics[name]
        for key in [key for key, where in self._cluster.coordinators.items() if where == node]:
            del self._cluster.coordinators[key]

    async def _connection(self, address: Address, lane: str) -> Connection:
        key = (address.node, lane)
        async with self._locks[key]:
            current = self._connections.get(key)
            if current is not None and current.usable:
                return current
            self._connections.pop(key, None)
            self._connections[key] = fresh = await self._connect(address)
            return fresh

    async def _connect(self, address: Address) -> Connection:
        where = str(address)
        try:
            reader, writer = await asyncio.open_connection(address.host, address.port, limit=_BUFFER)
        except OSError as error:
            raise UnreachableError(f"cannot connect to {where}: {error.strerror or error}") from error
        connection = Connection(where, reader, writer, self._client_id)
        try:
            await self._greet(connection, where)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _greet(self, connection: Connection, where: str) -> None:
        offered = await connection.ask(_hello())
        if missing := messages.unsupported(offered):
            raise MisconfiguredError(f"{self.dc}: {where} is no Kafka 4.x: it lacks {', '.join(missing)}")
        if self._credentials is None:
            return
        user, password = self._credentials.username, secret(self.dc, self._credentials)
        shaken = await connection.ask(messages.SASL_HANDSHAKE(mechanism="PLAIN"))
        if shaken.error_code:
            raise MisconfiguredError(
                f"{self.dc}: {where} does not offer SASL/PLAIN but {', '.join(shaken.mechanisms) or 'nothing'}; "
                "check its listener, and security_protocol in the settings"
            )
        token = b"\0" + user.encode() + b"\0" + password
        authenticated = await connection.ask(messages.SASL_AUTHENTICATE(auth_bytes=token))
        if authenticated.error_code:
            raise MisconfiguredError(
                f"{self.dc}: {where} rejected the user {user!r} ({error_name(authenticated.error_code)}); "
                f"check {self._credentials.password_file}"
            )


async def together(awaitables: Iterable[Awaitable[T]]) -> list[T]:
    """Run side by side; the first failure ends the others and is raised as itself."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        unfinished = [task for task in tasks if not task.done()]
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.gather(*unfinished, return_exceptions=True)


async def both(first: Awaitable[T], second: Awaitable[U]) -> tuple[T, U]:
    """`together` for two of different kinds."""
    results: list[Any] = await together([first, second])
    return results[0], results[1]


def secret(dc: str, credentials: Credentials) -> bytes:
    """The password, read anew each time: it may have been rotated. Raises: MisconfiguredError naming the file."""
    try:
        return credentials.password_file.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise MisconfiguredError(
            f"{dc}: cannot read the password of {credentials.username!r} "
            f"from {credentials.password_file}: {error.strerror}"
        ) from error


def _hello() -> Message:
    return messages.API_VERSIONS(client_software_name="dcdr", client_software_version="1")


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _uuid(value: Any) -> str:
    """Kafka's UUID as Kafka's own tools print it: 22 characters of URL-safe base64."""
    return base64.urlsafe_b64encode(value.bytes).decode().rstrip("=")
