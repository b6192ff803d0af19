"""Follows one collection of the API server, in three layers: one request < follow < forever.

Rules:

* A list is consistent: its first page is asked for without a resourceVersion, so that it is as new as etcd at that
  moment, and the other pages are of the same moment. What it lacks is gone: the sink is told where a list begins and
  where it is complete.
* While a page comes in and is told, the server works on the one after it, whose token stands in the first bytes. Never
  on more: what we have not told yet would pile up.
* A watch goes on from where the list or the last watch ended. `reached` says up to which resourceVersion everything
  has been told; versions only grow between two lists, so that a repeated event is known and dropped.
* History that the server has forgotten (410, in whatever form and wherever) means a new list, and nothing else does.
* Whatever fails is tried again after a pause that grows (`backoff`) until the server shows that it moves: an event or
  a bookmark. That a request was accepted is no such sign.
* Events that arrive together are told together, a bounded number at a time, with a turn of the event loop in between.
  What the sink has not been told yet has not been reached.
* The encoding is the collection's affair and the server's: each answer says which one it has. The length of a line or
  a frame is bounded before it is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from allocator.cluster.backoff import pause
from allocator.cluster.client import SILENCE_SECONDS, Answer, ApiError, Client, Params, UnreachableError
from allocator.cluster.messages import SIZE_BYTES, Frame, head_of_page
from allocator.cluster.projection import Event, ListMetadata, Page, Seen, Sketch
from allocator.slices import in_turns

log = logging.getLogger(__name__)

LONGEST_PART = 16 << 20  # bytes of a line or frame: etcd takes 1.5 MiB; JSON may be a few times that
PROGRESS_SECONDS = 5.0  # between two lines about a list that takes long
REACH_SECONDS = 1.0  # for the watch to tell what another has seen already
EMPTY_WATCH_SECONDS = 1.0  # a watch that ends sooner without a word has failed

S = TypeVar("S", bound=Seen)


class ExpiredError(Exception):
    """The server has forgotten the history that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Sizes and times."""

    page: int = 500
    batch: int = 256
    watch_seconds: float = 300.0  # the server ends a watch then, or up to a fifth later
    stall_seconds: float = 90.0  # bookmarks come each minute
    proof_seconds: float = 2.0  # between two proofs
    proof_grace: float = 0.25  # for the watch to show by itself that it is there
    probe_seconds: int = 3  # the server sends a bookmark two seconds before the end of a watch
    probe_stall: float = 10.0


class Reads(Protocol[S]):
    """Reads what the server sends of one kind; what it cannot read raises ValueError."""

    @property
    def accept(self) -> str:
        """The encodings that it reads, as HTTP asks for them."""

    def page(self, body: bytes) -> Page[S]:
        """A page of a list."""

    def event(self, part: bytes) -> Event[S]:
        """A line or frame of a watch."""

    def one(self, body: bytes) -> S:
        """One object."""


@dataclass(frozen=True, slots=True)
class Collection(Generic[S]):
    """All objects of a kind, in all namespaces."""

    noun: str
    path: str
    reader: Reads[S]


class Sink(Protocol[S]):
    """Who is told. What may take long is told in steps: it has been told when the last one is done."""

    def began(self) -> None:
        """A list begins; one that had begun before is void."""

    def listed(self, items: Sequence[S]) -> Iterator[None]:
        """Some of the list's objects."""

    def complete(self, as_of: float) -> Iterator[None]:
        """That was the whole list; everything that existed at this time (in seconds of `now`) was in it."""

    def changed(self, events: Sequence[Event[S]]) -> Iterator[None]:
        """ADDED, MODIFIED and DELETED, in order."""


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


class Follower(Generic[S]):
    """See the module. `now` gives seconds that pass, `chance` a number in [0, 1)."""

    def __init__(
        self,
        client: Client,
        collection: Collection[S],
        sink: Sink[S],
        *,
        pace: Pace,
        now: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self._client = client
        self._collection = collection
        self._sink = sink
        self._pace = pace
        self._now = now
        self._chance = chance
        self.synced = asyncio.Event()
        self.progress = Progress(collection.noun)
        self.lists = 0
        self.reached = 0
        self.latest = 0  # the version of the newest object that was told: who has reached it has been told the same
        self.begun = self.completed = 0  # lists, by number: the last one that began, and the last one that is complete
        self._list_due = 0  # the number of a list that has to be complete before the watch goes on
        self._version = ""  # where the next watch begins; empty: a list is due
        self._token = ""  # the page of a list that is under way
        self._as_of = 0.0
        self._is_moving = False
        self._moved = asyncio.Event()
        self._patience: asyncio.Timeout | None = None
        self._trouble = ""

    # -- forever

    async def forever(self) -> None:
        """Follows, and begins again after whatever goes wrong."""
        failures = 0
        while True:
            self._is_moving = False
            error = await self._failure_of_following()
            failures = 1 if self._is_moving else failures + 1
            self._report(error)
            wait = pause(failures, self._chance(), at_least=getattr(error, "retry_after", 0.0))
            await asyncio.sleep(wait)

    async def _failure_of_following(self) -> Exception:
        try:
            await self._follow()
        except ExpiredError as error:
            self._version = self._token = ""
            return error
        except (ApiError, UnreachableError) as error:
            return error
        raise AssertionError("following never ends well")

    async def _follow(self) -> None:
        """Lists if that is due, then watches, again and again."""
        while True:
            try:
                while not self._version or self.completed < self._list_due:
                    await self._list()
                await self._watch()
            except ApiError as error:
                # "Too large": etcd was restored from a backup, and its versions went back.
                if error.status == 410 or "Too large resource version" in error.message:
                    raise ExpiredError(error.message) from error
                raise
            except ValueError as error:
                raise UnreachableError(f"the answer is garbled: {error}") from error

    def _report(self, error: Exception) -> None:
        """Says what is wrong, once until it is something else."""
        noun = self._collection.noun
        if isinstance(error, ExpiredError):
            log.info("%s: the server has forgotten where we were (%s): listing anew", noun, error)
            return
        trouble = str(error)
        if isinstance(error, ApiError) and error.status == 403:
            verb = "watch" if self._version else "list"
            trouble = f"RBAC lacks the verb {verb} on {noun} of all namespaces ({error.message})"
        elif isinstance(error, ApiError) and error.status == 404:
            trouble = f"the API server knows no {noun}: is their CustomResourceDefinition installed? ({error})"
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("%s cannot be followed, trying again: %s", noun, trouble)

    def _recovered(self) -> None:
        if self._trouble:
            self._trouble = ""
            log.info("%s are followed again", self._collection.noun)

    # -- one list

    async def _list(self) -> None:
        """Goes through the pages; one that failed is asked for again when we are called again."""
        if not self._token:
            self._as_of = self._now()
            self.begun += 1
            self.progress = Progress(self._collection.noun, told_at=self._as_of)
            self._sink.began()
        under_way = [self._ask_page(self._token)]
        try:
            while True:
                asked = under_way[-1]
                head = await asked.head
                if head and head.continue_:
                    under_way.append(self._ask_page(head.continue_))
                page = self._collection.reader.page(await asked.body)
                self._token = page.metadata.continue_
                if self._token and under_way[-1] is asked:
                    under_way.append(self._ask_page(self._token))
                under_way.remove(asked)
                await self._tell_page(page.items or [])
                self.progress.page(len(page.items or []), page.metadata.remaining_item_count, self._now())
                if not self._token:
                    break
        finally:
            for asked in under_way:
                asked.body.cancel()
        await in_turns(self._sink.complete(self._as_of))
        self._version = page.metadata.resource_version
        self.reached = _number(self._version)
        self.lists += 1
        self.completed = self.begun
        self.synced.set()
        self._moved.set()
        self._recovered()

    def _ask_page(self, token: str) -> _Asked:
        params = {"limit": str(self._pace.page)}
        if token:
            params["continue"] = token
        head: asyncio.Future[ListMetadata | None] = asyncio.get_running_loop().create_future()
        body = asyncio.create_task(self._read_page(params, head))
        body.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, if we were ended
        return _Asked(head, body)

    async def _read_page(self, params: Params, head: asyncio.Future[ListMetadata | None]) -> bytes:
        body: list[bytes] = []
        try:
            accept = self._collection.reader.accept
            async with self._client.stream(self._collection.path, params, SILENCE_SECONDS, accept=accept) as answer:
                async for chunk in answer.chunks:
                    if not body:
                        head.set_result(head_of_page(chunk))
                    body.append(chunk)
        finally:
            if not head.done():
                head.set_result(None)
        return b"".join(body)

    async def _tell_page(self, items: Sequence[S]) -> None:
        self.latest = max(self.latest, *(_number(item.version) for item in items), 0)
        for start in range(0, len(items), self._pace.batch):
            await in_turns(self._sink.listed(items[start : start + self._pace.batch]))

    # -- one watch

    async def _watch(self) -> None:
        """One watch request, until the server ends it.

        Raises:
            ApiError, UnreachableError, ValueError: it ended otherwise.

        """
        loop = asyncio.get_running_loop()
        stall, began, accept = self._pace.stall_seconds, loop.time(), self._collection.reader.accept
        had_moved, self._is_moving = self._is_moving, False
        params = watch_params(self._version, self._pace.watch_seconds * (1 + self._chance() / 5))
        try:
            async with (
                asyncio.timeout(stall) as self._patience,
                self._client.stream(self._collection.path, params, stall, accept=accept) as answer,
            ):
                async for parts in complete_parts(answer):
                    self._patience.reschedule(loop.time() + stall)
                    for start in range(0, len(parts), self._pace.batch):
                        await self._tell_parts(parts[start : start + self._pace.batch])
                        await asyncio.sleep(0)
        except TimeoutError as error:
            if self.completed < self._list_due:
                return
            raise UnreachableError("the watch has fallen silent") from error
        finally:
            self._patience = None
            is_empty = not self._is_moving
            self._is_moving = self._is_moving or had_moved
        if is_empty and self.completed >= self._list_due and loop.time() - began < EMPTY_WATCH_SECONDS:
            raise UnreachableError("the watch ended as soon as it had begun")

    async def _tell_parts(self, parts: Sequence[bytes]) -> None:
        changes: list[Event[S]] = []
        reached, version, failure = self.reached, self._version, None
        for event in map(self._collection.reader.event, parts):
            if event.type == "ERROR":
                failure = _failure(event.object)
                break
            number = _number(event.version)
            if event.type != "BOOKMARK" and (number > reached or not number):
                changes.append(event)
                self.latest = max(self.latest, number)
            reached = max(reached, number)
            version = event.version or version
        if changes or not failure:
            await self._tell_changes(changes, reached, version)
        if failure:
            raise failure

    async def _tell_changes(self, changes: Sequence[Event[S]], reached: int, version: str) -> None:
        self._is_moving = True
        if changes:
            await in_turns(self._sink.changed(changes))
        if reached >= self.reached:  # else somebody knew better meanwhile
            self.reached, self._version = reached, version
        self._moved.set()
        self._recovered()

    # -- what others may ask

    @property
    def is_listed(self) -> bool:
        """Whether a list was completed and its versions still count."""
        return bool(self._version)

    async def caught_up(self, mark: int, version: int | None) -> None:
        """Returns when whatever was stored at a moment has been told; `mark` is what `begun` was then.

        `version` is that of the last object before that moment, where somebody knows it: who has reached it has been
        told. Else a list has to begin after it. (To prove that the watch is current may take longer than a list.)
        """
        await self.synced.wait()
        if version is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(REACH_SECONDS):
                    await self.until(version)
                return
        if self.completed <= mark:
            self._list_due = max(self._list_due, mark + 1)
            self.restart_watch()
        while self.completed <= mark:
            self._moved.clear()
            await self._moved.wait()

    async def until(self, version: int) -> None:
        """Returns when everything up to this version has been told."""
        while self.reached < version:
            self._moved.clear()
            await self._moved.wait()

    def advance(self, version: int) -> None:
        """Somebody knows that nothing changed between `reached` and this version."""
        if self._version and version > self.reached:
            self.reached, self._version = version, str(version)
            self._moved.set()

    def restart_watch(self) -> None:
        """Somebody knows that the watch misses what there is."""
        if self._patience is not None:
            self._patience.reschedule(asyncio.get_running_loop().time())


def _failure(status: Seen) -> ApiError:
    if not isinstance(status, Sketch):
        raise ValueError("an ERROR has no Status")  # noqa: TRY004 - garbled as any other answer
    code = status.code if isinstance(status.code, int) else 500
    return ApiError(code, str(status.reason), str(status.message))


def watch_params(version: str, seconds: float) -> dict[str, str]:
    return {
        "watch": "1",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(int(seconds)),
    }


def complete_parts(answer: Answer) -> AsyncIterator[Sequence[bytes]]:
    """The events of a watch that arrived together, as lines of JSON or frames of protobuf."""
    return _complete_frames(answer.chunks) if answer.is_binary else _complete_lines(answer.chunks)


async def _complete_frames(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[Frame]]:
    """Each begins with its length."""
    rest = b""
    async for chunk in chunks:
        rest, frames, start = rest + chunk, [], 0
        while len(rest) >= (begin := start + SIZE_BYTES):
            size = int.from_bytes(rest[start:begin], "big")
            if size > LONGEST_PART:
                raise UnreachableError(f"the watch announces a frame of {size:,} bytes, more than {LONGEST_PART:,}")
            if len(rest) < begin + size:
                break
            start = begin + size
            frames.append(Frame(rest[begin:start]))
        rest = rest[start:]
        if frames:
            yield frames
    if rest:
        raise UnreachableError("the watch ended within a frame")


async def _complete_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """One that was cut off by the end is dropped: it will come again."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST_PART:
            raise UnreachableError("the watch sends a line without an end")
        lines = [line for line in lines if line.strip()]
        if lines:
            yield lines


def _number(version: str) -> int:
    """Versions are decimal numbers, which may be compared (KEP-5504); what is none is older than all."""
    return int(version) if version.isdecimal() else 0
