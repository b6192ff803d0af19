"""What the requests of one shim share: whom to ask, how many are under way, and how long each may take."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import Protocol

from hostport.contract import Reason
from hostport.flags import duration
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse, ReportWarningsRequest
from shim.admission import Answer, admit
from shim.metrics import Metrics
from shim.outcomes import Refused, Unreachable
from shim.telling import Teller

MOST_BYTES = 64 << 20
"""Bytes of all bodies that are under way, as far as they have come, and of answers that are not read. A Pod has some
thousand; a thousand of 3 MiB would be the end of us."""

SMALL_BODY = 64 << 10
"""Bytes. A quarter of everything is for bodies that are no larger: Pods must not wait for what is hardly one."""

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

    async def report(self, request: ReportWarningsRequest) -> bool:
        """Tells what was warned of; whether it was taken."""


def patience(timeout: str) -> float:
    """Seconds until the answer is due, from the `?timeout=` that the API server sends."""
    try:
        given = duration(timeout) or DEFAULT_PATIENCE
    except ValueError:
        given = DEFAULT_PATIENCE
    given = min(given, LONGEST_PATIENCE)
    return given - MARGIN if given >= 2 * MARGIN else given / 2


def _share_left(most: int, taken: int, has: int) -> int:
    """How much more one of many may take: it has at most half of what the others leave, so that some is always left.

    Were it half of everything, two of them would have all.
    """
    return (most - (taken - has)) // 2 - has


class Visit:
    """One request, from its headers to its answer, and what it takes of what is bounded for all."""

    def __init__(self, desk: Desk, peer: str, *, is_small: bool) -> None:
        self._desk = desk
        self._peer = peer
        self._is_small = is_small
        self._bytes = 0
        self._is_answered_for = self._has_left = False

    def charge(self, size: int) -> bool:
        """More of the body has come; False when there is no room for it."""
        if not self._desk.has_room(self._peer, size, is_small=self._is_small):
            return False
        self._bytes += size
        self._desk.hold(self._peer, size)
        return True

    def enter(self) -> bool:
        """The body is whole and is read from here on; False when too many are."""
        self._is_answered_for = self._desk.take(is_small=self._is_small)
        return self._is_answered_for

    def forget_body(self) -> None:
        if self._bytes:
            self._desk.hold(self._peer, -self._bytes)
            self._bytes = 0

    def answered(self, unread: int) -> bool:
        """The answer is written, and so many bytes are not read yet; False when there is no room to keep them.

        What is not read counts as a large body does: room for small ones is left.
        """
        self._desk.end_answering(is_answered_for=self._is_answered_for)
        self._is_answered_for, self._is_small = False, False
        self.forget_body()
        return not unread or self.charge(unread)

    def leave(self) -> None:
        """Its answer is read, or nobody waits any more."""
        if self._has_left:
            return
        self._has_left = True
        self.forget_body()
        self._desk.end_answering(is_answered_for=self._is_answered_for)
        self._desk.leave()


class Desk:
    """What the handlers share: whom to ask, what to count, how many at once."""

    def __init__(
        self, *, allocator: Allocator, metrics: Metrics, max_concurrent: int, own_network: bool = False
    ) -> None:
        self.metrics = metrics
        self.is_draining = False
        self._allocator = allocator
        self._max_concurrent = max_concurrent
        self._own_network = own_network  # of a Pod that does not say
        self._in_flight = 0  # from their headers on
        metrics.in_flight.set_function(lambda: self._in_flight)
        self._answering = 0  # whose bodies are whole
        self._bytes = 0
        self._bytes_of: Counter[str] = Counter()
        self._asking: Counter[str] = Counter()  # by namespace
        self._teller = Teller(allocator.report)
        self._idle = asyncio.Event()
        self._idle.set()

    async def admit(self, body: bytes, *, deadline: float) -> Answer | Unreachable:
        soon = min(deadline, asyncio.get_running_loop().time() + PROBE_PATIENCE)
        answer = await admit(
            body,
            partial(self._ask, deadline=deadline),
            probe=partial(self._ask, deadline=soon),
            own_network=self._own_network,
        )
        if isinstance(answer, Answer):
            self._teller.tell(answer)
        return answer

    async def _ask(self, request: AllocateRequest, *, deadline: float) -> AllocateResponse | Refused | Unreachable:
        clock = asyncio.get_running_loop().time
        began, namespace = clock(), request.owner.namespace
        has = self._asking[namespace]
        if has and not _share_left(self._max_concurrent, self._asking.total(), has):
            message = f"{has} reviews of namespace {namespace} are under way here, as many as it may have. Retry"
            return Unreachable(Reason.TOO_MANY_REQUESTS.name, message)
        self._asking[namespace] += 1
        try:
            return await self._allocator.allocate(request, deadline=deadline)
        finally:
            self._asking[namespace] -= 1
            if not self._asking[namespace]:
                del self._asking[namespace]
            self.metrics.rpc_seconds.observe(clock() - began)

    def visit(self, peer: str, *, is_small: bool) -> Visit:
        """The headers of a request have come from an address, and its body will be small or may be large."""
        self._in_flight += 1
        self._idle.clear()
        return Visit(self, peer, is_small=is_small)

    # -- for visits

    def has_room(self, peer: str, size: int, *, is_small: bool) -> bool:
        most = MOST_BYTES if is_small else MOST_BYTES * 3 // 4
        return self._bytes + size <= most and size <= _share_left(MOST_BYTES, self._bytes, self._bytes_of[peer])

    def hold(self, peer: str, size: int) -> None:
        self._bytes += size
        self._bytes_of[peer] += size
        if not self._bytes_of[peer]:
            del self._bytes_of[peer]

    def take(self, *, is_small: bool) -> bool:
        most = self._max_concurrent if is_small else min(self._max_concurrent, max(1, self._max_concurrent * 3 // 4))
        if self._answering >= most:
            return False
        self._answering += 1
        return True

    def end_answering(self, *, is_answered_for: bool) -> None:
        self._answering -= is_answered_for

    def leave(self) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()

    async def drained(self, *, patience: float) -> bool:
        """Waits until nothing is under way; False when that takes too long."""
        try:
            await asyncio.wait_for(self._idle.wait(), patience)
        except TimeoutError:
            return False
        finally:
            await self._teller.close()
        return True
