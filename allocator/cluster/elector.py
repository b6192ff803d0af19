"""Acquires the Lease, keeps it and gives it back: the loop around `lease.decide`.

Rules, beside those of `lease`:

* Who held the Lease and finds it anything else than its own, even free, has lost it: somebody may have granted what our
  books do not have.
* Who holds it and must not serve yet has granted nothing and knows nothing: it leaves no journal to go by, and hands
  nothing over.
* Who has begun to give it back takes it no more: a stop waits for the step that is under way, and undoes it.
* Every write names the resourceVersion that it replaces: of two who write at once, one succeeds.
* Who waits watches the Lease, so that it hears of a release at once, and looks at it every second all the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from allocator.clock import elapsed
from allocator.cluster.client import ApiError, StreamingApi, UnreachableError
from allocator.cluster.lease import (
    VALID_SECONDS,
    Fate,
    Holder,
    LeaseRecord,
    Legacy,
    Take,
    TakeReason,
    Wait,
    decide,
    legacy,
    parse,
    render,
)
from allocator.cluster.projection import FINISHED
from hostport.supervision import Loops

log = logging.getLogger(__name__)

WATCH_SECONDS, WATCH_STALL_SECONDS = 300, 330.0
RENEW_SECONDS = 3.0
STEP_SECONDS = 4.0


class LostError(RuntimeError):
    """Somebody else holds the Lease: this process must not go on."""


class LeaderElector:
    """Acquires the Lease, keeps it, gives it back.

    Everything goes by `elapsed`, seconds that also pass while the machine sleeps: who wakes up must know that its time
    is over. `now`, the wall clock, is for people.
    """

    def __init__(
        self,
        api: StreamingApi,
        me: Holder,
        *,
        namespace: str,
        name: str = "hostport-allocator",
        now: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = elapsed,
    ) -> None:
        self._api, self._me = api, me
        self._namespace = namespace
        self._name = name
        self._now, self._elapsed = now, elapsed
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._collection}/{name}"
        self._written: LeaseRecord | None = None
        self._seen: tuple[str, float] = ("", 0.0)
        self._acquired, self._renewed = 0.0, float("-inf")
        self._turn = asyncio.Lock()  # of a step, or of the release
        self._is_over, self._serve_at = False, 0.0
        self._news = asyncio.Event()
        self._serves: Holder | None = None  # another, as far as we know
        self.legacy = Legacy.NOTHING  # of the last holder, once the Lease is ours
        self.reached: Mapping[str, int] = {}  # likewise: what it had seen of the cluster, by kind

    @property
    def place(self) -> tuple[str, str]:
        """Namespace and name of the Lease."""
        return self._namespace, self._name

    @property
    def identity(self) -> str:
        """What we write into it as its holder."""
        return self._me.identity

    @property
    def other(self) -> Holder | None:
        """Another allocator that holds the Lease and has shown signs of life: we stand by. None: there is none."""
        return self._serves

    def has_journal(self, name: str) -> None:
        """Before it is acquired: the name of our journal."""
        self._me = replace(self._me, journal=name)

    def is_valid(self) -> bool:
        """Whether we may answer: the last renewal that succeeded began less than 10 seconds ago."""
        return self._elapsed() - self._renewed < VALID_SECONDS

    async def acquire(self, *, poll_seconds: float = 1.0, stands_by: Callable[[], None] = lambda: None) -> float:
        """Returns when the Lease is ours: not to serve before, seconds in seconds of `elapsed`; 0: at once.

        `stands_by` is called when another holds it.

        Raises:
            LostError: it was released meanwhile.

        """
        async with Loops() as loops:
            loops.start("lease", self._watch())
            return await self._acquire(poll_seconds, stands_by)

    async def _acquire(self, poll_seconds: float, stands_by: Callable[[], None]) -> float:
        told = ""
        while True:
            self._news.clear()
            try:
                async with _bounded(), self._turn:
                    decision = await self._step()
            except (ApiError, UnreachableError) as error:
                state = f"the Lease {self._path} cannot be had, trying again: {error}"
            else:
                if isinstance(decision, Take):
                    log.info("the Lease %s is ours: %s", self._path, decision.right.value)
                    return self._serve_at  # of the first take: its answer may have been lost, and then it is ours now
                stands_by()
                state = f"another allocator holds the Lease {self._path}: standing by"
            if state != told:
                told = state
                log.warning("%s", state)
            with suppress(TimeoutError):
                async with asyncio.timeout(poll_seconds):
                    await self._news.wait()

    async def _watch(self) -> None:
        """Hears of changes; where that fails, looking every second has to do."""
        while True:
            params = {
                "watch": "1",
                "fieldSelector": f"metadata.name={self._name}",
                "resourceVersion": self._seen[0],
                "timeoutSeconds": str(WATCH_SECONDS),
            }
            with suppress(ApiError, UnreachableError):
                if self._seen[0]:
                    async with self._api.stream(self._collection, params, WATCH_STALL_SECONDS) as answer:
                        async for _ in answer.chunks:
                            self._news.set()
            await asyncio.sleep(RENEW_SECONDS if self._seen[0] else 0.1)

    async def keep(self, *, pace_seconds: float = RENEW_SECONDS) -> None:
        """Renews for ever.

        Raises:
            LostError: it is not ours any more.

        """
        while True:
            await asyncio.sleep(pace_seconds)
            try:
                async with _bounded(), self._turn:
                    await self._step(is_kept=True)
            except (ApiError, UnreachableError) as error:
                log.warning("the Lease %s cannot be renewed, trying again: %s", self._path, error)

    async def release(self, *, handed_over: bool, reached: Mapping[str, int] = {}) -> None:
        """Gives it back. `handed_over`: whatever was granted shows in the cluster by now, or has ended.

        `reached`: the resourceVersions, by kind, at which it does.
        """
        self._is_over, self._renewed = True, float("-inf")
        async with self._turn:
            record, self._renewed = self._written, float("-inf")
        if record is None:
            return
        try:
            async with _bounded():
                is_whole = handed_over and self._may_serve()
                await self._write(replace(record, holder=None, handed_over=is_whole, reached=reached))
        except (ApiError, UnreachableError) as error:
            log.warning("the Lease %s could not be released: %s", self._path, error)

    async def _step(self, *, is_kept: bool = False) -> Take | Wait:
        """Looks, decides, and if it is to be taken, writes. A write that meets another's fails with a conflict."""
        if self._is_over:
            raise LostError(f"the Lease {self._path} was given back")
        began = self._elapsed()
        record = await self._read()
        quiet, fate = self._quiet(record), await self._fate(record)
        decision = decide(record, self._me, now=self._elapsed(), quiet=quiet, fate=fate)
        self._serves = record.holder if record is not None and isinstance(decision, Wait) else None
        if is_kept and decision != Take(TakeReason.OURS):
            self._written, self._renewed = None, float("-inf")
            raise LostError(f"the Lease {self._path} is not ours any more")
        if isinstance(decision, Take):
            if decision.right is not TakeReason.OURS:
                self._serve_at, self.legacy = decision.serve_at, legacy(record, self._me)
                self.reached = record.reached if record is not None and record.handed_over else {}
            await self._take(record, is_ours=decision.right is TakeReason.OURS)
            self._renewed = began
        return decision

    async def _take(self, record: LeaseRecord | None, *, is_ours: bool) -> None:
        if not is_ours:
            self._acquired = self._now()
        version, transitions = (record.version, record.transitions) if record else ("", -1)
        await self._write(
            LeaseRecord(
                version=version,
                holder=self._me,
                journal=self._me.journal if self._may_serve() else "",
                transitions=transitions if is_ours else transitions + 1,
            )
        )

    def _may_serve(self) -> bool:
        return self._elapsed() >= self._serve_at

    async def _read(self) -> LeaseRecord | None:
        try:
            return parse(json.loads(await self._api.send("GET", self._path)))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _write(self, record: LeaseRecord) -> None:
        obj = render(record, namespace=self._namespace, name=self._name, now=self._now(), acquired=self._acquired)
        method, path = ("PUT", self._path) if record.version else ("POST", self._collection)
        self._written = parse(json.loads(await self._api.send(method, path, {}, obj)))

    def _quiet(self, record: LeaseRecord | None) -> float:
        """For how long we have seen this very version."""
        version = record.version if record else ""
        if version != self._seen[0]:
            self._seen = (version, self._elapsed())
        return self._elapsed() - self._seen[1]

    async def _fate(self, record: LeaseRecord | None) -> Fate:
        holder = record.holder if record else None
        if holder is None or not holder.pod_name or holder.pod_uid == self._me.pod_uid:
            return Fate.UNKNOWN
        try:
            answer = await self._api.send("GET", f"/api/v1/namespaces/{self._namespace}/pods/{holder.pod_name}")
        except ApiError as error:
            return Fate.GONE if error.status == 404 else Fate.UNKNOWN
        pod = json.loads(answer)
        if pod["metadata"]["uid"] != holder.pod_uid:
            return Fate.GONE
        return Fate.FINISHED if (pod.get("status") or {}).get("phase") in FINISHED else Fate.UNKNOWN


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    """A renewal that hangs must not keep us from the next one."""
    try:
        async with asyncio.timeout(STEP_SECONDS):
            yield
    except TimeoutError as error:
        raise UnreachableError(f"no answer for {STEP_SECONDS:g} s") from error
