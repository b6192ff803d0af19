"""What the requests of one shim share: whom to ask, how many are under way, and how long each may take."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol

from hostport.flags import duration
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse
from shim.admission import Answer, admit
from shim.metrics import Metrics
from shim.outcomes import Refused, Unreachable

MOST_BYTES = 64 << 20
"""Bytes of all bodies that are under way. A Pod has some thousand; a thousand of 3 MiB would be the end of us."""

DEFAULT_PATIENCE, LONGEST_PATIENCE = 10.0, 30.0
"""Seconds: `timeoutSeconds` of a webhook is 10 unless set, and never above 30."""

MARGIN = 0.3
"""Seconds before the API server's deadline in which our answer must travel."""

PROBE_PATIENCE = 0.5
"""Seconds that a denial waits to hear what else is wrong."""


class Allocator(Protocol):
    """What is asked, with a deadline of the event loop's clock."""

    async def allocate(self, request: AllocateRequest, *, deadline: float) -> AllocateResponse | Refused | Unreachable:
        """Never raises for what an allocator may answer."""


def patience(timeout: str) -> float:
    """Seconds until the answer is due, from the `?timeout=` that the API server sends."""
    try:
        given = duration(timeout) or DEFAULT_PATIENCE
    except ValueError:
        given = DEFAULT_PATIENCE
    given = min(given, LONGEST_PATIENCE)
    return given - MARGIN if given >= 2 * MARGIN else given / 2


class Desk:
    """What the handlers share: whom to ask, what to count, how many at once."""

    def __init__(self, *, allocator: Allocator, metrics: Metrics, max_concurrent: int) -> None:
        self.metrics = metrics
        self.is_draining = False
        self._allocator = allocator
        self._max_concurrent = max_concurrent
        self._in_flight = 0
        self._bytes = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def admit(self, body: bytes, *, deadline: float) -> Answer | Unreachable:
        soon = min(deadline, asyncio.get_running_loop().time() + PROBE_PATIENCE)
        return await admit(body, partial(self._ask, deadline=deadline), probe=partial(self._ask, deadline=soon))

    async def _ask(self, request: AllocateRequest, *, deadline: float) -> AllocateResponse | Refused | Unreachable:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            return await self._allocator.allocate(request, deadline=deadline)
        finally:
            self.metrics.rpc_seconds.observe(clock() - began)

    def enter(self, size: int) -> bool:
        """Counts a request with a body of so many bytes in; False when there are too many."""
        if self._in_flight >= self._max_concurrent or self._bytes + size > MOST_BYTES:
            return False
        self._in_flight += 1
        self._bytes += size
        self.metrics.in_flight.inc()
        self._idle.clear()
        return True

    def leave(self, size: int) -> None:
        self._in_flight -= 1
        self._bytes -= size
        self.metrics.in_flight.dec()
        if not self._in_flight:
            self._idle.set()

    async def drained(self, *, patience: float) -> bool:
        """Waits until nothing is under way; False when that takes too long."""
        try:
            await asyncio.wait_for(self._idle.wait(), patience)
        except TimeoutError:
            return False
        return True
