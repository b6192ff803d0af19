"""`--cluster kubernetes`: the Pods, Nodes, Namespaces and Services of a live cluster, listed once, then watched.

Rules:

* Nodes are told whole before the first Pod, so that a plan that the journal kept is judged by all nodes.
* `proven` is called for a complete list and for each proof (see `freshness`), `synced` returns when Nodes, Pods and
  Services are listed. Services that may not be listed stop nobody: that is told (`unseen`), and their numbers are not
  known. So is what keeps them from being followed for a minute.
* Nothing proves the watch of Services current, as `freshness` does that of Pods. So it is a shorter one: each gets a
  bookmark two seconds before its end, and one that hangs is noticed within `SERVICES_STALL_SECONDS`.
* Namespaces serve warnings and bounds (`core.admission`): nobody waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import quote
from weakref import WeakValueDictionary

from allocator.clock import elapsed
from allocator.cluster.client import ApiClient, ApiError, UnreachableError
from allocator.cluster.contract import Observer, PodRef
from allocator.cluster.correlator import ObjectEvent
from allocator.cluster.decoding import JsonDecoder
from allocator.cluster.freshness import FreshnessProbe
from allocator.cluster.messages import PodMessage, ProtobufDecoder
from allocator.cluster.pager import Resource, S
from allocator.cluster.projection import NamespaceSketch, NodeSketch, PodSketch, SeenPod, ServiceSketch
from allocator.cluster.reflector import Reflector, Sink, WatchTuning
from allocator.cluster.services import ServiceSink
from allocator.cluster.sinks import NamespaceSink, NodeSink, PodSink
from allocator.cluster.sketching import see_namespace, see_node, see_service
from allocator.cluster.targets import Targets
from allocator.core.claims import ClusterChange
from allocator.core.foreign import ServiceName
from allocator.slices import in_turns
from hostport.supervision import Loops

log = logging.getLogger(__name__)

PODS: Final[Resource[SeenPod]] = Resource(
    "pods", "/api/v1/pods", ProtobufDecoder("Pod", PodMessage, JsonDecoder(PodSketch))
)
NODES: Final = Resource("nodes", "/api/v1/nodes", ProtobufDecoder("Node", see_node, JsonDecoder(NodeSketch)))
NAMESPACES: Final = Resource(
    "namespaces", "/api/v1/namespaces", ProtobufDecoder("Namespace", see_namespace, JsonDecoder(NamespaceSketch))
)
SERVICES: Final = Resource(
    "services", "/api/v1/services", ProtobufDecoder("Service", see_service, JsonDecoder(ServiceSketch))
)
TUNING: Final = WatchTuning()

SERVICES_WATCH_SECONDS, SERVICES_STALL_SECONDS = 30.0, 45.0
LASTING_SECONDS = 60.0  # longer than a watch of Services that was begun anew takes to show that it moves

LOOK_SECONDS = 0.5

R = TypeVar("R")
T = TypeVar("T")


class KubernetesCluster:
    """See the module.

    `now` gives seconds that pass whatever is set, also while this process does not run: how old the view is goes by it.
    `ends` is the clock by which reservations end, which may go more slowly; None: the same. `chance` gives a number in
    [0, 1). `tell` hears of Services that lead nowhere; None: nobody does.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        tuning: WatchTuning = TUNING,
        now: Callable[[], float] = elapsed,
        ends: Callable[[], float] | None = None,
        chance: Callable[[], float] = random.random,
        tell: Callable[[ObjectEvent], None] | None = None,
    ) -> None:
        self._client = client
        self._tuning = tuning
        self._now, self._ends, self._chance = now, ends, chance
        self._observer: Observer | None = None
        self._synced = asyncio.Event()
        self._proven_until = float("-inf")
        self._freshness: FreshnessProbe | None = None
        self._pods: Reflector[SeenPod] | None = None
        self._services: ServiceSink | None = None
        self._lookups = Lookups()
        self._reflectors: list[
            Reflector[SeenPod] | Reflector[NodeSketch] | Reflector[NamespaceSketch] | Reflector[ServiceSketch]
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
        targets = Targets(self._tell) if self._tell else None
        nodes = self._reflector(NODES, NodeSink(observer))
        pods = self._pods = self._reflector(PODS, PodSink(observer, proven, targets))
        # What else is followed joins here: its resource, and a sink that tells the observer of it.
        self._services = ServiceSink(observer, targets)
        services = self._reflector(SERVICES, self._services, shorter(self._tuning))
        self._reflectors = [nodes, pods, services, self._reflector(NAMESPACES, NamespaceSink(observer))]
        self._freshness = FreshnessProbe(self._client, PODS, pods, tuning=self._tuning, now=self._now, proven=proven)
        async with Loops() as loops:
            for reflector in self._reflectors:
                # Nodes first: a plan that the journal kept is judged by all nodes before any Pod is told.
                loops.start(reflector.noun, reflector.forever(after=nodes.synced if reflector is pods else None))
            loops.start("proofs", self._freshness.forever())
            await nodes.synced.wait()
            await pods.synced.wait()
            await services.answered.wait()
            self._synced.set()
            await asyncio.Event().wait()

    def _reflector(self, resource: Resource[S], sink: Sink[S], tuning: WatchTuning | None = None) -> Reflector[S]:
        return Reflector(
            self._client, resource, sink, tuning=tuning or self._tuning, now=self._now, chance=self._chance
        )

    async def synced(self) -> None:
        await self._synced.wait()

    def mark(self) -> int:
        return self._pods.begun if self._pods is not None else 0

    async def caught_up(self, mark: int, version: int | None) -> None:
        """Returns when the observer was told every Pod that was stored at a moment; see `Reflector.caught_up`."""
        await self._synced.wait()
        if self._pods is not None:
            await self._pods.caught_up(mark, version)

    def latest(self) -> int:
        return self._pods.latest if self._pods is not None else 0

    def progress(self) -> str:
        """How far the first lists are, for people who wait for them; empty before they begin."""
        return ", ".join(str(reflector.progress) for reflector in self._reflectors if reflector.progress.listed)

    # -- freshness

    def lag(self) -> float:
        """Seconds since the view was last proven current; infinite until it was."""
        return max(0.0, self._now() - self._proven_until)

    def relists(self) -> int:
        """How often a list was needed beyond the first one of each kind."""
        return sum(max(0, reflector.lists - 1) for reflector in self._reflectors)

    def unseen(self) -> list[str]:
        """What is not seen of the cluster, as a right is missing or nobody answers, and what follows, in sentences."""
        unseen = []
        for each in self._reflectors:
            trouble = each.forbidden or each.trouble(LASTING_SECONDS)
            if each.noun == SERVICES.noun and trouble:
                numbers = "numbers that Services hold" if each.forbidden else "numbers that Services took meanwhile"
                unseen.append(
                    f"{each.noun} cannot be followed ({trouble}): {numbers} are not known, and may be given to Pods"
                )
        return unseen

    async def look(self, pods: Collection[PodRef], asker: str) -> bool:
        """Gets some Pods by name, side by side, and tells what has become of them."""
        observer = self._observer
        if observer is None:
            return False
        found = await self._looked_up(self._get, pods, asker)
        if found is None:
            return False
        sink = PodSink(observer, observer.proven)
        for ref, sketch in zip(pods, found, strict=True):
            if sketch is None or sketch.identity != ref.uid:
                observer.observe(ClusterChange(gone_pods=[ref.uid], lists_pods=True))
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

    async def look_up_services(self, services: Collection[ServiceName], asker: str) -> bool:
        """Lists some Services by name, side by side, which takes no right but that to list; tells what they hold."""
        sink = self._services
        if sink is None:
            return False
        before = [sink.holding(name) for name in services]
        found = await self._looked_up(self._find_service, services, asker)
        if found is None:
            return False
        for name, held, sketch in zip(services, before, found, strict=True):
            sink.looked_up(name, held, sketch)
        return True

    async def _looked_up(
        self, look: Callable[[R], Awaitable[T]], wanted: Collection[R], asker: str
    ) -> Sequence[T] | None:
        """What a look finds for each, side by side; None where that did not succeed in time."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await asyncio.gather(*(self._lookups.of(asker, partial(look, each)) for each in wanted))
        except (ApiError, UnreachableError, TimeoutError, ValueError):
            return None

    async def _find_service(self, service: ServiceName) -> ServiceSketch | None:
        """The Service of that name; None where there is none."""
        namespace, name = service
        path, params = f"/api/v1/namespaces/{quote(namespace, safe='')}/services", {"limit": "1"}
        params["fieldSelector"] = f"metadata.name={name}"
        items = SERVICES.reader.page(await self._client.get(path, params, accept=SERVICES.reader.accept)).items
        return items[0] if items else None

    def hurry(self) -> None:
        """Somebody waits for `proven`: make it soon."""
        if self._freshness is not None:
            self._freshness.hurry()


def shorter(tuning: WatchTuning) -> WatchTuning:
    """For Services; see the module."""
    return replace(
        tuning,
        watch_seconds=min(tuning.watch_seconds, SERVICES_WATCH_SECONDS),
        stall_seconds=min(tuning.stall_seconds, SERVICES_STALL_SECONDS),
    )


MOST_LOOKUPS = 16
MOST_LOOKUPS_OF_ONE = MOST_LOOKUPS // 2


class Lookups:
    """Lookups of Pods and Services that are under way: so many side by side, at most half of them for one namespace.

    What one namespace has beyond that waits behind its own, so that another's lookup waits for a few at most, however
    many the first one asks for.
    """

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(MOST_LOOKUPS)
        self._of_one: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # while somebody has it

    async def of(self, asker: str, look: Callable[[], Awaitable[T]]) -> T:
        """Looks when it is the asker's turn."""
        share = self._of_one.get(asker)
        if share is None:
            share = self._of_one[asker] = asyncio.Semaphore(MOST_LOOKUPS_OF_ONE)
        async with share, self._all:
            return await look()
