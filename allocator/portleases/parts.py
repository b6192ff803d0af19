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
    """`may_write`: whether the coordination Lease is ours. `now` gives seconds since the epoch."""

    def __init__(
        self, client: Client, inner: Journal, *, may_write: Callable[[], bool], now: Callable[[], float]
    ) -> None:
        self._client = client
        self._may_write = may_write
        self._now = now
        self._shelf = Shelf()
        self._store = Store(client, may_write=may_write, now=now)
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
        )
