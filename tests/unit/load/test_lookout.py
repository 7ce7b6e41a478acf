"""One look for all clients of a run: shared while it is young, and never mistaken for news when nobody answers."""

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from lab.load import lookout
from lab.load.lookout import LOOK_AGAIN_NS, Lookout


class Endpoint:
    """Stands in for the admin client and the clock: where the endpoint leads, and how often somebody looked."""

    def __init__(self) -> None:
        self.cluster: str | None = "old"
        self.looks = 0
        self.now = 1_000_000_000

    def __call__(self, _settings: Any) -> "Endpoint":
        return self

    def list_topics(self, _topic: str, timeout: float) -> SimpleNamespace:
        self.looks += 1
        if self.cluster is None:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return SimpleNamespace(cluster_id=self.cluster)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    found = Endpoint()
    monkeypatch.setattr(lookout, "AdminClient", found)
    monkeypatch.setattr(lookout, "time", SimpleNamespace(monotonic_ns=lambda: found.now))
    return found


def test_clients_share_a_look_that_is_young(endpoint: Endpoint) -> None:
    shared = Lookout({}, "t")
    assert [shared.leads_to("old") for _ in range(5)] == [True] * 5
    assert endpoint.looks == 1


def test_a_look_that_has_aged_is_taken_again(endpoint: Endpoint) -> None:
    shared = Lookout({}, "t")
    assert shared.leads_to("old")
    endpoint.cluster, endpoint.now = "new", endpoint.now + LOOK_AGAIN_NS
    assert not shared.leads_to("old")
    assert endpoint.looks == 2


def test_no_answer_is_not_news(endpoint: Endpoint) -> None:
    shared = Lookout({}, "t")
    endpoint.cluster = None
    assert shared.leads_to("old")
    endpoint.cluster = "new"
    assert not shared.leads_to("old"), "a look that failed is not kept"
