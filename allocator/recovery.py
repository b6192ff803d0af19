"""The start: what the journal kept, and the leases that the cluster has stored, come into the ledger.

Rule: it is done in steps, before anything is served. A lease that is not stored was told to nobody, or somebody has
ended it: the answers to its requests are forgotten at once.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Sequence

from msgspec.structs import replace

from allocator.clock import Clock
from allocator.core.claims import Claim, ClaimId, State, weight_of
from allocator.core.ledger import Ledger
from allocator.idempotency import Answers
from allocator.journal.contract import Drop, Durability, Entry, Journal, Put, Recorded
from allocator.maintenance import Changes, is_durable
from allocator.slices import slices
from hostport.logs import log_event

log = logging.getLogger(__name__)


class Recovery:
    """See the module. After the start it says which leases there are (see `leases.reconciler.Books`)."""

    def __init__(
        self, ledger: Ledger, durability: Durability, answers: Answers, changes: Changes, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._durability = durability
        self._answers = answers
        self._changes = changes
        self._clock = clock

    def restore(self, journal: Journal) -> Iterator[None]:
        """Takes what a journal kept, once it is open and before anything else, in steps."""
        kept = journal.load(self._clock)
        if kept.clock is not None:
            self._clock.resume(kept.clock)
            self._ledger.ahead = self._clock.ahead
        for claims in slices(sorted(kept.claims, key=lambda claim: claim.created), weight_of):
            self._ledger.restore(claims, self._clock())
            yield
        yield from self._answers.restore(kept.answers, self._clock())
        log_event(log, "journal read", claims=len(kept.claims), answers=len(kept.answers))

    def recover_leases(self, recorded: Sequence[Recorded]) -> Generator[None, None, list[ClaimId]]:
        """In steps: these are the leases. Returns the ids of those in the ledger that are not among them."""
        stored = {one.claim.id for one in recorded}
        lost = [claim for claim in self.leases() if claim.id not in stored]
        yield
        for some in slices(lost, weight_of):
            self._journal([self._given_up(claim.id) for claim in some])
            yield
        for these in slices(recorded, lambda one: weight_of(one.claim)):
            self._journal([entry for one in these for entry in self._taken_back(one)])
            yield
        return [claim.id for claim in lost]

    def _journal(self, entries: Sequence[Entry]) -> None:
        if entries:
            self._changes.save()
            self._durability.record(entries).add_done_callback(is_durable)  # the next start would find the same

    def _given_up(self, claim_id: ClaimId) -> Drop:
        self._ledger.end(claim_id, self._clock())
        self._answers.drop(claim_id)
        return Drop(claim_id, 0.0)

    def _taken_back(self, recorded: Recorded) -> Iterator[Entry]:
        claim, answer = recorded.claim, recorded.answer
        known = self._ledger.claims.get(claim.id)
        if known is None:
            self._ledger.restore([claim], self._clock())
            yield Put(claim)
        elif (claim.expires or 0.0) > (known.expires or 0.0):
            longer = replace(known, expires=claim.expires)
            self._ledger.replace(longer)
            yield Put(longer)
        if answer is not None and answer.request_id not in self._answers.kept:
            self._answers.remember(answer)
            yield answer

    # -- the leases that there are

    def leases(self) -> list[Claim]:
        """The leases in force."""
        return self._ledger.claims.leases()

    def lease_ids(self) -> list[ClaimId]:
        """Those of all leases, of ones that are being granted among them: `lease` says which are in force."""
        return self._ledger.claims.lease_ids()

    def lease(self, claim_id: ClaimId) -> Claim | None:
        """A lease in force."""
        claim = self._ledger.claims.get(claim_id)
        return claim if claim is not None and claim.state is State.LEASED else None

    def is_known(self, claim_id: ClaimId) -> bool:
        """Whether there is such a claim, also one that is still being decided."""
        return self._ledger.claims.has(claim_id)

    def end_leases(self, claim_ids: Iterable[ClaimId]) -> None:
        """Somebody has ended these leases, whether or not that is in the journal yet."""
        self._changes.end_leases(claim_ids)
