"""Waiting in line: of those who wait for the same thing one looks whether it is there, the others stand behind it.

A look of each every few milliseconds would cost the event loop more than what is waited for, and whoever came last
would often be first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from contextlib import suppress
from weakref import WeakValueDictionary

POLL_SECONDS = 0.02


class Lines:
    """The lines, by what is waited for. One that nobody stands in is forgotten."""

    def __init__(self) -> None:
        self._heads: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    async def wait(self, key: Hashable, must_wait: Callable[[], bool], until: float) -> None:
        """Returns when it need not wait any more, in order of arrival, or at a time of the event loop's clock.

        Whoever need not wait when it comes stands in no line: what others wait for may be no affair of its own.
        """
        if not must_wait():
            return
        head = self._heads.get(key)
        if head is None:
            head = self._heads[key] = asyncio.Lock()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until), head:
                while must_wait():  # noqa: ASYNC110 - one of many looks, and not for long
                    await asyncio.sleep(POLL_SECONDS)
