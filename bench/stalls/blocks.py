"""Rows of blocks of ports, and of numbers that cool."""

from __future__ import annotations

from typing import Any

import msgspec

from allocator.core.claims import ClaimPort, ClusterChange, PodUid
from bench.stalls.cluster import NODES, a_node, a_pod, node_name, observe
from bench.stalls.messages import ask, serial
from bench.turns import Place
from hostport.v1 import allocator_pb2 as pb

COOLING_LOW, COOLING = 22_000, 32_768
APART_LOW = 30_000


def blocks_among_cooling(place: Place) -> None:
    """a lease of 256 blocks of several sizes, where 32,768 numbers cool on one node and are held on another"""
    _cool(place)
    _blocks_beside_cooling(place)


def blocks_in_gaps(place: Place) -> None:
    """the same where every seventh number is held besides, so that there is no room for one that begins at a seventh"""
    _cool(place)
    sevenths = range(-(-COOLING_LOW // 7) * 7, COOLING_LOW + COOLING, 7)
    pods = [a_pod(320_000 + at, *sevenths[at : at + 500], node=node_name(10)) for at in range(0, len(sevenths), 500)]
    observe(place, pods=pods)
    _blocks_beside_cooling(place)


def _blocks_beside_cooling(place: Place) -> None:
    mixed = [
        pb.PortRequest(container="c", container_port=1_000 + at, count=3 + at % 3, alignment=1 + at % 7)
        for at in range(256)
    ]
    owner = pb.Owner(kind="Service", namespace="caller", name="relay")
    with place.measured():
        reason = place.ask(_beside_cooling("lease", 60, ports=mixed, owner=owner, dry_run=True))
    place.remark(reason or "granted")


def ports_of_many_kinds(place: Place) -> None:
    """512 ports beside the same, each on an address of its own, and then each with an alignment of its own"""
    _cool(place)
    kinds = [
        [
            pb.PortRequest(container="c", container_port=1 + at, host_ip=f"10.0.{at >> 8}.{at & 255}")
            for at in range(512)
        ],
        [pb.PortRequest(container="c", container_port=1 + at, alignment=2 + at) for at in range(512)],
    ]
    with place.measured():
        for ports in kinds:
            for owner in (pb.Owner(kind="Service", namespace="caller", name="relay"), None):
                more = {"owner": owner} if owner else {}
                place.remark(place.ask(_beside_cooling("kinds", 60, ports=ports, dry_run=True, **more)) or "granted")


def _beside_cooling(name: str, seconds: int, **more: Any) -> pb.AllocateRequest:
    within = pb.NodeConstraints(node_selector={"cool": "y"})
    numbers = pb.PortRange(min=COOLING_LOW, max=COOLING_LOW + COOLING - 1)
    request = ask(name, within, range=numbers, **more)
    request.cool_down.seconds = seconds
    return request


def _cool(place: Place) -> None:
    """As many numbers as are remembered cool on one of two nodes with a label, and somebody has each on the other."""
    nodes = [a_node(10, cool="y"), a_node(11, cool="y")]
    place.on_loop(lambda: place.engine.ledger.observe(ClusterChange(nodes=nodes), now=0.0))
    numbers = range(COOLING_LOW, COOLING_LOW + COOLING)
    for first, node in ((300_000, 10), (310_000, 11)):
        pods = [
            a_pod(first + at, *numbers[at * 500 : (at + 1) * 500], node=node_name(node))
            for at in range(-(-COOLING // 500))
        ]
        place.on_loop(lambda pods=pods: place.engine.ledger.observe(ClusterChange(pods=pods), now=0.0))
    gone = [PodUid(f"pod-{300_000 + at}") for at in range(-(-COOLING // 500))]
    observe(place, gone_pods=gone)


def blocks_apart(place: Place) -> None:
    """3 asks with a toleration that was never seen, where 3,000 blocks of 1,000 numbers all begin elsewhere"""
    pods = []
    for at in range(3_000):
        first = APART_LOW + at * 7 % 9_000 + 10_000 * (at // 1_000)
        port = ClaimPort(container="c", container_port=80, host_port=first, count=1_000)
        pods.append(msgspec.structs.replace(a_pod(330_000 + at, node=node_name(at % 1_000)), ports=(port,)))
    for at in range(0, len(pods), 500):
        observe(place, pods=pods[at : at + 500])
    numbers = pb.PortRange(min=APART_LOW, max=60_000)
    with place.measured():
        for _ in range(3):
            within = pb.NodeConstraints(tolerations=[pb.Toleration(key=f"new-{next(serial)}")])
            place.remark(place.ask(ask("apart", within, range=numbers, dry_run=True)) or "granted")


def ports_among_blocks_apart(place: Place) -> None:
    """6 ports of two kinds, 256 blocks, 512 fixed ports, where 5,000 nodes have 4 long blocks that begin elsewhere"""
    pods = []
    for at in range(4 * NODES):
        first = APART_LOW - 1_000 + at // NODES * 1_000 + at * 7 % 1_000
        port = ClaimPort(container="c", container_port=80, host_port=first, count=999)
        pods.append(msgspec.structs.replace(a_pod(340_000 + at, node=node_name(at % NODES)), ports=(port,)))
    for at in range(0, len(pods), 500):
        observe(place, pods=pods[at : at + 500])
    kinds = [
        pb.PortRequest(container="c", container_port=1 + at, host_ip=ip) for at in range(3) for ip in ("", "10.0.0.1")
    ]
    small = [pb.PortRequest(container="c", container_port=1 + at, count=2 + at % 3) for at in range(256)]
    fixed = [pb.PortRequest(container="c", container_port=1 + at, host_port=APART_LOW + 5 * at) for at in range(512)]
    numbers = pb.PortRange(min=APART_LOW, max=APART_LOW + 2_999)
    with place.measured():
        for ports, policy in ((kinds, pb.POLICY_DYNAMIC), (small, pb.POLICY_DYNAMIC), (fixed, pb.POLICY_STATIC)):
            place.remark(place.ask(ask("apart", range=numbers, ports=ports, policy=policy, dry_run=True)) or "granted")


def cool_downs_first_seen(place: Place) -> None:
    """20 cool-downs of lengths that nobody asked for yet, where 32,768 numbers cool"""
    _cool(place)
    with place.measured():
        reasons = {place.ask(_beside_cooling("cool", 60 + at, dry_run=True)) for at in range(20)}
    place.remark(" ".join(sorted(filter(None, reasons))) or "granted")
