"""What people see with kubectl: Events on Pods and on their owners, and what the scheduler itself says."""

from __future__ import annotations

import json
from functools import partial

import pytest

from e2e.api import MERGE_PATCH, Kubectl
from e2e.control_plane import ControlPlane
from e2e.manifests import hostport, pod, port, workload
from e2e.processes import wait_for, wait_until
from e2e.product import Product
from e2e.seen import running

pytestmark = pytest.mark.workloads

GATED = {"schedulingGates": [{"name": "e2e.hostport.io/later"}]}


def on(node: str) -> dict[str, dict[str, str]]:
    return {"nodeSelector": {"e2e.hostport.io/case": node}}


def described(kubectl: Kubectl, what: str, reason: str) -> str:
    """What `kubectl describe` shows below Events, once there is one for the reason."""
    return wait_for(
        f"an Event {reason} of {what}",
        lambda: kubectl("describe", what).stdout.partition("\nEvents:")[2],
        lambda shown: reason in shown,
        seconds=15,
    )


def test_a_denial_is_found_at_the_owner_of_the_pod(kubectl: Kubectl, node: str) -> None:
    asking = hostport(policy="Dynamic", min_port=24000, max_port=24000)
    kubectl.apply(workload("Deployment", "web", asking, port(80), replicas=2, pod_spec=on(node)))
    running(kubectl, 1)
    owner = kubectl.get("replicasets")["items"][0]["metadata"]["name"]

    shown = described(kubectl, f"replicaset/{owner}", "Denied")

    assert "hostport.io/allocator" in shown
    assert "RANGE_EXHAUSTED" in shown
    assert "24000-24000" in shown
    denials = [each for each in kubectl.get("events")["items"] if each["reason"] == "Denied"]
    assert len(denials) == 1, "repetitions are counted, not written one by one"


def test_a_pod_whose_port_an_outsider_takes_is_told(kubectl: Kubectl, node: str) -> None:
    kubectl.apply(pod("web-0", hostport(policy="Static"), port(80, hostPort=24010), **on(node)))
    running(kubectl, 1)

    kubectl.apply(pod("outsider", {}, port(80, hostPort=24010), nodeName=node))

    shown = described(kubectl, "pod/web-0", "ExternalConflict")
    assert f"24010/TCP on node {node} is held by Pod {kubectl.namespace}/outsider as well" in " ".join(shown.split())
    assert "ExternalConflict" not in kubectl("describe", "pod/outsider").stdout


def test_a_pod_that_has_lost_its_last_node_is_told(kubectl: Kubectl, node: str) -> None:
    asking = pod("waiting", hostport(policy="Static"), port(80, hostPort=24020), **on(node), **GATED)
    kubectl.apply(asking)

    kubectl.apply(pod("outsider", {}, port(80, hostPort=24020), nodeName=node))

    assert "24020/TCP of this Pod is free on none of the nodes" in " ".join(
        described(kubectl, "pod/waiting", "Unplaceable").split()
    )


def test_a_pod_that_the_kubelet_refuses_is_told_who_is_in_its_way(
    plane: ControlPlane, kubectl: Kubectl, node: str, product: Product
) -> None:
    kubectl.apply(pod("web-0", hostport(policy="Static"), port(80, hostPort=24030), **on(node)))
    running(kubectl, 1)
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/web-0/status"
    refusal = {"status": {"phase": "Failed", "reason": "NodePorts", "message": "Pod was rejected"}}

    plane.api.ask("PATCH", path, refusal, content_type=MERGE_PATCH)

    shown = " ".join(described(kubectl, "pod/web-0", "PortsRefused").split())
    assert f"the kubelet of node {node} refused this Pod for want of 24030/TCP" in shown
    assert "nobody holds it there as far as the HostPort Operator can see" in shown
    assert 'hostport_port_rejections_total{by="kubelet",explained="false"} 1.0' in product.allocator.metrics()


def test_what_the_scheduler_says_of_a_pod_that_waits_is_explained(
    kubectl: Kubectl, node: str, product: Product
) -> None:
    """Nobody is outside the books here: the Pod waits, and nothing is reported."""
    kubectl.apply(pod("outsider", {}, port(80, hostPort=24040), **on(node)))
    running(kubectl, 1)
    patient = hostport(policy="Dynamic", min_port=24040, max_port=24040, when_full="Pending")

    def explained() -> float:
        lines = product.allocator.metrics().splitlines()
        name = 'hostport_port_rejections_total{by="scheduler",explained="true"} '
        return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = explained()
    kubectl.apply(pod("patient", patient, port(80), **on(node)))

    wait_until("the scheduler's word to be counted", lambda: explained() > before)
    assert "PortsRefused" not in kubectl("describe", "pod/patient").stdout


def test_one_story_is_told_by_both_logs(product: Product, kubectl: Kubectl) -> None:
    kubectl.apply(pod("web-0", hostport(policy="Dynamic", min_port=24050, max_port=24059), port(80)))
    stored = kubectl.get("pod", "web-0")
    allocation_id = stored["metadata"]["annotations"]["hostport.io/allocation-id"]

    def lines(program: str) -> list[dict[str, object]]:
        text = (product.plane.logs / f"{program}.log").read_text(encoding="utf-8")
        return [line for each in text.splitlines() if (line := json.loads(each)).get("allocation_id") == allocation_id]

    shim, allocator = (
        wait_for(f"the line of the {program}", partial(lines, program), bool)[0] for program in ("shim", "allocator")
    )
    assert (shim["message"], allocator["message"]) == ("admission", "allocate")
    for line in (shim, allocator):
        assert (line["namespace"], line["name"], line["numbers"]) == (kubectl.namespace, "web-0", [24050])
    assert shim["request_id"] == allocator["request_id"] != ""
    assert (shim["result"], allocator["result"]) == ("patched", "granted")
