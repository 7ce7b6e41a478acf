"""A listener that speaks just enough Kafka to misbehave on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from adapters.kafka import messages
from adapters.kafka.messages import Message

Handler = Callable[[], Message | None]
"""Makes the answer to a request; None: stay silent."""


class FakeBroker:
    """Answers ApiVersions truthfully and the rest by `handlers` (API key -> handler); silent on anything else."""

    def __init__(self) -> None:
        self.handlers: dict[int, Handler] = {}
        self.asked: list[int] = []
        self.frames: list[bytes] = []
        """Every request as it came, its size taken off."""
        self.connections = 0
        self.drop_next = 0
        """Close the connection instead of answering, so many times."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def on(self, request_class: Any, handler: Handler) -> None:
        self.handlers[request_class.API_KEY] = handler

    def times(self, request_class: Any) -> int:
        return self.asked.count(request_class.API_KEY)

    def requests(self, request_class: Any) -> list[Message]:
        """What was asked of this kind, oldest first."""
        version = messages._PINNED[request_class.API_KEY][1]
        return [
            request_class.decode(payload, version=version, header=True)
            for key, payload in zip(self.asked, self.frames, strict=True)
            if key == request_class.API_KEY
        ]

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                payload = await reader.readexactly(size)
                key = int.from_bytes(payload[:2], "big")
                correlation_id = int.from_bytes(payload[4:8], "big")
                self.asked.append(key)
                self.frames.append(payload)
                if key == messages.API_VERSIONS.API_KEY:
                    answer: Message | None = self.handlers.get(key, api_versions)()
                elif self.drop_next:
                    self.drop_next -= 1
                    break
                else:
                    answer = self.handlers.get(key, lambda: None)()
                if answer is not None:
                    writer.write(answer_frame(answer, correlation_id))
        writer.close()


def answer_frame(answer: Message, correlation_id: int) -> bytes:
    """The bytes of a response at the version we have pinned."""
    version = messages._PINNED[answer.API_KEY][1]
    body = bytes(answer.encode(version=version))
    tagged = answer.flexible_version_q(version) and answer.API_KEY != messages.API_VERSIONS.API_KEY
    payload = correlation_id.to_bytes(4, "big") + (b"\0" if tagged else b"") + body
    return len(payload).to_bytes(4, "big") + payload


def api_versions(without: int | None = None) -> Message:
    """All that we need is offered, except for one API key."""
    response = messages._BY_REQUEST[messages.API_VERSIONS][0]
    keys = [
        response.ApiVersion(api_key=key, min_version=0, max_version=version)
        for key, (_, version) in messages._PINNED.items()
        if key != without
    ]
    return response(error_code=0, api_keys=keys, throttle_time_ms=0)


def metadata(brokers: dict[int, FakeBroker], topics: dict[str, dict[int, int]]) -> Message:
    """Metadata: broker ids, and topic -> partition -> leader."""
    response = messages._BY_REQUEST[messages.METADATA][0]
    topic = response.MetadataResponseTopic
    return response(
        throttle_time_ms=0,
        cluster_id="fake",
        controller_id=1,
        brokers=[
            response.MetadataResponseBroker(node_id=node, host="127.0.0.1", port=broker.port, rack=None)
            for node, broker in brokers.items()
        ],
        topics=[
            topic(
                error_code=0,
                name=name,
                topic_id=uuid.uuid5(uuid.NAMESPACE_DNS, name),
                partitions=[
                    topic.MetadataResponsePartition(
                        error_code=0,
                        partition_index=number,
                        leader_id=leader,
                        leader_epoch=0,
                        replica_nodes=[leader],
                        isr_nodes=[leader],
                        offline_replicas=[],
                    )
                    for number, leader in leaders.items()
                ],
            )
            for name, leaders in topics.items()
        ],
    )


def end_offsets(topic: str, answers: dict[int, tuple[int, int]]) -> Message:
    """ListOffsets: partition -> (error code, offset)."""
    response = messages._BY_REQUEST[messages.LIST_OFFSETS][0]
    of_topic = response.ListOffsetsTopicResponse
    return response(
        throttle_time_ms=0,
        topics=[
            of_topic(
                name=topic,
                partitions=[
                    of_topic.ListOffsetsPartitionResponse(
                        partition_index=number, error_code=code, timestamp=-1, offset=offset, leader_epoch=4
                    )
                    for number, (code, offset) in answers.items()
                ],
            )
        ],
    )


@contextlib.asynccontextmanager
async def brokers(count: int) -> AsyncIterator[dict[int, FakeBroker]]:
    """So many listeners, by id from 1."""
    made = {node: FakeBroker() for node in range(1, count + 1)}
    for broker in made.values():
        await broker.start()
    try:
        yield made
    finally:
        for broker in made.values():
            await broker.stop()
