"""The lab with three brokers a site: replicated, reachable broker by broker, and alive without one of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import ConfigResource

from lab import kafka
from lab.addresses import MEMBERS
from lab.down import down
from lab.estate import Lab
from lab.up import up
from lab.waiting import wait_for

pytestmark = [pytest.mark.timeout(600), pytest.mark.thorough]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DCDR_STATE", str(tmp_path_factory.mktemp("state")))
        try:
            yield up("three", broker_count=3, prefix=None, with_worker=False, say=print, automatic=False)
        finally:
            down("three", purge=True, say=print)


def test_every_topic_has_three_copies_of_which_two_must_be_in_sync_and_a_canary_on_each_broker(lab: Lab) -> None:
    for member in MEMBERS:
        admin = lab.admin(member)
        found = admin.list_topics(timeout=20).topics
        canary = found[kafka.CANARY_TOPIC].partitions.values()
        assert sorted(tuple(one.replicas) for one in canary) == [(1,), (2,), (3,)]
        for topic in (kafka.LEDGER_TOPIC, "orders"):  # on the standby, `orders` was made by the mirror
            assert all(len(one.replicas) == 3 for one in found[topic].partitions.values())
            resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
            config = admin.describe_configs([resource])[resource].result(20)
            assert config["min.insync.replicas"].value == "2"


def test_acknowledged_writes_go_on_without_one_broker_and_through_a_link_each(lab: Lab) -> None:
    link = lab.plan.link("client", "dc-a", "kafka")
    assert len(link.entries) == 3
    lab.fault.kill("kafka-dc-a-2")
    refused: list[KafkaError] = []
    producer = Producer(lab.client_config("app") | {"acks": "all", "message.timeout.ms": 60_000})
    for partition in range(12):
        producer.produce("orders", os.urandom(100), partition=partition, on_delivery=_collect(refused))
    assert producer.flush(90) == 0
    assert refused == []
    lab.fault.restart("kafka-dc-a-2")
    admin = lab.admin("dc-a")

    def whole() -> bool:
        partitions = admin.list_topics("orders", timeout=20).topics["orders"].partitions.values()
        return all(len(one.isrs) == 3 for one in partitions)

    wait_for("all copies in sync again", whole, 120, every_s=0.5)


def _collect(refused: list[KafkaError]) -> Callable[[KafkaError | None, object], None]:
    def note(error: KafkaError | None, _: object) -> None:
        if error is not None:
            refused.append(error)

    return note
