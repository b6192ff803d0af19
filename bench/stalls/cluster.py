"""The cluster that every row starts from, and what adds Nodes, Pods and claims to it.

Rules:

* Node 17 is `node-00017`. A tenth of the Nodes have a `zone` in common, ten a `pool`, a thousand a `thousand`.
* Pods 0 to 149,999 are there from the start; the first 50,000 are ours. Each has one number of the `WIDTH` from `LOW`
  on. What a row adds is numbered from 200,000 on.
* `observe` tells a change as the cluster does. `fill` and `restore` write into the books directly.
* `restore` has to be called on the loop: `place.on_loop(restore, place, claims)`. The two others go there themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from allocator.core.admission import LedgerRules
from allocator.core.candidates import Node, NodeName
from allocator.core.claims import Claim, ClaimId, ClaimPort, ClusterChange, ObservedPod, Owner, PodUid, State
from allocator.core.ledger import Ledger
from bench.turns import Place

NODES, PODS, OURS = 5_000, 150_000, 50_000
EACH = PODS // NODES
LOW, WIDTH = 20_000, 1_000


def build() -> Ledger:
    """The nodes, the Pods that we granted something, and those that we never did."""
    ledger = Ledger(LedgerRules())
    ledger.trust_pods(0.0)
    ledger.observe(ClusterChange(nodes=map(a_node, range(NODES))), now=0.0)
    ledger.restore(map(_ours, range(OURS)), now=0.0)
    ledger.observe(ClusterChange(pods=map(_stranger, range(OURS, PODS))), now=0.0)
    ledger.take_changes()
    return ledger


def a_node(number: int, **labels: str) -> Node:
    name = node_name(number)
    return Node(
        name=name,
        labels={
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "zone": str(number % 10),
            "pool": f"p{number // 10}",
            "thousand": str(number // 1000),
            **labels,
        },
    )


def node_name(number: int) -> NodeName:
    return NodeName(f"node-{number:05}")


def _number(pod: int) -> int:
    """Thirty on each node, no two alike; each of the range on as many nodes."""
    node, at = pod % NODES, pod // NODES
    return LOW + (node * EACH + at) % WIDTH


def _ours(pod: int) -> Claim:
    return a_claim(pod, _number(pod), node=node_name(pod % NODES), state=State.BOUND)


def a_claim(pod: int, *numbers: int, state: State, node: NodeName | None = None, **more: Any) -> Claim:
    name = f"pod-{pod}"
    is_lease = state is State.LEASED
    return Claim(
        id=ClaimId(f"{pod:032x}"),
        owner=Owner(kind="Service", namespace="lessee", name=name)
        if is_lease
        else Owner(namespace=namespace_of(pod), name=name),
        state=state,
        ports=tuple(ClaimPort(container="c", container_port=80 + at, host_port=n) for at, n in enumerate(numbers)),
        created=0.0,
        node=node,
        pod_uid=None if is_lease else PodUid(name),
        settled_at=0.0 if node else None,
        **more,
    )


def namespace_of(pod: int) -> str:
    return f"ns-{pod % 97}"


def _stranger(pod: int) -> ObservedPod:
    return a_pod(pod, _number(pod), node=node_name(pod % NODES))


def a_pod(pod: int, *numbers: int, node: NodeName | None, **more: Any) -> ObservedPod:
    name = f"pod-{pod}"
    ports = tuple(ClaimPort(container="c", container_port=80 + at, host_port=n) for at, n in enumerate(numbers))
    return ObservedPod(uid=PodUid(name), namespace=namespace_of(pod), name=name, node=node, ports=ports, **more)


def observe(place: Place, **changes: Any) -> None:
    place.on_loop(lambda: place.engine.maintenance.observe(ClusterChange(**changes, lists_pods=True)))


def restore(place: Place, claims: Iterable[Claim]) -> None:
    """Stands them in the books, by hand: as many asks would take longer than what is measured."""
    place.engine.ledger.restore(claims, 0.0)
    place.engine.ledger.replan()
    place.engine.ledger.take_changes()


def waiting(number: int, *ports: int, **more: Any) -> Claim:
    return a_claim(number, *ports, state=State.CONFIRMED, **more)


def fill(place: Place, nodes: range, *numbers: int, first: int, **more: Any) -> None:
    """Pods that were never granted anything, one on each of some nodes, with these numbers."""
    pods = [a_pod(first + at, *numbers, node=node_name(node), **more) for at, node in enumerate(nodes)]
    place.on_loop(lambda: place.engine.ledger.observe(ClusterChange(pods=pods), now=0.0))
