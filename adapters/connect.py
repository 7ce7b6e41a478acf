"""One Kafka Connect cluster over REST: connectors, their states, their stored offsets.

Source: Connect's REST API (KIP-875 for offsets and STOPPED, KIP-745 for restarts); status codes as 4.3 answers them.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx

from dcdr.errors import ConflictError, DcdrError, MisconfiguredError, NotYetError, UnreachableError
from dcdr.model import Connector, ConnectorState, TopicPartition
from dcdr.settings import ConnectSettings, Credentials

REQUEST_TIMEOUT: Final = timedelta(seconds=5)
OFFSETS_TIMEOUT: Final = timedelta(seconds=30)
"""Connect reads its offsets topic to the end for each look, which took 6.6 s on a swollen one, and fences zombies
before each change. Neither happens inside the outage."""
RESTART_TIMEOUT: Final = timedelta(seconds=30)
"""A restart may have to wait for a task that will not stop, as long as the worker's graceful time-out (5 s unless it is
set). Given up earlier and asked again, the requests pile up, and each meets what the one before it started."""
READ_BACK: Final = timedelta(seconds=3)
"""An accepted change of state shows within a second when no rebalance is pending."""
CHUNK: Final = 500
"""Partitions in one change of offsets."""
_POLL_S: Final = 0.02
_SECRET = re.compile(r"password|secret|jaas|token", re.IGNORECASE)
_ALIAS = "source.cluster.alias"


class ConnectControl:
    """`dcdr.ports.MirrorControl` for the Connect cluster of one data center.

    Every call is one bounded HTTP request over a warm connection, except that `stop`, `resume` and `seed` also read
    back. Raises (every call): UnreachableError; ConflictError for 409; MisconfiguredError with Connect's own words for
    what will not heal by itself.
    """

    def __init__(
        self,
        dc: str,
        settings: ConnectSettings,
        *,
        timeout: timedelta = REQUEST_TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._dc = dc
        self._url = _checked(dc, settings.url)
        self._http = httpx.AsyncClient(
            base_url=self._url,
            auth=_auth(settings.credentials),
            timeout=timeout.total_seconds(),
            # Connect's own server drops connections that were idle for 30 s.
            limits=httpx.Limits(max_connections=8, keepalive_expiry=20),
            trust_env=False,
            headers={"Accept": "application/json"},
            transport=transport,
        )

    async def warm(self) -> None:
        """Open a connection and see that Connect has joined its group. Raises: as every call."""
        await self._json("GET", "/connectors", "list connectors")

    async def close(self) -> None:
        await self._http.aclose()

    async def connectors(self) -> Mapping[str, Connector]:
        """All connectors in one request. A secret that is not a reference is left out of the configuration.

        One created a moment ago, which has no status yet, is not in Connect's answer.
        """
        found = await self._json("GET", "/connectors", "list connectors", params={"expand": ["status", "info"]})
        return {name: read_connector(name, entry) for name, entry in sorted(found.items())}

    async def stop(self, connector: str) -> None:
        """Ask for STOPPED and see the connector say so; its tasks end later.

        One that is STOPPED already is left alone: a second stop makes Connect 4.3.1 with exactly-once answer 500
        ("taskConfigGeneration ... is null") to every later change of its offsets, until it has run tasks again.

        Raises: NotYetError when it was accepted and does not show within `READ_BACK`.
        """
        with suppress(NotYetError):  # no status yet: a newborn, or nobody, which the stop itself will tell
            if await self._read_state(connector) is ConnectorState.STOPPED:
                return
        await self._json("PUT", f"{_path(connector)}/stop", f"stop {connector}")
        await self._await_state(connector, lambda state: state is ConnectorState.STOPPED, "STOPPED")

    async def resume(self, connector: str) -> None:
        """Ask for RUNNING and see that the connector left STOPPED or PAUSED; whether it runs well is for the caller.

        Raises: NotYetError when it was accepted and does not show within `READ_BACK`.
        """
        await self._json("PUT", f"{_path(connector)}/resume", f"resume {connector}")
        waiting = (ConnectorState.STOPPED, ConnectorState.PAUSED)
        await self._await_state(connector, lambda state: state not in waiting, "RUNNING")

    async def restart(self, connector: str, *, only_failed: bool) -> None:
        """Restart the tasks, or what has failed; one that is STOPPED stays so.

        With exactly-once a worker that is to stop a task which is starting stands still for its graceful time-out
        (Connect 4.3.1). So all tasks go one by one, and never while one starts; and not by Connect's request for all of
        them, which restarts the connector as well: if that finds new topics it stops what it has just started.

        Raises: NotYetError when a task does not get out of its start within the worker's time.
        """
        patience = RESTART_TIMEOUT.total_seconds()
        if only_failed:
            options = {"includeTasks": "true", "onlyFailed": "true"}
            await self._restart(connector, "restart", params=options, timeout=patience)
            return
        known = await self._json("GET", _path(connector), f"look at {connector}")  # names no tasks where it is STOPPED
        for task in known.get("tasks") or []:
            await self._await_started(connector)
            await self._restart(connector, f"tasks/{int(task['task'])}/restart", timeout=patience)

    async def reload(self, connector: str) -> None:
        """Restart the connector alone; one that is STOPPED is left alone (Connect would call it UNASSIGNED)."""
        await self._json("GET", _path(connector), f"look at {connector}")  # an unknown one has no state either
        if await self._read_state(connector) is not ConnectorState.STOPPED:
            await self._restart(connector, "restart", params={"includeTasks": "false", "onlyFailed": "false"})

    async def _restart(self, connector: str, path: str, **request: Any) -> None:
        await self._json("POST", f"{_path(connector)}/{path}", f"restart {connector}", **request)

    async def offsets(self, connector: str) -> Mapping[TopicPartition, int]:
        """Stored offsets under the connector's own source alias: those it would start from."""
        stored, alias = await asyncio.gather(self._stored(connector), self._alias(connector))
        return {place: offset for (cluster, place), offset in stored.items() if cluster == alias}

    async def seed(self, connector: str, offsets: Mapping[TopicPartition, int | None], *, source: str) -> None:
        """Write, then read back every partition given.

        Raises: MisconfiguredError when `source` is not the connector's alias (the offsets would be silently useless) or
        an offset is negative; ConflictError while the connector is not STOPPED without tasks, or when another value
        reads back.
        """
        negative = [str(place) for place, offset in offsets.items() if offset is not None and offset < 0]
        if negative:
            raise MisconfiguredError(
                f"{connector}: negative offsets for {', '.join(negative)}: None starts at the beginning"
            )
        alias = await self._alias(connector)
        if alias != source:
            raise MisconfiguredError(
                f"{connector} on {self._dc} copies from {alias!r}, not from {source!r}: nothing was written. "
                f"Set {_ALIAS} of the connector, or the connector names in the settings"
            )
        rows = sorted(offsets.items())
        for start in range(0, len(rows), CHUNK):
            body = {"offsets": [_row(source, place, offset) for place, offset in rows[start : start + CHUNK]]}
            await self._json(
                "PATCH",
                f"{_path(connector)}/offsets",
                f"seed {connector}",
                json=body,
                timeout=OFFSETS_TIMEOUT.total_seconds(),
            )
        stored = await self._stored(connector)
        wrong = [
            f"{place} should be {offset} and is {stored.get((source, place))}"
            for place, offset in rows
            if stored.get((source, place)) != offset
        ]
        if wrong:
            raise ConflictError(f"{connector} on {self._dc}: {len(wrong)} offsets read back otherwise: {wrong[0]}")

    # --- requests

    async def _stored(self, connector: str) -> dict[tuple[str, TopicPartition], int]:
        found = await self._json(
            "GET",
            f"{_path(connector)}/offsets",
            f"read the offsets of {connector}",
            timeout=OFFSETS_TIMEOUT.total_seconds(),
        )
        return read_offsets(found)

    async def _alias(self, connector: str) -> str | None:
        config = await self._json("GET", f"{_path(connector)}/config", f"read the configuration of {connector}")
        alias = config.get(_ALIAS)
        return None if alias is None else str(alias)

    async def _await_state(self, connector: str, good: Callable[[ConnectorState], bool], wanted: str) -> None:
        await self._await_status(
            connector,
            READ_BACK,
            lambda status: good(_state(status.get("connector"))),
            lambda status: (
                f"{connector} on {self._dc} was asked to be {wanted} and says "
                f"{_state(status.get('connector')).value} after {READ_BACK.total_seconds():g} s: "
                "a rebalance is pending, or its worker is away"
            ),
        )

    async def _await_started(self, connector: str) -> None:
        await self._await_status(
            connector,
            RESTART_TIMEOUT,
            lambda status: not _starting(status),
            lambda status: (
                f"{connector} on {self._dc}: tasks {_starting(status)} have been starting for "
                f"{RESTART_TIMEOUT.total_seconds():g} s; look at the worker's log"
            ),
        )

    async def _await_status(
        self,
        connector: str,
        limit: timedelta,
        holds: Callable[[dict[str, Any]], bool],
        trouble: Callable[[dict[str, Any]], str],
    ) -> None:
        """Raises: NotYetError with what `trouble` says of the last status, when `limit` is over."""
        deadline = time.monotonic() + limit.total_seconds()
        while not holds(status := await self._read_status(connector)):
            if time.monotonic() > deadline:
                raise NotYetError(trouble(status))
            await asyncio.sleep(_POLL_S)

    async def _read_state(self, connector: str) -> ConnectorState:
        return _state((await self._read_status(connector)).get("connector"))

    async def _read_status(self, connector: str) -> dict[str, Any]:
        return await self._json("GET", f"{_path(connector)}/status", f"read the state of {connector}")

    async def _json(self, method: str, path: str, what: str, **request: Any) -> dict[str, Any]:
        try:
            answer = await self._http.request(method, path, **request)
        except httpx.RequestError as error:
            raise UnreachableError(
                f"Connect of {self._dc} at {self._url} did not answer ({what}: {str(error) or type(error).__name__}); "
                "whether it took effect is unknown. Look at the workers, and at the way there"
            ) from error
        if answer.is_success:
            try:
                found = answer.json() if answer.content else {}
            except ValueError as error:
                raise MisconfiguredError(f"{self._url} is not Kafka Connect: it answers {_words(answer)}") from error
            # Only the plain list of connectors is not an object.
            return found if isinstance(found, dict) else dict.fromkeys(found)
        raise self._trouble(answer, what)

    def _trouble(self, answer: httpx.Response, what: str) -> DcdrError:
        """Our error for an answer that is no success."""
        said = f"Connect of {self._dc} at {self._url} refused ({what}): {answer.status_code} {_words(answer)}"
        match answer.status_code:
            case 409:
                return ConflictError(f"{said}. It is rebalancing, or another change is under way: try again")
            case 404 if "error_code" not in answer.text:
                return UnreachableError(f"{said}. It is still starting, or the URL is not Connect's")
            case 404 if "No status found" in answer.text:
                return NotYetError(f"{said}. The connector was created a moment ago")
            case 404:
                return MisconfiguredError(f"{said}. Create the connector, or correct the names in the settings")
            case 400 if "STOPPED" in answer.text:
                return ConflictError(f"{said}. Stop it, wait until it has no tasks, then try again")
            case 401 | 403:
                return MisconfiguredError(f"{said}. Set connect.credentials to a user that may change connectors")
            case code if code >= 500:
                return UnreachableError(f"{said}. It may still take effect: read before trying again")
            case _:
                return MisconfiguredError(said)


def read_connector(name: str, entry: Mapping[str, Any]) -> Connector:
    """One entry of `GET /connectors?expand=status&expand=info`; the status may be missing for a moment."""
    status = entry.get("status") or {}
    tasks = sorted(status.get("tasks") or [], key=lambda task: int(task["id"]))
    config = {
        key: value
        for key, value in ((entry.get("info") or {}).get("config") or {}).items()
        if value is not None and (not _SECRET.search(key) or str(value).startswith("${"))
    }
    traces = [part.get("trace") for part in (status.get("connector") or {}, *tasks)]
    return Connector(
        name=name,
        state=_state(status.get("connector")),
        tasks=tuple(_state(task) for task in tasks),
        config=config,
        trace=next((str(trace) for trace in traces if trace), ""),
    )


def read_offsets(found: Mapping[str, Any]) -> dict[tuple[str, TopicPartition], int]:
    """The answer of `GET /connectors/{c}/offsets` of a MirrorSourceConnector, by cluster alias and partition."""
    stored = {}
    for row in found.get("offsets") or []:
        key, value = row.get("partition") or {}, row.get("offset") or {}
        try:
            place = TopicPartition(str(key["topic"]), int(key["partition"]))
            stored[str(key["cluster"]), place] = int(value["offset"])
        except (KeyError, TypeError, ValueError) as error:
            raise MisconfiguredError(
                f"a stored offset is not a MirrorSourceConnector's: {row!r}; is this the right connector?"
            ) from error
    return stored


def _row(source: str, place: TopicPartition, offset: int | None) -> dict[str, Any]:
    key = {"cluster": source, "topic": place.topic, "partition": place.partition}
    return {"partition": key, "offset": None if offset is None else {"offset": offset}}


def _starting(status: Mapping[str, Any]) -> list[int]:
    """Numbers of the tasks that are on their way up."""
    states = (ConnectorState.UNASSIGNED, ConnectorState.RESTARTING)
    return [int(task["id"]) for task in status.get("tasks") or [] if task.get("state") in states]


def _state(part: Mapping[str, Any] | None) -> ConnectorState:
    """A word of Connect's; what we do not know (DESTROYED, a new one) is no state to rely on."""
    try:
        return ConnectorState((part or {}).get("state", ""))
    except ValueError:
        return ConnectorState.UNASSIGNED


def _words(answer: httpx.Response) -> str:
    """Connect's message, else the beginning of what came."""
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return repr(answer.text[:200])


def _path(connector: str) -> str:
    return f"/connectors/{quote(connector, safe='')}"


def _checked(dc: str, url: str) -> str:
    """Raises: MisconfiguredError for what no request could be sent to; it would look like a server that is away."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise MisconfiguredError(f"connect.url of {dc}: {url!r} is no URL ({error})") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise MisconfiguredError(f"connect.url of {dc}: {url!r} should look like http://host:8083")
    return url.rstrip("/")


def _auth(credentials: Credentials | None) -> httpx.Auth | None:
    if credentials is None:
        return None
    return httpx.BasicAuth(credentials.username, read_secret(credentials.password_file))


def read_secret(path: Path) -> str:
    """A secret file's content without its final newline. Raises: MisconfiguredError naming the file."""
    try:
        return path.read_text().removesuffix("\n")
    except OSError as error:
        raise MisconfiguredError(f"cannot read the secret file {path}: {error.strerror}") from error
