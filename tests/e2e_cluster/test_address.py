"""On real nodes the first process of a Pod finds where clients dial its node, and without a webhook it starts all the same."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from e2e.api import Kubectl
from e2e.manifests import hostport, pod, port, workload
from e2e.processes import wait_for, wait_until

from e2e_cluster.driver import Access
from e2e_cluster.installed import SHIM, Installed, is_ready

NAMESPACE, LABEL = "addressed", "hostport.io/external-address"
IP = "hostport.io/external-ip"
PODS = 50
RANGE: dict[str, Any] = {"policy": "Dynamic", "min_port": 22300, "max_port": 22399}
SERVES = 'echo "address:$HOSTPORT_EXTERNAL_IP" > /tmp/index.html; exec httpd -f -h /tmp -p $HOSTPORT_WEB'
CONTAINER = {"image": "busybox:1.37", "command": ["sh", "-c"], "args": [SERVES]}
GATED = {"schedulingGates": [{"name": "example.com/later"}]}


@pytest.fixture
def kubectl(access: Access, installed: Installed) -> Iterator[Kubectl]:
    """A namespace with the label, once the allocator knows it."""
    labels = {LABEL: "true", "pod-security.kubernetes.io/enforce": "privileged"}
    access.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    kubectl = access.kubectl.within(NAMESPACE)
    wait_for(
        "the allocator to know the label",
        lambda: kubectl.try_apply(serving("probe"), options=["--dry-run=server", "-o", "json"]),
        lambda run: run.code == 0 and "HOSTPORT_EXTERNAL_IP" in str(run.json["spec"]["containers"]),
        seconds=60,
    )
    yield kubectl
    access.kubectl("delete", "namespace", NAMESPACE)


def serving(name: str, **spec: Any) -> dict[str, Any]:
    """A Pod that serves what its first process found."""
    made = pod(name, hostport(**RANGE), port(8080, "web"), **spec)
    made["spec"]["containers"][0] |= CONTAINER
    return made


def said(access: Access, each: dict[str, Any]) -> str:
    """What a Pod serves at its number."""
    (only,) = each["spec"]["containers"][0]["ports"]
    address = access.addresses[each["spec"]["nodeName"]]
    with urllib.request.urlopen(f"http://{address}:{only['hostPort']}/", timeout=5) as answer:
        text: str = answer.read().decode().strip()
        return text


def internal_addresses(access: Access) -> dict[str, str]:
    """What each Node names, by its name."""
    return {
        each["metadata"]["name"]: next(a["address"] for a in each["status"]["addresses"] if a["type"] == "InternalIP")
        for each in access.kubectl.get("nodes")["items"]
    }


def test_the_first_process_of_every_pod_has_the_address_of_its_node(access: Access, kubectl: Kubectl) -> None:
    made = workload("Deployment", "web", hostport(**RANGE), port(8080, "web"), replicas=PODS)
    made["spec"]["template"]["spec"]["containers"][0] |= CONTAINER
    kubectl.apply(made)
    wait_until("all to be Ready", lambda: sum(map(is_ready, kubectl.pods("app=web"))) == PODS, seconds=240)
    addresses = internal_addresses(access)

    wrong = [
        (each["metadata"]["name"], said(access, each))
        for each in kubectl.pods("app=web")
        if said(access, each) != f"address:{addresses[each['spec']['nodeName']]}"
    ]
    assert wrong == []


def test_with_the_webhook_down_pods_start_all_the_same(access: Access, installed: Installed, kubectl: Kubectl) -> None:
    """They were admitted before; when they get their nodes nobody answers."""
    kubectl.apply(*(serving(f"late-{n}", **GATED) for n in range(3)))
    replicas = installed.kubectl.get("deployment", SHIM)["spec"]["replicas"]
    installed.kubectl("scale", f"deployment/{SHIM}", "--replicas=0")
    try:
        shims = ("get", "pods", "-l", f"app.kubernetes.io/name={SHIM}", "-o", "name")
        wait_until("the last shim to be gone", lambda: not installed.kubectl(*shims).stdout.strip(), seconds=120)
        ungated = json.dumps([{"op": "remove", "path": "/spec/schedulingGates"}])
        for n in range(3):
            kubectl("patch", "pod", f"late-{n}", "--type=json", "-p", ungated)
        wait_until(
            "them to be Ready",
            lambda: all(is_ready(kubectl.get("pod", f"late-{n}")) for n in range(3)),
            seconds=120,
        )
    finally:
        installed.kubectl("scale", f"deployment/{SHIM}", f"--replicas={replicas}")
        installed.wait_until_settled(seconds=120)

    late = [kubectl.get("pod", f"late-{n}") for n in range(3)]
    assert [said(access, each) for each in late] == ["address:"] * 3
    assert [each["metadata"]["annotations"].get(IP) for each in late] == [None] * 3
