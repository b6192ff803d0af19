"""Services of type NodePort beside Pods with host ports: what each side gets, and what people are told.

The API server knows no host ports. So a Pod that comes after the Service steps aside, and a Service that comes after the
Pod is accepted, and told of.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from e2e.api import Kubectl
from e2e.manifests import hostport, numbers, pod, port
from e2e.processes import wait_for, wait_until
from e2e.product import Product
from e2e.seen import running

pytestmark = pytest.mark.workloads


def service(name: str, number: int, *, protocol: str = "TCP", **spec: Any) -> dict[str, Any]:
    ports = [{"port": 80, "nodePort": number, "protocol": protocol}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"type": "NodePort", "ports": ports, **spec},
    }


def is_held_by(product: Product, number: int, *names: str) -> bool:
    return product.allocator.foreign("n1", number) == list(names)


def test_a_pod_that_comes_after_the_service_steps_aside(product: Product, kubectl: Kubectl, namespace: str) -> None:
    kubectl.apply(service("web", 31700))
    wait_until("the allocator to know the Service", partial(is_held_by, product, 31700, "web"))

    static = pod("fixed", hostport(policy="Static"), port(80, hostPort=31700))
    indexed = pod("db-0", hostport(policy="Index", min_port=31700, max_port=31710), port(80))
    for asking in (static, indexed):
        run = kubectl.try_apply(asking)
        assert run.stderr.startswith("Error from server (HELD_BY_SERVICE)"), run.stderr
        assert f"31700/TCP is held on every node by Service {namespace}/web (node port)" in run.stderr

    kubectl.apply(pod("chosen", hostport(policy="Dynamic", min_port=31700, max_port=31701), port(80)))
    (chosen,) = running(kubectl, 1)
    assert numbers(chosen) == [31701]

    kubectl("delete", "service", "web")
    wait_until("the number to be free", partial(is_held_by, product, 31700))
    kubectl.apply(static)
    assert {tuple(numbers(each)) for each in running(kubectl, 2)} == {(31700,), (31701,)}


def test_a_service_that_comes_after_the_pod_is_told_with_it(product: Product, kubectl: Kubectl, namespace: str) -> None:
    kubectl.apply(pod("game", hostport(policy="Static"), port(80, hostPort=31710)))
    kubectl.apply(pod("mapped", hostport(policy="Static", network="Pod"), port(80, hostPort=31711)))
    running(kubectl, 2)

    kubectl.apply(service("late", 31710), service("later", 31711))  # the API server knows no host ports
    for name, taker, number in (("game", "late", 31710), ("mapped", "later", 31711)):
        of_pod, of_service = told(kubectl, f"pod/{name}"), told(kubectl, f"service/{taker}")
        assert f"{number}/TCP of this Pod is held by Service {namespace}/{taker} (node port) as well" in of_pod
        assert f"node port {number}/TCP is the host port of Pod {namespace}/{name} on node" in of_service

    assert conflicts(product, namespace) == {"game": "late", "mapped": "later"}
    assert [each["status"]["phase"] for each in kubectl.pods()] == ["Running", "Running"], "who has it keeps it"

    kubectl("patch", "service", "late", "--type=merge", "-p", '{"spec":{"ports":[{"port":80,"nodePort":31712}]}}')
    kubectl("delete", "service", "later")
    wait_for("the conflicts to end", lambda: conflicts(product, namespace), lambda found: found == {})


def told(kubectl: Kubectl, what: str) -> str:
    """The Events of an object in one line, once there is one of a conflict."""
    events = wait_for(
        f"an Event NodePortConflict of {what}",
        lambda: kubectl("describe", what).stdout.partition("\nEvents:")[2],
        lambda shown: "NodePortConflict" in shown,
        seconds=15,
    )
    return " ".join(events.split())


def conflicts(product: Product, namespace: str) -> dict[str, str]:
    """The Service that holds a port of a Pod, by the Pod's name."""
    return {
        each.owner.name: port.conflict.name
        for each in product.allocator.allocations(namespace)
        for port in each.ports
        if port.HasField("conflict")
    }
