"""Rows of Pods that the cluster tells of: refused by others, waiting, terminating, gone, or seen first."""

from __future__ import annotations

import time

import msgspec
from msgspec.structs import replace

from allocator.cluster.kubernetes import TUNING
from allocator.cluster.projection import PodSketch
from allocator.cluster.sinks import PodSink
from allocator.core.candidates import Constraints, Toleration
from allocator.core.claims import PodUid, PortRejection, RejectedBy, State
from allocator.slices import in_turns
from bench.stalls.cluster import (
    LOW,
    NODES,
    OURS,
    a_claim,
    a_pod,
    fill,
    namespace_of,
    node_name,
    observe,
    restore,
    waiting,
)
from bench.stalls.messages import ask, keep_sets
from bench.turns import Place
from hostport.v1 import allocator_pb2 as pb


def rejections_by_scheduler(place: Place) -> None:
    """256 Pods whose status says that the scheduler found no node, each for nodes of its own, in one batch"""
    claims = [waiting(200_000 + at, LOW + at, constraints=_own(at)) for at in range(256)]
    place.on_loop(restore, place, claims)
    rejection = PortRejection(RejectedBy.SCHEDULER, 3_000)
    pods = [
        a_pod(
            200_000 + at, LOW + at, node=None, carried_id=claim.id, constraints=claim.constraints, rejection=rejection
        )
        for at, claim in enumerate(claims)
    ]
    with place.measured():
        observe(place, pods=pods)
        time.sleep(2)


def _own(number: int) -> Constraints:
    """A candidate set that nobody else has: every node."""
    return Constraints(tolerations=(Toleration(key=f"own-{number}"),))


def rejections_by_kubelets(place: Place) -> None:
    """256 Pods that their kubelets refused, in one batch"""
    claims = [a_claim(200_000 + at, LOW + at, node=node_name(at), state=State.BOUND) for at in range(256)]
    place.on_loop(restore, place, claims)
    pods = [
        a_pod(200_000 + at, LOW + at, node=node_name(at), is_finished=True, rejection=PortRejection(RejectedBy.KUBELET))
        for at in range(256)
    ]
    with place.measured():
        observe(place, pods=pods)


def waiting_pods(place: Place) -> None:
    """5,000 waiting Pods, and 20 releases"""
    fill(place, range(10), 9_000, first=300_000)
    within = Constraints(selector=(("pool", "p0"),))
    place.on_loop(restore, place, [waiting(200_000 + at, 9_000, constraints=within) for at in range(5_000)])
    with place.measured():
        for at in range(20):
            observe(place, gone_pods=[PodUid(f"pod-{at}")])
            time.sleep(0.02)
    place.remark(f"{1000 * place.stall.spent / 20:.1f} ms of CPU for each, with ticks and others")


def waiting_pairs(place: Place) -> None:
    """500 waiting Pods of two ports, and an unrelated deletion"""
    fill(place, range(2_200), 9_000, first=300_000)
    fill(place, range(2_200, 4_400), 9_001, first=310_000)
    plans = [waiting(220_000 + at, 9_000, 9_001, node=node_name(4_400 + at)) for at in range(600)]
    place.on_loop(place.engine.ledger.restore, plans, 0.0)
    place.on_loop(place.engine.ledger.restore, [waiting(230_000 + at, 9_000, 9_001) for at in range(500)], 0.0)
    place.on_loop(lambda: place.engine.ledger.take_changes() and None)
    with place.measured():
        observe(place, gone_pods=[PodUid("pod-60000")])


def terminating(place: Place) -> None:
    """1,000 terminating Static Pods, and 20 successors"""
    fill(place, range(1_000), 9_000, first=300_000, is_terminating=True)
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


LARGE = range(40_000, 40_512)


def large_pods(place: Place) -> None:
    """64 Pods of 512 ports in one list, and all of them gone in the next, under 64 candidate sets that are kept"""
    keep_sets(place, 64)
    page = [_sketch(400_000 + at, *LARGE) for at in range(64)]
    _list(place, [page], set())
    _list(place, [], {PodUid(sketch.identity) for sketch in page})


def numbers_on_addresses(place: Place) -> None:
    """64 Pods with the same 512 numbers on one node, each on an address of its own: the walk for the metrics"""
    pods = [
        replace(pod, ports=tuple(replace(port, host_ip=f"10.0.0.{at}") for port in pod.ports))
        for at, pod in enumerate(a_pod(300_000 + at, *LARGE, node=node_name(0)) for at in range(64))
    ]
    for pod in pods:
        observe(place, pods=[pod])
    with place.measured():
        time.sleep(2)
    place.remark(f"{place.engine.ledger.claims.tally().utilization.held_twice} are held twice")


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


def _sketch(pod: int, *numbers: int) -> PodSketch:
    return msgspec.convert(
        {
            "metadata": {"name": f"pod-{pod}", "namespace": namespace_of(pod), "uid": f"pod-{pod}"},
            "spec": {
                "nodeName": node_name(pod % NODES),
                "containers": [{"name": "c", "ports": [{"containerPort": n, "hostPort": n} for n in numbers]}],
            },
        },
        PodSketch,
    )
