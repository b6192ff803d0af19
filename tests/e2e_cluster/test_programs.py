"""Programs that nobody wrote for us, on real nodes: each replica is reached at its node and number, also after a roll."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from e2e.api import Kubectl
from e2e.manifests import hostport, port, workload
from e2e.processes import wait_until

from e2e_cluster.driver import Access
from e2e_cluster.installed import Installed

REPLICAS = 3
SETTLE_SECONDS = 5.0
NAMED = "echo $POD_NAME > /tmp/index.html; exec httpd -f -h /tmp -p "
POD_NAME = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
RANGE: dict[str, Any] = {"policy": "Dynamic", "min_port": 22000, "max_port": 22099}
SYSCTLS = {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]}


@pytest.fixture
def kubectl(access: Access, installed: Installed) -> Iterator[Kubectl]:
    yield access.kubectl.within("default")
    access.kubectl.within("default")("delete", "all", "--all", "--grace-period=1")


def program(
    notes: Mapping[str, str], script: str, *, env: Mapping[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    """A Deployment of an image that serves its Pod's name."""
    made = workload("Deployment", "web", notes, port(8080, "web"), replicas=REPLICAS, pod_spec=spec)
    made["spec"]["template"]["spec"]["containers"][0] |= {
        "image": "busybox:1.37",
        "command": ["sh", "-c"],
        "args": [script],
        "env": [POD_NAME, *({"name": name, "value": value} for name, value in (env or {}).items())],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }
    return made


def said(address: str, number: int) -> str:
    """What is served there; empty where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{address}:{number}/", timeout=2) as answer:
            text: str = answer.read().decode().strip()
            return text
    except OSError:
        return ""


def running(kubectl: Kubectl) -> list[dict[str, Any]]:
    """The Pods that are there to stay."""
    pods = [each for each in kubectl.pods("app=web") if not each["metadata"].get("deletionTimestamp")]
    assert len(pods) == REPLICAS
    return pods


def wrong_answers(kubectl: Kubectl, access: Access) -> list[str]:
    """Numbers at which another Pod answers, or nobody does, asked as a client does."""
    wrong = []
    for each in running(kubectl):
        (only,) = each["spec"]["containers"][0]["ports"]
        name, address = each["metadata"]["name"], access.addresses[each["spec"]["nodeName"]]
        if (answer := said(address, only["hostPort"])) != name:
            wrong.append(f"{address}:{only['hostPort']} of {name}: {answer or 'nobody'}")
    return wrong


@pytest.mark.parametrize(
    "manifest",
    [
        pytest.param(
            program(hostport(**RANGE) | {"hostport.io/publish-web": "env:SERVER_PORT"}, NAMED + "$SERVER_PORT",
                    env={"SERVER_PORT": "8080"}),
            id="an image that knows SERVER_PORT alone",
        ),
        pytest.param(
            program(hostport(network="Pod", **RANGE), NAMED + "8080", securityContext=SYSCTLS),
            id="one that listens on 8080, in a network of its own",
        ),
        pytest.param(program(hostport(rewrite="true", **RANGE), NAMED + "8080"), id="one that is rewritten"),
    ],
)  # fmt: skip
def test_each_replica_is_reached_at_its_node_and_number(
    kubectl: Kubectl, access: Access, manifest: dict[str, Any]
) -> None:
    kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    for roll in range(2):
        if roll:
            kubectl("rollout", "restart", "deployment/web")
        kubectl("rollout", "status", "deployment/web", "--timeout=120s")
        wait_until("replicas to answer", lambda: not wrong_answers(kubectl, access), seconds=60)

        ends = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < ends:
            assert wrong_answers(kubectl, access) == []
