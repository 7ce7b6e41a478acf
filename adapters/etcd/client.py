"""A small etcd v3 client: linearizable reads, compare-and-swap and watches over several members.

A request goes to the member that answered last. No answer within `HEDGE`, or a refusal that another member may not
share, sends it to the next one too, and the first good answer wins: a frozen or cut-off member costs `HEDGE`, not a
time-out. That is safe for reads, and for a compare-and-swap on `mod_revision`, of which at most one copy can commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message as ProtoMessage

from adapters.etcd._pb import etcd_pb2 as pb
from dcdr.errors import ConflictError, MisconfiguredError, UnreachableError

log = logging.getLogger(__name__)

HEDGE: Final = timedelta(milliseconds=100)
"""A healthy member answers in a few milliseconds, across sites in a few tens."""
PAUSE: Final = timedelta(milliseconds=50)
"""Before a round of refusals is repeated: an election takes about a second."""
WATCH_PROGRESS: Final = timedelta(seconds=2)
"""A watch asks so often whether it is still served; two questions without an answer move it to another member."""

_OPTIONS: Final = (
    # A proxy from the environment must not come between us and the store.
    ("grpc.enable_http_proxy", 0),
    # A member that comes back is used again within a second, not within grpc's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # etcd hangs up on clients that ping more often than every 5 s, or without a call under way.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # Two clients in a process must not share a connection: each has its own notion of which member is well.
    ("grpc.use_local_subchannel_pool", 1),
)
_REQUIRE_LEADER: Final = (("hasleader", "true"),)
"""Without it, a watch on a member that lost the quorum stays silent for ever."""
_FOR_GOOD: Final = {
    grpc.StatusCode.UNAUTHENTICATED: "the store asks for credentials or a certificate",
    grpc.StatusCode.PERMISSION_DENIED: "the store's user may not touch this key",
    grpc.StatusCode.UNIMPLEMENTED: "this is no etcd v3 server: check the endpoints",
    grpc.StatusCode.INVALID_ARGUMENT: "etcd does not understand the request",
}

Request = TypeVar("Request", bound=ProtoMessage)
Response = TypeVar("Response", bound=ProtoMessage)


class KeyValue(NamedTuple):
    """A value and the revision that wrote it."""

    value: bytes
    mod_revision: int


class Change(NamedTuple):
    """What a watch saw: the value now (None: deleted), at this revision of the store."""

    value: KeyValue | None
    revision: int


@dataclass
class _Member:
    """One member, its channel, and the calls we make on it."""

    address: str
    channel: grpc.aio.Channel

    def unary(self, path: str, answer: type[Response]) -> Callable[..., Any]:
        return cast(
            Callable[..., Any],
            self.channel.unary_unary(path, request_serializer=_serialize, response_deserializer=answer.FromString),
        )


def _serialize(message: ProtoMessage) -> bytes:
    return message.SerializeToString()


class EtcdClient:
    """Reads and writes single keys.

    `endpoints`: `host:port` of all members. `timeout` bounds every call. `credentials`: TLS, plaintext without.
    Every call raises UnreachableError when no member answered in time (a write may have happened), MisconfiguredError
    when the store refuses us for good.
    """

    def __init__(
        self, endpoints: Sequence[str], *, timeout: timedelta, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        if not endpoints:
            raise MisconfiguredError("no etcd endpoints: name at least one member in store.endpoints")
        self._timeout = timeout
        self._credentials = credentials
        self._members = [_Member(address, self._connect(address)) for address in endpoints]
        self._preferred = 0

    async def warm(self) -> None:
        """Open the connections to all members. Raises: UnreachableError when none answers."""
        answers = await asyncio.gather(
            *(self._ask(member, "/etcdserverpb.KV/Range", pb.RangeRequest(key=b"\0"), pb.RangeResponse)
              for member in self._members),
            return_exceptions=True,
        )  # fmt: skip
        missing = [str(answer) for answer in answers if isinstance(answer, BaseException)]
        if len(missing) == len(self._members):
            raise UnreachableError(f"no member of the lease store answers: {'; '.join(missing)}")
        for line in missing:
            log.warning("a member of the lease store does not answer: %s", line)

    async def close(self) -> None:
        await asyncio.gather(*(member.channel.close(None) for member in self._members))

    async def get(self, key: str) -> KeyValue | None:
        """Linearizable read."""
        answer, _ = await self._first(
            f"read {key}", "/etcdserverpb.KV/Range", pb.RangeRequest(key=key.encode()), pb.RangeResponse
        )
        return _only(answer.kvs)

    async def swap(self, key: str, value: bytes, *, mod_revision: int) -> KeyValue:
        """Write `value` if the key was last written at `mod_revision`; 0: if it does not exist.

        Raises: ConflictError naming the revision that stands now. When an answer was lost on the way and the key
        holds exactly `value` at a later revision, the lost one committed: that is success.
        """
        encoded = key.encode()
        request = pb.TxnRequest(
            compare=[
                pb.Compare(result=pb.Compare.EQUAL, target=pb.Compare.MOD, key=encoded, mod_revision=mod_revision)
            ],
            success=[pb.RequestOp(request_put=pb.PutRequest(key=encoded, value=value))],
            failure=[pb.RequestOp(request_range=pb.RangeRequest(key=encoded))],
        )
        answer, sent = await self._first(f"write {key}", "/etcdserverpb.KV/Txn", request, pb.TxnResponse)
        if answer.succeeded:
            return KeyValue(value, answer.header.revision)
        found = _only(answer.responses[0].response_range.kvs)
        if sent > 1 and found is not None and found.value == value and found.mod_revision > mod_revision:
            return found
        stands = "it does not exist" if found is None else f"it is at revision {found.mod_revision}"
        raise ConflictError(f"{key} was expected at revision {mod_revision}, {stands}: read it again")

    async def watch(self, key: str, start_revision: int = 0) -> AsyncIterator[Change]:
        """Every change of `key` from `start_revision` on (0: from now), in order, for ever.

        A broken stream goes on at another member where it stopped. When the store has compacted what we missed, the
        value as it stands is given as one change: changes in between are lost, the last one never is.
        """
        revision, number, failures = start_revision, self._preferred, 0
        while True:
            member = self._members[number % len(self._members)]
            try:
                async with contextlib.aclosing(self._stream(member, key, revision)) as stream:
                    async for seen in stream:
                        failures = 0
                        reached = seen if isinstance(seen, int) else seen.revision
                        revision = max(revision, reached + 1)
                        if isinstance(seen, Change):
                            yield seen
            except _Compacted:
                answer, _ = await self._first(
                    f"read {key}", "/etcdserverpb.KV/Range", pb.RangeRequest(key=key.encode()), pb.RangeResponse
                )
                revision = answer.header.revision + 1
                yield Change(_only(answer.kvs), answer.header.revision)
                continue
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                if isinstance(error, grpc.aio.AioRpcError) and error.code() in _FOR_GOOD:
                    raise _for_good(member.address, error) from error
                log.info("the watch of %s at %s broke (%s): going on elsewhere", key, member.address, _words(error))
            number += 1
            failures += 1
            if failures % len(self._members) == 0:
                await asyncio.sleep(PAUSE.total_seconds())

    # --- one request, several members

    async def _first(self, what: str, path: str, request: ProtoMessage, answer: type[Response]) -> tuple[Response, int]:
        """The first good answer, and to how many members the request was sent until then."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout.total_seconds()
        running: dict[asyncio.Task[Response], int] = {}
        troubles: dict[str, str] = {}
        sent, refused_in_a_row, number = 0, 0, self._preferred
        try:
            while (left := deadline - loop.time()) > 0:
                if len(running) < len(self._members):
                    member = self._members[number % len(self._members)]
                    running[asyncio.create_task(self._ask(member, path, request, answer, left))] = number
                    sent, number = sent + 1, number + 1
                wait = min(left, HEDGE.total_seconds()) if len(running) < len(self._members) else left
                done, _ = await asyncio.wait(running, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    asked = self._members[running.pop(task) % len(self._members)]
                    error = task.exception()
                    if error is None:
                        self._preferred = self._members.index(asked)
                        return task.result(), sent
                    if not isinstance(error, grpc.aio.AioRpcError):
                        raise error
                    if error.code() in _FOR_GOOD or "database space exceeded" in (error.details() or ""):
                        raise _for_good(asked.address, error) from error
                    troubles[asked.address] = _words(error)
                    refused_in_a_row += 1
                    if refused_in_a_row % len(self._members) == 0:
                        await asyncio.sleep(min(PAUSE.total_seconds(), max(0.0, deadline - loop.time())))
            for number in running.values():
                troubles[self._members[number % len(self._members)].address] = "no answer in time"
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        raise UnreachableError(
            f"the lease store gave no answer in {self._timeout.total_seconds():g} s ({what}; "
            + "; ".join(f"{address}: {trouble}" for address, trouble in sorted(troubles.items()))
            + "): whether a write happened is unknown; look at the etcd members and at the way there"
        )

    async def _ask(
        self,
        member: _Member,
        path: str,
        request: ProtoMessage,
        answer: type[Response],
        timeout: float | None = None,
    ) -> Response:
        call = member.unary(path, answer)
        return cast(Response, await call(request, timeout=timeout or self._timeout.total_seconds()))

    # --- one watch stream

    async def _stream(self, member: _Member, key: str, revision: int) -> AsyncGenerator[Change | int, None]:
        """Changes as this member tells them; a number says that everything up to that revision was told."""
        watch = member.channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=_serialize,
            response_deserializer=pb.WatchResponse.FromString,
        )
        call = cast(Any, watch(metadata=_REQUIRE_LEADER))
        asking: asyncio.Task[None] | None = None
        interval = WATCH_PROGRESS.total_seconds()
        try:
            create = pb.WatchCreateRequest(key=key.encode(), start_revision=revision)
            await asyncio.wait_for(call.write(pb.WatchRequest(create_request=create)), interval)
            asking = asyncio.create_task(_ask_for_progress(call, interval))
            while True:
                answer = await asyncio.wait_for(call.read(), 2 * interval)
                if not isinstance(answer, pb.WatchResponse):  # the end of the stream
                    raise grpc.aio.AioRpcError(
                        await call.code(), grpc.aio.Metadata(), grpc.aio.Metadata(), await call.details()
                    )
                if answer.compact_revision:
                    raise _Compacted
                if answer.canceled:
                    raise grpc.aio.AioRpcError(
                        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), answer.cancel_reason
                    )
                for event in answer.events:
                    gone = event.type == pb.Event.DELETE
                    value = None if gone else KeyValue(event.kv.value, event.kv.mod_revision)
                    yield Change(value, event.kv.mod_revision)
                if answer.created:
                    # "From now on" begins here; a watch from a revision has not been told anything yet.
                    if revision == 0:
                        yield answer.header.revision
                elif not answer.events:
                    yield answer.header.revision
        finally:
            if asking is not None:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            call.cancel()

    def _connect(self, address: str) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=_OPTIONS)
        return grpc.aio.secure_channel(address, self._credentials, options=_OPTIONS)


class _Compacted(Exception):  # noqa: N818 - a turn of the watch, not a failure
    """The revision we wanted to go on from is gone."""


async def _ask_for_progress(call: Any, interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        await call.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))


def _only(found: Sequence[pb.KeyValue]) -> KeyValue | None:
    return KeyValue(found[0].value, found[0].mod_revision) if found else None


def _words(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details() or 'no details'}"
    return str(error) or type(error).__name__


def _for_good(address: str, error: grpc.aio.AioRpcError) -> MisconfiguredError:
    hint = _FOR_GOOD.get(error.code(), "free space in the store (compact, defragment, disarm the alarm)")
    return MisconfiguredError(f"the lease store at {address} refused us ({_words(error)}): {hint}")
