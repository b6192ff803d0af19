"""A Pod that is Ready and does not listen on its number is told so, on a real API server; what is open is simulated."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.api import MERGE_PATCH, Kubectl
from e2e.control_plane import ControlPlane
from e2e.manifests import hostport, pod, port
from e2e.processes import wait_for
from e2e.product import Product
from e2e.seen import running
from hostport.v1 import allocator_pb2 as pb

pytestmark = pytest.mark.workloads

LONG_AGO = "2026-01-01T00:00:00Z"


def ready(kubectl: Kubectl, plane: ControlPlane, name: str) -> None:
    """What a kubelet writes of a Pod that has been Ready for long."""
    status = {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": LONG_AGO}]}
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/{name}/status"
    answer = plane.api.ask("PATCH", path, {"status": status}, content_type=MERGE_PATCH)
    assert answer.status == 200, answer.text


def told(kubectl: Kubectl) -> dict[str, list[str]]:
    """The notes of the Events NotListening, by Pod."""
    notes: dict[str, list[str]] = {}
    for each in kubectl.get("events.events.k8s.io")["items"]:
        if each["reason"] == "NotListening":
            notes.setdefault(each["regarding"]["name"], []).append(each["note"])
    return notes


def test_a_pod_that_is_ready_and_does_not_listen_gets_an_event_and_one_that_listens_gets_none(
    product: Product, plane: ControlPlane, kubectl: Kubectl, node: str
) -> None:
    on_node: dict[str, Any] = {"nodeSelector": {"e2e.hostport.io/case": node}}
    for name, number in (("silent", 24100), ("heard", 24101)):
        asking = hostport(policy="Dynamic", min_port=number, max_port=number)
        kubectl.apply(pod(name, asking, port(8080), **on_node))
    running(kubectl, 2)

    with product.allocator.agent_of(node, 24101, 8080):
        for name in ("silent", "heard"):
            ready(kubectl, plane, name)
        notes = wait_for("an Event NotListening", lambda: told(kubectl), bool, seconds=20)

    (note,) = notes.pop("silent")
    assert f"on node {node} nobody listens on: 24100/TCP, but 8080, its containerPort before, is open there" in note
    assert notes == {}
    listening = {
        each.owner.name: each.ports[0].listening for each in product.allocator.allocations(str(kubectl.namespace))
    }
    assert listening == {"silent": pb.LISTENING_NO, "heard": pb.LISTENING_YES}
    assert "hostport_pods_not_listening 1.0" in product.allocator.metrics()
