"""Nodes and Pods of a list are told a few at a time: each concerns all of its ports and all candidate sets."""

from __future__ import annotations

from typing import Any

from kit import node

from allocator.cluster.kubernetes import MOST_GONE, MOST_NODES, _Nodes, _Pods
from allocator.core.claims import PodUid


class Hearer:
    """Takes down how much it is told at a time."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def observe(self, **changes: Any) -> None:
        self.told.append(sum(len(list(some)) for some in changes.values() if not isinstance(some, bool)))

    def known_pods(self) -> set[PodUid]:
        return {PodUid(f"u{at}") for at in range(100)}


def test_nodes_of_a_list_are_told_a_few_at_a_time() -> None:
    hearer = Hearer()
    sink = _Nodes(hearer)  # type: ignore[arg-type]
    sink._listed = {each.name: each for each in map(node, map(str, range(20)))}
    for _ in sink.complete(0.0):
        pass
    assert (sum(hearer.told), max(hearer.told)) == (20, MOST_NODES)


def test_pods_that_a_list_lacks_are_told_a_few_at_a_time() -> None:
    hearer = Hearer()
    sink = _Pods(hearer, lambda _: None)  # type: ignore[arg-type]
    sink.began()
    for _ in sink.complete(0.0):
        pass
    assert (sum(hearer.told), max(hearer.told)) == (100, MOST_GONE)
