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
* What else there is to do is done every 10 seconds (`tidy`); what fails then is tried the next time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Final, Protocol

from msgspec.structs import replace

from allocator.cluster.client import ApiError, Client, UnreachableError
from allocator.cluster.lease import Legacy
from allocator.cluster.projection import Event
from allocator.cluster.watching import Collection as Kind
from allocator.cluster.watching import Follower, Pace
from allocator.core.claims import Claim, ClaimId
from allocator.journal.contract import Recorded
from allocator.portleases.journal import LeaseJournal
from allocator.portleases.objects import API, READER, PortLeaseSketch, Stored, parse
from allocator.portleases.shelf import Shelf
from allocator.portleases.store import Store
from allocator.portleases.tidy import Chore, Delete, End, Explain, Renew, chores, ended, generous
from allocator.slices import in_turns, slices
from hostport.supervision import side_by_side

log = logging.getLogger(__name__)

PORT_LEASES: Final = Kind("portleases.hostport.io", f"{API}/portleases", READER)
PACE: Final = Pace()
TIDY_SECONDS = 10.0
MOST_TIDIED = 2048
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


class LeaseKeeper:
    """See the module. `legacy`: what a predecessor left us, once we may ask. `now` and `ahead` as for `Store`."""

    def __init__(
        self,
        client: Client,
        *,
        store: Store,
        shelf: Shelf,
        journal: LeaseJournal,
        books: Books,
        legacy: Callable[[], Legacy],
        may_write: Callable[[], bool],
        pace: Pace = PACE,
        now: Callable[[], float] = time.time,
        ahead: Callable[[], float] = float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._store = store
        self._shelf = shelf
        self._journal = journal
        self._books = books
        self._legacy = legacy
        self._may_write = may_write
        self._now = now
        self._ahead = ahead
        self._follower = Follower(client, PORT_LEASES, self, pace=pace, now=time.monotonic, chance=chance)
        self._missing: set[str] = set()
        self._is_recovered = False
        self._unfinished: set[ClaimId] = set()
        self._trouble = ""

    async def run(self, *, pace_seconds: float = TIDY_SECONDS) -> None:
        """Follows and tidies, for ever."""
        await side_by_side(portleases=self._follower.forever(), tidying=self._tidy_forever(pace_seconds))

    async def synced(self) -> None:
        """Returns when the objects were listed once."""
        await self._follower.synced.wait()

    def mark(self) -> int:
        """Marks this moment, for `recover`."""
        return self._follower.begun

    async def recover(self, mark: int, version: int | None) -> None:
        """Puts the leases into the books, once whatever was stored at a moment was told; see `Follower.caught_up`."""
        await self._follower.caught_up(mark, version)
        await in_turns(self._recover())

    def latest(self) -> int:
        """The newest version of an object that is known here."""
        return max(self._shelf.latest, self._follower.latest)

    async def stop(self) -> bool:
        """Writes what is to be written, for a moment; whether the objects now tell everything."""
        is_whole = False
        if self._is_recovered and self._may_write():
            try:
                async with asyncio.timeout(LAST_SECONDS):
                    is_whole = await self.tidy()
            except TimeoutError:
                log.warning("not every renewal of a lease was written: a successor gives them their whole time")
            with contextlib.suppress(TimeoutError):  # the others may last longer than they need
                async with asyncio.timeout(CORRECTION_SECONDS):
                    due = generous(self._shelf, lease=self._books.lease, now=self._now())
                    await asyncio.gather(*map(self._done, due))
        await self.give_up()
        return is_whole

    async def give_up(self) -> None:
        """Ends what is being written."""
        await self._journal.stop()

    async def close(self) -> None:
        """Lets go of the connection."""
        await self._client.close()

    # -- what the API server tells

    def began(self) -> None:
        self._missing = self._shelf.uids()

    def listed(self, items: Sequence[PortLeaseSketch]) -> Iterator[None]:
        for sketch in items:
            self._missing.discard(sketch.identity)
            self._see(sketch)
        yield

    def complete(self, as_of: float) -> Iterator[None]:
        for some in slices(self._missing):
            for uid in some:
                self._gone(uid)
            yield
        self._missing = set()

    def changed(self, events: Sequence[Event[PortLeaseSketch]]) -> Iterator[None]:
        for event in events:
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
            self._shelf.put(stored)

    def _gone(self, uid: str) -> None:
        stored = self._shelf.drop(uid)
        if self._is_recovered and stored and stored.claim and stored.id not in self._journal.busy:
            log.info("PortLease %s was deleted: its lease %s has ended", stored, stored.id)
            self._books.end_leases([stored.id])

    # -- the start

    def _recover(self) -> Iterator[None]:
        """In steps."""
        recorded: list[Recorded] = []
        for some in slices(self._shelf):
            recorded += [
                Recorded(self._resumed(stored, claim), stored.answer) for stored in some if (claim := stored.claim)
            ]
            yield
        self._journal.adopt(one.claim.id for one in recorded)
        self._unfinished = set((yield from self._books.recover_leases(recorded)))
        self._is_recovered = True
        log.info("%d leases are stored; %d of the journal have ended", len(recorded), len(self._unfinished))

    def _resumed(self, stored: Stored, claim: Claim) -> Claim:
        """With the time that it has at least. The journal's end stands by itself, unless this is a later one."""
        legacy = self._legacy()
        if legacy is Legacy.JOURNAL and self._books.is_known(claim.id):
            return claim
        left = stored.left if legacy is Legacy.EVERYTHING else max(stored.left, stored.ttl)
        return replace(claim, expires=self._now() + left)

    # -- tidying up

    async def _tidy_forever(self, pace_seconds: float) -> None:
        await self.synced()
        while True:
            await asyncio.sleep(pace_seconds)
            if self._is_recovered and self._may_write():  # before, the books do not know what the objects stand for
                await self.tidy()

    async def tidy(self) -> bool:
        """Does what there is to do, once; whether the objects now tell every renewal.

        In slices, each of which is done before the next is looked at: what has changed meanwhile counts.
        """
        is_whole, busy = True, self._journal.busy
        for objects in slices(self._shelf, most=MOST_TIDIED):
            due = chores(
                objects,
                lease=self._books.lease,
                is_known=self._books.is_known,
                busy=busy,
                unfinished=self._unfinished,
                now=self._now(),
                ahead=self._ahead(),
            )
            is_whole &= await self._all_done(due)
        for ids in slices(self._books.lease_ids(), most=MOST_TIDIED):
            in_force = [claim_id for claim_id in ids if self._books.lease(claim_id) is not None]
            is_whole &= await self._all_done(ended(in_force, is_stored=self._is_stored, busy=busy))
        if is_whole:
            self._trouble = ""
        return is_whole

    def _is_stored(self, claim_id: ClaimId) -> bool:
        stored = self._shelf.of(claim_id)
        return stored is not None and stored.claim is not None

    async def _all_done(self, due: Iterable[Chore]) -> bool:
        done = await asyncio.gather(*map(self._done, list(due)))
        await asyncio.sleep(0)
        return all(done)

    async def _done(self, chore: Chore) -> bool:
        try:
            match chore:
                case End(claim_id):
                    self._books.end_leases([claim_id])
                case Delete(stored):
                    await self._store.delete_once(stored)
                    self._shelf.drop(stored.uid)
                    log.info("PortLease %s stood for nothing and was deleted", stored)
                case Renew(stored, claim):
                    self._shelf.put(await self._store.renew(stored, claim))
                case Explain(stored):
                    self._shelf.put(await self._store.explain(stored))
        except (ApiError, UnreachableError) as error:
            if isinstance(error, ApiError) and error.status == HTTPStatus.NOT_FOUND:
                return True  # it has gone, and the watch will tell
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.warning("PortLeases cannot be written, trying again: %s", error)
            return not isinstance(chore, Renew)
        return True
