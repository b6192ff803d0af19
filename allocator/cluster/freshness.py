"""Proves that the watch of Pods is current, so that a reservation whose Pod was not seen may expire.

The proof. At a time t we ask for a consistent list of Pods (no resourceVersion, limit=1). The API server answers from
a state that is no older than etcd at the moment of the request, and names its version R: a number that grows with
every write to the cluster. When the watch has told everything up to R, every Pod that was stored by t has been told:
`proven(t)`. A Pod whose creation was acknowledged, or could still be retried after t, is another matter; for that
reservations have their deadline, and only a t after the deadline ends one.

The watch shows that it has reached R by an event of a Pod, or a bookmark, with that version or a later one. In a quiet
cluster neither comes for up to a minute, while R grows with everybody's writes. Then we *probe*: a second watch that
begins where the first one is, and that the server ends after a few seconds; two seconds before that it sends a
bookmark (as every watch gets one). If the bookmark's version is R or later and no Pod changed before it, then nothing
happened between the first watch's version and R: it is there already. If some changed, it is there as soon as it has
told the last of them; if it does not for ten seconds, it is broken and is begun anew.

While the watch is down nothing arrives and nothing is proven. Clocks other than ours play no part, nor does what
time it is said to be: `now` gives seconds that pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from allocator.cluster.client import ApiClient, ApiError, UnreachableError, complete_parts
from allocator.cluster.pager import Resource
from allocator.cluster.projection import SeenPod
from allocator.cluster.reflector import Reflector, WatchTuning, watch_params

log = logging.getLogger(__name__)


class FreshnessProbe:
    """See the module. `proven` is told how far the view reaches, in seconds of `now`."""

    def __init__(
        self,
        client: ApiClient,
        pods: Resource[SeenPod],
        reflector: Reflector[SeenPod],
        *,
        tuning: WatchTuning,
        now: Callable[[], float],
        proven: Callable[[float], None],
    ) -> None:
        self._client = client
        self._pods = pods
        self._reflector = reflector
        self._tuning = tuning
        self._now = now
        self._proven = proven
        self._hurry = asyncio.Event()

    async def forever(self) -> None:
        """One proof after the other, from the first list on."""
        await self._reflector.synced.wait()
        while True:
            self._hurry.clear()
            # What fails here fails for the watch as well, which says so.
            with contextlib.suppress(ApiError, UnreachableError, ValueError):
                await self._prove()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    self._tuning.proof_seconds
                ):  # `wait_for` of Python 3.11 may miss a cancellation
                    await self._hurry.wait()

    def hurry(self) -> None:
        """Somebody waits for a proof: do not pause before the next one."""
        self._hurry.set()

    async def _prove(self) -> None:
        at = self._now()
        version = await self._current_version()
        if await self._shows(version) or await self._probe(version):
            self._proven(at)

    async def _current_version(self) -> int:
        reader = self._pods.reader
        body = await self._client.get(self._pods.path, {"limit": "1"}, accept=reader.accept)
        return int(reader.page(body).metadata.resource_version)

    async def _shows(self, version: int) -> bool:
        """Whether the watch gets there by itself, in a moment."""
        try:
            async with asyncio.timeout(self._tuning.proof_grace):
                await self._reflector.until(version)
        except TimeoutError:
            return False
        return True

    async def _probe(self, version: int) -> bool:
        """Whether the watch is there, as a second one shows."""
        reflector = self._reflector
        if not reflector.is_listed:
            return False
        last_change = await self._last_change(reflector.reached, version)
        if last_change is None:
            return False
        try:
            async with asyncio.timeout(self._tuning.probe_stall):
                await reflector.until(last_change)
        except TimeoutError:
            log.warning(
                "the watch of pods has not told what happened %g s ago: beginning anew", self._tuning.probe_stall
            )
            reflector.restart_watch()
            return False
        reflector.advance(version)
        return reflector.reached >= version

    async def _last_change(self, start: int, end: int) -> int | None:
        """The version of the last change of a Pod in (start, end]; `start` where there is none. None: not known."""
        last = start
        params = watch_params(str(start), self._tuning.probe_seconds)
        silence, reader = self._tuning.probe_seconds + self._tuning.probe_stall, self._pods.reader
        async with self._client.stream(self._pods.path, params, silence, accept=reader.accept) as answer:
            async for parts in complete_parts(answer):
                for part in parts:
                    event = reader.event(part)
                    if event.type == "ERROR" or not event.version.isdecimal():
                        return None
                    number = int(event.version)
                    if event.type != "BOOKMARK" and number <= end:
                        last = number
                    if number >= end:
                        return last
                if self._reflector.reached >= end:
                    return last
        return None
