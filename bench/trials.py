"""What is measured of the lease and the gates: closing, takeover, renewal, and what agents and authorizer cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx

from activities.step import ask, read_lease
from adapters.directory import build_directory
from bench.contestants import ROOT, run
from bench.errors import BenchError
from bench.model import Figure, Measured, Trial, Wanted
from bench.series import ACKS_LIMIT_S, Say, code_digest
from bench.traces import Told, delay_ms, longest_gap, produce_costs, told, valid_s
from dcdr.bounds import LeaseTiming
from dcdr.intent import Ask, Intent
from dcdr.marker import Role
from dcdr.model import LeaseRecord, Operation
from dcdr.ports import Scope
from dcdr.settings import Settings
from lab import Lab, gates, processes, store
from lab.addresses import MEMBERS, other
from lab.load import Load
from lab.load.estate import STAYING, Estate
from lab.processes import ProcessState
from lab.reset import reset
from lab.waiting import wait_for

GATE_AIM_MS, TAKEOVER_AIM_S, CPU_AIM_PERCENT = 50.0, 1.0, 1.0
BETWEEN_S = 1.0
"""Traffic between two closings."""
DEADLINE = timedelta(seconds=60)
"""Past it the source opens by itself, should the bench have been killed while it was closed."""
FOLLOW_LIMIT_S = 20.0
FAULT_S = 7.0
"""How long a leader of the store stands still: longer than the preset `fast` allows an election to take."""
RENEWAL_LIMIT_S, TAKEOVER_LIMIT_S = 60.0, 60.0
"""Beyond what the lease's own times say."""
LOOK_S, ANSWER_S = 0.02, 2.0
STEADY_S = 60.0
AUTOMATIC = {
    f"DCDR_SCOPES__{store.SCOPE.upper()}__LEASE__AUTOMATIC": "true",
    f"DCDR_SCOPES__{store.SCOPE.upper()}__FAILOVER__COOL_DOWN": "PT0S",  # one takeover follows the other
}
JMH_LIMIT_S = 1800.0


@dataclass(frozen=True)
class Stand:
    """The lab under measurement, and its scope as a worker sees it."""

    lab: Lab
    scope: Scope
    timing: LeaseTiming
    wanted: Wanted
    say: Say

    @property
    def repeats(self) -> int:
        """How often something is broken that takes a while to mend."""
        return max(1, self.wanted.switchovers // 2)

    async def record(self) -> LeaseRecord:
        return (await read_lease(self.scope)).record

    def operation(self, record: LeaseRecord) -> Operation:
        """An operation from the holder to the other side, planned from `record`."""
        holder, name = record.holder, f"bench-{uuid4().hex[:8]}"
        return Operation(
            scope=record.scope, id=name, epoch=record.epoch, turn=record.turn, source=holder, target=other(holder)
        )


async def measure(lab: Lab, trial: Trial, wanted: Wanted, say: Say) -> Measured:
    """Run one trial on a fresh estate.

    Raises: BenchError, LabError, LoadError; DcdrError when the store refuses or an agent does not obey.
    """
    say(f"{trial}: a fresh estate")
    await asyncio.to_thread(reset, lab.name, False, lambda line: None)
    for name in lab.worker_names:  # they would go on from a takeover, and take their share of the machine
        await asyncio.to_thread(lab.process(name).stop)
    settings = Settings.load(lab.settings)
    directory = build_directory(settings)
    timing = settings.scopes[store.SCOPE].lease.timing
    stand = Stand(lab, directory.scope(store.SCOPE), timing, wanted, lambda line: say(f"{trial}: {line}"))
    works = {Trial.GATE: _gate, Trial.TAKEOVER: _takeover, Trial.RENEWAL: _renewal, Trial.AGENT: _agent}
    started, load_average = datetime.now(UTC), os.getloadavg()[0]
    try:
        figures = await works[trial](stand)
    finally:
        await directory.close()
    return _measured(trial, wanted, started, load_average, figures)


async def measure_authorizer(wanted: Wanted, folder: Path, say: Say) -> Measured:
    """Run the authorizer module's own benchmark, which needs no lab. Raises: BenchError."""
    if shutil.which("mvn") is None:
        raise BenchError("the authorizer's benchmark needs Maven: install it, or leave its series out")
    say(f"{Trial.AUTHORIZER}: JMH, some six minutes")
    build, pom = folder / "authorizer", ROOT / "authorizer" / "pom.xml"
    results = build / "bench.json"
    results.unlink(missing_ok=True)
    started, load_average = datetime.now(UTC), os.getloadavg()[0]
    command = ["mvn", "-B", "-f", str(pom), "-Pbench", f"-Ddcdr.build={build}", "test-compile", "exec:exec"]
    out, err, code = await run(command, dict(os.environ), JMH_LIMIT_S)
    if code != 0 or not results.exists():
        raise BenchError(f"the authorizer's benchmark ended with {code}:\n{(out + err)[-3000:]}")
    found = json.loads(results.read_text())
    figures = [figure for user in ("app", "admin") for figure in produce_costs(found, user)]
    return _measured(Trial.AUTHORIZER, wanted, started, load_average, figures)


def _measured(
    trial: Trial, wanted: Wanted, started: datetime, load_average: float, figures: Sequence[Figure]
) -> Measured:
    return Measured(
        trial=trial,
        code=code_digest(),
        wanted=wanted,
        started=f"{started:%Y-%m-%dT%H:%M:%SZ}",
        load_average=round(load_average, 1),
        figures=tuple(figures),
    )


# --- gate: the holder's side closes and opens again, as the close and the undo of a switchover do it ---


async def _gate(stand: Stand) -> list[Figure]:
    lab, wanted = stand.lab, stand.wanted
    holder = (await stand.record()).holder
    out = lab.home.path / "load" / f"bench-gate-{time.time_ns()}"
    config = Estate.open(lab.name).load_config(rate=wanted.rate, size=wanted.size, groups=STAYING, out=out)
    load = Load(config)
    closing: list[float] = []
    opening: list[float] = []
    try:
        await asyncio.to_thread(load.start)
        cluster = lab.document["cluster_ids"][holder]
        for number in range(2 * wanted.switchovers):
            await asyncio.to_thread(load.wait_for_acks, int(wanted.rate * BETWEEN_S), ACKS_LIMIT_S, cluster)
            operation = stand.operation(await stand.record())
            begin = Intent(operation=operation, ask=Ask.BEGIN, deadline=datetime.now(UTC) + DEADLINE)
            await ask(stand.scope, begin)
            closing.append(await _followed(stand, Intent(operation=operation, ask=Ask.CLOSE), Role.NONE))
            opening.append(await _followed(stand, Intent(operation=operation, ask=Ask.REOPEN), Role.ACTIVE))
            await ask(stand.scope, Intent(operation=operation, ask=Ask.FINISH))
            stand.say(f"{number + 1}: closed after {closing[-1]:.1f} ms, opened after {opening[-1]:.1f} ms")
        await asyncio.to_thread(load.stop)
    except BaseException:
        load.kill()
        raise
    last = f"agent decides, last of {2 * len(lab.brokers(holder))} processes"
    return [
        Figure(name=f"closing: {last} refuses", unit="ms", values=tuple(closing), aim=GATE_AIM_MS),
        Figure(name=f"opening: {last} lets in", unit="ms", values=tuple(opening), aim=GATE_AIM_MS),
    ]


async def _followed(stand: Stand, wish: Intent, role: Role) -> float:
    """Have the holder's agent obey `wish`. Returns: milliseconds from its decision to its last gate's change."""
    lab, dc = stand.lab, wish.operation.source
    nodes, began_ns = gates.standing(lab, dc).keys(), time.monotonic_ns()
    await ask(stand.scope, wish)

    def delay() -> float | None:
        changes = [change for broker in lab.brokers(dc) for change in gates.changes(lab.home.trace(broker))]
        decided = _decided(lab, dc, lambda one: one.mono_ns >= began_ns and one.role == role)
        return None if decided is None else delay_ms(decided, changes, nodes)

    return await asyncio.to_thread(wait_for, f"every gate of {dc} following {role}", delay, FOLLOW_LIMIT_S)


def _decided(lab: Lab, dc: str, matches: Callable[[Told], bool]) -> Told | None:
    """The first decision of `dc`'s agent that matches, None while there is none."""
    return next(filter(matches, told(lab.home.log(f"agent-{dc}"))), None)


# --- takeover: the holder dies, and the other side's agent takes the lease after its wait ---


async def _takeover(stand: Stand) -> list[Figure]:
    lab, holder = stand.lab, (await stand.record()).holder
    agent, member = f"agent-{holder}", f"etcd-{holder}"
    out = (agent, member, *lab.worker_names)
    rest = [name for name in lab.process_names if lab.process(name).site == holder and name not in out]
    later = TAKEOVER_AIM_S + 2 * stand.timing.attempt
    deaths = (
        ("agent", [agent], other(holder), TAKEOVER_AIM_S),
        ("site", [agent, member, *rest], other(holder), TAKEOVER_AIM_S),
        ("site with the store's leader", [agent, member, *rest], holder, later),
    )
    figures = []
    await asyncio.to_thread(lab.fault.restart, "agent-*", environment=AUTOMATIC)
    try:
        for what, names, leader, aim in deaths:
            since_death, since_sign = [], []
            for number in range(stand.repeats):
                await asyncio.to_thread(store.lead, lab.plan, leader)
                share = (number + 0.5) / stand.repeats  # deaths are spread evenly over the renew period
                death, sign = await _death(stand, holder, names, share)
                stand.say(
                    f"{what} {number + 1}: taken over {death:.2f} s after its death, {sign:.2f} s after its last sign"
                )
                if sign < stand.timing.wait:
                    raise BenchError(f"{what}: taken over {sign:.3f} s after a sign of life, before L was over")
                since_death.append(death - stand.timing.wait)
                since_sign.append(sign - stand.timing.wait)
            above = f"above L = {stand.timing.wait:g} s"
            figures += [
                Figure(name=f"{what} killed: takeover, {above}", unit="s", values=tuple(since_death), aim=aim),
                Figure(name="  the same since the last renewal", unit="s", values=tuple(since_sign)),
            ]
    finally:
        await asyncio.to_thread(lab.fault.restart, "agent-*")  # without AUTOMATIC again
    return figures


async def _death(stand: Stand, holder: str, names: list[str], share: float) -> tuple[float, float]:
    """Kill `names` that part of the renew period after a renewal, see the other side take over, and mend it all.

    Returns: seconds from the kill, and from the holder's last renewal (when it was sent), to the takeover.
    """
    lab, candidate, before = stand.lab, other(holder), await stand.record()
    async with renewals(stand, holder) as sent:
        await more(sent, 2)  # the first one seen may be old
        await asyncio.sleep(max(0.0, sent[-1] + share * stand.timing.renew - time.monotonic()))
        killed_ns = time.monotonic_ns()
        await asyncio.to_thread(lab.fault.kill, *names)
    taken = await asyncio.to_thread(
        wait_for,
        f"{candidate} taking the lease over",
        lambda: _decided(lab, candidate, lambda one: one.mono_ns >= killed_ns and one.epoch > before.epoch),
        stand.timing.wait + TAKEOVER_LIMIT_S,
    )
    await asyncio.to_thread(lab.fault.restart, *names, environment=AUTOMATIC)
    await ask(stand.scope, Intent(operation=stand.operation(await stand.record()), ask=Ask.HAND_BACK))
    if lab.fence_mode == gates.AUTHORIZER:
        await asyncio.to_thread(gates.wait_until_obeyed, lab, holder, Role.ACTIVE, (await stand.record()).epoch)
    return (taken.mono_ns - killed_ns) / 1e9, taken.mono_ns / 1e9 - sent[-1]


# --- renewal: the store's leader stands still or dies, and the holder goes on ---


async def _renewal(stand: Stand) -> list[Figure]:
    lab, holder = stand.lab, (await stand.record()).holder
    bearable = stand.timing.validity - stand.timing.renew
    faults: tuple[tuple[str, Callable[..., list[str]], Callable[..., list[str]]], ...] = (
        ("frozen", lab.fault.freeze, lab.fault.thaw),
        ("killed", lab.fault.kill, lab.fault.restart),
    )
    figures = []
    for what, strike, mend in faults:
        gaps = []
        for number in range(stand.repeats):
            site = store.STORE_SITES[number % len(store.STORE_SITES)]
            await asyncio.to_thread(store.lead, lab.plan, site)
            async with renewals(stand, holder) as sent:
                await more(sent, 2)
                began = time.monotonic()
                await asyncio.to_thread(strike, f"etcd-{site}")
                await asyncio.sleep(FAULT_S)
                await asyncio.to_thread(mend, f"etcd-{site}")
                await more(sent, 2)
            gaps.append(longest_gap(sent, began))
            stand.say(f"leader at {site} {what}: {gaps[-1]:.2f} s without a renewal")
        name = f"store's leader {what} for {FAULT_S:g} s: longest gap, V - R = {bearable:g} s"
        figures.append(Figure(name=name, unit="s", values=tuple(gaps), aim=bearable))
    return figures


@asynccontextmanager
async def renewals(stand: Stand, dc: str) -> AsyncIterator[list[float]]:
    """The committed renewals of `dc`'s agent, each by the moment it was sent (seconds, CLOCK_MONOTONIC): what the
    marker's validity counts from, and so what the agent's own metrics tell. Grows while the block runs."""
    sent: list[float] = []
    url, timing = f"http://{stand.lab.plan.ports[f'agent-{dc}/status']}/metrics", stand.timing

    async def listen() -> None:
        async with httpx.AsyncClient(timeout=ANSWER_S) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):  # it is being killed
                    asked = time.monotonic()
                    left = valid_s((await client.get(url)).text)
                    at = asked + left - timing.validity  # exact to the few ms of the answer
                    if left > 0 and (not sent or at > sent[-1] + timing.renew / 2):
                        sent.append(at)
                await asyncio.sleep(LOOK_S)

    listening = asyncio.create_task(listen())
    try:
        yield sent
    finally:
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening


async def more(sent: list[float], count: int) -> None:
    """Wait for that many further renewals. Raises: BenchError."""
    wanted, deadline = len(sent) + count, time.monotonic() + RENEWAL_LIMIT_S
    while len(sent) < wanted:
        if time.monotonic() > deadline:
            raise BenchError(f"the holder's agent did not renew {count} times in {RENEWAL_LIMIT_S:.0f} s: see its log")
        await asyncio.sleep(LOOK_S)


# --- agent: what both cost while nothing happens ---


async def _agent(stand: Stand) -> list[Figure]:
    holder = (await stand.record()).holder
    running = {dc: stand.lab.process(f"agent-{dc}").identity for dc in MEMBERS}
    agents = {dc: identity for dc, identity in running.items() if identity is not None}
    began, before = time.monotonic(), {dc: processes.cpu_s(agents[dc]) for dc in agents}
    await asyncio.sleep(STEADY_S)
    spent = time.monotonic() - began
    figures = []
    for dc, identity in agents.items():
        if processes.state_of(identity) is not ProcessState.RUNNING:
            raise BenchError(f"agent-{dc} did not live through its {STEADY_S:.0f} s: see its log")
        what = f"agent of {dc}, {'holder' if dc == holder else 'the other side'}"
        share = 100 * (processes.cpu_s(identity) - before[dc]) / spent
        resident = processes.resident_bytes(identity) / 2**20
        figures += [
            Figure(name=f"{what}: CPU, {STEADY_S:.0f} s, of a core", unit="%", values=(share,), aim=CPU_AIM_PERCENT),
            Figure(name=f"{what}: resident", unit="MiB", values=(resident,)),
        ]
    if len(agents) < len(MEMBERS):
        raise BenchError("not every data center has an agent: `dcdr lab status`")
    return figures
