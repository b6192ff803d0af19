"""What has to be done so that leases and their objects agree. Pure.

* A lease whose object has gone has ended: somebody deleted it.
* A granted object without a lease is of a grant that nobody was ever told of: it is deleted. Who took over has listed
  every grant that was answered (see `reconciler`), so that whatever shows up later was not.
* An object that we did not grant is told so, in its status. Those that a predecessor had not finished are deleted.
* Where a lease has more time left than its object says, the object is told; likewise where people are shown an end that
  is wrong by `SHOWN_SECONDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from allocator.core.claims import Claim, ClaimId
from allocator.leases.objects import PortLease, shown_end, ttl_of

SHOWN_SECONDS = 10.0
"""A start changes every end that is shown by the time for which nobody answered: rarely by so much."""


@dataclass(frozen=True, slots=True)
class EndLease:
    """The lease has ended."""

    claim_id: ClaimId


@dataclass(frozen=True, slots=True)
class DeleteObject:
    """The object stands for nothing."""

    stored: PortLease


@dataclass(frozen=True, slots=True)
class RenewObject:
    """The object tells too little time, or shows a wrong end."""

    stored: PortLease
    claim: Claim


@dataclass(frozen=True, slots=True)
class ExplainObject:
    """The object holds nothing, and should say so."""

    stored: PortLease


Action = EndLease | DeleteObject | RenewObject | ExplainObject


def actions(
    objects: Iterable[PortLease],
    *,
    lease: Callable[[ClaimId], Claim | None],
    is_known: Callable[[ClaimId], bool],
    busy: Collection[ClaimId],
    unfinished: Collection[ClaimId],
    now: float,
    ahead: float,
) -> Iterator[Action]:
    """What some objects need. See the module.

    Args:
        objects: some of those that exist.
        lease: one that is in force.
        is_known: whether the books have a claim, also one that is still being granted.
        busy: the leases whose objects are just being written or deleted: left alone.
        unfinished: what was being granted when a predecessor died.
        now: by the clock by which leases end.
        ahead: seconds that the wall clock is ahead of that.

    """
    for stored in objects:
        claim = lease(stored.id)
        if stored.id in busy:
            continue
        if stored.claim is None:
            if stored.id in unfinished:
                yield DeleteObject(stored)
            elif not stored.is_explained:
                yield ExplainObject(stored)
        elif claim is not None:
            if ttl_of(claim, now) > stored.left or abs(shown_end(claim, ahead) - stored.expires) >= SHOWN_SECONDS:
                yield RenewObject(stored, claim)
        elif not is_known(stored.id):
            yield DeleteObject(stored)


def ended(
    leases: Iterable[ClaimId], *, is_stored: Callable[[ClaimId], bool], busy: Collection[ClaimId]
) -> Iterator[Action]:
    """Which of some leases have ended, as their objects have gone. `busy`: as for `actions`."""
    return (EndLease(claim_id) for claim_id in leases if not is_stored(claim_id) and claim_id not in busy)


def corrections(
    objects: Iterable[PortLease], *, lease: Callable[[ClaimId], Claim | None], now: float
) -> list[RenewObject]:
    """Objects that tell `SHOWN_SECONDS` more than is left of their leases: those whose share of it is largest first.

    Who takes over without the journal gives a lease what its object tells.
    """
    known = [(stored, claim, ttl_of(claim, now)) for stored in objects if (claim := lease(stored.id))]
    due = [each for each in known if each[0].left - each[2] >= SHOWN_SECONDS]
    return [RenewObject(stored, claim) for stored, claim, left in sorted(due, key=lambda each: each[2] / each[0].left)]
