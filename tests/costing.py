"""What a piece of work costs the thread that does it. A machine that others share makes a single run dear by chance."""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import thread_time

TRIES = 3


def milliseconds(work: Callable[[], object]) -> float:
    """CPU of the cheapest of a few runs."""
    return min(_spent(work) for _ in range(TRIES))


def _spent(work: Callable[[], object]) -> float:
    gc.collect()
    begun = thread_time()
    work()
    return (thread_time() - begun) * 1000
