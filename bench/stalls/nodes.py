"""Rows of Nodes that change or go, and of what their agents report."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import grpc

from allocator.cluster.sinks import NodeSink
from allocator.core.candidates import Constraints, Node, NodeName
from allocator.core.claims import ClusterChange
from allocator.core.ports import WILDCARD, Protocol, slot_of, span
from allocator.core.sockets import NodeFacts, SocketChange, listener
from allocator.slices import in_turns
from bench.stalls.cluster import NODES, a_node, fill, node_name, observe, restore, waiting
from bench.stalls.messages import affinity, ask, expressions, keep_sets, serial, stream
from bench.turns import CALL_SECONDS, Place, reason_of
from hostport.v1 import allocator_pb2 as pb


def selectors_kept(place: Place) -> None:
    """256 changes of Nodes, while 64 candidate sets of 100 terms are kept"""
    for _ in range(64):
        place.ask(ask("kept", affinity(expressions(1, values=2) for _ in range(100)), dry_run=True))
    changed = [a_node(number, changed=str(next(serial))) for number in range(256)]
    with place.measured():
        observe(place, nodes=changed)


def nodes_relisted(place: Place) -> None:
    """5,000 Nodes changed in one list, while 1,000 Pods wait for a node"""
    place.on_loop(restore, place, [waiting(200_000 + at, 41_000 + at) for at in range(1_000)])
    _tell_nodes(place, [a_node(number, changed="1") for number in range(NODES)])


def _tell_nodes(place: Place, nodes: Iterable[Node] = (), gone: Collection[NodeName] = ()) -> None:
    """Tells what the cluster's Nodes are now, as the follower does."""
    sink = NodeSink(place.engine.maintenance)
    told = sink._nodes = {node_name(number): a_node(number) for number in range(NODES)}  # noqa: SLF001
    left = {name: node for name, node in told.items() if name not in gone}
    sink._listed = {**left, **{node.name: node for node in nodes}}  # noqa: SLF001

    async def tell() -> None:
        await in_turns(sink.complete(0.0))

    with place.measured():
        place.on_loop(tell)


def nodes_under_selectors(place: Place) -> None:
    """32 Nodes changed at once, while 5,000 Pods wait, each with a selector of its own"""
    claims = [
        waiting(
            200_000 + at,
            7_000 + at % 1_000,
            constraints=Constraints(
                selector=(("kubernetes.io/hostname", node_name(at)), ("kubernetes.io/os", "linux"))
            ),
            node=node_name(at),
        )
        for at in range(NODES)
    ]
    place.on_loop(restore, place, claims)
    _tell_nodes(place, [a_node(number, changed="1") for number in range(32)])


def nodes_of_many_ports(place: Place) -> None:
    """256 Nodes with 512 ports each go from one zone to another, under 40 candidate sets that are kept"""
    for at in range(256):
        fill(place, range(at, at + 1), *range(40_000, 40_512), first=300_000 + at)
    for at in range(40):
        keep_sets(place, 1, high=40_600, zone=str(at % 10))
    _tell_nodes(place, [a_node(number, zone=str((number + 1) % 10)) for number in range(256)])


def reports(place: Place) -> None:
    """the agent of a node tells 5,000 sockets, and then 5,000 others, under 40 candidate sets that are kept"""
    keep_sets(place, 40, zone="5")
    messages = [
        pb.ReportNodeRequest(
            node=node_name(5),
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
    sockets = place.engine.ledger.nodes.sockets.of(node_name(5))
    place.remark(f"{len(sockets) if sockets else 0:,} sockets are open")


def nodes_gone(place: Place) -> None:
    """61 Nodes go at once, one with 10,000 sockets, the others with 500 each, under 40 candidate sets that are kept"""
    keep_sets(place, 40, zone="5")
    for number, sockets in ((5, 10_000), *((5 + 10 * at, 500) for at in range(1, 61))):
        opened = [(slot_of(Protocol.TCP, 40_000 + at), listener(WILDCARD, "flood", 0)) for at in range(sockets)]
        report = SocketChange(node=node_name(number), opened=opened, facts=NodeFacts())
        place.engine.maintenance.observe(ClusterChange(reports=(report,), lists_pods=False))
    gone = {node_name(5 + 10 * at) for at in range(61)}
    _tell_nodes(place, gone=gone)
    place.remark(f"{sum(place.engine.ledger.nodes.sockets.of(name) is not None for name in gone)} left")


def ranges_first_asked(place: Place) -> None:
    """300 ranges are asked for first, on 5,000 nodes whose agents each keep other numbers from another range"""
    for number in range(NODES):
        kept = span(33_000 + number % 3_000, 33_040 + number % 3_000)
        facts = NodeFacts((32_768 + number, 60_999), kept, reserves=True)
        observe(place, reports=(SocketChange(node=node_name(number), facts=facts),))
    upcoming = place.application.agents.upcoming
    upcoming.note_given(0)  # as soon as an agent keeps numbers
    asks = [
        ask("first", dry_run=True, range=pb.PortRange(min=40_000 + at, max=60_000), policy=pb.POLICY_DYNAMIC)
        for at in range(300)
    ]
    stream(place, [pb.AllocateStreamRequest.Ask(tag=tag, request=each) for tag, each in enumerate(asks, 1)])
    place.remark(f"{place.on_loop(upcoming.numbers).bit_count():,} numbers are kept")
