"""The few fields of the API server's objects that we look at, as sketches. Pure.

`decoding` makes them of JSON; `sketching` makes the same of protobuf, but for Pods: they are `messages.PodMessage`.

Rules:

* What a field means is said in `objects`, of a Pod in `messages`, once for files and for the API. Here is only *which*
  fields are looked at, so that the decoder passes over the rest without making objects of it.
* An object that cannot be read is a sketch with its identity and a `trouble`: its owner is known to exist.
* What only matters for a Pod that holds something is read when that is known (`Raw`): to make objects of everybody's
  tolerations and owners would take twice as long as all the rest.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import msgspec

from allocator.cluster import kubernetes_pb2 as pb
from allocator.cluster.objects import (
    ALLOCATION_ID,
    ALLOCATIONS,
    ENFORCE,
    WARNINGS,
    Json,
    as_message,
)
from hostport.contract.annotations import EXTERNAL_ADDRESS

FINISHED = frozenset({"Succeeded", "Failed"})
JSON = "application/json"


Unread = msgspec.Raw | msgspec.UnsetType


class SeenObject(Protocol):
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


class SeenPod(SeenObject, Protocol):
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

        To be asked before `fields`.
        """

    def fields(self) -> pb.Pod:
        """What `messages.observed_pod` reads of it."""


class JsonFields(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """Some fields of a JSON object. `Any`: whatever stands there, for `objects` to judge."""


class _Annotations(JsonFields):
    allocation_id: Any = msgspec.field(default=None, name=ALLOCATION_ID)
    warnings: Any = msgspec.field(default=None, name=WARNINGS)
    allocations: Unread = msgspec.field(default=msgspec.UNSET, name=ALLOCATIONS)


class Labels(JsonFields):
    """The labels of a Namespace that we read."""

    enforce: Any = msgspec.field(default=None, name=ENFORCE)
    external_address: Any = msgspec.field(default=None, name=EXTERNAL_ADDRESS)


class Metadata(JsonFields):
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
    """Labels have the Pod Security level, and whether Pods are told an address."""

    labels: Labels | None = None


class _Port(JsonFields):
    name: Any = None
    container_port: Any = None
    host_port: Any = None
    protocol: Any = None
    host_ip: Any = msgspec.field(default=None, name="hostIP")


class _Container(JsonFields):
    name: Any = None
    restart_policy: Any = None
    ports: list[_Port] | None = None


class _PodSpec(JsonFields):
    node_name: Any = None
    host_network: Any = None
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None
    node_selector: Unread = msgspec.UNSET
    affinity: Unread = msgspec.UNSET
    tolerations: Unread = msgspec.UNSET
    priority: Any = None
    preemption_policy: Any = None


class NodeSpec(JsonFields):
    """What keeps Pods away."""

    taints: Any = None
    unschedulable: Any = None


class NodeStatus(JsonFields):
    """Where the node is reached."""

    addresses: Any = None


class _PodStatus(JsonFields):
    phase: Any = None
    reason: Any = None
    conditions: Unread = msgspec.UNSET


class Sketch(JsonFields):
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
        """One more than the ports of its containers."""
        spec = self.spec
        if spec is None:
            return 1
        return 1 + sum(len(one.ports or ()) for some in (spec.containers, spec.init_containers) for one in some or ())

    def holds_something(self) -> bool:
        """Whether it carries our id, or has host ports and is not finished."""
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

    def fields(self) -> pb.Pod:
        """The Pod, read as a message."""
        spec, annotations = self.spec, self.metadata.annotations
        listens = annotations is not None and annotations.allocation_id and spec is not None and spec.host_network
        if isinstance(self.status, _PodStatus) and spec is not None and spec.node_name and not listens:
            self.status.conditions = msgspec.UNSET  # it was scheduled, and nobody waits for it to listen
        self.metadata.labels = msgspec.UNSET
        if annotations is not None:
            annotations.allocations = msgspec.UNSET
        return as_message(msgspec.to_builtins(self, enc_hook=msgspec.json.decode), pb.Pod)

    def wanted(self) -> tuple[Json, str] | None:
        """Metadata and table of ports; None where the Pod has no numbers of ours on the host's network."""
        annotations, spec, metadata = self.metadata.annotations, self.spec, self.metadata
        if annotations is None or not annotations.allocation_id or spec is None or not spec.host_network:
            return None
        try:
            table = msgspec.json.decode(annotations.allocations or b'""', type=str)
            found = {
                "namespace": metadata.namespace,
                "name": metadata.name,
                "labels": _decoded_or(metadata.labels, {}),
                "ownerReferences": _decoded_or(metadata.owner_references, []),
            }
        except msgspec.DecodeError:
            return None
        return found, table


class ServicePort(JsonFields):
    """Whereto it sends, and from where."""

    port: Any = None
    target_port: Any = None
    protocol: Any = None
    node_port: Any = None


class ServiceSpec(JsonFields):
    """Whose Pods, and which of their ports; and the numbers that it holds on every node."""

    type: Any = None
    selector: Any = None
    ports: list[ServicePort] | None = None
    health_check_node_port: Any = None


class ServiceSketch(Sketch):
    spec: ServiceSpec | None = None


def _decoded_or(raw: Unread, default: Any) -> Any:
    return default if raw is msgspec.UNSET else msgspec.json.decode(bytes(raw)) or default


class NodeSketch(Sketch):
    metadata: NodeMetadata = msgspec.field(default_factory=NodeMetadata)
    spec: NodeSpec | None = None
    status: NodeStatus | str | None = None


class NamespaceSketch(Sketch):
    metadata: NamespaceMetadata = msgspec.field(default_factory=NamespaceMetadata)


S = TypeVar("S", bound=SeenObject)
