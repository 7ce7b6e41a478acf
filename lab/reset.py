"""`lab reset`: a used estate becomes a fresh one, without a restart of the servers.

Faults are healed and what is down is started first. Then everything that an estate's life left is removed (running
workflows, connectors' offsets, topics, groups, rules, lease, endpoint), and `up` seeds it all again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from lab import connect, gates, kafka, kube, store, temporal
from lab.addresses import ARBITER, MEMBERS, WORKERS, other
from lab.errors import LabError
from lab.estate import Lab
from lab.processes import ProcessState
from lab.record import Home
from lab.up import FIRST_ACTIVE, bring_up
from lab.waiting import Say, Steps, wait_for

KEPT_TOPICS = (connect.CONFIGS_TOPIC, connect.OFFSETS_TOPIC, connect.STATUS_TOPIC)
GONE_LIMIT_S = 30.0
STOPPING_LIMIT_S = 15.0
"""Longer than the session of a member of `lab load` (10 s): one that was killed has vanished by then."""


def reset(name: str, hard: bool, say: Say) -> Lab:
    """Bring the lab back to how `up` made it.

    Args:
        hard: wipe and restart Kafka and Connect rather than clean them: slower, and it leaves nothing.
    Raises: LabError when something cannot be removed, such as a group that still has members.
    """
    home = Home.of(name)
    home.load()
    with home.operation():
        lab = Lab(home)
        _revive(lab, say)
        if not hard:
            bring_up_servers(lab, say)
            _nobody_consumes(lab)
        with home.change() as document:
            document["done"] = []
        with_worker = bool(lab.worker_names)
        for worker in lab.worker_names:
            lab.process(worker).stop()  # it keeps warm what is about to vanish, and would start the watch again
        if hard:
            _wipe(lab, say)
        else:
            _clean(lab, say)
        return bring_up(lab, with_worker, say)


def _revive(lab: Lab, say: Say) -> None:
    """Thaw what is frozen; a frozen fault proxy could not even be asked to heal."""
    for name in lab.process_names:
        process = lab.process(name)
        if process.state is ProcessState.FROZEN:
            process.thaw()
            say(f"thawed {name}")
    if lab.process("toxiproxy").state is ProcessState.RUNNING:
        lab.fault.heal()


def bring_up_servers(lab: Lab, say: Say) -> None:
    """Start what is down; only when something is, because asking everybody costs a second."""
    servers = [name for name in lab.process_names if name not in WORKERS]
    down = [name for name in servers if lab.process(name).state is ProcessState.DOWN]
    if down:
        say(f"starting {', '.join(down)}")
        lab.fault.restart_in_order(down)


def _clean(lab: Lab, say: Say) -> None:
    """One side after the other is made the standby: there, and only there, the mirror's user passes every gate, and
    with it Connect, which forgets offsets in a transaction of the connector's."""
    steps = Steps(say)
    steps.add("workflows terminated", partial(_terminate_workflows, lab))
    before = []
    for member in MEMBERS:
        steps.add(f"connectors on {member} stopped", partial(_stop_connectors, lab, member), ["workflows terminated"])
        before.append(f"connectors on {member} stopped")
    for member in (FIRST_ACTIVE, other(FIRST_ACTIVE)):
        steps.add(f"lease to {other(member)}", partial(_renew_lease, lab, other(member)), before)
        steps.add(
            f"connectors on {member} emptied", partial(_empty_connectors, lab, member), [f"lease to {other(member)}"]
        )
        before = [f"topics, groups and rules on {member} removed"]
        steps.add(before[0], partial(_empty_cluster, lab, member), [f"connectors on {member} emptied"])
    steps.add("endpoint removed", partial(kube.remove, lab), ["workflows terminated"])
    steps.run()


def _wipe(lab: Lab, say: Say) -> None:
    asyncio.run(terminate_all(lab))
    members = [lab.process(name) for name in lab.process_names if name.startswith(("kafka-", "connect-"))]
    for process in members:
        if process.state is not ProcessState.DOWN:
            process.kill()
    for member in MEMBERS:
        lab.process(f"agent-{member}").stop()  # it remembers epochs, and an empty estate begins with the first
        shutil.rmtree(lab.home.data / f"agent-{member}", ignore_errors=True)
        for broker in lab.brokers(member):
            shutil.rmtree(lab.home.data / broker, ignore_errors=True)
            for kept in lab.home.data.glob(f"{broker}.epoch*"):
                kept.unlink()
            lab.home.trace(broker).unlink(missing_ok=True)
    say(f"wiped {', '.join(process.name for process in members)}")
    kube.remove(lab)
    store.delete_prefix(lab.plan.ports[f"etcd-{ARBITER}/client"], store.PREFIX)


def _terminate_workflows(lab: Lab) -> str:
    return f"{asyncio.run(terminate_all(lab))} were running"


async def terminate_all(lab: Lab) -> int:
    """Terminate every running workflow of the namespace and see them closed. Raises: LabError when one stays."""
    from temporalio.client import Client
    from temporalio.service import RPCError

    try:
        client = await Client.connect(str(lab.plan.ports["temporal/frontend"]), namespace=temporal.NAMESPACE)
        ended = 0
        # What is listed comes from an index that trails the truth: look until nothing is left to be seen.
        for _ in range(20):
            found = [one async for one in client.list_workflows('ExecutionStatus = "Running"')]
            if not found:
                return ended
            for one in found:
                try:
                    await client.get_workflow_handle(one.id, run_id=one.run_id).terminate("the lab is being reset")
                    ended += 1
                except RPCError:  # closed meanwhile
                    continue
            await asyncio.sleep(0.1)
    except (RPCError, RuntimeError) as error:
        raise LabError(f"Temporal does not answer: {error}") from error
    raise LabError("workflows keep starting: stop what starts them, then reset again")


def _stop_connectors(lab: Lab, member: str) -> str:
    url = lab.connect_url(member)
    names = list(connect.request("GET", f"{url}/connectors").json())
    for name in names:
        connect.ensure_stopped(url, name)

    def stopped() -> bool:
        found = connect.status(url)
        return all(connect.has_state(name, found.get(name), "STOPPED") for name in names)

    wait_for(f"connectors on {member} stopped", stopped, GONE_LIMIT_S)
    return f"{len(names)}"


def _empty_connectors(lab: Lab, member: str) -> str:
    """Give ours back their configuration, forget all offsets, delete strangers.

    Ours are never deleted: what deletion leaves behind in Connect 4.3.1 spoils the next connector of that name
    (see `connect.ensure_stopped`).
    """
    ended = _end_transactions(lab, member)
    url = lab.connect_url(member)
    ours = dict(connect.connectors(lab.plan, other(member), lab.home.secrets / "mirror.properties"))
    names = list(connect.request("GET", f"{url}/connectors").json())
    for name in names:
        if name not in ours:
            connect.request("DELETE", f"{url}/connectors/{name}")
            continue
        if connect.steered_by_offsets(name):
            _forget_offsets(lab, f"{url}/connectors/{name}/offsets", name)
        if _differs(connect.request("GET", f"{url}/connectors/{name}/config").json(), ours[name]):
            connect.request("PUT", f"{url}/connectors/{name}/config", json=ours[name])
    return f"{len(names)}, {ended} open transactions ended"


def _forget_offsets(lab: Lab, url: str, name: str) -> None:
    answer = connect.request("DELETE", url)
    if answer.is_error:
        raise LabError(
            f"Connect did not forget the offsets of {name} ({answer.status_code} {answer.text}): "
            f"`dcdr lab reset --hard --lab {lab.name}` begins with empty servers"
        )


def _differs(found: dict[str, str], wanted: dict[str, str]) -> bool:
    return {key: value for key, value in found.items() if key != "name"} != wanted


def _empty_cluster(lab: Lab, member: str) -> str:
    admin = lab.admin(member)
    kafka.delete_rules(admin)
    groups = _remove_groups(admin, member)
    topics = [one for one in _topics(admin) if one not in KEPT_TOPICS]
    if topics:
        # Behind a gate that is closed to users, an administrator too, the mirror is the one who may.
        may = AdminClient(lab.client_config("mirror", member, "INTERNAL"))
        futures: Mapping[str, Future[Any]] = may.delete_topics(
            topics, operation_timeout=kafka.REQUEST_LIMIT_S, request_timeout=kafka.REQUEST_LIMIT_S
        )
        kafka.settle(futures, tolerated=(KafkaError.UNKNOWN_TOPIC_OR_PART,))
        wait_for(f"topics on {member} gone", lambda: not set(topics) & set(_topics(admin)), GONE_LIMIT_S)
    return f"{len(topics)} topics, {groups} groups"


def _end_transactions(lab: Lab, member: str) -> int:
    """Abort what is open, by fencing its producer: later, its markers would land in the new topics of the same name.

    One that a gate cut short, of a connector's task, keeps Connect from reading its offsets until it times out.
    """
    with warnings.catch_warnings():
        # kafka-python reads its schemas with a function that Python 3.11 calls deprecated; late, because it reads many.
        warnings.simplefilter("ignore", DeprecationWarning)
        from kafka.admin import KafkaAdminClient
        from kafka.errors import BrokerResponseError
    where = [str(address) for address in lab.plan.kafka(member, "INTERNAL")]
    listing = KafkaAdminClient(
        bootstrap_servers=where,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_plain_username="admin",
        sasl_plain_password=lab.password("admin"),
        request_timeout_ms=int(kafka.REQUEST_LIMIT_S * 1000),
    )
    try:
        found = listing.list_transactions(state_filters=["Ongoing"])
    except BrokerResponseError as error:
        raise LabError(f"{member} did not list its transactions: {error}") from error
    finally:
        listing.close()
    group = connect.group_id(member)
    ids = [one.transactional_id for listed in found.values() for one in listed]
    ids = [one for one in ids if one != f"connect-cluster-{group}"]  # the worker minds its own; fenced, it would fail
    for transactional_id in ids:
        user = "mirror" if transactional_id.startswith(f"{group}-") else "admin"
        config = lab.client_config(user, member, "INTERNAL") | {"transactional.id": transactional_id}
        Producer(config).init_transactions(kafka.REQUEST_LIMIT_S)
    return len(ids)


def _topics(admin: AdminClient) -> list[str]:
    return [name for name in admin.list_topics(timeout=kafka.REQUEST_LIMIT_S).topics if not name.startswith("__")]


def _nobody_consumes(lab: Lab) -> None:
    """See that no group has members; those that stop right now are waited for.

    Raises: LabError naming the groups that have some.
    """
    for member in MEMBERS:
        admin = lab.admin(member)

        def quiet(admin: AdminClient = admin) -> bool:
            return not _busy_groups(admin)

        def names(admin: AdminClient = admin) -> str:
            return f": {', '.join(_busy_groups(admin))}; stop those consumers (killed ones vanish with their session)"

        wait_for(f"{member}: groups without members", quiet, STOPPING_LIMIT_S, every_s=0.3, hint=names)


def _busy_groups(admin: AdminClient) -> list[str]:
    listed = admin.list_consumer_groups(request_timeout=kafka.REQUEST_LIMIT_S).result(kafka.REQUEST_LIMIT_S).valid
    return [one.group_id for one in listed if one.state not in (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)]


def _remove_groups(admin: AdminClient, member: str) -> int:
    """Raises: LabError naming the groups that still have members."""
    listed = admin.list_consumer_groups(request_timeout=kafka.REQUEST_LIMIT_S).result(kafka.REQUEST_LIMIT_S)
    names = [one.group_id for one in listed.valid if one.group_id != connect.group_id(member)]
    if not names:
        return 0
    busy = []
    for name, future in admin.delete_consumer_groups(names, request_timeout=kafka.REQUEST_LIMIT_S).items():
        try:
            future.result(kafka.REQUEST_LIMIT_S)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.NON_EMPTY_GROUP:
                busy.append(name)
            elif error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise LabError(f"{member}: cannot delete group {name}: {error.args[0].str()}") from error
    if busy:
        raise LabError(f"{member}: groups {', '.join(busy)} still have members: stop those consumers, then reset again")
    return len(names)


def _renew_lease(lab: Lab, holder: str) -> str:
    """A first lease again, under an epoch that nobody has seen: agents and brokers remember the earlier ones."""
    client = lab.plan.ports[f"etcd-{ARBITER}/client"]
    epoch = 1 + max(_epochs(lab))
    store.delete_prefix(client, store.INTENT_KEY)
    store.put(client, store.LEASE_KEY, store.first_lease(holder, epoch))
    if lab.fence_mode == gates.AUTHORIZER:
        gates.wait_until_obeyed(lab, other(holder), "STANDBY", epoch)
    return f"epoch {epoch}"


def _epochs(lab: Lab) -> Iterator[int]:
    """Every epoch on record: the lease's, if it can be read, and those that agents and brokers keep."""
    yield 0
    found = store.get(lab.plan.ports[f"etcd-{ARBITER}/client"], store.LEASE_KEY)
    # Not all of the tree: brokers are deleting topics in it just now.
    kept = [*lab.home.data.glob("*.epoch"), *lab.home.data.glob("agent-*/*.epoch")]
    texts = [found or b"", *(path.read_bytes() for path in kept)]
    for text in texts:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # what cannot be read, nobody obeys either
            said = json.loads(text)
            yield int(said["epoch"] if isinstance(said, dict) else said)
