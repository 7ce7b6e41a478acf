"""One load run from its start to its last line, in this process."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from statistics import median
from typing import Any, Protocol

from confluent_kafka import KafkaException

from lab.load import outage
from lab.load.clients import as_error, common, topic_ids
from lab.load.config import GroupRole, Kind, LoadConfig
from lab.load.journal import RunInfo, RunLock, write_json
from lab.load.lookout import Lookout
from lab.load.members import Member
from lab.load.sender import Sender, Source
from lab.load.tally import Tally
from lab.load.transactions import TransactionalSender

LIVE_EVERY_S = 0.1
SHOW_EVERY_S = 1.0
JOIN_S = 40.0
REACH_S = 10.0


class LoadError(Exception):
    """The load cannot start or did not end well; the text says what to do."""


class _Worker(Protocol):
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def join(self, timeout: float | None = None) -> None: ...
    def is_alive(self) -> bool: ...


def run(config: LoadConfig, quiet: bool = False) -> dict[str, Any]:
    """Write and read until the duration is over or SIGTERM / SIGINT arrives. Returns the summary.

    Raises: LoadError before anything is written, when the endpoint, the user or a topic is not usable.
    """
    settings = common(config.bootstrap, config.credentials)
    cluster, ids = _reach(config, settings)
    config.out.mkdir(parents=True, exist_ok=True)
    if (config.out / "run.json").exists():
        raise LoadError(f"{config.out} already holds a run; give another --out")
    lock = RunLock(config.out)
    if not lock.take():
        raise LoadError(f"another load writes to {config.out}; stop it or give another --out")
    sys.setswitchinterval(0.001)  # acknowledgements are timed by whichever thread gets the interpreter
    started = time.monotonic()
    tally = Tally()
    lookout = Lookout(settings, min(config.topics))
    senders = _senders(config, settings, tally, lookout)
    members = _members(config, settings, tally, lookout)
    RunInfo(
        run=config.run,
        started_unix_ms=time.time_ns() // 1_000_000,
        started_mono_ns=time.monotonic_ns(),
        topics={name: str(kind) for name, kind in config.topics.items()},
        producers={name: "pinned" if name in config.pinned else "follow" for name in senders},
        groups=tuple(config.groups),
        client=str(config.client),
        rate=config.rate,
        size=config.size,
        pid=os.getpid(),
        topic_ids={cluster: ids},
    ).write(config.out)

    with _stop_signals() as stopped:
        for worker in (*members, *senders.values()):
            worker.start()
        _watch(config, tally, stopped, quiet)
        ended = time.monotonic()
        _finish("producers", list(senders.values()))
        _finish("consumers", members)
    summary = _summary(config, tally, ended - started)
    write_json(config.out / "summary.json", summary)
    lock.release()
    return summary


def _reach(config: LoadConfig, settings: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """(cluster id, topic ids) behind the endpoint. Raises: LoadError as `run` does."""
    try:
        cluster, ids = topic_ids(settings, config.topics, REACH_S)
    except KafkaException as error:
        raise LoadError(
            f"no answer from {config.bootstrap} within {REACH_S:.0f} s ({as_error(error).str()}): "
            "is the lab up, and are user and password right?"
        ) from None
    except OSError as error:
        raise LoadError(f"cannot read the password: {error}") from None
    missing = sorted(set(config.topics) - set(ids))
    if missing:
        raise LoadError(f"topics {', '.join(missing)} do not exist on {config.bootstrap}, or the user may not see them")
    return cluster, ids


def _senders(
    config: LoadConfig, settings: dict[str, Any], tally: Tally, lookout: Lookout
) -> dict[str, Sender | TransactionalSender]:
    def sources(prefix: str, kinds: set[Kind], share: int) -> dict[str, Source]:
        topics = {name: kind for name, kind in config.topics.items() if kind in kinds}
        return {
            name: Source(
                name,
                kind,
                prefix=f"{config.run}-{prefix}",
                keys=max(1, config.keys // share),
                tombstone_every=config.tombstone_every,
                rate=config.rate_of(kind) / share / sum(other is kind for other in topics.values()),
            )
            for name, kind in topics.items()
        }

    plain = {Kind.KEYED, Kind.UNKEYED, Kind.COMPACTED}
    found: dict[str, Sender | TransactionalSender] = {}
    if config.plain:
        for number in range(config.producers):
            name = f"p{number}"
            found[name] = Sender(config, name, settings, sources(name, plain, config.producers), tally, lookout)
        for name, bootstrap in config.pinned.items():
            own = {**settings, "bootstrap.servers": bootstrap}
            # A pinned producer is a witness, not a load: a twentieth of the rate.
            given = sources(name, plain, 20)
            found[name] = Sender(config, name, own, given, tally, lookout, pinned=True)
    if config.transactional:
        given = sources("t0", {Kind.TRANSACTIONAL}, 1)
        found["t0"] = TransactionalSender(config, "t0", settings, given, tally, lookout)
    return found


def _members(config: LoadConfig, settings: dict[str, Any], tally: Tally, lookout: Lookout) -> list[Member]:
    return [
        Member(config, group, number, settings, tally, lookout)
        for group, role in config.groups.items()
        for number in range(2 if role is GroupRole.LIVE else 1)
    ]


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The SIGTERM and SIGINT that came. A second one changes nothing: what was sent still gets its answer.

    No threading.Event: a handler runs in the main thread between any two lines, also while that thread holds the
    event's own lock to wait for it, and `set` would then wait for that lock for ever.
    """
    stopped: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    ours = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda came, _: stopped.append(came)) for number in ours}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(config: LoadConfig, tally: Tally, stopped: list[int], quiet: bool) -> None:
    """Publish the counters until it is time to stop."""
    started = shown = time.monotonic()
    acked = 0
    while True:
        time.sleep(LIVE_EVERY_S)
        if stopped:
            return
        now = time.monotonic()
        snapshot = tally.snapshot()
        write_json(config.out / "live.json", {"mono_ns": time.monotonic_ns(), **snapshot})
        if config.duration_s is not None and now - started >= config.duration_s:
            return
        if not quiet and now - shown >= SHOW_EVERY_S:
            total = sum(snapshot["acked"].values())
            _show(now - started, (total - acked) / (now - shown), snapshot)
            shown, acked = now, total


def _show(elapsed: float, rate: float, snapshot: dict[str, Any]) -> None:
    groups = " ".join(f"{group}={records}" for group, records in snapshot["received"].items())
    text = (
        f"{elapsed:6.0f} s  {rate:7.0f} acks/s on {snapshot['cluster'] or '-'}  acked {sum(snapshot['acked'].values())}"
        f"  refused {snapshot['refused']}  unknown {snapshot['unknown']}  {groups}"
    )
    end = "\r" if sys.stderr.isatty() else "\n"
    print(text.ljust(100), end=end, file=sys.stderr, flush=True)


def _finish(what: str, workers: list[Any]) -> None:
    for worker in workers:
        worker.stop()
    deadline = time.monotonic() + JOIN_S
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    alive = [worker.name for worker in workers if worker.is_alive()]
    if alive:
        print(f"{what} {', '.join(alive)} did not end within {JOIN_S:.0f} s: they are left behind", file=sys.stderr)


def _summary(config: LoadConfig, tally: Tally, seconds: float) -> dict[str, Any]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    snapshot = tally.snapshot()
    moves = outage.outages(outage.read_acks(config.out))
    ready = sorted(tally.ready_ns)
    return {
        "run": config.run,
        "out": str(config.out),
        "client": str(config.client),
        "seconds": round(seconds, 3),
        "acks_per_second": round(sum(snapshot["acked"].values()) / seconds, 1) if seconds else 0.0,
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        **snapshot,
        "client_ready_ms": {
            "count": len(ready),
            "p50": round(median(ready) / 1e6, 1) if ready else None,
            "worst": round(ready[-1] / 1e6, 1) if ready else None,
        },
        "outages": [{**asdict(move), "seconds": round(move.seconds, 4), "flowing": move.flowing} for move in moves],
    }
