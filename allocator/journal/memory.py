"""A journal that forgets: for tests, benchmarks and `--journal memory`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from allocator.journal.contract import Entry, Kept, no_clock


class MemoryJournal:
    """Every submission is as durable as the process."""

    set_aside: Sequence[str] = ()
    began_anew_at = 0.0
    trouble = ""
    identity = ""

    def __init__(self) -> None:
        self.clock = no_clock

    async def open(self) -> None:
        """There is nothing to open."""

    def load(self) -> Kept:
        return Kept()

    def submit(self, entries: Sequence[Entry], is_wanted: Callable[[], bool]) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        future.set_result(is_wanted())
        return future

    def close(self) -> None:
        pass
