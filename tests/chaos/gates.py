"""Bad days of the lease, the agents and the gates: the side that may be written closes by itself, and nothing is lost.

Every row plays in authorizer mode. The times of gates are those of the authorizer's own trace, CLOCK_MONOTONIC like
ours; a closing by expiry has the very end of the validity there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import yaml
from aiohttp import web
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import OffsetSpec

from dcdr.bounds import LeaseTiming, Preset
from dcdr.model import Outcome, Phase
from lab import connect, gates, store, tls
from lab.addresses import ARBITER, Address
from lab.processes import ProcessState
from lab.settings import LEASE
from lab.witness import Closing
from tests.chaos.bad_days import held, off
from tests.chaos.kills import DEADLINE, DRAIN_DEADLINE
from tests.chaos.row import End, Play, Row, Scene, Shown
from tests.integration.support import ROOT, SCOPE, Stage, until
from workflows import steps

TIMING = LeaseTiming.of(Preset(LEASE["preset"]))
CLOSE_S = TIMING.validity * (1 + TIMING.clock_rate_error)
TOLD_S = 0.1
"""By how much a gate's trace may tell its end too late."""
APPENDED_S = CLOSE_S + TIMING.pause
REFUSED_CODES = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
UNDONE, DONE = frozenset({End.AS_BEFORE}), frozenset({End.DONE})


class Trace:
    """The gates of one data center since `since_ns` (CLOCK_MONOTONIC)."""

    def __init__(self, scene: Scene, member: str) -> None:
        self._scene, self._lab, self.member = scene, scene.stage.lab, member
        self.since_ns = time.monotonic_ns()

    def changes(self) -> list[gates.Change]:
        """Every change since the beginning, of brokers and controllers, oldest first."""
        found = [
            one for broker in self._lab.brokers(self.member) for one in gates.changes(self._lab.home.trace(broker))
        ]
        return sorted((one for one in found if one.mono_ns >= self.since_ns), key=lambda one: one.mono_ns)

    def ever(self, gate: str, state: str) -> bool:
        return any(getattr(one, gate) == state for one in self.changes())

    def reasons(self) -> set[str]:
        return {one.reason for one in self.changes()}

    def users(self) -> set[str]:
        """How the users' gates stand now."""
        return {one.users for one in gates.standing(self._lab, self.member).values()}

    async def closed(self, gone_ns: int | None = None) -> float:
        """Wait until the last users' gate is closed, and the bound for appends is over; returns seconds since then.
        The witnesses are asked about that time, too.

        Args:
            gone_ns: when what keeps the gates open was gone for good (default: the beginning): the last of several
                links is cut later than the first, and what comes over it until then counts.
        Raises: AssertionError past the validity, by the gates' own times.
        """
        since_ns = gone_ns or self.since_ns
        await until(f"{self.member} closed to users", lambda: self.users() == {"closed"}, CLOSE_S + 15)
        took = max((one.mono_ns - since_ns) / 1e9 for one in self.changes() if one.users == "closed")
        assert took <= CLOSE_S + TOLD_S, f"closed after {took:.2f} s, promised {CLOSE_S:g} s"
        left = since_ns / 1e9 + APPENDED_S + 0.5 - time.monotonic()
        await asyncio.sleep(max(0.0, left))  # what the bound forbids can only be seen when it is over
        closing = Closing(self.member, since_ns, APPENDED_S, time.monotonic_ns())
        self._scene.closings.append(closing)
        return took

    async def opened(self, limit_s: float = 40.0) -> None:
        await until(f"{self.member} open to users", lambda: self.users() == {"open"}, limit_s)


async def reopens(scene: Scene, trace: Trace) -> None:
    """The side that was active is again, and its users are back; the other one never opened."""
    await trace.opened()
    await scene.stage.flowing(scene.load, scene.here)


@dataclass(frozen=True)
class Closes:
    """Something of the active side goes away: it closes within the validity, and opens when it is back."""

    break_it: Callable[[Scene], list[str]]
    mend: Callable[[Scene], Any]
    says: str

    async def __call__(self, scene: Scene) -> Shown:
        here, there = Trace(scene, scene.here), Trace(scene, scene.there)
        hit = await off(self.break_it, scene)
        took = await here.closed(time.monotonic_ns())
        await off(self.mend, scene)
        mended = time.monotonic()
        await here.opened()
        opened = time.monotonic() - mended
        await reopens(scene, here)
        assert not there.ever("users", "open")
        times = f"closed after {took:.2f} s of {CLOSE_S:g}, open {opened:.2f} s after its return"
        return Shown(f"{', '.join(hit)} {self.says}: {times}", End.AS_BEFORE, scene.here)


@dataclass(frozen=True)
class Stays:
    """Something goes away that nobody should notice: no gate of the active side moves."""

    break_it: Callable[[Scene], list[str]]
    mend: Callable[[Scene], Any]
    says: str
    for_s: float = TIMING.validity + TIMING.renew

    async def __call__(self, scene: Scene) -> Shown:
        here, there = Trace(scene, scene.here), Trace(scene, scene.there)
        hit = await off(self.break_it, scene)
        await asyncio.sleep(self.for_s)  # the length of the outage is the fault itself
        await scene.stage.flowing(scene.load, scene.here)
        await off(self.mend, scene)
        await scene.stage.flowing(scene.load, scene.here)
        assert not here.ever("users", "closed"), here.changes()
        assert not there.ever("users", "open")
        return Shown(f"{', '.join(hit)} {self.says} for {self.for_s:g} s, no gate moved", End.AS_BEFORE, scene.here)


def process(name: str, act: str) -> Callable[[Scene], list[str]]:
    def hit(scene: Scene) -> list[str]:
        done: list[str] = getattr(scene.stage.lab.fault, act)(name.format(here=scene.here, there=scene.there))
        return done

    return hit


def link(name: str, act: str) -> Callable[[Scene], list[str]]:
    def hit(scene: Scene) -> list[str]:
        names = [one.format(here=scene.here, there=scene.there) for one in name.split()]
        done: list[str] = getattr(scene.stage.lab.fault, act)(*names)
        return done

    return hit


async def agent_restarted_at_once(scene: Scene) -> Shown:
    here = Trace(scene, scene.here)
    name = f"agent-{scene.here}"
    pid = scene.stage.lab.process(name).pid
    await off(scene.stage.lab.fault.kill, name)
    await off(scene.stage.lab.fault.restart, name)
    took = (time.monotonic_ns() - here.since_ns) / 1e9
    assert took < TIMING.validity - TIMING.renew, f"the restart took {took:.1f} s: it shows nothing"
    await asyncio.sleep(TIMING.validity)  # what the dead one had told has run out by then
    await scene.stage.flowing(scene.load, scene.here)
    assert not here.ever("users", "closed"), here.changes()
    return Shown(f"{name} pid {pid} killed, back after {took:.1f} s, no gate moved", End.AS_BEFORE, scene.here)


@contextlib.contextmanager
def another_agent(scene: Scene, name: str, settings: Any) -> Iterator[subprocess.Popen[bytes]]:
    """One more agent that says it is the active side's, killed at the end."""
    path, log = (scene.stage.folder / f"{name}.{kind}" for kind in ("yaml", "log"))
    path.write_text(yaml.safe_dump(settings))
    argv = [sys.executable, "-m", "agent", "--dc", scene.here, "--settings", str(path)]
    with log.open("wb") as out, subprocess.Popen(argv, cwd=ROOT, stdout=out, stderr=out) as agent:
        try:
            yield agent
        finally:
            agent.kill()


async def agents_of_one_data_center(scene: Scene) -> Shown:
    """A second agent beside the first stands by; it acts when the first is gone, before anything closes."""
    lab, first = scene.stage.lab, f"agent-{scene.here}"
    here = Trace(scene, scene.here)
    seen = yaml.safe_load(lab.home.site_settings(scene.here).read_text())
    own = seen["scopes"][SCOPE]["members"][scene.here]["agent"]
    host = own["listen"].rpartition(":")[0]
    own |= {name: f"{host}:{_free_port(host)}" for name in ("listen", "status")}
    own["state"] = str(scene.stage.folder / "second-agent")
    with another_agent(scene, "second-agent", seen) as second:
        await until("the second agent's beats", lambda: _metric(own["status"], "beats_total") > 3, 60)
        keeper = scene.stage.lease().keeper
        for _ in range(10):  # longer than the silence for which it would wait
            await asyncio.sleep(TIMING.renew)
            assert _metric(own["status"], "acting") == 0, "the second acts beside the first"
            assert scene.stage.lease().keeper == keeper, "the second renewed beside the first"
        await scene.stage.flowing(scene.load, scene.here)
        gone = time.monotonic()
        await off(lab.fault.kill, first)
        # Brokers of the lab know one address: from here the second answers there, as behind a service's name.
        async with _forwarded(lab.plan.ports[f"{first}/marker"], own["listen"]):
            await until("the second agent to act", lambda: _metric(own["status"], "acting") == 1, CLOSE_S)
            acted = time.monotonic() - gone
            assert scene.stage.lease().keeper not in (None, keeper), "it acts, and did not renew"
            await asyncio.sleep(TIMING.validity + TIMING.renew)  # what the first had told has run out by then
            await scene.stage.flowing(scene.load, scene.here)
            assert not here.ever("users", "closed"), here.changes()
    await off(lab.fault.restart, first)
    await until("the first agent to act again", lambda: scene.stage.lease().keeper == keeper, 60)
    await reopens(scene, here)
    return Shown(
        f"a second agent, pid {second.pid}, stood by; {first} killed: it acted {acted:.2f} s later, no gate moved",
        End.AS_BEFORE,
        scene.here,
    )


@contextlib.asynccontextmanager
async def _forwarded(listen: Address, to: str) -> AsyncIterator[None]:
    """Whoever connects to `listen` is connected with `to` instead."""
    host, _, port = to.rpartition(":")

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, back), copy(there, writer))

    servers: list[asyncio.Server] = []

    async def bound() -> bool:
        try:
            servers.append(await asyncio.start_server(connected, listen.host, listen.port))
        except OSError:  # a thread of the killed agent has not ended yet, and holds its socket
            return False
        return True

    await until("the dead agent's port", bound, CLOSE_S)
    try:
        yield
    finally:
        servers[0].close()


def _free_port(host: str) -> int:
    with socket.socket() as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])


def _metric(status: str, name: str) -> float:
    """What the agent says of itself there; -1 while it says nothing."""
    try:
        text = httpx.get(f"http://{status}/metrics", timeout=2).text
    except httpx.HTTPError:
        return -1
    found = [line for line in text.splitlines() if line.startswith(f"dcdr_agent_{name}{{")]
    return float(found[0].rpartition(" ")[2]) if found else -1


async def agent_of_the_wrong_side(scene: Scene) -> Shown:
    """The standby's agent is started as the active side's: its brokers refuse what it says of another cluster."""
    lab, name = scene.stage.lab, f"agent-{scene.there}"
    here, there = Trace(scene, scene.here), Trace(scene, scene.there)
    await off(lab.process(name).stop)
    seen = yaml.safe_load(lab.home.site_settings(scene.there).read_text())
    members = seen["scopes"][SCOPE]["members"]
    members[scene.here]["agent"] = members[scene.there]["agent"] | {"state": str(scene.stage.folder / "wrong-agent")}
    with another_agent(scene, "wrong-agent", seen) as wrong:
        await until("the standby's mirror to be shut out", lambda: there.ever("mirror", "closed"), CLOSE_S + 30)
        await scene.stage.flowing(scene.load, scene.here)
    assert not there.ever("users", "open"), there.changes()
    assert not here.ever("users", "closed"), here.changes()
    await off(lab.fault.restart, name)
    return Shown(
        f"pid {wrong.pid} as {scene.here} for {scene.there}'s brokers: not believed", End.AS_BEFORE, scene.here
    )


async def broker_restarted_while_open(scene: Scene) -> Shown:
    lab, name = scene.stage.lab, f"kafka-{scene.here}-1"
    here = Trace(scene, scene.here)
    await off(lab.fault.kill, name)
    await off(lab.fault.restart, name)
    await reopens(scene, here)
    first = next(one for one in here.changes())
    assert (first.users, first.mirror, first.reason) == ("closed", "closed", "started"), first
    return Shown(f"{name} killed: closed at its start, then open", End.AS_BEFORE, scene.here)


async def broker_restarted_while_closed(scene: Scene) -> Shown:
    """Nobody says that users may write when it comes back, so they may not."""
    lab, agent, broker = scene.stage.lab, f"agent-{scene.here}", f"kafka-{scene.here}-1"
    here = Trace(scene, scene.here)
    await off(lab.fault.kill, agent)
    took = await here.closed()
    again = Trace(scene, scene.here)
    await off(lab.fault.kill, broker)
    await off(lab.fault.restart, broker)
    code = await off(write, scene.stage, scene.here, "app", "orders")
    assert code in REFUSED_CODES, code
    assert not again.ever("users", "open"), again.changes()
    await off(lab.fault.restart, agent)
    await reopens(scene, again)
    return Shown(f"closed after {took:.2f} s; {broker} killed and started: still closed", End.AS_BEFORE, scene.here)


async def standby_broker_restarted(scene: Scene) -> Shown:
    lab, name = scene.stage.lab, f"kafka-{scene.there}-1"
    there = Trace(scene, scene.there)
    await off(lab.fault.kill, name)
    await off(lab.fault.restart, name)
    await until(
        "the mirror let in again", lambda: {one.mirror for one in _standing(scene, scene.there)} == {"open"}, 60
    )
    assert not there.ever("users", "open"), there.changes()
    return Shown(f"{name} killed and started: never open to users", End.AS_BEFORE, scene.here)


def _standing(scene: Scene, member: str) -> list[gates.Change]:
    return list(gates.standing(scene.stage.lab, member).values())


def write(stage: Stage, member: str, user: str, topic: str) -> int:
    """Try one record as `user` on `member`; returns 0 or the error's code. Bounded by 8 s."""
    errors: list[int] = []
    listener = "INTERNAL" if user in ("admin", "mirror") else "CLIENT"
    config = stage.lab.client_config(user, member, listener) | {"acks": "all", "message.timeout.ms": 8000}
    producer = Producer(config)
    producer.produce(topic, b"chaos", on_delivery=lambda error, _: errors.append(error.code() if error else 0))
    assert producer.flush(10) == 0
    return errors[0]


async def writers_on_the_standby(scene: Scene) -> Shown:
    """A super user and a service account that nobody thought of, allowed by every rule there is."""
    codes = {user: await off(write, scene.stage, scene.there, user, "orders") for user in ("admin", "app2")}
    assert set(codes.values()) <= set(REFUSED_CODES), codes
    return Shown(f"refused on {scene.there}: {codes}", End.AS_BEFORE, scene.here)


async def both_mirrors_by_hand(scene: Scene) -> Shown:
    """The connectors of the other direction are started too: the mirror's gate of the active side keeps them out."""
    lab = scene.stage.lab
    url = lab.connect_url(scene.here)
    names = [connect.connector_name(kind, scene.there) for kind in connect.KINDS]
    before = await off(_ends, scene.stage, scene.here)
    code = await off(write, scene.stage, scene.here, "mirror", "orders")
    assert code in REFUSED_CODES, code
    for name in names:
        await off(connect.request, "PUT", f"{url}/connectors/{name}/resume")
    source = connect.connector_name("source", scene.there)

    def tried() -> bool:
        entry = connect.status(url).get(source) or {}
        states = [task["state"] for task in entry.get("tasks", [])]
        return bool(states) and entry["connector"]["state"] == "RUNNING" and set(states) != {"UNASSIGNED"}

    await until(f"{source} to run or to fail", tried, 60)
    await scene.stage.flowing(scene.load, scene.here)
    for name in names:
        await off(connect.ensure_stopped, url, name)
    assert await off(_ends, scene.stage, scene.here) == before, "a mirror wrote to the active side"
    return Shown(
        f"{', '.join(names)} resumed by hand; the mirror's user was refused ({code})", End.AS_BEFORE, scene.here
    )


def _ends(stage: Stage, member: str) -> int:
    """End offset of `empty`-partition 0, which nobody but a mirror would write."""
    place = TopicPartition("empty", 0)
    admin = stage.lab.admin(member)  # kept: a client that is let go of gives up its answers
    return int(admin.list_offsets({place: OffsetSpec.latest()})[place].result(10).offset)


async def transaction_when_the_gate_closes(scene: Scene) -> Shown:
    """A client's commit is refused with the rest, and nothing of it is ever seen committed."""
    lab, agent = scene.stage.lab, f"agent-{scene.here}"
    settings = {"transactional.id": "lab-at-the-gate", "transaction.timeout.ms": 20_000}
    producer = Producer(lab.client_config("app", scene.here) | settings)
    await off(producer.init_transactions, 30)
    producer.begin_transaction()
    producer.produce("payments", b"in the air when the gate closed", partition=0)
    assert await off(producer.flush, 10) == 0
    here = Trace(scene, scene.here)
    await off(lab.fault.kill, agent)
    took = await here.closed()
    try:
        await off(producer.commit_transaction, 5)
    except KafkaException as error:
        said = error.args[0].name()
    else:
        raise AssertionError("the commit was accepted behind a closed gate")
    await off(lab.fault.restart, agent)
    await reopens(scene, here)
    return Shown(f"closed after {took:.2f} s; the commit: {said}", End.AS_BEFORE, scene.here)


def fake_clock(**setting: str) -> dict[str, str]:
    """The environment that gives one process a wall clock of its own: Debian's `faketime`, told what by `setting`.

    Its monotonic clock stays as it is. As Debian builds it, the library would still shift waits by that clock, unless
    told not to: a JVM's would be over at once, and it would spin.
    """
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    true = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_FORCE_MONOTONIC_FIX": "0"}
    return {"LD_PRELOAD": str(library), **true, **setting}


@dataclass(frozen=True)
class Clock:
    """The wall clock of the agent's process is set while it runs, and set right again."""

    offset: str

    async def __call__(self, scene: Scene) -> Shown:
        lab, agent = scene.stage.lab, f"agent-{scene.here}"
        setting = scene.stage.folder / "agent.clock"
        setting.write_text("+0s\n")
        told = fake_clock(FAKETIME_TIMESTAMP_FILE=str(setting), FAKETIME_NO_CACHE="1")
        await off(partial(lab.fault.restart, agent, environment=told))
        before = Trace(scene, scene.here)
        await before.opened()
        here = Trace(scene, scene.here)
        setting.write_text(f"{self.offset}\n")
        took = await here.closed()
        assert "clock-skew" in here.reasons(), here.changes()
        setting.write_text("+0s\n")
        await reopens(scene, here)
        await off(lab.fault.restart, agent)
        return Shown(f"{agent}'s clock set by {self.offset}: closed after {took:.2f} s", End.AS_BEFORE, scene.here)


# --- the marker's channel ---


@dataclass(frozen=True)
class Lie:
    """Somebody answers in the agent's place, with its certificate: `lie` is laid over a marker that opens."""

    lie: Callable[[Scene], dict[str, Any] | bytes]
    reason: str

    async def __call__(self, scene: Scene) -> Shown:
        lab, agent = scene.stage.lab, f"agent-{scene.here}"
        here = Trace(scene, scene.here)
        await off(lab.fault.kill, agent)
        answered = 0

        async def answer(request: web.Request) -> web.Response:
            nonlocal answered
            answered += 1
            told = self.lie(scene)
            if isinstance(told, bytes):
                return web.Response(body=told, content_type="application/json")
            truth = {
                "scope": SCOPE, "dc": scene.here, "cluster": scene.stage.cluster_id(scene.here), "role": "ACTIVE",
                "epoch": scene.stage.lease().epoch, "version": "a lie", "valid_ms": int(TIMING.validity * 1000),
                "wall_ms": time.time_ns() // 1_000_000,
            }  # fmt: skip
            return web.json_response(truth | told)

        async with _answering(scene, answer):
            took = await here.closed()
            await until("the lies to be told", lambda: answered > 3, 20)
            assert self.reason in here.reasons(), here.changes()
            assert here.users() == {"closed"}
        await off(lab.fault.restart, agent)
        await reopens(scene, here)
        return Shown(
            f"{answered} answers refused ({self.reason}): closed after {took:.2f} s", End.AS_BEFORE, scene.here
        )


@contextlib.asynccontextmanager
async def _answering(scene: Scene, answer: Callable[[web.Request], Any]) -> AsyncIterator[None]:
    lab, agent = scene.stage.lab, f"agent-{scene.here}"
    files = tls.files(lab.home, agent)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files["ca"]))
    context.load_cert_chain(files["certificate"], files["key"])
    context.verify_mode = ssl.CERT_REQUIRED
    app = web.Application()
    app.router.add_get("/v1/marker", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listen = lab.plan.ports[f"{agent}/marker"]

    async def bound() -> bool:
        try:
            await web.TCPSite(runner, listen.host, listen.port, ssl_context=context).start()
        except OSError:  # a thread of the killed agent has not ended yet, and holds its socket
            return False
        return True

    try:
        await until("the dead agent's port", bound, 5)
        yield
    finally:
        await runner.cleanup()


# --- the record -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """Something is done to the lease record by hand; the active side closes, and a person puts it right."""

    spoil: Callable[[dict[str, Any]], str | None]
    says: str
    log: bytes
    unreadable: bool = False

    async def __call__(self, scene: Scene) -> Shown:
        lab = scene.stage.lab
        client = lab.plan.ports[f"etcd-{ARBITER}/client"]
        if scene.stage.lease().epoch == 1:  # there is no earlier one to roll back to
            first = Trace(scene, scene.here)
            await off(store.delete_prefix, client, store.LEASE_KEY)
            await first.closed()
            await _bootstrap(scene, 1)
            await first.opened()
        here, there = Trace(scene, scene.here), Trace(scene, scene.there)
        record = json.loads(await off(store.get, client, store.LEASE_KEY))
        spoiled = self.spoil(record)
        log = lab.process(f"agent-{scene.here}").log
        told = len(log.read_bytes())
        if spoiled is None:
            await off(store.delete_prefix, client, store.LEASE_KEY)
        else:
            await off(store.put, client, store.LEASE_KEY, spoiled)
        took = await here.closed()
        await until("the agent's word on it", lambda: self.log in log.read_bytes()[told:], 20)
        if self.unreadable:  # what nobody can read, nobody writes over: a person removes it
            await off(store.delete_prefix, client, store.LEASE_KEY)
        await _bootstrap(scene, record["epoch"])
        await reopens(scene, here)
        assert not there.ever("users", "open")
        assert scene.stage.lease().epoch > record["epoch"]
        return Shown(f"the record {self.says}: closed after {took:.2f} s; bootstrapped anew", End.AS_BEFORE, scene.here)


async def _bootstrap(scene: Scene, floor: int) -> None:
    command = [sys.executable, "-m", "dcdr", "lease", "bootstrap", SCOPE, "--holder", scene.here]
    environment = {**scene.stage.lab.environment(), "PYTHONPATH": str(ROOT)}
    done = await off(_run, [*command, "--replace", "--epoch-floor", str(floor)], environment)
    assert done.returncode == 0, done.stdout + done.stderr


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    told = {**os.environ, **environment}
    return subprocess.run(command, env=told, capture_output=True, text=True, timeout=60, check=False)


# --- the store ------------------------------------------------------------------------------------------------------


def leader(scene: Scene) -> str:
    """The site whose store member leads. Raises: AssertionError when none does."""
    for site in store.STORE_SITES:
        address = scene.stage.lab.plan.ports[f"etcd-{site}/client"]
        with contextlib.suppress(httpx.HTTPError, KeyError):
            said = httpx.post(f"http://{address}/v3/maintenance/status", json={}, timeout=2).json()
            if said["leader"] == said["header"]["member_id"]:
                return site
    raise AssertionError("the store has no leader")


def of_the_leader(act: str) -> Callable[[Scene], list[str]]:
    def hit(scene: Scene) -> list[str]:
        done: list[str] = getattr(scene.stage.lab.fault, act)(f"etcd-{leader(scene)}")
        return done

    return hit


def leader_cut_off(scene: Scene) -> list[str]:
    site = leader(scene)
    return scene.stage.lab.fault.cut(f"{site}->*:etcd-peer", f"*->{site}:etcd-peer")


def restart_store(scene: Scene) -> None:
    fault = scene.stage.lab.fault
    for one in fault.active():
        mend = fault.thaw if one.kind == ProcessState.FROZEN else fault.restart
        mend(one.target)


# --- a switchover whose every process dies --------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def everything_dies(scene: Scene, step: steps.Step) -> AsyncIterator[Any]:
    """Worker and Temporal are killed before `step`; Temporal comes back after the block."""
    hurry = {"DCDR_DRAIN__DEADLINE": DRAIN_DEADLINE, "DCDR_DRAIN__OPERATION_DEADLINE": DEADLINE}
    async with held(scene, step, hurry) as (worker, handle):
        await off(scene.stage.lab.fault.kill, "temporal")
        worker.end()
        yield handle
    await off(scene.stage.lab.fault.restart, "temporal")


async def all_die_before_the_handover(scene: Scene) -> Shown:
    """The agent opens again past the deadline, and what the switchover had stopped runs again."""
    stage = scene.stage
    async with everything_dies(scene, steps.HAND_OVER) as handle:
        deadline = stage.lease().deadline
        assert deadline is not None
        await until("the agent to undo it", lambda: stage.lease().phase is Phase.OPEN, 90)
        late = (datetime.now(UTC) - deadline).total_seconds()
        # Behind DENY rules also half a minute that a worker would have had to take them away.
        await off(scene.load.wait_for_acks, 200, 90.0, stage.cluster_id(scene.here))
        await until("everything to be as before", lambda: not _out_of_place(stage, scene.here), 90)
        assert (stage.lease().holder, stage.lease().op_id) == (scene.here, handle.first_execution_run_id)
    async with stage.worker():
        report = (await stage.ended(handle)).report
    assert report is not None
    assert report.outcome is Outcome.AS_BEFORE
    fired = f"worker and Temporal SIGKILL before lease.hand_over; the agent reopened {late:.2f} s after the deadline"
    return Shown(fired, End.AS_BEFORE, scene.here)


async def all_die_after_the_handover(scene: Scene) -> Shown:
    """The other side's agent opens and flips from the ledger; the run finishes the rest when it is back."""
    stage = scene.stage
    async with everything_dies(scene, steps.OPEN) as handle:
        # Its deadline, and half a minute that a worker would have had.
        await off(scene.load.wait_for_acks, 200, 150.0, stage.cluster_id(scene.there))
    async with stage.worker():
        stage.done(await stage.ended(handle), scene.there)
    return Shown("worker and Temporal SIGKILL before fence.open; the agent opened and flipped", End.DONE, scene.there)


def _out_of_place(stage: Stage, active: str) -> list[str]:
    """What differs from an estate at rest, but for the operation that nobody has finished yet."""
    return [what for what in stage.wrong(active) if not what.startswith("lease")]


def rows() -> Iterator[Row]:
    undone = UNDONE

    def row(name: str, play: Play, **more: Any) -> Row:
        fence = more.get("fence", gates.AUTHORIZER)
        return Row(name, play, **{"expect": undone, "witnessed": fence == gates.AUTHORIZER, **more})

    yield row(
        "the agent is killed", Closes(process("agent-{here}", "kill"), process("agent-{here}", "restart"), "SIGKILL")
    )
    yield row(
        "the agent is frozen and thawed",
        Closes(process("agent-{here}", "freeze"), process("agent-{here}", "thaw"), "SIGSTOP"),
    )
    yield row("the agent is restarted at once", agent_restarted_at_once)
    yield row("two agents of one data center", agents_of_one_data_center)
    yield row("an agent of the wrong side", agent_of_the_wrong_side)
    yield row("the agent's wall clock is set ahead", Clock("+30s"))
    yield row("the agent's wall clock is set back", Clock("-30s"))
    yield row("the active broker is restarted", broker_restarted_while_open)
    yield row("a broker is restarted while closed", broker_restarted_while_closed)
    yield row("the standby's broker is restarted", standby_broker_restarted)
    yield row("a super user and a forgotten account write to the standby", writers_on_the_standby)
    yield row("both sets of connectors are started by hand", both_mirrors_by_hand)
    yield row("a transaction is open when the gate closes", transaction_when_the_gate_closes)
    yield row("the store's leader is killed", Stays(of_the_leader("kill"), restart_store, "SIGKILL"))
    yield row("the store's leader is frozen", Stays(of_the_leader("freeze"), restart_store, "SIGSTOP"))
    yield row(
        "the store's leader is cut off", Stays(leader_cut_off, lambda scene: scene.stage.lab.fault.heal(), "cut off")
    )
    lost = Closes(
        lambda scene: scene.stage.lab.fault.kill(f"etcd-{scene.there}", f"etcd-{ARBITER}"), restart_store, "SIGKILL"
    )
    yield row("the store loses its quorum, and gets it back", lost)
    own = "{here}->*:etcd {here}->*:etcd-peer *->{here}:etcd-peer"
    cut_off = Closes(link(own, "cut"), lambda scene: scene.stage.lab.fault.heal(), "cut")
    yield row("the active site is cut off from the store", cut_off)
    yield row("the record is deleted", Record(lambda record: None, "deleted", b"has no lease record"))
    unreadable = Record(lambda record: "{not json", "corrupted", b"no lease record this version can read", True)
    yield row("the record is corrupted", unreadable)
    rolled_back = Record(
        lambda record: json.dumps({**record, "epoch": record["epoch"] - 1}), "set back", b"rolled back"
    )
    yield row("the record is rolled back", rolled_back)
    channel = "kafka-{here}-*->agent-{here}:marker"
    heal = link(channel, "heal")
    yield row("the marker's channel is gone", Closes(link(channel, "cut"), heal, "cut"))
    yield row("the marker's channel is half open", Closes(link(channel, "blackhole"), heal, "black-holed"))
    yield row("the marker's channel answers garbage", Lie(lambda scene: b"\x00\xff no marker", "unreadable"))
    yield row("an agent of an old epoch", Lie(lambda scene: {"epoch": scene.stage.lease().epoch - 1}, "lower-epoch"))
    foreign = Lie(lambda scene: {"cluster": scene.stage.cluster_id(scene.there)}, "foreign-cluster")
    yield row("an agent of another cluster", foreign)
    for fence in gates.MODES:
        where = "" if fence == gates.AUTHORIZER else f" ({fence})"
        before, after = all_die_before_the_handover, all_die_after_the_handover
        yield row(f"every process dies before the handover{where}", before, rest_s=150.0, fence=fence)
        yield row(f"every process dies after the handover{where}", after, expect=DONE, fence=fence)
