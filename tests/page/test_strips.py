"""Strips and boards: buckets, kinds, and that what is kept equals what would be counted anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId
from allocator.core.ports import parse_numbers
from allocator.page.strips import KINDS, MOST_BUCKETS, Axis, Board, strip_of
from testing.kit import Desk, ask, lease, on, pod

N1 = NodeName("n1")


@pytest.mark.parametrize(
    ("axis", "width", "buckets"),
    [
        (Axis(7000, 7000), 1, 1),
        (Axis(7000, 7127), 1, 128),
        (Axis(7000, 7128), 2, 65),
        (Axis(7000, 8000), 10, 101),
        (Axis(), 1000, 66),
    ],
    ids=str,
)
def test_buckets_have_a_round_width(axis: Axis, width: int, buckets: int) -> None:
    assert (axis.width, axis.buckets) == (width, buckets)


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_an_axis_covers_its_numbers_with_few_buckets(one: int, other: int) -> None:
    axis = Axis(min(one, other), max(one, other))

    assert axis.buckets <= MOST_BUCKETS
    assert sum(axis.counts(axis.numbers)) == axis.high - axis.low + 1


def test_a_strip_tells_kinds_apart_and_counts_a_number_once() -> None:
    desk = Desk("n1")
    desk.grant(lease("relay", "a:1/UDP=7000", policy="Static", constraints=on("n1")))
    desk.grant(ask("waiting", "a:7001", "b:7002", policy="Passthrough"))
    desk.observe(pods=[pod("other", "a:7003=7003", "b:7003/UDP=7003", at="n1")])
    desk.observe(pods=[pod("far", "a:9000=9000", at="n1")])

    strip = strip_of(desk.ledger.nodes.held_on(N1), Axis(7000, 7009), parse_numbers("7001"))

    assert strip.totals() == {"OUTSIDER": 1, "LEASED": 1, "RESERVED": 2}
    assert {kind: list(counts) for kind, counts in strip.counts.items()} == {
        "LEASED": [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        "RESERVED": [0, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        "OUTSIDER": [0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
    }
    assert (strip.used, strip.claims, strip.held) == (3, 4, 5)  # 7001 is kept free, and held all the same


def test_what_is_not_durable_yet_is_not_shown() -> None:
    desk = Desk("n1")
    claim, _ = desk.ledger.reserve(ask("db", "a:1"), ClaimId("1"), desk.now)
    before = desk.ledger.nodes.changed_on(N1)

    assert list(desk.ledger.nodes.held_on(N1)) == []

    desk.ledger.publish(claim.id)

    assert list(desk.ledger.nodes.held_on(N1)) == [(range(7000, 7001), claim)]
    assert desk.ledger.nodes.changed_on(N1) > before


steps = st.lists(
    st.tuples(st.sampled_from(["grant", "land", "leave", "look"]), st.integers(0, 3), st.integers(0, 2)), max_size=25
)


@given(steps)
async def test_a_board_is_what_counting_anew_would_give(taken: list[tuple[str, int, int]]) -> None:
    desk = Desk("n0", "n1", "n2")
    granted: dict[int, Claim] = {}
    board = Board(desk.ledger, Axis(7000, 7020))
    for step, name, place in taken:
        if step == "grant" and name not in granted:
            granted[name] = desk.grant(ask(f"p{name}", "a:1", "b:2"))
        elif step == "land" and name in granted:
            claim = granted[name]
            seen = replace(pod(f"p{name}", at=f"n{place}", carried_id=claim.id), ports=claim.ports)
            desk.observe(pods=[seen])
        elif step == "leave":
            desk.observe(gone_pods=[pod(f"p{name}").uid])
        elif step == "look":
            await board.refresh()
    await board.refresh()
    fresh = Board(desk.ledger, Axis(7000, 7020))
    await fresh.refresh()

    assert board.strips == fresh.strips
    assert {kind: counts for kind, counts in board.totals.items() if any(counts)} == fresh.totals


async def test_a_board_orders_counts_and_forgets_nodes() -> None:
    desk = Desk("n1", "n2", "n10")
    for number in range(3):
        desk.observe(pods=[pod(f"a{number}", f"x:{7000 + number}", at="n2")])
    desk.observe(pods=[pod("b", "x:7000=7000", at="n10")])
    board = Board(desk.ledger, Axis(7000, 7009))
    await board.refresh()

    assert board.names(text="", fullest_first=True) == ["n2", "n10", "n1"]
    assert board.names(text="n1", fullest_first=False) == ["n1", "n10"]
    assert list(board.shares()) == [("n1", 0), ("n10", 1), ("n2", 3)]
    assert board.tenths() == [1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert board.totals == {"OUTSIDER": [2, 1, 1, 0, 0, 0, 0, 0, 0, 0]}

    desk.observe(gone_nodes=["n1"])
    await board.refresh()

    assert board.names(text="", fullest_first=False) == ["n10", "n2"]


def test_every_kind_has_a_place() -> None:
    assert KINDS == ("OUTSIDER", "LEASED", "BOUND", "CONFIRMED", "RESERVED")
