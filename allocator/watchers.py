"""Who watches allocations: each watcher has a queue of its own, and one that does not keep up is let go.

The ledger's listener is set only while somebody watches, so that nobody pays for what nobody reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from allocator.core.claims import Claim
from allocator.core.ledger import Ledger

MOST_UNREAD = 10_000


@dataclass(frozen=True, slots=True)
class Change:
    """A claim that is new or changed, or that has ended."""

    claim: Claim
    is_end: bool


Queue = asyncio.Queue[Change | None]
"""None: the watcher did not keep up, and changes are missing from here on."""


class Watchers:
    """Fans the ledger's changes out."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._queues: dict[Queue, Callable[[Claim], bool]] = {}

    @contextmanager
    def watch(self, selects: Callable[[Claim], bool]) -> Iterator[tuple[list[Claim], Queue]]:
        """The claims of now, and a queue of what happens to such claims from now on."""
        queue: Queue = asyncio.Queue(MOST_UNREAD + 1)
        self._queues[queue] = selects
        self._ledger.listener = self._tell
        try:
            yield [claim for claim in self._ledger.claims() if selects(claim)], queue
        finally:
            self._queues.pop(queue, None)
            if not self._queues:
                self._ledger.listener = None

    def _tell(self, claim: Claim, is_end: bool) -> None:  # noqa: FBT001 - the listener's signature
        for queue, selects in list(self._queues.items()):
            if not selects(claim):
                continue
            if queue.qsize() < MOST_UNREAD:
                queue.put_nowait(Change(claim, is_end))
            else:
                queue.put_nowait(None)
                del self._queues[queue]
