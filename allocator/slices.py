"""Work that is long is done in steps, between which others are served.

A step is bounded by what it weighs, not by how many things it is about: a Pod may have one port or five hundred.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")

MOST_WEIGHT = 256
"""Ports, or other things of about 20 µs, in one step: some 5 ms."""


def slices(items: Iterable[T], weigh: Callable[[T], int] = lambda _: 1, most: int = MOST_WEIGHT) -> Iterator[list[T]]:
    """The items in order, some at a time: as many as weigh `most` together, one at least."""
    found: list[T] = []
    weight = 0
    for item in items:
        found.append(item)
        weight += weigh(item)
        if weight >= most:
            yield found
            found, weight = [], 0
    if found:
        yield found


LONG_SECONDS, REST_SECONDS = 0.002, 0.001
"""After a step that took long the loop rests: what others ask comes in by other threads, and in several turns."""


async def in_turns(steps: Iterator[None], *, rests: bool = True) -> None:
    """Takes step after step, each in a turn of the event loop of its own, by whose clock a step is long.

    rests: whether the loop rests after one that was; not where nobody is answered yet.
    """
    now = asyncio.get_running_loop().time
    began = now()
    for _ in steps:
        await asyncio.sleep(REST_SECONDS if rests and now() - began > LONG_SECONDS else 0)
        began = now()


def at_once(steps: Iterator[None]) -> None:
    """Takes all steps in one turn, where nobody else waits."""
    for _ in steps:
        pass


SLICE_SECONDS = 0.003


class TimeSlice:
    """For work whose steps are too short to be turns by themselves: `rest` between two of them.

    Those who share a lock share turns, too: in one turn of the event loop one of them does a slice, however many there
    are.
    """

    def __init__(self, turn: asyncio.Lock) -> None:
        self._turn = turn
        self._ends = perf_counter() + SLICE_SECONDS

    @property
    def is_over(self) -> bool:
        """Whether the slice has taken its time."""
        return perf_counter() > self._ends

    async def rest(self) -> None:
        """Lets others be served where the slice is over."""
        if self.is_over:
            await self.begin(REST_SECONDS)

    async def begin(self, rest: float = 0.0) -> None:
        """Waits for a turn, in which a slice begins."""
        async with self._turn:
            await asyncio.sleep(rest)
        self._ends = perf_counter() + SLICE_SECONDS


VIEW_SLICE_SECONDS, VIEW_REST_SECONDS = 0.0005, 0.002
"""Work for readers: half a millisecond of it, then four times as long for others, so that no decision waits long."""
VIEW_BATCH = 64


async def in_slices(items: Sequence[T], work: Callable[[Sequence[T]], None], *, batch: int = VIEW_BATCH) -> None:
    """Works on all items, `batch` at a time, with rests. What they are taken from may change in a rest."""
    ends = perf_counter() + VIEW_SLICE_SECONDS
    for start in range(0, len(items), batch):
        work(items[start : start + batch])
        if perf_counter() > ends:
            await asyncio.sleep(VIEW_REST_SECONDS)
            ends = perf_counter() + VIEW_SLICE_SECONDS
