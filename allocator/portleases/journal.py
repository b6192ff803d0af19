"""The journal of an allocator whose leases are PortLeases: a lease is durable when journal and object say so.

Rules:

* Grant: journal → object → its status. Only then is it durable. Where that fails, it never was: the submission fails
  at once, and its ports stay taken until the object is certainly gone (`JournalError.until`).
* End: object → journal. A deletion that does not get through is tried until it does; the ports are held meanwhile.
* Renewal: journal. The object follows (`keeper`), unless the lease is renewed for longer than ever before: then the
  object is told first what a reader without the journal has to allow for.
* Everything else, Pods above all, goes straight through.

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
from allocator.journal.contract import Answer, Drop, Entry, Journal, JournalError, Kept, Put
from allocator.portleases.answers import refusal_of, trouble_of
from allocator.portleases.objects import name_of, ttl_of
from allocator.portleases.shelf import Shelf
from allocator.portleases.store import Store
from hostport.contract import Reason

STORE_SECONDS = 4.0  # for the object and its status together
RENEW_SECONDS = 3.0  # less than a caller is kept waiting: what it is told must be true

Future = asyncio.Future[bool]


class NotStoredError(JournalError):
    """The environment's fault: the API server does not take the object."""

    reason = Reason.LEASE_NOT_STORED


class LeaseJournal:
    """See the module. `now` is the clock by which leases end."""

    def __init__(self, inner: Journal, store: Store, shelf: Shelf, *, now: Callable[[], float]) -> None:
        self._inner = inner
        self._store = store
        self._shelf = shelf
        self._now = now
        self._leases: set[ClaimId] = set()  # those that have an object, or had
        self._busy: set[ClaimId] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def clock(self) -> Callable[[], float | None]:
        return self._inner.clock

    @clock.setter
    def clock(self, clock: Callable[[], float | None]) -> None:
        self._inner.clock = clock

    @property
    def busy(self) -> Collection[ClaimId]:
        """The leases whose objects are being written or deleted."""
        return self._busy

    @property
    def set_aside(self) -> Sequence[str]:
        return self._inner.set_aside

    @property
    def began_anew_at(self) -> float:
        return self._inner.began_anew_at

    @property
    def trouble(self) -> str:
        return self._inner.trouble

    @property
    def identity(self) -> str:
        return self._inner.identity

    async def open(self) -> None:
        await self._inner.open()

    def load(self) -> Kept:
        return self._inner.load()

    def adopt(self, claim_ids: Iterable[ClaimId]) -> None:
        """At start: these leases have objects."""
        self._leases.update(claim_ids)

    def submit(self, entries: Sequence[Entry], is_wanted: Callable[[], bool]) -> Future:
        """Does with the objects what each entry does to a lease, whatever stands beside it: see `Journal.submit`.

        Raises:
            ValueError: it grants two leases; where one object is refused, the other lease would have to be taken back.

        """
        ends = [entry.claim_id for entry in entries if isinstance(entry, Drop) and entry.claim_id in self._leases]
        puts = [entry.claim for entry in entries if isinstance(entry, Put) and entry.claim.state is State.LEASED]
        grants = [claim for claim in puts if claim.id not in self._leases]
        grown = [claim for claim in puts if claim.id in self._leases and self._outgrows(claim)]
        if len(grants) > 1:
            raise ValueError(f"{len(grants)} leases are granted in one submission: submit each by itself")
        if not (ends or grown or grants):
            return self._inner.submit(entries, is_wanted)
        self._leases.update(claim.id for claim in grants)
        self._busy.update(ends, (claim.id for claim in grants))
        kept: Future
        if ends or grown:
            kept = self._start(self._kept_after(entries, is_wanted, ends, grown))
        else:
            kept = self._inner.submit(entries, is_wanted)
        if not grants:
            return kept
        answer = next((entry for entry in entries if isinstance(entry, Answer)), None)
        return self._start(self._grant(grants[0], answer, kept, is_wanted))

    async def _kept_after(
        self,
        entries: Sequence[Entry],
        is_wanted: Callable[[], bool],
        ends: Collection[ClaimId],
        grown: Collection[Claim],
    ) -> bool:
        """Journals when the objects tell it: renewals, which may fail, then ends, which are tried until done."""
        try:
            await asyncio.gather(*map(self._grow, grown))
            await asyncio.gather(*map(self._delete, ends))
            is_kept = await self._inner.submit(entries, _always if ends else is_wanted)
            self._leases.difference_update(ends)
        finally:
            self._busy.difference_update(ends)
        return is_kept

    async def stop(self) -> None:
        """Gives up what is under way; the next start finds it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        self._inner.close()

    # -- grant

    async def _grant(self, claim: Claim, answer: Answer | None, kept: Future, is_wanted: Callable[[], bool]) -> bool:
        try:
            if not await kept:
                self._forget(claim.id)
                return False
        except JournalError:
            self._forget(claim.id)
            raise
        try:
            async with asyncio.timeout(STORE_SECONDS):
                stored = await self._store.create(claim)
                if not is_wanted():
                    self._undo(claim)
                    return False
                stored = await self._store.grant(stored, claim, answer)
        except TimeoutError as error:
            trouble = f"not within {STORE_SECONDS:g} s: {self._store.trouble or 'no answer'}"
            raise self._not_stored(claim, trouble) from error
        except (ApiError, UnreachableError) as error:
            raise self._not_stored(claim, error) from error
        if not self._shelf.put(stored):
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
            await self._store.delete_whatever_there_is(claim)
            with contextlib.suppress(JournalError):  # the next start finds no object
                await self._inner.submit([Drop(claim.id, 0.0)], _always)
            self._forget(claim.id)

        return self._start(undo())

    # -- end

    async def _delete(self, claim_id: ClaimId) -> None:
        stored = self._shelf.of(claim_id)
        if stored is not None:
            await self._store.delete(stored)
            self._shelf.drop(stored.uid)

    # -- renewal

    def _outgrows(self, claim: Claim) -> bool:
        stored = self._shelf.of(claim.id)
        return stored is not None and ttl_of(claim, self._now()) > stored.ttl

    async def _grow(self, claim: Claim) -> None:
        stored = self._shelf.of(claim.id)
        try:
            if stored is not None:
                async with asyncio.timeout(RENEW_SECONDS):
                    self._shelf.put(await self._store.renew(stored, claim, ttl_of(claim, self._now())))
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


def _always() -> bool:
    return True
