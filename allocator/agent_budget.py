"""What the agent of a node may send, and how often it may begin to: `agents` asks.

Rules:

* What may be sent grows with time, up to what may be sent at once. The same goes for streams.
* A budget is the node's, and not the stream's: a new stream goes on with what the one before has left.
"""

from __future__ import annotations

import asyncio
import time
from math import inf

from allocator.token_bucket import TokenBucket
from hostport.contract.limits import MOST_SOCKETS

BURST, PER_SECOND = MOST_SOCKETS + 1000, 500.0
"""What an agent may send at once, and from then on in a second, in sockets."""

BURST_STREAMS, STREAMS_PER_SECOND = 30, 1.0
"""How many streams of a node may begin at once, and from then on in a second."""

REFUSED_SECONDS = 10.0
"""Between two lines of the log on refusals of one node."""


class AgentBudget:
    """See the module."""

    now = staticmethod(time.monotonic)
    rest = staticmethod(asyncio.sleep)

    def __init__(self) -> None:
        self.stream = asyncio.Lock()  # held by the stream of the node
        self._sockets = TokenBucket(BURST, PER_SECOND, self.now())
        self._streams = TokenBucket(BURST_STREAMS, STREAMS_PER_SECOND, self.now())
        self._logged_at, self._unlogged = -inf, 0

    def may_begin(self) -> bool:
        """Whether one more stream may begin, which counts then."""
        if self._streams.left(self.now()) < 1:
            return False
        self._streams.take()
        return True

    def refused(self) -> int | None:
        """How many refusals a line of the log has to tell, this one among them; None: it is too early for one."""
        self._unlogged += 1
        if self.now() - self._logged_at < REFUSED_SECONDS:
            return None
        self._logged_at = self.now()
        count, self._unlogged = self._unlogged, 0
        return count

    async def spend(self, weight: int) -> None:
        """Returns when so much may be sent."""
        left = self._sockets.left(self.now()) - weight
        self._sockets.take(weight)
        if left < 0:
            await self.rest(-left / PER_SECOND)
