"""Blocks of ports on a real API server and scheduler: no two meet, whoever picks the node, and whoever changes the Pod."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.api import Kubectl
from e2e.control_plane import ControlPlane
from e2e.manifests import Pod, allocations, annotation, hostport, numbers, port, workload
from e2e.manifests import pod as bare_pod
from e2e.processes import wait_for
from e2e.product import Product
from e2e.seen import bound, refusals, running
from e2e.test_live_cluster import CLIENTS, PAUSE, Pool, held_twice, phase, pool

pytestmark = pytest.mark.workloads

__all__ = ["pool"]

BURST = int(os.environ.get("E2E_BLOCKS", "3000"))
ROUNDS = 4
RTP = port(10000, "rtp", "UDP")
SINGLE = hostport(policy="Dynamic", min_port=50000, max_port=59999)


def asking(low: int, high: int, block: str, **more: str) -> dict[str, str]:
    return hostport(policy="Dynamic", min_port=low, max_port=high, block_rtp=block, **more)


def is_whole(stored: Pod, count: int) -> bool:
    """Whether the numbers of a Pod are so many, one behind the other, and the first is where blocks begin."""
    held = numbers(stored)
    return held == list(range(held[0], held[0] + count)) and held[0] % count == 0


def test_a_pod_and_the_books_have_all_numbers_of_a_block(product: Product, kubectl: Kubectl, namespace: str) -> None:
    kubectl.apply(bare_pod("relay", asking(20000, 20999, "100"), RTP, port(8080, "sip"), nodeName="n1"))

    (stored,) = running(kubectl, 1)
    bound(product, namespace, 1)

    first = allocations(stored)[0]["hostPort"]
    assert allocations(stored)[0] == {
        "container": "main", "name": "rtp", "protocol": "UDP", "containerPort": 10000, "hostPort": first, "count": 100
    }  # fmt: skip
    assert annotation(stored, "allocated-rtp") == f"{first}-{first + 99}"
    assert sorted(set(numbers(stored)) - {allocations(stored)[1]["hostPort"]}) == list(range(first, first + 100))
    env = {each["name"]: each.get("value") for each in stored["spec"]["containers"][0]["env"]}
    assert [env[f"HOSTPORT_RTP{end}"] for end in ("", "_MIN", "_MAX", "_COUNT")] == [
        str(first), str(first), str(first + 99), "100"
    ]  # fmt: skip
    (held,) = product.allocator.allocations(namespace)
    assert (held.ports[0].name, held.ports[0].host_port, held.ports[0].count) == ("rtp", first, 100)


def test_replicas_count_by_the_size_of_the_block(kubectl: Kubectl) -> None:
    notes = hostport(min_port=24000, max_port=24999, block_rtp="20")
    kubectl.apply(workload("StatefulSet", "worker", notes, RTP, replicas=3, serviceName="worker"))

    pods = running(kubectl, 3)

    assert [numbers(each) for each in pods] == [list(range(24000 + 20 * at, 24020 + 20 * at)) for at in range(3)]


def test_a_range_has_so_many_blocks_on_every_node_before_a_pod_is_denied(
    product: Product, kubectl: Kubectl, pool: Callable[[int], Pool]
) -> None:
    four = pool(4)
    notes = asking(20000, 20999, "100")
    kubectl.apply(workload("Deployment", "relay", notes, RTP, replicas=40, pod_spec=four.spec))
    pods = running(kubectl, 40, seconds=60)
    assert held_twice(pods) == []
    assert [each["metadata"]["name"] for each in pods if not is_whole(each, 100)] == []

    kubectl("scale", "deployment/relay", "--replicas=41")
    denial = wait_for("the 41st to be denied", lambda: refusals(kubectl), bool)[0]
    kubectl("scale", "deployment/relay", "--replicas=40")

    assert "RANGE_EXHAUSTED" in denial
    assert "20000-20999" in denial

    patient = bare_pod("patient", asking(20000, 20999, "100", when_full="Pending"), RTP, **four.spec)
    assert "ALL_FULL" in kubectl.apply(patient).stderr
    time.sleep(PAUSE)
    assert phase(kubectl, "patient") == "Pending"

    fifth = four.grow()

    pods = running(kubectl, 41)
    assert held_twice(pods) == []
    assert [each["spec"]["nodeName"] for each in pods if each["metadata"]["name"] == "patient"] == [fifth]


def burst(plane: ControlPlane, namespace: str, made: Sequence[Pod]) -> float:
    """Creates Pods by 16 clients; how many seconds that took."""

    def create(each: Pod) -> None:
        answer = plane.api.ask("POST", f"/api/v1/namespaces/{namespace}/pods", each, timeout=34)
        assert answer.status == 201, answer.text

    begin = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(create, made))
    return time.monotonic() - begin


def test_a_burst_of_blocks_by_many_clients_gives_no_number_twice(
    product: Product, plane: ControlPlane, kubectl: Kubectl, namespace: str, pool: Callable[[int], Pool]
) -> None:
    """Pods with one port come between them, so that the two rates are of one machine: `pytest -s` shows both."""
    four = pool(4)
    kinds = {"block": (BURST // ROUNDS, asking(40000, 49999, "8")), "one": (BURST // ROUNDS // 6, SINGLE)}
    seconds = dict.fromkeys(kinds, 0.0)
    for turn in range(ROUNDS):
        for kind, (count, notes) in sorted(kinds.items(), reverse=turn % 2 == 1):
            made = [bare_pod(f"{kind}-{turn}-{at}", notes, RTP, **four.spec) for at in range(count)]
            seconds[kind] += burst(plane, namespace, made)

    total = sum(ROUNDS * count for count, _ in kinds.values())
    pods = running(kubectl, total, seconds=240)
    assert held_twice(pods) == []
    blocks = [each for each in pods if each["metadata"]["name"].startswith("block-")]
    assert Counter(is_whole(each, 8) for each in blocks) == {True: ROUNDS * kinds["block"][0]}
    bound(product, namespace, total, seconds=60)
    rates = {kind: ROUNDS * count / seconds[kind] for kind, (count, _) in kinds.items()}
    sys.stderr.write(
        f"\n{total} Pods by {CLIENTS} clients: {rates['one']:.0f}/s with one port, {rates['block']:.0f}/s with a block of"
        f" 8, ratio {rates['block'] / rates['one']:.2f}\n"
    )

    plane.api.ask("DELETE", f"/api/v1/namespaces/{namespace}/pods", {"gracePeriodSeconds": 0}, timeout=120)
    bound(product, namespace, 0, seconds=60)


def test_the_largest_block_is_taken_by_the_api_server(kubectl: Kubectl) -> None:
    begin = time.monotonic()
    kubectl.apply(bare_pod("relay", asking(50000, 59999, "1024"), RTP, nodeName="n1"))
    took = time.monotonic() - begin

    (stored,) = running(kubectl, 1)

    assert len(numbers(stored)) == 1024
    assert held_twice([stored]) == []
    size = len(json.dumps(stored["spec"]["containers"][0]["ports"], separators=(",", ":")))
    sys.stderr.write(f"\na block of 1,024: {size:,} bytes of ports, created in {took:.2f} s\n")
