"""Node ports of Services on real nodes, where kube-proxy takes what is sent to them before any Pod does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e.api import Kubectl
from e2e.manifests import hostport, numbers, pod, port
from e2e.processes import wait_for

from e2e_cluster.driver import Access
from e2e_cluster.installed import Installed
from e2e_cluster.test_cli import hostport as command_line
from e2e_cluster.test_node import ONE, OTHER, STATIC, on_nodes, preview

PROMPT = 15.0
"""Seconds until the allocator has seen a Service, and told of it."""

IN_NODE_PORTS = hostport(policy="Dynamic", min_port=31080, max_port=31089)


@pytest.fixture
def kubectl(access: Access, installed: Installed) -> Iterator[Kubectl]:
    yield access.kubectl.within("default")
    access.kubectl.within("default")("delete", "pod/game", "service/before", "service/after", "--ignore-not-found")


def node_port(kubectl: Kubectl, name: str, number: int) -> None:
    """Makes a Service that kube-proxy serves with a number of every node."""
    spec = {"type": "NodePort", "selector": {"app": name}, "ports": [{"port": 80, "nodePort": number}]}
    kubectl.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})


def told_of_conflict(kubectl: Kubectl, what: str) -> str:
    """The Events of an object, once one of them tells of a conflict with a node port."""
    events = wait_for(
        f"an Event NodePortConflict of {what}",
        lambda: kubectl("describe", what).stdout.partition("\nEvents:")[2],
        lambda shown: "NodePortConflict" in shown,
        seconds=PROMPT,
    )
    return " ".join(events.split())


def conflicts(installed: Installed) -> float:
    return installed.metric("hostport_node_port_conflicts")


def test_a_pod_that_comes_after_the_node_port_of_a_service_steps_aside(kubectl: Kubectl) -> None:
    node_port(kubectl, "before", 31080)

    wait_for(
        "Dynamic to skip it", lambda: numbers(preview(kubectl, IN_NODE_PORTS, 0, ONE)), lambda got: got == [31081],
        seconds=PROMPT,
    )  # fmt: skip
    refused = preview(kubectl, STATIC, 31080, ONE, OTHER)["refused"]
    assert "31080/TCP is held on every node by Service default/before (node port)" in refused


def test_a_service_that_comes_after_the_pod_is_told_with_it(
    access: Access, kubectl: Kubectl, installed: Installed
) -> None:
    game = pod("game", STATIC, port(80, "game", hostPort=31085), **on_nodes(ONE))
    game["spec"]["containers"][0] |= {"image": "busybox:1.37", "command": ["httpd", "-f", "-h", "/tmp", "-p", "31085"]}
    kubectl.apply(game)
    kubectl("wait", "pod/game", "--for=condition=Ready", "--timeout=60s")
    node_port(kubectl, "after", 31085)

    taken = "31085/TCP of this Pod is held by Service default/after (node port) as well"
    assert taken in told_of_conflict(kubectl, "pod/game")
    holder = f"node port 31085/TCP is the host port of Pod default/game on node {ONE}"
    assert holder in told_of_conflict(kubectl, "service/after")
    (row,) = [
        line
        for line in command_line(access, "list", "-n", "default").stdout.splitlines()
        if line.startswith("Pod/game ")
    ]
    assert "conflict" in row
    assert conflicts(installed) == 1

    kubectl("delete", "service", "after")
    wait_for("the conflict to end", lambda: conflicts(installed), lambda count: count == 0, seconds=PROMPT)
