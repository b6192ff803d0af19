"""Tells the owners of Pods what was warned of: a controller throws away what a webhook answers it.

Rules:

* Each owner is told of a word once in a while, however many Pods it makes: what was told lately is remembered.
* Nobody waits for it. What cannot be told is tried again with the owner's next Pod.
* As many owners and words are remembered, and as many tellings are under way or wait, as there is room for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from hostport.v1.allocator_pb2 import AllocateRequest, ReportWarningsRequest
from shim.admission import Answer

AGAIN_SECONDS = 3000.0
"""Until an owner is told of a word again. Events are kept for an hour."""

CLOSING_SECONDS = 1.0
MOST_REMEMBERED = 10_000
MOST_UNDER_WAY = 64
MOST_WAITING = 1000

Key = tuple[str, str]
"""The uid of an owner, and a word."""


class Teller:
    """See the module. `report` gives whether it was taken; `now` are seconds that pass."""

    def __init__(
        self, report: Callable[[ReportWarningsRequest], Awaitable[bool]], now: Callable[[], float] | None = None
    ) -> None:
        self._report = report
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._told: OrderedDict[Key, float] = OrderedDict()  # oldest first
        self._waiting: deque[ReportWarningsRequest] = deque()
        self._under_way: set[asyncio.Task[None]] = set()

    def tell(self, answer: Answer) -> None:
        """Returns at once."""
        asked = answer.asked
        if asked is None or asked.dry_run or not answer.warnings:
            return
        if not (asked.owner.controller_uid and asked.controller.kind):
            return  # who made the Pod reads the answer
        now, uid = self._now(), asked.owner.controller_uid
        lately = now - AGAIN_SECONDS
        news = [each for each in answer.warnings if self._told.get((uid, each.reason), lately) <= lately]
        if not news or len(self._waiting) >= MOST_WAITING:
            return
        request = _addressed(asked)
        for each in news:
            request.warnings.add(reason=each.reason, message=each.message)
        self._remember([(uid, each.reason) for each in news], now)
        self._waiting.append(request)
        self._go_on()

    async def close(self) -> None:
        """Ends what is under way and what waits, when it has had a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_SECONDS):
                while self._under_way:
                    await asyncio.wait(self._under_way)
        self._waiting.clear()
        for task in self._under_way:
            task.cancel()

    def _go_on(self) -> None:
        while self._waiting and len(self._under_way) < MOST_UNDER_WAY:
            task = asyncio.get_running_loop().create_task(self._send(self._waiting.popleft()))
            self._under_way.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._go_on()

    async def _send(self, request: ReportWarningsRequest) -> None:
        if not await self._report(request):
            for each in request.warnings:
                self._told.pop((request.controller_uid, each.reason), None)

    def _remember(self, keys: list[Key], now: float) -> None:
        for key in keys:
            self._told[key] = now
            self._told.move_to_end(key)
        while len(self._told) > MOST_REMEMBERED:
            self._told.popitem(last=False)


def _addressed(asked: AllocateRequest) -> ReportWarningsRequest:
    return ReportWarningsRequest(
        namespace=asked.owner.namespace, controller=asked.controller, controller_uid=asked.owner.controller_uid
    )
