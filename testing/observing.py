"""A recording observer, and objects of the API in one line each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from typing import Any

from allocator.cluster import kubernetes_pb2 as pb
from allocator.cluster.messages import constraints_of, observed_pod
from allocator.cluster.objects import as_message
from allocator.core.candidates import Constraints, Node, NodeName
from allocator.core.claims import ClusterChange, ObservedPod, PodUid
from allocator.core.foreign import ObservedService, ServiceName
from testing.kit import claim_port

Object = dict[str, Any]


class Recorder:
    """Remembers what it is told. Holds the Pods that hold something, as the ledger does."""

    def __init__(self, *known: str) -> None:
        self.pods: dict[str, ObservedPod | None] = dict.fromkeys(known)
        self.nodes: dict[NodeName, Node] = {}
        self.levels: dict[str, str] = {}
        self.services: dict[ServiceName, ObservedService] = {}
        self.gone: list[str] = []
        self.calls: list[tuple[int, int]] = []  # Pods and ends that came together
        self.proofs: list[float] = []
        self.lists_pods: list[bool] = []  # what each call said of it
        self._news = asyncio.Event()

    def observe(self, change: ClusterChange) -> None:
        pods, gone_pods = list(change.pods), list(change.gone_pods)
        self.lists_pods.append(change.lists_pods)
        if change.enforced is not None:
            self.levels = dict(change.enforced)
        for name in change.gone_nodes:
            self.nodes.pop(name, None)
        self.nodes.update((node.name, node) for node in change.nodes)
        for service in change.gone_services:
            self.services.pop(service)
        self.services.update((service.full_name, service) for service in change.services)
        for uid in gone_pods:
            self.pods.pop(uid, None)
            self.gone.append(uid)
        for pod in pods:
            if pod.is_finished:
                self.pods.pop(pod.uid, None)
            else:
                self.pods[pod.uid] = pod
        if pods or gone_pods:
            self.calls.append((len(pods), len(gone_pods)))
        self._news.set()

    def proven(self, until: float) -> None:
        self.proofs.append(until)
        self._news.set()

    def known_pods(self) -> Collection[PodUid]:
        return [PodUid(uid) for uid in self.pods]

    def pod_weight(self, uid: PodUid) -> int:
        return 1

    def node_weight(self) -> int:
        return 1

    def close_sockets(self, name: NodeName) -> Iterator[None]:
        return iter(())

    def node_of(self, uid: str) -> str | None:
        """The Pod's node; None as long as it is not told or has none."""
        pod = self.pods.get(uid)
        return pod.node if pod else None

    async def until(self, holds: Callable[[], object], what: str = "") -> None:
        """Returns when it holds; fails after half a minute."""
        try:
            async with asyncio.timeout(30):
                while not holds():
                    self._news.clear()
                    try:
                        await asyncio.wait_for(self._news.wait(), 0.01)
                    except TimeoutError:
                        continue
        except TimeoutError:
            raise AssertionError(f"never: {what}; pods {sorted(self.pods)}, nodes {sorted(self.nodes)}") from None

    async def has_pods(self, *uids: str) -> None:
        await self.until(lambda: sorted(self.pods) == sorted(uids), f"exactly the Pods {uids}")


def node(name: str, **labels: str) -> Object:
    return {"kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {}}


def namespace(name: str, level: str = "") -> Object:
    labels = {"pod-security.kubernetes.io/enforce": level} if level else {}
    return {"kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(
    name: str, *ports: str, uid: str = "", at: str = "", carries: str = "", phase: str = "Running", **spec: Any
) -> Object:
    """A Pod of namespace `demo` whose uid is its name; ports as in `kit`: `web:80=8080`."""
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "demo",
            "uid": uid or name,
            "annotations": {"hostport.io/allocation-id": carries} if carries else {},
        },
        "spec": {
            "nodeName": at,
            "containers": [{"name": "c", "ports": [_port(claim) for claim in map(claim_port, ports)]}],
            **spec,
        },
        "status": {"phase": phase},
    }


def _port(claim: Any) -> Object:
    return {
        "name": claim.name,
        "containerPort": claim.container_port,
        "hostPort": claim.host_port,
        "protocol": claim.protocol.value,
    }


def parse_pod(obj: Object) -> ObservedPod:
    """The Pod of a JSON object, as from a file."""
    return observed_pod(as_message(obj, pb.Pod))


def parse_constraints(spec: Object) -> Constraints:
    """Where a Pod of this spec may run."""
    return constraints_of(as_message(spec, pb.PodSpec))
