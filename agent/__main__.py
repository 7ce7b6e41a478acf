"""`python -m agent --dc DC`: keep the lease of a scope for one data center until SIGTERM or SIGINT.

It never gives the lease up when it ends: what it told its brokers runs out by itself, and a restart within that time is
not noticed. Exit codes: 0 stopped by a signal, 1 it failed, 2 the settings are wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from adapters.connect import ConnectControl
from adapters.etcd import EtcdClient, EtcdIntentStore, EtcdLeaseStore
from adapters.kafka.health import KafkaHealth
from adapters.kafka.wire import Wire
from agent.epoch import EpochFile
from agent.failover import LoneFailover
from agent.finisher import Finisher
from agent.identity import identity
from agent.journal import Journal
from agent.keeper import Keeper
from agent.markers import MarkerServer
from agent.mirror import MirrorKeeper
from agent.status import StatusServer
from dcdr.bounds import LeaseTiming
from dcdr.errors import DcdrError, MisconfiguredError, TransientError
from dcdr.logs import configure
from dcdr.ports import Scope
from dcdr.settings import AgentSettings, Fence, Settings, TlsSettings, settings_path

log = logging.getLogger("dcdr.agent")

LOOKS_PER_HYSTERESIS = 4
AGAIN_SECONDS = 1.0
CERTIFICATES_SECONDS = 10.0


@dataclass(frozen=True)
class Job:
    """Whose lease is kept, where, and with which waiting times."""

    settings: Settings
    scope: str
    dc: str

    @property
    def timing(self) -> LeaseTiming:
        return self.settings.scopes[self.scope].lease.timing

    @property
    def obeyed(self) -> bool:
        """Whether the brokers ask for the marker."""
        return self.settings.scopes[self.scope].fence is not Fence.ACL

    @property
    def connectors(self) -> list[str]:
        """Of every mirror towards this data center."""
        scope = self.settings.scopes[self.scope]
        names = (scope.mirror.source_connector, scope.mirror.checkpoint_connector, scope.mirror.heartbeat_connector)
        others = [dc for dc in scope.members if dc != self.dc]
        return [name.format(source=other, target=self.dc) for other in others for name in names]

    @property
    def other(self) -> str:
        """The scope's other data center: it has two."""
        return next(dc for dc in self.settings.scopes[self.scope].members if dc != self.dc)

    @property
    def agent(self) -> AgentSettings:
        """Raises: MisconfiguredError for a scope or data center that is not there, or has no agent."""
        scope = self.settings.scopes.get(self.scope)
        if scope is None:
            raise MisconfiguredError(f"no scope {self.scope}; known: {', '.join(sorted(self.settings.scopes))}")
        member = scope.members.get(self.dc)
        if member is None:
            raise MisconfiguredError(f"{self.dc} is no member of {self.scope}; members: {', '.join(scope.members)}")
        if member.agent is None:
            raise MisconfiguredError(f"scopes.{self.scope}.members.{self.dc}.agent is missing: say where it listens")
        return member.agent


async def serve(job: Job) -> None:
    """Run until a signal arrives."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    scope, timing, agent = job.settings.scopes[job.scope], job.timing, job.agent
    kafka = scope.members[job.dc].kafka
    epoch = EpochFile(agent.state, job.scope)
    client = EtcdClient(scope.store.endpoints, timeout=timedelta(seconds=timing.attempt))
    store, wishes = EtcdLeaseStore(client, scope.store.prefix), EtcdIntentStore(client, scope.store.prefix)
    admin = kafka.admin if kafka.security_protocol == "SASL_PLAINTEXT" else None
    wire = Wire(job.dc, kafka.bootstrap, admin, timeout=timedelta(seconds=timing.attempt), client_id="dcdr-agent")
    health = KafkaHealth(wire, kafka.health_topic, timing.attempt)
    keeper = Keeper(
        job.dc, job.scope, store, wishes, timing,
        identity=identity(agent.state, job.scope), automatic=scope.lease.automatic, obeyed=job.obeyed,
        floor=lambda: epoch.highest, remember=epoch.saw, cool_down=scope.failover.cool_down,
        ready=lambda: journal.reason(),  # noqa: PLW0108 - it is made below, of the keeper
    )  # fmt: skip
    connect = ConnectControl(job.dc, scope.members[job.dc].connect)
    estate, policy = partial(_estate, job), scope.failover
    journal = Journal(job.dc, keeper, estate, policy.journal_every)
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(work)
            for work in (
                _hint(lambda: store.watch(job.scope), keeper.changed),
                _hint(lambda: wishes.watch(job.scope), lambda _: keeper.wished()),
                _run(job, keeper, health, journal),
                Finisher(job.dc, keeper, estate).watch(),
                journal.watch(),
                LoneFailover(job.dc, job.other, keeper, estate, policy.open_without_workflow_after).watch(),
                MirrorKeeper(job.dc, keeper, connect, job.connectors).watch(),
            )
        ]
        await stop.wait()
        for task in running:
            task.cancel()
    await connect.close()
    await wire.close()
    await client.close()


async def _run(job: Job, keeper: Keeper, health: KafkaHealth, journal: Journal) -> None:
    """Learn which cluster this is; then serve, look and beat."""
    timing, agent = job.timing, job.agent
    while True:
        try:
            cluster = await health.cluster_id()
            break
        except TransientError as error:
            log.warning("%s: which cluster this is is not known yet: %s", job.dc, error)
            await asyncio.sleep(AGAIN_SECONDS)
    markers = MarkerServer(job.scope, job.dc, cluster, keeper, timing)
    status = StatusServer(job.scope, job.dc, keeper, markers, timing.refresh, obeyed=job.obeyed, journal=journal)
    context = None if agent.tls is None else _context(agent.tls)
    async with _listening(markers.application(), agent.listen, context), _listening(status.application(), agent.status):
        log.info("agent of %s in scope %s, cluster %s: markers at %s", job.dc, job.scope, cluster, agent.listen)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_look(health, status, keeper, timing))
            if agent.tls is not None and context is not None:
                tasks.create_task(_renew_certificates(agent.tls, context))
            tasks.create_task(keeper.keep(lambda: status.fitness.fit(time.monotonic(), timing.hysteresis)))


@contextlib.asynccontextmanager
async def _estate(job: Job) -> AsyncIterator[Scope]:
    from adapters.directory import build_directory  # seldom needed, and slow to load

    directory = build_directory(job.settings)
    try:
        yield directory.scope(job.scope)
    finally:
        await directory.close()


async def _look(health: KafkaHealth, status: StatusServer, keeper: Keeper, timing: LeaseTiming) -> None:
    while True:
        began = time.monotonic()
        found = await health.trouble()
        if found != status.fitness.trouble:
            log.info("Kafka: %s", "; ".join(found) or "well")
            keeper.wished()  # a holder that has become fit does not wait for its next beat's time to say so
        status.fitness = status.fitness.looked(began, found)
        await asyncio.sleep(max(0.0, began + timing.hysteresis / LOOKS_PER_HYSTERESIS - time.monotonic()))


async def _hint(watch: Callable[[], AsyncIterator[Any]], tell: Callable[[Any], None]) -> None:
    """Let news hurry the next beat; a watch that breaks is begun anew, and nobody depends on it."""
    while True:
        try:
            async for seen in watch():
                tell(seen)
        except DcdrError as error:
            log.warning("watch: %s", error)
        await asyncio.sleep(AGAIN_SECONDS)


def _context(files: TlsSettings) -> ssl.SSLContext:
    """Both sides show a certificate of the same authority. Raises: MisconfiguredError naming the file."""
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.ca))
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise MisconfiguredError(f"agent.tls ({files.certificate}, {files.key}, {files.ca}): {error}") from error
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def _renew_certificates(files: TlsSettings, context: ssl.SSLContext) -> None:
    """Connections made after a change on disk get the new certificate."""
    seen = _changed_at(files)
    while True:
        await asyncio.sleep(CERTIFICATES_SECONDS)
        if (now := _changed_at(files)) != seen:
            try:
                context.load_cert_chain(files.certificate, files.key)
            except (OSError, ssl.SSLError) as error:  # half written: the old one serves, look again
                log.warning("agent.tls: %s; the certificate read before is used", error)
            else:
                seen = now


def _changed_at(files: TlsSettings) -> tuple[float, ...]:
    return tuple(path.stat().st_mtime if path.exists() else 0.0 for path in (files.certificate, files.key))


@contextlib.asynccontextmanager
async def _listening(app: web.Application, address: str, context: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    host, _, port = address.rpartition(":")
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, int(port), ssl_context=context).start()
        yield
    except OSError as error:
        raise MisconfiguredError(f"cannot listen on {address}: {error.strerror}") from error
    finally:
        await runner.cleanup()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m agent", description=__doc__)
    parser.add_argument("--dc", "--dc-name", required=True, help="the data center whose lease is kept")
    parser.add_argument("--scope", help="the scope (default: the only one of the settings)")
    parser.add_argument("--settings", type=Path, help="settings file (default: $DCDR_SETTINGS)")
    parser.add_argument("--log-format", choices=("json", "text"), default="text")
    given = parser.parse_args(arguments)
    configure(given.log_format)
    try:
        job = _job(given.settings, given.scope, given.dc)
    except MisconfiguredError as error:
        print(error, file=sys.stderr)
        return 2
    code = 0
    try:
        asyncio.run(serve(job))
    except* MisconfiguredError as errors:
        code = _failed(errors, 2)
    except* DcdrError as errors:
        code = _failed(errors, 1)
    return code


def _job(settings: Path | None, scope: str | None, dc: str) -> Job:
    found = Settings.load(settings_path(settings))
    if scope is None and len(found.scopes) > 1:
        raise MisconfiguredError(f"--scope is needed: the settings have {', '.join(sorted(found.scopes))}")
    job = Job(found, scope or next(iter(found.scopes)), dc)
    _ = job.agent  # it must be there
    return job


def _failed(errors: BaseExceptionGroup[DcdrError], code: int) -> int:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _failed(error, code)
        else:
            print(error, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
