"""Services of a live cluster, in both encodings: which numbers they are told to hold, and what a start waits for."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import pytest

from allocator.cluster.kubernetes import SERVICES
from allocator.cluster.objects import parse_service_ports
from allocator.core.claims import ClusterChange
from allocator.core.foreign import NodePort, ObservedService
from allocator.core.ports import Protocol
from cluster.conftest import ENCODINGS, Follow
from testing.apiserver import ApiServer, Fail, Hang, error_event
from testing.observing import Object, Recorder, node, pod

pytestmark = pytest.mark.parametrize("server", ENCODINGS, indirect=True)


def service(name: str, *ports: Object, **spec: Any) -> Object:
    metadata = {"name": name, "namespace": "demo", "uid": f"uid-{name}"}
    return {"kind": "Service", "metadata": metadata, "spec": {"type": "NodePort", "ports": list(ports), **spec}}


def held(name: str, *ports: NodePort) -> ObservedService:
    return ObservedService(namespace="demo", name=name, uid=f"uid-{name}", ports=ports)


def tcp(number: int, *, is_health_check: bool = False) -> NodePort:
    return NodePort(protocol=Protocol.TCP, number=number, is_health_check=is_health_check)


TWO = ({"port": 80, "nodePort": 30080}, {"port": 53, "nodePort": 30053, "protocol": "UDP"})
HELD_TWO = (tcp(30080), NodePort(protocol=Protocol.UDP, number=30053))


async def synced(server: ApiServer, follow: Follow, *services: Object) -> Recorder:
    observer = Recorder()
    server.put("nodes", node("n1"))
    for each in services:
        server.put("services", each)
    await asyncio.wait_for(follow(observer).synced(), 5)
    return observer


async def test_node_ports_are_told_before_the_start_is_over(server: ApiServer, follow: Follow) -> None:
    services = [
        service("web", *TWO),
        service("inner", {"port": 80}, type="ClusterIP"),
        service("edge", {"port": 80, "nodePort": 30081}, type="LoadBalancer", healthCheckNodePort=30082),
        service("alias", type="ExternalName"),
    ]
    observer = await synced(server, follow, *services)

    assert observer.services == {
        ("demo", "web"): held("web", *HELD_TWO),
        ("demo", "edge"): held("edge", tcp(30081), tcp(30082, is_health_check=True)),
    }


async def test_a_service_is_told_when_its_node_ports_change_and_when_it_goes(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow, service("web", *TWO), service("other", {"port": 1, "nodePort": 30001}))
    changes = [
        (service("web", {"port": 80, "nodePort": 30090}), held("web", tcp(30090))),
        (service("web", {"port": 80}, type="ClusterIP"), None),
        (service("web", *TWO), held("web", *HELD_TWO)),
    ]
    for changed, expected in changes:
        server.put("services", changed)
        await observer.until(partial(_is_told, observer, expected), str(expected))

    server.delete("services", "web", "demo")
    await observer.until(lambda: list(observer.services) == [("demo", "other")])


def _is_told(observer: Recorder, expected: ObservedService | None) -> bool:
    return observer.services.get(("demo", "web")) == expected


async def test_a_service_that_a_new_list_lacks_is_gone(server: ApiServer, follow: Follow) -> None:
    server.script("watch services", error_event(410))
    server.put("nodes", node("n1"))
    for each in (service("web", *TWO), service("other", {"port": 1, "nodePort": 30001})):
        server.put("services", each)
    observer = Recorder()
    follow(observer)
    await observer.until(lambda: len(observer.services) == 2)
    server.vanish("services", "web", "demo")
    server.forget()

    await observer.until(lambda: list(observer.services) == [("demo", "other")])


async def test_what_changes_of_a_service_and_is_no_node_port_is_not_told(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow, service("web", *TWO))
    told: list[ObservedService] = []
    observe = observer.observe

    def noting(change: ClusterChange) -> None:
        told.extend(change.services)
        observe(change)

    observer.observe = noting  # type: ignore[method-assign]
    server.put("services", service("web", *TWO, selector={"app": "other"}))
    server.put("services", service("plain", {"port": 80}, type="ClusterIP"))
    server.put("services", service("last", {"port": 80, "nodePort": 30099}))
    await observer.until(lambda: ("demo", "last") in observer.services)

    assert told == [held("last", tcp(30099))]


async def test_services_that_may_not_be_listed_stop_nobody_and_are_told_of(
    server: ApiServer, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    server.script("list services", *[Fail(403, "no right")] * 2)
    server.put("nodes", node("n1"))
    server.put("pods", pod("p", "web:80=8000"))
    server.put("services", service("web", *TWO))
    observer = Recorder()
    with caplog.at_level(logging.WARNING):
        cluster = follow(observer)
        await asyncio.wait_for(cluster.synced(), 5)

    assert list(observer.pods) == ["p"]
    (unseen,) = cluster.unseen()
    assert unseen == (
        "services cannot be followed (RBAC lacks the verb list on services of all namespaces (no right)): numbers that"
        " Services hold are not known, and may be given to Pods"
    )
    await observer.until(lambda: observer.services and not cluster.unseen(), "followed")


async def test_services_that_do_not_answer_are_waited_for(server: ApiServer, follow: Follow) -> None:
    server.script("list services", Hang())
    server.put("nodes", node("n1"))
    cluster = follow(Recorder())

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(cluster.synced(), 0.3)


MALFORMED = {
    "a number that is none": {"port": 80, "nodePort": 70000},
    "a negative number": {"port": 80, "nodePort": -1},
    "a protocol that is none": {"port": 80, "nodePort": 30080, "protocol": "ICMP"},
}


@pytest.mark.parametrize("port", MALFORMED.values(), ids=MALFORMED)
async def test_a_service_that_makes_no_sense_keeps_what_was_known_of_it(
    server: ApiServer, follow: Follow, port: Object, caplog: pytest.LogCaptureFixture
) -> None:
    observer = await synced(server, follow, service("web", *TWO))
    server.put("services", service("web", port))
    server.put("services", service("last", {"port": 80, "nodePort": 30099}))
    await observer.until(lambda: ("demo", "last") in observer.services)

    assert observer.services["demo", "web"] == held("web", *HELD_TWO)
    assert "a Service cannot be read: demo/web" in caplog.text


def test_a_service_of_a_file_is_read_as_one_of_an_api_server(server: None) -> None:
    assert parse_service_ports(service("web", *TWO)) == held("web", *HELD_TWO)
    assert SERVICES.noun == "services"
