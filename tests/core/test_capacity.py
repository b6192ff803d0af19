"""When nothing is free everywhere: capacity is numbers x nodes, plans make room, holders go, Pods wait or return."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from allocator.core.asks import Ask, WhenFull
from allocator.core.candidates import Constraints, Requirement, Term
from allocator.core.claims import Claim, State
from allocator.core.watch.replanner import IncidentKind
from hostport.contract import Notice
from testing.kit import Desk, ask, lease, node, on, pod

SSD = Constraints(selector=(("disk", "ssd"),))


def static(name: str, number: int = 5000, **more: Any) -> Ask:
    return ask(name, f"x:1={number}", policy="Static", **more)


def current(desk: Desk, claim: Claim) -> Claim:
    found = desk.ledger.claims.get(claim.id)
    assert found is not None
    return found


def bind(desk: Desk, claim: Claim, at: str, **more: Any) -> None:
    ports = [f"{p.container}/{p.name}:{p.container_port}/{p.protocol.value}={p.host_port}" for p in claim.ports]
    name = claim.owner.name or f"{claim.owner.generate_name}{claim.id[-4:]}"
    fields = {"generate_name": claim.owner.generate_name, "uid": f"u-{claim.id}", "carried_id": claim.id, **more}
    desk.observe(pods=[pod(name, *ports, namespace=claim.owner.namespace, at=at, **fields)])


# -- Dynamic beyond the range


def test_a_range_of_ten_numbers_on_four_nodes_holds_forty_pods() -> None:
    desk = Desk("n1", "n2", "n3", "n4")
    claims = [desk.grant(ask(f"p{n}", "x:1", low=7000, high=7009)) for n in range(40)]

    assert [c.ports[0].host_port for c in claims[:12]] == [*range(7000, 7010), 7000, 7001]
    assert max(Counter((c.node, c.ports[0].host_port) for c in claims).values()) == 1
    assert list(desk.refusal(ask("p40", "x:1", low=7000, high=7009))) == ["RANGE_EXHAUSTED"]


def test_pods_of_several_ports_share_whole_tuples() -> None:
    desk = Desk("n1", "n2", "n3")
    claims = [desk.grant(ask(f"p{n}", "x:1", "y:2", low=7000, high=7003)) for n in range(6)]

    tuples = Counter(tuple(p.host_port for p in claim.ports) for claim in claims)
    assert tuples == {(7000, 7001): 3, (7002, 7003): 3}
    assert list(desk.refusal(ask("p6", "x:1", "y:2", low=7000, high=7003))) == ["RANGE_EXHAUSTED"]


def test_the_number_with_the_most_room_is_taken() -> None:
    desk = Desk("n1", "n2", "n3")
    for name, number in (("n1", 7000), ("n2", 7000), ("n1", 7001)):
        desk.observe(pods=[pod(f"{name}-{number}", f"x:{number}", at=name)])

    assert desk.numbers(ask("a", "x:1", low=7000, high=7001)) == [7001]


def test_a_number_that_is_leased_on_a_candidate_is_never_taken() -> None:
    desk = Desk("n1", "n2")
    desk.grant(lease("relay", "x:0=7000", policy="Static", constraints=on("n1")))

    assert list(desk.refusal(ask("a", "x:1", low=7000, high=7000))) == ["RANGE_EXHAUSTED"]


# -- plans make room


def test_a_plan_moves_to_another_candidate_to_make_room() -> None:
    desk = Desk("n1", "n2")
    roaming = desk.grant(static("a"))
    assert roaming.node == "n1"

    assert desk.grant(static("b", constraints=on("n1"))).node == "n1"
    assert current(desk, roaming).node == "n2"
    assert desk.ledger.take_changes() == {roaming.id: current(desk, roaming)}


def test_plans_move_in_a_chain() -> None:
    desk = Desk(
        node("n1", labels={"a": "", "b": ""}), node("n2", labels={"b": "", "c": ""}), node("n3", labels={"c": ""})
    )
    a, b, c = (Constraints(selector=((label, ""),)) for label in "abc")
    first = desk.grant(static("p1", constraints=b))
    second = desk.grant(static("p2", constraints=c))
    assert (first.node, second.node) == ("n1", "n2")

    assert desk.grant(static("p3", constraints=a)).node == "n1"
    assert (current(desk, first).node, current(desk, second).node) == ("n2", "n3")
    assert "PORT_CONFLICT" in desk.refusal(static("p4"))


def test_a_bound_pod_is_never_moved() -> None:
    desk = Desk("n1", "n2")
    bind(desk, desk.grant(static("a")), "n1")

    assert "PORT_CONFLICT" in desk.refusal(static("b", constraints=on("n1")))


def test_a_preview_moves_nothing() -> None:
    desk = Desk("n1", "n2")
    roaming = desk.grant(static("a"))

    assert desk.ledger.preview(static("b", constraints=on("n1")), desk.now)[0].node == "n1"
    assert current(desk, roaming).node == "n1"


def test_a_pod_that_the_scheduler_leaves_without_a_node_is_reported_and_placed_when_there_is_room() -> None:
    desk = Desk(node("n1", labels={"disk": "ssd"}), "n2")
    picky = desk.grant(static("picky", constraints=SSD))
    easy = desk.grant(static("easy"))
    assert (picky.node, easy.node) == ("n1", "n2")

    bind(desk, easy, "n1")
    assert desk.ledger.claims.is_unplaceable(current(desk, picky))
    assert [(i.kind, i.claim.owner.name) for i in desk.ledger.take_incidents()] == [(IncidentKind.UNPLACEABLE, "picky")]

    desk.observe(nodes=[node("n3", labels={"disk": "ssd"})])
    assert current(desk, picky).node == "n3"
    assert not desk.ledger.claims.is_unplaceable(current(desk, picky))


def test_a_clash_of_pods_that_run_is_reported() -> None:
    desk = Desk("n1")
    bind(desk, desk.grant(static("a")), "n1")
    desk.observe(pods=[pod("intruder", "x:5000", namespace="other", at="n1")])

    (incident,) = desk.ledger.take_incidents()
    assert (incident.kind, incident.claim.owner.name) == (IncidentKind.EXTERNAL_CONFLICT, "intruder")
    assert [other.owner.name for other in incident.others] == ["a"]


# -- holders that will go


def test_a_pod_is_planned_behind_a_terminating_holder() -> None:
    desk = Desk("n1")
    old = desk.grant(static("old"))
    bind(desk, old, "n1")
    bind(desk, old, "n1", is_terminating=True)

    claim = desk.grant(static("new"))

    assert claim.node == "n1"
    assert [(w.reason, w.message) for w in desk.warnings] == [
        (Notice.BEHIND_TERMINATING, "Pod demo/old on node n1 is terminating: the Pod waits until it is gone")
    ]
    desk.observe()
    assert current(desk, claim).node == "n1", "it goes on waiting there"
    assert "PORT_CONFLICT" in desk.refusal(static("newer")), "one waits, the next is refused"
    desk.observe(gone_pods=[f"u-{old.id}"])
    assert [holder.id for _, holder in desk.ledger.nodes.port_map(claim.node)] == [claim.id]


def test_who_stands_nowhere_waits_behind_a_holder_as_soon_as_it_terminates() -> None:
    desk = Desk("n1")
    old = desk.grant(static("old"))
    bind(desk, old, "n1")
    waits = desk.grant(static("waits", when_full=WhenFull.PENDING))
    assert waits.node is None

    bind(desk, old, "n1", is_terminating=True)

    assert current(desk, waits).node == "n1"
    assert "PORT_CONFLICT" in desk.refusal(static("newer")), "that place is taken"
    bind(desk, old, "n1")
    assert current(desk, waits).node == "n1", "a list that is older than the deletion changes nothing"


@pytest.mark.parametrize(
    ("priority", "may_preempt", "is_admitted"), [(10, True, True), (10, False, False), (5, True, False)]
)
def test_a_pod_is_planned_behind_a_holder_that_it_may_preempt(
    priority: int, may_preempt: bool, is_admitted: bool
) -> None:
    desk = Desk("n1")
    bind(desk, desk.grant(static("old", priority=5)), "n1", priority=5)
    asked = static("new", priority=priority, may_preempt=may_preempt)

    assert (desk.refusal(asked) == {}) is is_admitted
    if is_admitted:
        assert [w.reason for w in desk.warnings] == [Notice.BEHIND_PREEMPTED]


# -- when-full


def test_when_full_pending_admits_a_pod_that_a_new_node_will_take() -> None:
    desk = Desk("n1")
    desk.grant(static("a"))

    claim = desk.grant(static("b", when_full=WhenFull.PENDING))
    assert (claim.node, [w.reason for w in desk.warnings]) == (None, [Notice.ALL_FULL])
    desk.observe(nodes=[node("n2")])
    assert current(desk, claim).node == "n2"


def test_when_full_pending_gives_dynamic_a_number_too() -> None:
    desk = Desk("n1", when_full=WhenFull.PENDING)
    desk.grant(ask("a", "x:1", low=7000, high=7000))

    claim = desk.grant(ask("b", "x:1", low=7000, high=7000))
    assert (claim.node, claim.ports[0].host_port) == (None, 7000)
    assert list(desk.refusal(ask("c", "x:1", low=7000, high=7000, when_full=WhenFull.DENY))) == ["RANGE_EXHAUSTED"]


# -- Pods that return


def test_a_pod_that_returns_gets_its_numbers_again() -> None:
    desk = Desk("n1", "n2")
    desk.grant(ask("other", "x:1", low=7000, high=7010))
    first = desk.grant(ask("game-0", "x:1", "y:2", low=7000, high=7010))
    bind(desk, first, "n1")
    assert desk.numbers(ask("game-0", "x:1", "y:2", low=7000, high=7010)) == [7001, 7002], "beside its predecessor"
    desk.observe(gone_pods=[f"u-{first.id}"])

    assert desk.numbers(ask("game-0", "x:1", "y:2", low=7000, high=7010)) == [7001, 7002]


def test_a_daemon_sets_pod_that_returns_to_a_node_gets_its_numbers_again() -> None:
    desk = Desk("n1")
    fields = (Requirement(key="metadata.name", operator="In", values=("n1",)),)
    there: dict[str, Any] = {
        "constraints": Constraints(affinity=(Term(fields=fields),)),
        "controller": "ds",
        "low": 7000,
        "high": 7010,
    }
    desk.grant(ask("blocker", "x:1", low=7000, high=7010))
    first = desk.grant(ask("edge-", "x:1", **there))
    bind(desk, first, "n1", controller_uid="ds", constraints=there["constraints"])
    desk.observe(gone_pods=[f"u-{first.id}"])
    desk.ledger.end(next(c.id for c in desk.ledger.claims), desk.now)

    assert desk.numbers(ask("edge-", "x:1", **there)) == [7001], "although 7000 is free again"


@pytest.mark.parametrize(
    "again",
    [
        pytest.param({"low": 7005, "high": 7010}, id="another range"),
        pytest.param({"ports": ("x:1", "z:3")}, id="another shape"),
    ],
)
def test_a_pod_that_returns_changed_is_a_new_one(again: dict[str, Any]) -> None:
    desk = Desk("n1")
    desk.grant(ask("blocker", "x:1", low=7000, high=7010))
    first = desk.grant(ask("game-0", "x:1", low=7000, high=7010))
    bind(desk, first, "n1")
    desk.observe(gone_pods=[f"u-{first.id}"])
    desk.ledger.end(next(c.id for c in desk.ledger.claims), desk.now)
    ports = again.pop("ports", ("x:1",))

    numbers = desk.numbers(ask("game-0", *ports, **{"low": 7000, "high": 7010, **again}))

    assert numbers[0] == again.get("low", 7000)


def test_a_state_is_shown_while_unplaceable() -> None:
    desk = Desk("n1")
    claim = desk.grant(static("a", when_full=WhenFull.PENDING))

    assert (claim.state, desk.ledger.claims.is_unplaceable(claim)) == (State.RESERVED, False)
