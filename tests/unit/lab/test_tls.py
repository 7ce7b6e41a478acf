"""The lab's certificates, shown by an agent and a broker's side over a real connection."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from agent.__main__ import _context, _listening
from dcdr.settings import TlsSettings
from lab import tls
from lab.addresses import Address, make_plan, port_is_free
from lab.errors import LabError
from lab.record import Home

PLAN = make_plan("127.20.7", 1, port_is_free)
AGENT: Address = PLAN.ports["agent-dc-a/marker"]


def made(path: Path) -> Home:
    home = Home("one", path)
    home.create()
    tls.ensure(home, PLAN)
    return home


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    """Certificates, and an agent of dc-a that answers where the plan says."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="a marker")

    home, app = made(tmp_path / "one"), web.Application()
    app.router.add_get("/", answer)
    async with _listening(app, str(AGENT), _context(TlsSettings(**tls.files(home, "agent-dc-a")))):
        yield home


def broker(home: Home, name: str = "kafka-dc-a-1", shows: bool = True) -> ssl.SSLContext:
    files = tls.files(home, name)
    context = ssl.create_default_context(cafile=str(files["ca"]))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if shows:
        context.load_cert_chain(files["certificate"], files["key"])
    return context


async def ask(context: ssl.SSLContext) -> str:
    async with httpx.AsyncClient(verify=context, trust_env=False, timeout=10.0) as http:
        return (await http.get(f"https://{AGENT}/")).text


async def test_a_broker_and_its_agent_know_each_other(home: Home) -> None:
    assert await ask(broker(home)) == "a marker"


async def test_nobody_is_answered_without_a_certificate_or_with_an_agents(home: Home) -> None:
    for context in (broker(home, shows=False), broker(home, "agent-dc-b")):
        with pytest.raises(httpx.TransportError):
            await ask(context)


async def test_another_labs_broker_and_agent_refuse_each_other(home: Home, tmp_path: Path) -> None:
    stranger = broker(made(tmp_path / "two"))
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        await ask(stranger)
    stranger.load_verify_locations(tls.files(home, "agent-dc-a")["ca"])
    with pytest.raises(httpx.TransportError):
        await ask(stranger)


async def test_an_agent_is_believed_at_its_own_address_only(home: Home) -> None:
    files = TlsSettings(**tls.files(home, "agent-dc-b"))
    app = web.Application()
    other = Address(PLAN.site("dc-a"), PLAN.ports["agent-dc-a/status"].port)
    async with _listening(app, str(other), _context(files)), httpx.AsyncClient(verify=broker(home)) as http:
        with pytest.raises(httpx.ConnectError, match="IP address mismatch"):
            await http.get(f"https://{other}/")


def test_keys_are_what_the_authorizer_reads_and_nobody_else_may(tmp_path: Path) -> None:
    home = made(tmp_path / "one")
    for name in ("agent-dc-a", "kafka-dc-b-1"):
        key = tls.files(home, name)["key"]
        assert key.read_text().startswith("-----BEGIN PRIVATE KEY-----\n"), "PKCS#8 without a password"
        assert key.stat().st_mode & 0o077 == 0


def test_they_are_made_once(tmp_path: Path) -> None:
    home = made(tmp_path / "one")
    before = {file: file.read_bytes() for file in (home.secrets / "tls").iterdir()}
    tls.ensure(home, PLAN)
    assert {file: file.read_bytes() for file in (home.secrets / "tls").iterdir()} == before


def test_a_machine_without_openssl_is_told_so_and_nothing_half_made_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="make setup"):
        made(tmp_path / "one")
    assert not (tmp_path / "one" / "secrets" / "tls").exists()
