"""The one address that applications bootstrap from: it follows the Service's EndpointSlices, as kube-proxy would.

New connections go to the current target; existing ones stay where they are. With no ready endpoint, or no answer from
one, a connection is closed at once. Slices are listed and then watched; any break or error lists again. When the API
server is away, the last known target keeps serving.

    python -m lab.endpoint_proxy CONFIG     what `lab.kube.proxy_config` writes

Every change of the target is one line on standard output: wall clock, monotonic clock in seconds, addresses.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from lab.addresses import Address
from lab.egress import splice

RETRY_S = 0.2
WATCH_S = 300
"""Seconds after which the API server ends a watch by itself; then everything is listed anew."""
READY_LIMIT_S = 10.0


class Targets:
    """What the slices of one Service say: kept by slice name, because a Service may have several."""

    def __init__(self, addresses: Mapping[str, str], port_name: str) -> None:
        self._addresses = addresses
        self._port_name = port_name
        self._slices: dict[str, list[str]] = {}
        self._turn = itertools.count()

    @property
    def current(self) -> list[str]:
        """`address:port` of every ready endpoint."""
        return sorted({one for found in self._slices.values() for one in found})

    def replace(self, slices: list[dict[str, Any]]) -> None:
        self._slices = {}
        for document in slices:
            self.update("ADDED", document)

    def update(self, kind: str, document: dict[str, Any]) -> None:
        name = document["metadata"]["name"]
        if kind == "DELETED":
            self._slices.pop(name, None)
            return
        ports = [port["port"] for port in document.get("ports") or [] if port.get("name", "") == self._port_name]
        self._slices[name] = [
            f"{address}:{port}"
            for endpoint in document.get("endpoints") or []
            if (endpoint.get("conditions") or {}).get("ready", True) is not False
            for address in endpoint["addresses"]
            for port in ports
        ]

    def in_turn(self) -> list[Address]:
        """Where a new connection may go, best first: every endpoint gets its turn. An unknown address leads nowhere."""
        found = [
            self._addresses[one.rpartition(":")[0]] for one in self.current if one.rpartition(":")[0] in self._addresses
        ]
        shift = next(self._turn) % len(found) if found else 0
        return [Address.parse(one) for one in found[shift:] + found[:shift]]


class ExpiredError(Exception):
    """The watch cannot go on from where it was: list again."""


class EndpointProxy:
    """Follow and forward."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._token = Path(config["token_file"]).read_text().strip()
        self._listen = Address.parse(config["listen"])
        self.targets = Targets(config["address_map"], config["port_name"])
        self._known = asyncio.Event()

    async def run(self) -> None:
        follower = asyncio.create_task(self._follow())
        # Not listening before the target is known: whoever waits for the port may use it at once.
        await asyncio.wait_for(self._known.wait(), READY_LIMIT_S)
        async with await asyncio.start_server(self._forward, self._listen.host, self._listen.port, backlog=512):
            self._note(f"listening on {self._listen}")
            await follower

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for target in self.targets.in_turn():
                try:
                    await splice(reader, writer, target)
                    return
                except OSError:
                    continue
        finally:
            writer.close()

    async def _follow(self) -> None:
        """List, watch, and begin again on any error; never ends."""
        config = self._config
        context = ssl.create_default_context(cafile=config["ca_file"])
        timeout = httpx.Timeout(5.0, read=WATCH_S + 30.0)
        async with httpx.AsyncClient(
            base_url=f"https://{config['api_server']}",
            verify=context,
            timeout=timeout,
            headers={"Authorization": f"Bearer {self._token}"},
        ) as client:
            while True:
                try:
                    await self._list_and_watch(client)
                except (httpx.HTTPError, ValueError, KeyError, ExpiredError) as error:
                    self._note(f"listing again: {error!r}")
                    await asyncio.sleep(RETRY_S)

    async def _list_and_watch(self, client: httpx.AsyncClient) -> None:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self._config['namespace']}/endpointslices"
        selector = {"labelSelector": f"kubernetes.io/service-name={self._config['service']}"}
        # The certificate names the server's own address; the link that leads there has another one.
        extensions = {"sni_hostname": self._config["tls_server_name"]}
        answer = await client.get(path, params=selector, timeout=5.0, extensions=extensions)
        listed = answer.raise_for_status().json()
        self._apply(lambda: self.targets.replace(listed["items"]))
        self._known.set()
        version = listed["metadata"]["resourceVersion"]
        watch = {**selector, "watch": "true", "resourceVersion": version, "timeoutSeconds": str(WATCH_S)}
        async with client.stream("GET", path, params=watch, extensions=extensions) as stream:
            stream.raise_for_status()
            async for line in stream.aiter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ExpiredError(event["object"].get("message", "watch expired"))
                if event["type"] != "BOOKMARK":
                    self._apply(lambda event=event: self.targets.update(event["type"], event["object"]))

    def _apply(self, change: Any) -> None:
        before = self.targets.current
        change()
        after = self.targets.current
        if after != before or not self._known.is_set():
            self._note(f"target {', '.join(after) or 'nowhere'}")

    @staticmethod
    def _note(text: str) -> None:
        print(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {time.monotonic():.6f} {text}", flush=True)


if __name__ == "__main__":
    asyncio.run(EndpointProxy(json.loads(Path(sys.argv[1]).read_text())).run())
