"""What is seen of workloads: running Pods, refusals, allocations that follow their Pods."""

from __future__ import annotations

from collections.abc import Sequence

from e2e.api import Kubectl
from e2e.manifests import Pod, annotation
from e2e.processes import wait_for
from e2e.product import Product
from hostport.v1 import allocator_pb2 as pb


def running(kubectl: Kubectl, count: int, *, seconds: float = 30) -> list[Pod]:
    """Waits until exactly so many Pods run, and returns them by name."""
    return wait_for(
        f"{count} Pods to run",
        kubectl.pods,
        lambda pods: len(pods) == count and all(pod["status"]["phase"] == "Running" for pod in pods),
        seconds=seconds,
    )


def refusals(kubectl: Kubectl) -> list[str]:
    """Why controllers could not create Pods in the namespace."""
    return [each["message"] for each in kubectl.get("events")["items"] if each["reason"] == "FailedCreate"]


def bound(product: Product, namespace: str, count: int, *, seconds: float = 30) -> dict[str, str]:
    """Waits until exactly so many allocations stand, each on its Pod's node; returns the nodes by id."""
    found = wait_for(
        f"{count} bound allocations",
        lambda: product.allocator.allocations(namespace),
        lambda found: [each.state for each in found] == [pb.STATE_BOUND] * count,
        seconds=seconds,
    )
    return {allocation.id: allocation.node for allocation in found}


def nodes_by_id(pods: Sequence[Pod]) -> dict[str, str]:
    return {annotation(pod, "allocation-id"): pod["spec"]["nodeName"] for pod in pods}
