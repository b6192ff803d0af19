"""A clock that shows what a function says."""

from __future__ import annotations

from collections.abc import Callable

from allocator.clock import Clock


class FunctionClock(Clock):
    """It is never set, never stands, and knows no wall clock beside itself. What a journal kept of it does not count."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(wall=now, steady=now)

    def __call__(self) -> float:
        return self.wall()

    def resume(self, kept: float) -> None:
        """Nothing: the function goes on by itself."""

    def look(self) -> None:
        """Nothing: there is no other clock."""
