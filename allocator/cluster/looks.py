"""Looks at the API server: so many side by side, and no more than half of them for one namespace.

What one namespace has beyond that waits behind its own, so that another's look waits for a few at most, however many
the first one asks for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar
from weakref import WeakValueDictionary

MOST = 16
MOST_OF_ONE = MOST // 2

T = TypeVar("T")


class Looks:
    """Those that are under way."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(MOST)
        self._of_one: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # while somebody has it

    async def of(self, asker: str, look: Callable[[], Awaitable[T]]) -> T:
        """Looks when it is the asker's turn."""
        share = self._of_one.get(asker)
        if share is None:
            share = self._of_one[asker] = asyncio.Semaphore(MOST_OF_ONE)
        async with share, self._all:
            return await look()
