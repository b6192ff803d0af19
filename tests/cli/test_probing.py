"""Whether the network forwards host ports, as `hostport check --probe-hostport` finds out, with a kubectl that is told."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any, cast

import pytest

from hostport_cli.checks import probing
from hostport_cli.checks.facts import Forwarded
from hostport_cli.checks.probing import forwarded
from hostport_cli.exits import CliError
from hostport_cli.kubectl import Kubectl

READY = [{"type": "Ready", "status": "True"}]
RUNS: dict[str, Any] = {"containerStatuses": [{"state": {"running": {}}}]}
PULLS: dict[str, Any] = {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]}


def node(name: str, *, ready: bool = True, **spec: Any) -> dict[str, Any]:
    status = {"conditions": READY if ready else [], "addresses": [{"type": "InternalIP", "address": f"10.0.0.{name}"}]}
    return {"metadata": {"name": name}, "spec": spec, "status": status}


class Cluster:
    """Nodes, and what becomes of the Pod, step by step; the last for ever."""

    def __init__(self, nodes: list[dict[str, Any]], *statuses: dict[str, Any]) -> None:
        self._nodes = nodes
        self._statuses: Iterator[dict[str, Any]] = chain(statuses, repeat(statuses[-1] if statuses else {}))
        self.made: list[dict[str, Any]] = []
        self.ran: list[tuple[str, ...]] = []

    async def get(self, path: str) -> Any:
        return {"items": self._nodes} if path == "/api/v1/nodes" else {"status": next(self._statuses)}

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        assert path == "/api/v1/namespaces/demo/pods"
        self.made.append(body)
        return {"metadata": {"name": "probe-x"}}

    async def run(self, *arguments: str) -> str:
        self.ran.append(arguments)
        return ""


async def probed(cluster: Cluster) -> Forwarded:
    return await forwarded(cast("Kubectl", cluster), "demo", "shim:1", pace=0.001)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "START_SECONDS", 0.05)
    monkeypatch.setattr(probing, "ANSWER_SECONDS", 0.02)


async def test_a_pod_that_its_node_reaches_is_forwarded_to_and_deleted() -> None:
    cluster = Cluster(
        [node("1", unschedulable=True), node("2", ready=False), node("3")], {}, RUNS, RUNS | {"conditions": READY}
    )

    assert await probed(cluster) == Forwarded(node="3", address="10.0.0.3:29999", answers=True)
    (made,) = cluster.made
    assert made["spec"]["nodeName"] == "3"
    assert made["spec"]["containers"][0]["readinessProbe"]["httpGet"] == {
        "host": "10.0.0.3",
        "port": 29999,
        "path": "/",
    }
    assert cluster.ran == [("delete", "pod", "probe-x", "--namespace=demo", "--wait=false", "--grace-period=1")]


async def test_a_pod_that_runs_and_is_not_reached_is_not_forwarded_to() -> None:
    assert (await probed(Cluster([node("1")], RUNS))).answers is False


@pytest.mark.parametrize(
    ("cluster", "why"),
    [
        pytest.param(Cluster([]), "no node is ready", id="no node"),
        pytest.param(Cluster([node("1")], PULLS), "did not start within 0 s: ErrImagePull", id="no image"),
        pytest.param(
            Cluster([node("1")], {"phase": "Failed", "reason": "NodePorts", "message": "taken"}),
            "the Pod failed: NodePorts taken",
            id="the number is taken",
        ),
    ],
)
async def test_what_cannot_be_tried_is_told_and_nothing_is_left(cluster: Cluster, why: str) -> None:
    with pytest.raises(CliError, match=why):
        await probed(cluster)

    assert len(cluster.ran) == len(cluster.made)
