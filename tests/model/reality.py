"""What is true: the Pods and Nodes of an API server, and what scheduler, kubelet and garbage collector may do to them.

Nothing here comes from the code under test. The conflict rule is the scheduler's, written down anew; whether a Pod may
run on a node is decided for the few constraints that the tests use.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from testing.encoding import binary, binary_page, frame

Key = tuple[str, str, int]
"""Address (`0.0.0.0`: all), protocol and number."""

CREATE_SECONDS = 34.0  # as long as the API server goes on with a create whose webhooks have answered


def collide(one: Key, other: Key) -> bool:
    """NodePorts: same protocol and number, and the same address or all addresses on either side."""
    return one[1:] == other[1:] and (one[0] == other[0] or "0.0.0.0" in (one[0], other[0]))


def any_collide(these: frozenset[Key], those: frozenset[Key]) -> bool:
    return any(collide(one, other) for one in these for other in those)


@dataclass(frozen=True)
class Where:
    """On which nodes a Pod may run."""

    node_name: str = ""  # spec.nodeName: the scheduler is not asked
    disk: str = ""  # nodeSelector disk=...
    only: str = ""  # a DaemonSet's Pod: required node affinity by metadata.name
    tolerates: str = ""  # a taint's key
    off: frozenset[str] = frozenset()  # nodes that required node affinity excludes by name

    def admits(self, node: RealNode) -> bool:
        if self.node_name:
            return node.name == self.node_name
        return (
            self.disk in ("", node.disk)
            and self.only in ("", node.name)
            and node.name not in self.off
            and (not node.taint or node.taint.startswith("node.kubernetes.io/") or node.taint == self.tolerates)
        )

    def spec(self) -> dict[str, Any]:
        """As the fields of a Pod's spec."""
        spec: dict[str, Any] = {}
        if self.node_name:
            spec["nodeName"] = self.node_name
        if self.disk:
            spec["nodeSelector"] = {"disk": self.disk}
        fields = [("In", self.only)] if self.only else []
        fields += [("NotIn", name) for name in sorted(self.off)]
        if fields:
            terms = [{"matchFields": [{"key": "metadata.name", "operator": op, "values": [n]} for op, n in fields]}]
            required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
            spec["affinity"] = {"nodeAffinity": required}
        if self.tolerates:
            spec["tolerations"] = [{"key": self.tolerates, "operator": "Exists"}]
        return spec


EVERYWHERE = Where()


@dataclass(frozen=True)
class RealNode:
    name: str
    disk: str = "ssd"
    taint: str = ""
    is_cordoned: bool = False

    def manifest(self) -> dict[str, Any]:
        taints = [{"key": self.taint, "effect": "NoSchedule"}] if self.taint else []
        return {
            "kind": "Node",
            "metadata": {"name": self.name, "labels": {"disk": self.disk}},
            "spec": {"taints": taints, "unschedulable": self.is_cordoned},
        }


@dataclass(frozen=True)
class RealPort:
    container: str
    protocol: str
    number: int
    ip: str = ""
    count: int = 1  # of the first number of a block; of its other numbers 0

    @property
    def key(self) -> Key:
        return (self.ip or "0.0.0.0", self.protocol, self.number)


@dataclass(frozen=True)
class RealPod:
    """A Pod that is stored. `claim`: the allocation with which we admitted it; empty for Pods of others."""

    uid: str
    namespace: str
    name: str
    ports: tuple[RealPort, ...]
    where: Where = EVERYWHERE
    generate_name: str = ""
    controller: str = ""
    claim: str = ""
    carries: str = ""
    node: str = ""
    priority: int = 0
    may_preempt: bool = False
    is_terminating: bool = False
    is_finished: bool = False

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset(port.key for port in self.ports)

    def manifest(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {"uid": self.uid, "namespace": self.namespace, "name": self.name}
        if self.generate_name:
            metadata["generateName"] = self.generate_name
        if self.controller:
            metadata["ownerReferences"] = [{"uid": self.controller, "controller": True}]
        if self.carries:
            metadata["annotations"] = {"hostport.io/allocation-id": self.carries}
        if self.is_terminating:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        containers: dict[str, list[dict[str, Any]]] = {}
        for port in self.ports:
            entry = {"containerPort": port.number, "hostPort": port.number, "protocol": port.protocol}
            containers.setdefault(port.container, []).append(entry | ({"hostIP": port.ip} if port.ip else {}))
        spec = self.where.spec() | {
            "hostNetwork": True,
            "priority": self.priority,
            "preemptionPolicy": "PreemptLowerPriority" if self.may_preempt else "Never",
            "containers": [{"name": name, "ports": ports} for name, ports in containers.items()],
        }
        if self.node:
            spec["nodeName"] = self.node
        return {
            "kind": "Pod",
            "metadata": metadata,
            "spec": spec,
            "status": {"phase": "Succeeded" if self.is_finished else "Running" if self.node else "Pending"},
        }


@dataclass(frozen=True)
class RealService:
    """A Service with one node port."""

    name: str
    protocol: str = "TCP"
    number: int = 0

    def manifest(self) -> dict[str, Any]:
        ports = [{"port": 80, "nodePort": self.number, "protocol": self.protocol}]
        return {
            "kind": "Service",
            "metadata": {"namespace": "infra", "name": self.name, "uid": f"uid-{self.name}"},
            "spec": {"type": "NodePort", "ports": ports},
        }


Real = RealPod | RealNode | RealService


@dataclass(frozen=True)
class Event:
    """One line of a watch, or one frame."""

    version: int
    type: str
    subject: str  # uid of a Pod, name of a Node or a Service
    line: bytes
    seen: Real


@dataclass
class Reality:
    """The API server's store. Every change is an event with a version of its own; `is_binary`: told in protobuf."""

    is_binary: bool = False
    pods: dict[str, RealPod] = field(default_factory=dict)
    nodes: dict[str, RealNode] = field(default_factory=dict)
    services: dict[str, RealService] = field(default_factory=dict)
    version: int = 0
    pod_events: list[Event] = field(default_factory=list)  # not yet told to the allocator
    node_events: list[Event] = field(default_factory=list)

    # -- Pods

    def find(self, namespace: str, name: str) -> RealPod | None:
        return next((pod for pod in self.pods.values() if (pod.namespace, pod.name) == (namespace, name)), None)

    def store(self, pod: RealPod) -> None:
        kind = "MODIFIED" if pod.uid in self.pods else "ADDED"
        self.pods[pod.uid] = pod
        self.pod_events.append(self._event(kind, pod.uid, pod))

    def admit_by_kubelet(self, pod: RealPod) -> RealPod:
        """A Pod that names its node asked no scheduler: the kubelet refuses it where its ports are taken."""
        if pod.where.node_name and not self.fits(pod, pod.where.node_name):
            return replace(pod, is_finished=True)
        return pod

    def delete(self, uid: str) -> None:
        pod = self.pods.pop(uid)
        self.pod_events.append(self._event("DELETED", uid, pod))

    def on(self, node: str) -> list[RealPod]:
        """The Pods that hold ports there: a terminating one still does, a finished one does not."""
        return [pod for pod in self.pods.values() if pod.node == node and not pod.is_finished]

    def fits(self, pod: RealPod, node: str) -> bool:
        """NodePorts: the scheduler knows the Pods of a node, and nothing of leases."""
        return not any(any_collide(pod.keys, other.keys) for other in self.on(node) if other.uid != pod.uid)

    def choices(self, pod: RealPod) -> list[str]:
        """The nodes that the scheduler may choose for a Pod."""
        return [
            node.name
            for node in self.nodes.values()
            if not node.is_cordoned and pod.where.admits(node) and self.fits(pod, node.name)
        ]

    def victims(self, pod: RealPod, node: str) -> list[RealPod] | None:
        """Who has to go for a Pod to be scheduled to a node by preemption; None where that is not possible."""
        in_the_way = [other for other in self.on(node) if any_collide(pod.keys, other.keys)]
        return in_the_way if all(other.priority < pod.priority for other in in_the_way) else None

    # -- Nodes

    def put_node(self, node: RealNode) -> None:
        kind = "MODIFIED" if node.name in self.nodes else "ADDED"
        self.nodes[node.name] = node
        self.node_events.append(self._event(kind, node.name, node))

    def drop_node(self, name: str) -> None:
        """The garbage collector deletes the Pods of a Node that is gone, some time later."""
        self.node_events.append(self._event("DELETED", name, self.nodes.pop(name)))

    # -- Services

    def put_service(self, service: RealService) -> Event:
        """The API server knows no host ports: it takes any number."""
        kind = "MODIFIED" if service.name in self.services else "ADDED"
        self.services[service.name] = service
        return self._event(kind, service.name, service)

    def drop_service(self, name: str) -> Event:
        return self._event("DELETED", name, self.services.pop(name))

    @property
    def node_ports(self) -> frozenset[tuple[str, int]]:
        """Protocol and number of what Services hold on every node."""
        return frozenset((service.protocol, service.number) for service in self.services.values())

    # -- the wire

    def _event(self, kind: str, subject: str, seen: Real) -> Event:
        self.version += 1
        line = json.dumps({"type": kind, "object": self.stamped(seen)}).encode()
        part = frame(_kind(seen), line) if self.is_binary else line
        return Event(self.version, kind, subject, part, seen)

    def stamped(self, seen: Real) -> dict[str, Any]:
        manifest = seen.manifest()
        manifest["metadata"]["resourceVersion"] = str(self.version)
        return manifest

    def page(self, items: list[RealPod] | list[RealNode] | list[RealService]) -> bytes:
        listed = [self.stamped(item) for item in items]
        metadata = {"resourceVersion": str(self.version)}
        if self.is_binary and items:
            return binary_page(_kind(items[0]), metadata, listed)
        return json.dumps({"metadata": metadata, "items": listed}).encode()

    def one(self, pod: RealPod) -> bytes:
        return binary("Pod", self.stamped(pod)) if self.is_binary else json.dumps(self.stamped(pod)).encode()


def _kind(seen: Real) -> str:
    return type(seen).__name__.removeprefix("Real")
