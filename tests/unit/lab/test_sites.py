"""A site fails as a whole: killed at once, cut off in the directions asked for, started again in the right order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcdr.settings import Settings
from lab import kafka, kube, processes, record, settings, store
from lab.addresses import ARBITER, CLIENTS, MEMBERS, WORKERS, Link, make_plan
from lab.errors import LabError, UsageError
from lab.estate import Lab
from lab.faults import START_ORDER, Fault, Way
from lab.processes import ProcessState
from lab.record import Home, plan_to_json
from lab.up import tell_agents

PLAN = make_plan("127.20.9", 1, lambda _: True)
SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
SITES = {"kafka-dc-a-1": "dc-a", "etcd-dc-a": "dc-a", "worker-dc-a": "dc-a", "kafka-dc-b-1": "dc-b"}
INWARD, OUTWARD = "forward", "back"


class Proxies:
    """The fault proxy's state, without its server."""

    def __init__(self) -> None:
        self.state: dict[str, dict[str, Any]] = {
            entry.proxy: {"enabled": True, "toxics": []} for link in PLAN.links for entry in link.entries
        }

    def proxies(self) -> dict[str, dict[str, Any]]:
        return self.state

    def enable(self, proxy: str, enabled: bool) -> None:
        self.state[proxy]["enabled"] = enabled

    def add_toxic(self, proxy: str, name: str, kind: str, stream: str, attributes: dict[str, int]) -> None:
        self.remove_toxic(proxy, name)
        toxic = {"name": name, "type": kind, "stream": stream, "attributes": attributes}
        self.state[proxy]["toxics"].append(toxic)

    def remove_toxic(self, proxy: str, name: str) -> None:
        kept = [one for one in self.state[proxy]["toxics"] if one["name"] != name]
        self.state[proxy]["toxics"] = kept


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A lab of sleepers, one of them at each of two sites at least, and a fault proxy without a server."""
    monkeypatch.setenv("DCDR_STATE", str(tmp_path))
    home = Home.of("one")
    home.create()
    entries = {name: {"site": site, "argv": SLEEPER, "environment": {}} for name, site in SITES.items()}
    entries["toxiproxy"] = {"site": CLIENTS, "argv": SLEEPER, "environment": {}}
    home.write(
        {
            "version": record.VERSION,
            "name": "one",
            "token": "sites",
            "fence": "authorizer",
            "automatic": False,
            "failover": {},
            "plan": plan_to_json(PLAN),
            "users": {user: f"/s/{user}.password" for user in kafka.USERS},
            "kubernetes": kube.describe(PLAN, home),
            "processes": entries,
        }
    )
    lab = Lab(home)
    lab.__dict__["toxiproxy"] = Proxies()
    for name in SITES:
        lab.process(name).start()
    yield lab
    processes.end([one for name in SITES if (one := lab.process(name).identity)], 0)


def broken(lab: Lab) -> dict[str, set[tuple[str, str]]]:
    """Link -> (kind, direction) of each fault of links."""
    found: dict[str, set[tuple[str, str]]] = {}
    for fault in lab.fault.active():
        if "->" in fault.target:
            found.setdefault(fault.target, set()).add((fault.kind, fault.direction))
    return found


def crosses(link: Link, site: str) -> bool:
    return site in (link.source, link.destination)


def test_a_killed_site_is_dead_as_a_whole_and_nothing_else_is(lab: Lab) -> None:
    assert sorted(lab.fault.kill_site("dc-a")) == ["etcd-dc-a", "kafka-dc-a-1", "worker-dc-a"]
    assert {name: lab.process(name).state for name in SITES} == {
        name: ProcessState.DOWN if site == "dc-a" else ProcessState.RUNNING for name, site in SITES.items()
    }
    assert Fault("etcd-dc-a", "down") in lab.fault.active()


def test_a_frozen_process_dies_with_its_site(lab: Lab) -> None:
    lab.fault.freeze("kafka-dc-a-1")
    lab.fault.kill_site("dc-a")
    assert lab.process("kafka-dc-a-1").state is ProcessState.DOWN


def test_a_site_that_is_dead_already_says_how_to_start_it(lab: Lab) -> None:
    lab.fault.kill_site("dc-a")
    with pytest.raises(LabError, match="restart-site dc-a"):
        lab.fault.kill_site("dc-a")


@pytest.mark.parametrize("site", ["dc-x", CLIENTS, "kafka-dc-a-1"])
def test_what_is_no_site_of_the_estate_is_refused_with_those_that_are(lab: Lab, site: str) -> None:
    for fail in (lab.fault.kill_site, lab.fault.restart_site, lab.fault.cut_site):
        with pytest.raises(UsageError, match="dc-a, dc-b, dc-c"):
            fail(site)


def test_only_what_is_down_is_started_again_and_each_after_what_it_looks_for(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[str] = []
    monkeypatch.setattr("lab.faults.wait_ready", lambda _, name: waited.append(name))
    lab.fault.kill("worker-dc-a")
    assert lab.fault.restart_site("dc-a") == ["worker-dc-a"]
    lab.fault.kill_site("dc-a")
    assert lab.fault.restart_site("dc-a") == ["etcd-dc-a", "kafka-dc-a-1", "worker-dc-a"]
    assert waited == ["worker-dc-a", "etcd-dc-a", "kafka-dc-a-1", "worker-dc-a"]
    assert all(lab.process(name).state is ProcessState.RUNNING for name in SITES)


def test_every_process_of_a_lab_has_its_place_in_the_order_of_starting() -> None:
    names = {key.partition("/")[0] for key in PLAN.ports} | set(WORKERS)
    for name in names:
        assert sum(name.startswith(prefix) for kind in START_ORDER for prefix in kind) == 1, name


def test_a_cut_closes_every_link_to_the_other_sites_and_leaves_the_clients_and_its_inside(lab: Lab) -> None:
    lab.fault.cut_site("dc-a")
    hit = broken(lab)
    for link in PLAN.links:
        inside = link.service == "marker"
        expected = crosses(link, "dc-a") and CLIENTS not in (link.source, link.destination) and not inside
        assert (hit.get(link.name) == {("cut", "")}) is expected, link.name
    assert "dc-a->dc-c:temporal" in hit, "its worker gets no work"
    assert {"dc-a->dc-b:kafka", "dc-b->dc-a:kafka", "dc-a->dc-b:connect", "dc-a->dc-c:etcd"} <= set(hit)
    lab.fault.heal()
    assert broken(lab) == {}


def test_clients_are_cut_off_too_on_request(lab: Lab) -> None:
    assert "client->dc-a:kafka" in lab.fault.cut_site("dc-a", with_clients=True)
    assert broken(lab)["client->dc-a:kafka"] == {("cut", "")}


@pytest.mark.parametrize(("way", "dialled_in", "dialled_out"), [(Way.IN, INWARD, OUTWARD), (Way.OUT, OUTWARD, INWARD)])
def test_a_one_way_cut_swallows_that_way_only_whoever_dialled(
    lab: Lab, way: Way, dialled_in: str, dialled_out: str
) -> None:
    lab.fault.cut_site("dc-a", way)
    hit = broken(lab)
    assert hit["dc-b->dc-a:kafka"] == {("blackhole", dialled_in)}
    assert hit["dc-a->dc-b:kafka"] == {("blackhole", dialled_out)}
    assert len(hit) == len([link for link in PLAN.crossing("dc-a") if CLIENTS not in (link.source, link.destination)])


def test_a_silent_cut_closes_nothing(lab: Lab) -> None:
    lab.fault.cut_site("dc-b", silently=True)
    assert broken(lab)["dc-a->dc-b:kafka"] == {("blackhole", "forward"), ("blackhole", "back")}


def test_a_direction_that_is_none_is_refused(lab: Lab) -> None:
    with pytest.raises(UsageError, match="in, out, both"):
        lab.fault.cut_site("dc-a", "up")


@pytest.mark.parametrize("site", [*MEMBERS, ARBITER])
def test_what_runs_at_a_site_reaches_other_sites_through_links_of_its_own(lab: Lab, site: str) -> None:
    home = PLAN.site(site)
    scope = settings.document(lab, site)["scopes"][store.SCOPE]
    assert {one.rpartition(":")[0] for one in scope["store"]["endpoints"]} == {home}
    for name, member in scope["members"].items():
        reached = {one.rpartition(":")[0] for one in member["kafka"]["bootstrap"]}
        assert reached == {home}, name
        assert member["connect"]["url"].startswith(f"http://{home}:"), name
    assert (PLAN.temporal(site).host == home) is (site in MEMBERS), "the arbiter's is Temporal itself"


def test_the_agents_are_told_whether_they_take_over_and_what_may_be_lost(lab: Lab) -> None:
    said: list[str] = []
    tell_agents(lab, said.append, automatic=True, failover={"max_lost_records": 0})
    assert lab.automatic
    for site in (*MEMBERS, ARBITER):
        scope = Settings.load(lab.home.site_settings(site)).scopes[store.SCOPE]
        assert scope.lease.automatic
        assert scope.failover.max_lost_records == 0
        assert scope.failover.cool_down.total_seconds() == 0
    tell_agents(lab, said.append, automatic=False, failover={})
    scope = Settings.load(lab.settings).scopes[store.SCOPE]
    assert not scope.lease.automatic
    assert scope.failover.max_lost_records == settings.FAILOVER["max_lost_records"]
    assert said == [], "no agent runs here, so none is restarted"


def test_nobody_takes_over_by_himself_behind_a_fence_that_does_not_close(lab: Lab) -> None:
    lab.document["fence"] = "acl"
    with pytest.raises(UsageError, match="--fence acl"):
        tell_agents(lab, print, automatic=True)
    assert not lab.automatic
