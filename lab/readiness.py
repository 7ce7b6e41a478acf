"""When a process serves: one question for each kind of process."""

from __future__ import annotations

import threading
from collections.abc import Callable

import httpx

from lab import connect, kafka, kube, store, temporal
from lab.addresses import MEMBERS, WORKERS, port_is_free
from lab.errors import LabError
from lab.estate import Lab
from lab.processes import ProcessState
from lab.toolchain.build import locate
from lab.waiting import wait_for

BROKER_START_S, CONNECT_START_S, SERVER_START_S = 180.0, 240.0, 120.0
"""Limits, many times what an idle machine with two cores needs (10, 12 and 6 s): others may be busy on it."""


def probe(lab: Lab, name: str) -> tuple[Callable[[], bool], float]:
    """(does it serve?, seconds it may take) for a process by name."""
    plan = lab.plan
    if name == "toxiproxy":
        return lab.toxiproxy.is_ready, SERVER_START_S
    if name == "egress":
        listening = [plan.ports[f"egress/{site}"] for site in store.STORE_SITES]
        return lambda: not any(port_is_free(one) for one in listening), SERVER_START_S
    if name.startswith("etcd-"):
        client = plan.ports[f"{name}/client"]
        return lambda: store.is_ready(client), SERVER_START_S
    if name == "kube-apiserver":
        return lambda: kube.is_ready(lab), SERVER_START_S
    if name == "endpoint-proxy":
        return lambda: not port_is_free(lab.bootstrap), SERVER_START_S
    if name == "temporal":
        return lambda: temporal.is_ready(plan), SERVER_START_S
    if name in WORKERS:
        binary = locate().temporal
        pid = lab.process(name).pid or 0
        return lambda: temporal.has_worker(binary, plan, pid), SERVER_START_S
    member = next(one for one in MEMBERS if one in name)
    if name.startswith("agent-"):
        status = plan.ports[f"{name}/status"]
        return lambda: _ready(f"http://{status}/readyz"), SERVER_START_S
    if name.startswith("kafka-"):
        admin = lab.admin(member)
        return lambda: kafka.is_ready(admin, plan.brokers), BROKER_START_S
    url = lab.connect_url(member)
    return lambda: connect.is_ready(url), CONNECT_START_S


def wait_ready(lab: Lab, name: str, stop: threading.Event | None = None) -> None:
    """Wait until a process that was started serves.

    Raises: LabError when it ends by itself meanwhile, is frozen, or does not serve in time; with the end of its log.
    """
    process = lab.process(name)
    ready, limit_s = probe(lab, name)

    def serves() -> bool:
        state = process.state
        if state is ProcessState.DOWN:
            raise LabError(f"{name} ended by itself; the end of {process.log}:\n{process.tail()}")
        if state is ProcessState.FROZEN:
            raise LabError(f"{name} is frozen: `dcdr lab fault thaw {name}` first")
        return ready()

    wait_for(f"{name}: serving", serves, limit_s, stop=stop, hint=lambda: f"; {process.log} ends:\n{process.tail()}")
    if name == "toxiproxy":
        lab.toxiproxy.populate(lab.plan.links)  # it keeps nothing on disk


def _ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).is_success
    except httpx.HTTPError:
        return False
