"""Goes through the pages of one list of the API server.

Rules:

* A list is consistent: its first page is asked for without a resourceVersion, so that it is as new as etcd at that
  moment, and the other pages are of the same moment.
* While a page comes in and is told, the server works on the one after it, whose token stands in the first bytes. Never
  on more: what we have not told yet would pile up.
* The encoding is the resource's affair and the server's: each answer says which one it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from allocator.cluster.client import SILENCE_SECONDS, ApiClient, Params
from allocator.cluster.decoding import ListMetadata, ListPage, WatchEvent
from allocator.cluster.messages import head_of_page
from allocator.cluster.projection import SeenObject

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0  # between two lines about a list that takes long

S = TypeVar("S", bound=SeenObject)


class Decoder(Protocol[S]):
    """Reads what the server sends of one kind; what it cannot read raises ValueError."""

    @property
    def accept(self) -> str:
        """The encodings that it reads, as HTTP asks for them."""

    def page(self, body: bytes) -> ListPage[S]:
        """A page of a list."""

    def event(self, part: bytes) -> WatchEvent[S]:
        """A line or frame of a watch."""

    def one(self, body: bytes) -> S:
        """One object."""


@dataclass(frozen=True, slots=True)
class Resource(Generic[S]):
    """All objects of a kind, in all namespaces."""

    noun: str
    path: str
    reader: Decoder[S]


@dataclass(slots=True)
class Progress:
    """How far a list is. `about` is the server's estimate of the whole; 0: it gave none."""

    noun: str
    listed: int = 0
    about: int = 0
    told_at: float = 0.0

    def __str__(self) -> str:
        of_about = f" of about {self.about:,}" if self.about else ""
        return f"listed {self.listed:,}{of_about} {self.noun}"

    def page(self, items: int, remaining: int | None, now: float) -> None:
        """Counts the objects of one more page, and says how far the list is where it takes long (`now`: seconds)."""
        self.listed += items
        self.about = self.listed + (remaining or 0)
        if now - self.told_at >= PROGRESS_SECONDS and remaining:
            self.told_at = now
            log.info("%s", self)


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """A page that was asked for. `head` comes with its first bytes: None where those do not tell, or never came."""

    head: asyncio.Future[ListMetadata | None]
    body: asyncio.Task[bytes]


class ListPager(Generic[S]):
    """See the module. `limit`: objects of a page."""

    def __init__(self, client: ApiClient, resource: Resource[S], *, limit: int) -> None:
        self._client = client
        self._resource = resource
        self._limit = limit

    async def pages(self, token: str) -> AsyncGenerator[ListPage[S]]:
        """The pages of a list in order, from the one of this token on; an empty token begins a list.

        To be closed (`aclosing`) where it is not gone through, so that what is under way ends.

        Raises:
            ApiError, UnreachableError: the API server does not give a page.
            ValueError: what it gave is no page.

        """
        under_way = [self._ask(token)]
        try:
            while True:
                asked = under_way[-1]
                head = await asked.head
                if head and head.continue_:
                    under_way.append(self._ask(head.continue_))
                page = self._resource.reader.page(await asked.body)
                following = page.metadata.continue_
                if following and under_way[-1] is asked:  # its first bytes did not tell
                    under_way.append(self._ask(following))
                under_way.remove(asked)
                yield page
                if not following:
                    return
        finally:
            for asked in under_way:
                asked.body.cancel()

    def _ask(self, token: str) -> _Asked:
        params = {"limit": str(self._limit)}
        if token:
            params["continue"] = token
        head: asyncio.Future[ListMetadata | None] = asyncio.get_running_loop().create_future()
        body = asyncio.create_task(self._read(params, head))
        body.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, if we were ended
        return _Asked(head, body)

    async def _read(self, params: Params, head: asyncio.Future[ListMetadata | None]) -> bytes:
        body: list[bytes] = []
        try:
            accept = self._resource.reader.accept
            async with self._client.stream(self._resource.path, params, SILENCE_SECONDS, accept=accept) as answer:
                async for chunk in answer.chunks:
                    if not body:
                        head.set_result(head_of_page(chunk))
                    body.append(chunk)
        finally:
            if not head.done():
                head.set_result(None)
        return b"".join(body)
