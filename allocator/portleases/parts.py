"""The parts of this package, put together around the engine: its journal below, its keeper beside it."""

from __future__ import annotations

from collections.abc import Callable

from allocator.cluster.client import Client
from allocator.cluster.lease import Legacy
from allocator.journal.contract import Journal
from allocator.portleases.journal import LeaseJournal
from allocator.portleases.keeper import Books, LeaseKeeper
from allocator.portleases.shelf import Shelf
from allocator.portleases.store import Store


class Parts:
    """`may_write`: whether the coordination Lease is ours. `now` is the clock by which leases end.

    `ahead`: how far the wall clock is ahead of that one, in seconds.
    """

    def __init__(
        self,
        client: Client,
        inner: Journal,
        *,
        may_write: Callable[[], bool],
        now: Callable[[], float],
        ahead: Callable[[], float] = float,
    ) -> None:
        self._client = client
        self._may_write = may_write
        self._now = now
        self._ahead = ahead
        self._shelf = Shelf()
        self._store = Store(client, may_write=may_write, now=now, ahead=ahead)
        self.journal = LeaseJournal(inner, self._store, self._shelf, now=now)

    def keeper(self, books: Books, *, legacy: Callable[[], Legacy]) -> LeaseKeeper:
        return LeaseKeeper(
            self._client,
            store=self._store,
            shelf=self._shelf,
            journal=self.journal,
            books=books,
            legacy=legacy,
            may_write=self._may_write,
            now=self._now,
            ahead=self._ahead,
        )
