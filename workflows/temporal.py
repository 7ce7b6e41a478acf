"""One place for what worker, starter, replayer and tests must agree on: converter, failure types, names, connection."""

from __future__ import annotations

from datetime import timedelta

from pydantic import ValidationError
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime

from dcdr.errors import UnreachableError

TASK_QUEUE = "dr"
CONVERTER = pydantic_data_converter
FAILURE_TYPES: list[type[BaseException]] = [ValidationError, TypeError]
"""Input that cannot be read fails the run; by default it would hang "Running" and could not even be cancelled."""
TASK_TIMEOUT = timedelta(seconds=3)


def site_queue(dc: str, task_queue: str = TASK_QUEUE) -> str:
    """Where the workers of one site, and no others, look for what has to be done from there."""
    return f"{task_queue}-{dc}"


def watch_id(scope: str) -> str:
    """The one workflow id of a scope's watch."""
    return f"dcdr/{scope}/watch"


def tail_id(scope: str) -> str:
    """The one workflow id of a scope's tail; the transition's stays free for what people want to do next."""
    return f"dcdr/{scope}/tail"


async def connect(identity: str | None = None, runtime: Runtime | None = None) -> Client:
    """Connect with Temporal's own profile and variables (`TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, ...).

    Raises: UnreachableError naming address and namespace.
    """
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "127.0.0.1:7233")
    try:
        if identity is None:
            return await Client.connect(**config, data_converter=CONVERTER, runtime=runtime)
        return await Client.connect(**config, data_converter=CONVERTER, identity=identity, runtime=runtime)
    except RuntimeError as error:
        raise UnreachableError(
            f"no Temporal service at {config['target_host']}, namespace {config.get('namespace', 'default')}: {error}. "
            "Set TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE, or TEMPORAL_PROFILE"
        ) from error
