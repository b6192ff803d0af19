"""Messages that wait in one queue are sent together."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")

MOST_TOGETHER = 32
"""Asks or answers in one message of AllocateStream, so that it stays far below what gRPC takes."""


async def gathered(queue: asyncio.Queue[T | None]) -> list[T]:
    """What is in the queue, waiting for the first; empty when the next thing is None, the end."""
    first = await queue.get()
    if first is None:
        return []
    found = [first]
    while len(found) < MOST_TOGETHER and not queue.empty():
        item = queue.get_nowait()
        if item is None:
            queue.put_nowait(None)
            break
        found.append(item)
    return found
