"""The file: cluster: what is read, and what happens when the file changes, breaks or goes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from test_service import two_ports

from allocator.cluster.file import FileCluster, parse
from allocator.core.admission import LedgerRules
from allocator.core.candidates import Constraints, Node, NodeName, Requirement, Taint, Term, Toleration
from allocator.core.claims import ClaimPort, ClusterChange, ObservedPod, PodUid, State
from allocator.core.foreign import NodePort, ObservedService
from allocator.core.ports import Protocol
from hostport.v1 import allocator_pb2 as pb
from testing.kit import ask, report
from testing.servicekit import Running, Start

YAML = """
apiVersion: v1
kind: List
items:
- kind: Node
  metadata: {name: n1, labels: {disk: ssd}}
  spec: {unschedulable: true, taints: [{key: gpu, effect: NoSchedule}, {key: a, value: b, effect: NoExecute}]}
- kind: Pod
  metadata:
    name: web-0
    namespace: games
    uid: u1
    generateName: web-
    annotations: {hostport.io/allocation-id: abc}
    ownerReferences: [{uid: other}, {uid: sts, controller: true}]
  spec:
    hostNetwork: true
    nodeSelector: {disk: ssd}
    tolerations: [{key: gpu, operator: Exists}]
    affinity:
      nodeAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
          nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [n1]}]}]
    containers:
    - name: c
      ports: [{name: http, containerPort: 80, hostPort: 80}, {containerPort: 53, protocol: UDP}]
    - name: d
      ports: null
    initContainers:
    - {name: sidecar, restartPolicy: Always, ports: [{containerPort: 90, hostIP: 10.0.0.1}]}
    - {name: setup, ports: [{containerPort: 91, hostPort: 91}]}
  status: {phase: Running}
---
kind: Namespace
metadata: {name: games, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
kind: Service
metadata: {name: web, namespace: games, uid: s1}
spec: {type: NodePort, ports: [{port: 80, nodePort: 30080}, {port: 53, nodePort: 30053, protocol: UDP}]}
---
kind: Namespace
metadata: {name: free, labels: {pod-security.kubernetes.io/enforce: privileged}}
---
kind: ConfigMap
"""


def test_a_file_is_projected_to_what_the_core_needs() -> None:
    content = parse(YAML)

    assert content.nodes == {
        "n1": Node(
            name=NodeName("n1"),
            labels={"disk": "ssd"},
            taints=(Taint(key="gpu"), Taint(key="a", value="b", effect="NoExecute")),
            unschedulable=True,
        )
    }
    assert content.pods == {
        "u1": ObservedPod(
            uid=PodUid("u1"),
            namespace="games",
            name="web-0",
            generate_name="web-",
            controller_uid="sts",
            carried_id="abc",
            may_preempt=True,
            constraints=Constraints(
                selector=(("disk", "ssd"),),
                affinity=(Term(fields=(Requirement(key="metadata.name", operator="In", values=("n1",)),)),),
                tolerations=(Toleration(key="gpu", operator="Exists"),),
            ),
            ports=(
                ClaimPort(container="c", name="http", container_port=80, host_port=80),
                ClaimPort(container="c", protocol=Protocol.UDP, container_port=53, host_port=53),
                ClaimPort(container="sidecar", container_port=90, host_port=90, host_ip="10.0.0.1"),
            ),
        )
    }
    assert content.enforced == {"games": "restricted"}
    ports = (NodePort(protocol=Protocol.TCP, number=30080), NodePort(protocol=Protocol.UDP, number=30053))
    assert content.services == {("games", "web"): ObservedService(namespace="games", name="web", uid="s1", ports=ports)}


@pytest.mark.parametrize("text", ["", "[]", "---\n---\n", '{"kind": "List", "items": []}'])
def test_a_file_may_be_empty(text: str) -> None:
    assert (parse(text).nodes, parse(text).pods) == ({}, {})


DEEP = 5_000
BAD = {
    "cut off": "{",
    "no YAML": "a: b: c",
    "words": "just words",
    "no name": '{"kind": "Node"}',
    "metadata of another kind": '[{"kind": "Pod", "metadata": []}]',
    "a number for an object": '{"items": [3]}',
    "a selector that cannot be hashed": "kind: Pod\nmetadata: {name: p}\nspec: {nodeSelector: {disk: [ssd]}}",
    "a key that cannot be hashed": "kind: Pod\nmetadata: {name: p}\nspec: {nodeSelector: {[disk]: ssd}}",
    "a level that cannot be hashed": "kind: Namespace\nmetadata: {name: n, labels: {pod-security.kubernetes.io/enforce: [a]}}",
    "a list that has itself": "---\n&a [*a]",
    "an object that has itself": "---\n&a {items: [*a]}",
    "too deep for JSON": "[" * DEEP + "]" * DEEP,
    "too deep for YAML": "---\n" + "[" * DEEP + "]" * DEEP,
    "half of a character": '[{"kind": "Node", "metadata": {"name": "\\ud800"}}]',
    "a port beyond the last": "kind: Pod\nmetadata: {name: p}\nspec: {containers: [{ports: [{containerPort: 99999, hostPort: 80}]}]}",
    "a port that is true": "kind: Pod\nmetadata: {name: p}\nspec: {containers: [{ports: [{hostPort: true}]}]}",
    "a day that never was": "x: 2024-13-45",
}  # fmt: skip
"""What a file may say that is no content."""


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_file_that_makes_no_sense_is_refused_as_a_whole(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


POD = "{kind: Pod, metadata: {name: p}, spec: %s}"
TERM = "{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [%s]}}}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{kind: Node, metadata: {name: n, labels: {rank: 1}}}", "labels has 1, which is no text: write it in quotes", id="label"),
        pytest.param("{kind: Node, metadata: {name: n}, spec: {taints: [{key: a, value: yes}]}}", "value has True, which is no text: write it in quotes", id="taint"),
        pytest.param(POD % "{nodeSelector: {rank: 1}}", "nodeSelector has 1, which is no text: write it in quotes", id="selector"),
        pytest.param(POD % (TERM % "{matchExpressions: [{key: a, operator: In, values: [1]}]}"), "values has 1, which is no text: write it in quotes", id="affinity"),
        pytest.param(POD % "{tolerations: [{key: a, value: 1.5}]}", "value has 1.5, which is no text: write it in quotes", id="toleration"),
        pytest.param(POD % "{nodeName: 1}", "nodeName has 1, which is no text: write it in quotes", id="node"),
        pytest.param(POD % '{priority: "1"}', "priority has '1', which is no whole number", id="priority"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_told_and_not_compared(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(f"---\n{text}")

    assert str(caught.value) == message


def test_null_is_empty_text() -> None:
    (pod,) = parse(
        "---\n" + POD % "{nodeSelector: {zone: }, tolerations: [{key: , operator: Exists, value: }]}"
    ).pods.values()

    assert pod.constraints == Constraints(selector=(("zone", ""),), tolerations=(Toleration(operator="Exists"),))


# -- following a file

Write = Callable[..., None]


class Following:
    """A service whose cluster is a file."""

    def __init__(self, service: Running, path: Path) -> None:
        self.service = service
        self.path = path
        self.source = FileCluster(path, poll_seconds=0.005, now=lambda: 1e6, wall=lambda: 1e6)
        self.writes = 0
        self.task = asyncio.create_task(self.source.run(service.engine.maintenance))

    def write(self, *objects: dict[str, Any]) -> None:
        self.write_text(json.dumps({"kind": "List", "items": objects}))

    def write_text(self, text: str) -> None:
        draft = self.path.with_suffix(".new")
        draft.write_text(text, encoding="utf-8")
        self.writes += 1
        os.utime(draft, (self.writes, self.writes))
        draft.rename(self.path)

    async def caught_up(self) -> None:
        async with asyncio.timeout(30):
            while self.service.engine.ledger.limits.seen_until != self.writes:
                await asyncio.sleep(0.002)


@pytest.fixture
async def following(start: Start, tmp_path: Path) -> AsyncIterator[Following]:
    follower = Following(await start(rules=LedgerRules()), tmp_path / "cluster.json")
    yield follower
    follower.task.cancel()
    await asyncio.gather(follower.task, return_exceptions=True)


def node(name: str, **more: str) -> dict[str, Any]:
    return {"kind": "Node", "metadata": {"name": name, **more}}


def stored(allocation: pb.Allocation, *, at: str | None = None) -> dict[str, Any]:
    """The Pod of an allocation, as `kubectl get pods -o json` has it."""
    ports = [{"containerPort": p.host_port, "hostPort": p.host_port, "name": p.name} for p in allocation.ports]
    return {
        "kind": "Pod",
        "metadata": {
            "name": allocation.owner.name,
            "namespace": allocation.owner.namespace,
            "generateName": allocation.owner.generate_name,
            "uid": f"uid-{allocation.owner.name}",
            "annotations": {"hostport.io/allocation-id": allocation.id},
        },
        "spec": {"nodeName": at, "hostNetwork": True, "containers": [{"name": "node", "ports": ports}]},
    }


async def test_a_pod_in_the_file_confirms_binds_and_when_it_goes_frees(following: Following) -> None:
    following.write(node("n1"), node("n2"))
    await following.caught_up()
    stub, ledger = following.service.stub, following.service.engine.ledger
    claim = (await stub.Allocate(two_ports())).allocation
    states = []
    for objects in ([stored(claim)], [stored(claim, at="n2")], []):
        following.write(node("n1"), node("n2"), *objects)
        await following.caught_up()
        found = list(ledger.claims)
        states.append([(c.state, c.node) for c in found])

    assert states == [[(State.CONFIRMED, "n1")], [(State.BOUND, "n2")], []]


async def test_what_an_agent_said_of_a_node_that_was_made_anew_is_void(following: Following) -> None:
    sockets = following.service.engine.ledger.nodes.sockets
    for uid, is_kept in (("old", True), ("old", True), ("new", False)):
        following.write(node("n1", uid=uid, resourceVersion=str(following.writes)))
        await following.caught_up()
        if following.writes == 1:
            following.service.engine.maintenance.observe(ClusterChange(reports=[report("n1", "sshd:7000")]))

        assert (sockets.reported_at(NodeName("n1")) is not None) == is_kept
        assert following.service.engine.ledger.nodes.is_known(NodeName("n1"))


async def test_a_file_that_never_lists_a_pod_expires_nothing(following: Following) -> None:
    following.write(node("n1"))
    await following.caught_up()
    service = following.service
    await service.stub.Allocate(two_ports())
    service.now += 1e6
    service.engine.maintenance.tick()

    assert len(list(service.engine.ledger.claims)) == 1


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
async def test_a_file_that_breaks_leaves_the_last_good_content_in_force(
    following: Following, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    following.write(node("n1"))
    await following.caught_up()
    with caplog.at_level(logging.WARNING):
        following.write_text(text)
        async with asyncio.timeout(30):
            while not caplog.records:
                await asyncio.sleep(0.002)
    assert [r.getMessage().endswith("the last good content stays in force") for r in caplog.records] == [True]
    assert following.service.engine.ledger.nodes.names() == ["n1"]

    following.write(node("n2"))
    await following.caught_up()
    assert following.service.engine.ledger.nodes.names() == ["n2"]


async def test_a_pod_that_went_while_we_were_down_is_gone_after_the_start(start: Start, tmp_path: Path) -> None:
    service = await start(durable=True, rules=LedgerRules())
    first, second = [(await service.stub.Allocate(two_ports(f"db-{n}"))).allocation for n in range(2)]
    path = tmp_path / "cluster.json"

    async def follow(*objects: dict[str, Any]) -> None:
        path.write_text(json.dumps(list(objects)), encoding="utf-8")
        source = FileCluster(path, poll_seconds=0.005, now=lambda: 1e6, wall=lambda: 1e6)
        task = asyncio.create_task(source.run(service.engine.maintenance))
        await asyncio.wait_for(source.synced(), 5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    await follow(node("n1"), stored(first, at="n1"), stored(second, at="n1"))
    service = await start(durable=True, rules=LedgerRules())
    assert [c.state for c in service.engine.ledger.claims] == [State.BOUND, State.BOUND]

    await follow(node("n1"), stored(second, at="n1"))
    assert [c.owner.name for c in service.engine.ledger.claims] == ["db-1"]
    assert service.engine.ledger.preview(ask("db-0", "x:1=10000", policy="Static"), 0.0)[0].node == "n1"
