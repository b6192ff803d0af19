"""Reports warnings to the owners of Pods, by way of the allocator: a controller throws away what a webhook answers it.

Rules:

* An owner gets one report of a word in `AGAIN_SECONDS`, however many Pods it makes: recent reports are remembered.
* No admission waits for a report. One that failed is made again with the owner's next Pod.
* The numbers of reports that are remembered, wait and are under way are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from hostport.v1.allocator_pb2 import AllocateRequest, ReportWarningsRequest
from shim.admission import AdmissionAnswer

AGAIN_SECONDS = 3000.0
"""Until an owner is told of a word again. Events are kept for an hour."""

CLOSING_SECONDS = 1.0
MOST_REMEMBERED = 10_000
MOST_UNDER_WAY = 64
MOST_WAITING = 1000

WarnedOf = tuple[str, str]
"""The uid of an owner, and a word."""


class WarningReporter:
    """Reports each warning once in a while. Must be used inside one event loop."""

    def __init__(
        self, report: Callable[[ReportWarningsRequest], Awaitable[bool]], now: Callable[[], float] | None = None
    ) -> None:
        """`report` sends a report and says whether that is done with; `now` gives seconds, by default the loop's."""
        self._send_report = report
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._reported: OrderedDict[WarnedOf, float] = OrderedDict()  # oldest first
        self._waiting: deque[ReportWarningsRequest] = deque()
        self._under_way: set[asyncio.Task[None]] = set()

    def report(self, answer: AdmissionAnswer) -> None:
        """Reports what an answer warns of, if its Pod has an owner that has not heard it lately. Returns at once."""
        asked = answer.asked
        if asked is None or asked.dry_run or not answer.warnings:
            return
        uid = asked.owner.controller_uid
        if not (uid and asked.controller.kind):
            return  # a bare Pod: who made it reads the answer
        now = self._now()
        lately = now - AGAIN_SECONDS
        # An owner gets a word once in a while.
        news = [each for each in answer.warnings if self._reported.get((uid, each.reason), lately) <= lately]
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
        if not await self._send_report(request):  # the owner's next Pod tries again
            for each in request.warnings:
                self._reported.pop((request.controller_uid, each.reason), None)

    def _remember(self, keys: list[WarnedOf], now: float) -> None:
        for key in keys:
            self._reported[key] = now
            self._reported.move_to_end(key)
        while len(self._reported) > MOST_REMEMBERED:
            self._reported.popitem(last=False)


def _addressed(asked: AllocateRequest) -> ReportWarningsRequest:
    """A report to whoever made the Pod, without warnings yet."""
    return ReportWarningsRequest(
        namespace=asked.owner.namespace, controller=asked.controller, controller_uid=asked.owner.controller_uid
    )
