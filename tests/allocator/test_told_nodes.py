"""Nodes and Pods of a list are told a few at a time: each concerns all of its ports and all candidate sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from allocator.app.build import Collaborators, build
from allocator.cluster.decoding import JsonDecoder, WatchEvent
from allocator.cluster.projection import NodeSketch
from allocator.cluster.sinks import NodeSink, PodSink
from allocator.core.candidates import Constraints, NodeName, Toleration
from allocator.core.claims import CLAIM_WEIGHT, ClusterChange, PodUid
from allocator.journal.memory import MemoryJournal
from allocator.maintenance import NODE_WEIGHT, SETS_OF_A_PORT
from allocator.slices import MOST_WEIGHT
from testing.clock import FunctionClock
from testing.kit import Desk, ask, lease, node, on, report


class Hearer:
    """Takes down how much it is told at a time."""

    def __init__(self, weight: int = NODE_WEIGHT) -> None:
        self.told: list[int] = []
        self.weight = weight

    def pod_weight(self, uid: PodUid) -> int:
        return 100 if uid == "u7" else CLAIM_WEIGHT

    def node_weight(self) -> int:
        return self.weight

    def close_sockets(self, name: NodeName) -> Iterator[None]:
        return iter(())

    def observe(self, change: ClusterChange) -> None:
        some = (change.nodes, change.gone_nodes, change.pods, change.gone_pods)
        self.told.append(sum(len(list(each)) for each in some))

    def known_pods(self) -> set[PodUid]:
        return {PodUid(f"u{at}") for at in range(100)}


@pytest.mark.parametrize(
    ("sets", "most"),
    [
        pytest.param(0, MOST_WEIGHT // NODE_WEIGHT, id="few"),
        pytest.param(1_000, 3, id="a thousand candidate sets"),
        pytest.param(5_000, 1, id="five thousand"),
    ],
)
def test_fewer_nodes_are_told_at_a_time_the_more_candidate_sets_are_kept(sets: int, most: int) -> None:
    hearer = Hearer(NODE_WEIGHT + sets // SETS_OF_A_PORT)
    sink = NodeSink(hearer)  # type: ignore[arg-type]
    sink._listed = {each.name: each for each in map(node, map(str, range(20)))}
    for _ in sink.complete(0.0):
        pass
    assert (sum(hearer.told), max(hearer.told)) == (20, most)


def test_pods_that_a_list_lacks_are_told_a_few_at_a_time() -> None:
    hearer = Hearer()
    sink = PodSink(hearer, lambda _: None)  # type: ignore[arg-type]
    sink.began()
    for _ in sink.complete(0.0):
        pass
    most = MOST_WEIGHT // CLAIM_WEIGHT
    assert (sum(hearer.told), max(hearer.told), len(hearer.told)) == (100, most, 5)


def test_a_candidate_set_counts_as_long_as_it_is_kept() -> None:
    desk = Desk(node("a"))
    before = desk.ledger.nodes.candidate_sets
    desk.ledger.claims.candidate_count(
        desk.grant(ask("web", "x:1", constraints=Constraints(tolerations=(Toleration(key="t"),))))
    )
    assert desk.ledger.nodes.candidate_sets == before + 1


# -- a Node that was made anew


class Watching(Hearer):
    """Tells a ledger."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def observe(self, change: ClusterChange) -> None:
        self._desk.ledger.observe(change, now=self._desk.now)


def event(kind: str, uid: str, **more: Any) -> WatchEvent[NodeSketch]:
    metadata = {"name": "n1", "uid": uid, "resourceVersion": "7"} | more
    return JsonDecoder(NodeSketch).event(json.dumps({"type": kind, "object": {"metadata": metadata}}).encode())


def in_two_batches(sink: NodeSink) -> Iterable[Iterable[None]]:
    return sink.changed([event("DELETED", "old")]), sink.changed([event("ADDED", "new")])


def in_one_batch(sink: NodeSink) -> Iterable[Iterable[None]]:
    return (sink.changed([event("DELETED", "old"), event("ADDED", "new")]),)


def in_a_list(sink: NodeSink) -> Iterable[Iterable[None]]:
    sink.began()
    return sink.listed([event("ADDED", "new").object]), sink.complete(0.0)


@pytest.mark.parametrize("anew", [in_two_batches, in_one_batch, in_a_list])
def test_a_node_that_was_made_anew_is_another_machine(anew: Callable[[NodeSink], Iterable[Iterable[None]]]) -> None:
    """What its agent said is void, leases stay, and plans are made anew: the same however both are told."""
    desk = Desk()
    sink = NodeSink(Watching(desk))  # type: ignore[arg-type]
    _go_through([sink.changed([event("ADDED", "old")])])
    desk.observe(nodes=[node("n2")], reports=[report("n1", "sshd:7000")])
    desk.grant(lease("relay", "x:1=8000", policy="Static", constraints=on("n1")))
    desk.grant(ask("planned", "x:1=9000", policy="Static"))
    assert desk.refusal(ask("a", "x:1=7000", policy="Static", constraints=on("n1"))).keys() == {"PORT_CONFLICT"}
    assert [(claim.owner.name, claim.node) for claim in desk.ledger.claims] == [("relay", "n1"), ("planned", "n1")]

    _go_through(anew(sink))

    assert [(claim.owner.name, claim.node) for claim in desk.ledger.claims] == [("relay", "n1"), ("planned", "n2")]
    assert desk.ledger.nodes.sockets.reported_at(NodeName("n1")) is None
    assert desk.refusal(ask("b", "x:1=8000", policy="Static", constraints=on("n1"))).keys() == {"HELD_BY_LEASE"}
    assert desk.refusal(ask("a", "x:1=7000", policy="Static", constraints=on("n1"))) == {}


@pytest.mark.parametrize("anew", [in_one_batch, in_a_list])
def test_the_sockets_of_a_node_that_goes_are_closed_some_at_a_time(
    anew: Callable[[NodeSink], Iterable[Iterable[None]]],
) -> None:
    """What a step takes does not depend on how many there are, and the node is never unknown between two steps."""
    desk = Desk()
    clock = FunctionClock(lambda: desk.now)
    maintenance = build(Collaborators(ledger=desk.ledger, journal=MemoryJournal(), clock=clock)).engine.maintenance
    sink = NodeSink(maintenance)
    _go_through([sink.changed([event("ADDED", "old")])])
    desk.observe(reports=[report("n1", *(f"flood:{number}" for number in range(20_000, 21_000)))])
    left, known = [1_000], list[bool]()
    for steps in anew(sink):
        for _ in steps:
            sockets = desk.ledger.nodes.sockets.of(NodeName("n1"))
            left.append(0 if sockets is None else len(sockets))
            known.append(desk.ledger.nodes.is_known(NodeName("n1")))

    assert left[-1] == 0
    assert max(before - after for before, after in pairwise(left)) == maintenance.socket_slice() < 1_000
    assert all(known)


@pytest.mark.parametrize(
    ("events", "known"),
    [
        pytest.param([event("MODIFIED", "old", labels="x")], True, id="the same machine stays as it was"),
        pytest.param([event("MODIFIED", "new", labels="x")], False, id="another one is not known"),
        pytest.param([event("DELETED", "old"), event("ADDED", "new", labels="x")], False, id="nor one made anew"),
    ],
)
def test_a_node_that_cannot_be_read(events: list[WatchEvent[NodeSketch]], known: bool) -> None:
    desk = Desk()
    sink = NodeSink(Watching(desk))  # type: ignore[arg-type]
    _go_through([sink.changed([event("ADDED", "old")]), sink.changed(events)])

    assert desk.ledger.nodes.is_known(NodeName("n1")) is known


def _go_through(steps: Iterable[Iterable[None]]) -> None:
    for each in steps:
        for _ in each:
            pass
