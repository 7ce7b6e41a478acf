"""What the endpoint proxy makes of EndpointSlices."""

from __future__ import annotations

from typing import Any

from lab.addresses import Address
from lab.endpoint_proxy import Targets

ADDRESSES = {"198.18.1.17": "127.20.7.4:20001", "198.18.1.18": "127.20.7.4:20002", "198.18.1.33": "127.20.7.4:20009"}


def endpoint_slice(name: str, *addresses: str, ready: bool | None = True, port: str = "kafka") -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "ports": [{"name": port, "port": 9092}],
        "endpoints": [{"addresses": [one], "conditions": {"ready": ready}} for one in addresses],
    }


def test_a_change_of_the_slice_is_a_change_of_the_target() -> None:
    targets = Targets(ADDRESSES, "kafka")
    targets.replace([endpoint_slice("s", "198.18.1.17")])
    assert targets.in_turn() == [Address("127.20.7.4", 20001)]
    targets.update("MODIFIED", endpoint_slice("s", "198.18.1.33"))
    assert targets.in_turn() == [Address("127.20.7.4", 20009)]
    targets.update("DELETED", endpoint_slice("s", "198.18.1.33"))
    assert targets.in_turn() == []


def test_a_new_list_forgets_slices_that_are_gone() -> None:
    targets = Targets(ADDRESSES, "kafka")
    targets.replace([endpoint_slice("old", "198.18.1.17"), endpoint_slice("both", "198.18.1.18")])
    targets.replace([endpoint_slice("both", "198.18.1.18")])
    assert targets.current == ["198.18.1.18:9092"]


def test_every_endpoint_gets_its_turn_and_the_others_are_next_best() -> None:
    targets = Targets(ADDRESSES, "kafka")
    targets.replace([endpoint_slice("s", "198.18.1.17", "198.18.1.18")])
    first, second = targets.in_turn(), targets.in_turn()
    assert sorted(first) == sorted(second)
    assert first != second


def test_what_is_not_ready_or_another_port_or_unknown_is_no_target() -> None:
    targets = Targets(ADDRESSES, "kafka")
    targets.replace([endpoint_slice("s", "198.18.1.17", ready=False), endpoint_slice("t", "198.18.1.18", port="admin")])
    assert targets.current == []
    targets.replace([endpoint_slice("s", "203.0.113.1")])
    assert targets.in_turn() == []


def test_a_slice_that_does_not_say_whether_it_is_ready_is() -> None:
    targets = Targets(ADDRESSES, "kafka")
    targets.replace([endpoint_slice("s", "198.18.1.17", ready=None)])
    assert len(targets.in_turn()) == 1
