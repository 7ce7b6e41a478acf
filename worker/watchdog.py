"""Keeps the watch of every scope running, and says loudly when nobody looks at a lease any more."""

from __future__ import annotations

import asyncio
import logging
import time

from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.service import RPCError

from dcdr.ports import Directory
from workflows.lookout import ensure_running, look
from workflows.temporal import TASK_QUEUE

CHECK_EVERY_SECONDS = 5.0
SILENT_SECONDS = 15.0
"""No look in this process for so long: then somebody else may be looking, which the server knows."""
ALARM_SECONDS = 30.0
SEEN = "dcdr_watch_seen_timestamp_seconds"
log = logging.getLogger("dcdr.watchdog")


class Looks:
    """When this process last saw each scope's lease; with `runtime`, also as a gauge of its metrics."""

    def __init__(self, runtime: Runtime | None = None) -> None:
        self._at: dict[str, float] = {}
        self._gauge = (
            None
            if runtime is None
            else runtime.metric_meter.create_gauge_float(
                SEEN, "when a watch of this worker last saw the lease, seconds since the epoch", "s"
            )
        )

    def looked(self, scope: str) -> None:
        """A look was answered just now."""
        self._at[scope] = time.monotonic()
        if self._gauge is not None:
            self._gauge.set(time.time(), {"scope": scope})

    def silent_for(self, scope: str) -> float:
        """Seconds since the last look; infinite where there was none."""
        at = self._at.get(scope)
        return float("inf") if at is None else time.monotonic() - at


class Watchdog:
    """One a worker. It asks the server only about scopes whose lease this process does not see itself."""

    def __init__(self, client: Client, directory: Directory, looks: Looks, *, task_queue: str = TASK_QUEUE) -> None:
        self._client, self._directory, self._looks, self._queue = client, directory, looks, task_queue
        self._fine: dict[str, float] = {}

    async def guard(self) -> None:
        """For the life of the worker."""
        while True:
            for scope in self._directory.names():
                try:
                    await self.check(scope)
                except Exception:  # the last one who would notice must not die of one scope's surprise
                    log.exception("the watch of %s could not be checked", scope)
            await asyncio.sleep(CHECK_EVERY_SECONDS)

    async def check(self, scope: str) -> bool:
        """Start the watch where it does not run; whether somebody has looked lately. Logs an ERROR when long not."""
        fine = self._fine.setdefault(scope, time.monotonic())
        trouble = ""
        if self._looks.silent_for(scope) > SILENT_SECONDS:
            trouble = await self._ask(scope)
        if not trouble:
            self._fine[scope] = time.monotonic()
            return True
        silent = time.monotonic() - fine
        level = logging.ERROR if silent > ALARM_SECONDS else logging.INFO
        log.log(
            level,
            "nobody has seen the lease of %s for %.0f s, so no failover would be started: %s. See docs/how-to/watch.md",
            scope,
            silent,
            trouble,
            extra={"scope": scope},
        )
        return False

    async def _ask(self, scope: str) -> str:
        """What is wrong with the watch by the server; "" where it is alive elsewhere."""
        try:
            if await ensure_running(self._client, scope, task_queue=self._queue):
                log.info("started the watch of %s", scope, extra={"scope": scope})
            found = await look(self._client, scope, query=False)
        except RPCError as error:
            return f"Temporal gives no answer ({error})"
        if found.alive:
            return ""
        sites = "; ".join(f"{one.site} {one.state} {one.trouble}".rstrip() for one in found.sites)
        return f"its workflow is {found.status}, sites: {sites or 'none'}"
