"""Load and checker on real brokers: clean runs pass, a killed load is no loss, planted anomalies are found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from typer import Typer
from typer.testing import CliRunner

from lab.check.cli import check
from lab.check.estate import current_runs
from lab.check.logs import Cluster
from lab.check.model import Demands, Kind
from lab.load.config import ClientManners
from lab.load.estate import Estate
from lab.load.process import Load
from lab.load.runner import LoadError
from lab.record import Home
from tests.integration.load_check_world import CALL_S, GROUPS, PLAIN, Pair, pair

pytestmark = pytest.mark.thorough

ACKS = 600
MOVE_S = 60.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(tmp_path_factory.mktemp("pair")) as world:
        yield world


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def switch_under_load(world: Pair, load: Load) -> None:
    target = world.cluster_id(world.standby)
    load.wait_for_acks(ACKS)
    # A group that stands nowhere yet cannot be carried over.
    load.wait_until(lambda live: set(live["commits"]) == set(GROUPS), MOVE_S, "every group to have committed")
    load.wait_until(lambda live: live["aborted"] > 0, MOVE_S, "a transaction aborted on purpose")
    world.close()
    load.wait_until(lambda live: live["refused"] > 0, MOVE_S, "a refusal")
    world.move()
    load.wait_for_acks(ACKS, MOVE_S, target)
    before = load.live()["received"]
    load.wait_until(
        lambda live: all(live["received"][group] > before.get(group, 0) for group in ("live", "lag")),
        MOVE_S,
        "both groups to read on",
    )


def test_there_and_back_under_load_is_clean_for_good_and_naive_clients(world: Pair, runs: Path) -> None:
    summaries = {}
    for manners in (ClientManners.GOOD, ClientManners.NAIVE):
        with Load(world.load_config(runs / manners, client=manners)) as load:
            switch_under_load(world, load)
        summaries[manners] = load.summary
    assert world.active == "dc-a"

    for manners, summary in summaries.items():
        assert summary["refused"] > 0
        assert len(summary["outages"]) == 1, manners
    checked = world.check([runs / manners for manners in ClientManners], Demands(switchovers=2, min_acks=ACKS))
    assert checked.verdict.samples == []
    assert checked.verdict.vacuous == []
    assert checked.verdict.exit_code == 0
    # Not by luck: there were aborted transactions, and every group read on both sides.
    assert all(summary["aborted"] > 0 for summary in summaries.values())
    groups = checked.verdict.facts["groups"]
    assert isinstance(groups, dict)
    assert {tuple(sorted(seen["sides"])) for seen in groups.values()} == {("dc-a", "dc-b")}


def test_a_fence_that_opens_again_is_survived_on_the_same_side(world: Pair, runs: Path) -> None:
    with Load(world.load_config(runs / "abort")) as load:
        load.wait_for_acks(ACKS // 4)
        world.close()
        # A new producer fails at its id, which is fatal to it and no refusal of a record: each is refused once.
        load.wait_until(lambda live: live["refused"] >= PLAIN, MOVE_S, "refusals")
        world.allow_again(world.active)
        load.wait_for_acks(ACKS // 4)
    assert load.summary["outages"] == []
    assert world.check(every_run(runs), Demands()).verdict.samples == []


def test_a_load_that_is_killed_leaves_a_log_that_can_be_judged(world: Pair, runs: Path) -> None:
    load = Load(world.load_config(runs / "killed", rate=1000)).start()
    load.wait_for_acks(ACKS)
    load.kill()
    verdict = world.check(every_run(runs), Demands()).verdict
    assert verdict.samples == []
    attempts = verdict.facts["attempts"]
    assert isinstance(attempts, dict)
    assert attempts["info"] > 0


def test_a_folder_is_not_written_twice_and_a_missing_topic_is_named(world: Pair, runs: Path) -> None:
    with pytest.raises(LoadError, match="already holds a run"):
        Load(world.load_config(runs / "killed")).start()
    with pytest.raises(LoadError, match="nowhere"):
        Load(world.load_config(runs / "nowhere", topics={"nowhere": "keyed"})).start()


def test_a_producer_pinned_to_the_old_side_is_found_when_the_fence_is_left_out(world: Pair, runs: Path) -> None:
    """The negative proof: users move, nobody closes the old side, one producer stays there."""
    pinned = {"pin": world.kafkas[world.active].bootstrap[0]}
    with Load(world.load_config(runs / "pinned", pinned=pinned, groups={}, rate=1000)) as load:
        load.wait_for_acks(ACKS)
        world.move(groups=False)
        # The followers were never refused: only new clients find the other side.
        with Load(world.load_config(runs / "after", groups={}, rate=600)) as after:
            after.wait_for_acks(ACKS)
    counts = world.check(every_run(runs), Demands()).verdict.counts
    assert counts[Kind.TWO_WRITERS] > 0
    assert counts[Kind.MISSING] > 0
    assert counts[Kind.OLD_ONLY] > 0


def test_anomalies_planted_on_real_brokers_are_found_and_printed(world: Pair, runs: Path) -> None:
    before = world.check(every_run(runs), Demands()).verdict.counts
    active = world.kafkas[world.active]
    messages = list(world.messages(world.active, {}))
    orders = [m for m in messages if m.topic() == "orders"]
    profiles = [m for m in messages if m.topic() == "profiles" and m.value() is not None]
    producer = Producer(active.client())

    def again(message: object, **changes: object) -> None:
        kept = {
            "topic": message.topic(),  # type: ignore[attr-defined]
            "value": message.value(),  # type: ignore[attr-defined]
            "key": message.key(),  # type: ignore[attr-defined]
            "partition": message.partition(),  # type: ignore[attr-defined]
            "timestamp": message.timestamp()[1],  # type: ignore[attr-defined]
            "headers": message.headers(),  # type: ignore[attr-defined]
        }
        producer.produce(**{**kept, **changes})

    again(orders[-1])  # the same attempt twice
    again(orders[-2], value=b"something else")  # altered: value
    again(orders[-3], headers=[*orders[-3].headers()[:2], ("lab-bytes", b"")])  # altered: null became empty
    again(orders[-4], timestamp=1)  # altered: time
    again(orders[-5], headers=[])  # nobody sent this
    newest = {m.key(): m for m in profiles}
    old = next(m for m in profiles if newest[m.key()] is not m)
    again(old)  # an old value is the last one again
    assert producer.flush(CALL_S) == 0
    place = TopicPartition("clicks", 0, next(m.offset() for m in messages if m.topic() == "clicks") + 5)
    place.partition = next(m.partition() for m in messages if m.topic() == "clicks")
    for deleted in active.admin().delete_records([place]).values():
        deleted.result(CALL_S)

    checked = world.check(every_run(runs), Demands())
    after = checked.verdict.counts
    for kind in (Kind.DUPLICATED, Kind.ALTERED, Kind.PHANTOM, Kind.STALE, Kind.MISSING):
        assert after[kind] > before[kind], kind
    assert after[Kind.ALTERED] >= before[Kind.ALTERED] + 3

    app = Typer()
    app.command()(check)
    password = active.password_file("admin")
    arguments = ["--active", world.active, "-o", "json", "--user", "admin"]
    shared = password.with_name("both")  # one user for both sides: the load's own, who may read everything
    shared.write_text(world.credentials.password())
    arguments = ["--active", world.active, "-o", "json", "--user", "load", "--password-file", str(shared)]
    for name, kafka in world.kafkas.items():
        arguments += ["--cluster", f"{name}={kafka.bootstrap[0]}"]
    for folder in every_run(runs):
        arguments += ["--run", str(folder)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1, result.output
    printed = json.loads(result.stdout)
    assert printed["counts"]["duplicated"] == after[Kind.DUPLICATED]
    assert {sample["kind"] for sample in printed["first"]} >= {"duplicated", "altered", "phantom", "stale", "missing"}


def test_a_run_whose_topic_was_made_anew_is_left_out(world: Pair, tmp_path: Path) -> None:
    kafka = world.kafkas[world.active]
    kafka.create_topic("again", 1)
    estate = Estate(Home("pair", tmp_path), {})
    clusters = [Cluster(name, other.client()) for name, other in world.kafkas.items()]
    config = world.load_config(estate.runs / "first", topics={"again": "keyed"}, groups={})
    with Load(config) as load:
        load.wait_for_acks(20)
    said: list[str] = []
    assert current_runs(estate, clusters, said.append) == [config.out]
    for deleted in kafka.admin().delete_topics(["again"]).values():
        deleted.result(CALL_S)
    kafka.create_topic("again", 1)
    assert current_runs(estate, clusters, said.append) == []
    assert said == ["run first is left out: its topics were made anew since"]


def every_run(runs: Path) -> list[Path]:
    return sorted((path.parent for path in runs.glob("*/run.json")), key=lambda path: path.stat().st_mtime)
