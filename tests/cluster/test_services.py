"""Services of a live cluster, in both encodings: which numbers they are told to hold, and what a start waits for."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import pytest

from allocator.cluster import kubernetes
from allocator.cluster.client import ApiClient
from allocator.cluster.kubernetes import NODES, SERVICES, KubernetesCluster
from allocator.cluster.objects import parse_service_ports
from allocator.cluster.reflector import WatchTuning
from allocator.core.claims import ClusterChange
from allocator.core.foreign import NodePort, ObservedService, ServiceName
from allocator.core.ports import Protocol
from cluster.conftest import ENCODINGS, Follow
from testing.apiserver import ApiServer, Fail, Halved, Hang, error_event
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


async def test_services_that_cannot_be_followed_for_a_minute_are_told_of(server: ApiServer, follow: Follow) -> None:
    server.put("nodes", node("n1"))
    clock = [1000.0]
    server.script("watch services", *[Fail(500, "broken")] * 50)
    cluster = follow(Recorder(), now=lambda: clock[0])
    await asyncio.wait_for(cluster.synced(), 5)
    while server.count("watch services") < 3:
        await asyncio.sleep(0.005)

    clock[0] += 59.0
    assert cluster.unseen() == []
    clock[0] += 1.0
    (unseen,) = cluster.unseen()
    assert unseen == (
        "services cannot be followed (500 R: broken): numbers that Services took meanwhile are not known, and may be"
        " given to Pods"
    )
    server.scripts["watch services"].clear()
    server.put("services", service("web", *TWO))
    while cluster.unseen():
        await asyncio.sleep(0.005)


async def test_a_watch_of_services_that_hangs_is_noticed_sooner_than_others(
    server: ApiServer, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gets a bookmark before its end, and nothing proves one of Services current."""
    asked: dict[str, tuple[str, float]] = {}
    stream = ApiClient.stream

    def noting(self: ApiClient, path: str, params: dict[str, str], silence: float, *, accept: str) -> Any:
        if "watch" in params and path in {SERVICES.path, NODES.path}:
            asked[path] = params["timeoutSeconds"], silence
        return stream(self, path, params, silence, accept=accept)

    monkeypatch.setattr(ApiClient, "stream", noting)
    server.put("nodes", node("n1"))
    follow(Recorder(), tuning=WatchTuning())
    while len(asked) < 2:
        await asyncio.sleep(0.005)

    assert asked == {SERVICES.path: ("30", 45.0), NODES.path: ("300", 90.0)}


# -- a look at some, while their watch hangs


WEB = ("demo", "web")


async def hanging(server: ApiServer, follow: Follow) -> tuple[KubernetesCluster, Recorder]:
    """A view that knows of `web`, and to which the watch of Services tells nothing more."""
    server.script("watch services", Hang())
    server.put("nodes", node("n1"))
    server.put("services", service("web", *TWO))
    observer = Recorder()
    cluster = follow(observer, tuning=WatchTuning())
    await asyncio.wait_for(cluster.synced(), 5)
    return cluster, observer


@pytest.mark.parametrize(
    ("ports", "known"),
    [
        pytest.param(None, {}, id="it has gone"),
        pytest.param([], {}, id="it holds nothing any more"),
        pytest.param([{"port": 80, "nodePort": 30090}], {WEB: held("web", tcp(30090))}, id="it holds another number"),
        pytest.param(TWO, {WEB: held("web", *HELD_TWO)}, id="it is there as it was"),
        pytest.param([{"port": 80, "nodePort": -1}], {WEB: held("web", *HELD_TWO)}, id="it makes no sense"),
    ],
)
async def test_a_look_tells_what_a_service_holds(
    server: ApiServer, follow: Follow, ports: list[Object] | None, known: dict[ServiceName, ObservedService]
) -> None:
    cluster, observer = await hanging(server, follow)
    if ports is None:
        server.delete("services", "web", "demo")
    else:
        server.put("services", service("web", *ports))

    assert await cluster.look_up_services([WEB], "demo")
    assert observer.services == known
    assert server.count("look up services demo/web") == 1


@pytest.mark.parametrize("fault", [Fail(403), Fail(500), Hang()], ids=["no right", "an error", "no answer"])
async def test_a_look_that_fails_leaves_what_is_known(server: ApiServer, follow: Follow, fault: Fail | Hang) -> None:
    cluster, observer = await hanging(server, follow)
    server.delete("services", "web", "demo")
    server.script("look up services", fault)

    assert not await cluster.look_up_services([WEB], "demo")
    assert observer.services == {WEB: held("web", *HELD_TWO)}


async def test_what_the_watch_told_meanwhile_stands_against_what_a_look_found(
    server: ApiServer, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a Service that has gone would hold its number until something is listed anew."""
    monkeypatch.setattr(kubernetes, "LOOK_SECONDS", 30.0)
    observer, go = Recorder(), asyncio.Event()
    server.put("nodes", node("n1"))
    server.put("services", service("web", *TWO))
    cluster = follow(observer)
    await asyncio.wait_for(cluster.synced(), 5)
    server.script("look up services", Halved(go))

    found = asyncio.create_task(cluster.look_up_services([WEB], "demo"))
    while not server.count("look up services"):
        await asyncio.sleep(0.005)
    server.delete("services", "web", "demo")
    await observer.until(lambda: not observer.services)
    go.set()

    assert await found
    assert observer.services == {}


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
