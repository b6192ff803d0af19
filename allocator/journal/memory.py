"""A journal that forgets: for tests, benchmarks and `--journal memory`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from allocator.core.claims import Claim, ClaimId
from allocator.journal.contract import Answer, Entry, Journal, always


class MemoryJournal(Journal):
    """All that it is told is as durable as the process: done at once, and kept nowhere."""

    kind = "memory"

    def grant(self, claim: Claim, answer: Answer | None, is_wanted: Callable[[], bool]) -> asyncio.Future[bool]:
        return _done(is_durable=is_wanted())

    def renew(self, claim: Claim) -> asyncio.Future[bool]:
        return _done()

    def end(self, claim_ids: Sequence[ClaimId], at: float) -> asyncio.Future[bool]:
        return _done()

    def record(self, entries: Sequence[Entry], is_wanted: Callable[[], bool] = always) -> asyncio.Future[bool]:
        return _done(is_durable=is_wanted())


def _done(*, is_durable: bool = True) -> asyncio.Future[bool]:
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    future.set_result(is_durable)
    return future
