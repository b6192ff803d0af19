"""Objects that no API server would keep, which only JSON can carry: what is known stays known."""

from __future__ import annotations

import pytest

from cluster.conftest import Follow
from cluster.test_kubernetes import synced
from testing.apiserver import ApiServer
from testing.observing import Recorder, node, pod

pytestmark = pytest.mark.parametrize("server", ["JSON"], indirect=True)


async def test_an_object_that_makes_no_sense_spoils_nothing_else(
    server: ApiServer, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    bad = pod("bad", "web:80=8000")
    bad["spec"]["containers"] = "none"
    observer = await synced(server, follow, pod("good", "web:80=8000"), bad, pod("fine", "web:80=8000"))
    server.put("pods", {**bad, "spec": {"containers": [{"ports": [{"hostPort": 1e9}]}]}})
    server.put("pods", pod("later", "web:80=8000"))
    await observer.has_pods("good", "fine", "later")

    assert "a Pod cannot be read: demo/bad" in caplog.text


async def test_a_known_pod_that_makes_no_sense_keeps_what_it_has(server: ApiServer, follow: Follow) -> None:
    bad = {"metadata": {"name": "p", "namespace": "demo", "uid": "p"}, "spec": {"containers": {"no": "list"}}}
    observer = await synced(server, follow, bad, observer=Recorder("p"))

    assert list(observer.pods) == ["p"]
    server.delete("pods", "p", "demo")
    await observer.has_pods()


async def test_a_node_that_makes_no_sense_keeps_what_it_had(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow)
    server.put("nodes", {"metadata": {"name": "n1", "labels": ["no", "map"]}})
    server.put("nodes", {"metadata": {"name": "odd", "labels": ["no", "map"]}})
    server.put("nodes", node("n3"))
    await observer.until(lambda: sorted(observer.nodes) == ["n1", "n2", "n3"])
