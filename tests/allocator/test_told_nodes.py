"""Nodes and Pods of a list are told a few at a time: each concerns all of its ports and all candidate sets."""

from __future__ import annotations

import pytest

from allocator.cluster.sinks import MOST_GONE, NodeSink, PodSink
from allocator.core.candidates import Constraints, Toleration
from allocator.core.claims import ClusterChange, PodUid
from allocator.maintenance import NODE_WEIGHT, SETS_OF_A_PORT
from allocator.slices import MOST_WEIGHT
from testing.kit import Desk, ask, node


class Hearer:
    """Takes down how much it is told at a time."""

    def __init__(self, weight: int = NODE_WEIGHT) -> None:
        self.told: list[int] = []
        self.weight = weight

    def node_weight(self) -> int:
        return self.weight

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
    assert (sum(hearer.told), max(hearer.told)) == (100, MOST_GONE)


def test_a_candidate_set_counts_as_long_as_it_is_kept() -> None:
    desk = Desk(node("a"))
    before = desk.ledger.nodes.candidate_sets
    desk.ledger.claims.candidate_count(
        desk.grant(ask("web", "x:1", constraints=Constraints(tolerations=(Toleration(key="t"),))))
    )
    assert desk.ledger.nodes.candidate_sets == before + 1
