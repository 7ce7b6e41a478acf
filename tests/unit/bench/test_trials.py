"""What the trials do to a lab, as far as it can be seen without one."""

from pathlib import Path

import pytest
import yaml

from bench.errors import BenchError
from bench.model import Wanted
from bench.trials import AUTOMATIC, FAULT_S, measure_authorizer
from dcdr.bounds import LeaseTiming, Preset
from dcdr.settings import Settings
from lab import kafka, kube, record, settings, store
from lab.addresses import make_plan
from lab.estate import Lab
from lab.record import Home, plan_to_json

PLAN = make_plan("127.20.8", 1, lambda _: True)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("DCDR_STATE", str(tmp_path))
    home = Home.of("one")
    home.create()
    home.write(
        {
            "version": record.VERSION,
            "plan": plan_to_json(PLAN),
            "fence": "authorizer",
            "users": {user: f"/s/{user}.password" for user in kafka.USERS},
            "kubernetes": kube.describe(PLAN, home),
            "processes": {},
        }
    )
    return Lab(home)


def test_the_variable_lets_the_labs_agents_take_over_by_themselves(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.settings.write_text(settings.render(lab))
    assert not Settings.load(lab.settings).scopes[store.SCOPE].lease.automatic
    for name, value in AUTOMATIC.items():
        monkeypatch.setenv(name, value)
    after = Settings.load(lab.settings).scopes[store.SCOPE].lease
    assert after.automatic
    assert after.preset is Preset.FAST, "and changes nothing else"


def test_a_leader_stands_still_for_longer_than_an_election_and_shorter_than_a_lease(lab: Lab) -> None:
    timing = LeaseTiming.of(Preset(yaml.safe_load(settings.render(lab))["scopes"][store.SCOPE]["lease"]["preset"]))
    assert timing.renew + timing.election < FAULT_S < timing.wait


async def test_without_maven_the_authorizers_series_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = Wanted(switchovers=1, rate=1, size=1, brokers=1, fence="acl")
    with pytest.raises(BenchError, match="Maven"):
        await measure_authorizer(wanted, tmp_path, lambda line: None)
