"""`python -m worker --settings FILE`: serve the scopes of a settings file until SIGTERM or SIGINT.

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
from pathlib import Path

from adapters.directory import build_directory
from dcdr.errors import DcdrError, MisconfiguredError, UnreachableError
from dcdr.logs import configure
from dcdr.settings import Settings, settings_path
from worker.assembly import build_worker
from worker.finder import find_forever
from workflows.temporal import connect

log = logging.getLogger("dcdr.worker")


async def serve(settings: Settings) -> None:
    """Run until a signal arrives, then let running steps finish."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    client = await connect(identity=f"dcdr-worker@{socket.gethostname()}:{os.getpid()}")
    directory = build_directory(settings)
    try:
        await directory.warm()
        async with build_worker(client, directory):
            finder = asyncio.create_task(find_forever(client, directory))
            log.info("serving scopes %s", ", ".join(directory.names()))
            await stop.wait()
            finder.cancel()
    finally:
        await directory.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--settings", type=Path, help="settings file (default: $DCDR_SETTINGS)")
    parser.add_argument("--log-format", choices=("json", "text"), default="text")
    given = parser.parse_args()
    configure(given.log_format)
    try:
        asyncio.run(serve(Settings.load(settings_path(given.settings))))
    except MisconfiguredError as error:
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
