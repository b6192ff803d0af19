"""A journal for tests that look at what was to be written, or decide what becomes of it."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Sequence

from allocator.core.claims import Claim, ClaimId
from allocator.journal.contract import Answer, Drop, Entry, Journal, Put, always


class EntryJournal(Journal):
    """Every verb ends in `record`, with the entries that the journal on disk would write."""

    @abstractmethod
    def record(self, entries: Sequence[Entry], is_wanted: Callable[[], bool] = always) -> asyncio.Future[bool]: ...

    def grant(self, claim: Claim, answer: Answer | None, is_wanted: Callable[[], bool]) -> asyncio.Future[bool]:
        return self.record([Put(claim)] if answer is None else [Put(claim), answer], is_wanted)

    def renew(self, claim: Claim) -> asyncio.Future[bool]:
        return self.record([Put(claim)])

    def end(self, claim_ids: Sequence[ClaimId], at: float) -> asyncio.Future[bool]:
        return self.record([Drop(claim_id, at) for claim_id in claim_ids])
