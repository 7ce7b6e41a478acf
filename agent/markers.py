"""The marker, for the brokers of one data center: each keeps one question pending, and any change answers it at once.

    GET /v1/marker?cluster=..&node=..&process=broker|controller&epoch=..&version=..

The asker counts the validity from before it asked, so a long wait here costs it validity: none is held for longer
than the refresh period. `authorizer/README.md` has the whole contract.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from aiohttp import web

from agent.keeper import Keeper
from dcdr.bounds import LeaseTiming
from dcdr.marker import Marker


@dataclass(frozen=True)
class Told:
    """What a node was told last, and when (seconds, monotonic)."""

    node: str
    process: str
    marker: Marker
    at: float


def version(marker: Marker) -> str:
    """Two markers of the same version mean the same; how long they hold is not part of it."""
    return f"{marker.epoch}-{marker.role.value}"


class MarkerServer:
    """Answers the brokers of `cluster`, from what `keeper` knows."""

    def __init__(self, scope: str, dc: str, cluster: str, keeper: Keeper, timing: LeaseTiming) -> None:
        self._scope, self._dc, self._cluster = scope, dc, cluster
        self._keeper, self._timing = keeper, timing
        self._told: dict[tuple[str, str], Told] = {}
        self._asked: dict[tuple[str, str], float] = {}

    @property
    def told(self) -> tuple[Told, ...]:
        """Every node that ever asked, with its last answer."""
        return tuple(self._told[key] for key in sorted(self._told))

    def asking(self, since: float) -> int:
        """How many nodes have asked since then, whether there was anything to tell them or not."""
        return sum(at >= since for at in self._asked.values())

    def application(self) -> web.Application:
        """The routes, for an aiohttp runner."""
        app = web.Application()
        app.router.add_get("/v1/marker", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        asked = request.query
        missing = [name for name in ("cluster", "node", "process", "epoch", "version") if name not in asked]
        if missing:
            raise web.HTTPBadRequest(text=f"missing: {', '.join(missing)}")
        if asked["cluster"] != self._cluster:
            raise web.HTTPForbidden(
                text=f"this agent serves cluster {self._cluster} of {self._dc}, not {asked['cluster']}: "
                "set dcdr.authorizer.agents to the agent of the broker's own data center"
            )
        try:
            epoch = int(asked["epoch"])
        except ValueError:
            raise web.HTTPBadRequest(text=f"epoch is {asked['epoch']!r}, not a number") from None
        node = asked["node"], asked["process"]
        self._asked[node] = time.monotonic()
        self._keeper.heard_of(epoch)
        marker = self._keeper.marker()
        if not self._keeper.speaks or version(marker) == asked["version"]:
            marker = await self._keeper.until_another(marker, self._timing.refresh)
        if not self._keeper.speaks:
            # No answer at all: a NONE would close what the one that acts holds open, and a gate needs none to run out.
            why = "nothing is proven here" if self._keeper.acts else f"another agent of {self._dc} acts"
            raise web.HTTPServiceUnavailable(text=f"{why}: what brokers were told before holds until it runs out")
        self._told[node] = Told(*node, marker, time.monotonic())
        return web.json_response(
            {
                "scope": self._scope,
                "dc": self._dc,
                "cluster": self._cluster,
                "epoch": marker.epoch,
                "role": marker.role.value,
                "version": version(marker),
                # Rounded down: a marker may hold shorter than it could, never longer.
                "valid_ms": math.floor(marker.valid_s * 1000),
                "wall_ms": time.time_ns() // 1_000_000,
            }
        )
