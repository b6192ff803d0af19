"""A denial is a proof and an admission a place, whatever way it came: the smallest cases of each kind of mistake."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from allocator.core.asks import Ask, PortAsk, UndecidedError, WhenFull
from allocator.core.candidates import Constraints, Requirement, Term
from allocator.core.claims import Claim
from allocator.core.place.policies import DYNAMIC
from hostport.contract import Notice
from testing.kit import PAIRS, Desk, ask, fill_with_pairs, lease, node, on, pod

PENDING: dict[str, Any] = {"when_full": WhenFull.PENDING}


def static(name: str, *numbers: int, **more: Any) -> Ask:
    return ask(name, *(f"x{at}:{at + 1}={number}" for at, number in enumerate(numbers)), policy="Static", **more)


def held(desk: Desk, at: str, *numbers: int, **more: Any) -> None:
    """Pods that never asked us, one for each number."""
    desk.observe(pods=[pod(f"{at}-{number}", f"x:{number}", at=at, **more) for number in numbers])


def zone(name: str) -> Constraints:
    return Constraints(selector=(("zone", name),))


def daemon(at: str) -> Constraints:
    """As the DaemonSet controller names a node."""
    fields = (Requirement(key="metadata.name", operator="In", values=(at,)),)
    return Constraints(affinity=(Term(fields=fields),))


# -- a: what is left Pending passes the same checks


def test_a_pod_that_is_left_pending_gets_no_number_that_is_leased_on_a_candidate() -> None:
    desk = Desk("n1")
    desk.grant(lease("relay", "x:0=7000", policy="Static"))
    held(desk, "n1", 7001)

    claim = desk.grant(ask("a", "x:1", low=7000, high=7001, **PENDING))

    assert (claim.node, [p.host_port for p in claim.ports]) == (None, [7001])
    assert "RANGE_EXHAUSTED" in desk.refusal(ask("b", "x:1", low=7000, high=7000, **PENDING))


# -- b: the order of numbers is no verdict


def test_pods_that_wait_elsewhere_do_not_fill_an_empty_node() -> None:
    desk = Desk(node("n1", labels={"zone": "a"}), node("n2", labels={"zone": "b"}))
    desk.observe(pods=[pod("waits", *(f"x{n}:{n}" for n in range(7000, 7011)))])

    for name, there in (("nodeName", on("n2")), ("daemon", daemon("n2")), ("zone", zone("b"))):
        assert desk.grant(ask(name, "x:1", low=7000, high=7010, constraints=there)).node == "n2"


# -- c: several ports, free together on one node only


def test_several_ports_are_found_where_one_node_has_them_together() -> None:
    desk = Desk("n1", "n2", "n3")
    for at, numbers in (("n1", (7000, 7001, 7002)), ("n2", (7003, 7004, 7005)), ("n3", (7000, 7002, 7004))):
        held(desk, at, *numbers)

    claim = desk.grant(ask("a", "x:1", "y:2", "z:3", low=7000, high=7005))

    assert (claim.node, [p.host_port for p in claim.ports]) in [
        ("n1", [7003, 7004, 7005]),
        ("n2", [7000, 7001, 7002]),
        ("n3", [7001, 7003, 7005]),
    ]


def half_full() -> Desk:
    """Sixteen nodes, each with 64 of 128 numbers, no two with the same ones."""
    desk = Desk(*(f"n{n}" for n in range(16)))
    for n in range(16):
        held(desk, f"n{n}", *(7000 + (7 * n + 3 * k) % 128 for k in range(64)))
    return desk


@pytest.mark.parametrize("ports", [2, 20, 64])
def test_nodes_that_are_half_full_each_in_its_own_way_still_take_many_ports(ports: int) -> None:
    claim = half_full().grant(ask("a", *(f"x{n}:{n + 1}" for n in range(ports)), low=7000, high=7127))

    assert claim.node is not None
    assert len({p.host_port for p in claim.ports}) == ports


def test_tcp_and_udp_groups_share_what_is_left_of_a_node() -> None:
    desk = Desk("n1")
    held(desk, "n1", 7001)
    desk.observe(pods=[pod("udp", "x:7000/UDP", at="n1")])

    claim = desk.grant(ask("a", "x:1/UDP", "y:2", low=7000, high=7001))

    assert [p.host_port for p in claim.ports] == [7001, 7000]


# -- d: nothing is cut off and told as a fact


def test_the_last_of_a_thousand_terminating_pods_has_its_successor_too() -> None:
    desk = Desk(*(f"n{n:04}" for n in range(1000)))
    desk.observe(pods=[pod(f"old-{n}", "x:5000", at=f"n{n:04}", is_terminating=True) for n in range(1000)])

    nodes = {desk.grant(static(f"new-{n}", 5000)).node for n in range(1000)}

    assert len(nodes) == 1000
    assert list(desk.refusal(static("one-too-many", 5000))) == ["PORT_CONFLICT"]


def test_a_node_with_lower_priority_is_found_among_hundreds() -> None:
    desk = Desk(*(f"n{n:03}" for n in range(300)))
    desk.observe(pods=[pod(f"p{n}", "x:5000", at=f"n{n:03}", priority=0 if n > 260 else 100) for n in range(300)])

    claim = desk.grant(static("urgent", 5000, priority=50, may_preempt=True))

    assert claim.node is not None
    assert claim.node >= "n261"
    assert [w.reason for w in desk.warnings] == [Notice.BEHIND_PREEMPTED]


def test_one_move_among_six_hundred_nodes_is_found() -> None:
    names = [f"n{n:03}" for n in range(600)]
    desk = Desk(*(node(name, labels={"zone": "a"}) for name in names), "elsewhere")
    for name in names[:-1]:
        desk.grant(static(f"stays-on-{name}", 5000, constraints=on(name)))
    assert desk.grant(static("roams", 5000)).node == names[-1]

    assert desk.grant(static("pinned", 5000, constraints=zone("a"))).node == names[-1]


def test_several_ports_behind_lower_priority_are_found_in_a_range_of_any_width() -> None:
    desk = Desk("n1", "n2")
    for at in ("n1", "n2"):
        held(desk, at, *range(10_000, 30_000))

    claim = desk.grant(ask("urgent", "x:1", "y:2", low=10_000, high=29_999, priority=5, may_preempt=True))

    assert claim.node is not None
    assert {warned.reason for warned in desk.warnings} == {Notice.BEHIND_PREEMPTED}


# -- e: two ports, and a plan to move


def test_room_is_made_for_two_ports_by_one_move() -> None:
    desk = Desk(node("n1", labels={"zone": "a"}), node("n2"))
    desk.grant(static("roams", 5001))

    assert desk.grant(static("both", 5000, 5001, constraints=zone("a"))).node == "n1"


def test_room_is_made_for_two_ports_by_two_moves() -> None:
    desk = Desk(node("n1", labels={"zone": "a"}), "n2")
    desk.grant(static("one", 5000))
    desk.grant(static("two", 5001))

    assert desk.grant(static("both", 5000, 5001, constraints=zone("a"))).node == "n1"


def test_two_plans_of_one_name_are_moved_together() -> None:
    desk = Desk(node("n1", labels={"zone": "a"}), "n2")
    for _ in range(2):
        desk.grant(static("db-0", 5000))

    assert desk.grant(static("pinned", 5000, constraints=zone("a"))).node == "n1"


def test_two_plans_on_two_addresses_are_moved_together() -> None:
    desk = Desk(node("n1", labels={"zone": "a"}), "n2")
    for name, address in (("one", "10.0.0.1"), ("two", "10.0.0.2")):
        desk.grant(ask(name, f"x:1=5000@{address}", policy="Static"))

    assert desk.grant(static("pinned", 5000, constraints=zone("a"))).node == "n1"


def test_plans_that_could_share_a_node_prove_nothing_while_they_are_apart() -> None:
    desk = Desk("n1", "n2")
    for name, address in (("one", "10.0.0.1"), ("two", "10.0.0.2")):
        claim = desk.grant(ask(name, f"x:1=5000@{address}", policy="Static", constraints=Constraints()))
        desk.observe(pods=[pod(name, f"x:5000@{address}", carried_id=claim.id)])

    assert desk.grant(static("wild", 5000)).node is not None


# -- f: a Pod that was admitted to wait goes on waiting


def seen_again(claim: Claim, **more: Any) -> Ask:
    """What the webhook sends for a Pod that carries its own id: with hostNetwork, every port is its number."""
    ports = tuple(
        PortAsk(container=p.container, name=p.name, container_port=p.host_port, host_port=p.host_port)
        for p in claim.ports
    )
    return replace(
        Ask(owner=claim.owner, ports=ports, policy=DYNAMIC, host_network=True, carried_id=claim.id),
        constraints=claim.constraints,
        **more,
    )


@pytest.mark.parametrize("again", [{}, PENDING], ids=["the flag's default", "its annotation"])
def test_a_pod_that_waits_for_room_keeps_its_claim_when_it_comes_again(again: dict[str, Any]) -> None:
    desk = Desk("n1")
    held(desk, "n1", 5000)
    claim = desk.grant(static("a", 5000, **PENDING))

    taken = desk.ledger.drafts.readmit(seen_again(claim, **again), desk.now)

    assert taken is not None
    assert (taken[0].id, taken[0].node) == (claim.id, None)


def test_a_pending_pod_of_several_ports_is_planned_where_they_are_free_together_now() -> None:
    claim = half_full().grant(ask("a", *(f"x{n}:{n + 1}" for n in range(64)), low=7000, high=7127, **PENDING))

    assert claim.node is not None


# -- what cannot be known in bounded time


def test_a_search_that_was_cut_off_is_neither_granted_nor_denied() -> None:
    desk = Desk()
    fill_with_pairs(desk.ledger, desk.now)
    before = desk.state()
    one, other = PAIRS[0]

    with pytest.raises(UndecidedError, match="was cut off before it was known whether there is room"):
        desk.grant(static("a", one, other))

    assert desk.state() == before


def test_a_claim_is_not_ended_by_a_search_that_was_cut_off() -> None:
    desk = Desk()
    fill_with_pairs(desk.ledger, desk.now)
    one, other = PAIRS[0]
    claim = desk.grant(static("a", one, other, constraints=on("elsewhere")))
    moved = replace(seen_again(claim), constraints=Constraints())

    with pytest.raises(UndecidedError):
        desk.ledger.drafts.readmit(moved, desk.now)

    assert desk.ledger.claims.get(claim.id) == claim


@pytest.mark.parametrize("when_full", [WhenFull.DENY, WhenFull.PENDING])
def test_a_wide_range_of_which_every_number_is_leased_on_a_candidate_is_told_to_be_exhausted(
    when_full: WhenFull,
) -> None:
    desk = Desk("a", "b")
    for first in range(10_000, 60_000, 500):
        numbers = (f"x{n}:{n}={n}" for n in range(first, first + 500))
        desk.grant(lease(f"l{first}", *numbers, policy="Static", constraints=on("a")))
    asked = ask("late", "web:80", low=10_000, high=59_999, when_full=when_full)
    assert list(desk.refusal(asked)) == ["RANGE_EXHAUSTED"]


def test_a_search_that_cannot_tell_which_of_two_reasons_holds_says_neither() -> None:
    """The range is full for certain; whether the fixed ports fit by themselves only trying it all out shows."""
    desk = Desk()
    fill_with_pairs(desk.ledger, desk.now)
    for name in desk.ledger.nodes.names():
        held(desk, name, 7000)
    one, other = PAIRS[0]
    with pytest.raises(UndecidedError, match="cut off before it was known"):
        desk.grant(ask("late", f"a:1={one}", f"b:2={other}", "c:3", low=7000, high=7000))
