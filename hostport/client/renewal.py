"""When a lease is renewed, when a call is repeated, and when a lease must be given up. Pure: clocks are handed in.

Rules:

* A lease is renewed when a third of its time is over, so that two more thirds are left for an allocator that restarts.
* Its end is counted from the moment when the call that granted or renewed it was *sent*, on our own clock: the
  allocator counts from later on, so that we give it up before anybody else can get it.
* What failed is tried again after a pause that doubles, with chance in it, up to a second.
"""

from __future__ import annotations

import time

ATTEMPT_SECONDS = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0


def elapsed() -> float:
    """Seconds that also pass while the machine sleeps: a lease runs out then, too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def pause(failures: int, chance: float) -> float:
    """Seconds until the next attempt, after so many failures; `chance` is in [0, 1)."""
    longest: float = min(FIRST_PAUSE * 2.0**failures, LONGEST_PAUSE)
    return longest * (0.5 + chance / 2)


class Renewal:
    """The renewals of one lease."""

    def __init__(self, ttl: float, sent: float) -> None:
        self._ttl = ttl
        self._failures = 0
        self.succeeded(sent)

    def succeeded(self, sent: float) -> None:
        """A call that was sent then was answered."""
        self.ends = sent + self._ttl  # from when it was sent: before the allocator's own end
        self._next = sent + self._ttl / 3
        self._failures = 0

    def failed(self, now: float, chance: float) -> None:
        """A call had no answer; `chance` is in [0, 1)."""
        self._next = now + pause(self._failures, chance)
        self._failures += 1

    def is_over(self, now: float) -> bool:
        """Whether the lease must be given up."""
        return now >= self.ends

    def wait(self, now: float) -> float:
        """Seconds until something is to be done."""
        return max(0.0, min(self._next, self.ends) - now)

    def timeout(self, now: float) -> float:
        """Seconds that the next attempt may take."""
        return min(ATTEMPT_SECONDS, max(0.01, self.ends - now))
