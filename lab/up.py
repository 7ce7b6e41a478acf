"""`lab up`: from nothing, or from whatever a crash left, to an estate that serves.

Every step makes sure of one thing and may be repeated. What is done once in an estate's life (topics, rules, the first
lease) is remembered in the record when it is done, so that a lab which is started again keeps what was switched.
"""

from __future__ import annotations

import json
import os
import secrets as random_secrets
import shutil
import threading
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import OffsetSpec

from lab import connect, gates, kafka, kube, processes, settings, store, temporal, tls
from lab.addresses import (
    ARBITER,
    CLIENTS,
    MEMBERS,
    WORKERS,
    Plan,
    brokers,
    make_plan,
    other,
    port_is_free,
    prefixes,
)
from lab.errors import LabError, UsageError
from lab.estate import Lab, python
from lab.processes import ProcessState
from lab.readiness import BROKER_START_S, CONNECT_START_S, wait_ready
from lab.record import VERSION, Document, Home, plan_to_json, taken_prefixes, write_private
from lab.toolchain import Toolchain, ToolchainError, ensure
from lab.waiting import Say, Steps, wait_for

FIRST_ACTIVE = MEMBERS[0]


def up(
    name: str,
    broker_count: int,
    prefix: str | None,
    with_worker: bool,
    say: Say,
    fence: str = gates.AUTHORIZER,
    automatic: bool | None = None,
) -> Lab:
    """Start the lab, or go on where an earlier start ended.

    Args:
        automatic: whether agents take the lease over by themselves; None: as it is, and in a new lab if its fence can
            bear it.
    Raises: UsageError when it exists with another shape; LabError when a part does not start: what has started stays,
    so that it can be looked at, and `up` again goes on from there.
    """
    home = Home.of(name)
    with home.operation():
        if home.record.exists():
            lab = Lab(home)
            _same_shape(lab, broker_count, prefix, fence)
            tell_agents(lab, say, automatic=automatic)
        else:
            lab = _plan(home, broker_count, prefix, fence, automatic, say)
        return bring_up(lab, with_worker, say)


def tell_agents(lab: Lab, say: Say, *, automatic: bool | None = None, failover: dict[str, Any] | None = None) -> None:
    """Write what is new into the settings, and restart those agents that run, one by one, until each is ready.

    A restart shorter than what a marker holds is not noticed. While both differ, none takes over that should not: the
    holder's agent hears first that they may, and last that they may not. Workers read their settings when they start.

    Args:
        failover: the lab's own values of `scopes.lab.failover`, on top of those that every lab has; None: as they are.
    Raises: UsageError for what the fence cannot bear; LabError when an agent does not come back.
    """
    automatic = lab.automatic if automatic is None else automatic
    _bearable(lab.fence_mode, automatic)
    wanted = {"automatic": automatic, "failover": lab.document["failover"] if failover is None else failover}
    if all(lab.document[key] == value for key, value in wanted.items()):
        return
    with lab.home.change() as document:
        document.update(wanted)
    lab.document = lab.home.load()
    _write_settings(lab)
    lease = store.lease(lab.plan) if _runs(lab, f"etcd-{ARBITER}") else None
    holder = lease["holder"] if lease else FIRST_ACTIVE
    order = (holder, other(holder)) if automatic else (other(holder), holder)
    for agent in (f"agent-{member}" for member in order):
        if _runs(lab, agent):
            say(f"restarting {agent}")
            lab.fault.restart(agent)


def _runs(lab: Lab, name: str) -> bool:
    return name in lab.process_names and lab.process(name).state is ProcessState.RUNNING


def _bearable(fence: str, automatic: bool) -> None:
    if automatic and fence != gates.AUTHORIZER:
        raise UsageError(
            f"with --fence {fence} a side that is cut off stays open, so nobody takes over by himself: leave "
            "--automatic out"
        )


def bring_up(lab: Lab, with_worker: bool, say: Say) -> Lab:
    """Start what is down and seed what was never seeded. The caller holds the operation lock."""
    try:
        toolchain = ensure(progress=say)
    except ToolchainError as error:
        raise LabError(str(error)) from error
    _end_unrecorded(lab, say)
    _declare(lab, toolchain, with_worker)
    _Start(lab, toolchain, with_worker, say).run()
    return lab


def _end_unrecorded(lab: Lab, say: Say) -> None:
    """A start that was killed between starting a process and noting it left one that holds ports and data."""
    recorded = {lab.process(name).pid for name in lab.process_names}
    found = processes.with_token(lab.document["token"])
    strays = [one for one in found if processes.session_of(one) not in recorded]
    if processes.end(strays, 5.0):
        say(f"ended {len(strays)} processes that an earlier start did not note")


def _same_shape(lab: Lab, broker_count: int, prefix: str | None, fence: str) -> None:
    if lab.plan.brokers != broker_count or prefix not in (None, lab.plan.prefix) or lab.fence_mode != fence:
        raise UsageError(
            f"lab {lab.name} exists with {lab.plan.brokers} broker(s) a site, prefix {lab.plan.prefix} and fence "
            f"{lab.fence_mode}: "
            f"`dcdr lab down --purge --lab {lab.name}` first, or choose another name"
        )


def _plan(home: Home, broker_count: int, prefix: str | None, fence: str, automatic: bool | None, say: Say) -> Lab:
    """Choose addresses and passwords, and write the record before anything is started."""
    if fence not in gates.MODES:
        raise UsageError(f"--fence {fence}: one of {', '.join(gates.MODES)}")
    if broker_count not in (1, 3):
        raise UsageError(f"--brokers {broker_count}: a member has 1 or 3")
    automatic = fence == gates.AUTHORIZER if automatic is None else automatic
    _bearable(fence, automatic)
    taken = taken_prefixes(home.name)
    if prefix is not None:
        if not _is_loopback_prefix(prefix):
            raise UsageError(f"--site-prefix {prefix}: three numbers of a loopback network, such as 127.20.7")
        plan = make_plan(prefix, broker_count, port_is_free)
    else:
        plan = make_plan(next(prefixes(str(home.path), taken)), broker_count, port_is_free)
    home.create()
    for user in kafka.USERS:
        write_private(home.secrets / f"{user}.password", random_secrets.token_hex(16) + "\n")
    say(f"lab {home.name}: sites at {plan.prefix}.1 (dc-a), .2 (dc-b), .3 (dc-c), clients at .4")
    token = uuid.uuid4().hex
    document: Document = {
        "version": VERSION,
        "name": home.name,
        "token": token,
        "scope": store.SCOPE,
        "fence": fence,
        "automatic": automatic,
        "failover": {},
        "plan": plan_to_json(plan),
        "cluster_ids": {member: kafka.new_cluster_id() for member in MEMBERS},
        "users": {user: str(home.secrets / f"{user}.password") for user in kafka.USERS},
        "bootstrap": str(plan.ports["endpoint-proxy/bootstrap"]),
        "kafka": {
            member: {
                listener.lower(): [str(address) for address in plan.kafka(member, listener)]
                for listener in ("CLIENT", "MIRROR", "CONTROL", "INTERNAL")
            }
            for member in MEMBERS
        },
        "connect": {member: f"http://{plan.ports[f'connect-{member}/rest']}" for member in MEMBERS},
        "etcd": [str(address) for address in store.endpoints(plan)],
        "temporal": {
            "address": str(plan.ports["temporal/frontend"]),
            "ui": f"http://{plan.ports['temporal/ui']}",
            "namespace": temporal.NAMESPACE,
        },
        "kubernetes": kube.describe(plan, home),
        "done": [],
        "processes": {},
    }
    home.write(document)
    return Lab(home)


def _is_loopback_prefix(prefix: str) -> bool:
    parts = prefix.split(".")
    return len(parts) == 3 and parts[0] == "127" and all(part.isdigit() and int(part) < 256 for part in parts)


def _declare(lab: Lab, toolchain: Toolchain, with_worker: bool) -> None:
    """Write the servers' files, and into the record how each process is started."""
    home, plan = lab.home, lab.plan
    home.create()
    tls.ensure(home, plan)
    passwords = {user: lab.password(user) for user in kafka.USERS}
    log4j = home.config / "log4j2.properties"
    log4j.write_text(kafka.LOG4J)
    hosts = home.config / "hosts"
    hosts.write_text(kafka.HOSTS)
    options = [*kafka.JVM, f"-Dlog4j2.configurationFile={log4j}", f"-Djdk.net.hosts.file={hosts}"]
    java = [str(toolchain.java), *options, "-cp", toolchain.kafka_classpath]
    entries: dict[str, dict[str, Any]] = {}

    def declare(name: str, site: str, argv: list[str], environment: dict[str, str] | None = None) -> None:
        entries[name] = {"site": site, "argv": argv, "environment": environment or {}, "log": str(home.log(name))}

    declare(
        "toxiproxy",
        CLIENTS,
        [
            str(toolchain.toxiproxy_server),
            f"-host={plan.ports['toxiproxy/api'].host}",
            f"-port={plan.ports['toxiproxy/api'].port}",
        ],
        {"LOG_LEVEL": "warn"},
    )
    write_private(home.config / "egress.json", _json(store.egress_table(plan)))
    declare("egress", CLIENTS, [python(), "-m", "lab.egress", str(home.config / "egress.json")])
    for site in store.STORE_SITES:
        argv, environment = store.member_command(plan, site, toolchain.etcd, home.data / f"etcd-{site}")
        declare(f"etcd-{site}", site, argv, environment)
    declare("etcd-kube", ARBITER, store.single_command(plan, toolchain.etcd, home.data / "etcd-kube"))
    declare("kube-apiserver", ARBITER, kube.command(plan, home, toolchain.kube_apiserver))
    declare("temporal", ARBITER, temporal.command(plan, home, toolchain.temporal))
    write_private(home.secrets / "mirror.properties", connect.credentials_file(passwords["mirror"]))
    for member in MEMBERS:
        for number, broker in enumerate(brokers(member, plan.brokers), 1):
            properties = home.secrets / f"{broker}.properties"
            data, own = home.data / broker, _gate_properties(lab, member, broker)
            write_private(properties, kafka.server_properties(plan, member, number, data, passwords, own))
            declare(broker, member, [*java[:1], "-Xms96m", "-Xmx512m", *java[1:], "kafka.Kafka", str(properties)])
        properties = home.secrets / f"connect-{member}.properties"
        write_private(properties, connect.worker_properties(plan, member, home.secrets, passwords["mirror"]))
        main = "org.apache.kafka.connect.cli.ConnectDistributed"
        declare(f"connect-{member}", member, [*java[:1], "-Xms96m", "-Xmx512m", *java[1:], main, str(properties)])
    write_private(home.config / "endpoint-proxy.json", _json(kube.proxy_config(plan, home)))
    declare("endpoint-proxy", CLIENTS, [python(), "-m", "lab.endpoint_proxy", str(home.config / "endpoint-proxy.json")])
    _write_settings(lab)
    for member in MEMBERS:
        seen = str(home.site_settings(member))
        declare(f"agent-{member}", member, [python(), "-m", "agent", "--dc", member, "--settings", seen])
    for name, site in WORKERS.items() if with_worker else ():
        watching = ["--dc", site] if site in MEMBERS else []
        argv = [python(), "-m", "worker", *watching, "--settings", str(home.site_settings(site))]
        declare(name, site, argv, lab.environment(site))
    with home.change() as document:
        for name, entry in entries.items():
            document["processes"].setdefault(name, {}).update(entry)
        for name in lab.worker_names if not with_worker else ():
            if lab.process(name).state is ProcessState.DOWN:
                document["processes"].pop(name)  # not wanted is not the same as broken
    lab.document = home.load()


def _write_settings(lab: Lab) -> None:
    """The product's settings as they are read at each site that has processes of it."""
    for site in (*MEMBERS, ARBITER):
        write_private(lab.home.site_settings(site), settings.render(lab, site))


def _gate_properties(lab: Lab, member: str, broker: str) -> dict[str, str]:
    if lab.fence_mode != gates.AUTHORIZER:
        return {}
    own, group = connect.own_topics(member), connect.group_id(member)
    return kafka.gate_properties(lab.plan, member, store.SCOPE, broker, lab.home, own, group)


def _json(document: Any) -> str:
    return json.dumps(document, indent=1) + "\n"


class _Start:
    """The graph of one start."""

    def __init__(self, lab: Lab, toolchain: Toolchain, with_worker: bool, say: Say) -> None:
        self.lab = lab
        self.plan: Plan = lab.plan
        self.toolchain = toolchain
        self.with_worker = with_worker
        self.say = say
        self.steps = Steps(say)

    @property
    def stop(self) -> threading.Event:
        return self.steps.stop

    def run(self) -> None:
        def add(name: str, work: Callable[[], str | None], *after: str) -> None:
            self.steps.add(name, work, after)

        lab, active, standby = self.lab, FIRST_ACTIVE, other(FIRST_ACTIVE)
        add("toxiproxy", partial(self.serve, "toxiproxy"))
        add("egress", partial(self.serve, "egress"))
        add("etcd-kube", partial(self.serve, "etcd-kube"))
        for member in MEMBERS:
            for broker in lab.brokers(member):
                add(broker, partial(self.broker, broker, member))
        for site in store.STORE_SITES:
            add(f"etcd-{site}", partial(self.serve, f"etcd-{site}"), "toxiproxy", "egress")
        add("lease", self.lease, f"etcd-{ARBITER}")
        for member in MEMBERS:
            add(f"connect-{member}", partial(self.serve, f"connect-{member}"), *lab.brokers(member))
        for member in MEMBERS:
            add(f"cluster {member}", partial(self.cluster, member), *lab.brokers(member))
        for member in MEMBERS:
            serve = partial(self.serve, f"agent-{member}")
            add(f"agent-{member}", serve, "lease", f"cluster {member}", "toxiproxy")  # ready when a broker has asked
        obeying = [f"gates {member}" for member in MEMBERS]
        for member, step in zip(MEMBERS, obeying, strict=True):
            add(step, partial(self.gates, member), f"agent-{member}")
        add("estate", partial(self.estate, active), *obeying)
        add("fence", partial(self.fence, standby), f"cluster {standby}")
        for source in MEMBERS:
            needed = (f"connect-{other(source)}", "toxiproxy", "estate", *obeying)
            add(f"mirror {source} to {other(source)}", partial(self.mirror, source), *needed)
        add("kube-apiserver", partial(self.serve, "kube-apiserver"), "etcd-kube")
        add("endpoint", lambda: self.once("endpoint", lambda: kube.seed(lab, active)), "kube-apiserver")
        add("endpoint-proxy", partial(self.serve, "endpoint-proxy"), "endpoint", "toxiproxy")
        add("temporal", self.temporal)
        if self.with_worker:
            needed = ("temporal", "toxiproxy", "endpoint", "lease", "estate", *(f"connect-{one}" for one in MEMBERS))
            for name in WORKERS:  # they may come up beside the mirrors
                add(name, partial(self.serve, name), *needed)
        self.steps.run()

    # --- helpers ---

    def serve(self, name: str) -> str | None:
        """Start a process unless it is alive, and wait until it serves."""
        started = self.lab.process(name).start()
        wait_ready(self.lab, name, self.stop)
        return None if started else "was running"

    def once(self, what: str, work: Callable[[], str | None]) -> str | None:
        """Do what is done once in an estate's life; `work` is idempotent, for a crash before it is noted."""
        if what in self.lab.home.load()["done"]:
            return "was done"
        remark = work()
        with self.lab.home.change() as document:
            document["done"].append(what)
        return remark

    # --- steps ---

    def broker(self, name: str, member: str) -> str | None:
        data = self.lab.home.data / name
        if not (data / "meta.properties").exists():
            command = [
                str(self.toolchain.java), *kafka.JVM, "-Xmx128m", "-cp", self.toolchain.kafka_classpath,
                "kafka.tools.StorageTool", "format", "-t", self.lab.document["cluster_ids"][member],
                "-c", str(self.lab.home.secrets / f"{name}.properties"),
            ]  # fmt: skip
            shutil.rmtree(data, ignore_errors=True)
            done = processes.run(command, os.environ, self.lab.home.log(f"{name}-format"), BROKER_START_S)
            if done.returncode != 0:
                raise LabError(f"cannot format {data}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return self.serve(name)

    def cluster(self, member: str) -> str | None:
        """Rules and topics that are the same whatever the direction."""

        def work() -> str:
            admin = self.lab.admin(member)
            rules = kafka.standing_rules()
            kafka.create_rules(admin, rules)
            kafka.create_topics(admin, kafka.own_topics(self.plan.brokers))
            return f"{len(rules)} rules"

        return self.once(f"cluster {member}", work)

    def estate(self, active: str) -> str | None:
        def work() -> str:
            admin = self.lab.admin(active)
            kafka.create_topics(admin, kafka.estate_topics(self.plan.brokers))
            for spec in kafka.ESTATE:
                if spec.purged:
                    fill_and_purge(self.lab, active, spec)
            return f"{len(kafka.ESTATE)} topics"

        return self.once("estate", work)

    def gates(self, member: str) -> str | None:
        """See that the brokers obey the agent: what comes next writes there."""
        if self.lab.fence_mode != gates.AUTHORIZER:
            return "none"
        lease = store.lease(self.plan) or {}
        nobody = lease.get("phase") != "OPEN" or not (lease["holder"] == member or lease.get("mirrored", True))
        return gates.wait_until_obeyed(self.lab, member, closed=nobody, stop=self.stop)

    def fence(self, standby: str) -> str | None:
        def work() -> str:
            kafka.create_rules(self.lab.admin(standby), kafka.fence_rules(users=self.lab.fence_mode == gates.ACL))
            return f"{standby} is closed to users"

        return self.once("fence", work)

    def mirror(self, source: str) -> str | None:
        url = self.lab.connect_url(other(source))
        credentials = self.lab.home.secrets / "mirror.properties"
        state = connect.standing_state(source, FIRST_ACTIVE)
        wanted = dict(connect.connectors(self.plan, source, credentials))

        def work() -> str:
            for name, config in wanted.items():
                connect.create(url, name, config, state, self.stop)
                if state == "RUNNING":
                    connect.request("PUT", f"{url}/connectors/{name}/resume", self.stop)  # it may have been there

            def reached() -> bool:
                found = connect.status(url)
                for name in wanted:
                    connect.restart_failed(url, name, found.get(name))
                return all(connect.has_state(name, found.get(name), state) for name in wanted)

            wait_for(
                f"connectors of {source} to {other(source)}: {state}", reached, CONNECT_START_S, stop=self.stop,
                hint=lambda: f"; look at {url}/connectors?expand=status",
            )  # fmt: skip
            return state

        return self.once(f"mirror {source}", work)

    def lease(self) -> str | None:
        client = self.plan.ports[f"etcd-{ARBITER}/client"]

        def work() -> str:
            made = store.create(client, store.LEASE_KEY, store.first_lease(FIRST_ACTIVE))
            return f"held by {FIRST_ACTIVE}" if made else "was there"

        return self.once("lease", work)

    def temporal(self) -> str | None:
        remark = self.serve("temporal")
        temporal.declare(self.toolchain.temporal, self.plan, self.lab.home.log("temporal-setup"))
        return remark


def fill_and_purge(lab: Lab, member: str, spec: kafka.TopicSpec) -> None:
    """Write records to every partition and delete them all; a topic that has been purged before is left alone.

    Raises: LabError when Kafka refuses.
    """
    admin = lab.admin(member)
    partitions = [TopicPartition(spec.name, number) for number in range(spec.partitions)]

    def log_ends() -> dict[int, int] | None:
        futures = admin.list_offsets({tp: OffsetSpec.latest() for tp in partitions})
        try:
            return {tp.partition: future.result(kafka.REQUEST_LIMIT_S).offset for tp, future in futures.items()}
        except KafkaException:  # a topic just created has no leader for a moment
            return None

    ends = wait_for(f"{spec.name}: a leader for each partition", log_ends, kafka.REQUEST_LIMIT_S)
    producer = Producer(lab.client_config("admin", member, "INTERNAL") | {"enable.idempotence": True, "linger.ms": 5})
    for tp in partitions:
        for number in range(kafka.PURGED_RECORDS if ends[tp.partition] == 0 else 0):
            producer.produce(tp.topic, f"purged {number}".encode(), partition=tp.partition)
    if left := producer.flush(kafka.REQUEST_LIMIT_S):
        raise LabError(f"{left} records for {spec.name} were not acknowledged in {kafka.REQUEST_LIMIT_S:.0f} s")
    kafka.settle(admin.delete_records([TopicPartition(tp.topic, tp.partition, -1) for tp in partitions]))
