"""Looking for ever: what an agent does beside keeping the lease must not end, and must not end the keeping either."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from dcdr.errors import DcdrError


async def for_ever(look: Callable[[], Awaitable[None]], seconds: float, log: logging.Logger, trouble: str) -> None:
    """Call `look` every `seconds`; whatever it raises is logged behind `trouble`, a defect with its trace."""
    while True:
        try:
            await look()
        except Exception as error:
            log.warning("%s: %s", trouble, error, exc_info=not isinstance(error, DcdrError))
        await asyncio.sleep(seconds)
