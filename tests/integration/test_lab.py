"""The lab on real servers: it starts, breaks on request, becomes fresh again, and ends what it started and only that.

One lab for the module, in a state folder of its own, so that no other lab of this machine is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AclPermissionType, AdminClient, NewTopic, OffsetSpec

from lab import connect, gates, kafka, kube, processes, store, temporal
from lab.endpoint_proxy import WATCH_S
from lab.errors import LabError, UsageError
from lab.estate import Lab
from lab.faults import Fault
from lab.processes import ProcessState
from lab.status import cleaner_offsets
from lab.waiting import wait_for

UP_LIMIT_S = 240
pytestmark = [pytest.mark.timeout(420), pytest.mark.thorough]


def cli(*arguments: str, state: Path, limit_s: float = UP_LIMIT_S) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DCDR_STATE": str(state)}
    return subprocess.run(
        [sys.executable, "-m", "lab.cli", *arguments],
        env=environment, capture_output=True, text=True, timeout=limit_s, check=False,
    )  # fmt: skip


def told(done: subprocess.CompletedProcess[str]) -> str:
    return f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder; whatever lab is left in it at the end is ended."""
    folder = tmp_path_factory.mktemp("state")
    before = os.environ.get("DCDR_STATE")
    os.environ["DCDR_STATE"] = str(folder)
    yield folder
    for record in folder.glob("labs/*/lab.json"):
        cli("down", "--purge", "--lab", record.parent.name, state=folder)
    if before is None:
        del os.environ["DCDR_STATE"]
    else:
        os.environ["DCDR_STATE"] = before


@pytest.fixture(scope="module")
def lab(state: Path) -> Lab:
    done = cli("up", "--lab", "main", "--no-worker", "--no-automatic", state=state)
    assert done.returncode == 0, told(done)
    return Lab.open("main")


@pytest.fixture(autouse=True)
def healed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "lab" in request.fixturenames:
        opened: Lab = request.getfixturevalue("lab")
        for name in opened.process_names:
            if opened.process(name).state is ProcessState.FROZEN:
                opened.process(name).thaw()
        if opened.process("toxiproxy").state is ProcessState.RUNNING:
            opened.fault.heal()


def produce(lab: Lab, topic: str, values: list[bytes], member: str | None = None, user: str = "app") -> list[int]:
    """Offsets, or error codes below zero, of each record."""
    outcome: list[int] = []
    # Not idempotent: such a one would be refused its producer id, and its record would never be tried.
    producer = Producer(lab.client_config(user, member) | {"acks": "all", "message.timeout.ms": 20_000})

    def note(error: KafkaError | None, message: Any) -> None:
        outcome.append(-error.code() if error else message.offset())

    for number, value in enumerate(values):
        producer.produce(topic, value, key=str(number), partition=0, on_delivery=note)
    assert producer.flush(30) == 0
    return outcome


def visible(lab: Lab, member: str, topic: str, partition: int = 0) -> list[bytes]:
    """Values of a partition, read committed, from its start to its end."""
    found: list[bytes] = []
    settings = {"group.id": "looks", "enable.auto.commit": False, "enable.partition.eof": True}
    config = lab.client_config("admin", member, "INTERNAL") | settings | {"isolation.level": "read_committed"}
    consumer = Consumer(config)
    try:
        consumer.assign([TopicPartition(topic, partition, 0)])
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if (error := message.error()) is None:
                found.append(message.value() or b"")
            elif error.code() == KafkaError._PARTITION_EOF:
                return found
            elif error.code() not in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION):
                raise KafkaException(error)
    finally:
        consumer.close()
    raise AssertionError(f"the end of {topic}-{partition} on {member} was not reached")


def arrives(lab: Lab, value: bytes, topic: str = "orders", limit_s: float = 60) -> None:
    wait_for(f"{value!r} on dc-b", lambda: value in visible(lab, "dc-b", topic), limit_s, every_s=0.2)


def bounds(admin: AdminClient, topic: str, partition: int) -> tuple[int, int]:
    """(log start, log end)."""

    def one(spec: OffsetSpec) -> int:
        where = TopicPartition(topic, partition)
        return int(admin.list_offsets({where: spec})[where].result(10).offset)

    return one(OffsetSpec.earliest()), one(OffsetSpec.latest())


def identities(lab: Lab) -> dict[str, Any]:
    return {name: lab.process(name).identity for name in lab.process_names}


# --- up and status ---


def test_the_lab_outlives_the_command_that_started_it_and_a_second_start_changes_nothing(lab: Lab, state: Path) -> None:
    before = identities(lab)
    assert all(lab.process(name).state is ProcessState.RUNNING for name in before)
    assert all(os.getppid() != pid.pid and os.getsid(pid.pid) == pid.pid for pid in before.values())
    done = cli("up", "--lab", "main", "--no-worker", "--no-automatic", state=state)
    assert done.returncode == 0, told(done)
    assert identities(lab) == before
    assert "kafka-dc-a-1 (" in done.stderr
    assert "was running" in done.stderr


def test_another_shape_under_the_same_name_is_refused_before_anything_happens(lab: Lab, state: Path) -> None:
    done = cli("up", "--lab", "main", "--brokers", "3", state=state)
    assert done.returncode == 2
    assert "down --purge" in done.stderr


def test_status_tells_which_side_is_open(lab: Lab, state: Path) -> None:
    done = cli("status", "--lab", "main", "-o", "json", state=state)
    assert done.returncode == 0, told(done)
    found = json.loads(done.stdout)
    assert found["gates"] == {
        "dc-a": {"users": "open", "groups": "free"},
        "dc-b": {"users": "closed", "groups": "frozen"},
    }
    assert found["endpoint"] == "dc-a"
    assert found["lease"]["holder"] == "dc-a"
    assert found["faults"] == []
    assert {one["name"] for one in found["processes"]} == set(lab.process_names)
    assert all(one["rss_bytes"] > 0 for one in found["processes"])
    standing, other_way = found["connectors"]["dc-b"], found["connectors"]["dc-a"]
    assert standing["mm2-source.dc-a-to-dc-b"]["tasks"] == ["RUNNING"] * connect.SOURCE_TASKS
    assert {one["state"] for one in other_way.values()} == {"STOPPED"}


def test_what_users_write_reaches_the_standby_which_itself_refuses_users(lab: Lab) -> None:
    offsets = produce(lab, "orders", [b"through the endpoint"])
    assert offsets[0] >= 0
    arrives(lab, b"through the endpoint")
    refused = produce(lab, "orders", [b"on the wrong side"], member="dc-b")
    assert refused == [-KafkaError.TOPIC_AUTHORIZATION_FAILED]


def test_a_topic_made_empty_starts_where_it_ends(lab: Lab) -> None:
    start, end = bounds(lab.admin("dc-a"), "purged", 0)
    assert start == end == kafka.PURGED_RECORDS


def test_no_password_is_told_by_connect_its_config_topic_a_command_line_or_a_log(lab: Lab) -> None:
    secrets = [lab.password(user).encode() for user in kafka.USERS]
    told_by_rest = b"".join(
        httpx.get(f"{lab.connect_url(member)}{path}", timeout=10).content
        for member in ("dc-a", "dc-b")
        for path in ("/connectors?expand=info", "/connectors?expand=status")
    )
    tasks = httpx.get(f"{lab.connect_url('dc-b')}/connectors/mm2-source.dc-a-to-dc-b/tasks", timeout=10).content
    assert b"${file:" in told_by_rest
    stored = b"".join(visible(lab, "dc-b", connect.CONFIGS_TOPIC))
    assert b"mm2-source.dc-a-to-dc-b" in stored
    lines = b"".join(Path(f"/proc/{one.pid}/cmdline").read_bytes() for one in identities(lab).values())
    logs = b"".join(path.read_bytes() for path in lab.home.logs.iterdir())
    for secret in secrets:
        for place in (told_by_rest, tasks, stored, lines, logs):
            assert secret not in place
    assert lab.home.record.stat().st_mode & 0o077 == 0


def test_the_cleaner_of_the_compacted_topic_runs(lab: Lab) -> None:
    keep = os.urandom(3000)
    config = lab.client_config("app") | {"enable.idempotence": True}
    deadline = time.monotonic() + 90
    while cleaner_offsets(lab, "dc-a").get("profiles-0", 0) == 0:
        assert time.monotonic() < deadline, "the cleaner never cleaned profiles-0"
        producer = Producer(config)
        for number in range(500):
            producer.produce("profiles", keep, key=str(number % 7), partition=0)
        assert producer.flush(30) == 0
        time.sleep(0.5)
    written = bounds(lab.admin("dc-a"), "profiles", 0)[1]
    assert len(visible(lab, "dc-a", "profiles")) < written


# --- faults of links ---


def test_a_cut_link_stops_the_mirror_and_a_heal_lets_it_go_on(lab: Lab, state: Path) -> None:
    done = cli("fault", "cut", "dc-b->dc-a:kafka", "--lab", "main", state=state)
    assert done.returncode == 0, told(done)
    assert lab.fault.active() == [Fault("dc-b->dc-a:kafka", "cut")]
    with pytest.raises(ConnectionRefusedError):
        dial(lab, "dc-b", "dc-a", "kafka")
    assert produce(lab, "orders", [b"while cut"])[0] >= 0
    assert not lab.fault.answers("dc-b->dc-a:kafka")
    time.sleep(1.0)  # a mirror that is not cut needs 40 ms
    assert b"while cut" not in visible(lab, "dc-b", "orders")
    assert cli("status", "--lab", "main", state=state).returncode == 3
    lab.fault.heal("dc-b->dc-a:kafka")
    assert lab.fault.active() == []
    assert lab.fault.answers("dc-b->dc-a:kafka")
    arrives(lab, b"while cut")


def dial(lab: Lab, source: str, destination: str, service: str) -> socket.socket:
    listen = lab.plan.link(source, destination, service).listen[0]
    return socket.create_connection((listen.host, listen.port), timeout=5)


def test_a_black_hole_swallows_one_direction_and_closes_nothing(lab: Lab) -> None:
    link = "dc-c->dc-a:connect"
    address = lab.plan.link("dc-c", "dc-a", "connect").listen[0]
    assert httpx.get(f"http://{address}/", timeout=5).status_code == 200
    lab.fault.blackhole(link, direction="back")
    assert lab.fault.active() == [Fault(link, "blackhole", "back")]
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"http://{address}/", timeout=httpx.Timeout(1.0, connect=5))
    lab.fault.heal(link)
    assert httpx.get(f"http://{address}/", timeout=5).status_code == 200


def test_a_delay_is_felt_as_long_as_it_says_and_only_on_its_link(lab: Lab) -> None:
    slow, other = lab.plan.link("dc-c", "dc-a", "connect").listen[0], lab.plan.link("dc-c", "dc-b", "connect").listen[0]
    lab.fault.delay("dc-c->dc-a:connect", ms=700, direction="forward")
    since = time.monotonic()
    httpx.get(f"http://{slow}/", timeout=10)
    assert time.monotonic() - since >= 0.7
    since = time.monotonic()
    httpx.get(f"http://{other}/", timeout=10)
    assert time.monotonic() - since < 0.7


def test_a_reset_ends_every_connection_that_carries_data_and_a_heal_lets_the_mirror_go_on(lab: Lab) -> None:
    a_request = b"\0\0\0\1\0"
    with dial(lab, "dc-b", "dc-a", "kafka") as open_one:
        assert socket_is_quiet(open_one)
        lab.fault.reset("dc-b->dc-a:kafka")
        assert {fault.kind for fault in lab.fault.active()} == {"reset"}
        open_one.settimeout(5)
        open_one.sendall(a_request)
        assert open_one.recv(1) == b""
    with dial(lab, "dc-b", "dc-a", "kafka") as new_one:
        new_one.sendall(a_request)
        with pytest.raises(ConnectionResetError):
            new_one.recv(1)
    lab.fault.heal()
    assert produce(lab, "orders", [b"after the reset"])[0] >= 0
    arrives(lab, b"after the reset")


def socket_is_quiet(one: socket.socket) -> bool:
    one.settimeout(0.2)
    try:
        return bool(one.recv(1)) and False
    except TimeoutError:
        return True


def test_a_fault_that_hits_nothing_is_an_error(lab: Lab) -> None:
    with pytest.raises(UsageError, match="dc-b->dc-a:kafka"):
        lab.fault.cut("dc-b->dc-z:*")
    with pytest.raises(UsageError, match="etcd-dc-a"):
        lab.fault.kill("etcd-dc-z")
    with pytest.raises(UsageError, match="forward"):
        lab.fault.blackhole("dc-b->dc-a:kafka", direction="sideways")


def test_a_store_member_cut_off_by_its_links_has_no_leader_and_the_others_go_on(lab: Lab) -> None:
    """Peers really pass the links, each pair and direction its own."""
    clients = {site: lab.plan.ports[f"etcd-{site}/client"] for site in store.STORE_SITES}
    lab.fault.cut("dc-a->*:etcd-peer", "*->dc-a:etcd-peer")
    wait_for("dc-a's member without a leader", lambda: not store.is_ready(clients["dc-a"]), 30)
    assert all(store.is_ready(clients[site]) for site in ("dc-b", "dc-c"))
    lab.fault.heal()
    wait_for("dc-a's member back", lambda: store.is_ready(clients["dc-a"]), 30)


# --- faults of processes ---


def test_a_killed_store_member_comes_back_on_its_ports_with_its_data(lab: Lab) -> None:
    client = lab.plan.ports["etcd-dc-b/client"]
    held = store.get(client, store.LEASE_KEY)
    assert held is not None
    record = json.loads(held)
    before = lab.process("etcd-dc-b").identity
    lab.fault.kill("etcd-dc-b")
    assert lab.process("etcd-dc-b").state is ProcessState.DOWN
    assert Fault("etcd-dc-b", "down") in lab.fault.active()
    with pytest.raises(LabError, match="restart"):
        lab.fault.freeze("etcd-dc-b")
    lab.fault.restart("etcd-dc-b")
    assert lab.process("etcd-dc-b").identity != before
    again = json.loads(store.get(client, store.LEASE_KEY) or b"{}")
    assert again["seq"] >= record["seq"], "the holder went on renewing meanwhile, and this member knows"
    assert {**again, "seq": record["seq"]} == record


def test_a_frozen_broker_answers_nobody_until_it_is_thawed(lab: Lab) -> None:
    lab.fault.freeze("kafka-dc-b-*")
    assert lab.process("kafka-dc-b-1").state is ProcessState.FROZEN
    admin = lab.admin("dc-b")
    assert not kafka.is_ready(admin, 1)
    lab.fault.thaw("kafka-dc-b-1")
    wait_for("dc-b answers", lambda: kafka.is_ready(admin, 1), 30)


def test_a_restarted_broker_keeps_ports_and_records_and_the_mirror_goes_on(lab: Lab) -> None:
    produce(lab, "orders", [b"before the restart"])
    lab.fault.kill("kafka-dc-a-1")
    lab.fault.restart("kafka-dc-a-1")
    assert b"before the restart" in visible(lab, "dc-a", "orders")
    assert produce(lab, "orders", [b"after the restart"])[0] > 0
    arrives(lab, b"after the restart")


def test_a_restarted_fault_proxy_knows_its_links_again(lab: Lab) -> None:
    lab.fault.kill("toxiproxy")
    assert any(fault.target == "all links" for fault in lab.fault.active())
    lab.fault.restart("toxiproxy")
    assert lab.fault.active() == []
    dial(lab, "dc-b", "dc-a", "kafka").close()


def test_temporal_keeps_its_namespace_and_attributes_over_a_kill(lab: Lab) -> None:
    lab.fault.kill("temporal")
    lab.fault.restart("temporal")
    ui = lab.document["temporal"]["ui"]
    found = httpx.get(f"{ui}/api/v1/namespaces/{temporal.NAMESPACE}/search-attributes", timeout=10).json()
    assert set(temporal.SEARCH_ATTRIBUTES) <= set(found["customAttributes"])


# --- endpoint ---


def patch_slice(lab: Lab, member: str, user: str = "operator") -> httpx.Response:
    path = f"/apis/discovery.k8s.io/v1/namespaces/{kube.NAMESPACE}/endpointslices/{kube.SLICE}"
    body = {"endpoints": kube.slice_body(lab, member)["endpoints"]}
    with kube.Api(lab, user) as api:
        return api.client.patch(path, json=body, headers={"Content-Type": "application/merge-patch+json"})


def leads_to(lab: Lab) -> str:
    """Which cluster a new connection through the endpoint ends up at, by cluster id."""
    ids = {found: member for member, found in lab.document["cluster_ids"].items()}
    admin = AdminClient(lab.client_config("admin"))  # named, because its death would cancel the request
    found = admin.describe_cluster(request_timeout=5).result(6)
    return str(ids[found.cluster_id])


def last_target_change(lab: Lab) -> tuple[float, str]:
    line = [one for one in lab.process("endpoint-proxy").log.read_text().splitlines() if " target " in one][-1]
    _, clock, _, target = line.split(" ", 3)
    return float(clock), target


def test_the_endpoint_follows_the_slice_within_milliseconds_and_leaves_open_connections_alone(lab: Lab) -> None:
    assert leads_to(lab) == "dc-a"
    open_one = socket.create_connection((lab.bootstrap.host, lab.bootstrap.port), timeout=5)
    try:
        patched = patch_slice(lab, "dc-b")
        after = time.monotonic()
        assert patched.status_code == 200, patched.text
        address = kube.endpoint_addresses(lab.plan, "dc-b")[0]
        wait_for("the proxy's word", lambda: address in last_target_change(lab)[1], 5, every_s=0.005)
        assert last_target_change(lab)[0] - after < 0.25  # measured: 2 ms on an idle machine
        assert leads_to(lab) == "dc-b"
        assert socket_is_quiet(open_one)
    finally:
        open_one.close()
        patch_slice(lab, "dc-a")
    wait_for("the way back", lambda: leads_to(lab) == "dc-a", 10)


def test_the_endpoint_survives_a_silent_api_server_and_catches_up(lab: Lab) -> None:
    assert WATCH_S > 60, "else the watch would end by itself and prove nothing"
    lab.fault.cut("client->dc-c:kubernetes")
    patch_slice(lab, "dc-b")
    assert leads_to(lab) == "dc-a"
    lab.fault.heal()
    wait_for("the new target", lambda: leads_to(lab) == "dc-b", 15)
    patch_slice(lab, "dc-a")
    wait_for("the way back", lambda: leads_to(lab) == "dc-a", 15)


def test_the_operators_token_may_flip_and_nothing_else(lab: Lab) -> None:
    core = f"/api/v1/namespaces/{kube.NAMESPACE}"
    with kube.Api(lab, "operator") as api:
        assert api.client.get(f"{core}/services/{kube.SERVICE}").status_code == 200
        assert api.client.get(f"{core}/secrets").status_code == 403
        assert api.client.delete(f"{core}/services/{kube.SERVICE}").status_code == 403
    assert patch_slice(lab, "dc-a", user="endpoint-proxy").status_code == 403


# --- reset ---


def test_a_reset_makes_a_used_and_broken_estate_fresh(lab: Lab, state: Path) -> None:
    swap_sides(lab)
    produce(lab, "orders", [b"of the old days"], member="dc-b")
    kafka.create_topics(lab.admin("dc-b"), [NewTopic("lab-made-up", 1, 1)])
    commit(lab, "dc-b", "readers", "orders", 1)
    left_open = Producer(lab.client_config("app", "dc-b") | {"transactional.id": "left-open"})
    left_open.init_transactions(30)
    left_open.begin_transaction()
    left_open.produce("payments", b"never to be", partition=0)
    left_open.flush(30)
    lab.fault.cut("dc-c->dc-b:kafka")
    lab.fault.freeze("etcd-dc-a")
    lab.fault.kill("etcd-dc-b")

    since = time.monotonic()
    done = cli("reset", "--lab", "main", state=state)
    print(f"reset took {time.monotonic() - since:.1f} s")
    assert done.returncode == 0, told(done)

    assert lab.fault.active() == []
    found = json.loads(cli("status", "--lab", "main", "-o", "json", state=state).stdout)
    assert found["gates"]["dc-a"] == {"users": "open", "groups": "free"}
    assert found["gates"]["dc-b"] == {"users": "closed", "groups": "frozen"}
    assert found["lease"]["holder"] == "dc-a"
    assert found["lease"]["epoch"] > 7, "agents and brokers would not obey an epoch that is over"
    assert found["endpoint"] == "dc-a"
    for member in ("dc-a", "dc-b"):
        topics = lab.admin(member).list_topics(timeout=10).topics
        assert "lab-made-up" not in topics
        admin = lab.admin(member)
        listed = admin.list_consumer_groups().result(10).valid
        assert "readers" not in {one.group_id for one in listed}
    offsets = httpx.get(f"{lab.connect_url('dc-a')}/connectors/mm2-source.dc-b-to-dc-a/offsets", timeout=30).json()
    assert offsets == {"offsets": []}
    for member in ("dc-a", "dc-b"):  # nor does a marker of the old days land there later
        assert bounds(lab.admin(member), "payments", 0) == (0, 0)
    assert produce(lab, "orders", [b"of the new days"]) == [0]
    arrives(lab, b"of the new days")
    assert visible(lab, "dc-b", "orders") == [b"of the new days"]


def swap_sides(lab: Lab) -> None:
    """What a switchover leaves, in short: the other side open, the other mirror running, another lease and endpoint."""
    client = lab.plan.ports["etcd-dc-c/client"]
    store.put(client, store.LEASE_KEY, store.first_lease("dc-b", 7))
    gates.wait_until_obeyed(lab, "dc-b", "ACTIVE", 7)
    gates.wait_until_obeyed(lab, "dc-a", "STANDBY", 7)
    kafka.delete_rules(lab.admin("dc-b"), AclPermissionType.DENY)
    kafka.create_rules(lab.admin("dc-a"), kafka.fence_rules(users=False))
    for source, verb in (("dc-a", "stop"), ("dc-b", "resume")):
        url = lab.connect_url("dc-b" if source == "dc-a" else "dc-a")
        connect.request("PUT", f"{url}/connectors/{connect.connector_name('source', source)}/{verb}")
    assert patch_slice(lab, "dc-b").status_code == 200


def commit(lab: Lab, member: str, group: str, topic: str, offset: int) -> None:
    consumer = Consumer(lab.client_config("app", member) | {"group.id": group, "enable.auto.commit": False})
    try:
        consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    finally:
        consumer.close()


def test_a_group_with_members_is_named_by_reset(lab: Lab, state: Path) -> None:
    before = lab.admin("dc-a").list_topics(timeout=10).topics.keys()
    consumer = Consumer(lab.client_config("app") | {"group.id": "still-here"})
    try:
        joined: list[bool] = []
        consumer.subscribe(["orders"], on_assign=lambda *_: joined.append(True))
        wait_for("the member to join", lambda: (consumer.poll(0.2), bool(joined))[1], 30)
        done = cli("reset", "--lab", "main", state=state)
        assert done.returncode == 1
        assert "still-here" in done.stderr
        assert lab.admin("dc-a").list_topics(timeout=10).topics.keys() == before, "refused, but it touched something"
    finally:
        consumer.close()
    done = cli("reset", "--lab", "main", state=state)
    assert done.returncode == 0, told(done)


# --- two labs, crashes, down ---


@contextlib.contextmanager
def bystander(token: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like one of ours: same program, another lab's token."""
    argv = [sys.executable, "-c", "import time; time.sleep(300)", "kafka.Kafka"]
    with subprocess.Popen(argv, env={**os.environ, processes.TOKEN_VARIABLE: token}) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_start_killed_halfway_is_ended_whole_or_goes_on_beside_another_lab(lab: Lab, state: Path) -> None:
    untouched = identities(lab)
    argv = [sys.executable, "-m", "lab.cli", "up", "--lab", "second", "--no-worker", "--no-automatic"]
    record = state / "labs" / "second" / "lab.json"

    def killed_start() -> list[processes.Identity]:
        with subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as starter:
            wait_for("the second lab's brokers", lambda: brokers_spawned(record), 60)
            starter.send_signal(signal.SIGKILL)
        return processes.with_token(json.loads(record.read_text())["token"])

    started = killed_start()
    assert len(started) >= 4
    # As a crash between start and note would leave it: the record forgets one that runs.
    document = json.loads(record.read_text())
    forgotten = next(entry for entry in document["processes"].values() if "identity" in entry)
    del forgotten["identity"]
    record.write_text(json.dumps(document))
    with bystander("somebody-elses") as other:
        done = cli("down", "--lab", "second", state=state)
        assert done.returncode == 0, told(done)
        assert all(processes.state_of(one) is ProcessState.DOWN for one in started)
        assert other.poll() is None

    assert killed_start()
    done = cli("up", "--lab", "second", "--no-worker", "--no-automatic", state=state)
    assert done.returncode == 0, told(done)
    second = Lab.open("second")
    assert second.plan.prefix != lab.plan.prefix
    assert produce(second, "orders", [b"in the second lab"])[0] >= 0
    arrives(second, b"in the second lab")
    assert b"in the second lab" not in visible(lab, "dc-a", "orders")

    left_alone = identities(second).values()
    done = cli("down", "--purge", "--lab", "second", state=state)
    assert done.returncode == 0, told(done)
    assert all(processes.state_of(one) is ProcessState.DOWN for one in left_alone)
    assert not record.exists()
    assert identities(lab) == untouched
    assert all(lab.process(name).state is ProcessState.RUNNING for name in untouched)


def brokers_spawned(record: Path) -> bool:
    try:
        entries = json.loads(record.read_text())["processes"]
    except (OSError, ValueError):
        return False
    return all("identity" in entries.get(f"kafka-{member}-1", {}) for member in ("dc-a", "dc-b"))


def test_down_and_up_again_keep_what_was_written(lab: Lab, state: Path) -> None:
    assert produce(lab, "orders", [b"over the night"])[0] >= 0
    before = identities(lab)
    done = cli("down", "--lab", "main", state=state)
    assert done.returncode == 0, told(done)
    assert all(processes.state_of(one) is ProcessState.DOWN for one in before.values())
    token = json.loads(lab.home.record.read_text())["token"]
    assert processes.with_token(token) == []
    assert cli("down", "--lab", "main", state=state).returncode == 0
    done = cli("up", "--lab", "main", "--no-worker", "--no-automatic", state=state)
    assert done.returncode == 0, told(done)
    assert b"over the night" in visible(lab, "dc-a", "orders")
    arrives(lab, b"over the night")
    produce(lab, "orders", [b"in the morning"])
    arrives(lab, b"in the morning")


def test_a_lab_that_is_not_there_is_said_so(state: Path) -> None:
    for command in (["status"], ["reset"], ["down"], ["fault", "list"]):
        done = cli(*command, "--lab", "nothing", state=state)
        assert done.returncode == 1
        assert "no lab named nothing" in done.stderr
        assert "Traceback" not in done.stderr
    done = cli("up", "--lab", "No Name", state=state)
    assert done.returncode == 2
    done = cli("up", "--lab", "fine", "--site-prefix", "10.0.0", state=state)
    assert done.returncode == 2
    assert "127." in done.stderr
    assert not (state / "labs" / "fine" / "lab.json").exists()
