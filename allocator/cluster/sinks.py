"""What was read of Pods, Nodes and Namespaces → what the observer is told of them.

Rules:

* Of Pods, those are told that hold something: a host port, an allocation id, or a claim that we know of. Of the others
  nothing is kept, not even that they exist.
* A Pod or Node that cannot be read keeps what was known of it: it exists, and holding a port too long is the lesser
  evil.
* What a complete list lacks is gone; so is what the watch says was deleted. Nothing else ends a Pod's claim.
* A Node with another uid was made anew. It is told as one that has gone and one that has come, also where both are seen
  at once: what an agent said of the old machine is void.
* What may take long is told in steps (`slices`), between which others are served.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

import msgspec
from msgspec.structs import replace

from allocator.cluster.contract import Observer
from allocator.cluster.decoding import WatchEvent
from allocator.cluster.messages import observed_pod
from allocator.cluster.objects import (
    addressed_namespace,
    enforced_level,
    parse_node,
)
from allocator.cluster.projection import NamespaceSketch, NodeSketch, SeenPod
from allocator.cluster.targets import Targets
from allocator.core.candidates import Constraints, Node, NodeName
from allocator.core.claims import ClaimPort, ClusterChange, ObservedPod, PodUid
from allocator.core.kept import SizedCache, kept_once
from allocator.slices import slices

log = logging.getLogger(__name__)

SHARED_BYTES = 16 << 20  # of distinct parts of a kind that are remembered
PORT_BYTES = 400  # that a port takes, about

# What `messages` and `objects` raise where an object is malformed.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError)


class PodSink:
    """Tells of Pods."""

    def __init__(self, observer: Observer, proven: Callable[[float], None], targets: Targets | None = None) -> None:
        self._observer = observer
        self._proven = proven
        self._targets = targets
        self._shared = ValueInterner()
        self._missing: set[PodUid] = set()

    def began(self) -> None:
        self._missing = set(self._observer.known_pods())

    def listed(self, items: Sequence[SeenPod]) -> Iterator[None]:
        """Tells the Pods of a page that hold something."""
        for some in slices(items, attrgetter("weight")):
            pods, known = [], self._observer.known_pods()
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
        """Tells that those which the list lacks are gone, and that the view is proven up to `as_of`."""
        for gone in slices(self._missing, self._observer.pod_weight):
            self._tell([], gone)
            yield
        self._missing = set()
        self._tell([], ())  # a cluster without Pods has been listed too: from now on Pods can be confirmed
        self._proven(as_of)

    def changed(self, events: Sequence[WatchEvent[SeenPod]]) -> Iterator[None]:
        """Tells events in order, some at a time."""
        for some in slices(events, attrgetter("object.weight")):
            self._changed(some)
            yield

    def _changed(self, events: Sequence[WatchEvent[SeenPod]]) -> None:
        """Told in order: what appears and goes at once has been there, and its reservation ends with it."""
        pods: dict[PodUid, ObservedPod] = {}
        gone: dict[PodUid, None] = {}
        for event in events:
            uid = PodUid(event.object.identity)
            if event.type == "DELETED":
                if uid in pods:
                    self._tell(pods.values(), gone)
                    pods, gone = {}, {}
                gone[uid] = None
            elif event.object.holds_something() or uid in pods or uid in self._observer.known_pods():
                pod = self._read(event.object)
                if pod is not None:
                    pods[uid] = pod
        self._tell(pods.values(), gone)

    def _read(self, sketch: SeenPod) -> ObservedPod | None:
        if self._targets is not None and not self._targets.knows(sketch.identity):
            wanted = sketch.wanted()
            if wanted is not None:
                self._targets.pod(sketch.identity, *wanted)
        try:
            return self._shared.pod(sketch)
        except MALFORMED as error:
            log.warning("a Pod cannot be read: %s: %s", sketch.title, error)
            return None

    def _tell(self, pods: Iterable[ObservedPod], gone: Iterable[PodUid]) -> None:
        self._observer.observe(ClusterChange(pods=pods, gone_pods=gone, lists_pods=True))
        if self._targets is not None:
            for uid in gone:
                self._targets.gone(uid)


class NodeSink:
    """Tells of Nodes, where something that we need has changed: a Node's status is written all the time."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._shared = ValueInterner()
        self._nodes: dict[NodeName, Node] = {}
        self._listed: dict[NodeName, Node | None] = {}

    def began(self) -> None:
        self._listed = {}

    def listed(self, items: Sequence[NodeSketch]) -> Iterator[None]:
        """Notes the Nodes of a page; they are told together."""
        for sketch in items:
            self._note(self._listed, sketch)
        yield

    def complete(self, as_of: float) -> Iterator[None]:
        """Tells the Nodes of the list, and which have gone."""
        missing: dict[NodeName, Node | None] = {name: None for name in self._nodes if name not in self._listed}
        yield from self._told({**missing, **self._listed})
        self._listed = {}

    def changed(self, events: Sequence[WatchEvent[NodeSketch]]) -> Iterator[None]:
        """Tells the last state of each Node that some events are about."""
        changes: dict[NodeName, Node | None] = {}
        for event in events:
            if event.type == "DELETED":
                changes[NodeName(event.object.identity)] = None
            else:
                self._note(changes, event.object)
        yield from self._told(changes)

    def _note(self, changes: dict[NodeName, Node | None], sketch: NodeSketch) -> None:
        """One that cannot be read stays as it was, or is unknown; so is one that was made anew."""
        name = NodeName(sketch.identity)
        try:
            changes[name] = self._shared.node(sketch)
        except MALFORMED as error:
            log.warning("a Node cannot be read: %s: %s", name, error)
            before = changes[name] if name in changes else self._nodes.get(name)
            is_another = before is not None and before.is_another(sketch.metadata.uid or "")
            changes[name] = None if is_another else before

    def _told(self, changes: dict[NodeName, Node | None]) -> Iterator[None]:
        """Tells the last state of each Node, in steps. Those that go may have thousands of sockets."""
        for some in slices(changes.items(), lambda _: self._observer.node_weight()):
            for name, node in some:
                if node is None or self._is_anew(node):
                    yield from self._observer.close_sockets(name)
            self._tell(dict(some))
            yield

    def _is_anew(self, node: Node) -> bool:
        before = self._nodes.get(node.name)
        return before is not None and before.is_another(node.uid)

    def _tell(self, changes: dict[NodeName, Node | None]) -> None:
        """The last state of each counts, after the end of those that were made anew."""
        anew = [name for name, node in changes.items() if node is not None and self._is_anew(node)]
        if anew:
            self._tell(dict.fromkeys(anew))
        gone = [name for name, node in changes.items() if node is None and name in self._nodes]
        nodes = [node for name, node in changes.items() if node is not None and node != self._nodes.get(name)]
        for name in gone:
            del self._nodes[name]
        self._nodes.update((node.name, node) for node in nodes)
        if gone or nodes:
            self._observer.observe(ClusterChange(nodes=nodes, gone_nodes=gone, lists_pods=True))


class NamespaceSink:
    """Tells which Namespaces enforce a Pod Security level that forbids hostNetwork, and whose Pods get an address."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._levels: dict[str, str] = {}
        self._addressed: set[str] = set()

    def began(self) -> None:
        self._levels, self._addressed = {}, set()

    def listed(self, items: Sequence[NamespaceSketch]) -> Iterator[None]:
        """Notes the levels of a page."""
        for sketch in items:
            self._note(sketch)
        yield

    def complete(self, as_of: float) -> Iterator[None]:
        """Tells the levels of the whole list."""
        self._tell()
        yield

    def changed(self, events: Sequence[WatchEvent[NamespaceSketch]]) -> Iterator[None]:
        """Tells the levels as some events leave them."""
        for event in events:
            if event.type == "DELETED":
                self._levels.pop(event.object.identity, None)
                self._addressed.discard(event.object.identity)
            else:
                self._note(event.object)
        self._tell()
        yield

    def _tell(self) -> None:
        change = ClusterChange(enforced=self._levels, addressed=frozenset(self._addressed), lists_pods=False)
        self._observer.observe(change)

    def _note(self, sketch: NamespaceSketch) -> None:
        level = level_of(sketch)
        if level:
            self._levels[sketch.identity] = level
        else:
            self._levels.pop(sketch.identity, None)
        is_addressed = addressed_namespace(msgspec.to_builtins(sketch)) != ""
        (self._addressed.add if is_addressed else self._addressed.discard)(sketch.identity)


class ValueInterner:
    """Makes values of the core. Equal parts are one object: a cluster has many Pods and few kinds of them."""

    def __init__(self) -> None:
        self._constraints: SizedCache[Constraints, Constraints] = SizedCache(SHARED_BYTES)
        self._ports: SizedCache[tuple[ClaimPort, ...], tuple[ClaimPort, ...]] = SizedCache(SHARED_BYTES)

    def pod(self, sketch: SeenPod) -> ObservedPod:
        """The Pod.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is malformed.

        """
        if sketch.trouble:
            raise ValueError(sketch.trouble)
        pod = observed_pod(sketch.fields())
        return replace(
            pod,
            ports=kept_once(self._ports, pod.ports, _size_of_ports),
            constraints=kept_once(self._constraints, pod.constraints, _size_of_constraints),
        )

    def node(self, sketch: NodeSketch) -> Node:
        """The Node. Raises ValueError, KeyError, TypeError or AttributeError where it is malformed."""
        if sketch.trouble:
            raise ValueError(sketch.trouble)
        node = parse_node(msgspec.to_builtins(sketch))
        return replace(node, name=NodeName(sys.intern(node.name)))


def _size_of_ports(ports: tuple[ClaimPort, ...]) -> int:
    return PORT_BYTES * len(ports)


def _size_of_constraints(constraints: Constraints) -> int:
    return constraints.weight


def level_of(sketch: NamespaceSketch) -> str:
    """The Pod Security level that a Namespace enforces; empty where it does not forbid hostNetwork."""
    found = enforced_level(msgspec.to_builtins(sketch))
    return found[1] if found else ""
