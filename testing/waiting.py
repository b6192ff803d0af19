"""Waiting for what happens beside the test, in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(holds: Callable[[], object], *, seconds: float = 30, every: float = 0.005) -> None:
    """Returns when it holds.

    Raises:
        TimeoutError: it did not within so many seconds.

    """
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(every)
