"""What a piece of work costs the thread that does it, in milliseconds of the machine for which bounds are stated.

A machine that others share is half as fast for minutes. So work is measured beside a reference, some plain Python, and
told as if that took what it takes on a quiet machine. The cheapest of a few runs counts.

`instructions` counts instead: it tells the same on every machine, and takes no account of how wide numbers are.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import thread_time
from types import FrameType
from typing import Any

TRIES = 3
REFERENCE_MILLISECONDS = 13.0
"""Of the reference: 2 cores, AMD EPYC, Python 3.11."""


def milliseconds(work: Callable[[], object]) -> float:
    """CPU of the work, on the machine for which bounds are stated."""
    gc.freeze()  # looking for garbage among all that the tests have made took longer than what is measured
    try:
        return min(_spent(work) / _spent(_reference) for _ in range(TRIES)) * REFERENCE_MILLISECONDS
    finally:
        gc.unfreeze()


def milliseconds_of_reference() -> float:
    """CPU of the reference, on this machine and now."""
    return min(_spent(_reference) for _ in range(TRIES))


@dataclass(slots=True)
class Cost:
    """How many instructions of Python's own machine were run."""

    instructions: int = 0


@contextmanager
def counting() -> Iterator[Cost]:
    """Counts what the block runs, in this thread."""
    cost = Cost()

    def counted(*_: object) -> None:
        cost.instructions += 1

    with _telling(counted):
        yield cost
    if not cost.instructions:
        raise AssertionError("this Python tells of no instruction")


def instructions(work: Callable[[], object]) -> int:
    """How many instructions of Python's own machine the work takes, once."""
    with counting() as cost:
        work()
    return cost.instructions


@contextmanager
def _telling(each: Callable[..., None]) -> Iterator[None]:
    """Has a function called for each instruction."""
    if sys.version_info >= (3, 12):  # where settrace tells of none in code that was not traced before
        tool, event = 3, sys.monitoring.events.INSTRUCTION
        sys.monitoring.use_tool_id(tool, __name__)
        sys.monitoring.register_callback(tool, event, each)
        sys.monitoring.set_events(tool, event)
        try:
            yield
        finally:
            sys.monitoring.set_events(tool, 0)
            sys.monitoring.register_callback(tool, event, None)
            sys.monitoring.free_tool_id(tool)
        return

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        if event == "opcode":
            each()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _spent(work: Callable[[], object]) -> float:
    gc.collect()
    begun = thread_time()
    work()
    return (thread_time() - begun) * 1000


def _reference() -> None:
    kept: dict[int, tuple[int, str]] = {}
    for number in range(100_000):
        kept[number & 1023] = (number, str(number & 255))
