"""The allocator's own time, by which leases, reservations and answers end. People are told the time of the wall clock.

Rules:

* It goes on from where the journal's copy of it stands, whatever the wall clock says: what was left of a lease when it
  was last stored is what is left of it at least.
* It goes by the steady clock of the machine, and only while it `counts`: while the allocator answers, since nobody can
  renew a lease with one that does not. One reading adds `LONGEST_SECONDS` at most: a process that was stopped, a
  machine that slept, or a snapshot that was taken up again ends nobody's lease.
* So it is never ahead of the time that really passed. Whatever waits by it, waits long enough.
* The wall clock is for people: `ahead` is how far it is ahead of ours. A step of it, and a pause of ours, is noticed by
  `look`, told once, and counted; nothing ends by it.

Its readings are seconds since the epoch as they were when the first journal was made, less what did not count.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from enum import Enum

from hostport.logs import log_event

log = logging.getLogger(__name__)

LONGEST_SECONDS = 2.0
"""What one reading adds at most: the clock is read with each tick, twice a second."""

SEEN_SECONDS = 1.0
"""A wall clock that is set by less is not noticed. What people are told may be wrong by as much."""


class Step(Enum):
    """What was noticed: why our time and that of the wall clock do not go together."""

    FORWARD = "the wall clock was set forward"
    BACK = "the wall clock was set back"
    PAUSE = "this process did not run: it was stopped, or its machine was"


def elapsed() -> float:
    """Seconds that pass whatever is set, also while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def counts_always() -> bool:
    """For a clock that is never stopped."""
    return True


class Clock:
    """See the module."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = elapsed,
        *,
        counts: Callable[[], bool] = counts_always,
    ) -> None:
        """wall: gives seconds since the epoch. steady: seconds that pass whatever is set. counts: whether they do."""
        self.wall = wall
        self._counts = counts
        self.steps: Counter[Step] = Counter()  # since the start
        self.ahead = 0.0  # seconds that the wall clock is ahead, as last noticed
        self._steady = steady
        self._read = steady()
        self._now = wall()
        self._paused = self._uncounted = 0.0  # seconds that were not added, of what `look` has not seen yet
        self._difference = 0.0  # between the clocks, as `look` last saw it

    def __call__(self) -> float:
        """Seconds by this clock; never fewer than the time before."""
        read = self._steady()
        passed, self._read = max(0.0, read - self._read), read
        if self._counts():
            counted = min(passed, LONGEST_SECONDS)
            self._now += counted
            self._paused += passed - counted
        else:
            self._uncounted += passed
        return self._now

    def resume(self, kept: float) -> None:
        """At the start, before anything else: goes on from what the journal keeps. Nothing is a step yet."""
        self._read, self._now, self._paused, self._uncounted = self._steady(), kept, 0.0, 0.0
        self.ahead = self._difference = self.wall() - kept

    def look(self) -> None:
        """With each tick: notices what the wall clock did since the last one."""
        now = self()
        difference, paused = self.wall() - now, self._paused
        stepped = difference - self._difference - paused - self._uncounted
        self._difference, self._paused, self._uncounted = difference, 0.0, 0.0
        if paused >= SEEN_SECONDS:
            self._tell(Step.PAUSE, paused)
        if abs(stepped) >= SEEN_SECONDS:
            self._tell(Step.FORWARD if stepped > 0 else Step.BACK, abs(stepped))
        if abs(difference - self.ahead) >= SEEN_SECONDS:  # also what came in many small steps
            self.ahead = difference

    def _tell(self, step: Step, seconds: float) -> None:
        self.steps[step] += 1
        log_event(log, "clock step", level=logging.WARNING, what=step.value, seconds=round(seconds, 1))
