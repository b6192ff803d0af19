"""What the scheduler and the kubelet say of host ports, held against the books."""

from __future__ import annotations

from typing import Any

import pytest

from allocator.core.asks import WhenFull
from allocator.core.claims import Claim, PortRejection, RejectedBy
from allocator.core.watch.rejections import MOST_COMPARED, PATIENCE_SECONDS
from allocator.core.watch.replanner import Incident, IncidentKind
from testing.kit import Desk, ask, lease, pod

KUBELET = PortRejection(RejectedBy.KUBELET)


def static(name: str, **more: Any) -> Any:
    return ask(name, "web:5000=5000", policy="Static", **more)


def show(desk: Desk, claim: Claim, **more: Any) -> None:
    """The claim's Pod as the cluster has it."""
    desk.observe(pods=[pod(claim.owner.name, "web:5000", carried_id=claim.id, **more)])


def on_nodes(count: int) -> PortRejection:
    return PortRejection(RejectedBy.SCHEDULER, count)


def refused(desk: Desk) -> list[Incident]:
    return [each for each in desk.ledger.take_incidents() if each.kind is IncidentKind.PORTS_REFUSED]


def test_a_pod_that_the_kubelet_refuses_is_explained_by_who_holds_its_port() -> None:
    desk = Desk("n1", "n2")
    first, second = desk.grant(static("first")), desk.grant(static("second"))
    show(desk, first, at="n1")
    show(desk, second, at="n1", is_finished=True, rejection=KUBELET)

    (incident,) = refused(desk)

    assert (incident.claim.id, [other.id for other in incident.others]) == (second.id, [first.id])
    assert incident.rejection == KUBELET
    assert desk.ledger.claims.tally().rejections == {("kubelet", True): 1}


def test_a_pod_that_the_kubelet_refuses_and_nobody_explains_points_outside_the_books() -> None:
    desk = Desk("n1")
    show(desk, desk.grant(static("only")), at="n1", is_finished=True, rejection=KUBELET)

    (incident,) = refused(desk)

    assert incident.others == ()
    assert desk.ledger.claims.tally().rejections == {("kubelet", False): 1}


def test_what_the_books_know_to_be_taken_is_no_contradiction() -> None:
    desk = Desk("n1", "n2")
    desk.observe(pods=[pod("intruder", "x:5000", at="n1")])
    show(desk, desk.grant(static("waiting")), rejection=on_nodes(1))
    desk.now += 2 * PATIENCE_SECONDS
    desk.ledger.check_rejections(desk.now)

    assert refused(desk) == []
    assert desk.ledger.claims.tally().rejections == {("scheduler", True): 1}


def test_more_nodes_than_the_books_know_to_be_taken_is_an_incident_when_it_lasts() -> None:
    desk = Desk("n1", "n2")
    desk.observe(pods=[pod("intruder", "x:5000", at="n1")])
    claim = desk.grant(static("waiting"))
    show(desk, claim, rejection=on_nodes(2))

    desk.now += PATIENCE_SECONDS - 1
    desk.ledger.check_rejections(desk.now)
    assert (refused(desk), desk.ledger.claims.tally().contradictions) == ([], 0)

    desk.now += 1
    desk.ledger.check_rejections(desk.now)
    assert [(each.claim.id, each.rejection) for each in refused(desk)] == [(claim.id, on_nodes(2))]
    assert desk.ledger.claims.tally().rejections == {("scheduler", False): 1}
    assert desk.ledger.claims.tally().contradictions == 1

    desk.ledger.check_rejections(desk.now + 100)
    assert refused(desk) == [], "it is told once"


@pytest.mark.parametrize(
    "change", ["a binding that was on its way is seen", "the scheduler finds a node", "it is gone"]
)
def test_a_contradiction_that_passes_is_none(change: str) -> None:
    desk = Desk("n1", "n2")
    claim = desk.grant(static("waiting"))
    show(desk, claim, rejection=on_nodes(1))
    desk.now += PATIENCE_SECONDS / 2
    match change:
        case "a binding that was on its way is seen":
            desk.observe(pods=[pod("intruder", "x:5000", at="n1")])
        case "the scheduler finds a node":
            show(desk, claim, at="n2")
        case "it is gone":
            desk.observe(gone_pods=["uid-demo-waiting"])
    desk.now += PATIENCE_SECONDS
    desk.ledger.check_rejections(desk.now)

    assert refused(desk) == []
    assert desk.ledger.claims.tally().contradictions == 0


def test_a_contradiction_that_stands_ends_with_the_claim() -> None:
    desk = Desk("n1")
    show(desk, desk.grant(static("waiting")), rejection=on_nodes(1))
    desk.ledger.check_rejections(desk.now + PATIENCE_SECONDS)
    assert desk.ledger.claims.tally().contradictions == 1

    desk.observe(gone_pods=["uid-demo-waiting"])

    assert desk.ledger.claims.tally().contradictions == 0


def test_the_same_words_seen_again_count_once() -> None:
    desk = Desk("n1", "n2")
    desk.observe(pods=[pod("intruder", "x:5000", at="n1")])
    claim = desk.grant(static("waiting"))
    for priority in range(3):
        show(desk, claim, rejection=on_nodes(1), priority=priority)
        desk.ledger.check_rejections(desk.now)

    assert desk.ledger.claims.tally().rejections == {("scheduler", True): 1}


def test_of_many_rejections_some_are_weighed_at_a_time_and_each_in_its_turn() -> None:
    desk = Desk("n1")
    claims = [desk.grant(static(f"waiting-{number}", when_full=WhenFull.PENDING)) for number in range(500)]
    for claim in claims:
        show(desk, claim, rejection=on_nodes(2))
    desk.now += PATIENCE_SECONDS

    told = []
    for _ in range(5):
        desk.ledger.check_rejections(desk.now)
        told.append([each.claim.id for each in refused(desk)])

    assert max(map(len, told)) <= MOST_COMPARED // 5 + 1
    assert sorted(each for some in told for each in some) == [claim.id for claim in claims]


def test_an_unmanaged_pod_is_not_ours_to_explain() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("stranger", "x:5000", rejection=on_nodes(1))])
    desk.ledger.check_rejections(desk.now + 100)

    assert (refused(desk), desk.ledger.claims.tally().rejections) == ([], {})


def test_two_pods_of_ours_on_one_port_are_a_conflict_not_an_external_one() -> None:
    desk = Desk("n1", "n2")
    for name in ("a", "b"):
        show(desk, desk.grant(static(name)), at="n1")

    (incident,) = desk.ledger.take_incidents()

    assert (incident.kind, [other.owner.name for other in incident.others]) == (IncidentKind.CONFLICT, ["a"])


def test_the_tally_follows_claims_unmanaged_pods_and_leases() -> None:
    desk = Desk("n1")
    desk.grant(ask("web-0", "web:80"))
    desk.grant(lease("relay", ":0"))
    desk.observe(pods=[pod("stranger", "x:6000", "y:6001", at="n1")])

    tally = desk.ledger.claims.tally()

    assert {state.value: count for state, count in tally.states.items() if count} == {"RESERVED": 1, "LEASED": 1}
    assert (tally.unmanaged, tally.unmanaged_ports, tally.known_nodes, tally.unplaceable) == (1, 2, 1, 0)
    desk.observe(gone_pods=["uid-demo-stranger"])
    assert (desk.ledger.claims.tally().unmanaged, desk.ledger.claims.tally().unmanaged_ports) == (0, 0)
