"""Whether a cluster could be the active one, by three questions that are asked side by side."""

from __future__ import annotations

import time

from adapters.kafka import messages
from adapters.kafka.wire import Wire, together
from dcdr.errors import DcdrError, UnreachableError
from dcdr.model import TopicPartition

_BROKERS = 1
_METADATA_TOPIC = "__cluster_metadata"
ACKS_ALL = -1


class KafkaHealth:
    """`dcdr.ports.Health`. Writes one small record a call to a private topic of one partition, as a user would: with
    acks=all, which needs a leader and `min.insync.replicas`."""

    def __init__(self, wire: Wire, topic: str, seconds: float) -> None:
        self._wire, self._topic, self._seconds = wire, topic, seconds

    async def trouble(self) -> tuple[str, ...]:
        async def ask(question: str) -> str:
            try:
                return await getattr(self, question)()  # type: ignore[no-any-return]
            except DcdrError as error:
                return str(error)

        found = await together(ask(question) for question in ("_writes", "_brokers", "_controllers"))
        return tuple(text for text in found if text)

    async def cluster_id(self) -> str:
        """The cluster's own id. Raises: UnreachableError."""
        return str((await self._described()).cluster_id)

    async def _described(self) -> messages.Message:
        return await self._wire.any(
            lambda: messages.DESCRIBE_CLUSTER(
                include_cluster_authorized_operations=False, endpoint_type=_BROKERS, include_fenced_brokers=True
            ),
            timeout=self._seconds,
        )

    async def _writes(self) -> str:
        place = TopicPartition(self._topic, 0)
        leader = self._wire.leader(place)
        if leader is None:
            await self._wire.metadata([self._topic])
            leader = self._wire.leader(place)
        if leader is None:
            return f"{self._wire.dc}: {place} has no leader; create the topic, or find out where its replicas are"
        of_topic = messages.PRODUCE.TopicProduceData
        record = messages.small_batch(time.time_ns() // 1_000_000, self._wire.dc.encode(), b"well")
        of_partition = of_topic.PartitionProduceData(index=0, records=record)
        request = messages.PRODUCE(
            transactional_id=None,
            acks=ACKS_ALL,
            timeout_ms=int(self._seconds * 1000),
            topic_data=[of_topic(name=place.topic, partition_data=[of_partition])],
        )
        try:
            answer = await self._wire.call(leader, request, timeout=self._seconds)
        except UnreachableError:
            await self._wire.metadata([self._topic])  # the next call goes where the leader is then
            raise
        code = answer.responses[0].partition_responses[0].error_code
        if code == 0:
            return ""
        await self._wire.metadata([self._topic])
        return f"{self._wire.dc}: a write with acks=all to {place} failed: {messages.error_name(code)}"

    async def _brokers(self) -> str:
        answer = await self._described()
        there = [broker.broker_id for broker in answer.brokers if not broker.is_fenced]
        if 2 * len(there) > len(answer.brokers):
            return ""
        return (
            f"{self._wire.dc}: {len(there)} of {len(answer.brokers)} registered brokers are there, which is no majority"
        )

    async def _controllers(self) -> str:
        of_topic = messages.DESCRIBE_QUORUM.TopicData
        answer = await self._wire.any(
            lambda: messages.DESCRIBE_QUORUM(
                topics=[of_topic(topic_name=_METADATA_TOPIC, partitions=[of_topic.PartitionData(partition_index=0)])]
            ),
            timeout=self._seconds,
        )
        code = answer.error_code or answer.topics[0].partitions[0].error_code
        return f"{self._wire.dc}: the controllers have no leader: {messages.error_name(code)}" if code else ""
