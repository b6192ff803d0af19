"""`hostport.io/network: Pod` on a real control plane, and the way from a name to each Pod's own number."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.api import MERGE_PATCH, Kubectl
from e2e.control_plane import ControlPlane
from e2e.manifests import annotation, hostport, numbers, pod, port, workload
from e2e.processes import wait_for
from e2e.seen import running

pytestmark = pytest.mark.workloads

Json = dict[str, Any]
OWN: dict[str, Any] = {"network": "Pod", "min_port": 26100, "max_port": 26999}
SYSCTLS = {"sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "1024 65535"}]}


def test_a_bare_pod_can_be_applied_again(kubectl: Kubectl) -> None:
    asked = pod("web", hostport(policy="Dynamic", **OWN), port(8080, "http"))
    kubectl.apply(asked)
    before = kubectl.get("pod", "web")

    kubectl.apply(asked)

    after = kubectl.get("pod", "web")
    assert (after["spec"], after["metadata"]["uid"]) == (before["spec"], before["metadata"]["uid"])
    assert "hostNetwork" not in after["spec"]
    assert after["spec"]["containers"][0]["ports"][0]["containerPort"] == 8080


@pytest.mark.parametrize("policy", ["Index", "Dynamic", "Passthrough", "Static"])
def test_what_host_network_forbids_is_taken(kubectl: Kubectl, policy: str) -> None:
    fixed = {"Passthrough": port(26050), "Static": port(8080, hostPort=26051)}
    asked = {"network": "Pod"} if policy in fixed else OWN
    made = pod(
        "web-0",
        hostport(policy=policy, **asked),
        fixed.get(policy, port(8080)),
        hostUsers=False,
        securityContext=SYSCTLS,
    )

    kubectl.apply(made)

    stored = kubectl.get("pod", "web-0")
    assert stored["spec"]["hostUsers"] is False
    (number,) = numbers(stored)
    assert number == {"Passthrough": 26050, "Static": 26051}.get(policy, number)
    assert number < 27000
    assert not stored["spec"].get("hostNetwork")


def test_replicas_have_numbers_of_their_own(kubectl: Kubectl) -> None:
    kubectl.apply(workload("Deployment", "web", hostport(policy="Dynamic", **OWN), port(8080, "http"), replicas=5))

    stored = running(kubectl, 5)

    assert len({annotation(each, "allocated-http") for each in stored}) == 5
    assert {each["spec"]["containers"][0]["ports"][0]["containerPort"] for each in stored} == {8080}


def has_address(plane: ControlPlane, stored: Json, address: str) -> None:
    """What a kubelet would write."""
    path = f"/api/v1/namespaces/{stored['metadata']['namespace']}/pods/{stored['metadata']['name']}/status"
    status = {"podIP": address, "podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": "True"}]}
    plane.api.ask("PATCH", path, {"status": status}, content_type=MERGE_PATCH)


def test_a_headless_service_with_a_named_port_gives_each_pods_number(plane: ControlPlane, kubectl: Kubectl) -> None:
    """DNS makes SRV records of these slices: `_game._tcp.servers`."""
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "servers"},
            "spec": {
                "clusterIP": "None",
                "selector": {"app": "game"},
                "ports": [{"name": "game", "port": 7777, "targetPort": "game"}],
            },
        }
    )
    asked = hostport(policy="Dynamic", min_port=27100, max_port=27999)
    kubectl.apply(workload("Deployment", "game", asked, port(7777, "game"), replicas=3))
    stored = running(kubectl, 3)
    given = {number for each in stored for number in numbers(each)}
    for last, each in enumerate(stored, start=1):
        has_address(plane, each, f"10.1.0.{last}")

    def told() -> set[int]:
        slices = kubectl.get("endpointslices", "-l", "kubernetes.io/service-name=servers")["items"]
        return {each["port"] for one in slices for each in one.get("ports") or [] if one.get("endpoints")}

    assert wait_for("each number in a slice", told, lambda seen: seen == given, seconds=20) == given
    assert len(given) == 3
