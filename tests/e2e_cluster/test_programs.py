"""Programs that nobody wrote for us, on real nodes: each replica is reached at its node and number, also after a roll."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pytest
from e2e.api import Kubectl
from e2e.manifests import hostport, port, workload
from e2e.processes import wait_for, wait_until

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
    access.kubectl.within("default")("delete", "all,networkpolicies", "--all", "--grace-period=1")


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


IMAGE = "localhost/hostport-operator-allocator:e2e"
ECHO = """
import os, socket, threading
name = os.environ["POD_NAME"].encode()
def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind(("", 8080))
        while True:
            door.sendto(name, door.recvfrom(99)[1])
threading.Thread(target=udp, daemon=True).start()
with socket.create_server(("", 8080)) as door:
    while True:
        with door.accept()[0] as client:
            client.sendall(name)
"""
BOTH = (port(8080, "game", "UDP"), port(8080, "query", "TCP"))
POLICY: dict[str, Any] = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "echo"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "echo"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"protocol": "TCP", "port": 8080}]}],
    },
}
BY_NUMBER: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "echo"},
    "spec": {"selector": {"app": "echo"}, "ports": [{"port": 80, "targetPort": 8080}]},
}


def echo(replicas: int = 1, **spec: Any) -> dict[str, Any]:
    """A Deployment of a program that says its Pod's name at 8080, by TCP and by UDP."""
    made = workload("Deployment", "echo", hostport(network="Pod", **RANGE), *BOTH, replicas=replicas, pod_spec=spec)
    made["spec"]["template"]["spec"]["containers"][0] |= {
        "image": IMAGE,
        "command": ["python3", "-c", ECHO],
        "env": [POD_NAME],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }
    return made


def echoed(protocol: str, address: str, number: int) -> str:
    """Who answers there; empty where nobody does."""
    kind = socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM
    try:
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(2)
            client.connect((address, number))
            if protocol == "UDP":
                client.send(b"?")
            return client.recv(99).decode()
    except OSError:
        return ""


def all_echo(protocol: str, address: str, numbers: Mapping[str, int]) -> bool:
    """Whether each Pod answers at its number, by name."""
    return all(echoed(protocol, address, number) == name for name, number in numbers.items())


def test_replicas_on_one_node_answer_by_tcp_and_udp_in_networks_of_their_own(kubectl: Kubectl, access: Access) -> None:
    """With a sysctl that hostNetwork forbids, a NetworkPolicy, and a Service that sends to the number of the program."""
    node = access.nodes[0]
    sysctls = {"sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "20000 60999"}]}
    kubectl.apply(POLICY, BY_NUMBER, echo(2, nodeSelector={"kubernetes.io/hostname": node}, securityContext=sysctls))
    kubectl("rollout", "status", "deployment/echo", "--timeout=120s")

    pods = kubectl.pods("app=echo")
    numbers = {each["metadata"]["name"]: hosted(each) for each in pods}
    assert {each["spec"]["nodeName"] for each in pods} == {node}
    assert len(set(numbers.values())) == 2
    address = access.addresses[node]
    for protocol in ("TCP", "UDP"):
        wait_until(f"both to answer by {protocol}", partial(all_echo, protocol, address, numbers))

    assert behind(kubectl, "echo") == {(each["status"]["podIP"], 8080) for each in pods}
    assert all(echoed("TCP", *each) for each in behind(kubectl, "echo"))
    assert kubectl.get("networkpolicy", "echo")["spec"] == POLICY["spec"]
    assert [each["targetPort"] for each in kubectl.get("service", "echo")["spec"]["ports"]] == [8080]
    assert "SERVICE_OLD_PORT" not in kubectl("get", "events").stdout


def hosted(stored: dict[str, Any]) -> int:
    """The one host port of a Pod that keeps its own network."""
    ports = stored["spec"]["containers"][0]["ports"]
    assert {each["containerPort"] for each in ports} == {8080}
    (number,) = {each["hostPort"] for each in ports}
    return int(number)


def behind(kubectl: Kubectl, service: str) -> set[tuple[str, int]]:
    """Address and number of each endpoint of a Service, as DNS makes its SRV records."""
    slices = kubectl.get("endpointslices", "-l", f"kubernetes.io/service-name={service}")["items"]
    return {
        (address, each["port"])
        for one in slices
        for each in one.get("ports") or ()
        for endpoint in one.get("endpoints") or ()
        for address in endpoint["addresses"]
    }


def test_a_pod_with_users_of_its_own_answers(kubectl: Kubectl, access: Access) -> None:
    kubectl.apply(echo(hostUsers=False))

    def state() -> str:
        (found,) = kubectl.pods("app=echo")
        ready = [each["status"] for each in found["status"].get("conditions", ()) if each["type"] == "Ready"]
        said = [
            each["message"] for each in kubectl.get("events")["items"] if each["reason"] == "FailedCreatePodSandBox"
        ]
        return "ready" if ready == ["True"] else (said[-1] if said else "")

    if (seen := wait_for("the Pod, or why not", state, bool, seconds=60)) != "ready":
        pytest.skip(f"this machine has no user namespaces for Pods: {seen[:300]}")
    (stored,) = kubectl.pods("app=echo")
    assert stored["spec"]["hostUsers"] is False
    assert echoed("UDP", access.addresses[stored["spec"]["nodeName"]], hosted(stored)) == stored["metadata"]["name"]


def test_a_client_finds_each_replica_by_a_headless_service_with_a_named_port(kubectl: Kubectl, access: Access) -> None:
    """What a lookup of SRV records `_web._tcp.web` is made of; each leads to the Pod's own number on its node."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {
            "clusterIP": "None",
            "selector": {"app": "web"},
            "ports": [{"name": "web", "port": 8080, "targetPort": "web"}],
        },
    }
    notes = hostport(**RANGE) | {"hostport.io/publish-web": "env:SERVER_PORT"}
    kubectl.apply(service, program(notes, NAMED + "$SERVER_PORT", env={"SERVER_PORT": "8080"}))
    kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    pods = running(kubectl)
    expected = {
        (access.addresses[each["spec"]["nodeName"]], each["spec"]["containers"][0]["ports"][0]["hostPort"])
        for each in pods
    }

    found = wait_for("each replica", lambda: behind(kubectl, "web"), lambda seen: seen == expected, seconds=30)

    assert {said(*each) for each in found} == {each["metadata"]["name"] for each in pods}
