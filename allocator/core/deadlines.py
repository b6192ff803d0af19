"""Who ends when, so that a look at what is due costs what is due, however many end later.

There is a map for each second in which somebody ends, and a heap of these seconds. Where all of a second were taken
out, its map goes, and the second stays in the heap until it is reached. When half of the heap are such seconds, it is
made anew.
"""

from __future__ import annotations

from heapq import heappop, heappush

from allocator.core.claims import ClaimId

LEAST_SECONDS = 64
"""A heap is not made anew for less."""


class Deadlines:
    """Claims by the time when they end, in seconds of the clock that the ledger is given."""

    def __init__(self) -> None:
        self._by_second: dict[int, dict[ClaimId, float]] = {}
        self._seconds: list[int] = []

    def add(self, claim_id: ClaimId, at: float) -> None:
        second = int(at // 1)
        if second not in self._by_second:
            self._by_second[second] = {}
            heappush(self._seconds, second)
        self._by_second[second][claim_id] = at

    def discard(self, claim_id: ClaimId, at: float) -> None:
        """What was added may have been taken since."""
        second = int(at // 1)
        ends = self._by_second.get(second, {})
        ends.pop(claim_id, None)
        if ends or second not in self._by_second:
            return
        del self._by_second[second]
        if len(self._seconds) > LEAST_SECONDS and len(self._seconds) > 2 * len(self._by_second):
            self._seconds = sorted(self._by_second)

    def take(self, until: float, most: int) -> list[ClaimId]:
        """At most so many of those that end by then, the earliest second first. Each is taken once."""
        found: list[ClaimId] = []
        while len(found) < most and (ends := self._first(until)):
            due = [claim_id for claim_id, at in ends.items() if at <= until][: most - len(found)]
            if not due:
                break
            for claim_id in due:
                del ends[claim_id]
            found += due
        return found

    def has_due(self, until: float) -> bool:
        """Whether anybody ends by then."""
        return any(at <= until for at in self._first(until).values())

    def _first(self, until: float) -> dict[ClaimId, float]:
        """Those of the first second in which anybody ends; nothing where that is later."""
        while self._seconds and self._seconds[0] <= until:
            ends = self._by_second.get(self._seconds[0])
            if ends:
                return ends
            self._by_second.pop(heappop(self._seconds), None)
        return {}
