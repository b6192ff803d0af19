"""What a piece of work costs the thread that does it, in milliseconds of the machine for which bounds are stated.

A machine that others share is half as fast for minutes. So work is measured beside a reference, some plain Python, and
told as if that took what it takes on a quiet machine. The cheapest of a few runs counts.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import thread_time

TRIES = 3
REFERENCE_MILLISECONDS = 13.0
"""Of the reference: 2 cores, AMD EPYC, Python 3.11."""


def milliseconds(work: Callable[[], object]) -> float:
    """CPU of the work, on the machine for which bounds are stated."""
    gc.collect()
    gc.freeze()  # looking for garbage among all that the tests have made took longer than what is measured
    try:
        return min(_spent(work) / _spent(_reference) for _ in range(TRIES)) * REFERENCE_MILLISECONDS
    finally:
        gc.unfreeze()


def _spent(work: Callable[[], object]) -> float:
    gc.collect()
    begun = thread_time()
    work()
    return (thread_time() - begun) * 1000


def _reference() -> None:
    kept: dict[int, tuple[int, str]] = {}
    for number in range(100_000):
        kept[number & 1023] = (number, str(number & 255))
