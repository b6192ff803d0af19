"""What it costs to give many blocks of several sizes, counted in looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from allocator.core.asks import Ask, UndecidedError, WhenFull
from allocator.core.blocks import runs
from allocator.core.index.candidate_sets import HeldNumbers
from allocator.core.place import packing
from allocator.core.place.joint import RUN_STEPS, JointSearch, Stage
from allocator.core.place.policies import number_groups
from allocator.core.place.view import MOST_STEPS
from allocator.core.ports import PortKey, lowest, set_of
from allocator.core.reserved import ReservedNumbers
from testing.kit import Desk, ask, lease, pod

SIZES = [f"p{at}:{at + 1}*{3 + at % 3}" for at in range(255)]
"""Blocks of three sizes, with 1,020 numbers in all."""

AWKWARD = [f"p{at}:{at + 1}*{3 + at % 3}%{1 + at % 7}" for at in range(256)]
"""Blocks that do not fit into a range that is hardly larger, as one has to try."""

TIGHT = [f"p{at}:{at + 1}*{3 + at % 3}%{2 - at % 3 % 2}" for at in range(255)]
"""The same, of which many must begin at even numbers: 1,040 numbers are not enough, as one has to try."""


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often it was looked whether there is room for one more run."""
    found: list[int] = []

    def counted(numbers: int) -> int:
        found.append(numbers)
        return lowest(numbers)

    monkeypatch.setattr(packing, "lowest", counted)
    return found


def test_blocks_that_fit_one_after_the_other_are_given_without_looking_ahead(looks: list[int]) -> None:
    desk = Desk("full", "free")
    desk.observe(pods=[pod(f"h{at}", f"x:1={at}*600", at="full", uid=f"h{at}") for at in (20_000, 20_600)])
    given = desk.grant(lease("relay", *SIZES, low=20_000, high=21_099))

    assert given.node == "free"
    assert len(looks) <= len(SIZES)


def test_looking_for_room_for_many_blocks_is_bounded(looks: list[int]) -> None:
    desk = Desk("n1")
    with pytest.raises(UndecidedError):
        desk.grant(lease("relay", *TIGHT, low=20_000, high=21_039))

    assert len(looks) <= MOST_STEPS / packing.ROOM_STEPS


def _stand(desk: Desk, node: str, *ports: str, together: int) -> None:
    """Pods on a node, each with so many of the ports."""
    for part in range(0, len(ports), together):
        name = f"{node}-{part}"
        desk.observe(pods=[pod(name, *ports[part : part + together], at=node, uid=name)])


GAPS = [f"x{number}:1={number}" for number in range(20_006, 60_000, 7)]
"""Of seven numbers one is held, so that no block begins at a multiple of seven."""

WIDE_GAPS = GAPS[::7]
"""Between these there is room for every block of `AWKWARD`."""

FULL = [f"x{number}:1={number}*1000" for number in range(20_000, 60_000, 1_000)]


@pytest.mark.parametrize("asks", [lease, ask])
def test_blocks_of_many_kinds_are_found_on_the_node_where_fewest_stand(asks: Callable[..., Ask]) -> None:
    desk = Desk("full", "gaps")
    _stand(desk, "full", *FULL, together=1)
    _stand(desk, "gaps", *WIDE_GAPS, together=500)
    given = desk.grant(asks("relay", *AWKWARD, low=20_000, high=59_999))

    assert given.node == "gaps"


def _grid(*free: int) -> Desk:
    """Twelve nodes with blocks of 100 on the grid of 20000-29999, but for so many of them on each node."""
    desk = Desk(*(f"n{at:02}" for at in range(len(free))))
    for at, left in enumerate(free):
        skipped = [(37 * (at + 1) + 13 * each) % 100 for each in range(left)]
        for block in set(range(100)) - set(skipped):
            uid = f"n{at:02}-{block}"
            desk.observe(pods=[pod(uid, f"x:1={20_000 + 100 * block}*100", at=f"n{at:02}", uid=uid)])
    return desk


@pytest.mark.parametrize("asks", [lease, ask])
def test_two_blocks_are_found_on_the_only_node_with_room_in_a_wide_range(asks: Callable[..., Ask]) -> None:
    desk = _grid(*[1] * 11, 2)

    assert desk.grant(asks("two", "a:1*100", "b:2*100", low=20_000, high=29_999)).node == "n11"


@pytest.mark.parametrize("asks", [lease, ask])
def test_that_no_node_has_room_for_two_blocks_is_proven_in_a_wide_range(asks: Callable[..., Ask]) -> None:
    desk = _grid(*[1] * 12)
    two = asks("two", "a:1*100", "b:2*100", low=20_000, high=29_999)

    assert set(desk.refusal(two)) == {"RANGE_EXHAUSTED"}


def test_a_pod_that_may_wait_is_pending_where_no_node_has_room_for_two_blocks() -> None:
    desk = _grid(*[1] * 12)
    two = ask("two", "a:1*100", "b:2*100", low=20_000, high=29_999, when_full=WhenFull.PENDING)

    assert desk.grant(two).node is None


@pytest.mark.parametrize("asks", [lease, ask])
def test_a_block_among_single_ports_is_found_on_the_only_node_with_room(asks: Callable[..., Ask]) -> None:
    desk = Desk(*(f"n{at}" for at in range(10)))
    for at in range(10):
        ports = [f"x{n}:1={n}" for n in range(20_000 + at, 30_000, 70) if at != 9 or not 27_000 <= n < 27_100]
        _stand(desk, f"n{at}", *ports, together=500)
    given = desk.grant(asks("block", "a:1*100", low=20_000, high=29_999))

    assert (given.node, given.ports[0].host_port) == ("n9", 27_000)


def test_looks_at_where_runs_are_free_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[tuple[PortKey, ...]] = []
    look = JointSearch._nodes_for

    def counted(search: JointSearch, keys: tuple[PortKey, ...], nodes: int, stage: Stage) -> int:
        looks.append(keys)
        return look(search, keys, nodes, stage)

    monkeypatch.setattr(JointSearch, "_nodes_for", counted)
    desk = Desk("f1", "f2", "n1", "n2")
    for full, gaps in (("f1", "n1"), ("f2", "n2")):
        _stand(desk, full, *FULL, together=1)
        _stand(desk, gaps, *GAPS, together=100)
    with pytest.raises(UndecidedError):
        desk.grant(lease("relay", *[f"{text}@10.0.0.1" for text in AWKWARD], low=20_000, high=59_999))

    assert 100 < len(looks) <= MOST_STEPS / RUN_STEPS


def test_that_blocks_have_no_room_anywhere_is_read_from_the_nodes() -> None:
    desk = Desk("n1", "n2")
    for at in ("n1", "n2"):
        _stand(desk, at, *GAPS, together=500)

    assert set(desk.refusal(lease("relay", *AWKWARD, low=20_000, high=59_999))) == {"RANGE_EXHAUSTED"}


# -- groups that are alike in part: what they have in common is looked up once


ON_ADDRESSES = [f"p{at}:{at + 1}@10.0.{at >> 8}.{at & 255}" for at in range(512)]
"""Ports of one number, each on an address of its own."""


def _half_full() -> Desk:
    """Two nodes, of which one has no number of 20000-59999 left: none is free everywhere."""
    desk = Desk("full", "free")
    _stand(desk, "full", *FULL, together=1)
    return desk


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the runs that were looked for in a whole set."""
    found: list[int] = []

    def counted(numbers: int, length: int) -> int:
        found.append(length)
        return runs(numbers, length)

    monkeypatch.setattr(packing, "runs", counted)
    return found


@pytest.mark.parametrize("asks", [lease, ask])
@pytest.mark.parametrize(
    "ports",
    [
        pytest.param([f"p{at}:{at + 1}*2" for at in range(512)], id="equal blocks"),
        pytest.param([f"p{at}:{at + 1}*2@10.0.{at >> 8}.{at & 255}" for at in range(512)], id="on many addresses"),
    ],
)
def test_runs_are_looked_for_once_for_all_blocks_of_a_length(
    asks: Callable[..., Ask], ports: list[str], searches: list[int]
) -> None:
    given = _half_full().grant(asks("relay", *ports, low=20_000, high=59_999))

    assert given.node == "free"
    assert len(searches) < 50  # it took thousands


def test_whether_a_range_has_room_for_blocks_of_hundreds_of_alignments_is_counted(searches: list[int]) -> None:
    groups = number_groups(
        lease("relay", *[f"p{at}:{at + 1}*2%{at + 2}" for at in range(512)], low=20_000, high=59_999),
        ReservedNumbers(set_of([20_001, 30_000])),
        is_pod=False,
    )

    assert len(groups) == 512
    assert searches == []


@pytest.mark.parametrize("asks", [lease, ask])
def test_ports_on_hundreds_of_addresses_are_found_on_the_only_node_with_room(asks: Callable[..., Ask]) -> None:
    """To count the numbers for each address by itself took all steps, so that nothing was known."""
    given = _half_full().grant(asks("many", *ON_ADDRESSES, low=20_000, high=59_999))

    assert given.node == "free"
    assert len({port.host_port for port in given.ports}) == 512


def test_loads_are_counted_once_for_ports_that_differ_in_their_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    count = HeldNumbers.loads_and_stuck

    def counting(held: HeldNumbers, *arguments: Any) -> Any:
        counted.append(1)
        return count(held, *arguments)

    desk = _half_full()
    monkeypatch.setattr(HeldNumbers, "loads_and_stuck", counting)
    desk.grant(ask("many", *ON_ADDRESSES, low=20_000, high=59_999))

    assert len(counted) == 1


@pytest.mark.parametrize("asks", [lease, ask])
def test_that_the_only_node_for_a_fixed_port_is_full_is_read_from_it(asks: Callable[..., Ask]) -> None:
    """Tens of thousands of numbers are free elsewhere: to look each of them up took all steps."""
    desk = Desk(*(f"n{at:02}" for at in range(12)))
    _stand(desk, "n00", *FULL, together=1)
    desk.observe(pods=[pod(f"s{at}", "x:7000", at=f"n{at:02}") for at in range(1, 12)])

    assert set(desk.refusal(asks("late", "a:1=7000", "b:2", low=20_000, high=59_999))) == {"RANGE_EXHAUSTED"}
