"""Long work in slices: half a millisecond of it, then four times as long for others, so that no decision waits long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TypeVar

SLICE_SECONDS = 0.0005
REST_SECONDS = 0.002
BATCH = 64

T = TypeVar("T")


async def in_slices(items: Sequence[T], work: Callable[[Sequence[T]], None], *, batch: int = BATCH) -> None:
    """Works on all items, a few at a time, with rests. What they are taken from may change in a rest."""
    ends = perf_counter() + SLICE_SECONDS
    for start in range(0, len(items), batch):
        work(items[start : start + batch])
        if perf_counter() > ends:
            await asyncio.sleep(REST_SECONDS)
            ends = perf_counter() + SLICE_SECONDS
