"""A tenant whose Pods are refused after our webhook leaves the others their ports, on a real API server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from allocator.core.admission import HANDFUL
from e2e.api import Kubectl
from e2e.control_plane import ControlPlane
from e2e.manifests import hostport, numbers, pod, port
from e2e.processes import wait_for
from e2e.product import Product

OTHERS = 20
LOW, HIGH = 23000, 23000 + OTHERS + HANDFUL.reservations - 1
RANGE = hostport(policy="Dynamic", min_port=LOW, max_port=HIGH)
SECURITY = "pod-security.kubernetes.io/enforce=restricted"


@pytest.fixture
def refused(product: Product, kubectl: Kubectl, namespace: str) -> Kubectl:
    """A namespace where Pod Security refuses every Pod with host ports; the allocator has heard of it."""
    kubectl("label", "namespace", namespace, SECURITY)
    dry = json.dumps(pod("dry", RANGE, port(80)))
    wait_for(
        "the allocator to hear of it",
        lambda: kubectl.run("create", "--dry-run=server", "-f", "-", stdin=dry).stderr,
        lambda said: "enforces Pod Security restricted" in said or "violates PodSecurity" in said,
    )
    return kubectl


def create(kubectl: Kubectl, name: str) -> str:
    asking = pod(name, RANGE, port(80), nodeName="n1")
    asking["spec"]["containers"][0]["args"] = ["$(HOSTPORT_80)"]  # so that there is nothing to warn of
    return kubectl.run("create", "-f", "-", stdin=json.dumps(asking)).stderr


def test_pods_that_are_refused_hold_a_handful_and_twenty_others_get_their_ports(
    plane: ControlPlane, product: Product, refused: Kubectl, namespace: str
) -> None:
    """Bare Pods on one node, and in a range that has a number for each of the twenty beside the handful."""
    with ThreadPoolExecutor(8) as side_by_side:
        said = list(side_by_side.map(lambda number: create(refused, f"refused-{number}"), range(40)))

    denied = [each for each in said if "NAMESPACE_BACKLOG" in each]
    assert all("violates PodSecurity" in each for each in said if each not in denied)
    assert len(denied) == len(said) - HANDFUL.reservations
    assert len(product.allocator.allocations(namespace)) == HANDFUL.reservations
    assert f"namespace {namespace} has {HANDFUL.reservations} reservations" in denied[0]

    victim = plane.kubectl.within("default")
    names = [f"tenants-victim-{number}" for number in range(OTHERS)]
    assert [create(victim, name) for name in names] == [""] * OTHERS
    assert len({number for name in names for number in numbers(victim.get("pod", name))}) == OTHERS
    victim("delete", "pod", "--wait=false", "--grace-period=0", "--force", *names)
