"""From a lab and its folders to what the judge reads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from lab import gates
from lab.addresses import MEMBERS
from lab.estate import Lab
from lab.load.outage import read_acks
from lab.processes import ProcessState
from lab.witness.judge import HEARD_NS, Evidence, Trace, Write
from lab.witness.probes import USERS, Info, read_probes


def gather(lab: Lab, run: Path, loads: Sequence[Path] = ()) -> Evidence:
    """What the three witnesses of one run saw. Waits until its end is a second ago: only then the traces are complete.

    Args:
        run: the prober's folder. loads: folders of load runs; their pinned producers count too.
    Raises: lab.load.journal.JournalError when a folder holds no such run.
    """
    info = Info.read(run)
    members = {cluster: member for member, cluster in lab.document["cluster_ids"].items()}
    writes = [
        Write(ack.sent_ns, ack.acked_ns, members.get(ack.cluster, ack.cluster), USERS)
        for folder in loads
        for ack in read_acks(folder, pinned=True)
    ]
    probes = tuple(read_probes(run))
    time.sleep(min(max(0, (info.ended_ns or 0) + HEARD_NS - time.monotonic_ns()), HEARD_NS) / 1e9)
    heard_ns = time.monotonic_ns() - HEARD_NS
    return Evidence(info, probes, writes if loads else None, _traces(lab, heard_ns), heard_ns)


def _traces(lab: Lab, heard_ns: int) -> list[Trace]:
    found = []
    for member in MEMBERS:
        for broker in lab.brokers(member):
            # Asked before reading: a process that dies in between has had its last word taken for older, not for newer.
            running = lab.process(broker).state is ProcessState.RUNNING
            changes = tuple(gates.changes(lab.home.trace(broker)))
            found.append(Trace(member, broker, changes, heard_ns if running else None))
    return found
