"""Long work in slices: a millisecond of work, then twice as long for others, so that no decision waits for a reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from time import perf_counter
from typing import TypeVar

SLICE_SECONDS = 0.001
REST_SECONDS = 0.002

T = TypeVar("T")


async def in_slices(items: Iterable[T], *, slice_seconds: float = SLICE_SECONDS) -> AsyncIterator[T]:
    """The items, with rests between them. What they are taken from may change in a rest."""
    ends = perf_counter() + slice_seconds
    for item in items:
        yield item
        if perf_counter() > ends:
            await asyncio.sleep(REST_SECONDS)
            ends = perf_counter() + slice_seconds
