"""Live readers: each gets the newest state once a second, as server-sent events.

Bounded: so many readers, and for each at most one event on its way; who has not read it in time is let go. What is sent
is a state, not a change, so that a reader who missed some has missed nothing. While nobody reads nothing is computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

MOST_READERS = 32
PERIOD_SECONDS = 1.0
PATIENCE_SECONDS = 10.0

Send = Callable[[bytes], Awaitable[None]]
"""Returns when the bytes are on their way to the reader."""


class FullError(Exception):
    """There are as many readers as there may be."""


class StatusStream:
    """The readers of one stream. `render` makes the event that all of them get."""

    def __init__(
        self, render: Callable[[], bytes], *, period: float = PERIOD_SECONDS, patience: float = PATIENCE_SECONDS
    ) -> None:
        self._render = render
        self._period = period
        self._patience = patience
        self._readers = 0
        self._ticker: asyncio.Task[None] | None = None
        self._event = b""
        self._next = asyncio.Event()
        self.let_go = 0  # readers that did not read

    @property
    def readers(self) -> int:
        return self._readers

    async def follow(self, send: Send) -> None:
        """Sends events until the reader does not take them any more, or until it is cancelled.

        Raises:
            FullError: there are too many readers.

        """
        if self._readers >= MOST_READERS:
            raise FullError(f"{MOST_READERS} readers follow the page already")
        self._readers += 1
        try:
            await self._feed(send)
        finally:
            self._readers -= 1
            if not self._readers and self._ticker:  # while nobody reads nothing is computed
                self._ticker.cancel()
                self._ticker, self._event = None, b""

    async def _feed(self, send: Send) -> None:
        if self._ticker is None:
            self._event = self._render()
            self._ticker = asyncio.create_task(self._tick(), name="status page")
        while True:
            upcoming = self._next
            try:
                async with asyncio.timeout(self._patience):
                    await send(self._event)
            except TimeoutError:
                self.let_go += 1
                return
            await upcoming.wait()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._period)
            self._event = self._render()
            waiting, self._next = self._next, asyncio.Event()
            waiting.set()


def event(name: str, data: str) -> bytes:
    """One event of the stream; `data` has no line breaks."""
    return f"event: {name}\ndata: {data}\n\n".encode()


async def until_closed(follow: Awaitable[None], closed: asyncio.Event) -> None:
    """Runs `follow` until it ends or the connection has closed.

    Raises:
        FullError: see `StatusStream.follow`.

    """
    following = asyncio.ensure_future(follow)
    closing = asyncio.create_task(closed.wait())
    try:
        await asyncio.wait([following, closing], return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
    finally:
        closing.cancel()
        following.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await following
