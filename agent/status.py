"""What an agent shows of itself: metrics for Prometheus, /healthz (it runs), /readyz (it can do its part), /status."""

from __future__ import annotations

import time
from collections.abc import Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from agent.journal import Journal
from agent.keeper import Keeper
from agent.markers import MarkerServer
from dcdr.fitness import Fitness
from dcdr.marker import Role

STALE_FACTOR = 4
"""A node that has not asked for so many refresh periods is not counted as served."""


class StatusServer:
    """Plain HTTP, for loopback or a cluster's inner network: it changes nothing and holds no secret."""

    def __init__(
        self,
        scope: str,
        dc: str,
        keeper: Keeper,
        markers: MarkerServer,
        refresh: float,
        *,
        obeyed: bool,
        journal: Journal | None = None,
    ) -> None:
        """`obeyed`: brokers are expected to ask for their marker. `journal`: of the mirror towards `dc`."""
        self._journal = journal
        self._scope, self._dc, self._obeyed = scope, dc, obeyed
        self._keeper, self._markers, self._refresh = keeper, markers, refresh
        self.fitness = Fitness()

    def application(self) -> web.Application:
        """The routes, for an aiohttp runner."""
        metrics = CollectorRegistry()
        metrics.register(self)
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/status", self._status)
        app.router.add_get("/metrics", make_aiohttp_handler(metrics))
        return app

    def unready(self) -> list[str]:
        """Why this agent could not do its part now, a sentence each."""
        found = list(self.fitness.trouble)
        if self._keeper.known.record is None:
            found.append("the lease record has not been read yet")
        if self._obeyed and not self._served():
            found.append("no broker has asked for its marker lately")
        return found

    def _served(self) -> int:
        return self._markers.asking(time.monotonic() - STALE_FACTOR * self._refresh)

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="runs\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        found = self.unready()
        return web.Response(text="\n".join(found or ["ready"]) + "\n", status=503 if found else 200)

    async def _status(self, _: web.Request) -> web.Response:
        """As JSON what `dcdr status` and a refused takeover tell people: what this agent knows, and why it waits."""
        marker, record = self._keeper.marker(), self._keeper.known.record
        return web.json_response(
            {
                "scope": self._scope,
                "dc": self._dc,
                "holder": record and record.holder,
                "phase": record and record.phase.value,
                "epoch": marker.epoch,
                "role": marker.role.value,
                "valid_s": marker.valid_s,
                "holds_back": self._keeper.holds_back,
                "trouble": list(self.fitness.trouble),
                "unready": self.unready(),
            }
        )

    def collect(self) -> Iterator[Metric]:
        """What Prometheus is told, as it is at this moment."""
        marker, known = self._keeper.marker(), self._keeper.known
        gauges: dict[tuple[str, str], float] = {
            ("dcdr_agent_holds_lease", "1 while this data center holds the lease"): known.holds,
            ("dcdr_agent_acting", "0 while it stands by, because another agent of the holder acts"): self._keeper.acts,
            ("dcdr_agent_users_open", "1 while the brokers are told ACTIVE"): marker.role is Role.ACTIVE,
            ("dcdr_agent_mirror_open", "1 while the brokers are told STANDBY"): marker.role is Role.STANDBY,
            ("dcdr_agent_marker_valid_seconds", "how long the marker holds without news"): marker.valid_s,
            ("dcdr_agent_epoch", "the epoch of the lease as last seen, 0 if never"): marker.epoch,
            ("dcdr_agent_fit", "1 while the last look at Kafka found no trouble"): not self.fitness.trouble,
            ("dcdr_agent_held_back", "1 while it would not take the lease over"): bool(self._keeper.holds_back),
            ("dcdr_agent_nodes_served", "brokers and controllers that asked lately"): self._served(),
        }
        gauges |= self._mirror()
        counters = {
            ("dcdr_agent_beats", "exchanges with the lease store"): self._keeper.beats,
            ("dcdr_agent_beats_missed", "exchanges that failed"): self._keeper.missed,
        }
        whose = {"scope": self._scope, "dc": self._dc}
        for kind, values in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for (name, what), value in values.items():
                family = kind(name, what, labels=tuple(whose))
                family.add_metric(tuple(whose.values()), value)
                yield family

    def _mirror(self) -> dict[tuple[str, str], float]:
        """How far the mirror is behind, while this is the standby; a value nobody knows is left out."""
        journal = None if self._journal is None else self._journal.last
        lag = None if self._journal is None else self._journal.lag()
        if journal is None or lag is None:
            return {}
        found: dict[tuple[str, str], float] = {
            ("dcdr_mirror_lag_records", "offsets of the source that the last look did not find copied"): lag.records,
            (
                "dcdr_journal_written_timestamp_seconds",
                "when the journal's last look was taken",
            ): journal.taken_at.timestamp(),
        }
        if lag.seconds is not None:
            found["dcdr_mirror_lag_seconds", "everything older than this is copied"] = lag.seconds
        return found
