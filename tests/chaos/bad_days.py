"""Bad input and bad days: each ends as a refusal before anything changed, as done, or as before; never as "Running"."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import yaml
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import NewTopic
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowFailureError
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from activities.failpoints import Failpoint
from dcdr.model import GroupVerdict, Outcome
from lab import connect, gates
from lab.faults import Direction
from starter.client import Ended
from tests.chaos.conflicts import conflicts
from tests.chaos.row import End, Play, Row, Scene, Shown
from tests.integration.support import SCOPE, Stage, Worker, until
from workflows import steps
from workflows.transition import transition_id

REFUSED = frozenset({End.REFUSED})
UNDONE = frozenset({End.AS_BEFORE})
CALL_S = 20.0


async def off(work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """A blocking call, beside the loop."""
    return await asyncio.to_thread(work, *arguments, **named)


# --- refusals -------------------------------------------------------------------------------------------------------


async def refused(scene: Scene, ended: Ended, *says: str) -> str:
    """Check that a run was refused in these words, and that the record says nothing ever began."""
    assert ended.report is None, ended.report
    assert ended.refused, ended.failure
    for word in says:
        assert word in ended.failure, ended.failure
    return ended.failure.replace("\n", " ")


def refusal(
    *says: str, arrange: Callable[[Scene], Any] | None = None, target: str = "", hurry: dict[str, str] | None = None
) -> Play:
    """A switchover that must be refused in these words, with nothing changed, while `arrange` holds."""

    async def play(scene: Scene) -> Shown:
        stage, before = scene.stage, scene.stage.lease()
        wanted = {"here": scene.here, "": scene.there}.get(target, target)
        async with contextlib.AsyncExitStack() as stack:
            if arrange is not None:
                await stack.enter_async_context(arrange(scene))
            async with stage.worker(settings=hurry):
                words = await refused(scene, await stage.ended(await stage.start(wanted)), *says)
            assert stage.lease() == before, "the record changed"
        return Shown(words, End.REFUSED, scene.here)

    return play


async def _raw(scene: Scene, payload: object, workflow_id: str, workflow: str = "Switchover") -> ApplicationError:
    """Start as somebody without our client; the run must fail, soon, with a message."""
    handle = await scene.stage.start_raw(payload, workflow_id, workflow)
    try:
        result = await asyncio.wait_for(handle.result(), 60)
    except WorkflowFailureError as error:
        cause = error.cause
        assert isinstance(cause, ApplicationError), cause
        history = await handle.fetch_history()
        begun = [e for e in history.events if e.HasField("activity_task_scheduled_event_attributes")]
        assert not begun, "a step had begun"
        return cause
    raise AssertionError(f"accepted: {result}")


async def unknown_scope(scene: Scene) -> Shown:
    before = scene.stage.lease()
    async with scene.stage.worker():
        handle = await scene.stage.start_raw({"scope": "nowhere", "target": scene.there}, transition_id("nowhere"))
        try:
            await asyncio.wait_for(handle.result(), 60)
        except WorkflowFailureError as error:
            said = str(_root(error))
        else:
            raise AssertionError("accepted")
    assert "nowhere" in said
    assert SCOPE in said, said
    assert scene.stage.lease() == before
    return Shown(said, End.REFUSED, scene.here)


def _root(error: BaseException) -> BaseException:
    while (cause := getattr(error, "cause", None)) is not None:
        error = cause
    return error


async def malformed_input(scene: Scene) -> Shown:
    """What the UI's start form lets people send."""
    stage, before = scene.stage, scene.stage.lease()
    payloads: list[object] = [
        {"scope": SCOPE},
        {"scope": SCOPE, "target": scene.there, "tpyo": 1},
        {"scope": "../x", "target": scene.there},
        [SCOPE, scene.there],
        scene.there,
        None,
        7,
        RawValue(Payload(metadata={"encoding": b"json/plain"}, data=b'{"scope": ')),
    ]
    said = []
    async with stage.worker():
        for payload in payloads:
            said.append((await _raw(scene, payload, transition_id(SCOPE))).message)
        said.append((await _raw(scene, {"scope": SCOPE}, transition_id(SCOPE), "Switchoverr")).message)
    assert all(said)
    assert stage.lease() == before
    return Shown(f"{len(said)} inputs, each failed before its first step", End.REFUSED, scene.here)


async def another_workflow_id(scene: Scene) -> Shown:
    stage, before = scene.stage, scene.stage.lease()
    async with stage.worker():
        cause = await _raw(scene, {"scope": SCOPE, "target": scene.there}, f"mine-{uuid4().hex[:6]}")
    assert cause.type == "InvalidRequestError"
    assert transition_id(SCOPE) in cause.message
    assert stage.lease() == before
    return Shown(cause.message, End.REFUSED, scene.here)


async def three_members(scene: Scene) -> Shown:
    """The settings name a third member: the worker does not even start."""
    document = yaml.safe_load(scene.stage.lab.settings.read_text())
    members = document["scopes"][SCOPE]["members"]
    members["dc-d"] = members[scene.there]
    path = scene.stage.folder / f"three-{uuid4().hex[:6]}.yaml"
    await off(path.write_text, yaml.safe_dump(document))
    worker = scene.stage.spawn(settings={"DCDR_SETTINGS": str(path)})
    try:
        code = await worker.died(60)
    finally:
        worker.end()
    said = worker.log.read_text()
    assert code == 2, said
    assert "exactly two members" in said
    return Shown(said.strip().splitlines()[-1].strip(), End.REFUSED, scene.here)


@contextlib.asynccontextmanager
async def mirror_stopped(scene: Scene) -> AsyncIterator[None]:
    url, name = scene.stage.lab.connect_url(scene.there), connect.connector_name("source", scene.here)
    await off(connect.ensure_stopped, url, name)
    await until("the mirror to stop", lambda: connect.has_state(name, connect.status(url).get(name), "STOPPED"), 60)
    try:
        yield
    finally:
        await off(connect.request, "PUT", f"{url}/connectors/{name}/resume")


@contextlib.asynccontextmanager
async def mirror_behind(scene: Scene) -> AsyncIterator[None]:
    link = f"{scene.there}->{scene.here}:kafka"
    scene.stage.lab.fault.cut(link)
    try:
        await scene.stage.flowing(scene.load, scene.here, 1500)
        assert [fault.target for fault in scene.stage.lab.fault.active()] == [link]
        yield
    finally:
        scene.stage.lab.fault.heal()


def unsafe_setting(key: str, value: str) -> Callable[[Scene], Any]:
    """The retiring mirror's source connector runs with an unsafe setting."""

    @contextlib.asynccontextmanager
    async def arrange(scene: Scene) -> AsyncIterator[None]:
        name = connect.connector_name("source", scene.here)
        url = f"{scene.stage.lab.connect_url(scene.there)}/connectors/{name}/config"
        before = (await off(connect.request, "GET", url)).json()
        changed = f"{before[key]},{value}" if value.startswith("+") else value
        answer = await off(connect.request, "PUT", url, json={**before, key: changed.replace("+", "")})
        assert answer.status_code == 200, answer.text
        try:
            yield
        finally:
            await off(connect.request, "PUT", url, json=before)

    return arrange


@contextlib.asynccontextmanager
async def no_authorizer(scene: Scene) -> AsyncIterator[None]:
    """The standby's brokers run without an authorizer; its rules stay in its metadata."""
    lab = scene.stage.lab
    names = lab.brokers(scene.there)
    files = {lab.home.secrets / f"{broker}.properties" for broker in names}
    before = {path: path.read_text() for path in files}
    try:
        for path, text in before.items():
            kept = [line for line in text.splitlines(True) if not line.startswith("authorizer.class.name")]
            assert len(kept) < len(text.splitlines())
            path.write_text("".join(kept))
        await off(lab.fault.restart, *names)
        await off(lab.fault.restart, f"connect-{scene.there}")
        await _mirror_runs(scene)
        yield
    finally:
        for path, text in before.items():
            path.write_text(text)
        await off(lab.fault.restart, *names)
        await off(lab.fault.restart, f"connect-{scene.there}")


async def _mirror_runs(scene: Scene) -> None:
    url, name = scene.stage.lab.connect_url(scene.there), connect.connector_name("source", scene.here)
    await until("the mirror to run", lambda: connect.has_state(name, connect.status(url).get(name), "RUNNING"), 90)


def new_topic(stage: Stage, member: str, partitions: int = 2, config: dict[str, str] | None = None) -> str:
    name = f"lab-{uuid4().hex[:8]}"
    admin = stage.lab.admin(member)  # kept: a client that is let go of gives up its answers
    admin.create_topics([NewTopic(name, partitions, config=config or {})])[name].result(CALL_S)
    return name


def drop_topic(stage: Stage, name: str) -> None:
    for member in ("dc-a", "dc-b"):
        admin = stage.lab.admin(member)
        for done in admin.delete_topics([name]).values():
            with contextlib.suppress(Exception):  # it may be on one side only
                done.result(CALL_S)


@contextlib.asynccontextmanager
async def topic_missing(scene: Scene) -> AsyncIterator[None]:
    """A topic that the mirror cannot create, because it cannot reach the source."""
    scene.stage.lab.fault.cut(f"{scene.there}->{scene.here}:kafka")
    name = await off(new_topic, scene.stage, scene.here)
    try:
        yield
    finally:
        scene.stage.lab.fault.heal()
        await off(drop_topic, scene.stage, name)


@contextlib.asynccontextmanager
async def topic_of_large_records(scene: Scene) -> AsyncIterator[None]:
    name = await off(new_topic, scene.stage, scene.here, 1, {"max.message.bytes": "4194304"})
    try:
        yield
    finally:
        await off(drop_topic, scene.stage, name)


# --- what is waited for, and what is not ----------------------------------------------------------------------------


async def young_topic(scene: Scene) -> Shown:
    """A topic created, and written to, a second before the start: bounded retries, then the switchover."""
    stage = scene.stage
    async with stage.worker():
        for _ in range(3):  # the mirror looks for new topics now and then, and may come in between
            name = await off(new_topic, stage, scene.here)
            await off(_write, stage, scene.here, name, [b"young"])
            if name not in await off(_topics, stage, scene.there):
                break
        else:
            raise AssertionError("the mirror was faster than us, three times")
        stage.done(await stage.ended(await stage.start(scene.there)), scene.there)
    assert await off(_values, stage, scene.there, name) == [b"young"]
    return Shown(f"{name} was not on {scene.there} at the start; its record is there", End.DONE, scene.there)


async def rebalances(scene: Scene) -> Shown:
    """Both Connects answer 409 to every change and every look at offsets, the first times they are asked."""
    stage = scene.stage
    with contextlib.ExitStack() as stack:
        servers = {dc: stack.enter_context(conflicts(stage.lab.connect_url(dc))) for dc in (scene.here, scene.there)}
        settings = {f"DCDR_SCOPES__LAB__MEMBERS__{dc.upper()}__CONNECT__URL": s.url for dc, s in servers.items()}
        async with stage.worker(settings=settings):
            await stage.switch(scene.there)
        answered = sum((server.answered for server in servers.values()), Counter[str]())
    missed = [path for path in ("/stop", "/resume", "/offsets") if not any(path in call for call in answered)]
    assert not missed, f"no 409 to {missed}: {answered}"
    return Shown(f"{answered.total()} answers 409 to {len(answered)} different calls", End.DONE, scene.there)


async def open_transactions(scene: Scene) -> Shown:
    """An open transaction and a lagging group with a member, both of which stay on the old side."""
    stage = scene.stage
    app = stage.lab.client_config("app", scene.here)
    producer = Producer({**app, "transactional.id": f"lab-{uuid4().hex[:6]}", "transaction.timeout.ms": 300_000})
    group = f"stays-{uuid4().hex[:6]}"
    # Frozen, a member can neither commit nor leave: the way back has to wait until its session is over.
    member = {"enable.auto.commit": False, "auto.offset.reset": "earliest", "session.timeout.ms": 6000}
    consumer = Consumer({**app, **member, "group.id": group})
    try:
        await off(producer.init_transactions, 30)
        producer.begin_transaction()
        producer.produce("payments", b"never committed", key="open")
        assert await off(producer.flush, 10) == 0
        consumer.subscribe(["orders"])
        taken = await off(consumer.consume, 20, 30.0)
        message = next(one for one in taken if one.error() is None)
        place = TopicPartition("orders", message.partition(), message.offset() + 1)
        await off(consumer.commit, offsets=[place], asynchronous=False)
        began = time.monotonic()
        async with stage.worker():
            report = await stage.switch(scene.there)
        took = time.monotonic() - began
    finally:
        await off(consumer.close)
    assert report.transactions_fenced
    assert took < 200
    found = next(one for one in report.groups if one.group == group)
    assert found.lag > 0, found
    assert found.verdict is GroupVerdict.EXACT or found.note, found
    fired = f"fenced {', '.join(report.transactions_fenced)}; {group} had a member, lag {found.lag}: {found.verdict}"
    return Shown(fired, End.DONE, scene.there)


async def drain_deadline(scene: Scene) -> Shown:
    """The mirror is black-holed while the fence closes: the drain's deadline reopens the source."""
    stage, hold = scene.stage, Failpoint(steps.CLOSE.name, "before", "hold")
    link = f"{scene.there}->{scene.here}:kafka"
    async with stage.worker(hold, settings={"DCDR_DRAIN__DEADLINE": "PT5S"}) as worker:
        handle = await stage.start(scene.there)
        await worker.reached(hold)
        stage.lab.fault.blackhole(link, direction=Direction.BOTH)
        await stage.flowing(scene.load, scene.here)
        assert not await off(stage.lab.fault.answers, link), "the link still carries"
        worker.release()
        await until("the undo", lambda: stage.lease().phase == "OPEN", 90)
        assert not await off(stage.lab.fault.answers, link), "the link carries again"
        stage.lab.fault.heal()
        ended = await stage.ended(handle)
    assert ended.report is not None
    assert ended.report.outcome is Outcome.AS_BEFORE
    assert "not drained" in ended.failure
    return Shown(f"{link} carried nothing; {ended.failure[:60]}", End.AS_BEFORE, scene.here)


async def forged_offsets(scene: Scene) -> Shown:
    """Somebody set the mirror's stored offset to the log's end; by the offsets all is drained, the records are not."""
    stage = scene.stage
    name = await _mirrored_topic(scene)
    url, connector = stage.lab.connect_url(scene.there), connect.connector_name("source", scene.here)
    await off(connect.ensure_stopped, url, connector)
    await until(
        "the mirror to stop", lambda: connect.has_state(connector, connect.status(url)[connector], "STOPPED"), 60
    )
    await off(_write, stage, scene.here, name, [b"skipped"])
    place = {"cluster": scene.here, "topic": name, "partition": 0}
    body = {"offsets": [{"partition": place, "offset": {"offset": 1}}]}
    answer = await off(connect.request, "PATCH", f"{url}/connectors/{connector}/offsets", json=body)
    assert answer.status_code == 200, answer.text
    await off(connect.request, "PUT", f"{url}/connectors/{connector}/resume")
    await _mirror_runs(scene)
    async with stage.worker():
        ended = await stage.ended(await stage.start(scene.there))
    assert ended.report is not None, ended.failure
    assert ended.report.outcome is Outcome.AS_BEFORE
    assert f"for example {name}-0" in ended.failure, ended.failure
    assert await off(_values, stage, scene.there, name) == [b"first"]
    await off(drop_topic, stage, name)
    return Shown(ended.failure.replace("\n", " "), End.AS_BEFORE, scene.here)


# --- after the cut --------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def held(
    scene: Scene, step: steps.Step, settings: dict[str, str] | None = None
) -> AsyncIterator[tuple[Worker, Any]]:
    """A switchover that stands before `step`. `settings`: of its worker, on top of the lab's."""
    hold = Failpoint(step.name, "before", "hold")
    async with scene.stage.worker(hold, settings=settings) as worker:
        handle = await scene.stage.start(scene.there)
        await worker.reached(hold)
        yield worker, handle


async def late_record(scene: Scene) -> Shown:
    """A record that comes after the cut (here: from a super user, whom no rule stops) is found by the last look."""
    stage = scene.stage
    name = await _mirrored_topic(scene)
    async with held(scene, steps.HAND_OVER) as (worker, handle):
        await off(_write, stage, scene.here, name, [b"late"])
        worker.release()
        stage.done(await stage.ended(handle), scene.there)
        log = worker.log.read_text()
    assert "draining again" in log
    assert await off(_values, stage, scene.there, name) == [b"first", b"late"]
    return Shown(f"{name}: cut, then written; drained again, both records are on {scene.there}", End.DONE, scene.there)


async def late_topic(scene: Scene) -> Shown:
    """A topic that comes after the cut is found by the last look."""
    stage = scene.stage
    async with held(scene, steps.HAND_OVER) as (worker, handle):
        name = await off(new_topic, stage, scene.here)
        await off(_write, stage, scene.here, name, [b"late"])
        worker.release()
        stage.done(await stage.ended(handle), scene.there)
        log = worker.log.read_text()
    assert "draining again" in log
    assert await off(_values, stage, scene.there, name) == [b"late"]
    return Shown(f"{name}: created after the cut; drained again, it is on {scene.there}", End.DONE, scene.there)


async def tail(scene: Scene) -> Shown:
    """A record that comes after the handover is reported, never silent."""
    stage = scene.stage
    name = await _mirrored_topic(scene)
    async with held(scene, steps.OPEN) as (worker, handle):
        await off(_write, stage, scene.here, name, [b"too late"])
        worker.release()
        report = (await stage.ended(handle)).report
    assert report is not None
    assert report.outcome is Outcome.DONE
    stage.moved(report)
    assert [(row.topic, row.end - row.first) for row in report.tail] == [(name, 1)], report.tail
    return Shown(f"tail: {report.tail[0]}", End.DONE, scene.there)


async def _mirrored_topic(scene: Scene) -> str:
    """A topic of our own with one record, which the mirror has brought over."""
    stage = scene.stage
    name: str = await off(new_topic, stage, scene.here, 1)
    await off(_write, stage, scene.here, name, [b"first"])
    url, connector = stage.lab.connect_url(scene.there), connect.connector_name("source", scene.here)
    await off(connect.request, "POST", f"{url}/connectors/{connector}/restart?includeTasks=true")
    await until(f"{name} on {scene.there}", lambda: name in _topics(stage, scene.there), 60)
    await until("its record", lambda: _values(stage, scene.there, name) == [b"first"], 60)
    return name


def _topics(stage: Stage, member: str) -> set[str]:
    return set(stage.lab.admin(member).list_topics(timeout=CALL_S).topics)


def _write(stage: Stage, member: str, topic: str, values: list[bytes]) -> None:
    """As a super user, whom the fence does not stop."""
    config = stage.lab.client_config("admin", member, "INTERNAL") | {"enable.idempotence": True}
    producer = Producer(config)
    errors: list[KafkaError | None] = []
    for value in values:
        producer.produce(topic, value, partition=0, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(CALL_S) == 0
    assert not any(errors), errors


def _values(stage: Stage, member: str, topic: str) -> list[bytes]:
    """The visible records of partition 0."""
    settings = {"group.id": "chaos-looks", "enable.auto.commit": False, "enable.partition.eof": True}
    config = stage.lab.client_config("admin", member, "INTERNAL") | settings | {"isolation.level": "read_committed"}
    consumer = Consumer(config)
    found: list[bytes] = []
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        deadline = time.monotonic() + CALL_S
        while time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is None:
                continue
            error = message.error()
            if error is None:
                found.append(message.value() or b"")
            elif error.code() == KafkaError._PARTITION_EOF:
                return found
    finally:
        consumer.close()
    raise AssertionError(f"the end of {topic} on {member} was not reached")


# --- what dies beside us --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outage:
    """A process of the lab that is killed at a moment of the switchover and comes back some seconds later."""

    process: str
    step: steps.Step
    down_s: float = 4.0

    async def __call__(self, scene: Scene) -> Shown:
        stage = scene.stage
        name = self.process.format(here=scene.here, there=scene.there)
        async with held(scene, self.step) as (worker, handle):
            pid = stage.lab.process(name).pid
            await off(stage.lab.fault.kill, name)
            worker.release()
            await asyncio.sleep(self.down_s)  # the length of the outage is the fault itself
            await off(stage.lab.fault.restart, name)
            ended = await stage.ended(handle)
        assert ended.report is not None, ended.failure
        fired = f"{name} pid {pid} SIGKILL before {self.step.name}, back after {self.down_s:.0f} s"
        if ended.report.outcome is Outcome.DONE:
            stage.done(ended, scene.there)
            return Shown(fired, End.DONE, scene.there)
        assert ended.report.outcome is Outcome.AS_BEFORE
        return Shown(fired, End.AS_BEFORE, scene.here)


@dataclass(frozen=True)
class Cut:
    """A link that is cut at a moment of the switchover and healed some seconds later."""

    link: str
    step: steps.Step
    down_s: float = 4.0

    async def __call__(self, scene: Scene) -> Shown:
        stage = scene.stage
        link = self.link.format(here=scene.here, there=scene.there)
        async with held(scene, self.step) as (worker, handle):
            hit = stage.lab.fault.cut(link)
            assert {fault.target for fault in stage.lab.fault.active()} == set(hit)
            worker.release()
            await asyncio.sleep(self.down_s)  # the length of the outage is the fault itself
            stage.lab.fault.heal()
            ended = await stage.ended(handle)
        assert ended.report is not None, ended.failure
        fired = f"{', '.join(hit)} cut for {self.down_s:.0f} s before {self.step.name}"
        if ended.report.outcome is Outcome.DONE:
            stage.done(ended, scene.there)
            return Shown(fired, End.DONE, scene.there)
        assert ended.report.outcome is Outcome.AS_BEFORE
        return Shown(fired, End.AS_BEFORE, scene.here)


def rows() -> Iterator[Row]:
    either = frozenset({End.DONE, End.AS_BEFORE})
    yield Row("an unknown scope", unknown_scope, REFUSED)
    yield Row("an unknown data center", refusal("no data center", "choose", target="dc-x"), REFUSED)
    yield Row("an arbiter as the target", refusal("arbiter", target="dc-c"), REFUSED)
    yield Row("three members in the settings", three_members, REFUSED)
    yield Row("a target that is active already", refusal("already active", target="here"), REFUSED)
    behind = refusal("records behind", arrange=mirror_behind, hurry={"DCDR_DRAIN__ENTRY_LAG_LIMIT": "500"})
    yield Row("a lagging mirror", behind, REFUSED)
    yield Row("a stopped mirror", refusal("does not run", "STOPPED", arrange=mirror_stopped), REFUSED)
    # Settings that do no harm in the half minute they stand: records go on being mirrored.
    for key, value, says in (
        ("sync.topic.acls.enabled", "true", "sync.topic.acls.enabled"),
        ("exactly.once.support", "requested", "exactly.once.support"),
        ("errors.tolerance", "all", "errors.tolerance"),
        ("topics.exclude", "+orders", "leaves out orders"),
    ):
        yield Row(f"an unsafe connector: {key}", refusal(says, arrange=unsafe_setting(key, value)), REFUSED)
    yield Row("no authorizer on a cluster", refusal("no authorizer", arrange=no_authorizer), REFUSED, 150.0)
    yield Row(
        "a topic missing on the target", refusal("is missing on", arrange=topic_missing), REFUSED, 200.0, spoils=True
    )
    yield Row("a topic created a second before the start", young_topic)
    large = refusal("mirror's producer sends at most", arrange=topic_of_large_records)
    yield Row("records larger than the mirror's producer accepts", large, REFUSED, spoils=True)
    yield Row("Connect answers 409 during rebalances", rebalances)
    yield Row("malformed input from the UI", malformed_input, REFUSED)
    yield Row("a start under another workflow id", another_workflow_id, REFUSED)
    yield Row("an open transaction, a lagging group with a member", open_transactions)
    yield Row("a drain that does not finish by its deadline", drain_deadline, UNDONE, 150.0)
    yield Row("stored offsets of the mirror set ahead of its copies", forged_offsets, UNDONE, 150.0, spoils=True)
    # Written by a super user, whom the authorizer's gate would have refused.
    yield Row("a late record after the cut", late_record, fence=gates.ACL)
    yield Row("a new topic after the cut", late_topic, fence=gates.ACL)
    yield Row("a record after the handover is a tail", tail, fence=gates.ACL, spoils=True)
    yield Row("Connect of the target dies in the drain", Outage("connect-{there}", steps.DRAIN), either, 150.0)
    yield Row("Connect of the target dies after the handover", Outage("connect-{there}", steps.RETIRE), rest_s=150.0)
    yield Row("the source's broker dies in the drain", Outage("kafka-{here}-1", steps.DRAIN), either, 150.0)
    yield Row("the target's broker dies after the handover", Outage("kafka-{there}-1", steps.OPEN), rest_s=150.0)
    yield Row("a store member dies before the handover", Outage("etcd-{here}", steps.HAND_OVER))
    yield Row("the API server dies before the flip", Outage("kube-apiserver", steps.FLIP))
    yield Row("the worker is cut off from the source in the drain", Cut("dc-c->{here}:*", steps.DRAIN), either)
    yield Row("the worker is cut off from the target after the handover", Cut("dc-c->{there}:*", steps.OPEN))
    yield Row("the worker is cut off from both stores at the handover", Cut("dc-c->*:etcd*", steps.HAND_OVER), either)
