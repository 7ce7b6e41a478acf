"""A worker in a process of its own, over a stand-in world that outlives it: `python -m tests.workflows.worker_process`.

It serves one world (a file) on one task queue, and prints "ready" once it polls.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from temporalio.client import Client

from adapters.memory import memory_directory
from dcdr.logs import configure
from worker.assembly import build_worker
from workflows.temporal import CONVERTER


async def serve(address: str, namespace: str, queue: str, world: Path) -> None:
    client = await Client.connect(address, namespace=namespace, data_converter=CONVERTER)
    async with build_worker(client, memory_directory(world), task_queue=queue):
        print("ready", flush=True)
        await asyncio.Event().wait()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    for name in ("--address", "--namespace", "--queue"):
        parser.add_argument(name, required=True)
    parser.add_argument("--world", type=Path, required=True)
    given = parser.parse_args(arguments)
    configure("text")
    asyncio.run(serve(given.address, given.namespace, given.queue, given.world))


if __name__ == "__main__":
    main()
