"""A Pod of a namespace with the label is told where clients dial its node, before any kubelet sees it there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.api import Kubectl
from e2e.conftest import case_name
from e2e.control_plane import ControlPlane, create_namespace
from e2e.manifests import hostport, pod, port
from e2e.processes import wait_for
from e2e.product import Product

pytestmark = pytest.mark.workloads

IP, V4 = "hostport.io/external-ip", "hostport.io/external-ip-v4"
FORGED = "6.6.6.6"
OUTSIDE = "203.0.113.9"


@pytest.fixture
def labelled(request: pytest.FixtureRequest, plane: ControlPlane, product: Product) -> Iterator[Kubectl]:
    """A namespace with the label, once both programs and the API server know."""
    name = case_name(request)
    kubectl = create_namespace(plane, name, labels={"hostport.io/external-address": "true"})
    wait_for(
        "the allocator to know the label",
        lambda: kubectl.try_apply(asking("probe"), options=["--dry-run=server", "-o", "json"]),
        lambda run: run.code == 0 and "HOSTPORT_EXTERNAL_IP" in str(run.json["spec"]["containers"]),
    )
    yield kubectl
    plane.kubectl("delete", "namespace", name, "--wait=false")


def asking(name: str, **annotations: str) -> dict[str, Any]:
    return pod(name, hostport(policy="Dynamic", min_port=24000, max_port=24999, **annotations), port(80, "web"))


def lives(plane: ControlPlane, namespace: str, since: str) -> list[dict[str, Any]]:
    """Every state of the namespace's Pods from a version on, as a watcher sees them."""
    path = f"/api/v1/namespaces/{namespace}/pods?watch=1&resourceVersion={since}&timeoutSeconds=1"
    return [json.loads(line)["object"] for line in plane.api.ask("GET", path).text.splitlines()]


def version(plane: ControlPlane) -> str:
    return str(plane.api.ask("GET", "/api/v1/pods?limit=1").json["metadata"]["resourceVersion"])


def bound_pod(kubectl: Kubectl, name: str) -> dict[str, Any]:
    return wait_for(
        f"{name} to have a node", lambda: kubectl.get("pod", name), lambda found: "nodeName" in found["spec"]
    )


def asked_about_bindings(product: Product) -> float:
    found = re.findall(
        r'hostport_shim_answers_total\{[^}]*result="(?:un)?addressed"[^}]*\} (\S+)', product.shim.metrics()
    )
    return sum(map(float, found))


def test_no_state_of_a_bound_pod_lacks_the_address(plane: ControlPlane, labelled: Kubectl) -> None:
    before = version(plane)
    labelled.apply(*(asking(f"web-{n}", external_ip=FORGED) for n in range(3)))
    nodes = {bound_pod(labelled, f"web-{n}")["spec"]["nodeName"] for n in range(3)}
    internal = {node: labelled.get("node", node)["status"]["addresses"][0]["address"] for node in sorted(nodes)}
    seen = lives(plane, labelled.namespace or "", before)

    told = [(each["spec"].get("nodeName"), each["metadata"]["annotations"].get(IP)) for each in seen]
    assert {(node, ip) for node, ip in told if node is None} == {(None, None)}, "what its author wrote is removed"
    assert {(node, ip) for node, ip in told if node} == set(internal.items())
    env = {each["name"]: each["valueFrom"] for each in seen[-1]["spec"]["containers"][0]["env"] if "valueFrom" in each}
    assert env["HOSTPORT_EXTERNAL_IP"]["fieldRef"]["fieldPath"] == f"metadata.annotations['{IP}']"


def test_the_label_of_a_node_comes_first(plane: ControlPlane, labelled: Kubectl) -> None:
    plane.kubectl("label", "node", "n2", f"hostport.io/external-address={OUTSIDE}")
    try:
        where = {"nodeSelector": {"kubernetes.io/hostname": "n2"}}
        found = wait_for("the label to be known", lambda: _told(labelled, where), lambda ip: ip == OUTSIDE)
    finally:
        plane.kubectl("label", "node", "n2", "hostport.io/external-address-")

    assert found == OUTSIDE


def _told(kubectl: Kubectl, where: dict[str, Any]) -> str:
    """What one more Pod is told."""
    one = asking("one")
    one["spec"] |= where
    kubectl.apply(one)
    told = bound_pod(kubectl, "one")["metadata"]["annotations"]
    kubectl("delete", "pod", "one", "--wait=true")
    assert told[IP] == told[V4]
    return str(told[IP])


def test_without_a_shim_a_pod_gets_its_node_all_the_same(
    plane: ControlPlane, product: Product, labelled: Kubectl
) -> None:
    product.shim.stop()
    try:
        labelled.apply(pod("plain", {}, port(80)))
        found = bound_pod(labelled, "plain")
    finally:
        product.shim.start()

    assert IP not in found["metadata"].get("annotations", {})


def test_nobody_asks_about_bindings_of_other_namespaces(product: Product, kubectl: Kubectl) -> None:
    before = asked_about_bindings(product)
    kubectl.apply(asking("web"))
    found = bound_pod(kubectl, "web")

    assert IP not in found["metadata"]["annotations"]
    assert "HOSTPORT_EXTERNAL_IP" not in str(found["spec"])
    assert asked_about_bindings(product) == before
