"""Rows of asks that are heavy by what they meet.

That is a full range, a selector that is new, a rollout, a chain of Pods that wait, addresses, or priorities.
"""

from __future__ import annotations

from typing import Any

from allocator.core.asks import Ask, PortAsk, Refused
from allocator.core.candidates import Constraints, Requirement, Term, Toleration
from allocator.core.claims import ClaimId, ClusterChange, Owner, PodUid
from allocator.core.place.policies import DYNAMIC
from allocator.core.ports import Protocol, slots_of
from allocator.core.sockets import NodeFacts, SocketChange, listener
from bench.stalls.cluster import NODES, a_node, a_pod, node_name, observe, restore, waiting
from bench.stalls.messages import affinity, ask, serial
from bench.turns import CALL_SECONDS, Place, median
from hostport.v1 import allocator_pb2 as pb

TOGETHER = 100
"""Calls at a time: an API server makes no more of one rollout, and a connection takes 256."""


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
        a_pod(300_000 + node * 100 + at, *range(10_000 + at * 500, 10_500 + at * 500), node=node_name(node))
        for node in (10, 11)
        for at in range(100)
    ]
    place.on_loop(
        lambda: place.engine.ledger.observe(ClusterChange(nodes=[a_node(10, full="y"), a_node(11, full="y")]), now=0.0)
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


def daemonset(place: Place) -> None:
    """a DaemonSet's rollout: 1,000 asks, each for a node by its name"""

    def pinned(number: int) -> Constraints:
        field = Requirement(key="metadata.name", operator="In", values=(node_name(number),))
        tolerations = (Toleration(key="node.kubernetes.io/not-ready", operator="Exists"),)
        return Constraints(affinity=(Term(fields=(field,)),), tolerations=tolerations)

    ordinary = median(place.cpu_ms(lambda _: _reserve(place, _dynamic("ordinary")), 200))
    of_one = median(place.cpu_ms(lambda at: _reserve(place, _dynamic("pinned", pinned(at))), 200))
    requests = []
    for number in range(1_000):
        field = pb.NodeRequirement(key="metadata.name", operator="In", values=[node_name(2_000 + number)])
        requests.append(ask("ds", affinity([pb.NodeTerm(match_fields=[field])])))
    with place.measured():
        for start in range(0, len(requests), TOGETHER):
            some = requests[start : start + TOGETHER]
            futures = [place.stub.Allocate.future(each, timeout=CALL_SECONDS) for each in some]
            for future in futures:
                future.result()
    place.remark(f"{1000 * of_one:.0f} µs an ask, an ordinary one {1000 * ordinary:.0f} µs")
    place.bound("ratio", of_one / ordinary, 2.0, "")


def _reserve(place: Place, asked: Ask) -> None:
    claim_id = ClaimId(f"bench-{next(serial)}")
    place.engine.ledger.reserve(asked, claim_id, 0.0)
    place.engine.ledger.abort(claim_id)


def _dynamic(name: str, within: Constraints | None = None) -> Ask:
    return Ask(
        owner=Owner(namespace="caller", name=f"{name}-{next(serial)}"),
        ports=(
            PortAsk(container="c", name="a", container_port=80),
            PortAsk(container="c", name="b", container_port=81),
        ),
        policy=DYNAMIC,
        low=30_000,
        high=40_000,
        constraints=within or Constraints(),
    )


def first_seen(place: Place) -> None:
    """a selector that was never seen"""

    def fresh(number: int) -> Constraints:
        selector = (("zone", str(number % 10)),)
        return Constraints(selector=selector, tolerations=(Toleration(key=f"new-{next(serial)}"),))

    times = place.cpu_ms(lambda at: place.engine.ledger.preview(_dynamic("fresh", fresh(at)), 0.0), 60)
    with place.measured():
        for number in range(100):
            selector = {"zone": str(number % 10)}
            toleration = pb.Toleration(key=f"new-{next(serial)}")
            place.ask(ask("fresh", pb.NodeConstraints(node_selector=selector, tolerations=[toleration])))
    place.bound("decision", median(times), 3.0, "ms")


def scope_chain(place: Place) -> None:
    """5,000 Pods that wait, each for one of two nodes, in a chain: an ask that moves them all"""
    chain = [waiting(200_000 + at, 7_000, constraints=_of_two(at), node=node_name(at)) for at in range(NODES - 2)]
    place.on_loop(restore, place, chain)
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
    values = (node_name(number), node_name(number + 1))
    wish = Requirement(key="kubernetes.io/hostname", operator="In", values=values)
    return Constraints(affinity=(Term(expressions=(wish,)),))


def _either(number: int) -> pb.NodeTerm:
    values = [node_name(number), node_name(number + 1)]
    return pb.NodeTerm(
        match_expressions=[pb.NodeRequirement(key="kubernetes.io/hostname", operator="In", values=values)]
    )


def addresses(place: Place) -> None:
    """512 ports on 64 addresses asked for, and 64 blocks, where every node has their numbers on its own address"""

    def address(at: int) -> str:
        return f"10.0.{at >> 8}.{at & 255}"

    numbers = range(9_100, 9_108)
    slots = slots_of(Protocol.TCP, numbers)
    for at in range(NODES):
        opened = [(slot, listener(address(at), "exporter", 0)) for slot in slots]
        change = SocketChange(node=node_name(at), opened=opened, facts=NodeFacts())
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
    pods = [a_pod(300_000 + at, 9_000, node=node_name(at), priority=at) for at in range(3_000)]
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
            observe(place, gone_pods=[PodUid(f"pod-{300_000 + at}")])
    place.remark(" ".join(sorted(filter(None, set(reasons)))))


def full_first_seen(place: Place) -> None:
    """a denial with a selector that was never seen, in a range of 50,000 numbers that is full on its two nodes"""
    _fill_range(place)

    def fresh(_: int) -> Constraints:
        return Constraints(selector=(("full", "y"),), tolerations=(Toleration(key=f"new-{next(serial)}"),))

    times = place.cpu_ms(lambda at: _is_refused(place, _wide(fresh(at))), 20)
    with place.measured():
        for _ in range(20):
            within = pb.NodeConstraints(
                node_selector={"full": "y"}, tolerations=[pb.Toleration(key=f"new-{next(serial)}")]
            )
            place.ask(ask("denied", within, range=pb.PortRange(min=10_000, max=59_999)))
    place.bound("denial", median(times), 3.0, "ms")
