"""What the lab tells its servers: safe mirrors, separate listeners, no password where it can be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dcdr.settings import Settings, TlsSettings
from lab import connect, kafka, kube, record, settings, store, tls
from lab.addresses import MEMBERS, make_plan, other
from lab.estate import Lab
from lab.record import Home, plan_to_json

PASSWORDS = {user: f"secret-of-{user}" for user in kafka.USERS}
PLAN = make_plan("127.20.7", 3, lambda _: True)


def properties(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


@pytest.mark.parametrize("source", MEMBERS)
def test_a_mirror_never_repeats_reorders_or_rewrites(source: str) -> None:
    found = dict(connect.connectors(PLAN, source, Path("/s/mirror.properties")))
    main = found[f"mm2-source.{source}-to-{other(source)}"]
    assert main["exactly.once.support"] == "required"
    assert main["source.consumer.isolation.level"] == "read_committed"
    assert main["sync.topic.acls.enabled"] == "false"
    assert main["heartbeats.replication.enabled"] == "false"
    assert main["replication.factor"] == "-1"
    for config in found.values():
        assert config["source.cluster.alias"] == source
        assert config["target.cluster.alias"] == other(source)
        assert config["replication.policy.class"].endswith("IdentityReplicationPolicy")
        assert {config[f"{part}.converter"] for part in ("key", "value", "header")} == {connect.BYTES}
        assert config["errors.tolerance"] == "none"
        assert config["offset-syncs.topic.location"] == "target"
        assert "transforms" not in config
        assert "secret-of" not in json.dumps(config)


def test_the_mirror_reads_through_its_link_and_writes_inside_its_site() -> None:
    config = dict(connect.connectors(PLAN, "dc-a", Path("/s")))["mm2-source.dc-a-to-dc-b"]
    link = ",".join(map(str, PLAN.link("dc-b", "dc-a", "kafka").listen))
    assert config["source.cluster.bootstrap.servers"] == link
    assert config["target.cluster.bootstrap.servers"] == ",".join(map(str, PLAN.kafka("dc-b", "INTERNAL")))


def test_no_topic_a_user_may_own_is_left_out_of_the_mirror() -> None:
    import re

    config = dict(connect.connectors(PLAN, "dc-a", Path("/s")))["mm2-source.dc-a-to-dc-b"]
    left_out = [re.compile(one) for one in config["topics.exclude"].split(",")]
    for mine in ("orders", "connect-clicks", "dr-test-20261121", "orders.replica", "mm2-things", "heartbeats-of-pumps"):
        assert not any(one.fullmatch(mine) for one in left_out), mine
    for own in ("connect-offsets.internal", "dcdr-ledger.internal", "__consumer_offsets", "heartbeats"):
        assert any(one.fullmatch(own) for one in left_out), own


def test_no_group_a_connector_or_an_application_may_have_is_left_without_a_checkpoint() -> None:
    import re

    config = dict(connect.connectors(PLAN, "dc-a", Path("/s")))["mm2-checkpoint.dc-a-to-dc-b"]
    left_out = [re.compile(one) for one in config["groups.exclude"].split(",")]
    for mine in ("billing", "connect-clicks", "dcdr-things", "__mine"):
        assert not any(one.fullmatch(mine) for one in left_out), mine
    for own in ("connect-dc-a", "connect-dc-b", "dcdr-canary.internal"):
        assert any(one.fullmatch(own) for one in left_out), own


def test_only_static_super_users_are_spared_by_the_fence() -> None:
    found = properties(kafka.server_properties(PLAN, "dc-a", 1, Path("/d"), PASSWORDS, {}))
    assert found["super.users"] == "User:admin;User:mirror;User:broker"
    assert found["allow.everyone.if.no.acl.found"] == "false"
    assert "PLAINTEXT:PLAINTEXT" not in found["listener.security.protocol.map"]
    assert {rule.principal for rule in kafka.standing_rules()}.isdisjoint(found["super.users"].split(";"))


def test_a_broker_asks_its_agent_through_its_link_and_shows_its_own_certificate() -> None:
    gates = kafka.gate_properties(PLAN, "dc-b", "lab", "kafka-dc-b-2", Home("one", Path("/h")), (), "connect-dc-b")
    assert gates["dcdr.authorizer.agents"] == f"https://{PLAN.agent('kafka-dc-b-2')}"
    assert gates["dcdr.authorizer.tls.certificate"].endswith("/kafka-dc-b-2.crt")
    assert gates["dcdr.authorizer.tls.key"].endswith("/kafka-dc-b-2.key")
    assert gates["dcdr.authorizer.tls.ca"].endswith("/ca.crt")
    assert properties(kafka.server_properties(PLAN, "dc-b", 2, Path("/d"), PASSWORDS, gates)).items() >= gates.items()


def test_three_brokers_keep_two_in_sync_copies() -> None:
    found = properties(kafka.server_properties(PLAN, "dc-b", 3, Path("/d"), PASSWORDS, {}))
    assert found["node.id"] == "3"
    assert found["controller.quorum.voters"].count("@") == 3
    assert found["default.replication.factor"] == "3"
    assert found["min.insync.replicas"] == "2"


def test_a_canary_partition_lies_on_each_broker() -> None:
    canary = next(one for one in kafka.own_topics(3) if one.topic == kafka.CANARY_TOPIC)
    assert canary.replica_assignment == [[1], [2], [3]]


def test_endpoint_addresses_are_none_that_the_api_server_refuses_and_all_lead_to_client_links() -> None:
    table = kube.address_map(PLAN)
    assert len(table) == 6
    assert all(address.startswith(("198.18.", "198.19.")) for address in table)
    links = {str(one) for member in MEMBERS for one in PLAN.link("client", member, "kafka").listen}
    assert set(table.values()) == links


def test_each_store_member_is_led_to_the_others_through_its_own_links() -> None:
    table = store.egress_table(PLAN)
    for source in store.STORE_SITES:
        routes = table[str(PLAN.ports[f"egress/{source}"])]
        assert set(routes) == {store.peer_host(one) for one in store.STORE_SITES if one != source}
        for destination in set(store.STORE_SITES) - {source}:
            entry = PLAN.link(source, destination, "etcd-peer").entries[0]
            assert routes[store.peer_host(destination)] == str(entry.listen)


def test_the_products_settings_load_and_name_files_rather_than_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCDR_STATE", str(tmp_path))
    home = Home.of("one")
    home.create()
    home.write(
        {
            "version": record.VERSION,
            "fence": "authorizer",
            "automatic": False,
            "failover": {},
            "plan": plan_to_json(PLAN),
            "users": {user: f"/s/{user}.password" for user in kafka.USERS},
            "kubernetes": kube.describe(PLAN, home),
            "processes": {},
        }
    )
    text = settings.render(Lab(home))
    home.settings.write_text(text)
    scope = Settings.load(home.settings).scopes["lab"]
    assert list(scope.members) == list(MEMBERS)
    assert scope.arbiters == ("dc-c",)
    control = tuple(map(str, PLAN.link("dc-c", "dc-b", "kafka").listen))
    assert scope.members["dc-b"].kafka.bootstrap == control
    assert scope.members["dc-a"].kafka.canary_topic == kafka.CANARY_TOPIC
    agent = scope.members["dc-b"].agent
    assert agent is not None
    assert agent.tls == TlsSettings(**tls.files(home, "agent-dc-b"))
    canary = scope.members["dc-b"].kafka.mirror_canary
    assert canary is not None
    assert canary.username in kafka.MIRRORS
    assert "secret-of" not in text


def test_a_lab_of_another_version_keeps_its_addresses_and_stops_no_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCDR_STATE", str(tmp_path))
    older = {"version": record.VERSION - 1, "plan": {"prefix": "127.30.1"}}
    for name, text in (("older", json.dumps(older)), ("broken", "{"), ("own", json.dumps(older))):
        home = Home.of(name)
        home.create()
        home.record.write_text(text)
    assert record.taken_prefixes("own") == ["127.30.1"]
