"""One allocator: a coordination Lease says who serves.

Rules:

* The holder is a Pod's uid and a start of it. Who holds the Lease renews it every 3 seconds; who has not for 10
  answers nothing at all, neither yes nor no, until it has.
* Taken over at once: a Lease that was released, one that an earlier start of the same Pod left, one whose Pod is
  finished. One whose Pod is gone, too, but served only 10 seconds after its last sign of life: a deletion may have been
  forced while the process still runs. Else after 15 seconds in which *we* saw no renewal: no clock of another machine
  plays a part, and the holder has answered nothing for 5 of them.
* What the predecessor granted is in its journal. Without that journal a Pod that it admitted may still be on its way
  through the API server, for 34 seconds at most: we serve 36 after its last sign of life, unless it handed over in
  order, with nothing on its way. Where no Lease ever stood there is no predecessor.
* The last sign of life is the moment when we first saw the Lease as it stands. `renewTime` is for people: it tells what
  another machine's clock said, and a wrong one would have us serve while what the other admitted is on its way.
* Who held the Lease and finds it anything else than its own, even free, has lost it: somebody may have granted what our
  books do not have.
* Who holds it and must not serve yet has granted nothing and knows nothing: it leaves no journal to go by, and hands
  nothing over.
* Who has begun to give it back takes it no more: a stop waits for the step that is under way, and undoes it.
* Every write names the resourceVersion that it replaces: of two who write at once, one succeeds.
* Who waits watches the Lease, so that it hears of a release at once, and looks at it every second all the same.
* Who hands over in order says up to which versions it had seen the cluster. A successor that has seen as much has seen
  every Pod and every lease that was granted.

`decide` is pure. `Leadership` is the loop around it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Protocol

from allocator.clock import elapsed
from allocator.cluster.client import Answer, ApiError, UnreachableError
from allocator.cluster.projection import FINISHED
from hostport.supervision import Loops

log = logging.getLogger(__name__)

RENEW_SECONDS = 3.0
VALID_SECONDS = 10.0
TAKEOVER_SECONDS = 15.0
UNSEEN_SECONDS = 36.0  # a create lives at most 34 s in the API server
STEP_SECONDS = 4.0

HOLDER_POD = "hostport.io/holder-pod"
JOURNAL = "hostport.io/journal"
HANDED_OVER = "hostport.io/handed-over"
REACHED = "hostport.io/reached"
WATCH_SECONDS, WATCH_STALL_SECONDS = 300, 330.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who we are, or who somebody else is. `journal` names the journal's file for ever; empty: it has no name."""

    pod_uid: str
    start: str
    pod_name: str = ""
    journal: str = ""

    @property
    def identity(self) -> str:
        return f"{self.pod_uid}/{self.start}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A Lease object, as far as it matters. `holder` is None when it was released."""

    version: str
    holder: Holder | None
    renewed: float | None = None  # by the holder's clock, for people; None: nobody ever held it
    journal: str = ""  # of the last holder, also after its release
    handed_over: bool = False
    reached: Mapping[str, int] = field(default_factory=dict)  # resourceVersions by kind, where it was handed over
    transitions: int = 0


class Fate(Enum):
    """What has become of the holder's Pod."""

    UNKNOWN = "it may live"
    FINISHED = "it is finished"
    GONE = "it is gone"


class Legacy(Enum):
    """What we have of what the last holder promised."""

    NOTHING = "nothing"
    JOURNAL = "its journal"
    EVERYTHING = "it handed over in order: all is in the cluster"


class Right(Enum):
    """By what right a Lease is taken."""

    FIRST = "there was none"
    OURS = "we hold it"
    RELEASED = "it was released"
    SAME_POD = "an earlier start of this Pod held it"
    POD_FINISHED = "the holder's Pod is finished"
    POD_GONE = "the holder's Pod is gone"
    SILENT = "the holder has fallen silent"


@dataclass(frozen=True, slots=True)
class Take:
    """Write ourselves in. `serve_at`: not to serve before, in seconds of `elapsed`; 0: at once."""

    right: Right
    serve_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Somebody else may be serving, for so many seconds at least."""

    seconds: float


def decide(record: Record | None, me: Holder, *, now: float, quiet: float, fate: Fate) -> Take | Wait:
    """What to do about a Lease whose present version we have seen for `quiet` seconds; `now` is by `elapsed`."""
    if record is None:
        return Take(Right.FIRST)
    holder = record.holder
    if holder is not None and holder.identity == me.identity:
        return Take(Right.OURS)
    right = _right(holder, me, quiet, fate)
    if right is None:
        return Wait(TAKEOVER_SECONDS - quiet)
    pause = VALID_SECONDS if right is Right.POD_GONE else 0.0
    if legacy(record, me) is Legacy.NOTHING:
        pause = UNSEEN_SECONDS
    if not pause or record.renewed is None:  # None: nobody ever held it
        return Take(right)
    serve_at = now - quiet + pause
    return Take(right, serve_at if serve_at > now else 0.0)


def legacy(record: Record | None, me: Holder) -> Legacy:
    """What the last holder left to us. One of whom nothing is known has left nothing."""
    if record is None:
        return Legacy.NOTHING
    if me.journal and record.journal == me.journal:
        return Legacy.JOURNAL  # it tells more than what was handed over
    return Legacy.EVERYTHING if record.handed_over else Legacy.NOTHING


def _right(holder: Holder | None, me: Holder, quiet: float, fate: Fate) -> Right | None:
    if holder is None:
        return Right.RELEASED
    if holder.pod_uid == me.pod_uid:
        return Right.SAME_POD
    if fate is not Fate.UNKNOWN:
        return Right.POD_FINISHED if fate is Fate.FINISHED else Right.POD_GONE
    return Right.SILENT if quiet >= TAKEOVER_SECONDS else None


# -- the object


def parse(obj: Any) -> Record:
    """The record of a Lease object; what somebody else left out or wrote oddly counts as absent."""
    metadata, spec = obj.get("metadata") or {}, obj.get("spec") or {}
    notes = metadata.get("annotations") or {}
    pod_uid, _, start = (spec.get("holderIdentity") or "").partition("/")
    journal = notes.get(JOURNAL, "")
    holder = Holder(pod_uid=pod_uid, start=start, pod_name=notes.get(HOLDER_POD, ""), journal=journal)
    return Record(
        version=metadata.get("resourceVersion", ""),
        holder=holder if pod_uid else None,
        renewed=_seconds(spec.get("renewTime")),
        journal=journal,
        handed_over=notes.get(HANDED_OVER) == "true",
        reached=_versions(notes.get(REACHED, "")),
        transitions=spec.get("leaseTransitions") or 0,
    )


def render(record: Record, *, namespace: str, name: str, now: float, acquired: float) -> dict[str, Any]:
    """The Lease object of a record, renewed now."""
    holder = record.holder
    notes = {
        JOURNAL: record.journal,
        HANDED_OVER: "true" if record.handed_over else "false",
        REACHED: json.dumps(dict(record.reached)),
    }
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "namespace": namespace,
            **({"resourceVersion": record.version} if record.version else {}),
            "annotations": {**notes, HOLDER_POD: holder.pod_name if holder else ""},
        },
        "spec": {
            "holderIdentity": holder.identity if holder else "",
            "leaseDurationSeconds": int(TAKEOVER_SECONDS),
            "acquireTime": _time(acquired),
            "renewTime": _time(now),
            "leaseTransitions": record.transitions,
        },
    }


def _versions(text: str) -> dict[str, int]:
    try:
        return {str(kind): int(version) for kind, version in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):
        return {}  # then nothing is known, and the view has to be proven


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _seconds(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None


# -- the loop


class LostError(RuntimeError):
    """Somebody else holds the Lease: this process must not go on."""


class Api(Protocol):
    """What we need of the API server."""

    async def send(self, method: str, path: str, params: Any = ..., body: Any = ...) -> bytes:
        """Sends JSON; returns the body of the answer or raises ApiError, UnreachableError."""

    async def close(self) -> None:
        """Lets go of the connection."""


class WatchingApi(Api, Protocol):
    """The same, and what is told as it happens."""

    def stream(self, path: str, params: Any, silence: float) -> AbstractAsyncContextManager[Answer]:
        """The answer in chunks as they come."""


class Leadership:
    """Acquires the Lease, keeps it, gives it back.

    Everything goes by `elapsed`, seconds that also pass while the machine sleeps: who wakes up must know that its time
    is over. `now`, the wall clock, is for people.
    """

    def __init__(
        self,
        api: WatchingApi,
        me: Holder,
        *,
        namespace: str,
        name: str = "hostport-allocator",
        now: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = elapsed,
    ) -> None:
        self._api = api
        self._me = me
        self._namespace = namespace
        self._name = name
        self._now = now
        self._elapsed = elapsed
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._collection}/{name}"
        self._written: Record | None = None
        self._seen: tuple[str, float] = ("", 0.0)
        self._acquired = 0.0
        self._renewed = float("-inf")
        self._turn = asyncio.Lock()  # of a step, or of the release
        self._is_over = False
        self._serve_at = 0.0
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

    async def close(self) -> None:
        """Lets go of the connection; nothing can be asked afterwards."""
        await self._api.close()

    async def _step(self, *, is_kept: bool = False) -> Take | Wait:
        """Looks, decides, and if it is to be taken, writes. A write that meets another's fails with a conflict."""
        if self._is_over:
            raise LostError(f"the Lease {self._path} was given back")
        began = self._elapsed()
        record = await self._read()
        quiet, fate = self._quiet(record), await self._fate(record)
        decision = decide(record, self._me, now=self._elapsed(), quiet=quiet, fate=fate)
        self._serves = record.holder if record is not None and isinstance(decision, Wait) else None
        if is_kept and decision != Take(Right.OURS):
            self._written, self._renewed = None, float("-inf")
            raise LostError(f"the Lease {self._path} is not ours any more")
        if isinstance(decision, Take):
            if decision.right is not Right.OURS:
                self._serve_at, self.legacy = decision.serve_at, legacy(record, self._me)
                self.reached = record.reached if record is not None and record.handed_over else {}
            await self._take(record, is_ours=decision.right is Right.OURS)
            self._renewed = began
        return decision

    async def _take(self, record: Record | None, *, is_ours: bool) -> None:
        if not is_ours:
            self._acquired = self._now()
        version, transitions = (record.version, record.transitions) if record else ("", -1)
        await self._write(
            Record(
                version=version,
                holder=self._me,
                journal=self._me.journal if self._may_serve() else "",
                transitions=transitions if is_ours else transitions + 1,
            )
        )

    def _may_serve(self) -> bool:
        return self._elapsed() >= self._serve_at

    async def _read(self) -> Record | None:
        try:
            return parse(json.loads(await self._api.send("GET", self._path)))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _write(self, record: Record) -> None:
        obj = render(record, namespace=self._namespace, name=self._name, now=self._now(), acquired=self._acquired)
        method, path = ("PUT", self._path) if record.version else ("POST", self._collection)
        self._written = parse(json.loads(await self._api.send(method, path, {}, obj)))

    def _quiet(self, record: Record | None) -> float:
        """For how long we have seen this very version."""
        version = record.version if record else ""
        if version != self._seen[0]:
            self._seen = (version, self._elapsed())
        return self._elapsed() - self._seen[1]

    async def _fate(self, record: Record | None) -> Fate:
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
