"""Reads the PortLeases at the start, follows them, and keeps objects and leases in step.

Rules:

* The leases are what the cluster has stored when the coordination Lease is ours: listed after that, or followed up to
  what the predecessor had seen when it handed over. They come into the books then, before anything is served: who
  stands by follows the objects and makes nothing of them. Every grant that a predecessor answered was stored while its
  Lease was valid, so it is among them; what it stored later it has told to nobody.
* A lease in the journal whose object is missing has ended. An object that the journal does not know is taken up, with
  the answer to its request.
* Renewals are written to the objects every 10 seconds, as the time that is left: no clock of another machine plays a
  part. A lease in our own journal has what the journal says. One that was handed over in order has what its object
  tells; in an orderly stop the objects that tell too much are corrected, as many as a moment allows. Of any other the
  last renewals are unknown: it gets its whole time anew, so that it does not end before its holder was told.
* An object that is deleted ends its lease: at once where the watch tells, or when a list lacks it.
* What else there is to do is done every 10 seconds (`actions`); what fails then is tried the next time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from http import HTTPStatus
from operator import attrgetter
from typing import Final, Protocol

from msgspec.structs import replace

from allocator.clock import Clock
from allocator.cluster.client import ApiClient, ApiError, UnreachableError
from allocator.cluster.decoding import WatchEvent
from allocator.cluster.lease import Legacy
from allocator.cluster.pager import Resource
from allocator.cluster.reflector import Reflector, WatchTuning
from allocator.core.claims import Claim, ClaimId
from allocator.journal.contract import Journal, Recorded
from allocator.leases.actions import (
    Action,
    DeleteObject,
    EndLease,
    ExplainObject,
    RenewObject,
    actions,
    corrections,
    ended,
)
from allocator.leases.api import PortLeaseApi
from allocator.leases.cache import PortLeaseCache
from allocator.leases.durability import LeaseDurability
from allocator.leases.objects import API, READER, PortLease, PortLeaseSketch, parse
from allocator.slices import in_turns, slices
from hostport.supervision import side_by_side

log = logging.getLogger(__name__)

PORT_LEASES: Final = Resource("portleases.hostport.io", f"{API}/portleases", READER)
TUNING: Final = WatchTuning()
RECONCILE_SECONDS = 10.0
MOST_RECONCILED = 2048
"""Objects, or leases, that are looked at in one turn: a few milliseconds."""
CORRECTION_SECONDS = 0.5  # for the objects that tell too much, in an orderly stop
LAST_SECONDS = 2.0  # for the renewals that were not written yet, when we stop


class Books(Protocol):
    """The engine, as far as leases are concerned."""

    def recover_leases(self, recorded: Sequence[Recorded]) -> Generator[None, None, list[ClaimId]]:
        """At start, in steps: these are the leases. Returns the ids of those in the books that are not: they ended."""

    def lease_ids(self) -> list[ClaimId]:
        """Those of all leases, of ones that are being granted among them."""

    def lease(self, claim_id: ClaimId) -> Claim | None:
        """A lease in force."""

    def is_known(self, claim_id: ClaimId) -> bool:
        """Whether there is such a claim, also one that is still being granted."""

    def end_leases(self, claim_ids: Iterable[ClaimId]) -> None:
        """Their objects have gone."""


class LeaseReconciler:
    """See the module. `legacy` tells what a predecessor left us, once we may ask; `clock` as for `PortLeaseApi`."""

    def __init__(
        self,
        client: ApiClient,
        *,
        api: PortLeaseApi,
        cache: PortLeaseCache,
        durability: LeaseDurability,
        books: Books,
        legacy: Callable[[], Legacy],
        may_write: Callable[[], bool],
        tuning: WatchTuning = TUNING,
        clock: Clock,
    ) -> None:
        self._api = api
        self._cache = cache
        self._durability = durability
        self._books = books
        self._legacy = legacy
        self._may_write = may_write
        self._clock = clock
        self._reflector = Reflector(client, PORT_LEASES, self, tuning=tuning, now=time.monotonic, chance=random.random)
        self._missing: set[str] = set()
        self._is_recovered = False
        self._unfinished: set[ClaimId] = set()
        self._trouble = ""

    async def run(self, *, pace_seconds: float = RECONCILE_SECONDS) -> None:
        """Follows the objects and keeps them in step with the leases, for ever."""
        await side_by_side(portleases=self._reflector.forever(), reconciling=self._reconcile_forever(pace_seconds))

    async def synced(self) -> None:
        """Returns when the objects were listed once."""
        await self._reflector.synced.wait()

    def mark(self) -> int:
        """Marks this moment, for `recover`."""
        return self._reflector.begun

    async def recover(self, mark: int, version: int | None) -> None:
        """Puts the leases into the books, once whatever was stored at a moment was told; see `Reflector.caught_up`."""
        await self._reflector.caught_up(mark, version)
        await in_turns(self._recover())

    def latest(self) -> int:
        """The newest version of an object that is known here."""
        return max(self._cache.latest, self._reflector.latest)

    async def stop(self) -> bool:
        """Writes what is to be written, for a moment; whether the objects now tell everything."""
        is_whole = False
        if self._is_recovered and self._may_write():
            try:
                async with asyncio.timeout(LAST_SECONDS):
                    is_whole = await self.reconcile()
            except TimeoutError:
                log.warning("not every renewal of a lease was written: a successor gives them their whole time")
            with contextlib.suppress(TimeoutError):  # the others may last longer than they need
                async with asyncio.timeout(CORRECTION_SECONDS):
                    due = corrections(self._cache, lease=self._books.lease, now=self._clock())
                    await asyncio.gather(*map(self._done, due))
        await self.give_up()
        return is_whole

    async def give_up(self) -> None:
        """Ends what is being written."""
        await self._durability.stop()

    # -- what the API server tells

    def began(self) -> None:
        """A list of all objects begins: what it does not show is gone."""
        self._missing = self._cache.uids()

    def listed(self, items: Sequence[PortLeaseSketch]) -> Iterator[None]:
        """Some objects of the list, in steps."""
        for some in slices(items, attrgetter("weight")):
            for sketch in some:
                self._missing.discard(sketch.identity)
                self._see(sketch)
            yield

    def complete(self, as_of: float) -> Iterator[None]:
        """That was the whole list, in steps: what it lacks has gone."""
        for some in slices(self._missing):
            for uid in some:
                self._gone(uid)
            yield
        self._missing = set()

    def changed(self, events: Sequence[WatchEvent[PortLeaseSketch]]) -> Iterator[None]:
        """What the watch told, in its order."""
        for some in slices(events, attrgetter("object.weight")):
            for event in some:
                if event.type == "DELETED":
                    self._gone(event.object.identity)
                else:
                    self._see(event.object)
            yield

    def _see(self, sketch: PortLeaseSketch) -> None:
        try:
            stored = parse(sketch)
        except ValueError as error:
            log.warning("PortLease %s (uid %s) cannot be read: %s", sketch.metadata.name, sketch.identity, error)
            return
        if stored.is_going:
            self._gone(stored.uid)
        else:
            self._cache.put(stored)

    def _gone(self, uid: str) -> None:
        stored = self._cache.drop(uid)
        if self._is_recovered and stored and stored.claim and stored.id not in self._durability.busy:
            log.info("PortLease %s was deleted: its lease %s has ended", stored, stored.id)
            self._books.end_leases([stored.id])

    # -- the start

    def _recover(self) -> Iterator[None]:
        """In steps."""
        recorded: list[Recorded] = []
        for some in slices(self._cache):
            recorded += [
                Recorded(self._resumed(stored, claim), stored.answer) for stored in some if (claim := stored.claim)
            ]
            yield
        self._durability.adopt(one.claim.id for one in recorded)
        self._unfinished = set((yield from self._books.recover_leases(recorded)))
        self._is_recovered = True
        log.info("%d leases are stored; %d of the journal have ended", len(recorded), len(self._unfinished))

    def _resumed(self, stored: PortLease, claim: Claim) -> Claim:
        """With the time that it has at least. The journal's end stands by itself, unless this is a later one."""
        legacy = self._legacy()
        if legacy is Legacy.JOURNAL and self._books.is_known(claim.id):
            return claim
        left = stored.left if legacy is Legacy.EVERYTHING else max(stored.left, stored.ttl)
        return replace(claim, expires=self._clock() + left)

    # -- keeping them in step

    async def _reconcile_forever(self, pace_seconds: float) -> None:
        await self.synced()
        while True:
            await asyncio.sleep(pace_seconds)
            if self._is_recovered and self._may_write():  # before, the books do not know what the objects stand for
                await self.reconcile()

    async def reconcile(self) -> bool:
        """Does what there is to do, once; whether the objects now tell every renewal.

        In slices, each of which is done before the next is looked at: what has changed meanwhile counts.
        """
        is_whole, busy = True, self._durability.busy
        for objects in slices(self._cache, most=MOST_RECONCILED):
            due = actions(
                objects,
                lease=self._books.lease,
                is_known=self._books.is_known,
                busy=busy,
                unfinished=self._unfinished,
                now=self._clock(),
                ahead=self._clock.ahead,
            )
            is_whole &= await self._all_done(due)
        for ids in slices(self._books.lease_ids(), most=MOST_RECONCILED):
            in_force = [claim_id for claim_id in ids if self._books.lease(claim_id) is not None]
            is_whole &= await self._all_done(ended(in_force, is_stored=self._is_stored, busy=busy))
        if is_whole:
            self._trouble = ""
        return is_whole

    def _is_stored(self, claim_id: ClaimId) -> bool:
        stored = self._cache.of(claim_id)
        return stored is not None and stored.claim is not None

    async def _all_done(self, due: Iterable[Action]) -> bool:
        done = await asyncio.gather(*map(self._done, list(due)))
        await asyncio.sleep(0)
        return all(done)

    async def _done(self, action: Action) -> bool:
        try:
            match action:
                case EndLease(claim_id):
                    self._books.end_leases([claim_id])
                case DeleteObject(stored):
                    await self._api.delete_once(stored)
                    self._cache.drop(stored.uid)
                    log.info("PortLease %s stood for nothing and was deleted", stored)
                case RenewObject(stored, claim):
                    self._cache.put(await self._api.renew(stored, claim))
                case ExplainObject(stored):
                    self._cache.put(await self._api.explain(stored))
        except (ApiError, UnreachableError) as error:
            if isinstance(error, ApiError) and error.status == HTTPStatus.NOT_FOUND:
                return True  # it has gone, and the watch will tell
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.warning("PortLeases cannot be written, trying again: %s", error)
            return not isinstance(action, RenewObject)
        return True


class PortLeases:
    """Leases as objects of the cluster, put together around the engine: durability below it, the reconciler beside it.

    `may_write`: whether the coordination Lease is ours. `clock` is that by which leases end.
    """

    def __init__(
        self,
        client: ApiClient,
        journal: Journal,
        *,
        may_write: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._client = client
        self._may_write = may_write
        self._clock = clock
        self.cache = PortLeaseCache()
        self._api = PortLeaseApi(client, may_write=may_write, clock=clock)
        self.durability = LeaseDurability(journal, self._api, self.cache, now=clock)

    def reconciler(
        self, books: Books, *, legacy: Callable[[], Legacy], tuning: WatchTuning = TUNING
    ) -> LeaseReconciler:
        """Who keeps the objects and the leases of `books` the same. `legacy`: what a predecessor left us."""
        return LeaseReconciler(
            self._client,
            api=self._api,
            cache=self.cache,
            durability=self.durability,
            books=books,
            tuning=tuning,
            legacy=legacy,
            may_write=self._may_write,
            clock=self._clock,
        )
