"""Answers that stay good for a few seconds, bounded in number.

Rules:

* Their age counts from the question: what is revoked is gone that many seconds later at the latest.
* Who asks for what is being asked waits for that one answer. A failure is told to all who wait, and not kept.
* More questions at once than `most_at_once` are turned away: callers must not make us a load for the API server.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TooManyError(Exception):
    """Too many questions are under way."""


class SingleFlightCache(Generic[K, V]):
    """See the module. `now` gives seconds that never step."""

    def __init__(self, *, seconds: float, most: int, most_at_once: int, now: Callable[[], float]) -> None:
        self._seconds = seconds
        self._most = most
        self._most_at_once = most_at_once
        self._now = now
        self._kept: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._under_way: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        """The answer that is kept, or a fresh one.

        Raises:
            TooManyError: as the module says. Whatever `ask` raises.

        """
        kept = self._kept.get(key)
        if kept is not None and self._now() < kept[0]:
            self._kept.move_to_end(key)
            return kept[1]
        task = self._under_way.get(key) or self._begin(key, ask)  # one question for all who ask the same
        return await asyncio.shield(task)  # its caller may go; the others wait on

    def _begin(self, key: K, ask: Callable[[], Awaitable[V]]) -> asyncio.Task[V]:
        if len(self._under_way) >= self._most_at_once:
            raise TooManyError
        task = asyncio.ensure_future(_awaiting(ask))
        self._under_way[key] = task
        task.add_done_callback(partial(self._settle, key, self._now() + self._seconds))  # its age counts from now
        return task

    def _settle(self, key: K, until: float, task: asyncio.Task[V]) -> None:
        del self._under_way[key]
        if task.cancelled() or task.exception() is not None:
            self._kept.pop(key, None)  # a failure is told to all who wait, and not kept
            return
        self._kept[key] = (until, task.result())
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)


async def _awaiting(ask: Callable[[], Awaitable[V]]) -> V:
    return await ask()
