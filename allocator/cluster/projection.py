"""JSON of the API server → the few fields that we need → values of the core. Pure.

Lists and watches of Kubernetes' own kinds come in protobuf instead (`messages`), which gives the same values.

Rules:

* What a field means is said in `objects`, once for files and for the API. Here is only *which* fields are looked at,
  so that the decoder passes over the rest without making objects of it.
* One bad object spoils neither its page nor the watch: it comes out with its identity and a `trouble`, so that its
  owner is known to exist, and what was known of it before stays in force.
* What only matters for a Pod that holds something is read when that is known (`Raw`): to make objects of everybody's
  tolerations and owners would take twice as long as all the rest.
* Equal parts of different Pods are one object: a cluster has many Pods and few kinds of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from allocator.cluster.objects import (
    ALLOCATION_ID,
    ALLOCATIONS,
    ENFORCE,
    WARNINGS,
    Json,
    enforced_level,
    parse_node,
    parse_pod,
)
from allocator.core.candidates import Constraints, Node, NodeName
from allocator.core.claims import ClaimPort
from allocator.core.pods import Pod
from allocator.core.sized import Sized

FINISHED = frozenset({"Succeeded", "Failed"})
JSON = "application/json"
SHARED_BYTES = 16 << 20  # of distinct parts of a kind that are remembered
PORT_BYTES = 400  # that a port takes, about

# What `objects` raises where an object is malformed.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError)


Unread = msgspec.Raw | msgspec.UnsetType


class Seen(Protocol):
    """What is seen of an object, in whatever encoding it came."""

    @property
    def identity(self) -> str:
        """What tells it from the others of its kind: the name, but for Pods."""

    @property
    def version(self) -> str:
        """Its resourceVersion; empty where it has none."""

    @property
    def trouble(self) -> str:
        """Why it could not be read; empty where it could."""


class SeenPod(Seen, Protocol):
    """A Pod; its identity is the uid."""

    @property
    def title(self) -> str:
        """`namespace/name`, for people."""

    @property
    def weight(self) -> int:
        """About as many ports as it has; most have none that concern us."""

    def holds_something(self) -> bool:
        """Whether it carries our id, or has host ports and is not finished. A yes too many is allowed, a no never."""

    def wanted(self) -> tuple[Json, str] | None:
        """Metadata and table of ports of a Pod on the host's network that has numbers of ours; None for others.

        To be asked before `plain`.
        """

    def plain(self) -> Json:
        """What `objects.parse_pod` reads of it."""


class _Fields(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """Some fields of a JSON object. `Any`: whatever stands there, for `objects` to judge."""


class _Annotations(_Fields):
    allocation_id: Any = msgspec.field(default=None, name=ALLOCATION_ID)
    warnings: Any = msgspec.field(default=None, name=WARNINGS)
    allocations: Unread = msgspec.field(default=msgspec.UNSET, name=ALLOCATIONS)


class Labels(_Fields):
    """The label of a Namespace that we read."""

    enforce: Any = msgspec.field(default=None, name=ENFORCE)


class Metadata(_Fields):
    """What identifies an object."""

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None


class _PodMetadata(Metadata):
    generate_name: Any = None
    labels: Unread = msgspec.UNSET
    owner_references: Unread = msgspec.UNSET
    deletion_timestamp: Any = None
    annotations: _Annotations | None = None


class NodeMetadata(Metadata):
    """Labels decide where a Pod may run."""

    labels: Any = None


class NamespaceMetadata(Metadata):
    """One label has the Pod Security level."""

    labels: Labels | None = None


class _Port(_Fields):
    name: Any = None
    container_port: Any = None
    host_port: Any = None
    protocol: Any = None
    host_ip: Any = msgspec.field(default=None, name="hostIP")


class _Container(_Fields):
    name: Any = None
    restart_policy: Any = None
    ports: list[_Port] | None = None


class _PodSpec(_Fields):
    node_name: Any = None
    host_network: Any = None
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None
    node_selector: Unread = msgspec.UNSET
    affinity: Unread = msgspec.UNSET
    tolerations: Unread = msgspec.UNSET
    priority: Any = None
    preemption_policy: Any = None


class NodeSpec(_Fields):
    """What keeps Pods away."""

    taints: Any = None
    unschedulable: Any = None


class _PodStatus(_Fields):
    phase: Any = None
    reason: Any = None
    conditions: Unread = msgspec.UNSET


class Sketch(_Fields):
    """An object, or the Status that an ERROR event has in its place (`code`, `reason`, `message`)."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    kind: Any = None
    code: Any = None
    reason: Any = None
    message: Any = None
    trouble: str = msgspec.field(default="", name="(trouble)")  # ours: why the rest could not be read

    @property
    def identity(self) -> str:
        return self.metadata.name or ""

    @property
    def version(self) -> str:
        return self.metadata.resource_version or ""


class PodSketch(Sketch):
    """A `SeenPod`."""

    metadata: _PodMetadata = msgspec.field(default_factory=_PodMetadata)
    spec: _PodSpec | None = None
    # A Status has words where a Pod has an object.
    status: _PodStatus | str | None = None

    @property
    def identity(self) -> str:
        return self.metadata.uid or ""

    @property
    def title(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def weight(self) -> int:
        spec = self.spec
        if spec is None:
            return 1
        return 1 + sum(len(one.ports or ()) for some in (spec.containers, spec.init_containers) for one in some or ())

    def holds_something(self) -> bool:
        annotations, status, spec = self.metadata.annotations, self.status, self.spec
        if annotations is not None and annotations.allocation_id:
            return True
        if spec is None or (isinstance(status, _PodStatus) and status.phase in FINISHED):
            return False
        for containers in (spec.containers, spec.init_containers):
            for container in containers or ():
                for port in container.ports or ():
                    if port.host_port or spec.host_network:
                        return True
        return False

    def plain(self) -> Json:
        if isinstance(self.status, _PodStatus) and self.spec is not None and self.spec.node_name:
            self.status.conditions = msgspec.UNSET  # it was scheduled
        self.metadata.labels = msgspec.UNSET
        if self.metadata.annotations is not None:
            self.metadata.annotations.allocations = msgspec.UNSET
        plain: Json = msgspec.to_builtins(self, enc_hook=msgspec.json.decode)
        return plain

    def wanted(self) -> tuple[Json, str] | None:
        annotations, spec, metadata = self.metadata.annotations, self.spec, self.metadata
        if annotations is None or not annotations.allocation_id or spec is None or not spec.host_network:
            return None
        try:
            table = msgspec.json.decode(annotations.allocations or b'""', type=str)
            found = {
                "namespace": metadata.namespace,
                "name": metadata.name,
                "labels": _some(metadata.labels, {}),
                "ownerReferences": _some(metadata.owner_references, []),
            }
        except msgspec.DecodeError:
            return None
        return found, table


class ServicePort(_Fields):
    """Whereto it sends, and from where."""

    port: Any = None
    target_port: Any = None
    protocol: Any = None


class ServiceSpec(_Fields):
    """Whose Pods, and which of their ports."""

    type: Any = None
    selector: Any = None
    ports: list[ServicePort] | None = None


class ServiceSketch(Sketch):
    spec: ServiceSpec | None = None


def _some(raw: Unread, default: Any) -> Any:
    return default if raw is msgspec.UNSET else msgspec.json.decode(bytes(raw)) or default


class NodeSketch(Sketch):
    metadata: NodeMetadata = msgspec.field(default_factory=NodeMetadata)
    spec: NodeSpec | None = None


class NamespaceSketch(Sketch):
    metadata: NamespaceMetadata = msgspec.field(default_factory=NamespaceMetadata)


S = TypeVar("S", bound=Seen)
J = TypeVar("J", bound=Sketch)


class ListMetadata(_Fields):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")
    remaining_item_count: int | None = None  # an estimate; only with `continue`


class Page(msgspec.Struct, Generic[S], gc=False):
    """A part of a list."""

    metadata: ListMetadata
    items: list[S] | None = None


class Event(msgspec.Struct, Generic[S], gc=False):
    """What a watch tells: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR, whose object is a Status in a `Sketch`."""

    type: str
    object: S

    @property
    def version(self) -> str:
        return self.object.version


class _RawPage(msgspec.Struct):
    metadata: ListMetadata
    items: list[msgspec.Raw] | None = None


class _RawEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


class Reader(Generic[J]):
    """Reads lists and events of one kind of object. `accept`: what is asked for, as HTTP writes it."""

    accept = JSON

    def __init__(self, sketch: type[J]) -> None:
        self._sketch = sketch
        self._one = msgspec.json.Decoder(sketch)
        self._page = msgspec.json.Decoder(Page[sketch])  # type: ignore[valid-type]
        self._event = msgspec.json.Decoder(Event[sketch])  # type: ignore[valid-type]

    def page(self, body: bytes) -> Page[J]:
        """A page of a list; what cannot be read in it has a `trouble`.

        Raises:
            ValueError: it is no list.

        """
        try:
            return self._page.decode(body)
        except msgspec.ValidationError:
            raw = _decode(body, _RawPage)
            return Page(raw.metadata, [self._object(item) for item in raw.items or ()])
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error

    def event(self, line: bytes) -> Event[J]:
        """A line of a watch, likewise.

        Raises:
            ValueError: it is no event.

        """
        try:
            return self._event.decode(line)
        except msgspec.ValidationError:
            raw = _decode(line, _RawEvent)
            return Event(raw.type, self._object(raw.object))
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error

    def one(self, body: bytes) -> J:
        """One object, likewise.

        Raises:
            ValueError: it is none.

        """
        try:
            return self._object(msgspec.Raw(body))
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error

    def _object(self, raw: msgspec.Raw) -> J:
        try:
            return self._one.decode(raw)
        except msgspec.ValidationError as error:
            broken = self._sketch(trouble=str(error))
        anything = msgspec.json.decode(raw)
        metadata = anything.get("metadata") if isinstance(anything, dict) else None
        if isinstance(metadata, dict):
            for field, name in (("name", "name"), ("uid", "uid"), ("resourceVersion", "resource_version")):
                if isinstance(metadata.get(field), str):
                    setattr(broken.metadata, name, metadata[field])
        return broken


T = TypeVar("T")


def _decode(text: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error


def head_of_page(begin: bytes) -> ListMetadata | None:
    """The metadata of a list by its first bytes, as the API server writes it before the items. None: not among them."""
    head, items, _ = begin.partition(b',"items":[')
    try:
        return _decode(head + b"}", _RawPage).metadata if items else None
    except ValueError:
        return None


class Shared:
    """Equal values become one object."""

    def __init__(self) -> None:
        self._constraints: Sized[Constraints, Constraints] = Sized(SHARED_BYTES)
        self._ports: Sized[tuple[ClaimPort, ...], tuple[ClaimPort, ...]] = Sized(SHARED_BYTES)

    def pod(self, sketch: SeenPod) -> Pod:
        """The Pod.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is malformed.

        """
        if sketch.trouble:
            raise ValueError(sketch.trouble)
        pod = parse_pod(sketch.plain())
        return replace(
            pod,
            namespace=sys.intern(pod.namespace),
            generate_name=sys.intern(pod.generate_name),
            controller_uid=sys.intern(pod.controller_uid),
            node=None if pod.node is None else NodeName(sys.intern(pod.node)),
            ports=_one_of(self._ports, pod.ports, _size_of_ports),
            constraints=_one_of(self._constraints, pod.constraints, _size_of_constraints),
        )

    def node(self, sketch: NodeSketch) -> Node:
        """The Node; raises as `pod` does."""
        if sketch.trouble:
            raise ValueError(sketch.trouble)
        node = parse_node(msgspec.to_builtins(sketch))
        return replace(node, name=NodeName(sys.intern(node.name)))


V = TypeVar("V", bound=Hashable)


def _size_of_ports(ports: tuple[ClaimPort, ...]) -> int:
    return PORT_BYTES * len(ports)


def _size_of_constraints(constraints: Constraints) -> int:
    return constraints.weight


def _one_of(known: Sized[V, V], value: V, size: Callable[[V], int]) -> V:
    found = known.get(value)
    if found is None:
        known.put(value, value, size(value))
        return value
    return found


def level_of(sketch: NamespaceSketch) -> str:
    """The Pod Security level that a Namespace enforces; empty where it does not forbid hostNetwork."""
    found = enforced_level(msgspec.to_builtins(sketch))
    return found[1] if found else ""
