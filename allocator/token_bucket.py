"""A token bucket: so much may be done at once, and so much in a second from then on. Pure: callers bring the time."""

from __future__ import annotations


class TokenBucket:
    """Full at first. Who takes more than there is leaves a debt, which is paid off first."""

    def __init__(self, burst: float, per_second: float, now: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._left = burst
        self._filled_at = now

    def left(self, now: float) -> float:
        """How many tokens there are by now; below zero: a debt."""
        self._left = min(self._burst, self._left + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        return self._left

    def take(self, tokens: float = 1.0) -> None:
        """Takes tokens, as of the last look at what is left."""
        self._left -= tokens
