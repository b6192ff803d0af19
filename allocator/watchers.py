"""Who watches allocations: each watcher has a queue of its own, and one that does not keep up is let go.

Rules:

* The ledger's listener is set only while somebody watches, so that nobody pays for what nobody reads.
* A snapshot is made on the way, in the order of ids: what changes where it has not come to yet will be seen there, and
  is no change.
* Of the changes of a claim that were not read yet, the last counts: a queue has no more entries than there are claims.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from allocator.core.claims import Claim, ClaimId
from allocator.core.ledger import Ledger

MOST_UNREAD = 50_000
AT_ONCE = 128
"""Claims of a snapshot that are looked at together."""


@dataclass(frozen=True, slots=True)
class Change:
    """A claim that is new or changed, or that has ended."""

    claim: Claim
    is_end: bool


class Watcher:
    """One of them. What it has not taken yet waits."""

    def __init__(self, ledger: Ledger, selects: Callable[[Claim], bool]) -> None:
        self._ledger = ledger
        self._selects = selects
        self._reached: str | None = ""  # how far the snapshot is; None: it is complete
        self._unread: dict[ClaimId, Change] = {}
        self._news = asyncio.Event()
        self.is_behind = False  # changes are missing from here on

    def snapshot(self) -> list[Claim] | None:
        """The claims of the next ids, which may be none; None: that was all of them."""
        if self._reached is None:
            return None
        ids = self._ledger.claims.ids_after(self._reached, AT_ONCE)
        self._reached = ids[-1] if ids else None
        return [claim for claim in map(self._ledger.claims.get, ids) if claim and self._selects(claim)] if ids else None

    async def changes(self) -> Iterator[Change]:
        """Waits for changes; what is not taken of them stays for the next time. None at all: it is behind."""
        while not self._unread and not self.is_behind:
            self._news.clear()
            await self._news.wait()
        return self._taken()

    def _taken(self) -> Iterator[Change]:
        while self._unread and not self.is_behind:
            yield self._unread.pop(next(iter(self._unread)))

    def tell(self, claim: Claim, *, is_end: bool) -> None:
        """Something happened to a claim."""
        if not self._selects(claim) or (self._reached is not None and claim.id > self._reached):
            return
        self._unread[claim.id] = Change(claim, is_end)  # in place of one that was not read: the last one counts
        if len(self._unread) > MOST_UNREAD:
            self.is_behind = True
            self._unread.clear()
        self._news.set()


class Watchers:
    """Fans the ledger's changes out."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._watchers: dict[Watcher, None] = {}

    @contextmanager
    def watch(self, selects: Callable[[Claim], bool]) -> Iterator[Watcher]:
        """One that is told of such claims."""
        watcher = Watcher(self._ledger, selects)
        self._watchers[watcher] = None
        self._ledger.listener = self._tell  # only while somebody watches
        try:
            yield watcher
        finally:
            self._watchers.pop(watcher, None)
            if not self._watchers:
                self._ledger.listener = None

    def _tell(self, claim: Claim, is_end: bool) -> None:  # noqa: FBT001 - the listener's signature
        for watcher in list(self._watchers):
            watcher.tell(claim, is_end=is_end)
            if watcher.is_behind:
                del self._watchers[watcher]
