"""Lead a site's store member through the links of that site.

An etcd member has one advertised peer URL, the same for all members, so the URL itself cannot say through which link a
given source must go. The URL therefore names a host (`dc-b.etcd`) that nobody resolves; each member is started with
HTTPS_PROXY pointing at its own site's port here, dials peers with CONNECT, and is led to its own link.

    python -m lab.egress CONFIG     {"<listen host:port>": {"<name>": "<host:port>", ...}, ...}
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from lab.addresses import Address

HEAD_LIMIT_S = 5.0


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, then pass the end on."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def splice(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Address, greeting: bytes = b""
) -> None:
    """Connect two TCP streams. Raises: OSError when the target does not accept."""
    onward, back = await asyncio.open_connection(target.host, target.port)
    writer.write(greeting)
    await asyncio.gather(pump(reader, back), pump(onward, writer))


async def serve(listen: Address, routes: Mapping[str, Address]) -> asyncio.Server:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_LIMIT_S)
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            route = routes.get(target.rpartition(":")[0])
            if method != "CONNECT" or route is None:
                writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                return
            await splice(reader, writer, route, b"HTTP/1.1 200 OK\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ValueError):
            pass  # the caller sees a closed connection and dials again, as with any broken link
        finally:
            writer.close()

    return await asyncio.start_server(handle, listen.host, listen.port)


async def main(table: Mapping[str, Mapping[str, str]]) -> None:
    for listen, routes in table.items():
        await serve(Address.parse(listen), {name: Address.parse(target) for name, target in routes.items()})
    print(f"leading {len(table)} sites", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
