"""The fixtures of the Kafka contract tests: every port twice, the stand-in and a real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.kafka import KafkaCluster
from dcdr import ports
from tests.contract.kafka_real import RealKafka, kafka_cluster, real_kafka, real_kafka_3
from tests.contract.kafka_world import KafkaWorld, MemoryKafkaWorld, RealKafkaWorld

__all__ = [
    "fence",
    "groups",
    "kafka_cluster",
    "ledger",
    "logs",
    "memory",
    "positions",
    "real",
    "real_kafka",
    "real_kafka_3",
    "transactions",
    "world",
]


@pytest.fixture(params=["memory", pytest.param("real", marks=pytest.mark.real)])
def world(request: pytest.FixtureRequest) -> KafkaWorld:
    """One cluster with open gates, and the applications beside it; see `KafkaWorld`."""
    made: KafkaWorld = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def memory(tmp_path: Path) -> KafkaWorld:
    """The stand-in's active data center."""
    return MemoryKafkaWorld(tmp_path / "world")


@pytest.fixture
async def real(real_kafka: RealKafka, kafka_cluster: KafkaCluster) -> AsyncIterator[RealKafkaWorld]:
    """The real broker alone, for what the stand-in does not have."""
    made = RealKafkaWorld(real_kafka, kafka_cluster)
    await made.fence.open_users()
    await made.fence.thaw_groups()
    await made.mirror_allowed(True)
    yield made
    await made.leave_all()


@pytest.fixture
def fence(world: KafkaWorld) -> ports.ProduceFence:
    return world.fence


@pytest.fixture
def logs(world: KafkaWorld) -> ports.Logs:
    return world.logs


@pytest.fixture
def transactions(world: KafkaWorld) -> ports.Transactions:
    return world.transactions


@pytest.fixture
def groups(world: KafkaWorld) -> ports.ConsumerGroups:
    return world.groups


@pytest.fixture
def ledger(world: KafkaWorld) -> ports.Ledger:
    return world.ledger


@pytest.fixture
def positions(world: KafkaWorld) -> ports.MirrorPositions:
    return world.positions
