"""`--cluster kubernetes`: the Pods, Nodes, Namespaces and Services of a live cluster, listed once, then watched.

Rules:

* Nodes are told whole before the first Pod, so that a plan that the journal kept is judged by all nodes.
* Of Pods, those are told that hold something: a host port, an allocation id, or a claim that we know of. Of the others
  nothing is kept, not even that they exist.
* A Pod or Node that cannot be read keeps what was known of it: it exists, and holding a port too long is the lesser
  evil.
* What a complete list lacks is gone; so is what the watch says was deleted. Nothing else ends a Pod's claim.
* `proven` is called for a complete list and for each proof (see `proof`), `synced` returns when Nodes and Pods are
  listed. Namespaces serve warnings and bounds (`core.tenants`), Services warnings: nobody waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Collection as Items
from functools import partial
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

import msgspec

from allocator.clock import elapsed
from allocator.cluster.client import ApiError, Client, UnreachableError
from allocator.cluster.contract import Observer, PodRef
from allocator.cluster.happenings import Happening
from allocator.cluster.looks import Looks
from allocator.cluster.messages import Either, PodMessage, see_namespace, see_node, see_service
from allocator.cluster.projection import (
    MALFORMED,
    Event,
    NamespaceSketch,
    NodeSketch,
    PodSketch,
    Reader,
    SeenPod,
    ServiceSketch,
    Shared,
    level_of,
)
from allocator.cluster.proof import Prover
from allocator.cluster.targets import Targets
from allocator.cluster.watching import Collection, Follower, Pace, S, Sink
from allocator.core.candidates import Node, NodeName
from allocator.core.claims import PodUid
from allocator.core.pods import Pod
from allocator.slices import in_turns, slices
from hostport.services import parse_service
from hostport.supervision import Loops

log = logging.getLogger(__name__)

PODS: Final[Collection[SeenPod]] = Collection("pods", "/api/v1/pods", Either("Pod", PodMessage, Reader(PodSketch)))
NODES: Final = Collection("nodes", "/api/v1/nodes", Either("Node", see_node, Reader(NodeSketch)))
NAMESPACES: Final = Collection(
    "namespaces", "/api/v1/namespaces", Either("Namespace", see_namespace, Reader(NamespaceSketch))
)
SERVICES: Final = Collection("services", "/api/v1/services", Either("Service", see_service, Reader(ServiceSketch)))
PACE: Final = Pace()

MOST_GONE = 32
"""Pods that are gone, of any size, that are told in one step."""
LOOK_SECONDS = 0.5


class KubernetesCluster:
    """See the module.

    `now` gives seconds that pass whatever is set, also while this process does not run: how old the view is goes by it.
    `ends` is the clock by which reservations end, which may go more slowly; None: the same. `chance` gives a number in
    [0, 1). `tell` hears of Services that lead nowhere; None: no Service is looked at.
    """

    def __init__(
        self,
        client: Client,
        *,
        pace: Pace = PACE,
        now: Callable[[], float] = elapsed,
        ends: Callable[[], float] | None = None,
        chance: Callable[[], float] = random.random,
        tell: Callable[[Happening], None] | None = None,
    ) -> None:
        self._client = client
        self._pace = pace
        self._now = now
        self._ends = ends
        self._chance = chance
        self._observer: Observer | None = None
        self._synced = asyncio.Event()
        self._proven_until = float("-inf")
        self._prover: Prover | None = None
        self._pods: Follower[SeenPod] | None = None
        self._looks = Looks()
        self._followers: list[
            Follower[SeenPod] | Follower[NodeSketch] | Follower[NamespaceSketch] | Follower[ServiceSketch]
        ] = []
        self._tell = tell

    async def run(self, observer: Observer) -> None:
        """Follows everything, for ever.

        Raises:
            LoopError: one of its loops failed, as they do where there is no usable configuration.

        """

        def proven(until: float) -> None:
            self._proven_until = max(self._proven_until, until)
            # What passed since then counted in full at most: rather too early a time is proven than too late a one.
            observer.proven(until if self._ends is None else self._ends() - (self._now() - until))

        self._observer = observer
        nodes = self._follower(NODES, _Nodes(observer))
        targets = Targets(self._tell) if self._tell else None
        pods = self._follower(PODS, _Pods(observer, proven, targets))
        namespaces = self._follower(NAMESPACES, _Namespaces(observer))
        self._followers, self._pods = [nodes, pods, namespaces], pods
        services = self._follower(SERVICES, _Services(targets)) if targets else None
        if services is not None:
            self._followers.append(services)
        self._prover = Prover(self._client, PODS, pods, pace=self._pace, now=self._now, proven=proven)

        async def pods_after_nodes() -> None:
            await nodes.synced.wait()
            await pods.forever()

        try:
            async with Loops() as loops:
                loops.start("nodes", nodes.forever())
                loops.start("pods", pods_after_nodes())
                loops.start("namespaces", namespaces.forever())
                if services is not None:
                    loops.start("services", services.forever())
                loops.start("proofs", self._prover.forever())
                await nodes.synced.wait()
                await pods.synced.wait()
                self._synced.set()
                await asyncio.Event().wait()
        finally:
            await self._client.close()

    def _follower(self, collection: Collection[S], sink: Sink[S]) -> Follower[S]:
        return Follower(self._client, collection, sink, pace=self._pace, now=self._now, chance=self._chance)

    async def synced(self) -> None:
        await self._synced.wait()

    def mark(self) -> int:
        return self._pods.begun if self._pods is not None else 0

    async def caught_up(self, mark: int, version: int | None) -> None:
        await self._synced.wait()
        if self._pods is not None:
            await self._pods.caught_up(mark, version)

    def latest(self) -> int:
        return self._pods.latest if self._pods is not None else 0

    def progress(self) -> str:
        """How far the first lists are, for people who wait for them; empty before they begin."""
        return ", ".join(str(follower.progress) for follower in self._followers if follower.progress.listed)

    # -- freshness

    def lag(self) -> float:
        """Seconds since the view was last proven current; infinite until it was."""
        return max(0.0, self._now() - self._proven_until)

    def relists(self) -> int:
        """How often a list was needed beyond the first one of each kind."""
        return sum(max(0, follower.lists - 1) for follower in self._followers)

    async def look(self, pods: Items[PodRef], asker: str) -> bool:
        """Gets some Pods by name, side by side, and tells what has become of them."""
        observer = self._observer
        if observer is None:
            return False
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                found = await asyncio.gather(*(self._looks.of(asker, partial(self._get, ref)) for ref in pods))
        except (ApiError, UnreachableError, TimeoutError, ValueError):
            return False
        sink = _Pods(observer, observer.proven)
        for ref, sketch in zip(pods, found, strict=True):
            if sketch is None or sketch.identity != ref.uid:
                observer.observe(gone_pods=[ref.uid], lists_pods=True)
            elif ref.uid in observer.known_pods():  # else the watch has told its end meanwhile
                await in_turns(sink.listed([sketch]))
        return True

    async def _get(self, ref: PodRef) -> SeenPod | None:
        """The Pod of that name; None where there is none."""
        path = f"/api/v1/namespaces/{quote(ref.namespace, safe='')}/pods/{quote(ref.name, safe='')}"
        try:
            return PODS.reader.one(await self._client.get(path, accept=PODS.reader.accept))
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def hurry(self) -> None:
        """Somebody waits for `proven`: make it soon."""
        if self._prover is not None:
            self._prover.hurry()


class _Pods:
    """Tells of Pods."""

    def __init__(self, observer: Observer, proven: Callable[[float], None], targets: Targets | None = None) -> None:
        self._observer = observer
        self._proven = proven
        self._targets = targets
        self._shared = Shared()
        self._missing: set[PodUid] = set()

    def began(self) -> None:
        self._missing = set(self._observer.known_pods())

    def listed(self, items: Sequence[SeenPod]) -> Iterator[None]:
        for some in slices(items, lambda pod: pod.weight):
            known = self._observer.known_pods()
            pods = []
            for sketch in some:
                uid = sketch.identity
                if sketch.holds_something() or uid in known:
                    self._missing.discard(PodUid(uid))
                    pod = self._read(sketch)
                    if pod is not None:
                        pods.append(pod)
            if pods:
                self._tell(pods, [])
            yield

    def complete(self, as_of: float) -> Iterator[None]:
        for gone in slices(self._missing, most=MOST_GONE):
            self._tell([], gone)
            yield
        self._missing = set()
        self._tell([], ())  # a cluster without Pods has been listed too: from now on Pods can be confirmed
        self._proven(as_of)

    def changed(self, events: Sequence[Event[SeenPod]]) -> Iterator[None]:
        for some in slices(events, lambda event: event.object.weight):
            self._changed(some)
            yield

    def _changed(self, events: Sequence[Event[SeenPod]]) -> None:
        """Told in order: what appears and goes at once has been there, and its reservation ends with it."""
        known = self._observer.known_pods()
        pods: dict[PodUid, Pod] = {}
        gone: dict[PodUid, None] = {}
        for event in events:
            uid = PodUid(event.object.identity)
            if event.type == "DELETED":
                if uid in pods:
                    self._tell(pods.values(), gone)
                    pods, gone = {}, {}
                gone[uid] = None
            elif event.object.holds_something() or uid in known or uid in pods:
                pod = self._read(event.object)
                if pod is not None:
                    pods[uid] = pod
        self._tell(pods.values(), gone)

    def _read(self, sketch: SeenPod) -> Pod | None:
        if self._targets is not None and not self._targets.knows(sketch.identity):
            wanted = sketch.wanted()
            if wanted is not None:
                self._targets.pod(sketch.identity, *wanted)
        try:
            return self._shared.pod(sketch)
        except MALFORMED as error:
            log.warning("a Pod cannot be read: %s: %s", sketch.title, error)
            return None

    def _tell(self, pods: Iterable[Pod], gone: Iterable[PodUid]) -> None:
        self._observer.observe(pods=pods, gone_pods=gone, lists_pods=True)
        if self._targets is not None:
            for uid in gone:
                self._targets.gone(uid)


class _Nodes:
    """Tells of Nodes, where something that we need has changed: a Node's status is written all the time."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._shared = Shared()
        self._nodes: dict[NodeName, Node] = {}
        self._listed: dict[NodeName, Node | None] = {}

    def began(self) -> None:
        self._listed = {}

    def listed(self, items: Sequence[NodeSketch]) -> Iterator[None]:
        for sketch in items:
            self._note(self._listed, sketch)
        yield

    def complete(self, as_of: float) -> Iterator[None]:
        missing: dict[NodeName, Node | None] = {name: None for name in self._nodes if name not in self._listed}
        for some in slices({**missing, **self._listed}.items(), lambda _: self._observer.node_weight()):
            self._tell(dict(some))
            yield
        self._listed = {}

    def changed(self, events: Sequence[Event[NodeSketch]]) -> Iterator[None]:
        changes: dict[NodeName, Node | None] = {}
        for event in events:
            if event.type == "DELETED":
                changes[NodeName(event.object.identity)] = None
            else:
                self._note(changes, event.object)
        for some in slices(changes.items(), lambda _: self._observer.node_weight()):
            self._tell(dict(some))
            yield

    def _note(self, changes: dict[NodeName, Node | None], sketch: NodeSketch) -> None:
        """One that cannot be read stays as it was, or is unknown."""
        name = NodeName(sketch.identity)
        try:
            changes[name] = self._shared.node(sketch)
        except MALFORMED as error:
            log.warning("a Node cannot be read: %s: %s", name, error)
            if name in self._nodes:
                changes[name] = self._nodes[name]

    def _tell(self, changes: dict[NodeName, Node | None]) -> None:
        """The last state of each counts."""
        gone = [name for name, node in changes.items() if node is None and name in self._nodes]
        nodes = [node for name, node in changes.items() if node is not None and node != self._nodes.get(name)]
        for name in gone:
            del self._nodes[name]
        self._nodes.update((node.name, node) for node in nodes)
        if gone or nodes:
            self._observer.observe(nodes=nodes, gone_nodes=gone, lists_pods=True)


class _Services:
    """Tells of Services, each in a step: it is compared with every owner of its namespace."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._missing: set[tuple[str, str]] = set()

    def began(self) -> None:
        self._missing = set(self._targets.services())

    def listed(self, items: Sequence[ServiceSketch]) -> Iterator[None]:
        for sketch in items:
            self._missing.discard(self._note(sketch))
            yield

    def complete(self, as_of: float) -> Iterator[None]:
        for namespace, name in self._missing:
            self._targets.service(namespace, name, None)
            yield
        self._missing = set()

    def changed(self, events: Sequence[Event[ServiceSketch]]) -> Iterator[None]:
        for event in events:
            self._note(event.object, is_gone=event.type == "DELETED")
            yield

    def _note(self, sketch: ServiceSketch, *, is_gone: bool = False) -> tuple[str, str]:
        namespace, name = sketch.metadata.namespace or "", sketch.metadata.name or ""
        found = None if is_gone or sketch.trouble else parse_service(msgspec.to_builtins(sketch))
        self._targets.service(namespace, name, found)
        return namespace, name


class _Namespaces:
    """Tells which Namespaces enforce a Pod Security level that forbids hostNetwork."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._levels: dict[str, str] = {}

    def began(self) -> None:
        self._levels = {}

    def listed(self, items: Sequence[NamespaceSketch]) -> Iterator[None]:
        for sketch in items:
            self._note(sketch)
        yield

    def complete(self, as_of: float) -> Iterator[None]:
        self._observer.enforce(self._levels)
        yield

    def changed(self, events: Sequence[Event[NamespaceSketch]]) -> Iterator[None]:
        for event in events:
            if event.type == "DELETED":
                self._levels.pop(event.object.identity, None)
            else:
                self._note(event.object)
        self._observer.enforce(self._levels)
        yield

    def _note(self, sketch: NamespaceSketch) -> None:
        level = level_of(sketch)
        if level:
            self._levels[sketch.identity] = level
        else:
            self._levels.pop(sketch.identity, None)
