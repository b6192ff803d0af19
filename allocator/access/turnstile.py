"""How many calls of users are under way: in all, and of each.

A call counts until its answer has left, so that an answer that nobody reads is bounded in number as well. Shims do not
come through here: their answers are small, and Pods must not wait for those who lease.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any, Protocol

from allocator.access.callers import Caller
from allocator.core.asks import Mistake, Refused
from hostport.contract import Reason

MOST_OF_ONE = 64
MOST = 256


class Call(Protocol):
    """What we need of gRPC's context of a call."""

    def add_done_callback(self, callback: Any, /) -> None:
        """Called when the call is over, its answer sent or given up."""


class Turnstile:
    """Counts users' calls in and out."""

    def __init__(self) -> None:
        self.under_way: Counter[str] = Counter()
        self.total = 0

    def enter(self, call: Call, caller: Caller) -> None:
        """Raises Refused where there are too many."""
        if self.under_way[caller.name] >= MOST_OF_ONE or self.total >= MOST:
            whose = f"{caller.name} has" if self.total < MOST else "all callers together have"
            message = f"{whose} too many calls under way. Read the answers, then retry"
            raise Refused(Mistake(Reason.TOO_MANY_CALLS, "", message))
        self.under_way[caller.name] += 1
        self.total += 1
        call.add_done_callback(partial(self._leave, caller.name))

    def _leave(self, name: str, _: object) -> None:
        self.total -= 1
        self.under_way[name] -= 1
        if not self.under_way[name]:
            del self.under_way[name]
