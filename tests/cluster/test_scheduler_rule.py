"""Our conflict answer against the scheduler's, over thousands of random clusters.

The oracle does what the scheduler's NodePorts filter does, without any index: for each node it goes through the ports
of every Pod there. Both start from the same JSON, as the API server stores it; ours takes the whole way, from bytes to
the decision. Each cluster is asked, then changed, then asked again, so that a port which its last owner leaves is seen
to be free, and one which a second owner keeps is not.

`CLUSTERS` and `CLUSTERS_SEED` in the environment ask for more, or others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from allocator.cluster.decoding import JsonDecoder
from allocator.cluster.projection import PodSketch
from allocator.cluster.sinks import ValueInterner
from allocator.core.admission import LedgerRules
from allocator.core.asks import Ask, PortAsk, Refused
from allocator.core.candidates import ANYWHERE, Constraints, Node, NodeName
from allocator.core.claims import ClusterChange, Owner, PodUid
from allocator.core.ledger import Ledger
from allocator.core.place.policies import STATIC
from allocator.core.ports import Protocol

CLUSTERS = int(os.environ.get("CLUSTERS", "10000"))
SEED = int(os.environ.get("CLUSTERS_SEED", "20"))
SLICES = 4

Json = dict[str, Any]
Triple = tuple[str, str, int]

ADDRESSES = (None, None, "", "0.0.0.0", "::", "10.0.0.1", "10.0.0.2", "fd00::1")
PROTOCOLS = (None, "TCP", "TCP", "UDP", "SCTP")


# -- the oracle


def triples(pod: Json) -> Iterator[Triple]:
    """The host ports of a Pod: of its containers and of its init containers that keep running."""
    spec = pod["spec"]
    lasting = [each for each in spec.get("initContainers", []) if each.get("restartPolicy") == "Always"]
    for container in spec["containers"] + lasting:
        for port in container.get("ports", []):
            if port.get("hostPort"):
                yield triple(port.get("hostIP"), port.get("protocol"), port["hostPort"])


def triple(ip: str | None, protocol: str | None, number: int) -> Triple:
    """With the scheduler's defaults. That `::` is every address as well is ours, and stricter."""
    return ("0.0.0.0" if ip in {None, "", "::"} else str(ip), protocol or "TCP", number)


def conflicts(wanted: Triple, held: Triple) -> bool:
    if wanted[1:] != held[1:]:
        return False
    return wanted[0] == "0.0.0.0" or held[0] in {"0.0.0.0", wanted[0]}


def free_nodes(nodes: list[str], pods: list[Json], wanted: list[Triple]) -> set[str]:
    """The nodes on which the NodePorts filter would pass a Pod that wants these."""
    taken = {
        pod["spec"].get("nodeName")
        for pod in pods
        if pod["status"]["phase"] not in {"Succeeded", "Failed"}
        if any(conflicts(each, held) for each in wanted for held in triples(pod))
    }
    return set(nodes) - taken


# -- random clusters


def a_port(random: Random) -> Json:
    number = random.randint(1, 4)
    port: Json = {"containerPort": number, "hostPort": random.choice((0, number, number, random.randint(1, 4)))}
    for field, values in (("hostIP", ADDRESSES), ("protocol", PROTOCOLS)):
        value = random.choice(values)
        if value is not None:
            port[field] = value
    return port


def a_container(random: Random, name: str, *, on_host: bool) -> Json:
    ports = [a_port(random) for _ in range(random.randint(0, 2))]
    for port in ports:
        if on_host:
            port["hostPort"] = port["containerPort"]  # as the API server stores it
    return {"name": name, "ports": ports}


def a_pod(random: Random, number: int, nodes: list[str]) -> Json:
    on_host = random.random() < 0.3
    spec: Json = {
        "nodeName": random.choice(nodes),
        "containers": [a_container(random, f"c{i}", on_host=on_host) for i in range(random.randint(1, 2))],
    }
    if on_host:
        spec["hostNetwork"] = True
    if random.random() < 0.4:
        policy = random.choice(({"restartPolicy": "Always"}, {}))
        spec["initContainers"] = [a_container(random, "init", on_host=on_host) | policy]
    metadata: Json = {"name": f"p{number}", "namespace": random.choice("ab"), "uid": f"u{number}"}
    if random.random() < 0.15:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    phase = random.choice(("Pending", "Running", "Running", "Running", "Unknown", "Succeeded", "Failed"))
    return {"metadata": metadata, "spec": spec, "status": {"phase": phase}}


def some_wants(random: Random) -> list[PortAsk]:
    """One to three ports that do not clash among themselves."""
    wanted: list[PortAsk] = []
    for i in range(random.randint(1, 3)):
        protocol, ip = random.choice(PROTOCOLS) or "TCP", random.choice(ADDRESSES) or ""
        number = random.randint(1, 4)
        if all((number, protocol) != (each.host_port, each.protocol.value) for each in wanted):
            wanted.append(
                PortAsk(container="c", container_port=i + 1, host_port=number, protocol=Protocol(protocol), host_ip=ip)
            )
    return wanted


# -- ours


class Allocator:
    """From the bytes of a list to an answer."""

    def __init__(self, nodes: list[str]) -> None:
        self._ledger = Ledger(LedgerRules())
        self._reader, self._shared = JsonDecoder(PodSketch), ValueInterner()
        self._ledger.observe(ClusterChange(nodes=[Node(name=NodeName(name)) for name in nodes]), now=0.0)
        self._known: set[str] = set()

    def see(self, pods: list[Json]) -> None:
        page = self._reader.page(json.dumps({"metadata": {"resourceVersion": "1"}, "items": pods}).encode())
        seen = {pod["metadata"]["uid"] for pod in pods}
        self._ledger.observe(
            ClusterChange(
                pods=[self._shared.pod(sketch) for sketch in page.items or ()],
                gone_pods=[PodUid(uid) for uid in self._known - seen],
            ),
            now=0.0,
        )
        self._known = seen

    def answer(self, wanted: list[PortAsk], node: str | None) -> str | None:
        """The node on which a Pod is planned; None: denied for a conflict."""
        within = Constraints(node_name=NodeName(node)) if node else ANYWHERE
        owner = Owner(namespace="a", name="asker")
        ask = Ask(owner=owner, ports=tuple(wanted), policy=STATIC, constraints=within)
        try:
            claim, _ = self._ledger.preview(ask, 0.0)
        except Refused as refused:
            if {mistake.reason for mistake in refused.mistakes} != {"PORT_CONFLICT"}:
                raise
            return None
        assert claim.node is not None
        return str(claim.node)


def compare(nodes: list[str], pods: list[Json], wanted: list[PortAsk], ours: Allocator) -> None:
    keys = [triple(each.host_ip, each.protocol.value, each.host_port) for each in wanted]
    free = free_nodes(nodes, pods, keys)
    # A Pod may also wait for a holder that is on its way out.
    lasting = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    bearable = free_nodes(nodes, lasting, keys)

    assert {node for node in nodes if ours.answer(wanted, node)} == bearable, (pods, keys)
    planned = ours.answer(wanted, None)
    assert planned in (free or bearable) if bearable else planned is None, (pods, keys)


@pytest.mark.parametrize("part", range(SLICES))
def test_conflicts_are_exactly_those_of_the_scheduler(part: int) -> None:
    for cluster in range(part, CLUSTERS, SLICES):
        random = Random(f"{SEED}/{cluster}")
        nodes = [f"n{i}" for i in range(random.randint(1, 4))]
        pods = [a_pod(random, i, nodes) for i in range(random.randint(0, 7))]
        ours = Allocator(nodes)
        for _ in range(2):
            ours.see(pods)
            compare(nodes, pods, some_wants(random), ours)
            pods = [pod for pod in pods if random.random() < 0.6]
            for pod in pods:
                pod["status"]["phase"] = random.choice((pod["status"]["phase"], "Running", "Failed"))


@pytest.mark.parametrize(
    ("wanted", "held", "conflict"),
    [
        (("", "TCP", 81), ("127.0.0.1", "TCP", 80), False),
        (("", "TCP", 80), ("127.0.0.1", "TCP", 80), True),
        (("0.0.0.0", "TCP", 80), ("127.0.0.1", "TCP", 80), True),
        (("0.0.0.0", "TCP", 80), ("127.0.0.1", "UDP", 80), False),
        (("127.0.0.1", "TCP", 80), ("0.0.0.0", "TCP", 80), True),
        (("127.0.0.1", "TCP", 80), ("0.0.0.0", "UDP", 80), False),
        (("127.0.0.2", "TCP", 80), ("127.0.0.1", "TCP", 80), False),
    ],
)
def test_the_oracle_agrees_with_the_schedulers_own_table(wanted: Triple, held: Triple, conflict: bool) -> None:
    assert conflicts(triple(*wanted), triple(*held)) is conflict
