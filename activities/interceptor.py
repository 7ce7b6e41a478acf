"""Around every step: a heartbeat, the failpoints, one log line, and our errors turned into Temporal failures."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.worker import (
    ActivityInboundInterceptor,
    ActivityOutboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
)

from activities.failpoints import Failpoints
from dcdr.errors import DcdrError, NotYetError, TransientError
from dcdr.model import StepInput

HEARTBEAT_SECONDS = 0.5
BEATS_ITSELF = frozenset({"lease.watch"})
"""Steps whose beat says more than that this process lives."""
log = logging.getLogger("dcdr.step")


def to_failure(error: DcdrError) -> ApplicationError:
    """Only `TransientError` is retried; waiting (`NotYetError`) does not look like failing in logs and metrics."""
    benign = isinstance(error, NotYetError)
    return ApplicationError(
        str(error),
        type=type(error).__name__,
        non_retryable=not isinstance(error, TransientError),
        category=ApplicationErrorCategory.BENIGN if benign else ApplicationErrorCategory.UNSPECIFIED,
    )


class StepInterceptor(Interceptor):
    """Wraps every activity of a worker."""

    def __init__(self, failpoints: Failpoints | None = None) -> None:
        self._failpoints = failpoints or Failpoints.from_environment()

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        return _Around(next, self._failpoints)


class _Around(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, failpoints: Failpoints) -> None:
        super().__init__(following)
        self._failpoints = failpoints

    def init(self, outbound: ActivityOutboundInterceptor) -> None:
        super().init(_Beating(outbound))

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        info = activity.info()
        step = info.activity_type
        fields = _fields(input, step, info.attempt)
        # The beat proves that this process lives, not that the step gets anywhere: every step has its own deadline.
        beat = None if step in BEATS_ITSELF else asyncio.create_task(_beat())
        began = time.monotonic()
        try:
            await self._failpoints.reach(step, "before")
            result = await super().execute_activity(input)
            await self._failpoints.reach(step, "after")
        except DcdrError as error:
            level = logging.INFO if isinstance(error, NotYetError) else logging.WARNING
            log.log(level, "%s: %s", step, error, extra=fields)
            raise to_failure(error) from error
        finally:
            if beat is not None:
                beat.cancel()
                with suppress(asyncio.CancelledError):
                    await beat
        log.info("%s done in %.1f ms", step, (time.monotonic() - began) * 1000, extra=fields)
        return result


class _Beating(ActivityOutboundInterceptor):
    """A bare beat repeats what the step said last: otherwise it would wipe that from the UI."""

    _said: tuple[Any, ...] = ()

    def heartbeat(self, *details: Any) -> None:
        self._said = details or self._said
        super().heartbeat(*self._said)


async def _beat() -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        activity.heartbeat()


def _fields(input: ExecuteActivityInput, step: str, attempt: int) -> dict[str, Any]:  # noqa: A002
    fields: dict[str, Any] = {"step": step, "attempt": attempt}
    if input.args and isinstance(input.args[0], StepInput):
        operation = input.args[0].operation
        fields |= {"scope": operation.scope, "transition": operation.id, "dc": operation.source}
    return fields
