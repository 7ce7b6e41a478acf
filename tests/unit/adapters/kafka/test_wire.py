"""The request layer against brokers that are silent, break off, lie about leaders or are no Kafka 4."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from adapters.kafka import messages
from adapters.kafka.logs import KafkaLogs
from adapters.kafka.wire import Wire
from dcdr.errors import InvalidRequestError, MisconfiguredError, UnreachableError
from dcdr.model import LogEnds, TopicPartition
from dcdr.settings import Credentials
from tests.unit.adapters.kafka.fake_broker import FakeBroker, api_versions, brokers, end_offsets, metadata

TIMEOUT = 0.3


@pytest.fixture
async def three() -> AsyncIterator[dict[int, FakeBroker]]:
    async with brokers(3) as made:
        for broker in made.values():
            broker.on(messages.METADATA, lambda: metadata(made, {"t": {0: 1, 1: 2, 2: 3}}))
        for number, broker in enumerate(made.values()):
            broker.on(messages.LIST_OFFSETS, partial(end_offsets, "t", {number: (0, 10 + number)}))
        yield made


@pytest.fixture
async def wire(three: dict[int, FakeBroker]) -> AsyncIterator[Wire]:
    made = Wire("dc-a", [three[1].address, three[2].address], None, timeout=timedelta(seconds=TIMEOUT))
    yield made
    await made.close()


PLACES = [TopicPartition("t", number) for number in range(3)]


async def test_each_partition_is_asked_of_its_leader(three: dict[int, FakeBroker], wire: Wire) -> None:
    ends = await KafkaLogs(wire).ends(PLACES)
    assert ends == {place: LogEnds(10 + n, 10 + n, 10 + n, 10 + n, 4) for n, place in enumerate(PLACES)}
    assert [broker.times(messages.LIST_OFFSETS) for broker in three.values()] == [4, 4, 4]


async def test_warm_connections_are_kept(three: dict[int, FakeBroker], wire: Wire) -> None:
    await wire.warm()
    made = {node: broker.connections for node, broker in three.items()}
    for _ in range(5):
        await KafkaLogs(wire).ends(PLACES)
    assert {node: broker.connections for node, broker in three.items()} == made


async def test_a_silent_leader_is_unreachable_by_its_deadline(three: dict[int, FakeBroker], wire: Wire) -> None:
    await wire.warm()
    three[3].on(messages.LIST_OFFSETS, lambda: None)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(UnreachableError, match=r"dc-a: broker 3 at 127\.0\.0\.1:\d+ did not answer ListOffsets within"):
        await KafkaLogs(wire).ends(PLACES)
    assert loop.time() - began < 2 * TIMEOUT
    assert set(await KafkaLogs(wire).ends(PLACES[:2])) == set(PLACES[:2])
    # Once it answers again, a fresh connection is made: the silent one is never used again.
    three[3].on(messages.LIST_OFFSETS, lambda: end_offsets("t", {2: (0, 12)}))
    assert (await KafkaLogs(wire).ends(PLACES))[PLACES[2]].leo == 12


async def test_a_question_to_anybody_is_not_held_up_by_a_silent_broker(
    three: dict[int, FakeBroker], wire: Wire
) -> None:
    await wire.warm()
    three[1].on(messages.METADATA, lambda: None)
    loop = asyncio.get_running_loop()
    for _ in range(3):
        began = loop.time()
        assert set(await wire.metadata(["t"])) == {"t"}
        assert loop.time() - began < TIMEOUT
    # The one that answered is asked first from then on.
    began = loop.time()
    await wire.metadata(["t"])
    assert loop.time() - began < 0.05


async def test_nobody_answering_is_said_once_with_all_addresses(three: dict[int, FakeBroker], wire: Wire) -> None:
    await wire.warm()
    for broker in three.values():
        broker.on(messages.METADATA, lambda: None)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(UnreachableError, match=r"no broker answered Metadata: .*broker 1.*broker 2.*broker 3"):
        await wire.metadata()
    assert loop.time() - began < 1 + 2 * TIMEOUT


async def test_a_connection_that_breaks_is_replaced_once(three: dict[int, FakeBroker], wire: Wire) -> None:
    await wire.warm()
    three[1].drop_next = 1
    assert len(await KafkaLogs(wire).ends(PLACES)) == 3
    three[1].drop_next = 100
    with pytest.raises(UnreachableError, match=r"dc-a: .*broker 1.*connection broke"):
        await KafkaLogs(wire).ends(PLACES)


async def test_a_refused_connection_says_where(wire: Wire, three: dict[int, FakeBroker]) -> None:
    await wire.warm()
    await three[2].stop()
    with pytest.raises(UnreachableError, match=r"broker 2 at 127\.0\.0\.1"):
        await KafkaLogs(wire).ends(PLACES)
    await three[2].start()
    assert len(await KafkaLogs(wire).ends(PLACES)) == 3, "metadata names its new address"


async def test_a_stale_leader_is_looked_up_again(three: dict[int, FakeBroker], wire: Wire) -> None:
    await wire.warm()
    assert await KafkaLogs(wire).ends([PLACES[0]])
    for broker in three.values():
        broker.on(messages.METADATA, lambda: metadata(three, {"t": {0: 2, 1: 2, 2: 3}}))
    three[1].on(messages.LIST_OFFSETS, lambda: end_offsets("t", {0: (6, -1)}))
    three[2].on(messages.LIST_OFFSETS, lambda: end_offsets("t", {0: (0, 77)}))
    assert (await KafkaLogs(wire).ends([PLACES[0]]))[PLACES[0]].leo == 77


async def test_a_leader_that_stays_stale_is_unreachable_in_the_end(three: dict[int, FakeBroker], wire: Wire) -> None:
    three[1].on(messages.LIST_OFFSETS, lambda: end_offsets("t", {0: (6, -1)}))
    with pytest.raises(UnreachableError, match="NOT_LEADER"):
        await KafkaLogs(wire).ends([PLACES[0]])


async def test_a_partition_nobody_knows_is_refused(wire: Wire) -> None:
    for unknown in (TopicPartition("t", 9), TopicPartition("u", 0)):
        with pytest.raises(InvalidRequestError, match=str(unknown)):
            await KafkaLogs(wire).ends([unknown])


async def test_an_authorization_error_names_the_super_users(three: dict[int, FakeBroker], wire: Wire) -> None:
    three[1].on(messages.LIST_OFFSETS, lambda: end_offsets("t", {0: (29, -1)}))
    with pytest.raises(MisconfiguredError, match=r"super\.users"):
        await KafkaLogs(wire).ends([PLACES[0]])


async def test_a_broker_that_lacks_a_request_is_no_kafka_4(three: dict[int, FakeBroker], wire: Wire) -> None:
    for broker in three.values():
        broker.on(messages.API_VERSIONS, lambda: api_versions(without=messages.LIST_TRANSACTIONS.API_KEY))
    with pytest.raises(MisconfiguredError, match=r"lacks ListTransactions v1 \(offers none\)"):
        await wire.metadata()


async def test_a_listener_that_is_not_kafka_is_unreachable_not_a_hang() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wire = Wire("dc-a", [f"127.0.0.1:{port}"], None, timeout=timedelta(seconds=TIMEOUT))
    with pytest.raises(UnreachableError, match="not a Kafka listener"):
        await wire.metadata()
    await wire.close()
    server.close()
    await server.wait_closed()


async def test_a_missing_password_file_names_the_file_and_no_secret(
    three: dict[int, FakeBroker], tmp_path: Path
) -> None:
    credentials = Credentials(username="admin", password_file=tmp_path / "gone")
    wire = Wire("dc-a", [three[1].address], credentials, timeout=timedelta(seconds=TIMEOUT))
    with pytest.raises(MisconfiguredError, match=f"'admin' from {tmp_path}/gone"):
        await wire.metadata()
    await wire.close()


async def test_a_rejected_user_is_a_misconfiguration_without_the_password(
    three: dict[int, FakeBroker], tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    shake, authenticate = (messages._BY_REQUEST[m][0] for m in (messages.SASL_HANDSHAKE, messages.SASL_AUTHENTICATE))
    three[1].on(messages.SASL_HANDSHAKE, lambda: shake(error_code=0, mechanisms=["PLAIN"]))
    three[1].on(
        messages.SASL_AUTHENTICATE,
        lambda: authenticate(error_code=58, error_message="no", auth_bytes=b"", session_lifetime_ms=0),
    )
    wire = Wire(
        "dc-a", [three[1].address], Credentials(username="admin", password_file=secret), timeout=timedelta(seconds=1)
    )
    with pytest.raises(MisconfiguredError, match="rejected the user 'admin'") as caught:
        await wire.metadata()
    assert "hunter2" not in str(caught.value)
    await wire.close()


async def test_a_cancelled_caller_leaves_the_connection_usable(three: dict[int, FakeBroker], wire: Wire) -> None:
    await wire.warm()
    connections = three[1].connections
    asked = asyncio.Event()
    three[1].on(messages.LIST_OFFSETS, asked.set)
    call = asyncio.create_task(KafkaLogs(wire).ends([PLACES[0]]))
    await asyncio.wait_for(asked.wait(), 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    three[1].on(messages.LIST_OFFSETS, lambda: end_offsets("t", {0: (0, 5)}))
    assert (await KafkaLogs(wire).ends([PLACES[0]]))[PLACES[0]].leo == 5
    assert three[1].connections == connections
