"""What one shim takes on at a time, by request, byte, namespace and turn of the event loop.

Rules:

* Bodies that are under way, as far as they have come, and answers that are not read have `MOST_BYTES` together.
* One client, and one namespace, has at most half of what the others leave, so that something is always left.
* A turn of the event loop begins a bounded amount of work. Clients that are answered together ask again together. If
  all that they ask were read in one turn, nothing of it would leave before the last was read: shim and allocator would
  then wait for each other by turns, at 50 concurrent admissions for a third of the time.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from functools import lru_cache
from urllib.parse import parse_qs

from hostport.contract import Reason
from hostport.flags import duration
from hostport.v1.allocator_pb2 import AllocateRequest
from shim.outcomes import AllocateBy, Outcome, Unreachable

MOST_BYTES = 64 << 20
"""Bytes of all bodies that are under way, as far as they have come, and of answers that are not read. A Pod has some
thousand; a thousand of 3 MiB would be the end of us."""

SMALL_BODY = 64 << 10
"""Bytes. A quarter of everything is for bodies that are no larger: Pods must not wait for what is hardly one."""

DEFAULT_PATIENCE, LONGEST_PATIENCE = 10.0, 30.0
"""Seconds: `timeoutSeconds` of a webhook is 10 unless set, and never above 30."""

MARGIN = 0.3
"""Seconds before the API server's deadline in which our answer must travel."""

USUAL_QUERY = 64
"""Characters of a query, such as `timeout=10s`, whose meaning is kept."""

HEAVY = 64 << 10
"""Bytes of work that count as one piece more."""


def patience(timeout: str) -> float:
    """Seconds until the answer is due, from the `?timeout=` that the API server sends."""
    try:
        given = duration(timeout) or DEFAULT_PATIENCE
    except ValueError:
        given = DEFAULT_PATIENCE
    given = min(given, LONGEST_PATIENCE)
    return given - MARGIN if given >= 2 * MARGIN else given / 2


def patience_of(query: str) -> float:
    """Seconds, as `patience` says. An API server sends one query again and again; what is long is not kept."""
    return _usual_patience(query) if len(query) <= USUAL_QUERY else _read_patience(query)


def _read_patience(query: str) -> float:
    return patience(parse_qs(query).get("timeout", [""])[-1])


_usual_patience = lru_cache(maxsize=64)(_read_patience)


def _share_left(most: int, taken: int, has: int) -> int:
    """How much more one of many may take: it has at most half of what the others leave, so that some is always left.

    Were it half of everything, two of them would have all.
    """
    return (most - (taken - has)) // 2 - has


class AdmissionLimiter:
    """How much one shim takes on at a time. Requests take their parts by a `Permit`. Made inside an event loop."""

    def __init__(self, max_concurrent: int) -> None:
        """`max_concurrent`: requests whose bodies are whole, and questions to the allocator."""
        self.is_draining = False
        self.in_flight = 0  # from their headers on
        self._max_concurrent = max_concurrent
        self.answering = 0  # whose bodies are whole
        self.held_bytes = 0  # of bodies, and of answers that are not read
        self._bytes_of: Counter[str] = Counter()  # by address of the client
        self._asking: Counter[str] = Counter()  # by namespace
        self._idle = asyncio.Event()
        self._idle.set()

    def permit(self, peer: str, *, is_small: bool) -> Permit:
        """For a request whose headers have come from an address. `is_small`: its body says that it will be small."""
        self.in_flight += 1
        self._idle.clear()
        return Permit(self, peer, is_small=is_small)

    async def drained(self, *, patience: float) -> bool:
        """Waits so many seconds until nothing is under way; False when that takes too long."""
        try:
            await asyncio.wait_for(self._idle.wait(), patience)
        except TimeoutError:
            return False
        return True

    # -- for permits

    def take_bytes(self, peer: str, size: int, *, is_small: bool) -> bool:
        """Takes room for bytes of a client; False when there is none."""
        most = MOST_BYTES if is_small else MOST_BYTES * 3 // 4  # a quarter is for small bodies
        if self.held_bytes + size > most or size > _share_left(MOST_BYTES, self.held_bytes, self._bytes_of[peer]):
            return False
        self.held_bytes += size
        self._bytes_of[peer] += size
        return True

    def give_bytes(self, peer: str, size: int) -> None:
        """Gives back room that was taken."""
        self.held_bytes -= size
        self._bytes_of[peer] -= size
        if not self._bytes_of[peer]:
            del self._bytes_of[peer]

    def begin_answer(self, *, is_small: bool) -> bool:
        """Takes one of the requests that may be answered at a time; False when there is none."""
        most = self._max_concurrent if is_small else min(self._max_concurrent, max(1, self._max_concurrent * 3 // 4))
        if self.answering >= most:
            return False
        self.answering += 1
        return True

    def end_answer(self, namespace: str | None) -> None:
        """Gives it back, with the question of a namespace if there was one."""
        self.answering -= 1
        if namespace is not None:
            self._asking[namespace] -= 1
            if not self._asking[namespace]:
                del self._asking[namespace]

    def begin_question(self, namespace: str) -> int:
        """Takes one of the questions that a namespace may have under way. 0: it is taken; else how many it has."""
        has = self._asking[namespace]
        # A namespace has at most half of what the others leave.
        if has and not _share_left(self._max_concurrent, self._asking.total(), has):
            return has
        self._asking[namespace] += 1
        return 0

    def end_request(self) -> None:
        """A request is over."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()


class Permit:
    """One request, from its headers to its answer, and what it takes of what is bounded for all."""

    def __init__(self, limiter: AdmissionLimiter, peer: str, *, is_small: bool) -> None:
        self._limiter = limiter
        self._peer = peer
        self._is_small = is_small
        self._bytes = 0
        self._is_answering = self._has_left = False
        self._namespace: str | None = None  # whose question it asks

    def charge(self, size: int) -> bool:
        """More of the body has come, in bytes; False when there is no room for it."""
        if not self._limiter.take_bytes(self._peer, size, is_small=self._is_small):
            return False
        self._bytes += size
        return True

    def enter(self) -> bool:
        """The body is whole and is read from here on; False when too many are."""
        self._is_answering = self._limiter.begin_answer(is_small=self._is_small)
        return self._is_answering

    def ask(self, allocate: AllocateBy, deadline: float, request: AllocateRequest) -> Awaitable[Outcome]:
        """Asks the allocator, once, where the namespace has not as many questions under way as it may."""
        namespace = request.owner.namespace
        has = self._limiter.begin_question(namespace)
        if has:
            message = f"{has} reviews of namespace {namespace} are under way here, as many as it may have. Retry"
            return _at_once(Unreachable(Reason.TOO_MANY_REQUESTS, message))
        self._namespace = namespace
        return allocate(request, deadline=deadline)

    def forget_body(self) -> None:
        """The body is not needed any more."""
        if self._bytes:
            self._limiter.give_bytes(self._peer, self._bytes)
            self._bytes = 0

    def answered(self, unread: int) -> bool:
        """The answer is written, and so many bytes are not read yet; False when there is no room to keep them.

        What is not read counts as a large body does: room for small ones is left.
        """
        self._end_answer()
        self._is_small = False
        return self.charge(unread)

    def leave(self) -> None:
        """Its answer is read, or nobody waits any more."""
        if self._has_left:
            return
        self._has_left = True
        self._end_answer()
        self._limiter.end_request()

    def _end_answer(self) -> None:
        self.forget_body()
        if self._is_answering:
            self._limiter.end_answer(self._namespace)
            self._is_answering, self._namespace = False, None


async def _at_once(outcome: Outcome) -> Outcome:
    return outcome


class TurnLimiter:
    """Lets `most` pieces of work begin in a turn, and others in the next ones, in their order."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most
        self._waiting: deque[tuple[Callable[[], None], int]] = deque()

    def begin(self, work: Callable[[], None], size: int = 0) -> None:
        """Begins a piece of work now or in its turn.

        Args:
            work: what begins it. It is called once, and must not raise.
            size: the bytes that it has to do with. A large piece counts as several, and may have a turn for itself.

        """
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
