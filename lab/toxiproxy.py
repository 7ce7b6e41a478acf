"""The fault proxies: one toxiproxy server that carries every link (its HTTP API, version 2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx

from lab.addresses import Address, Link
from lab.errors import LabError


class Toxiproxy:
    """A client of the control port.

    Raises (every method): LabError when the server does not answer or refuses.
    """

    def __init__(self, api: Address) -> None:
        self._url = f"http://{api}"

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self._url}/version", timeout=1.0).status_code == 200
        except httpx.HTTPError:
            return False

    def populate(self, links: Iterable[Link]) -> None:
        """Create the proxies that are missing; one that is there with the same addresses is left as it is."""
        self._call(
            "POST",
            "/populate",
            json=[
                {"name": entry.proxy, "listen": str(entry.listen), "upstream": str(entry.upstream), "enabled": True}
                for link in links
                for entry in link.entries
            ],
        )

    def proxies(self) -> dict[str, dict[str, Any]]:
        """name -> {enabled, listen, upstream, toxics}."""
        answer: dict[str, dict[str, Any]] = self._call("GET", "/proxies").json()
        return answer

    def enable(self, proxy: str, enabled: bool) -> None:
        """Disabled: nothing listens, and what was connected is closed."""
        self._call("POST", f"/proxies/{proxy}", json={"enabled": enabled})

    def add_toxic(self, proxy: str, name: str, kind: str, stream: str, attributes: dict[str, int]) -> None:
        """Replace the toxic of that name. `stream`: `upstream` (from the dialler) or `downstream` (to it)."""
        self.remove_toxic(proxy, name)
        toxic = {"name": name, "type": kind, "stream": stream, "toxicity": 1.0, "attributes": attributes}
        self._call("POST", f"/proxies/{proxy}/toxics", json=toxic)

    def remove_toxic(self, proxy: str, name: str) -> None:
        self._call("DELETE", f"/proxies/{proxy}/toxics/{name}", tolerated=(404,))

    def _call(self, method: str, path: str, tolerated: tuple[int, ...] = (), **arguments: Any) -> httpx.Response:
        try:
            answer = httpx.request(method, self._url + path, timeout=5.0, **arguments)
        except httpx.HTTPError as error:
            raise LabError(f"the fault proxy does not answer ({error!r}): look with `dcdr lab status`") from error
        if answer.is_error and answer.status_code not in tolerated:
            raise LabError(f"the fault proxy refused {method} {path}: {answer.text.strip()}")
        return answer
