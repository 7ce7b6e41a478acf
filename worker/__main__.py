"""`python -m worker --settings FILE`: serve the scopes of a settings file until SIGTERM or SIGINT.

`--dc DC`, repeatable: also watch from there, for the workers of a site that can see what others cannot.

Exit codes: 0 stopped by a signal, 1 the worker failed, 2 the settings are wrong, 6 no Temporal service.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from adapters.directory import build_directory
from dcdr.errors import DcdrError, InvalidRequestError, MisconfiguredError, UnreachableError
from dcdr.logs import configure
from dcdr.settings import Settings, settings_path
from worker.assembly import build_site_worker, build_worker
from worker.finder import find_forever
from worker.watchdog import Looks, Watchdog
from workflows.temporal import connect

log = logging.getLogger("dcdr.worker")


async def serve(settings: Settings, sites: Sequence[str] = (), metrics: str = "") -> None:
    """Run until a signal arrives, then let running steps finish. `metrics`: `host:port` for Prometheus.

    Raises: InvalidRequestError for a site no scope has; MisconfiguredError when `metrics` cannot be listened on.
    """
    known = {dc for scope in settings.scopes.values() for dc in (*scope.members, *scope.arbiters)}
    if unknown := sorted(set(sites) - known):
        raise InvalidRequestError(f"--dc {', '.join(unknown)}: the settings know {', '.join(sorted(known))}")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runtime = _runtime(metrics) if metrics else None
    client = await connect(identity=f"dcdr-worker@{socket.gethostname()}:{os.getpid()}", runtime=runtime)
    directory = build_directory(settings)
    looks = Looks(runtime)
    try:
        await directory.warm()
        async with AsyncExitStack() as workers:
            await workers.enter_async_context(build_worker(client, directory, looked=looks.looked))
            for dc in dict.fromkeys(sites):
                site = build_site_worker(client, directory, dc, looked=looks.looked)
                await workers.enter_async_context(site)
            tasks = [
                asyncio.create_task(find_forever(client, directory)),
                asyncio.create_task(Watchdog(client, directory, looks).guard()),
            ]
            log.info(
                "serving scopes %s, watching from %s", ", ".join(directory.names()), ", ".join(sites) or "no site's own"
            )
            await stop.wait()
            for task in tasks:
                task.cancel()
    finally:
        await directory.close()


def _runtime(metrics: str) -> Runtime:
    """Temporal's own metrics and ours on one listener."""
    try:
        return Runtime(
            telemetry=TelemetryConfig(
                metrics=PrometheusConfig(bind_address=metrics, durations_as_seconds=True, counters_total_suffix=True)
            )
        )
    except (RuntimeError, ValueError) as error:
        raise MisconfiguredError(f"--metrics {metrics}: cannot listen there: {error}") from error


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--settings", type=Path, help="settings file (default: $DCDR_SETTINGS)")
    parser.add_argument("--log-format", choices=("json", "text"), default="text")
    parser.add_argument("--dc", action="append", default=[], help="watch from this data center, too; repeatable")
    parser.add_argument("--metrics", default="", metavar="HOST:PORT", help="metrics for Prometheus, under /metrics")
    given = parser.parse_args()
    configure(given.log_format)
    try:
        asyncio.run(serve(Settings.load(settings_path(given.settings)), given.dc, given.metrics))
    except (MisconfiguredError, InvalidRequestError) as error:
        print(error, file=sys.stderr)
        return 2
    except UnreachableError as error:
        print(error, file=sys.stderr)
        return 6
    except DcdrError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
