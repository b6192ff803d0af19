"""The numbers that may be given next, for the agents that keep numbers out of outgoing connections.

Rules:

* A number that is kept from when it is given may be one that a connection took before. So the lowest numbers of each
  range that `Dynamic` chooses from are kept before: as many as were given of it, and `AHEAD` more. All agents are
  told where that changes, so it grows by `MORE_AT_ONCE` and not with every number.
* Who asks for a range that no agent was told of waits until they keep enough of what is left of it: `ENOUGH` numbers,
  or all where there are fewer. A connection that has a number may last, so that is waited for `WAIT_SECONDS` at most,
  and nobody waits for a range any more after that. Meanwhile the agents look again and again, as connections end.
* Whatever is asked, `MOST_UPCOMING` numbers are kept so, of `MOST_RANGES` ranges, those that were asked for last first.
  The set is the same for all nodes, so that what their agents say of it is one thing for most of them. All of them are
  told when it changes: so which range was asked for last is known to `MOVED_SECONDS`, and in that time one new range at
  most takes the place of another.
* At most `MOST_WAITED` ranges are waited for at a time, and each looks at the agents once in `POLL_SECONDS`.
* Ranges are not journalled. After a start the first to ask for one waits again.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf

from allocator.core.asks import Ask
from allocator.core.candidates import ANYWHERE, Constraints, NodeName
from allocator.core.ports import lowest, span
from allocator.core.view import NodesView
from allocator.sight import POLL_SECONDS, WaitingLines

AHEAD, MORE_AT_ONCE = 512, 128
MOST_UPCOMING = 4096
"""Numbers: a seventh of the range that Linux leaves to outgoing connections."""

MOST_RANGES = 32
MOST_WAITED = 4
ENOUGH = 128
"""Numbers of a range that are to be kept before the first of it is given."""

WAIT_SECONDS = 1.5
"""With all else that a decision may wait for (two seconds of `allocator.sight` before it, and half a one for what is
looked up before a denial) it is four seconds, and the API server gives a webhook five. An agent has answered after a
third of a second, and most connections of a program that opens many last less."""

AGAIN_SECONDS = 0.3
"""Between two looks of an agent that keeps too few numbers."""

MOVED_SECONDS = 60.0

Range = tuple[int, int]


@dataclass(slots=True)
class _Asked:
    """A range that was asked for.

    until: when nobody waits for it any more. moved: when it became the one that was asked for last. asked_again: when
    agents were asked to look again. given: of its numbers those given once. behind: the agents that kept too few when
    that was looked at last, and for whom and when.
    """

    until: float
    moved: float
    asked_again: float
    given: int = 0
    behind: tuple[Constraints, float, list[NodeName]] = (ANYWHERE, 0.0, [])


class Upcoming:
    """See the module. `now`: seconds of a clock that never goes back."""

    now = staticmethod(time.monotonic)

    def __init__(self, nodes: NodesView, report_now: Callable[[NodeName], bool]) -> None:
        """report_now: has the agent of a node look."""
        self.is_kept = False  # whether any agent keeps numbers: else nothing need be asked here
        self._nodes = nodes
        self._report_now = report_now
        self._lines = WaitingLines()
        self._ranges: OrderedDict[Range, _Asked] = OrderedDict()  # the one that was asked for last is at the end
        self._displaced = -inf  # when a new range took the place of another
        self._numbers = 0

    def ask(self, ask: Ask) -> Awaitable[None] | None:
        """Notes what somebody asks for. Gives what is to be waited for before that is decided; None: nothing."""
        if not (ask.policy.is_searched and self._nodes.sockets.outgoing):
            return None
        key = ask.low, ask.high
        if not self._of(key):
            return None
        known, now = self._ranges.get(key), self.now()
        if known is None:
            if len(self._ranges) >= MOST_RANGES:
                if now - self._displaced < MOVED_SECONDS:
                    return None
                self._displaced = now
                self._ranges.popitem(last=False)
            waited = sum(now < each.until for each in self._ranges.values())
            known = self._ranges[key] = _Asked(now + WAIT_SECONDS if waited < MOST_WAITED else now, now, now)
        elif now - known.moved >= MOVED_SECONDS:
            known.moved = now
            self._ranges.move_to_end(key)
        return self._answered(ask, known) if now < known.until else None

    def note_given(self, numbers: int) -> None:
        """A node whose agent keeps numbers has these, as a set."""
        self.is_kept = True
        for key, asked in self._ranges.items():
            asked.given |= numbers & span(*key)

    def numbers(self) -> int:
        """The numbers that may be given next, as a set; the same object as long as they are the same."""
        found = 0
        for key, asked in reversed(self._ranges.items()):
            of_range, left = self._of(key), MOST_UPCOMING - found.bit_count()
            if of_range and left > 0:
                given = -(-asked.given.bit_count() // MORE_AT_ONCE) * MORE_AT_ONCE  # rounded up
                begin, count = lowest(of_range), min(left, given + AHEAD)
                found |= of_range & span(begin, begin + count - 1)
        if found != self._numbers:
            self._numbers = found
        return self._numbers

    def _of(self, key: Range) -> int:
        """Of a range the numbers that outgoing connections take on a node whose agent keeps some."""
        return span(*key) & self._nodes.sockets.reserving() if key[0] <= key[1] else 0

    async def _answered(self, ask: Ask, asked: _Asked) -> None:
        """Returns when the agents of candidates that reserve keep enough, or nobody waits for the range any more."""
        until = asyncio.get_running_loop().time() + WAIT_SECONDS
        await self._lines.wait((ask.low, ask.high), lambda: self._must_wait(ask, asked), until)

    def _must_wait(self, ask: Ask, asked: _Asked) -> bool:
        now, (constraints, looked, behind) = self.now(), asked.behind
        if now >= asked.until:
            return False
        if constraints != ask.constraints or now - looked >= POLL_SECONDS:
            left = self._of((ask.low, ask.high)) & ~asked.given
            behind = self._nodes.agents_behind(ask.constraints, left, ENOUGH)
            asked.behind = ask.constraints, now, behind
        if behind and now - asked.asked_again >= AGAIN_SECONDS:
            asked.asked_again = now
            for name in behind:
                self._report_now(name)
        return bool(behind)
