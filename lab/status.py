"""`lab status`: what runs, what is broken, which side is open, and where the endpoint leads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, TypeVar

import httpx
from confluent_kafka import KafkaException
from confluent_kafka.admin import AclOperation, ResourceType

from lab import connect, gates, kafka, kube, processes, store
from lab.addresses import MEMBERS
from lab.errors import LabError
from lab.estate import Lab
from lab.processes import ProcessState
from lab.record import Document

T = TypeVar("T")
UNKNOWN = "unknown"
LAG = "dcdr_mirror_lag_"
"""The agent's metrics of the journal: `records`, and `seconds` where it knows them."""


def observe(lab: Lab) -> Document:
    """Everything, as JSON data; what does not answer within some seconds is "unknown", never left out."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        fences = {member: pool.submit(_gate, lab, member) for member in MEMBERS}
        connectors = {member: pool.submit(_connectors, lab, member) for member in MEMBERS}
        lags = {member: pool.submit(lag, lab, member) for member in MEMBERS}
        target, lease = pool.submit(kube.target, lab), pool.submit(_lease, lab)
        cleaned = {member: cleaner_offsets(lab, member) for member in MEMBERS}
        return {
            "lab": lab.name,
            "bootstrap": str(lab.bootstrap),
            "temporal_ui": lab.document["temporal"]["ui"],
            "settings": str(lab.settings),
            "processes": [_process(lab, name) for name in lab.process_names],
            "faults": [asdict(fault) for fault in lab.fault.active()],
            "gates": {member: fence.result() for member, fence in fences.items()},
            "connectors": {member: found.result() for member, found in connectors.items()},
            "endpoint": target.result(),
            "lease": lease.result(),
            "automatic": lab.automatic,
            "lag": {member: found.result() for member, found in lags.items()},
            "cleaned": cleaned,
        }


def healthy(status: Document) -> bool:
    """Every process runs and nothing is broken."""
    return not status["faults"] and all(one["state"] == ProcessState.RUNNING for one in status["processes"])


def render(status: Document) -> str:
    """Tables for people."""
    lines = [f"lab {status['lab']}", ""]
    rows = [("process", "site", "state", "pid", "memory", "up for", "starts")]
    for one in status["processes"]:
        memory = f"{one['rss_bytes'] / 2**20:.0f} MiB" if one["pid"] else ""
        up_for = f"{one['uptime_s']:.0f} s" if one["pid"] else ""
        rows.append((one["name"], one["site"], one["state"], str(one["pid"] or ""), memory, up_for, str(one["starts"])))
    lines += [*_table(rows), ""]
    rows_4 = [("connector", "on", "state", "tasks")]
    for member, found in status["connectors"].items():
        rows_4 += [(name, member, one["state"], " ".join(one["tasks"])) for name, one in sorted(found.items())]
        if not found:
            rows_4.append(("(no answer)", member, UNKNOWN, ""))
    lines += [*_table(rows_4), ""]
    rows_3 = [("cluster", "users", "groups")]
    rows_3 += [(member, gate["users"], gate["groups"]) for member, gate in status["gates"].items()]
    lines += [*_table(rows_3), ""]
    lease = status["lease"]
    lines.append(f"lease       {lease_line(lease) if lease else UNKNOWN}")
    lines.append(f"takeovers   {'by themselves' if status['automatic'] else 'when somebody asks'}")
    for member, behind in status["lag"].items():
        if behind:
            seconds = f", nothing older than {behind['seconds']:.1f} s" if "seconds" in behind else ""
            lines.append(f"journal     {member} lacks {behind['records']:.0f} records{seconds}")
    lines.append(f"endpoint    {status['bootstrap']} -> {status['endpoint']}")
    lines.append(f"temporal    {status['temporal_ui']}")
    lines.append(f"settings    {status['settings']}")
    for fault in status["faults"]:
        lines.append(f"FAULT       {fault['target']} {fault['kind']} {fault['direction']} {fault['detail']}".rstrip())
    return "\n".join(lines)


def cleaner_offsets(lab: Lab, member: str) -> dict[str, int]:
    """`topic-partition` -> first offset the log cleaner has not cleaned yet, of compacted users' topics.

    From the brokers' `cleaner-offset-checkpoint` files (version, count, then `topic partition offset` a line).
    """
    compacted = {spec.name for spec in kafka.ESTATE if spec.config.get("cleanup.policy") == "compact"}
    found: dict[str, int] = {}
    for broker in lab.brokers(member):
        try:
            lines = (lab.home.data / broker / "cleaner-offset-checkpoint").read_text().splitlines()[2:]
        except OSError:
            continue
        for line in lines:
            topic, partition, offset = line.split(" ")
            if topic in compacted:
                name = f"{topic}-{partition}"
                found[name] = max(found.get(name, 0), int(offset))
    return found


def _process(lab: Lab, name: str) -> Document:
    process = lab.process(name)
    identity, state = process.identity, process.state
    alive = identity if state is not ProcessState.DOWN else None
    return {
        "name": name,
        "site": process.site,
        "state": state.value,
        "pid": alive.pid if alive else None,
        "rss_bytes": processes.resident_bytes(alive) if alive else 0,
        "uptime_s": round(processes.uptime_s(alive), 1) if alive else 0.0,
        "starts": process.starts,
        "log": str(process.log),
    }


def _gate(lab: Lab, member: str) -> dict[str, str]:
    """What the DENY rules and the authorizer's trace say; effects are the product's canary's business."""
    try:
        rules = kafka.deny_rules(lab.admin(member))
    except (KafkaException, TimeoutError):
        return {"users": UNKNOWN, "groups": UNKNOWN}
    said = {"closed" for one in rules if one.restype == ResourceType.TOPIC and one.operation == AclOperation.WRITE}
    said |= {change.users for change in gates.standing(lab, member).values()}
    commits = any(one.restype == ResourceType.GROUP and one.operation == AclOperation.READ for one in rules)
    users = "open" if said <= {"open"} else "closed" if said == {"closed"} else "partly closed"
    return {"users": users, "groups": "frozen" if commits else "free"}


def _connectors(lab: Lab, member: str) -> dict[str, dict[str, Any]]:
    found = connect.status(lab.connect_url(member))
    return {
        name: {"state": one["connector"]["state"], "tasks": [task["state"] for task in one["tasks"]]}
        for name, one in found.items()
        if "connector" in one
    }


def _lease(lab: Lab) -> dict[str, Any] | None:
    return _or_none(lambda: store.lease(lab.plan))


def lag(lab: Lab, member: str) -> dict[str, float]:
    """What the mirror towards a member has not copied, by its agent's journal; empty where the agent keeps none now."""
    try:
        text = httpx.get(f"http://{lab.plan.ports[f'agent-{member}/status']}/metrics", timeout=2.0).text
    except httpx.HTTPError:
        return {}
    return lag_of(text)


def lag_of(metrics: str) -> dict[str, float]:
    """`records` and `seconds` of an agent's metrics, where it tells them."""
    found = {}
    for line in metrics.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith(LAG):
            found[name.partition("{")[0].removeprefix(LAG)] = float(value)
    return found


def lease_line(lease: dict[str, Any]) -> str:
    """The lease's record in a line."""
    words = [lease["holder"], f"epoch {lease['epoch']}", lease["phase"]]
    if lease.get("op_id"):
        words.append(f"{lease.get('op_kind', 'switchover')} {lease['op_id']}")
    if lease.get("behind"):
        words.append(f"{lease['behind']} left behind")
    if lease.get("acquired_at"):
        seen = lease.get("acquired_after_s")
        after = f" after {seen:.1f} s without a sign of life" if seen is not None else ""
        words.append(f"taken over at {lease['acquired_at']}{after}")
    if (pause := lease.get("pause")) is not None:
        words.append(f"takeovers paused until {pause['until']}")
    return ", ".join(words)


def _or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (LabError, ValueError):
        return None


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
