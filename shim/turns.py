"""A bounded amount of work in each turn of the event loop.

Clients that are answered together ask again together. If all that they ask were read in one turn, nothing of it would
leave before the last was read: shim and allocator would then wait for each other by turns, at 50 concurrent admissions
for a third of the time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

HEAVY = 64 << 10
"""Bytes of work that count as one piece more."""


class Turns:
    """Lets `most` pieces of work begin in a turn, and others in the next ones, in their order."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most
        self._waiting: deque[tuple[Callable[[], None], int]] = deque()

    def begin(self, work: Callable[[], None], size: int = 0) -> None:
        """Begins a piece now or in its turn. One of so many bytes counts as several, and may have a turn for itself."""
        if self._left <= 0 or self._waiting:
            self._waiting.append((work, size))
            return
        self._begin(work, size)

    def _begin(self, work: Callable[[], None], size: int) -> None:
        if self._left == self._most:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._left -= 1 + size // HEAVY
        work()

    def _next_turn(self) -> None:
        self._left = self._most
        while self._waiting and self._left > 0:
            self._begin(*self._waiting.popleft())
