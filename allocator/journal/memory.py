"""A journal that forgets: for tests, benchmarks and `--journal memory`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from allocator.journal.contract import Entry, Journal


class MemoryJournal(Journal):
    """Every submission is as durable as the process."""

    kind = "memory"

    def submit(self, entries: Sequence[Entry], is_wanted: Callable[[], bool]) -> asyncio.Future[bool]:
        """See `Journal.submit`: done at once, and kept nowhere."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        future.set_result(is_wanted())
        return future
