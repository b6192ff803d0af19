"""The one path on which a request changes the state: decide (the ledger) → make durable → publish → reply.

Rules:

* The ledger is touched from the event loop alone, and never across an await: a decision and its taking are one step.
* A decision is published or taken back by the outcome of its commit, whether or not the caller still waits.
* While it is not certain that a decision was not made durable, its ports stay taken.
* A repeated request gets the first answer (`idempotency`), unless what was granted has ended: then it is refused.
* A caller is denied a port only when those who hold it were looked up (`sight`).
* What was changed before is journalled before (`Changes`).

Beside that path: `maintenance` does what no request asks for, `recovery` is the start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter

from msgspec.structs import replace

from allocator.clock import Clock
from allocator.core.admission import Remarks
from allocator.core.asks import Ask, NotServedError, Refused, UndecidedError
from allocator.core.claims import Claim, ClaimId
from allocator.core.ledger import Ledger
from allocator.core.view import is_over
from allocator.idempotency import Answers, Granted, IdempotencyKey, UnderWay
from allocator.journal.contract import Answer, Durability, JournalError, NotWantedError
from allocator.maintenance import Changes, Maintenance, Surroundings
from allocator.recovery import Recovery
from allocator.sight import Sight
from allocator.upcoming import Upcoming
from hostport.contract import Mistake, PodWarning, Reason
from hostport.contract.defaults import LEASE_SECONDS

END_SECONDS = 4.0  # how long a caller waits for an end; an API server that is away must not keep it

EncodeResponse = Callable[[Claim, Sequence[PodWarning], Remarks, float], bytes]
"""Serialises the answer, for the journal and the caller alike; `wire.encode_response` says of what."""


class _NoLongerFitsError(Refused):
    """A Pod was asked about again, and its claim does not fit what it has become. The claim stands."""

    def __init__(self, claim: Claim, refused: Refused) -> None:
        super().__init__(*refused.mistakes)
        self.claim = claim


class Engine:
    """Ledger and journal as one. `clock` is that by which claims end; `new_id` gives a fresh claim id.

    `upcoming` is told what is asked, where agents are to know of it before that is decided.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        durability: Durability,
        clock: Clock,
        new_id: Callable[[], ClaimId],
        around: Surroundings,
        upcoming: Upcoming,
    ) -> None:
        self.ledger = ledger
        self.clock = clock
        self.is_serving = False
        self.around = around
        self._answers = answers = Answers()
        self.changes = changes = Changes(ledger, durability, answers, clock)
        self.recovery = Recovery(ledger, durability, answers, changes, clock)
        self.maintenance = Maintenance(ledger, durability, answers, changes, clock, around)
        self._upcoming = upcoming
        self._sight = Sight(ledger, around.report_now)
        self._durability = durability
        self._new_id = new_id

    def check_serving(self) -> None:
        """Raises NotServedError unless the state is whole and ours to answer for."""
        if not self.is_serving and (other := self.around.who_serves()):
            raise NotServedError(Reason.NOT_SERVING, f"this allocator stands by, {other} serves; retry there")
        if not self.is_serving:
            raise NotServedError(Reason.NOT_SERVING, "the allocator is starting or stopping; retry")
        if not self.holds_lease():
            raise NotServedError(Reason.NOT_SERVING, "the allocator cannot renew its Lease: another may take over")

    def holds_lease(self) -> bool:
        """Whether this allocator is the one that may answer, also where there is no Lease."""
        holds = self.around.holds_lease
        return holds is None or holds()

    # -- allocate

    async def allocate(
        self, ask: Ask, *, key: IdempotencyKey | None, encode: EncodeResponse, is_wanted: Callable[[], bool]
    ) -> Granted:
        """Allocates, durably, or repeats the first answer to the same request.

        Args:
            ask: what is asked.
            key: tells a repetition; None: nobody can repeat it.
            encode: serialises the answer, once, when it is decided.
            is_wanted: asked just before the commit; what nobody wants is not granted.

        Raises:
            Refused: the ask is denied; nothing changed.
            NotServedError: nothing changed, and the call may be repeated.

        """
        watch = self.around.watch
        if key is None or not self._is_known(key):
            if self._upcoming.is_kept and (agents := self._upcoming.ask(ask)) is not None:
                await agents
            if watch is not None:  # last: who is let through here is decided at once, and counts for those behind
                await self._sight.wait(watch, ask, is_wanted)
        try:
            try:
                return await self._allocate(ask, key, encode, is_wanted)
            except Refused as refused:
                if not await self._sight.looked_again(watch, ask, refused):
                    raise
                return await self._allocate(ask, key, encode, is_wanted)
        except _NoLongerFitsError as refused:
            # A Pod that is denied after all keeps nothing, unless another call about it was granted meanwhile.
            if (
                self.ledger.claims.get(refused.claim.id) is refused.claim
                and refused.claim.id not in self.changes.ending
            ):
                self.changes.end([refused.claim.id])
            raise
        finally:
            self.check_serving()  # who has lost the Lease while deciding answers neither yes nor no

    async def _allocate(
        self, ask: Ask, key: IdempotencyKey | None, encode: EncodeResponse, is_wanted: Callable[[], bool]
    ) -> Granted:
        """As `allocate`; no look at the cluster."""
        self.check_serving()
        if key is not None and self._is_known(key):
            if (granted := await self._answers.join(key, is_wanted)) is not None:
                return granted
            self.check_serving()
            if (answer := self._answers.find(key)) is not None:
                self._check_lives(answer)
                return Granted(answer.response)
        return await self._grant(ask, key, encode, is_wanted)

    def _is_known(self, key: IdempotencyKey) -> bool:
        """Whether a request of this id was decided, durably or not."""
        return key.request_id in self._answers.kept or key.request_id in self._answers.under_way

    def _check_lives(self, answer: Answer) -> None:
        """Raises Refused where what was granted has ended, or is ending: somebody else may have its ports."""
        claim = self.ledger.claims.get(answer.claim_id)
        if claim is None or answer.claim_id in self.changes.ending or is_over(claim, self.clock()):
            message = (
                f"allocation {answer.claim_id}, which was given for this request_id, has ended: it was released, or its"
                " time ran out. Allocate anew, with a fresh request_id"
            )
            raise Refused(Mistake(Reason.ALLOCATION_NOT_FOUND, "request_id", message))

    def _grant(
        self, ask: Ask, key: IdempotencyKey | None, encode: EncodeResponse, is_wanted: Callable[[], bool]
    ) -> asyncio.Future[Granted]:
        """Decides now; the future is the durable answer."""
        began = perf_counter()
        claim, old, warnings = self._decide(ask)  # taken in the same turn of the event loop
        decided = perf_counter()
        self.around.decided(decided - began)
        granted = self._granted(claim, warnings, encode)
        answer = Answer(key.request_id, key.digest, claim.id, granted.response) if key else None
        under_way = self._answers.begin(key)
        outcome = under_way.join(is_wanted)
        committed = self._commit(claim, old, answer, under_way)

        def settle(committed: asyncio.Future[bool]) -> None:
            failure = _outcome_of(committed)
            self.around.committed(perf_counter() - decided)
            if failure is None:
                self.ledger.publish(claim.id)  # others see it from here on
            else:
                self._take_back(claim, old, committed)
            self._answers.finish(key, answer if failure is None else None)  # before anybody is told, and asks again
            under_way.settle(failure or granted)

        committed.add_done_callback(settle)
        return outcome

    def _decide(self, ask: Ask) -> tuple[Claim, Claim | None, Sequence[PodWarning]]:
        """The claim, which is taken now; the one that it replaces, where the Pod had it before; and the warnings."""
        now = self.clock()
        try:
            taken = self._take_up(ask, now)
            if taken is None:
                claim, warnings = self.ledger.reserve(ask, self._new_id(), now)
                return claim, None, warnings
        except UndecidedError as error:
            raise _incomplete(error) from error
        claim, told = taken
        old = self.ledger.claims.get(claim.id)
        self.ledger.replace(claim)
        return claim, old, told

    def _take_up(self, ask: Ask, now: float) -> tuple[Claim, Sequence[PodWarning]] | None:
        """The Pod's own pending claim, if the ask carries it.

        Raises:
            _NoLongerFitsError: it does. The claim stays as it is, since another look may show that the Pod fits.

        """
        claim = self.ledger.claims.get(ClaimId(ask.carried_id)) if ask.carried_id else None
        if claim is None or claim.id in self.changes.ending:
            return None
        try:
            return self.ledger.drafts.readmit(ask, now)
        except Refused as refused:
            raise _NoLongerFitsError(claim, refused) from refused

    def _commit(
        self, claim: Claim, old: Claim | None, answer: Answer | None, under_way: UnderWay
    ) -> asyncio.Future[bool]:
        self._save_changes()
        if claim == old:
            return self._durability.record([answer] if answer else [], under_way.is_wanted)
        return self._durability.grant(claim, answer, under_way.is_wanted)

    def _save_changes(self) -> None:
        """What was changed before a decision is journalled before it."""
        if self.changes.unsaved or self.ledger.unsaved:
            self.changes.save()

    def _take_back(self, claim: Claim, old: Claim | None, committed: asyncio.Future[bool]) -> None:
        """The decision was not made durable: what was before it is again."""
        if old is None:
            _once_certain(committed, lambda: self.ledger.abort(claim.id))
        elif self.ledger.claims.get(claim.id) is claim:
            self.changes.put_back(old)

    def preview(self, ask: Ask, encode: EncodeResponse) -> Granted:
        """What `allocate` would grant, without an id; nothing is reserved or recorded.

        Raises:
            Refused, NotServedError: as for `allocate`.

        """
        self.check_serving()
        now = self.clock()
        try:
            claim, warnings = self.ledger.drafts.readmit(ask, now) or self.ledger.preview(ask, now)
        except UndecidedError as error:
            raise _incomplete(error) from error
        return self._granted(replace(claim, id=ClaimId("")), warnings, encode)

    def _granted(self, claim: Claim, warnings: Sequence[PodWarning], encode: EncodeResponse) -> Granted:
        return Granted(encode(claim, warnings, self.ledger.drafts.remarks(claim), self.clock.ahead), claim)

    # -- release and renew

    async def release(self, claim_id: ClaimId) -> None:
        """Ends an allocation, durably. One that is gone is released already.

        Raises:
            Refused: its Pod lives.
            NotServedError: the end could not be made durable; the ports are still held.

        """
        self.check_serving()
        if self.ledger.claims.releasable(claim_id) is not None:
            await _durable(self.changes.ending.get(claim_id) or self.changes.end([claim_id]))

    async def renew(self, claim_id: ClaimId, ttl: float | None) -> Claim:
        """Extends a lease to `ttl` seconds from now, durably. None: to `LEASE_SECONDS`.

        Raises:
            Refused: there is no such lease.
            NotServedError: the lease keeps its old end.

        """
        self.check_serving()
        if claim_id in self.changes.ending:
            raise Refused(Mistake(Reason.ALLOCATION_NOT_FOUND, "id", f"allocation {claim_id} has just been ended"))
        renewed = self.ledger.claims.renewed(claim_id, ttl or LEASE_SECONDS, self.clock())
        old = self.ledger.claims.get(claim_id)
        self._save_changes()  # as things are: of the new end only `Durability.renew` may tell
        self.ledger.replace(renewed)
        try:
            await _durable(self._durability.renew(renewed))
        except (Refused, NotServedError):
            if old is not None and self.ledger.claims.get(claim_id) is renewed:
                self.changes.put_back(old)
            raise
        return renewed


async def _durable(committed: asyncio.Future[bool]) -> None:
    """Waits for a commit, `END_SECONDS` at most; the commit goes on when nobody waits.

    Raises:
        Refused, NotServedError: it failed, or takes too long.

    """
    committed.add_done_callback(_outcome_of)  # else it is told that nobody asked, where whoever waits goes
    await asyncio.wait([committed], timeout=END_SECONDS)
    if not committed.done():
        message = "the API server does not answer: what was asked is still being tried. Repeat the call to learn of it"
        raise NotServedError(Reason.LEASE_NOT_STORED, message)
    failure = _outcome_of(committed)
    if failure is not None:
        raise failure


def _outcome_of(committed: asyncio.Future[bool]) -> Refused | NotServedError | None:
    """What callers are told of a decision, in no other words, when its commit is done; None: it is durable."""
    if committed.cancelled():
        return NotServedError(Reason.NOT_SERVING, "the allocator is stopping; retry")
    error = committed.exception()
    if error is None:
        return None if committed.result() else NotWantedError()
    if isinstance(error, JournalError) and error.refusal is not None:
        return error.refusal
    reason = error.reason if isinstance(error, JournalError) else Reason.JOURNAL_UNAVAILABLE
    return NotServedError(reason, f"the decision could not be made durable ({error}); nothing was changed")


def _once_certain(committed: asyncio.Future[bool], do: Callable[[], None]) -> None:
    """Does it now, or when it is certain that nothing of a decision is kept that was not made durable."""
    error = None if committed.cancelled() else committed.exception()
    until = error.until if isinstance(error, JournalError) else None
    if until is None:
        do()
    else:
        until.add_done_callback(lambda done: None if done.cancelled() else do())


def _incomplete(error: UndecidedError) -> NotServedError:
    """A search that was cut off is no answer: the caller asks again."""
    return NotServedError(Reason.SEARCH_INCOMPLETE, str(error))
