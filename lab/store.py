"""The lease store: three etcd members, one a site, whose peers reach each other through the links of their own site."""

from __future__ import annotations

import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import httpx

from lab.addresses import ARBITER, MEMBERS, Address, Plan
from lab.errors import LabError
from lab.waiting import wait_for

STORE_SITES = (*MEMBERS, ARBITER)
SCOPE = "lab"
PREFIX = "/dcdr/"
LEASE_KEY, INTENT_KEY = f"{PREFIX}{SCOPE}/lease", f"{PREFIX}{SCOPE}/intent"
LEAD_LIMIT_S = 30.0


def peer_host(site: str) -> str:
    """The name in a member's peer URL; `lab.egress` leads each source site to its own link for it."""
    return f"{site}.etcd"


def egress_table(plan: Plan) -> dict[str, dict[str, str]]:
    """The configuration of `lab.egress`."""
    return {
        str(plan.ports[f"egress/{source}"]): {
            peer_host(destination): str(plan.link(source, destination, "etcd-peer").listen[0])
            for destination in STORE_SITES
            if destination != source
        }
        for source in STORE_SITES
    }


def member_command(plan: Plan, site: str, binary: Path, data: Path) -> tuple[list[str], dict[str, str]]:
    """(argv, environment) of one member."""
    client, peer = plan.ports[f"etcd-{site}/client"], plan.ports[f"etcd-{site}/peer"]
    members = {one: f"https://{peer_host(one)}:{plan.ports[f'etcd-{one}/peer'].port}" for one in STORE_SITES}
    argv = [
        str(binary),
        f"--name={site}",
        f"--data-dir={data}",
        f"--listen-client-urls=http://{client}",
        f"--advertise-client-urls=http://{client}",
        f"--listen-peer-urls=https://{peer}",
        f"--initial-advertise-peer-urls={members[site]}",
        f"--initial-cluster={','.join(f'{one}={url}' for one, url in members.items())}",
        "--initial-cluster-token=dcdr-lab",
        "--peer-auto-tls",
        "--heartbeat-interval=100",
        "--election-timeout=1000",
        "--log-level=warn",
    ]
    return argv, {"HTTPS_PROXY": f"http://{plan.ports[f'egress/{site}']}"}


def single_command(plan: Plan, binary: Path, data: Path) -> list[str]:
    """argv of the API server's own one-member etcd."""
    client, peer = plan.ports["etcd-kube/client"], plan.ports["etcd-kube/peer"]
    return [
        str(binary),
        "--name=kube",
        f"--data-dir={data}",
        f"--listen-client-urls=http://{client}",
        f"--advertise-client-urls=http://{client}",
        f"--listen-peer-urls=http://{peer}",
        f"--initial-advertise-peer-urls=http://{peer}",
        f"--initial-cluster=kube=http://{peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def is_ready(client: Address) -> bool:
    """The member serves, and its cluster has a leader."""
    try:
        return bool(httpx.get(f"http://{client}/health", timeout=2.0).json()["health"] == "true")
    except (httpx.HTTPError, ValueError, KeyError):
        return False


def leader(plan: Plan) -> str | None:
    """The site whose member leads; None while no member says so. Raises: LabError when one does not answer."""
    for site in STORE_SITES:
        status = _status(plan, site)
        if status.get("leader") == status["header"]["member_id"]:
            return site
    return None


def lead(plan: Plan, site: str) -> None:
    """Make the member at `site` the leader. Raises: LabError when that does not happen in 30 s."""

    def leads() -> bool:
        with contextlib.suppress(LabError):  # of a member that has just come back, or a leader that has just changed
            now = leader(plan)
            if now is not None and now != site:
                target = {"targetID": _status(plan, site)["header"]["member_id"]}
                _call(plan.ports[f"etcd-{now}/client"], "maintenance/transfer-leadership", target)
            return now == site
        return False

    wait_for(f"the lease store led by {site}", leads, LEAD_LIMIT_S)


def _status(plan: Plan, site: str) -> dict[str, Any]:
    return _call(plan.ports[f"etcd-{site}/client"], "maintenance/status", {})


def endpoints(plan: Plan, source: str = ARBITER) -> list[Address]:
    """The members as a client at `source` reaches them: its own directly, the others through links."""
    own = plan.ports[f"etcd-{source}/client"]
    return [own, *(plan.link(source, one, "etcd").listen[0] for one in STORE_SITES if one != source)]


def get(client: Address, key: str) -> bytes | None:
    """Raises: LabError when the store does not answer."""
    found = _call(client, "kv/range", {"key": _text(key)}).get("kvs", [])
    return base64.b64decode(found[0]["value"]) if found else None


def lease(plan: Plan) -> dict[str, Any] | None:
    """The lease's record as the arbiter's member knows it; None when there is none. Raises: LabError."""
    found = get(plan.ports[f"etcd-{ARBITER}/client"], LEASE_KEY)
    return dict(json.loads(found)) if found else None


def create(client: Address, key: str, value: str) -> bool:
    """Put a key that is not there; False when it is, and then it is left alone."""
    request = {
        "compare": [{"target": "CREATE", "key": _text(key), "createRevision": "0"}],
        "success": [{"requestPut": {"key": _text(key), "value": _text(value)}}],
    }
    return bool(_call(client, "kv/txn", request).get("succeeded", False))


def put(client: Address, key: str, value: str) -> None:
    """Write a key whatever it holds."""
    _call(client, "kv/put", {"key": _text(key), "value": _text(value)})


def delete_prefix(client: Address, prefix: str) -> None:
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    _call(client, "kv/deleterange", {"key": _text(prefix), "range_end": _text(end)})


def first_lease(holder: str, epoch: int = 1) -> str:
    """The record of an estate that has just been built: open, nobody at work."""
    return json.dumps({"scope": SCOPE, "holder": holder, "epoch": epoch, "seq": 0, "phase": "OPEN"})


def _text(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _call(client: Address, path: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = httpx.post(f"http://{client}/v3/{path}", json=body, timeout=5.0)
        document: dict[str, Any] = answer.raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        raise LabError(f"etcd at {client} does not answer ({error!r}): look with `dcdr lab status`") from error
    return document
