"""Follows one resource of the API server, in three layers: one request < follow < forever.

Rules:

* A list is consistent: its first page is asked for without a resourceVersion, so that it is as new as etcd at that
  moment, and the other pages are of the same moment. What it lacks is gone: the sink is told where a list begins and
  where it is complete.
* A watch goes on from where the list or the last watch ended. `reached` says up to which resourceVersion everything
  has been told; versions only grow between two lists, so that a repeated event is known and dropped.
* History that the server has forgotten (410, in whatever form and wherever) means a new list, and nothing else does.
* Whatever fails is tried again after a pause that grows (`client.retry_pause`) until the server shows that it moves:
  an event or a bookmark. That a request was accepted is no such sign.
* Events that arrive together are told together, a bounded number at a time, with a turn of the event loop in between.
  What the sink has not been told yet has not been reached.
* The encoding is the resource's affair and the server's: each answer says which one it has. The length of a line or
  a frame is bounded before it is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from allocator.cluster.client import (
    ApiClient,
    ApiError,
    UnreachableError,
    complete_parts,
    retry_pause,
)
from allocator.cluster.decoding import WatchEvent
from allocator.cluster.pager import ListPager, Progress, Resource
from allocator.cluster.projection import SeenObject, Sketch
from allocator.slices import in_turns

log = logging.getLogger(__name__)

REACH_SECONDS = 1.0  # for the watch to tell what another has seen already
EMPTY_WATCH_SECONDS = 1.0  # a watch that ends sooner without a word has failed

S = TypeVar("S", bound=SeenObject)


class ExpiredError(Exception):
    """The server has forgotten the history that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchTuning:
    """Sizes and times."""

    page: int = 500
    batch: int = 256
    watch_seconds: float = 300.0  # the server ends a watch then, or up to a fifth later
    stall_seconds: float = 90.0  # bookmarks come each minute
    proof_seconds: float = 2.0  # between two proofs
    proof_grace: float = 0.25  # for the watch to show by itself that it is there
    probe_seconds: int = 3  # the server sends a bookmark two seconds before the end of a watch
    probe_stall: float = 10.0


class Sink(Protocol[S]):
    """Who is told. What may take long is told in steps: it has been told when the last one is done."""

    def began(self) -> None:
        """A list begins; one that had begun before is void."""

    def listed(self, items: Sequence[S]) -> Iterator[None]:
        """Some of the list's objects."""

    def complete(self, as_of: float) -> Iterator[None]:
        """That was the whole list; everything that existed at this time (in seconds of `now`) was in it."""

    def changed(self, events: Sequence[WatchEvent[S]]) -> Iterator[None]:
        """ADDED, MODIFIED and DELETED, in order."""


class Reflector(Generic[S]):
    """See the module. `now` gives seconds that pass, `chance` a number in [0, 1)."""

    def __init__(
        self,
        client: ApiClient,
        resource: Resource[S],
        sink: Sink[S],
        *,
        tuning: WatchTuning,
        now: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self._client, self._resource, self._sink = client, resource, sink
        self._pager = ListPager(client, resource, limit=tuning.page)
        self._tuning, self._now, self._chance = tuning, now, chance
        self.synced, self.answered = asyncio.Event(), asyncio.Event()  # listed; listed, or known not to be allowed
        self.progress = Progress(resource.noun)
        self.lists = self.reached = 0
        self.latest = 0  # the version of the newest object that was told: who has reached it has been told the same
        self.begun = self.completed = 0  # lists, by number: the last one that began, and the last one that is complete
        self._list_due = 0  # the number of a list that has to be complete before the watch goes on
        self._version = ""  # where the next watch begins; empty: a list is due
        self._token = ""  # the page of a list that is under way
        self._as_of = self._troubled_since = 0.0
        self._is_moving, self._moved = False, asyncio.Event()
        self._patience: asyncio.Timeout | None = None
        self._trouble = self.forbidden = ""  # what is wrong; which right is missing, in a sentence

    @property
    def noun(self) -> str:
        """What is followed, in the plural."""
        return self._resource.noun

    # -- forever

    async def forever(self, *, after: asyncio.Event | None = None) -> None:
        """Follows once `after` is set, and begins again after whatever goes wrong."""
        if after is not None:
            await after.wait()
        failures = 0
        while True:
            self._is_moving = False
            error = await self._failure_of_following()
            failures = 1 if self._is_moving else failures + 1
            self._report(error)
            wait = retry_pause(failures, self._chance(), at_least=getattr(error, "retry_after", 0.0))
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
        noun = self._resource.noun
        if isinstance(error, ExpiredError):
            log.info("%s: the server has forgotten where we were (%s): listing anew", noun, error)
            return
        trouble = str(error)
        if isinstance(error, ApiError) and error.status == 403:
            verb = "watch" if self._version else "list"
            trouble = self.forbidden = f"RBAC lacks the verb {verb} on {noun} of all namespaces ({error.message})"
            self.answered.set()
        elif isinstance(error, ApiError) and error.status == 404:
            trouble = f"the API server knows no {noun}: is their CustomResourceDefinition installed? ({error})"
        if not self._trouble:
            self._troubled_since = self._now()
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("%s cannot be followed, trying again: %s", noun, trouble)

    def _recovered(self) -> None:
        if self._trouble:
            self._trouble = self.forbidden = ""
            log.info("%s are followed again", self._resource.noun)

    # -- one list

    async def _list(self) -> None:
        """Goes through the pages; one that failed is asked for again when we are called again."""
        if not self._token:
            self._as_of = self._now()
            self.begun += 1
            self.progress = Progress(self._resource.noun, told_at=self._as_of)
            self._sink.began()
        async with aclosing(self._pager.pages(self._token)) as pages:
            async for page in pages:
                version, self._token = page.metadata.resource_version, page.metadata.continue_
                await self._tell_page(page.items or [])
                self.progress.page(len(page.items or []), page.metadata.remaining_item_count, self._now())
        await self._take(self._sink.complete(self._as_of))
        self._version = version
        self.reached = _version_number(self._version)
        self.lists += 1
        self.completed = self.begun
        self.synced.set()
        self.answered.set()
        self._moved.set()
        self._recovered()

    async def _tell_page(self, items: Sequence[S]) -> None:
        self.latest = max(self.latest, *(_version_number(item.version) for item in items), 0)
        for start in range(0, len(items), self._tuning.batch):
            await self._take(self._sink.listed(items[start : start + self._tuning.batch]))

    async def _take(self, steps: Iterator[None]) -> None:
        """Takes the steps of a list. Until there was a first one, nobody is answered who would be helped by a rest."""
        await in_turns(steps, rests=self.answered.is_set())

    # -- one watch

    async def _watch(self) -> None:
        """One watch request, until the server ends it.

        Raises:
            ApiError, UnreachableError, ValueError: it ended otherwise.

        """
        loop = asyncio.get_running_loop()
        stall, began, accept = self._tuning.stall_seconds, loop.time(), self._resource.reader.accept
        had_moved, self._is_moving = self._is_moving, False
        params = watch_params(self._version, self._tuning.watch_seconds * (1 + self._chance() / 5))
        try:
            async with (
                asyncio.timeout(stall) as self._patience,
                self._client.stream(self._resource.path, params, stall, accept=accept) as answer,
            ):
                async for parts in complete_parts(answer):
                    self._patience.reschedule(loop.time() + stall)
                    for start in range(0, len(parts), self._tuning.batch):
                        await self._tell_parts(parts[start : start + self._tuning.batch])
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
        changes: list[WatchEvent[S]] = []
        reached, version, failure = self.reached, self._version, None
        for event in map(self._resource.reader.event, parts):
            if event.type == "ERROR":
                failure = _watch_error(event.object)
                break
            version_told = event.object.version
            number = _version_number(version_told)
            if event.type != "BOOKMARK" and (number > reached or not number):
                changes.append(event)
                self.latest = max(self.latest, number)
            reached = max(reached, number)
            version = version_told or version
        if changes or not failure:
            await self._tell_changes(changes, reached, version)
        if failure:
            raise failure

    async def _tell_changes(self, changes: Sequence[WatchEvent[S]], reached: int, version: str) -> None:
        self._is_moving = True
        if changes:
            await in_turns(self._sink.changed(changes))
        if reached >= self.reached:  # else somebody knew better meanwhile
            self.reached, self._version = reached, version
        self._moved.set()
        self._recovered()

    # -- what others may ask

    def trouble(self, lasting: float) -> str:
        """What is wrong, if something has been for so many seconds; else empty."""
        return self._trouble if self._trouble and self._now() - self._troubled_since >= lasting else ""

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


def _watch_error(status: SeenObject) -> ApiError:
    if not isinstance(status, Sketch):
        raise ValueError("an ERROR has no Status")  # noqa: TRY004 - garbled as any other answer
    code = status.code if isinstance(status.code, int) else 500
    return ApiError(code, str(status.reason), str(status.message))


def watch_params(version: str, seconds: float) -> dict[str, str]:
    """The query of a watch that begins after a resourceVersion, and that the server ends after so many seconds."""
    return {
        "watch": "1",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(int(seconds)),
    }


def _version_number(version: str) -> int:
    """Versions are decimal numbers, which may be compared (KEP-5504); what is none is older than all."""
    return int(version) if version.isdecimal() else 0
