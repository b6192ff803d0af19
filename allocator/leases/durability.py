"""Durability where leases are PortLeases: a lease is durable when the journal and its object say so.

Rules:

* Grant: journal → object → its status. Only then is the lease durable. Where a step fails, the grant fails at once, and
  its ports stay taken until the object is certainly gone (`JournalError.until`).
* End: object → journal. A deletion that does not get through is tried until it does; the ports are held meanwhile.
* Renewal: journal. The object follows (`reconciler`), unless the lease is renewed for longer than ever before: then the
  object is told first what a reader without the journal has to allow for.
* The claim of a Pod, and what is recorded, goes to the journal alone.

What a crash leaves: a lease in the journal without a granted object was told to nobody, or has been ended. An object
that is not granted holds nothing. A granted object that the journal lacks is a lease.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from typing import Any

from allocator.cluster.client import ApiError, UnreachableError
from allocator.core.asks import Refused
from allocator.core.claims import Claim, ClaimId, State
from allocator.journal.contract import Answer, Entry, Journal, JournalError, always
from allocator.leases.api import PortLeaseApi, refusal_of, trouble_of
from allocator.leases.cache import PortLeaseCache
from allocator.leases.objects import name_of, ttl_of
from hostport.contract import Reason

STORE_SECONDS = 4.0  # for the object and its status together
RENEW_SECONDS = 3.0  # less than a caller is kept waiting: what it is told must be true

Future = asyncio.Future[bool]


class NotStoredError(JournalError):
    """The environment's fault: the API server does not take the object."""

    reason = Reason.LEASE_NOT_STORED


class LeaseDurability:
    """See the module, and `Durability` for what the verbs promise. `now` is the clock by which leases end."""

    def __init__(self, journal: Journal, api: PortLeaseApi, cache: PortLeaseCache, *, now: Callable[[], float]) -> None:
        self._journal = journal
        self._api = api
        self._cache = cache
        self._now = now
        self._leases: set[ClaimId] = set()  # those that have an object, or had
        self._busy: set[ClaimId] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def busy(self) -> Collection[ClaimId]:
        """The leases whose objects are being written or deleted."""
        return self._busy

    def adopt(self, claim_ids: Iterable[ClaimId]) -> None:
        """At the start: these leases have objects."""
        self._leases.update(claim_ids)

    def record(self, entries: Sequence[Entry], is_wanted: Callable[[], bool] = always) -> Future:
        """Goes to the journal alone: what is true already needs no object."""
        return self._journal.record(entries, is_wanted)

    async def stop(self) -> None:
        """Gives up what is under way; the next start finds it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- grant

    def grant(self, claim: Claim, answer: Answer | None, is_wanted: Callable[[], bool]) -> Future:
        """A lease is stored as an object after the journal has it; of a Pod's claim there is none."""
        journalled = self._journal.grant(claim, answer, is_wanted)
        if claim.state is not State.LEASED:
            return journalled  # a Pod's claim has no object
        self._leases.add(claim.id)
        self._busy.add(claim.id)
        return self._start(self._store(claim, answer, journalled, is_wanted))

    async def _store(
        self, claim: Claim, answer: Answer | None, journalled: Future, is_wanted: Callable[[], bool]
    ) -> bool:
        try:
            if not await journalled:
                self._forget(claim.id)
                return False
        except JournalError:
            self._forget(claim.id)
            raise
        try:
            async with asyncio.timeout(STORE_SECONDS):
                stored = await self._api.create(claim)
                if not is_wanted():  # asked once more: the object took its time
                    self._undo(claim)
                    return False
                stored = await self._api.grant(stored, claim, answer)
        except TimeoutError as error:
            trouble = f"not within {STORE_SECONDS:g} s: {self._api.trouble or 'no answer'}"
            raise self._not_stored(claim, trouble) from error
        except (ApiError, UnreachableError) as error:
            raise self._not_stored(claim, error) from error
        if not self._cache.put(stored):  # the watch told that it has gone before this answer came
            raise self._not_stored(claim, "it was deleted while it was being granted")
        self._busy.discard(claim.id)
        return True

    def _not_stored(self, claim: Claim, trouble: object) -> NotStoredError:
        failure = _failure(f"{claim.owner.namespace}/{name_of(claim)}", claim, trouble)
        failure.until = self._undo(claim)
        return failure

    def _undo(self, claim: Claim) -> asyncio.Future[None]:
        """Sees to it that nothing stands for the claim; the answer to its request is forgotten with it."""

        async def undo() -> None:
            await self._api.delete_whatever_there_is(claim)
            with contextlib.suppress(JournalError):  # the next start finds no object
                await self._journal.end([claim.id], 0.0)
            self._forget(claim.id)

        return self._start(undo())

    # -- end

    def end(self, claim_ids: Sequence[ClaimId], at: float) -> Future:
        """The objects are deleted first, however long that takes; then the journal is told."""
        stored = [claim_id for claim_id in claim_ids if claim_id in self._leases]
        if not stored:
            return self._journal.end(claim_ids, at)
        self._busy.update(stored)
        return self._start(self._end_after(claim_ids, stored, at))

    async def _end_after(self, claim_ids: Sequence[ClaimId], stored: Sequence[ClaimId], at: float) -> bool:
        try:
            await asyncio.gather(*map(self._delete, stored))  # first: a start without the journal finds no lease
            is_kept = await self._journal.end(claim_ids, at)
            self._leases.difference_update(stored)
        finally:
            self._busy.difference_update(stored)
        return is_kept

    async def _delete(self, claim_id: ClaimId) -> None:
        stored = self._cache.of(claim_id)
        if stored is not None:
            await self._api.delete(stored)
            self._cache.drop(stored.uid)

    # -- renewal

    def renew(self, claim: Claim) -> Future:
        """The object is told first where the lease is renewed for longer than ever before."""
        if self._outgrows(claim):
            return self._start(self._renew_after(claim))
        return self._journal.renew(claim)

    async def _renew_after(self, claim: Claim) -> bool:
        await self._grow(claim)
        return await self._journal.renew(claim)

    def _outgrows(self, claim: Claim) -> bool:
        stored = self._cache.of(claim.id)
        return stored is not None and ttl_of(claim, self._now()) > stored.ttl

    async def _grow(self, claim: Claim) -> None:
        stored = self._cache.of(claim.id)
        try:
            if stored is not None:
                async with asyncio.timeout(RENEW_SECONDS):
                    self._cache.put(await self._api.renew(stored, claim, ttl_of(claim, self._now())))
        except TimeoutError as error:
            raise NotStoredError(f"PortLease {stored}: no answer for {RENEW_SECONDS:g} s") from error
        except (ApiError, UnreachableError) as error:
            raise _failure(str(stored), claim, error) from error

    # -- what is under way

    def _forget(self, claim_id: ClaimId) -> None:
        self._leases.discard(claim_id)
        self._busy.discard(claim_id)

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _failure(name: str, claim: Claim, trouble: object) -> NotStoredError:
    """Why an object was not written, and whether that is the caller's mistake."""
    if not isinstance(trouble, ApiError):
        return NotStoredError(f"PortLease {name}: {trouble}")
    failure = NotStoredError(f"PortLease {name}: {trouble_of(trouble)}")
    mistake = refusal_of(trouble, claim.owner.namespace)
    if mistake is not None:
        failure.refusal = Refused(mistake)
    return failure
