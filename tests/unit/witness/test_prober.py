"""The prober against listeners that acknowledge, refuse, fall silent, break off and come back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.kafka import messages
from adapters.kafka.messages import Message
from lab import gates, kafka, record
from lab.addresses import MEMBERS, Address, make_plan
from lab.errors import LabError, UsageError
from lab.estate import Lab
from lab.load.journal import JournalError
from lab.processes import identify
from lab.record import Home, plan_to_json
from lab.witness import Closing, Witness, gather, judge
from lab.witness import prober as prober_module
from lab.witness.cli import as_table
from lab.witness.prober import IN_FLIGHT, Target, journal, probe, produce, targets
from lab.witness.probes import MIRROR, USERS, Info, Lane, Outcome, read_probes
from tests.unit.adapters.kafka.fake_broker import FakeBroker

LIMIT_S = 20.0
REFUSED = 29
NOT_LEADER = 6


def answer(request: Any, **fields: Any) -> Message:
    return messages._BY_REQUEST[request][0](**fields)


def authenticated(code: int) -> Message:
    fields = {"error_message": None, "auth_bytes": b"", "session_lifetime_ms": 0}
    return answer(messages.SASL_AUTHENTICATE, error_code=code, **fields)


def produced(code: int, offset: int = 7) -> Message:
    response = messages._BY_REQUEST[messages.PRODUCE][0]
    topic = response.TopicProduceResponse
    partition = topic.PartitionProduceResponse(index=0, error_code=code, base_offset=-1 if code else offset)
    return response(responses=[topic(name=kafka.WITNESS_TOPIC, partition_responses=[partition])], throttle_time_ms=0)


def lets_in(broker: FakeBroker, code: int = 0) -> None:
    """A broker that lets anybody in and answers every record with `code`."""
    broker.on(messages.SASL_HANDSHAKE, lambda: answer(messages.SASL_HANDSHAKE, error_code=0, mechanisms=["PLAIN"]))
    broker.on(messages.SASL_AUTHENTICATE, lambda: authenticated(0))
    broker.on(messages.PRODUCE, lambda: produced(code))


@pytest.fixture
async def broker() -> AsyncIterator[FakeBroker]:
    made = FakeBroker()
    await made.start()
    lets_in(made)
    yield made
    await made.stop()


def target(broker: FakeBroker) -> Target:
    return Target(Lane("dc-a", "kafka-dc-a-1", USERS), 0, Address("127.0.0.1", broker.port), "app", "secret")


@contextlib.asynccontextmanager
async def probing(out: Path, *whom: Target) -> AsyncIterator[None]:
    """The prober beside us, told to end as a person would tell it."""
    running = asyncio.create_task(probe(whom, journal(out), every_ms=5, start_s=LIMIT_S))
    try:
        await until(lambda: (out / "witness.json").exists() or running.done())
        yield
    finally:
        if not running.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, LIMIT_S)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def outcomes(out: Path) -> list[tuple[Outcome, str]]:
    return [(one.outcome, one.code) for one in read_probes(out)]


async def test_every_answer_is_noted_as_what_it_is(broker: FakeBroker, tmp_path: Path) -> None:
    out = tmp_path / "w"
    async with probing(out, target(broker)):
        for code, outcome in ((REFUSED, Outcome.REFUSED), (NOT_LEADER, Outcome.UNKNOWN), (0, Outcome.ACKED)):
            lets_in(broker, code)
            await until(lambda wanted=(outcome, str(code)): wanted in outcomes(out)[-3:])  # type: ignore[misc]
    found = list(read_probes(out))
    assert all(one.sent_ns <= one.settled_ns for one in found)
    assert {one.offset for one in found if one.outcome is Outcome.ACKED} == {7}
    assert {one.offset for one in found if one.outcome is not Outcome.ACKED} == {-1}
    info = Info.read(out)
    assert info.lanes == (("dc-a", "kafka-dc-a-1", USERS),)
    assert info.ended_ns is not None
    assert info.ended_ns > info.started_ns


async def test_one_connection_serves_all_probes_and_a_refusal_does_not_end_it(
    broker: FakeBroker, tmp_path: Path
) -> None:
    lets_in(broker, REFUSED)
    async with probing(tmp_path / "w", target(broker)):
        await until(lambda: broker.times(messages.PRODUCE) > 20)
    assert broker.connections == 1


async def test_a_silent_broker_keeps_no_probe_from_its_moment(broker: FakeBroker, tmp_path: Path) -> None:
    out = tmp_path / "w"
    async with probing(out, target(broker)):
        broker.handlers.pop(messages.PRODUCE.API_KEY)
        before = broker.times(messages.PRODUCE)
        await until(lambda: (Outcome.UNKNOWN, "silent") in outcomes(out))
        assert broker.times(messages.PRODUCE) >= before + IN_FLIGHT - 1
        count = len(outcomes(out))
        await until(lambda: len(outcomes(out)) > count + 10)
    assert (Outcome.UNKNOWN, "given up") in outcomes(out)
    moments = sorted(one.sent_ns for one in read_probes(out))
    assert len(moments) > IN_FLIGHT + 10
    assert len(set(moments)) == len(moments)


async def test_a_connection_that_stays_silent_is_made_anew(
    broker: FakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober_module, "SILENT_NS", 1)
    out = tmp_path / "w"
    async with probing(out, target(broker)):
        broker.handlers.pop(messages.PRODUCE.API_KEY)
        await until(lambda: broker.connections > 1)
        lets_in(broker, REFUSED)
        await until(lambda: (Outcome.REFUSED, str(REFUSED)) in outcomes(out))


async def test_a_broken_connection_is_made_again_and_what_was_on_its_way_is_unknown(
    broker: FakeBroker, tmp_path: Path
) -> None:
    out = tmp_path / "w"
    async with probing(out, target(broker)):
        broker.drop_next = 3
        await until(lambda: broker.drop_next == 0)
        count = outcomes(out).count((Outcome.ACKED, "0"))
        await until(lambda: outcomes(out).count((Outcome.ACKED, "0")) > count + 3)
    assert broker.connections == 4
    assert (Outcome.UNKNOWN, "given up") in outcomes(out)


async def test_a_broker_that_is_gone_for_a_while_is_found_again(broker: FakeBroker, tmp_path: Path) -> None:
    out = tmp_path / "w"
    async with probing(out, target(broker)):
        port = broker.port
        await broker.stop()
        await until(lambda: any("Connect call failed" in code for _, code in outcomes(out)))
        broker._server = await asyncio.start_server(broker._serve, "127.0.0.1", port)
        lets_in(broker, REFUSED)
        await until(lambda: (Outcome.REFUSED, str(REFUSED)) in outcomes(out))


async def test_a_start_without_an_answer_ends_with_who_was_silent_and_why(broker: FakeBroker, tmp_path: Path) -> None:
    lets_in(broker, NOT_LEADER)
    with pytest.raises(LabError, match=r"dc-a/kafka-dc-a-1/users: error 6"):
        await probe([target(broker)], journal(tmp_path / "w"), start_s=2.0)
    broker.on(messages.SASL_AUTHENTICATE, lambda: authenticated(58))
    with pytest.raises(LabError, match="app was not let in: error 58"):
        await probe([target(broker)], journal(tmp_path / "x"), start_s=2.0)
    with pytest.raises(JournalError, match="not every broker answered"):
        Info.read(tmp_path / "x")


def test_a_folder_is_used_once(tmp_path: Path) -> None:
    journal(tmp_path).close()
    with pytest.raises(UsageError, match="another folder"):
        journal(tmp_path)


def test_a_probe_waits_for_all_replicas_and_is_an_ordinary_record() -> None:
    request = produce(2)
    assert (request.acks, request.transactional_id) == (-1, None)
    (topic,) = request.topic_data
    assert topic.name == kafka.WITNESS_TOPIC
    assert topic.partition_data[0].index == 2


# --- the topic, and whom it asks ---


def test_the_topic_has_a_partition_on_each_broker_is_not_mirrored_and_users_may_write_to_it() -> None:
    topic = next(one for one in kafka.own_topics(3) if one.topic == kafka.WITNESS_TOPIC)
    assert topic.replica_assignment == [[1], [2], [3]]
    assert kafka.WITNESS_TOPIC.endswith(".internal")
    assert kafka.WITNESS_TOPIC.startswith(kafka.USER_TOPIC_PREFIX)


def test_only_who_makes_the_topic_is_spared_by_the_gates() -> None:
    home = Home("x", Path("/x"))
    plan = make_plan("127.20.7", 1, lambda _: True)
    found = kafka.gate_properties(plan, "dc-a", "lab", "kafka-dc-a-1", home, ("connect",), "g")
    exempt = found["dcdr.authorizer.exempt"].split(";")
    assert [pair for pair in exempt if pair.endswith(kafka.WITNESS_TOPIC)] == [f"User:admin@{kafka.WITNESS_TOPIC}"]
    assert kafka.WITNESS_TOPIC not in found["dcdr.authorizer.internal.topics"]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab on record, whose broker processes are this one."""
    monkeypatch.setenv("DCDR_STATE", str(tmp_path))
    home = Home.of("seen")
    home.create()
    me = identify(os.getpid())
    assert me is not None
    for user in kafka.USERS:
        (home.secrets / f"{user}.password").write_text("secret\n")
    home.write(
        {
            "version": record.VERSION,
            "fence": gates.AUTHORIZER,
            "plan": plan_to_json(make_plan("127.20.7", 1, lambda _: True)),
            "cluster_ids": {member: f"cluster-of-{member}" for member in MEMBERS},
            "users": {user: str(home.secrets / f"{user}.password") for user in kafka.USERS},
            "processes": {f"kafka-{member}-1": {"identity": me.to_json(), "site": member} for member in MEMBERS},
        }
    )
    return Lab(home)


def test_every_broker_is_asked_inside_its_site_as_a_user_and_as_the_mirror(lab: Lab) -> None:
    found = {one.lane: one for one in targets(lab)}
    assert set(found) == {(dc, f"kafka-{dc}-1", who) for dc in MEMBERS for who in (USERS, MIRROR)}
    users, mirror = (found[Lane("dc-b", "kafka-dc-b-1", who)] for who in (USERS, MIRROR))
    assert (users.user, users.address) == ("app", lab.plan.ports["kafka-dc-b-1/client"])
    assert (mirror.user, mirror.address) == ("mirror", lab.plan.ports["kafka-dc-b-1/mirror"])
    with lab.home.change() as document:
        document["fence"] = gates.ACL
    assert {one.lane.who for one in targets(Lab(lab.home))} == {USERS}


def test_with_three_brokers_each_is_asked_for_the_partition_that_lies_on_it(lab: Lab) -> None:
    with lab.home.change() as document:
        document["plan"] = plan_to_json(make_plan("127.20.7", 3, lambda _: True))
    assert [(one.lane.broker, one.partition) for one in targets(Lab(lab.home)) if one.user == "app"] == [
        (f"kafka-{dc}-{number}", number - 1) for dc in MEMBERS for number in (1, 2, 3)
    ]


# --- the whole way: a process of its own, traces on disk, a verdict ---

OPEN, CLOSED = "open", "closed"


async def test_a_witness_in_a_process_of_its_own_ends_in_a_verdict(lab: Lab, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        made = await _served(lab, stack)
        for broker in made.values():
            lets_in(broker, REFUSED)
        lets_in(made["kafka-dc-a-1/client"])
        lets_in(made["kafka-dc-b-1/mirror"])
        _trace(lab, "dc-a", (0, OPEN, CLOSED, "marker"))
        _trace(lab, "dc-b", (0, CLOSED, OPEN, "marker"))
        witness = await asyncio.to_thread(Witness(lab, tmp_path / "w").start)
        try:
            await until(lambda: [one for one, _ in outcomes(witness.out)].count(Outcome.ACKED) > 10)
            lets_in(made["kafka-dc-a-1/client"], REFUSED)
            closed_ns = time.monotonic_ns()
            _trace(lab, "dc-a", (closed_ns, CLOSED, CLOSED, "marker"))
            count = len(outcomes(witness.out))
            await until(lambda: len(outcomes(witness.out)) > count + 100)
            info = await asyncio.to_thread(witness.stop)
        finally:
            witness.kill()
        assert info.ended_ns is not None
        within = (info.ended_ns - closed_ns) / 2e9
        verdict = judge(await asyncio.to_thread(gather, lab, witness.out), [Closing("dc-a", closed_ns, within)])
        assert verdict.findings == [], "\n".join(as_table(verdict))
        # A busy machine may leave the prober standing now and then; nothing else may be missing.
        assert [why for why in verdict.not_proven if "no probe for" not in why] == []
        assert verdict.lanes["kafka-dc-a-1 as users"]["acked"] > 0
        assert verdict.lanes["kafka-dc-b-1 as users"]["acked"] == 0
        _trace(lab, "dc-b", (info.started_ns, OPEN, CLOSED, "marker"))
        spoiled = judge(await asyncio.to_thread(gather, lab, witness.out))
        assert spoiled.exit_code == 1
        assert {finding.witness for finding in spoiled.findings} >= {"gates", "probes and gates"}


async def test_a_witness_whose_prober_cannot_start_says_why(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "probes.tsv").touch()
    with pytest.raises(LabError, match="already holds a run"):
        await asyncio.to_thread(Witness(lab, tmp_path / "w").start)


async def _served(lab: Lab, stack: contextlib.AsyncExitStack) -> dict[str, FakeBroker]:
    """A listener at each address that the prober asks; the lab's record is told where."""
    made = {}
    for member in MEMBERS:
        for listener in ("client", "mirror"):
            broker = FakeBroker()
            await broker.start()
            stack.push_async_callback(broker.stop)
            made[f"kafka-{member}-1/{listener}"] = broker
    with lab.home.change() as document:
        document["plan"]["ports"] |= {key: broker.address for key, broker in made.items()}
    return made


def _trace(lab: Lab, member: str, *lines: tuple[int, str, str, str]) -> None:
    with lab.home.trace(f"kafka-{member}-1").open("a") as file:
        for mono_ns, users, mirror, reason in lines:
            for process in ("broker", "controller"):
                said = {"node": 1, "process": process, "users": users, "mirror": mirror, "role": "", "epoch": 1}
                file.write(json.dumps({**said, "reason": reason, "mono_ns": mono_ns}) + "\n")
