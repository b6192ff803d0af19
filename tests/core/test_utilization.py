"""How full ranges are, seen in a walk over the nodes."""

from __future__ import annotations

from typing import Any

import pytest

from allocator.core.index.ports import MANY_PORTS, NodeEntry
from allocator.core.ports import parse_numbers
from allocator.core.watch.utilization import FULLEST_NODES, MOST_RANGES, UtilizationSnapshot
from testing.costing import instructions
from testing.kit import Desk, ask, on, pod


def fill(desk: Desk, node: str, count: int, low: int = 7000, high: int = 7009) -> None:
    for number in range(count):
        desk.grant(ask(f"{node}-{low}-{number}", "web:80", constraints=on(node), low=low, high=high))


def picture(desk: Desk, *, most: int = 1000) -> UtilizationSnapshot:
    """After a whole walk, and the walk that was under way before."""
    for _ in range(4):
        desk.ledger.utilization.step(most)
    return desk.ledger.claims.tally().utilization


def test_a_range_is_measured_on_the_nodes_where_it_is_used() -> None:
    desk = Desk("n1", "n2", "n3", "n4")
    fill(desk, "n1", 10)
    fill(desk, "n2", 5)
    fill(desk, "n3", 1)

    seen = picture(desk)

    (use,) = seen.ranges
    assert (use.bounds, use.size, use.used) == ((7000, 7009), 10, (1, 5, 10))
    assert [use.quantile(q) for q in (0.0, 0.5, 0.9, 1.0)] == [0.1, 0.5, 1.0, 1.0]
    assert [use.nodes_up_to(ratio) for ratio in (0.1, 0.5, 0.95, 1.0)] == [1, 2, 2, 3]
    assert seen.fullest == ((1.0, "n1", (7000, 7009)), (0.5, "n2", (7000, 7009)), (0.1, "n3", (7000, 7009)))


def test_numbers_of_a_node_of_very_many_ports_count_once_whatever_the_protocol() -> None:
    desk = Desk("n1", reserved=parse_numbers("7000-7004"))
    fill(desk, "n1", 1)
    many = [f"p{at}:{at}" for at in range(20_000, 20_000 + MANY_PORTS)]
    desk.observe(pods=[pod("stranger", "x:7008", "y:7008/UDP", "z:7009/UDP", "w:7000", *many, at="n1")])

    (use,) = picture(desk, most=10_000).ranges

    assert (use.size, use.used) == (5, (3,))


def test_reserved_numbers_are_no_room_and_unmanaged_pods_use_some() -> None:
    desk = Desk("n1", reserved=parse_numbers("7000-7004"))
    fill(desk, "n1", 1)
    desk.observe(pods=[pod("stranger", "x:7009", "y:7000", "z:9999", at="n1")])

    (use,) = picture(desk).ranges

    assert (use.size, use.used) == (5, (2,))


def test_a_node_with_blocks_takes_few_instructions_for_each_of_them() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod(f"p{at}", f"x:1={at}*1000", at="n1", uid=f"p{at}") for at in range(20_000, 50_000, 1_000)])
    desk.grant(ask("web", "x:1", low=20_000, high=60_000))

    assert instructions(lambda: picture(desk)) < 30 * 1_000
    (use,) = picture(desk).ranges
    assert use.used == (30_001,)


def test_a_walk_goes_a_few_nodes_at_a_time() -> None:
    desk = Desk(*[f"n{at}" for at in range(10)])
    fill(desk, "n9", 1)
    desk.ledger.utilization.step(9)
    assert desk.ledger.claims.tally().utilization == UtilizationSnapshot()

    desk.ledger.utilization.step(9)
    assert [use.used for use in desk.ledger.claims.tally().utilization.ranges] == [(1,)]


def test_a_crowded_node_is_looked_at_whole_and_leaves_the_others_for_later() -> None:
    desk = Desk("n1", "n2")
    fill(desk, "n1", 10)
    fill(desk, "n2", 1)
    desk.ledger.utilization.step(5)
    assert desk.ledger.claims.tally().utilization == UtilizationSnapshot()

    desk.ledger.utilization.step(5)
    assert [use.used for use in desk.ledger.claims.tally().utilization.ranges] == [(1, 10)]


def test_figures_are_bounded_however_large_the_cluster() -> None:
    nodes = [f"n{at}" for at in range(30)]
    desk = Desk(*nodes)
    for at, node in enumerate(nodes):
        fill(desk, node, 2, low=1000 * at + 1, high=1000 * at + 10)

    seen = picture(desk)

    assert (len(seen.ranges), len(seen.fullest)) == (MOST_RANGES, FULLEST_NODES)


def test_a_range_that_nobody_uses_any_more_is_forgotten() -> None:
    desk = Desk("n1")
    claim = desk.grant(ask("a", "web:80"))
    assert len(picture(desk).ranges) == 1

    desk.ledger.end(claim.id, desk.now)

    assert picture(desk) == UtilizationSnapshot()


def test_a_port_that_two_pods_hold_on_a_node_is_seen() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("a", "x:80@10.0.0.1", at="n1"), pod("b", "x:80@10.0.0.2", at="n1")])
    assert picture(desk).held_twice == 0

    desk.observe(pods=[pod("c", "x:80", at="n1")])

    assert picture(desk).held_twice == 1


def test_a_pod_and_its_successor_may_hold_one_port() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("db-0", "x:80", at="n1", uid="old"), pod("db-0", "x:80", at="n1", uid="new")])

    assert picture(desk).held_twice == 0


def test_nobody_walks_as_long_as_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk("n1", "n2", "n3")
    fill(desk, "n1", 2)
    looked: list[str] = []
    held = NodeEntry.held

    def looking(entry: NodeEntry) -> Any:
        looked.append(entry.node.name)
        return held(entry)

    monkeypatch.setattr(NodeEntry, "held", looking)
    for _ in range(3):
        desk.ledger.utilization.step(1000)
    assert looked == ["n1", "n2", "n3"]

    fill(desk, "n2", 1)
    assert [use.used for use in picture(desk).ranges] == [(1, 2)]
    assert looked == ["n1", "n2", "n3"] * 2


def test_what_changes_during_a_walk_is_seen_by_the_next_one() -> None:
    desk = Desk("n1", "n2", "n3")
    fill(desk, "n3", 1)
    desk.ledger.utilization.step(1)
    fill(desk, "n1", 1)

    assert [use.used for use in picture(desk).ranges] == [(1, 1)]


@pytest.mark.parametrize(
    ("pods", "twice"),
    [
        pytest.param([("a", "x:1=7000"), ("b", "x:1=7000")], 1, id="one number"),
        pytest.param([("a", "x:1=7000"), ("b", "x:1=7001")], 0, id="two numbers"),
        pytest.param([("a", "x:1=7000"), ("b", "x:1/UDP=7000")], 0, id="two protocols"),
        pytest.param([("a", "x:1=7000@10.0.0.1"), ("b", "x:1=7000@10.0.0.2")], 0, id="two addresses"),
        pytest.param([("a", "x:1=7000@10.0.0.1"), ("b", "x:1=7000@10.0.0.1")], 1, id="one address"),
        pytest.param([("a", "x:1=7000@10.0.0.1"), ("b", "x:1=7000")], 1, id="an address and every address"),
        pytest.param([("a", "x:1=7000"), ("a", "x:1=7000")], 0, id="a Pod and its successor"),
        pytest.param([("a", "x:1=7000*8"), ("b", "x:1=7004*8")], 4, id="blocks that meet"),
        pytest.param([("a", "x:1=7000*8"), ("b", "x:1=7004@10.0.0.1")], 1, id="a block and an address"),
    ],
)
def test_a_number_that_two_have_on_one_node_is_counted(pods: list[tuple[str, str]], twice: int) -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod(name, port, at="n1", uid=f"u{at}") for at, (name, port) in enumerate(pods)])

    assert picture(desk).held_twice == twice


def test_to_compare_many_holders_of_many_numbers_costs_what_they_are() -> None:
    desk = Desk("n1")
    ports = [f"x{n}:{n}@10.0.0.{{of}}" for n in range(7000, 7512)]
    pods = [pod(f"p{of}", *[each.format(of=of) for each in ports], at="n1") for of in range(16)]
    desk.observe(pods=pods)

    assert instructions(lambda: desk.ledger.utilization.step(1)) < 1_000_000
