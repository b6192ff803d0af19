"""Claims whose ends are durable give their ports back, a bounded part of them in each turn of the event loop.

A commit makes hundreds of ends durable at once, and each claim may have hundreds of ports. What is durable can wait:
until it is freed a port counts as taken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from allocator.core.claims import ClaimId

MOST_FREED = 1024
"""What claims weigh (see `claims.weight_of`) that are freed in one turn: some 5 to 10 ms. One claim may weigh more."""


class FreeingQueue:
    """See the module. `free` frees the ports of a claim that ended at a time, and gives what it weighed."""

    def __init__(self, free: Callable[[ClaimId, float], int]) -> None:
        self._free = free
        self._waiting: deque[tuple[deque[ClaimId], float, Callable[[], None]]] = deque()
        self._room = MOST_FREED
        self._is_counting = False  # a turn has begun in which something was freed

    def put(self, claim_ids: Iterable[ClaimId], at: float, done: Callable[[], None]) -> None:
        """Frees the ports of some claims, which ended at a time in seconds: now, where this turn has room, or soon.

        done: called when the ports of all of them are free.
        """
        self._waiting.append((deque(claim_ids), at, done))
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and self._room > 0:
            claim_ids, at, done = self._waiting[0]
            if claim_ids:
                self._room -= self._free(claim_ids.popleft(), at)
            else:
                self._waiting.popleft()
                done()
        if self._room < MOST_FREED and not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._room, self._is_counting = MOST_FREED, False
        self._go_on()
