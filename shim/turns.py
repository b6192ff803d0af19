"""A bounded amount of work in each turn of the event loop.

Clients that are answered together ask again together. If all that they ask were read in one turn, nothing of it would
leave before the last was read: shim and allocator would then wait for each other by turns, at 50 concurrent admissions
for a third of the time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """Lets `most` pieces of work begin in a turn, and others in the next ones, in their order."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most
        self._waiting: deque[Callable[[], None]] = deque()

    def begin(self, work: Callable[[], None]) -> None:
        if not self._left:
            self._waiting.append(work)
            return
        if self._left == self._most:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._left -= 1
        work()

    def _next_turn(self) -> None:
        self._left = self._most
        for _ in range(min(self._most, len(self._waiting))):
            self.begin(self._waiting.popleft())
