"""Whether the cluster's network forwards host ports: a Pod is made that its own node asks there. Only when asked for.

`hostport.io/network: Pod` rests on it. The Pod has a network of its own and a host port; its readiness probe asks the
node's address at that port, so that the kubelet tells whether somebody answers. It is deleted in any case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hostport_cli.checks.facts import Forwarded
from hostport_cli.exits import CliError
from hostport_cli.kubectl import Kubectl

NUMBER = 29_999
"""Below the NodePorts and the node's own outgoing connections."""

START_SECONDS, ANSWER_SECONDS, PACE = 90.0, 20.0, 1.0
NAME = "hostport-check-forwarding-"


async def forwarded(kubectl: Kubectl, namespace: str, image: str, *, pace: float = PACE) -> Forwarded:
    """What came of it.

    Raises:
        CliError: it could not be tried, and why.

    """
    node, address = _ready_node((await kubectl.get("/api/v1/nodes"))["items"])
    path = f"/api/v1/namespaces/{namespace}/pods"
    made = await kubectl.post(path, probe_pod(node, address, image))
    name = made["metadata"]["name"]
    try:
        answers = await _watched(kubectl, f"{path}/{name}", pace)
    finally:
        await kubectl.run("delete", "pod", name, f"--namespace={namespace}", "--wait=false", "--grace-period=1")
    return Forwarded(node=node, address=f"{address}:{NUMBER}", answers=answers)


def probe_pod(node: str, address: str, image: str) -> dict[str, Any]:
    """A Pod that listens on 8080, and is ready when its node reaches it at the host port."""
    asks = {"httpGet": {"host": address, "port": NUMBER, "path": "/"}, "periodSeconds": 1, "timeoutSeconds": 1}
    container = {
        "name": "listen",
        "image": image,
        "command": ["python3", "-m", "http.server", "8080", "--directory", "/tmp"],  # noqa: S108 - in its own Pod
        "ports": [{"name": "web", "containerPort": 8080, "hostPort": NUMBER, "protocol": "TCP"}],
        "readinessProbe": asks,
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": NAME},
        "spec": {
            "containers": [container],
            "nodeName": node,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        },
    }


def _ready_node(nodes: Sequence[Any]) -> tuple[str, str]:
    """A node that is ready and takes Pods, and its address."""
    for node in nodes:
        status = node.get("status", {})
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or [])
        address = next((each["address"] for each in status.get("addresses") or [] if each["type"] == "InternalIP"), "")
        if ready and address and not node.get("spec", {}).get("unschedulable"):
            return node["metadata"]["name"], address
    raise CliError("no node is ready, takes Pods and has an InternalIP")


async def _watched(kubectl: Kubectl, path: str, pace: float) -> bool:
    """Whether the Pod becomes ready soon after its container runs."""
    loop = asyncio.get_running_loop()
    gives_up = loop.time() + START_SECONDS
    runs_since = None
    while True:
        status = (await kubectl.get(path)).get("status", {})
        if any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or []):
            return True
        if status.get("phase") == "Failed":
            raise CliError(f"the Pod failed: {status.get('reason', '')} {status.get('message', '')}".strip())
        states = [each.get("state", {}) for each in status.get("containerStatuses") or []]
        if runs_since is None and any("running" in state for state in states):
            runs_since = loop.time()
        if runs_since is not None and loop.time() > runs_since + ANSWER_SECONDS:
            return False
        if runs_since is None and loop.time() > gives_up:
            waits = ", ".join(state["waiting"].get("reason", "") for state in states if "waiting" in state)
            raise CliError(f"the Pod did not start within {START_SECONDS:.0f} s{': ' if waits else ''}{waits}")
        await asyncio.sleep(pace)
