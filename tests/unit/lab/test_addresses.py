"""Addresses of a lab: every process and every link has its own, and nothing crosses sites without a link."""

from __future__ import annotations

import re
from fnmatch import filter as matching

import pytest

from lab.addresses import ARBITER, CLIENTS, FIRST_PORT, MEMBERS, Address, Plan, make_plan, other, prefixes
from lab.addresses import brokers as broker_names
from lab.errors import LabError
from lab.record import plan_from_json, plan_to_json


def plan(brokers: int = 1) -> Plan:
    return make_plan("127.20.7", brokers, lambda _: True)


@pytest.mark.parametrize("brokers", [1, 3])
def test_no_address_is_given_twice(brokers: int) -> None:
    made = plan(brokers)
    given = [*made.ports.values(), *(one for link in made.links for one in link.listen)]
    assert len(given) == len(set(given))


@pytest.mark.parametrize("brokers", [1, 3])
def test_every_advertised_address_outside_a_site_belongs_to_a_link_at_the_callers_site(brokers: int) -> None:
    made = plan(brokers)
    for member in MEMBERS:
        for listener, source in {"CLIENT": CLIENTS, "MIRROR": other(member), "CONTROL": ARBITER}.items():
            advertised = made.kafka(member, listener)
            assert len(advertised) == brokers
            link = made.link(source, member, "kafka")
            assert list(link.listen) == advertised
            assert {address.host for address in advertised} == {made.site(source)}
            assert {entry.upstream.host for entry in link.entries} == {made.site(member)}


@pytest.mark.parametrize("brokers", [1, 3])
def test_each_broker_asks_its_own_agent_through_a_link_of_its_own(brokers: int) -> None:
    made = plan(brokers)
    asked = {broker: made.agent(broker) for member in MEMBERS for broker in broker_names(member, brokers)}
    assert len(set(asked.values())) == 2 * brokers
    for broker, address in asked.items():
        member = broker.removeprefix("kafka-")[:4]
        assert address.host == made.site(member), "the agent's certificate names it"
        (entry,) = made.link(broker, f"agent-{member}", "marker").entries
        assert entry.upstream == made.ports[f"agent-{member}/marker"] != address


def test_a_site_that_is_cut_off_still_reaches_itself() -> None:
    names = [link.name for link in plan().links]
    for pattern in ("dc-a->*", "*->dc-a:*", "dc-b->dc-a:*", "*:kafka"):
        assert not any(name.endswith(":marker") for name in matching(names, pattern))
    assert matching(names, "kafka-dc-a-*:marker") == ["kafka-dc-a-1->agent-dc-a:marker"]


def test_the_other_listeners_inside_a_site_have_no_link() -> None:
    made = plan()
    links = {one for link in made.links for one in link.listen}
    for member in MEMBERS:
        assert not links & set(made.kafka(member, "INTERNAL"))


def test_each_pair_of_sites_has_a_peer_link_in_each_direction() -> None:
    made = plan()
    pairs = {(link.source, link.destination) for link in made.links if link.service == "etcd-peer"}
    sites = (*MEMBERS, ARBITER)
    assert pairs == {(one, two) for one in sites for two in sites if one != two}


def test_a_port_that_is_taken_is_passed_over() -> None:
    taken = {Address("127.20.7.1", port) for port in range(FIRST_PORT, FIRST_PORT + 4)}
    made = make_plan("127.20.7", 1, lambda address: address not in taken)
    given = {*made.ports.values(), *(one for link in made.links for one in link.listen)}
    assert not given & taken
    assert Address("127.20.7.1", FIRST_PORT + 4) in given


def test_two_labs_want_different_ports_of_the_address_they_share() -> None:
    one, two = (make_plan(prefix, 1, lambda _: True) for prefix in ("127.20.7", "127.20.8"))
    assert one.ports["temporal/frontend"].host == two.ports["temporal/frontend"].host == "127.0.0.1"
    assert one.ports["temporal/frontend"] != two.ports["temporal/frontend"]


def test_no_free_port_is_an_error_that_names_the_way_out() -> None:
    with pytest.raises(LabError, match="--site-prefix"):
        make_plan("127.20.7", 1, lambda _: False)


def test_a_plan_comes_back_from_json_as_it_was() -> None:
    made = plan(3)
    assert plan_from_json(plan_to_json(made)) == made


def test_prefixes_are_loopback_networks_avoid_those_taken_and_differ_by_seed() -> None:
    first = next(prefixes("one", []))
    assert re.fullmatch(r"127\.\d+\.\d+", first)
    assert first not in list(prefixes("one", [first]))
    assert next(prefixes("two", [])) != first
