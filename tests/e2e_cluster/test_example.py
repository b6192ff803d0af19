"""What the README promises, on real nodes: Pods run on the host's network, and a client reaches their numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from e2e.api import Https, Kubectl
from e2e.manifests import hostport, pod, port
from e2e.processes import wait_until

from e2e_cluster.driver import Access
from e2e_cluster.installed import Installed

LISTEN = "exec httpd -f -h /tmp -p $(HOSTPORT_WEB)"


def answers(address: str, number: int) -> bool:
    """Any HTTP answer will do: what the example serves is empty."""
    try:
        Https(f"http://{address}:{number}").ask("GET", "/", timeout=2)
    except OSError:
        return False
    return True


def numbers(pod: dict[str, Any]) -> dict[str, int]:
    ports = pod["spec"]["containers"][0]["ports"]
    assert all(port["containerPort"] == port["hostPort"] for port in ports)
    return {port["name"]: port["hostPort"] for port in ports}


@pytest.fixture
def kubectl(access: Access, installed: Installed) -> Iterator[Kubectl]:
    yield access.kubectl.within("default")
    access.kubectl.within("default")("delete", "all", "--all", "--grace-period=1")


def test_the_example_runs_on_the_hosts_network_and_a_client_reaches_it(
    kubectl: Kubectl, access: Access, installed: Installed
) -> None:
    kubectl("apply", "-f", str(installed.clone / "examples" / "distributed-db.yaml"))
    kubectl("rollout", "status", "statefulset/distributed-db", "--timeout=60s")
    pods = kubectl.pods("app=distributed-db")

    assert {each["metadata"]["name"]: numbers(each) for each in pods} == {
        "distributed-db-0": {"primary": 10000, "metrics": 10100},
        "distributed-db-1": {"primary": 10001, "metrics": 10101},
        "distributed-db-2": {"primary": 10002, "metrics": 10102},
    }
    for each in pods:
        address = access.addresses[each["spec"]["nodeName"]]
        assert each["spec"]["hostNetwork"] is True
        assert each["status"]["podIP"] == address
        assert answers(address, numbers(each)["primary"])
        assert answers(address, numbers(each)["metrics"])
        said = kubectl("exec", each["metadata"]["name"], "--", "sh", "-c", "echo $HOSTPORT_PRIMARY $HOSTPORT_HOST_IP")
        assert said.stdout.split() == [str(numbers(each)["primary"]), address]


def test_pods_with_one_number_run_on_a_node_each_and_one_more_is_refused_by_name(
    kubectl: Kubectl, access: Access
) -> None:
    def asking(name: str) -> dict[str, Any]:
        wanted = pod(name, hostport(policy="Static"), {"name": "web", **port(80), "hostPort": 21000})
        wanted["spec"]["containers"][0] |= {"image": "busybox:1.37", "command": ["sh", "-c"], "args": [LISTEN]}
        return wanted

    names = [f"on-{node}" for node in access.nodes]
    for name in names:
        kubectl("create", "-f", "-", stdin=json.dumps(asking(name)))
    kubectl("wait", "--for=condition=Ready", *(f"pod/{name}" for name in names), "--timeout=60s")
    refused = kubectl.run("create", "-f", "-", stdin=json.dumps(asking("one-more")))

    assert {each["spec"]["nodeName"] for each in kubectl.pods()} == set(access.nodes)
    for address in access.addresses.values():
        wait_until(f"{address}:21000", lambda address=address: answers(address, 21000))  # type: ignore[misc]
    assert refused.code != 0
    assert "21000" in refused.stderr
    assert any(f"default/{name}" in refused.stderr for name in names)
