"""What one caller, one Pod or one change of the cluster can cost everybody: the longest turn of the event loop.

5,000 nodes and 150,000 Pods with a host port each, of which 50,000 are ours. Each row is a function: it prepares, and
measures what it names. A row that is refused (`TOO_COMPLEX`) says so; what the refusal cost stands beside it.

The bound of every row: no turn of the loop takes more than 50 ms of its own CPU. Some have a bound besides. A machine
that others share is half as fast for seconds at a time, so a row that breaks a bound is measured again, `TRIES` times
in all: the best of them counts, and all are told. So is what a piece of plain Python takes meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from http.client import HTTPConnection
from itertools import count
from typing import Any

import grpc
import msgspec
from prometheus_client import generate_latest

from allocator.cluster.kubernetes import TUNING
from allocator.cluster.lease import Legacy
from allocator.cluster.projection import PodSketch
from allocator.cluster.sinks import NodeSink, PodSink
from allocator.core.admission import LedgerRules
from allocator.core.asks import Ask, PortAsk, Refused
from allocator.core.candidates import Constraints, Node, NodeName, Requirement, Term, Toleration
from allocator.core.claims import (
    Claim,
    ClaimId,
    ClaimPort,
    ClusterChange,
    ObservedPod,
    Owner,
    PodUid,
    PortRejection,
    RejectedBy,
    State,
)
from allocator.core.ledger import Ledger
from allocator.core.place.policies import DYNAMIC
from allocator.core.ports import WILDCARD, Protocol, slot_of, slots_of, span
from allocator.core.sockets import NodeFacts, SocketChange, listener
from allocator.journal.contract import Entry, JournalError, Put, Recorded
from allocator.leases.cache import PortLeaseCache
from allocator.leases.durability import LeaseDurability
from allocator.leases.objects import PortLease, shown_end, ttl_of
from allocator.leases.reconciler import LeaseReconciler
from allocator.slices import in_turns
from bench.options import Options
from bench.processes import CHECKOUT
from bench.turns import CALL_SECONDS, Place, Stall, measure, median, reason_of, resident_mib
from hostport.v1 import allocator_pb2 as pb
from testing.costing import REFERENCE_MILLISECONDS, milliseconds_of_reference

NODES, PODS, OURS = 5_000, 150_000, 50_000
EACH = PODS // NODES
LOW, WIDTH = 20_000, 1_000
MOST_TURN_MS = 50.0
MOST_ROW_SECONDS = 120.0
TRIES = 3
MIB = 1 << 20
TOGETHER = 100
"""Calls at a time: an API server makes no more of one rollout, and a connection takes 256."""

Row = Callable[[Place], None]

_serial = count()


# -- the cluster


def build() -> Ledger:
    """The nodes, the Pods that we granted something, and those that we never did."""
    ledger = Ledger(LedgerRules())
    ledger.trust_pods(0.0)
    ledger.observe(ClusterChange(nodes=map(_node, range(NODES))), now=0.0)
    ledger.restore(map(_ours, range(OURS)), now=0.0)
    ledger.observe(ClusterChange(pods=map(_stranger, range(OURS, PODS))), now=0.0)
    ledger.take_changes()
    return ledger


def _node(number: int, **labels: str) -> Node:
    name = _name(number)
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


def _name(number: int) -> NodeName:
    return NodeName(f"node-{number:05}")


def _number(pod: int) -> int:
    """Thirty on each node, no two alike; each of the range on as many nodes."""
    node, at = pod % NODES, pod // NODES
    return LOW + (node * EACH + at) % WIDTH


def _ours(pod: int) -> Claim:
    return _claim(pod, _number(pod), node=_name(pod % NODES), state=State.BOUND)


def _claim(pod: int, *numbers: int, state: State, node: NodeName | None = None, **more: Any) -> Claim:
    name = f"pod-{pod}"
    is_lease = state is State.LEASED
    return Claim(
        id=ClaimId(f"{pod:032x}"),
        owner=Owner(kind="Service", namespace="lessee", name=name)
        if is_lease
        else Owner(namespace=_ns(pod), name=name),
        state=state,
        ports=tuple(ClaimPort(container="c", container_port=80 + at, host_port=n) for at, n in enumerate(numbers)),
        created=0.0,
        node=node,
        pod_uid=None if is_lease else PodUid(name),
        settled_at=0.0 if node else None,
        **more,
    )


def _ns(pod: int) -> str:
    return f"ns-{pod % 97}"


def _stranger(pod: int) -> ObservedPod:
    return _pod(pod, _number(pod), node=_name(pod % NODES))


def _pod(pod: int, *numbers: int, node: NodeName | None, **more: Any) -> ObservedPod:
    name = f"pod-{pod}"
    ports = tuple(ClaimPort(container="c", container_port=80 + at, host_port=n) for at, n in enumerate(numbers))
    return ObservedPod(uid=PodUid(name), namespace=_ns(pod), name=name, node=node, ports=ports, **more)


# -- asks


def ask(name: str, constraints: pb.NodeConstraints | None = None, **more: Any) -> pb.AllocateRequest:
    """A small one: one port under Dynamic."""
    given: dict[str, Any] = {
        "owner": pb.Owner(kind="Pod", namespace="caller", name=f"{name}-{next(_serial)}"),
        "policy": pb.POLICY_DYNAMIC,
        "range": pb.PortRange(min=30_000, max=40_000),
        "ports": [pb.PortRequest(container="c", container_port=80)],
        "constraints": constraints,
    }
    return pb.AllocateRequest(**(given | more))


def expressions(number: int, operator: str = "In", values: int = 1) -> pb.NodeTerm:
    """A term of so many requirements, none of which was seen before."""
    return pb.NodeTerm(
        match_expressions=[
            pb.NodeRequirement(
                key="zone" if operator == "In" else "none",
                operator=operator,
                values=[f"{at}" if operator == "In" and at < 10 else f"x{next(_serial):x}" for at in range(values)],
            )
            for _ in range(number)
        ]
    )


def affinity(terms: Iterable[pb.NodeTerm]) -> pb.NodeConstraints:
    return pb.NodeConstraints(required_affinity=terms)


def _asked(place: Place, request: pb.AllocateRequest) -> None:
    with place.measured():
        reason = place.ask(request)
    place.remark(f"{request.ByteSize():,} B" + (f", refused: {reason}" if reason else ""))


# -- rows: what is asked


def nothing(place: Place) -> None:
    """nothing, for comparison: a small Allocate alone"""
    with place.measured():
        time.sleep(2)


def affinity_100(place: Place) -> None:
    """100 affinity terms"""
    _asked(place, ask("terms", affinity(expressions(1, values=2) for _ in range(100))))


def affinity_1000(place: Place) -> None:
    """1,000 affinity terms"""
    _asked(place, ask("terms", affinity(expressions(1, values=2) for _ in range(1000))))


def affinity_expressions(place: Place) -> None:
    """50,000 expressions in one affinity term (900 kB)"""
    _asked(place, ask("expressions", affinity([expressions(50_000, "NotIn")])))


def affinity_values(place: Place) -> None:
    """one NotIn of 130,000 values"""
    _asked(place, ask("values", affinity([expressions(1, "NotIn", values=105_000)])))


def affinity_largest(place: Place) -> None:
    """the most that is accepted: terms of one expression, then expressions of one term, then values"""
    shapes: list[tuple[str, Callable[[int], pb.NodeConstraints]]] = [
        ("terms", lambda n: affinity(expressions(1, values=2) for _ in range(n))),
        ("expressions", lambda n: affinity([expressions(n, "NotIn")])),
        ("values", lambda n: affinity([expressions(1, "NotIn", values=n)])),
    ]
    largest = []
    for what, made in shapes:
        low, high = 0, 1 << 16
        while high - low > 1:
            middle = (low + high) // 2
            is_accepted = place.ask(ask(what, made(middle), dry_run=True)) != "TOO_COMPLEX"
            low, high = (middle, high) if is_accepted else (low, middle)
            if high == 1 << 16 and low > 1 << 12:
                break  # nobody counts
        largest.append((what, low, made))
    with place.measured():
        for what, most, made in largest:
            place.ask(ask(what, made(most)))
    place.remark(", ".join(f"{most:,} {what}" for what, most, _ in largest))


def selectors_kept(place: Place) -> None:
    """256 changes of Nodes, while 64 candidate sets of 100 terms are kept"""
    for _ in range(64):
        place.ask(ask("kept", affinity(expressions(1, values=2) for _ in range(100)), dry_run=True))
    changed = [_node(number, changed=str(next(_serial))) for number in range(256)]
    with place.measured():
        _observe(place, nodes=changed)


def nodes_relisted(place: Place) -> None:
    """5,000 Nodes changed in one list, while 1,000 Pods wait for a node"""
    place.on_loop(_restore, place, [_waiting(200_000 + at, 41_000 + at) for at in range(1_000)])
    _tell_nodes(place, [_node(number, changed="1") for number in range(NODES)])


def shim_product(place: Place) -> None:
    """512 ports x 5,000 containers through the shim (a dry run of 113 kB)"""
    from hostport.flags import Address  # noqa: PLC0415 - of this row alone
    from shim.runtime import Shim, ShimOptions  # noqa: PLC0415

    nowhere = Address("127.0.0.1", 0)

    async def start() -> Any:
        return Shim(ShimOptions(listen=nowhere, http=nowhere, allocator=Address("127.0.0.1", place.port)))

    shim = place.on_loop(start)
    body = json.dumps(_review(512, 5_000), separators=(",", ":")).encode()
    with place.measured():
        connection = HTTPConnection(shim.address.host, shim.address.port, timeout=CALL_SECONDS)
        connection.request("POST", "/mutate?timeout=30s", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        size = len(answer.read())
    place.remark(f"a review of {len(body):,} B")
    place.bound("answer", size / MIB, 1.0, "MiB")
    place.on_loop(shim.stop)


def _review(ports: int, containers: int) -> dict[str, Any]:
    first = {"name": "c", "ports": [{"name": f"p{at}", "containerPort": 2_000 + at} for at in range(ports)]}
    others = [{"name": f"c{at}"} for at in range(1, containers)]
    annotations = {"hostport.io/enabled": "true", "hostport.io/policy": "Dynamic"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "wide", "namespace": "caller", "annotations": annotations},
        "spec": {"containers": [first, *others]},
    }
    request = {
        "uid": "u",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "caller",
        "operation": "CREATE",
        "dryRun": True,
        "object": pod,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def memory_of_dry_runs(place: Place) -> None:
    """60 different dry runs of a megabyte"""
    reasons: set[str] = set()
    for _ in range(3):
        place.ask(ask("small", dry_run=True))
    before = resident_mib()
    with place.measured():
        for _ in range(60):
            term = expressions(1, "NotIn", values=1)
            term.match_expressions[0].values[:] = [f"{next(_serial):010}" * 1000 for _ in range(100)]
            reasons.add(place.ask(ask("large", affinity([term]), dry_run=True)))
    place.remark(" ".join(sorted(filter(None, reasons))) or "accepted")
    place.bound("growth", resident_mib() - before, 50.0, "MiB")


def many_ports(place: Place) -> None:
    """512 ports in a well filled range"""
    ports = [pb.PortRequest(container="c", container_port=1_000 + at) for at in range(512)]
    _asked(place, ask("ports", range=pb.PortRange(min=LOW, max=LOW + WIDTH - 1), ports=ports))


def fewer_ports(place: Place) -> None:
    """300 ports in a well filled range of 301 numbers"""
    ports = [pb.PortRequest(container="c", container_port=1_000 + at) for at in range(300)]
    _asked(place, ask("ports", range=pb.PortRange(min=LOW, max=LOW + 300), ports=ports))


def full_range(place: Place) -> None:
    """a denial: a range of 50,000 numbers that is full on its two nodes"""
    _fill_range(place)
    wide = _wide(Constraints(selector=(("full", "y"),)))
    times = place.cpu_ms(lambda _: _is_refused(place, wide), 20)
    with place.measured():
        place.ask(
            ask("denied", pb.NodeConstraints(node_selector={"full": "y"}), range=pb.PortRange(min=10_000, max=59_999))
        )
    place.bound("denial", median(times), 2.0, "ms")


def _fill_range(place: Place) -> None:
    """Two nodes with a label of their own, full from 10,000 to 59,999."""
    pods = [
        _pod(300_000 + node * 100 + at, *range(10_000 + at * 500, 10_500 + at * 500), node=_name(node))
        for node in (10, 11)
        for at in range(100)
    ]
    place.on_loop(
        lambda: place.engine.ledger.observe(ClusterChange(nodes=[_node(10, full="y"), _node(11, full="y")]), now=0.0)
    )
    place.on_loop(lambda: place.engine.ledger.observe(ClusterChange(pods=pods), now=0.0))


def _wide(within: Constraints) -> Ask:
    """One port in the full range."""
    return Ask(
        owner=Owner(namespace="caller", name="denied"),
        ports=(PortAsk(container="c", container_port=80),),
        policy=DYNAMIC,
        low=10_000,
        high=59_999,
        constraints=within,
    )


def _is_refused(place: Place, asked: Ask) -> None:
    try:
        place.engine.ledger.preview(asked, 0.0)
    except Refused:
        return
    raise AssertionError("it was granted")


def _reserve(place: Place, asked: Ask) -> None:
    claim_id = ClaimId(f"bench-{next(_serial)}")
    place.engine.ledger.reserve(asked, claim_id, 0.0)
    place.engine.ledger.abort(claim_id)


def _dynamic(name: str, within: Constraints | None = None) -> Ask:
    return Ask(
        owner=Owner(namespace="caller", name=f"{name}-{next(_serial)}"),
        ports=(
            PortAsk(container="c", name="a", container_port=80),
            PortAsk(container="c", name="b", container_port=81),
        ),
        policy=DYNAMIC,
        low=30_000,
        high=40_000,
        constraints=within or Constraints(),
    )


def daemonset(place: Place) -> None:
    """a DaemonSet's rollout: 1,000 asks, each for a node by its name"""

    def pinned(number: int) -> Constraints:
        field = Requirement(key="metadata.name", operator="In", values=(_name(number),))
        tolerations = (Toleration(key="node.kubernetes.io/not-ready", operator="Exists"),)
        return Constraints(affinity=(Term(fields=(field,)),), tolerations=tolerations)

    ordinary = median(place.cpu_ms(lambda _: _reserve(place, _dynamic("ordinary")), 200))
    of_one = median(place.cpu_ms(lambda at: _reserve(place, _dynamic("pinned", pinned(at))), 200))
    requests = []
    for number in range(1_000):
        field = pb.NodeRequirement(key="metadata.name", operator="In", values=[_name(2_000 + number)])
        requests.append(ask("ds", affinity([pb.NodeTerm(match_fields=[field])])))
    with place.measured():
        for start in range(0, len(requests), TOGETHER):
            some = requests[start : start + TOGETHER]
            futures = [place.stub.Allocate.future(each, timeout=CALL_SECONDS) for each in some]
            for future in futures:
                future.result()
    place.remark(f"{1000 * of_one:.0f} µs an ask, an ordinary one {1000 * ordinary:.0f} µs")
    place.bound("ratio", of_one / ordinary, 2.0, "")


def first_seen(place: Place) -> None:
    """a selector that was never seen"""

    def fresh(number: int) -> Constraints:
        selector = (("zone", str(number % 10)),)
        return Constraints(selector=selector, tolerations=(Toleration(key=f"new-{next(_serial)}"),))

    times = place.cpu_ms(lambda at: place.engine.ledger.preview(_dynamic("fresh", fresh(at)), 0.0), 60)
    with place.measured():
        for number in range(100):
            selector = {"zone": str(number % 10)}
            toleration = pb.Toleration(key=f"new-{next(_serial)}")
            place.ask(ask("fresh", pb.NodeConstraints(node_selector=selector, tolerations=[toleration])))
    place.bound("decision", median(times), 3.0, "ms")


def stream_of_asks(place: Place) -> None:
    """10,000 asks in one message on one stream"""
    asks = [
        pb.AllocateStreamRequest.Ask(tag=tag, request=pb.AllocateRequest(owner=pb.Owner(kind="Pod"), stride=tag + 1))
        for tag in range(10_000)
    ]
    _stream(place, asks)


def stream_of_grants(place: Place) -> None:
    """5,000 asks that are granted, in one message on one stream"""
    asks = []
    for tag in range(5_000):
        request = ask("s", range=None, policy=pb.POLICY_STATIC)
        request.ports[0].host_port = 1_024 + tag
        asks.append(pb.AllocateStreamRequest.Ask(tag=tag, request=request))
    _stream(place, asks)


def _stream(place: Place, asks: Sequence[pb.AllocateStreamRequest.Ask]) -> None:
    message = pb.AllocateStreamRequest(asks=asks)
    answers = 0
    with place.measured():
        try:
            for answer in place.stub.AllocateStream(iter([message]), timeout=CALL_SECONDS):
                answers += len(answer.answers)
        except grpc.RpcError as error:
            place.remark(f"ended: {reason_of(error)}")
    place.remark(f"{message.ByteSize():,} B, {answers:,} answers")


def stream_unread(place: Place) -> None:
    """a stream whose answers are not read: 40 messages of 32 large asks"""
    gate = threading.Event()

    def messages() -> Iterator[pb.AllocateStreamRequest]:
        for _ in range(40):
            request = ask(
                "unread",
                dry_run=True,
                ports=[pb.PortRequest(container="c", container_port=1 + at) for at in range(256)],
            )
            asks = [pb.AllocateStreamRequest.Ask(tag=next(_serial), request=request) for _ in range(32)]
            yield pb.AllocateStreamRequest(asks=asks)
        gate.wait(CALL_SECONDS)

    before = resident_mib()
    call = place.stub.AllocateStream(messages(), timeout=CALL_SECONDS)
    with place.measured():
        time.sleep(4)
    place.remark(f"growth {resident_mib() - before:.0f} MiB")
    call.cancel()
    gate.set()


# -- rows: what the cluster does


def _observe(place: Place, **changes: Any) -> None:
    place.on_loop(lambda: place.engine.maintenance.observe(ClusterChange(**changes, lists_pods=True)))


def _restore(place: Place, claims: Iterable[Claim]) -> None:
    """Stands them in the books, by hand: as many asks would take longer than what is measured."""
    place.engine.ledger.restore(claims, 0.0)
    place.engine.ledger.replan()
    place.engine.ledger.take_changes()


def _waiting(number: int, *ports: int, **more: Any) -> Claim:
    return _claim(number, *ports, state=State.CONFIRMED, **more)


def rejections_by_scheduler(place: Place) -> None:
    """256 Pods whose status says that the scheduler found no node, each for nodes of its own, in one batch"""
    claims = [_waiting(200_000 + at, LOW + at, constraints=_own(at)) for at in range(256)]
    place.on_loop(_restore, place, claims)
    rejection = PortRejection(RejectedBy.SCHEDULER, 3_000)
    pods = [
        _pod(200_000 + at, LOW + at, node=None, carried_id=claim.id, constraints=claim.constraints, rejection=rejection)
        for at, claim in enumerate(claims)
    ]
    with place.measured():
        _observe(place, pods=pods)
        time.sleep(2)


def _own(number: int) -> Constraints:
    """A candidate set that nobody else has: every node."""
    return Constraints(tolerations=(Toleration(key=f"own-{number}"),))


def rejections_by_kubelets(place: Place) -> None:
    """256 Pods that their kubelets refused, in one batch"""
    claims = [_claim(200_000 + at, LOW + at, node=_name(at), state=State.BOUND) for at in range(256)]
    place.on_loop(_restore, place, claims)
    pods = [
        _pod(200_000 + at, LOW + at, node=_name(at), is_finished=True, rejection=PortRejection(RejectedBy.KUBELET))
        for at in range(256)
    ]
    with place.measured():
        _observe(place, pods=pods)


def _fill(place: Place, nodes: range, *numbers: int, first: int, **more: Any) -> None:
    """Pods that were never granted anything, one on each of some nodes, with these numbers."""
    pods = [_pod(first + at, *numbers, node=_name(node), **more) for at, node in enumerate(nodes)]
    place.on_loop(lambda: place.engine.ledger.observe(ClusterChange(pods=pods), now=0.0))


def waiting_pods(place: Place) -> None:
    """5,000 waiting Pods, and 20 releases"""
    _fill(place, range(10), 9_000, first=300_000)
    within = Constraints(selector=(("pool", "p0"),))
    place.on_loop(_restore, place, [_waiting(200_000 + at, 9_000, constraints=within) for at in range(5_000)])
    with place.measured():
        for at in range(20):
            _observe(place, gone_pods=[PodUid(f"pod-{at}")])
            time.sleep(0.02)
    place.remark(f"{1000 * place.stall.spent / 20:.1f} ms of CPU for each, with ticks and others")


def waiting_pairs(place: Place) -> None:
    """500 waiting Pods of two ports, and an unrelated deletion"""
    _fill(place, range(2_200), 9_000, first=300_000)
    _fill(place, range(2_200, 4_400), 9_001, first=310_000)
    plans = [_waiting(220_000 + at, 9_000, 9_001, node=_name(4_400 + at)) for at in range(600)]
    place.on_loop(place.engine.ledger.restore, plans, 0.0)
    place.on_loop(place.engine.ledger.restore, [_waiting(230_000 + at, 9_000, 9_001) for at in range(500)], 0.0)
    place.on_loop(lambda: place.engine.ledger.take_changes() and None)
    with place.measured():
        _observe(place, gone_pods=[PodUid("pod-60000")])


def terminating(place: Place) -> None:
    """1,000 terminating Static Pods, and 20 successors"""
    _fill(place, range(1_000), 9_000, first=300_000, is_terminating=True)
    within = pb.NodeConstraints(node_selector={"thousand": "0"})
    reasons = []
    with place.measured():
        for _ in range(20):
            request = ask("successor", within, range=None, policy=pb.POLICY_STATIC)
            request.ports[0].host_port = 9_000
            reasons.append(place.ask(request))
    refused = [reason for reason in reasons if reason]
    place.remark(f"{len(refused)} of 20 refused {' '.join(set(refused))}")


def pods_gone(place: Place) -> None:
    """50,000 Pods gone in one list"""
    _list(place, [], {PodUid(f"pod-{at}") for at in range(OURS)})


def pods_seen(place: Place) -> None:
    """50,000 Pods seen first in one list"""
    pages = [[_sketch(400_000 + page * 500 + at, 50_000 + page % 1_000) for at in range(500)] for page in range(100)]
    _list(place, pages, set())


def _list(place: Place, pages: list[list[PodSketch]], missing: set[PodUid]) -> None:
    """Tells a list as the follower does: 256 objects in a turn, and its end."""
    sink = PodSink(place.engine.maintenance, place.engine.maintenance.proven)
    sink._missing = missing  # noqa: SLF001 - what a whole list lacks

    async def tell() -> None:
        for page in pages:
            for start in range(0, len(page), TUNING.batch):
                await in_turns(sink.listed(page[start : start + TUNING.batch]))
        await in_turns(sink.complete(0.0))

    with place.measured():
        place.on_loop(tell)


def _sketch(pod: int, number: int) -> PodSketch:
    return msgspec.convert(
        {
            "metadata": {"name": f"pod-{pod}", "namespace": _ns(pod), "uid": f"pod-{pod}"},
            "spec": {
                "nodeName": _name(pod % NODES),
                "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": number}]}],
            },
        },
        PodSketch,
    )


# -- rows: time and the journal


def leases(place: Place) -> None:
    """100,000 leases: a tick"""
    place.on_loop(_restore, place, _leases(100_000, 1e12))
    with place.measured():
        time.sleep(2)


def leases_end(place: Place) -> None:
    """50,000 leases that end at one moment"""
    end = place.engine.clock() + 1e6
    place.on_loop(_restore, place, _leases(50_000, end))
    with place.measured():
        place.clock_shift = 1e6 + 60.0
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline and place.engine.ledger.claims.tally().states.get(State.LEASED):
            time.sleep(0.1)
    left = place.engine.ledger.claims.tally().states.get(State.LEASED, 0)
    place.remark(f"{left:,} left")


def _leases(number: int, end: float) -> list[Claim]:
    return [
        _claim(500_000 + at, 3_000 + at // NODES, node=_name(at % NODES), state=State.LEASED, expires=end)
        for at in range(number)
    ]


def _journalled(place: Place, number: int) -> None:
    """So many claims in the journal."""

    async def fill() -> None:
        for start in range(0, number, 1_000):
            entries: list[Entry] = [
                Put(_claim(600_000 + at, 80, state=State.CONFIRMED)) for at in range(start, start + 1_000)
            ]
            await place.journal.submit(entries, lambda: True)

    place.on_loop(fill)


def leases_recovered(place: Place) -> None:
    """100,000 leases that the cluster has stored are taken up at the start, 20,000 others have ended"""
    place.on_loop(_restore, place, _leases(20_000, 1e12))
    recorded = [Recorded(claim, None) for claim in _leases(120_000, 1e12)[20_000:]]

    async def recover() -> None:
        await in_turns(place.engine.recovery.recover_leases(recorded))

    with place.measured():
        place.on_loop(recover)
    place.remark(f"{len(place.engine.recovery.leases()):,} in force")


class _Nothing:
    """Objects that need nothing written."""


def leases_reconciled(place: Place) -> None:
    """100,000 leases and their objects are held against each other"""
    claims = _leases(100_000, 1e12)
    place.on_loop(_restore, place, claims)
    cache = PortLeaseCache()
    for claim in claims:
        cache.put(
            PortLease(
                namespace="lessee",
                name=claim.id,
                uid=claim.id,
                version=1,
                id=claim.id,
                claim=claim,
                left=ttl_of(claim, 0.0),
                expires=shown_end(claim, 0.0),
            )
        )
    durability = LeaseDurability(place.journal, _Nothing(), cache, now=place.engine.clock)  # type: ignore[arg-type]
    reconciler = LeaseReconciler(
        _Nothing(),  # type: ignore[arg-type]
        api=_Nothing(),  # type: ignore[arg-type]
        cache=cache,
        durability=durability,
        books=place.engine.recovery,
        legacy=lambda: Legacy.EVERYTHING,
        may_write=lambda: True,
        clock=place.engine.clock,
    )
    with place.measured():
        is_whole = place.on_loop(reconciler.reconcile)
    place.remark("nothing to do" if is_whole else "something failed")


def reservations_dated(place: Place) -> None:
    """100,000 reservations of a time without Pods get their deadlines"""
    ledger = place.engine.ledger
    claims = [
        _claim(500_000 + at, 3_000 + at // NODES, node=_name(at % NODES), state=State.RESERVED) for at in range(100_000)
    ]
    place.on_loop(_restore, place, claims)
    place.on_loop(_until_mended, ledger)
    ledger.limits.confirms = False
    with place.measured():
        _observe(place)
        place.on_loop(_until_mended, ledger)
    undated = sum(1 for claim in ledger.claims if claim.state is State.RESERVED and claim.expires is None)
    place.remark(f"{undated:,} left")


async def _until_mended(ledger: Ledger) -> None:
    while ledger.has_more_to_replan:
        ledger.replan()
        await asyncio.sleep(0)


def failed_commit(place: Place) -> None:
    """a commit that fails, with 100,000 claims in the journal"""
    _journalled(place, 100_000)
    commit, fails = place.journal._commit, [1]  # noqa: SLF001 - no disk is full here

    def failing() -> Any:
        if fails:
            fails.clear()
            return JournalError("as if the disk were full")
        return commit()

    with place.measured():
        place.journal._commit = failing  # type: ignore[method-assign]  # noqa: SLF001
        time.sleep(1)
        reason = place.ask(ask("after"))
    place.remark("it goes on" if not reason else f"it does not go on: {reason}")


# -- rows: what an attack found


def scope_chain(place: Place) -> None:
    """5,000 Pods that wait, each for one of two nodes, in a chain: an ask that moves them all"""
    chain = [_waiting(200_000 + at, 7_000, constraints=_of_two(at), node=_name(at)) for at in range(NODES - 2)]
    place.on_loop(_restore, place, chain)
    within = affinity([_either(0)])
    reasons = []
    with place.measured():
        for more in (_fixed(7_000), {"range": pb.PortRange(min=7_000, max=7_000)}):
            reasons += [place.ask(ask("chain", within, **more)) for _ in range(5)]
    place.remark(" ".join(sorted(set(reasons))))


def _fixed(number: int) -> dict[str, Any]:
    """Of an ask for one number under Static."""
    ports = [pb.PortRequest(container="c", container_port=80, host_port=number)]
    return {"policy": pb.POLICY_STATIC, "range": None, "ports": ports}


def _of_two(number: int) -> Constraints:
    """A node and the next one."""
    values = (_name(number), _name(number + 1))
    wish = Requirement(key="kubernetes.io/hostname", operator="In", values=values)
    return Constraints(affinity=(Term(expressions=(wish,)),))


def _either(number: int) -> pb.NodeTerm:
    values = [_name(number), _name(number + 1)]
    return pb.NodeTerm(
        match_expressions=[pb.NodeRequirement(key="kubernetes.io/hostname", operator="In", values=values)]
    )


def _tell_nodes(place: Place, nodes: Iterable[Node] = (), gone: Collection[NodeName] = ()) -> None:
    """Tells what the cluster's Nodes are now, as the follower does."""
    sink = NodeSink(place.engine.maintenance)
    told = sink._nodes = {_name(number): _node(number) for number in range(NODES)}  # noqa: SLF001
    left = {name: node for name, node in told.items() if name not in gone}
    sink._listed = {**left, **{node.name: node for node in nodes}}  # noqa: SLF001

    async def tell() -> None:
        await in_turns(sink.complete(0.0))

    with place.measured():
        place.on_loop(tell)


def nodes_under_selectors(place: Place) -> None:
    """32 Nodes changed at once, while 5,000 Pods wait, each with a selector of its own"""
    claims = [
        _waiting(
            200_000 + at,
            7_000 + at % 1_000,
            constraints=Constraints(selector=(("kubernetes.io/hostname", _name(at)), ("kubernetes.io/os", "linux"))),
            node=_name(at),
        )
        for at in range(NODES)
    ]
    place.on_loop(_restore, place, claims)
    _tell_nodes(place, [_node(number, changed="1") for number in range(32)])


def nodes_of_many_ports(place: Place) -> None:
    """256 Nodes with 512 ports each go from one zone to another, under 40 candidate sets that are kept"""
    for at in range(256):
        _fill(place, range(at, at + 1), *range(40_000, 40_512), first=300_000 + at)
    for at in range(40):
        within = pb.NodeConstraints(
            node_selector={"zone": str(at % 10)}, tolerations=[pb.Toleration(key=f"kept-{next(_serial)}")]
        )
        place.ask(ask("kept", within, dry_run=True, range=pb.PortRange(min=40_000, max=40_600)))
    _tell_nodes(place, [_node(number, zone=str((number + 1) % 10)) for number in range(256)])


def reports(place: Place) -> None:
    """the agent of a node tells 5,000 sockets, and then 5,000 others, under 40 candidate sets that are kept"""
    for _ in range(40):
        tolerations = [pb.Toleration(key=f"kept-{next(_serial)}")]
        within = pb.NodeConstraints(node_selector={"zone": "5"}, tolerations=tolerations)
        place.ask(ask("kept", within, dry_run=True, range=pb.PortRange(min=40_000, max=60_000)))
    messages = [
        pb.ReportNodeRequest(
            node=_name(5),
            snapshot=at == 0,
            more=at < 4,
            opened=[
                pb.Socket(protocol=pb.PROTOCOL_TCP, port=low + 1_000 * at + n, process="flood") for n in range(1_000)
            ],
        )
        for low in (40_000, 50_000)
        for at in range(5)
    ]
    with place.measured():
        for message in (messages[:5], messages[5:]):
            try:
                list(place.stub.ReportNode(iter(message), timeout=CALL_SECONDS))
            except grpc.RpcError as error:
                place.remark(f"ended: {reason_of(error)}")
    sockets = place.engine.ledger.nodes.sockets.of(_name(5))
    place.remark(f"{len(sockets) if sockets else 0:,} sockets are open")


def nodes_gone(place: Place) -> None:
    """61 Nodes go at once, one with 10,000 sockets, the others with 500 each, under 40 candidate sets that are kept"""
    for _ in range(40):
        tolerations = [pb.Toleration(key=f"kept-{next(_serial)}")]
        within = pb.NodeConstraints(node_selector={"zone": "5"}, tolerations=tolerations)
        place.ask(ask("kept", within, dry_run=True, range=pb.PortRange(min=40_000, max=60_000)))
    for number, sockets in ((5, 10_000), *((5 + 10 * at, 500) for at in range(1, 61))):
        opened = [(slot_of(Protocol.TCP, 40_000 + at), listener(WILDCARD, "flood", 0)) for at in range(sockets)]
        report = SocketChange(node=_name(number), opened=opened, facts=NodeFacts())
        place.engine.maintenance.observe(ClusterChange(reports=(report,), lists_pods=False))
    gone = {_name(5 + 10 * at) for at in range(61)}
    _tell_nodes(place, gone=gone)
    place.remark(f"{sum(place.engine.ledger.nodes.sockets.of(name) is not None for name in gone)} left")


def ranges_first_asked(place: Place) -> None:
    """300 ranges are asked for first, on 5,000 nodes whose agents each keep other numbers from another range"""
    for number in range(NODES):
        kept = span(33_000 + number % 3_000, 33_040 + number % 3_000)
        facts = NodeFacts((32_768 + number, 60_999), kept, reserves=True)
        _observe(place, reports=(SocketChange(node=_name(number), facts=facts),))
    upcoming = place.application.agents.upcoming
    place.engine.around.asked = upcoming.ask
    asks = [
        ask("first", dry_run=True, range=pb.PortRange(min=40_000 + at, max=60_000), policy=pb.POLICY_DYNAMIC)
        for at in range(300)
    ]
    _stream(place, [pb.AllocateStreamRequest.Ask(tag=tag, request=each) for tag, each in enumerate(asks, 1)])
    place.remark(f"{place.on_loop(upcoming.numbers).bit_count():,} numbers are kept")


def addresses(place: Place) -> None:
    """512 ports on 64 addresses asked for, and 64 blocks, where every node has their numbers on its own address"""

    def address(at: int) -> str:
        return f"10.0.{at >> 8}.{at & 255}"

    numbers = range(9_100, 9_108)
    slots = slots_of(Protocol.TCP, numbers)
    for at in range(NODES):
        opened = [(slot, listener(address(at), "exporter", 0)) for slot in slots]
        change = SocketChange(node=_name(at), opened=opened, facts=NodeFacts())
        place.on_loop(lambda change=change: place.engine.ledger.observe(ClusterChange(reports=[change]), now=0.0))

    def port(of: int, number: int, count: int = 1) -> pb.PortRequest:
        name, ip = f"p{of}-{number}", address(of)
        return pb.PortRequest(container="c", name=name, container_port=80, host_port=number, host_ip=ip, count=count)

    singles = [port(of, number) for of in range(64) for number in numbers]
    blocks = [port(of, numbers[0], len(numbers)) for of in range(64)]
    requests = [ask("addresses", policy=pb.POLICY_STATIC, range=None, ports=ports) for ports in (singles, blocks)]
    with place.measured():
        reasons = [place.ask(request) for request in requests]
    place.remark(" ".join(reason or "granted" for reason in reasons))


def priorities(place: Place) -> None:
    """3,000 priorities of Pods: an ask that may preempt, small ones, and changes of Pods"""
    pods = [_pod(300_000 + at, 9_000, node=_name(at), priority=at) for at in range(3_000)]
    place.on_loop(lambda: place.engine.ledger.observe(ClusterChange(pods=pods), now=0.0))
    request = ask("ranked", priority=2_999, may_preempt=True, **_fixed(9_000))
    within = pb.NodeConstraints(node_selector={"thousand": "0"})
    wide = ask("ranked", within, range=pb.PortRange(min=9_000, max=9_511), priority=2_000)
    wide.ports.extend(pb.PortRequest(container="c", container_port=1_000 + at) for at in range(511))
    reasons = []
    with place.measured():
        for at in range(5):
            reasons.append(place.ask(request))
            reasons.append(place.ask(wide))
            _observe(place, gone_pods=[PodUid(f"pod-{300_000 + at}")])
    place.remark(" ".join(sorted(filter(None, set(reasons)))))


def ports_among_leases(place: Place) -> None:
    """512 ports asked for where there are 55,000 leases"""
    leased = [
        _claim(500_000 + at, 1_024 + at % 55_000, node=_name(at % NODES), state=State.LEASED, expires=1e12)
        for at in range(55_000)
    ]
    place.on_loop(_restore, place, leased)
    ports = [pb.PortRequest(container="c", container_port=1_000 + at) for at in range(512)]
    pinned = affinity(
        [pb.NodeTerm(match_fields=[pb.NodeRequirement(key="metadata.name", operator="In", values=[_name(7)])])]
    )
    reasons = []
    with place.measured():
        for within in (None, pinned):
            for low, high in ((1_024, 56_000), (30_000, 34_000)):
                reasons.append(place.ask(ask("ports", within, range=pb.PortRange(min=low, max=high), ports=ports)))
    place.remark(" ".join(reason or "granted" for reason in reasons))


COOLING_LOW, COOLING = 22_000, 32_768


def _cool(place: Place) -> None:
    """As many numbers as are remembered cool on one of two nodes with a label, and somebody has each on the other."""
    nodes = [_node(10, cool="y"), _node(11, cool="y")]
    place.on_loop(lambda: place.engine.ledger.observe(ClusterChange(nodes=nodes), now=0.0))
    numbers = range(COOLING_LOW, COOLING_LOW + COOLING)
    for first, node in ((300_000, 10), (310_000, 11)):
        pods = [
            _pod(first + at, *numbers[at * 500 : (at + 1) * 500], node=_name(node)) for at in range(-(-COOLING // 500))
        ]
        place.on_loop(lambda pods=pods: place.engine.ledger.observe(ClusterChange(pods=pods), now=0.0))
    gone = [PodUid(f"pod-{300_000 + at}") for at in range(-(-COOLING // 500))]
    _observe(place, gone_pods=gone)


def _beside_cooling(name: str, seconds: int, **more: Any) -> pb.AllocateRequest:
    within = pb.NodeConstraints(node_selector={"cool": "y"})
    numbers = pb.PortRange(min=COOLING_LOW, max=COOLING_LOW + COOLING - 1)
    request = ask(name, within, range=numbers, **more)
    request.cool_down.seconds = seconds
    return request


def _blocks_beside_cooling(place: Place) -> None:
    mixed = [
        pb.PortRequest(container="c", container_port=1_000 + at, count=3 + at % 3, alignment=1 + at % 7)
        for at in range(256)
    ]
    owner = pb.Owner(kind="Service", namespace="caller", name="relay")
    with place.measured():
        reason = place.ask(_beside_cooling("lease", 60, ports=mixed, owner=owner, dry_run=True))
    place.remark(reason or "granted")


def blocks_among_cooling(place: Place) -> None:
    """a lease of 256 blocks of several sizes, where 32,768 numbers cool on one node and are held on another"""
    _cool(place)
    _blocks_beside_cooling(place)


def blocks_in_gaps(place: Place) -> None:
    """the same where every seventh number is held besides, so that there is no room for one that begins at a seventh"""
    _cool(place)
    sevenths = range(-(-COOLING_LOW // 7) * 7, COOLING_LOW + COOLING, 7)
    pods = [_pod(320_000 + at, *sevenths[at : at + 500], node=_name(10)) for at in range(0, len(sevenths), 500)]
    _observe(place, pods=pods)
    _blocks_beside_cooling(place)


APART_LOW = 30_000


def blocks_apart(place: Place) -> None:
    """3 asks with a toleration that was never seen, where 3,000 blocks of 1,000 numbers all begin elsewhere"""
    pods = []
    for at in range(3_000):
        first = APART_LOW + at * 7 % 9_000 + 10_000 * (at // 1_000)
        port = ClaimPort(container="c", container_port=80, host_port=first, count=1_000)
        pods.append(msgspec.structs.replace(_pod(330_000 + at, node=_name(at % 1_000)), ports=(port,)))
    for at in range(0, len(pods), 500):
        _observe(place, pods=pods[at : at + 500])
    numbers = pb.PortRange(min=APART_LOW, max=60_000)
    with place.measured():
        for _ in range(3):
            within = pb.NodeConstraints(tolerations=[pb.Toleration(key=f"new-{next(_serial)}")])
            place.remark(place.ask(ask("apart", within, range=numbers, dry_run=True)) or "granted")


def cool_downs_first_seen(place: Place) -> None:
    """20 cool-downs of lengths that nobody asked for yet, where 32,768 numbers cool"""
    _cool(place)
    with place.measured():
        reasons = {place.ask(_beside_cooling("cool", 60 + at, dry_run=True)) for at in range(20)}
    place.remark(" ".join(sorted(filter(None, reasons))) or "granted")


def full_first_seen(place: Place) -> None:
    """a denial with a selector that was never seen, in a range of 50,000 numbers that is full on its two nodes"""
    _fill_range(place)

    def fresh(_: int) -> Constraints:
        return Constraints(selector=(("full", "y"),), tolerations=(Toleration(key=f"new-{next(_serial)}"),))

    times = place.cpu_ms(lambda at: _is_refused(place, _wide(fresh(at))), 20)
    with place.measured():
        for _ in range(20):
            within = pb.NodeConstraints(
                node_selector={"full": "y"}, tolerations=[pb.Toleration(key=f"new-{next(_serial)}")]
            )
            place.ask(ask("denied", within, range=pb.PortRange(min=10_000, max=59_999)))
    place.bound("denial", median(times), 3.0, "ms")


# -- rows: who reads


def _pages(place: Place, **filters: Any) -> None:
    found = pages = 0
    request = pb.ListAllocationsRequest(page_size=1_000, **filters)
    with place.measured():
        while pages < 40:
            page = place.stub.ListAllocations(request, timeout=CALL_SECONDS)
            found, pages = found + len(page.allocations), pages + 1
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    place.remark(f"{found:,} in {pages} pages, {1000 * place.stall.spent / pages:.0f} ms of CPU each")


def list_all(place: Place) -> None:
    """ListAllocations: 40 pages of 1,000"""
    _pages(place)


def list_small(place: Place) -> None:
    """ListAllocations: 100 pages of 10, one caller after the other"""
    with place.measured():
        for _ in range(100):
            place.stub.ListAllocations(pb.ListAllocationsRequest(page_size=10), timeout=CALL_SECONDS)
    place.remark(f"{1000 * place.stall.spent / 100:.1f} ms of CPU each")


def list_filtered(place: Place) -> None:
    """ListAllocations with a filter that nothing passes"""
    _pages(place, owner_name="nobody")


def list_node(place: Place) -> None:
    """ListAllocations of one node"""
    _pages(place, node=_name(17))


def list_nodes(place: Place) -> None:
    """ListNodes: all pages of 1,000"""
    request = pb.ListNodesRequest(page_size=1_000)
    with place.measured():
        while True:
            page = place.stub.ListNodes(request, timeout=CALL_SECONDS)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break


def get_node(place: Place) -> None:
    """GetNode of a node with 20,000 ports, five times; 100 of an ordinary one, and of one that is unknown"""
    pods = [_pod(300_000 + at, *range(30_000 + at * 100, 30_100 + at * 100), node=_name(5)) for at in range(200)]
    place.on_loop(lambda: place.engine.ledger.observe(ClusterChange(pods=pods), now=0.0))
    with place.measured():
        for _ in range(5):
            place.stub.GetNode(pb.GetNodeRequest(name=_name(5)), timeout=CALL_SECONDS)
        for at in range(100):
            place.stub.GetNode(pb.GetNodeRequest(name=_name(at + 10)), timeout=CALL_SECONDS)
            try:
                place.stub.GetNode(pb.GetNodeRequest(name="nowhere"), timeout=CALL_SECONDS)
            except grpc.RpcError:
                continue


def scrape(place: Place) -> None:
    """a scrape of the metrics, while 5,000 Pods wait"""
    _fill(place, range(10), 9_000, first=300_000)
    within = Constraints(selector=(("pool", "p0"),))
    place.on_loop(_restore, place, [_waiting(200_000 + at, 9_000, constraints=within) for at in range(5_000)])
    with place.measured():
        for _ in range(5):
            place.on_loop(lambda: len(generate_latest(place.metrics.registry)))


def watch(place: Place) -> None:
    """WatchAllocations of 150,000, and 20,000 changes as fast as the cluster brings them"""
    _watch(place)


def watch_single(place: Place) -> None:
    """the same for a client that takes one event in a message"""
    _watch(place, "--single")


def _watch(place: Place, *flags: str) -> None:
    command = [sys.executable, "-m", "bench.watcher", f"--address=127.0.0.1:{place.port}", *flags]
    with place.measured(), subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout
        try:
            began = time.perf_counter()
            word, number = watcher.stdout.readline().split()
            place.remark(f"{word} with {number} after {time.perf_counter() - began:.1f} s")
            began = time.perf_counter()
            place.on_loop(_churn, place, 20_000)
            told = time.perf_counter() - began
            last = _last_change(watcher.stdout, 20_000)
            rate = 20_000 / (time.perf_counter() - began)
            place.remark(f"20,000 changes told in {told:.1f} s, {last}: {rate:,.0f}/s")
        finally:
            watcher.kill()


def _last_change(lines: Iterable[str], number: int) -> str:
    for line in lines:
        word, what = line.split()
        if word == "ended" or int(what) >= number:
            return f"{word} {what}"
    return "nothing"


async def _churn(place: Place, number: int) -> None:
    """New Pods, 256 in a turn."""
    for start in range(0, number, 256):
        pods = [
            _pod(700_000 + at, 5_000 + at % 1_000, node=_name(at % NODES))
            for at in range(start, min(number, start + 256))
        ]
        place.engine.maintenance.observe(ClusterChange(pods=pods, lists_pods=True))
        await asyncio.sleep(0)


ROWS: tuple[Row, ...] = (
    nothing,
    affinity_100,
    affinity_1000,
    affinity_expressions,
    affinity_values,
    affinity_largest,
    selectors_kept,
    nodes_relisted,
    shim_product,
    memory_of_dry_runs,
    many_ports,
    fewer_ports,
    full_range,
    daemonset,
    first_seen,
    stream_of_asks,
    stream_of_grants,
    stream_unread,
    rejections_by_scheduler,
    rejections_by_kubelets,
    waiting_pods,
    waiting_pairs,
    terminating,
    pods_gone,
    pods_seen,
    leases,
    leases_end,
    leases_recovered,
    leases_reconciled,
    reservations_dated,
    failed_commit,
    scope_chain,
    nodes_under_selectors,
    nodes_of_many_ports,
    reports,
    nodes_gone,
    ranges_first_asked,
    addresses,
    priorities,
    ports_among_leases,
    blocks_among_cooling,
    blocks_in_gaps,
    blocks_apart,
    cool_downs_first_seen,
    full_first_seen,
    list_all,
    list_small,
    list_filtered,
    list_node,
    list_nodes,
    get_node,
    scrape,
    watch,
    watch_single,
)


def stalls(options: Options) -> bool:
    """Measures and prints the table. Whether every bound held."""
    rows = [row for row in ROWS if not options.only or any(word in row.__name__ for word in options.only)]
    ledger, is_fine = build(), True
    print(
        "| row | input | time | longest turn, CPU | worst wait beside | warnings |\n|---|---|---|---|---|---|",
        flush=True,
    )
    speeds = []
    for row in rows:
        speeds.append(milliseconds_of_reference())
        stall = _best(ledger, row)
        broken = _broken(stall)
        is_fine = is_fine and not broken
        print(_line(row, stall, broken), flush=True)
    print(
        f"\nPlain Python that took {REFERENCE_MILLISECONDS:g} ms where the bounds were set took {min(speeds):.0f} to"
        f" {max(speeds):.0f} here."
    )
    return is_fine


def _best(ledger: Ledger, row: Row) -> Stall:
    """The first run of a row that keeps its bounds, or the one with the shortest turn."""
    stalls = []
    for _ in range(TRIES):
        stalls.append(measure(ledger, row, MOST_ROW_SECONDS))
        if not _broken(stalls[-1]):
            break
    best = min(stalls, key=lambda stall: (len(_broken(stall)), stall.longest))
    if len(stalls) > 1:
        turns = ", ".join(f"{1000 * stall.longest:.0f}" for stall in stalls)
        best.warnings.append(f"the best of {turns} ms")
    return best


def _broken(stall: Stall) -> list[str]:
    turn = ["turn"] if 1000 * stall.longest > MOST_TURN_MS else []
    return [*turn, *stall.broken]


def _line(row: Row, stall: Stall, broken: Sequence[str]) -> str:
    cells = [
        row.__name__,
        row.__doc__ or "",
        f"{stall.seconds:.2f} s",
        f"{1000 * stall.longest:.0f} ms",
        f"{1000 * stall.wait:.0f} ms",
        "; ".join([*stall.warnings, *([f"**BROKEN: {', '.join(broken)}**"] if broken else [])]),
    ]
    return f"| {' | '.join(cells)} |"
