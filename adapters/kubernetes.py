"""The bootstrap endpoint: an EndpointSlice of a selectorless Service, rewritten when the active side changes.

Addresses and epoch are written in one request that carries the resourceVersion they were decided on, so a late writer
is told 409 by the API server and then sees the later epoch. Annotations on the slice: `dcdr.io/epoch`,
`dcdr.io/active`.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
from kubernetes.aio import client as k8s
from kubernetes.aio.client.exceptions import ApiException

from dcdr.errors import ConflictError, InvalidRequestError, MisconfiguredError, SupersededError, UnreachableError
from dcdr.ports import EndpointView
from dcdr.settings import KubernetesEndpointSettings

EPOCH: Final = "dcdr.io/epoch"
ACTIVE: Final = "dcdr.io/active"
KEEP_ALIVE_S: Final = 75.0
"""The API server closes connections that were idle for 90 s; aiohttp would drop ours after 15 s."""
STARTING_S = 5.0
"""An API server that has just started forbids everything until it has read its rules."""
_POLL_S: Final = 0.1
_ATTEMPTS: Final = 3
"""Of a write that finds the slice changed under it: nobody writes it often enough for more."""


class _Slice(NamedTuple):
    """What we need of the slice."""

    resource_version: str
    addresses: frozenset[str]
    epoch: int


class KubernetesEndpoint:
    """`dcdr.ports.Endpoint`.

    `members`: data center -> its addresses (`host:port`), as they stand in the slice.
    Raises (every call): UnreachableError; MisconfiguredError when the slice is missing or we may not touch it.
    """

    def __init__(self, settings: KubernetesEndpointSettings, members: Mapping[str, Sequence[str]]) -> None:
        if not settings.api_server.startswith(("http://", "https://")):
            raise MisconfiguredError(f"endpoint.api_server: {settings.api_server!r} should look like https://host:6443")
        self._settings = settings
        self._members = {dc: _split(dc, addresses) for dc, addresses in members.items()}
        self._timeout = settings.request_timeout.total_seconds()
        self._api: k8s.DiscoveryV1Api | None = None
        self._connector: aiohttp.TCPConnector | None = None
        self._seen: _Slice | None = None
        """The slice as we last read or wrote it: a flip starts from it and saves a request when it still holds."""

    async def warm(self) -> None:
        """Connect, and read the slice once."""
        await self._read("warm up")

    async def close(self) -> None:
        api, self._api = self._api, None
        if api is not None:
            await api.api_client.close()
        if self._connector is not None:
            await self._connector.close()  # the session does not own what it was handed

    async def read(self) -> EndpointView:
        """The member whose addresses the slice holds, all of them and no others."""
        return self._view(await self._read("read"))

    async def flip(self, dc: str, epoch: int) -> None:
        """Write `dc`'s addresses and `epoch` at once, unless a later epoch stands there.

        Raises: SupersededError; InvalidRequestError for an unknown data center; ConflictError when others keep writing.
        """
        if dc not in self._members:
            raise InvalidRequestError(f"the endpoint knows {', '.join(sorted(self._members))}, not {dc!r}")
        seen = self._seen
        for _ in range(_ATTEMPTS):
            if seen is None:
                seen = await self._read("flip")
            if seen.epoch > epoch:
                fresh = await self._read("flip")
                if fresh.epoch > epoch:
                    raise SupersededError(
                        f"{self._name} carries epoch {fresh.epoch} (leading to {self._view(fresh).dc}); "
                        f"this write to {dc} belongs to epoch {epoch} and came too late: left as it is"
                    )
                seen = fresh
            try:
                await self._write(dc, epoch, seen)
            except _StaleError:
                seen = self._seen = None
                continue
            return
        raise ConflictError(f"{self._name} changed under {_ATTEMPTS} writes in a row: who else writes it?")

    # --- the slice

    @property
    def _name(self) -> str:
        return f"EndpointSlice {self._settings.namespace}/{self._settings.endpoint_slice}"

    def _view(self, seen: _Slice) -> EndpointView:
        for dc, (hosts, _) in self._members.items():
            if seen.addresses == frozenset(hosts):
                return EndpointView(dc, seen.epoch)
        return EndpointView(None, seen.epoch)

    async def _read(self, what: str) -> _Slice:
        settings = self._settings
        answer = await self._call(what, "read_namespaced_endpoint_slice", settings.endpoint_slice, settings.namespace)
        self._seen = self._parse(answer)
        return self._seen

    async def _write(self, dc: str, epoch: int, seen: _Slice) -> None:
        settings, (hosts, port) = self._settings, self._members[dc]
        body = {
            "metadata": {
                "resourceVersion": seen.resource_version,
                "annotations": {EPOCH: str(epoch), ACTIVE: dc},
            },
            "ports": [{"name": settings.port_name, "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [host], "conditions": {"ready": True}} for host in hosts],
        }
        answer = await self._call(
            f"flip to {dc}",
            "patch_namespaced_endpoint_slice",
            settings.endpoint_slice,
            settings.namespace,
            body,
            _content_type="application/merge-patch+json",
        )
        self._seen = self._parse(answer)

    def _parse(self, found: Mapping[str, Any]) -> _Slice:
        metadata = found["metadata"]
        written = (metadata.get("annotations") or {}).get(EPOCH, "0")
        try:
            epoch = int(written)
        except ValueError as error:
            raise MisconfiguredError(
                f"{self._name}: annotation {EPOCH} is {written!r}, not a number; repair it by hand"
            ) from error
        addresses = frozenset(one for each in found.get("endpoints") or [] for one in each["addresses"])
        return _Slice(metadata["resourceVersion"], addresses, epoch)

    # --- requests

    async def _call(self, what: str, method: str, *arguments: Any, **more: Any) -> dict[str, Any]:
        """The raw JSON object: the generated models would drop fields they do not know, and cost a millisecond.

        A 403 is believed when it stands for `STARTING_S`.
        """
        believed: float | None = None
        while True:
            status, body = await self._answer(what, method, *arguments, **more)
            if status == 200:
                found: dict[str, Any] = json.loads(body)
                return found
            if believed is None:
                believed = time.monotonic() + STARTING_S
            if status != 403 or time.monotonic() >= believed:
                raise self._trouble(what, status, body)
            await asyncio.sleep(_POLL_S)

    async def _answer(self, what: str, method: str, *arguments: Any, **more: Any) -> tuple[int, bytes | str]:
        try:
            api = self._connected()
            answer = await getattr(api, f"{method}_without_preload_content")(
                *arguments, _request_timeout=self._timeout, **more
            )
            return answer.status, await answer.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise UnreachableError(
                f"the Kubernetes API at {self._settings.api_server} did not answer ({what} {self._name}: "
                f"{str(error) or type(error).__name__}); whether it took effect is unknown"
            ) from error
        except ApiException as error:
            return int(error.status or 0), error.body or b""

    def _trouble(self, what: str, status: int, body: bytes | str) -> Exception:
        try:
            said = str(json.loads(body)["message"])
        except (ValueError, KeyError, TypeError):
            said = repr(body[:200])
        text = f"the Kubernetes API at {self._settings.api_server} refused ({what} {self._name}): {status} {said}"
        match status:
            case 409:
                return _StaleError(text)
            case 404:
                return MisconfiguredError(f"{text}. Create the Service and its slice, or correct the settings")
            case 401:
                return MisconfiguredError(f"{text}. Is the token in {self._settings.token_file} still good?")
            case 403:
                return MisconfiguredError(f"{text}. Grant get and patch on this EndpointSlice")
            case 429:
                return UnreachableError(f"{text}. It is overloaded")
            case code if code >= 500:
                return UnreachableError(text)
            case _:
                return MisconfiguredError(text)

    def _connected(self) -> k8s.DiscoveryV1Api:
        """The client; made in the first call, because aiohttp wants the running loop."""
        if self._api is None:
            settings = self._settings
            configuration = k8s.Configuration(
                host=settings.api_server, ssl_ca_cert=None if settings.ca_file is None else str(settings.ca_file)
            )
            if settings.token_file is not None:
                # Bound tokens are rotated in place, so the file is read again for each request.
                token_file = settings.token_file
                _load_token(configuration, token_file)
                hook = partial(_load_token, path=token_file)
                configuration.refresh_api_key_hook = hook  # type: ignore[assignment]  # its default None says None
            context: ssl.SSLContext | bool = True
            if settings.ca_file is not None:
                try:
                    context = ssl.create_default_context(cafile=str(settings.ca_file))
                except (OSError, ssl.SSLError) as error:
                    raise MisconfiguredError(f"cannot use the CA file {settings.ca_file}: {error}") from error
            # No proxy from the environment, and a connection that lives as long as the server lets it.
            self._connector = aiohttp.TCPConnector(keepalive_timeout=KEEP_ALIVE_S, ssl=context)
            configuration.client_session_kwargs = {"trust_env": False, "connector": self._connector}
            self._api = k8s.DiscoveryV1Api(k8s.ApiClient(configuration))
        return self._api


class _StaleError(ConflictError):
    """409: the slice is not at the resourceVersion we named."""


def _load_token(configuration: k8s.Configuration, path: Path) -> None:
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise MisconfiguredError(f"cannot read the token file {path}: {error.strerror}") from error
    configuration.api_key["BearerToken"] = token
    configuration.api_key_prefix["BearerToken"] = "Bearer"


def _split(dc: str, addresses: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Hosts and the one port they share. Raises: MisconfiguredError: a slice holds IPv4 addresses and one port."""
    hosts, ports = [], set()
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            parsed = IPv4Address(host)
        except ValueError as error:
            raise MisconfiguredError(f"endpoint {address} of {dc}: an EndpointSlice holds IPv4 addresses") from error
        if parsed.is_loopback or parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified:
            raise MisconfiguredError(f"endpoint {address} of {dc}: the API server refuses such an address in a slice")
        hosts.append(host)
        ports.add(int(port))
    if len(ports) != 1:
        raise MisconfiguredError(f"endpoints of {dc} use several ports ({sorted(ports)}): a slice has one for all")
    return tuple(hosts), ports.pop()
