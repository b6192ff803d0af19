"""Keys that stay in order as they come and go, so that nobody sorts them to show a page.

They lie in runs of bounded length, one after the other: to add or take one moves a part of one run, whatever the
number of keys.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=str)

LONGEST_RUN = 1024
"""A run that grows beyond is cut in two."""


class Ordered(Generic[K]):
    """A set of strings in order."""

    def __init__(self) -> None:
        self._runs: list[list[K]] = []
        self._lasts: list[K] = []  # the last key of each run

    def __iter__(self) -> Iterator[K]:
        """All of them. Nothing may come or go meanwhile."""
        for run in self._runs:
            yield from run

    def add(self, key: K) -> None:
        """A key that is not there."""
        if not self._runs:
            self._runs.append([key])
            self._lasts.append(key)
            return
        at = min(bisect_left(self._lasts, key), len(self._runs) - 1)
        run = self._runs[at]
        insort(run, key)
        if len(run) > LONGEST_RUN:
            half = len(run) // 2
            self._runs[at : at + 1] = [run[:half], run[half:]]
            self._lasts[at : at + 1] = [run[half - 1], run[-1]]
        else:
            self._lasts[at] = run[-1]

    def discard(self, key: K) -> None:
        """A key that may be there."""
        at = bisect_left(self._lasts, key)
        if at == len(self._runs):
            return
        run = self._runs[at]
        place = bisect_left(run, key)
        if run[place] != key:
            return
        del run[place]
        if run:
            self._lasts[at] = run[-1]
        else:
            del self._runs[at], self._lasts[at]

    def after(self, key: str, most: int) -> list[K]:
        """The first keys beyond one, which need not be there; fewer than `most` only where the end is reached."""
        found: list[K] = []
        at = bisect_right(self._lasts, key)
        while len(found) < most and at < len(self._runs):
            run = self._runs[at]
            begin = 0 if found else bisect_right(run, key)
            found += run[begin : begin + most - len(found)]
            at += 1
        return found
