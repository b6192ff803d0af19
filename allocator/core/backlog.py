"""Owners whose Pods are admitted here and never appear.

A Pod that a quota, Pod Security or a later webhook refuses comes again and again, and each time would reserve ports
for 45 seconds: enough to drain a range that others need. So an owner with three reservations that were unconfirmed for
five seconds, none having been confirmed since, gets one outstanding reservation until one of its Pods is seen.

In those five seconds a ReplicaSet asks eleven times: its pauses double from 5 ms. So an owner with three reservations
that has never had one confirmed is asked to wait a moment for its first Pod (`awaits_sight`). Controllers create in
growing batches, each after the one before was stored: a healthy owner's first Pod is seen within the lag of the watch,
and it waits no longer than that. Waiting denies nobody, however many ask at once and however old the view is.

Only what the view of the cluster reaches counts as unconfirmed: a view that stands still accuses nobody.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import TypeVar

from allocator.core.asks import Mistake, Refused
from allocator.core.claims import Claim, Owner
from hostport.contract import Reason

UNCONFIRMED_SECONDS = 5.0
TOLERATED = 3
REMEMBERED_OWNERS = 10_000

_Key = tuple[str, str]
V = TypeVar("V")


class Backlog:
    """Who is held back. Bounded: the oldest entries are forgotten, which harms nobody.

    A reservation is known by its end, which is `reservation_seconds` after it was made, or after the last start.
    """

    def __init__(self, reservation_seconds: float) -> None:
        self._reservation_seconds = reservation_seconds
        self._held_back: OrderedDict[_Key, None] = OrderedDict()
        self._confirmed: OrderedDict[_Key, float] = OrderedDict()

    def confirmed(self, claim: Claim) -> None:
        """A Pod of this owner appeared."""
        key = _key(claim.owner)
        self._held_back.pop(key, None)
        _remember(self._confirmed, key, _end(claim))

    def awaits_sight(self, owner: Owner, reserved: Iterable[Claim]) -> bool:
        """Whether an owner has several reservations, never had one confirmed, and is not held back for it yet."""
        key = _key(owner)
        if not owner.controller_uid or key in self._confirmed or key in self._held_back:
            return False
        return len(list(islice(reserved, TOLERATED))) == TOLERATED

    def check(self, owner: Owner, reserved: Iterable[Claim], seen_until: float) -> None:
        """Refuses an owner that is held back and has a reservation outstanding.

        Args:
            owner: who asks.
            reserved: the owner's reservations, oldest first.
            seen_until: how far the view of the cluster reaches, in seconds of the clock by which reservations end.

        Raises:
            Refused: with UNCONFIRMED_BACKLOG.

        """
        if not owner.controller_uid or seen_until == float("-inf"):
            return
        key = _key(owner)
        since = self._confirmed.get(key, float("-inf"))
        has_any, unconfirmed = False, 0
        for claim in reserved:
            has_any = True
            if claim.expires is None:
                break  # of a time when nobody saw Pods: it has no deadline yet, and says nothing
            is_young = claim.expires - self._reservation_seconds > seen_until - UNCONFIRMED_SECONDS
            if is_young or unconfirmed == TOLERATED:
                break  # the younger ones say nothing yet
            unconfirmed += claim.expires > since
        if unconfirmed == TOLERATED:
            _remember(self._held_back, key, None)
        if has_any and key in self._held_back:
            raise Refused(
                Mistake(
                    Reason.UNCONFIRMED_BACKLOG,
                    "owner",
                    "Pods of this owner were admitted here and never appeared: something refuses them afterwards (a"
                    " quota, Pod Security, another webhook; see the events of the owner). One more is admitted when"
                    " the reservation of the last has expired",
                )
            )


def _end(claim: Claim) -> float:
    """When a reservation ends; of one that has none, and of a claim that was confirmed before the start: long ago."""
    return float("-inf") if claim.expires is None else claim.expires


def _key(owner: Owner) -> _Key:
    return owner.namespace, owner.controller_uid


def _remember(memory: OrderedDict[_Key, V], key: _Key, value: V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED_OWNERS:
        memory.popitem(last=False)
