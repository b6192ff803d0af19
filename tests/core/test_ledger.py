"""The life of a claim: reserved, confirmed, bound, gone; taken up again; expired; restored."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from allocator.core.asks import Ask, Refused
from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId, State
from testing.kit import Desk, ask, lease, node, on, pod, port


def expired(desk: Desk, *, seen_until: float | None = None) -> list[ClaimId]:
    """Ends what is due, as the engine does when the end is durable; the view is proven up to now or as far as told."""
    desk.ledger.proven(desk.now if seen_until is None else seen_until)
    due = [claim.id for claim in desk.ledger.due(desk.now)]
    for claim_id in due:
        desk.ledger.end(claim_id, desk.now)
    return due


def watched(*nodes: str) -> Desk:
    """A desk whose Pods are shown to it, so that reservations expire."""
    desk = Desk(*nodes)
    desk.ledger.trust_pods(desk.now)
    return desk


def confirm(desk: Desk, claim: Claim, *, at: str | None = None, **more: Any) -> None:
    ports = [f"{p.container}/{p.name}:{p.container_port}/{p.protocol.value}={p.host_port}" for p in claim.ports]
    name = more.pop("name", claim.owner.name or f"{claim.owner.generate_name}x7k2p")
    fields = {"generate_name": claim.owner.generate_name, "carried_id": claim.id, **more}
    desk.observe(pods=[pod(name, *ports, namespace=claim.owner.namespace, at=at, **fields)])


def current(desk: Desk, claim: Claim) -> Claim:
    found = desk.ledger.claims.get(claim.id)
    assert found is not None
    return found


def test_a_pod_confirms_its_reservation_then_binds_it_then_frees_it() -> None:
    desk = watched("n1", "n2")
    claim = desk.grant(ask("web-", "x:1", controller="rs"))
    assert (claim.state, claim.node, claim.expires) == (State.RESERVED, "n1", 1045.0)

    confirm(desk, claim, uid="u1")
    confirmed = current(desk, claim)
    assert (confirmed.state, confirmed.node, confirmed.expires) == (State.CONFIRMED, "n1", None)
    assert confirmed.owner.name == "web-x7k2p"

    confirm(desk, claim, at="n2", uid="u1", own_network=True, warnings="PORT_MOVED")
    bound = current(desk, claim)
    assert (bound.state, bound.node) == (State.BOUND, "n2")
    assert (bound.own_network, bound.warnings) == (True, "PORT_MOVED")
    assert desk.ledger.take_changes() == {claim.id: bound}

    desk.observe(gone_pods=[bound.pod_uid])
    assert desk.ledger.claims.get(claim.id) is None
    assert desk.ledger.take_changes() == {claim.id: None}
    assert desk.numbers(ask("next", "x:1")) == [7000]


def test_a_change_of_a_claim_that_a_request_ended_since_is_not_told_to_the_journal() -> None:
    desk = Desk("n1")
    ended, stands = desk.grant(ask("web", "x:1")), desk.grant(ask("api", "x:1"))
    desk.ledger.take_changes()
    desk.ledger.trust_pods(desk.now)  # both reservations get their deadlines
    desk.ledger.end(ended.id, desk.now)

    assert desk.ledger.take_changes() == {stands.id: current(desk, stands)}
    assert desk.ledger.take_changes() == {}


def test_a_finished_pod_frees_its_ports() -> None:
    desk = watched("n1")
    claim = desk.grant(ask("job", "x:1"))
    confirm(desk, claim, at="n1")
    confirm(desk, claim, at="n1", is_finished=True)

    assert desk.ledger.claims.get(claim.id) is None


def test_a_pod_that_is_finished_when_it_is_first_seen_frees_its_ports() -> None:
    desk = watched("n1")
    claim = desk.grant(ask("job", "x:1"))
    confirm(desk, claim, at="n1", is_finished=True)

    assert desk.ledger.claims.get(claim.id) is None
    assert desk.ledger.take_changes() == {claim.id: None}


def test_a_reservation_expires_only_when_the_view_is_proven_beyond_its_deadline() -> None:
    desk = watched("n1")
    claim = desk.grant(ask("web", "x:1"))

    desk.now += 45
    assert expired(desk, seen_until=desk.now - 1) == []
    assert desk.refusal(ask("other", "x:1=7000", policy="Static")) != {}
    assert expired(desk, seen_until=desk.now) == [claim.id]
    assert desk.refusal(ask("other", "x:1=7000", policy="Static")) == {}


def test_where_nobody_shows_us_pods_no_reservation_expires() -> None:
    desk = Desk("n1")
    claim = desk.grant(ask("web", "x:1"))
    desk.now += 1e9
    assert (claim.expires, expired(desk)) == (None, [])

    desk.ledger.trust_pods(desk.now)
    desk.now += 45
    assert expired(desk) == [claim.id]


def test_a_pod_that_appears_while_its_expiry_is_committed_keeps_its_ports() -> None:
    desk = watched("n1")
    claim = desk.grant(ask("web", "x:1"))
    desk.now += 60
    desk.ledger.proven(desk.now)
    assert [c.id for c in desk.ledger.due(desk.now)] == [claim.id]

    confirm(desk, claim, at="n1")
    desk.ledger.take_changes()
    desk.ledger.end(claim.id, desk.now)

    assert current(desk, claim).state is State.BOUND
    assert desk.ledger.take_changes() == {claim.id: current(desk, claim)}, "the journal is told again"


def test_a_lease_ends_by_the_clock_unless_it_is_renewed() -> None:
    desk = Desk("n1")
    held = desk.grant(lease("relay", "x:0", ttl=60.0))
    desk.now += 59
    desk.ledger.replace(desk.ledger.claims.renewed(held.id, 60.0, desk.now))
    desk.now += 59
    assert expired(desk, seen_until=0.0) == []
    desk.now += 1
    assert expired(desk, seen_until=0.0) == [held.id]
    with pytest.raises(Refused, match="it ended or never was"):
        desk.ledger.claims.renewed(held.id, 60.0, desk.now)


def test_only_leases_are_renewed_and_only_what_has_no_pod_is_released() -> None:
    desk = watched("n1")
    claim = desk.grant(ask("web", "x:1"))
    with pytest.raises(Refused, match="lives as long as its Pod"):
        desk.ledger.claims.renewed(claim.id, 60.0, desk.now)
    assert desk.ledger.claims.releasable(claim.id) == claim

    confirm(desk, claim)
    with pytest.raises(Refused, match="Delete the Pod"):
        desk.ledger.claims.releasable(claim.id)
    assert desk.ledger.claims.releasable(ClaimId("gone")) is None


# -- Pods that we never allocated


def test_the_ports_of_an_unmanaged_pod_are_held_all_the_same() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("static", "x:80=18080", namespace="kube-system", at="n1")])

    assert "PORT_CONFLICT" in desk.refusal(ask("web", "x:1=18080", policy="Static"))
    (claim,) = desk.ledger.claims
    assert (claim.unmanaged, claim.state, desk.ledger.take_changes()) == (True, State.BOUND, {})
    desk.observe(gone_pods=[claim.pod_uid])
    assert desk.refusal(ask("web", "x:1=18080", policy="Static")) == {}


def test_a_copied_annotation_makes_no_owner() -> None:
    desk = watched("n1", "n2")
    claim = desk.grant(ask("db-0", "x:1=5000", policy="Static"))
    copy = {"carried_id": claim.id, "at": "n2"}

    desk.observe(pods=[pod("db-9", "x:1=5000", uid="u9", **copy)])
    desk.observe(pods=[pod("db-0", "x:1=5000", uid="u8", namespace="other", **copy)])
    assert current(desk, claim).state is State.RESERVED
    confirm(desk, claim, uid="u1")
    confirm(desk, claim, uid="u2")
    assert current(desk, claim).pod_uid == "u1", "of two Pods with one id the first owns it"


def test_the_stored_pod_is_the_truth_about_its_ports() -> None:
    desk = watched("n1")
    claim = desk.grant(ask("web", "x:8080"))
    desk.observe(pods=[pod("web", "x:9999=9999", at="n1", carried_id=claim.id)])

    assert [p.host_port for p in current(desk, claim).ports] == [9999]
    assert desk.refusal(ask("other", "x:1=7000", policy="Static")) == {}


def test_the_claim_remembers_the_old_container_ports_of_its_pod() -> None:
    desk = watched("n1")
    claim = desk.grant(ask("web", "x:8080"))
    desk.observe(pods=[pod("web", "x:7000=7000", at="n1", carried_id=claim.id)])

    assert current(desk, claim).ports == claim.ports


def test_where_the_scheduler_puts_a_pod_displaces_the_plan_that_stood_there() -> None:
    desk = watched("n1", "n2")
    a, b = (desk.grant(ask(name, "x:1=5000", policy="Static")) for name in ("a", "b"))
    assert (a.node, b.node) == ("n1", "n2")

    confirm(desk, a, at="n2")

    assert (current(desk, a).node, current(desk, b).node) == ("n2", "n1")


def test_a_plan_follows_its_candidates() -> None:
    desk = Desk("n1", "n2")
    claim = desk.grant(ask("a", "x:1=5000", policy="Static"))

    desk.observe(gone_nodes=["n1"])
    assert current(desk, claim).node == "n2"
    desk.observe(gone_nodes=["n2"])
    assert current(desk, claim).node is None
    desk.observe(nodes=[node("n3")])
    assert current(desk, claim).node == "n3"


def test_a_pod_on_a_node_that_is_gone_still_holds() -> None:
    desk = watched("n1")
    confirm(desk, desk.grant(ask("a", "x:1=5000", policy="Static")), at="n1")
    desk.observe(gone_nodes=["n1"])

    assert "PORT_CONFLICT" in desk.refusal(ask("b", "x:1=5000", policy="Static", constraints=on("n1")))
    assert not desk.ledger.nodes.is_known(NodeName("n1"))


# -- reinvocation


def patched(asked: Ask, claim: Claim, *injected: str) -> Ask:
    """The ask as the webhook sees the Pod the second time: our patch applied, another container before it."""
    ours = tuple(port(f"{p.container}/{p.name}:{p.host_port}/{p.protocol.value}={p.host_port}") for p in claim.ports)
    return Ask(
        owner=asked.owner,
        ports=tuple(map(port, injected)) + ours,
        policy=asked.policy,
        index=asked.index,
        constraints=asked.constraints,
        host_network=True,
        carried_id=claim.id,
    )


def test_a_pod_that_comes_again_with_its_own_id_keeps_its_claim() -> None:
    desk = Desk("n1")
    asked = ask("db-0", "p:8080", "m:9090", policy="Index", index=0)
    claim = desk.grant(asked)

    assert desk.ledger.drafts.readmit(patched(asked, claim), desk.now) == (claim, ())


def test_what_appeared_since_is_held_as_it_stands() -> None:
    desk = Desk("n1")
    asked = ask("db-0", "p:8080", policy="Index", index=0)
    claim = desk.grant(asked)

    taken, warnings = desk.ledger.drafts.readmit(patched(asked, claim, "proxy/admin:15000=15000"), desk.now) or (
        claim,
        (),
    )

    assert [(p.name, p.container_port, p.host_port, p.appeared) for p in taken.ports] == [
        ("admin", 15000, 15000, True),
        ("p", 8080, 7000, False),
    ]
    assert [w.message for w in warnings] == [
        "15000/TCP of container proxy came with another webhook and is held as it stands"
    ]
    desk.ledger.replace(taken)
    assert "PORT_CONFLICT" in desk.refusal(ask("x", "y:1=15000", policy="Static"))


@pytest.mark.parametrize(
    ("again", "expected"),
    [
        pytest.param("c/other:7000=7000", ("c", "other", ""), id="another name"),
        pytest.param("app/p:7000=7000", ("app", "p", ""), id="another name of its container"),
        pytest.param("c/p:7000=7000@10.0.0.1", ("c", "p", "10.0.0.1"), id="an address"),
    ],
)
def test_a_port_that_another_webhook_renamed_is_known_by_its_number(again: str, expected: tuple[str, ...]) -> None:
    desk = Desk("n1")
    asked = ask("db-0", "p:8080", policy="Index", index=0)
    claim = desk.grant(asked)
    stands = replace(patched(asked, claim), ports=(port(again),))

    taken, told = desk.ledger.drafts.readmit(stands, desk.now) or (claim, ())

    assert [(p.container, p.name, p.host_ip) for p in taken.ports] == [expected]
    assert [(p.container_port, p.host_port, p.appeared) for p in taken.ports] == [(8080, 7000, False)]
    assert (taken.id, told) == (claim.id, ())


def test_what_appeared_since_in_a_network_of_the_pods_own_is_left_alone() -> None:
    """It has no hostPort, so that it is on no host."""
    desk = Desk("n1")
    asked = ask("db-0", "p:8080", policy="Dynamic")
    claim = desk.grant(asked)
    again = replace(asked, ports=(port("proxy/admin:15000"), port("p:8080=7000")), carried_id=claim.id)

    assert desk.ledger.drafts.readmit(again, desk.now) == (claim, ())


def test_numbers_that_the_pod_names_itself_are_not_given_to_it() -> None:
    desk = Desk("n1")
    two = ("x:1", "y:2")

    first = desk.grant(ask("a", *two, avoid=(7000, 7002)))
    others = desk.grant(ask("b", *two))

    assert [p.host_port for p in first.ports] == [7001, 7003]
    assert [p.host_port for p in others.ports] == [7000, 7002]


def test_a_number_that_the_pod_had_is_not_given_to_it_once_it_names_it_itself() -> None:
    desk = Desk("n1")
    claim = desk.grant(ask("a", "x:1"))
    desk.ledger.end(claim.id, desk.now)

    again = desk.grant(ask("a", "x:1", avoid=(7000,)))

    assert [p.host_port for p in again.ports] == [7001]


def test_one_socket_under_two_names_is_held_once_and_freed_once() -> None:
    desk = Desk("n1")
    claim = desk.grant(ask("a", "x:1", "y:1"))
    assert [p.host_port for p in claim.ports] == [7000, 7000]
    assert "PORT_CONFLICT" in desk.refusal(ask("b", "z:1=7000", policy="Static"))

    desk.ledger.end(claim.id, desk.now)

    assert desk.grant(ask("b", "z:1=7000", policy="Static")).node == "n1"


ROLLING = "Pods of the same workload hold it: with a rolling update set maxSurge 0"


@pytest.mark.parametrize(
    ("one", "other", "is_told"),
    [
        pytest.param(("w-5c86cff746-", "rs-1"), ("w-77f9d-", "rs-2"), True, id="two ReplicaSets of a Deployment"),
        pytest.param(("d-", "ds"), ("d-", "ds"), True, id="a DaemonSet"),
        pytest.param(("w-5c86cff746-", "rs-1"), ("v-77f9d-", "rs-2"), False, id="another Deployment"),
        pytest.param(("a-", ""), ("a-", ""), False, id="Pods of nobody"),
        pytest.param(("a-", "x"), ("b-", "y"), False, id="two DaemonSets"),
        pytest.param(("db-one-", "x"), ("db-two-", "y"), False, id="two StatefulSets that begin alike"),
    ],
)
def test_a_rolling_update_that_waits_for_its_own_pods_is_told(
    one: tuple[str, str], other: tuple[str, str], is_told: bool
) -> None:
    desk = Desk("n1")
    desk.grant(ask(one[0], "p:80=9500", policy="Static", controller=one[1]))

    refusal = desk.refusal(ask(other[0], "p:80=9500", policy="Static", controller=other[1]))

    assert (ROLLING in "".join(refusal.values())) == is_told


def test_who_leases_hears_nothing_of_annotations() -> None:
    desk = Desk("n1")
    desk.grant(lease("a", "p:0", low=9000, high=9000))

    assert "hostport.io/" not in str(desk.refusal(lease("b", "p:0", low=9000, high=9000)))


def test_room_is_made_for_what_appeared_since() -> None:
    desk = Desk("n1", "n2")
    asked = ask("db-0", "p:8080", policy="Index", index=0, constraints=on("n1"))
    claim = desk.grant(asked)
    roaming = desk.grant(ask("web", "x:1=15000", policy="Static"))
    assert roaming.node == "n1"

    taken, _ = desk.ledger.drafts.readmit(patched(asked, claim, "proxy/admin:15000=15000"), desk.now) or (claim, ())
    desk.ledger.replace(taken)

    assert (current(desk, claim).node, current(desk, roaming).node) == ("n1", "n2")


def test_what_appeared_since_and_does_not_fit_denies_the_pod() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("agent", "x:15000", at="n1")])
    asked = ask("db-0", "p:8080", policy="Index", index=0)
    claim = desk.grant(asked)

    with pytest.raises(Refused, match="15000/TCP is taken"):
        desk.ledger.drafts.readmit(patched(asked, claim, "proxy/admin:15000=15000"), desk.now)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"owner": ask("db-1").owner}, id="another name"),
        pytest.param({"owner": ask("db-0", namespace="other").owner}, id="another namespace"),
        pytest.param({"owner": ask("db-0", controller="other").owner}, id="another controller"),
        pytest.param({"carried_id": "f" * 32}, id="an id that nobody has"),
        pytest.param({"ports": (port("p:8080=8080"),)}, id="without the claim's numbers"),
    ],
)
def test_any_other_id_proves_nothing(change: dict[str, Any]) -> None:
    desk = Desk("n1")
    asked = ask("db-0", "p:8080", policy="Index", index=0)
    claim = desk.grant(asked)
    again = patched(asked, claim)
    fields = {field: getattr(again, field) for field in ("owner", "ports", "policy", "index", "carried_id")}

    assert desk.ledger.drafts.readmit(Ask(**{**fields, **change}), desk.now) is None


def test_a_confirmed_or_expired_claim_is_not_taken_up() -> None:
    desk = watched("n1")
    asked = ask("db-0", "p:8080", policy="Index", index=0)
    claim = desk.grant(asked)
    assert desk.ledger.drafts.readmit(patched(asked, claim), desk.now + 45) is None
    confirm(desk, claim)
    assert desk.ledger.drafts.readmit(patched(asked, claim), desk.now) is None


# -- owners whose Pods never appear


def test_an_owner_whose_pods_never_appear_gets_one_reservation_at_a_time() -> None:
    desk = watched("n1")
    wanted = ask("web-", "x:1", controller="rs")
    for _ in range(3):
        desk.grant(wanted)
    desk.now += 4.9
    desk.ledger.proven(desk.now)
    assert desk.refusal(wanted) == {}, "not yet five seconds"
    desk.now += 0.1
    desk.ledger.proven(desk.now)
    assert list(desk.refusal(wanted)) == ["UNCONFIRMED_BACKLOG"]
    assert desk.refusal(ask("other-", "x:1", controller="rs2")) == {}, "others are not held back"

    desk.now += 60
    expired(desk)
    assert desk.refusal(wanted) == {}, "one outstanding reservation"
    assert list(desk.refusal(wanted)) == ["UNCONFIRMED_BACKLOG"]


def test_a_pod_that_appears_lifts_the_backlog() -> None:
    desk = watched("n1")
    wanted = ask("web-", "x:1", controller="rs")
    claims = [desk.grant(wanted) for _ in range(3)]
    desk.now += 5
    desk.ledger.proven(desk.now)
    assert list(desk.refusal(wanted)) == ["UNCONFIRMED_BACKLOG"]

    confirm(desk, claims[-1], controller_uid="rs")
    assert desk.refusal(wanted) == {}


def test_an_owner_without_a_pod_so_far_waits_for_its_first_one() -> None:
    desk = watched("n1")
    desk.ledger.trust_pods(desk.now)
    wanted, direct = ask("web-", "x:1", controller="rs"), ask("web-", "x:1")
    waits = []
    claims = []
    for _ in range(4):
        waits.append((desk.ledger.limits.awaits_sight(wanted), desk.ledger.limits.awaits_sight(direct)))
        claims.append(desk.grant(wanted))
        desk.grant(direct)
    assert waits == [(False, False)] * 3 + [(True, False)]

    confirm(desk, claims[0], controller_uid="rs")
    assert not desk.ledger.limits.awaits_sight(wanted)

    again = watched("n1")
    again.ledger.trust_pods(desk.now)
    again.ledger.restore(desk.ledger.claims, desk.now)
    assert not again.ledger.limits.awaits_sight(wanted), "a restart forgets no Pod that was seen"


def test_a_view_that_stands_still_accuses_nobody() -> None:
    desk = watched("n1")
    wanted = ask("web-", "x:1", controller="rs")
    for _ in range(4):
        desk.grant(wanted)
        desk.now += 10

    assert desk.refusal(wanted) == {}


def test_a_restored_ledger_is_the_same() -> None:
    desk = watched("n1", "n2")
    confirm(desk, desk.grant(ask("a", "x:1")), at="n2")
    desk.grant(ask("b", "x:1"))
    desk.grant(lease("relay", "x:0"))
    again = watched("n1", "n2")
    again.ledger.restore(desk.ledger.claims, desk.now)
    again.observe()

    assert again.state() == desk.state()


def test_a_dry_run_for_a_node_that_nobody_knows_shows_no_such_node() -> None:
    desk = Desk("n1")
    before = desk.state()
    desk.ledger.preview(ask("web", "x:1=5000", policy="Static", constraints=on("ghost")), desk.now)
    assert (desk.state(), desk.ledger.nodes.has("ghost")) == (before, False)
    desk.grant(ask("web", "x:1=5000", policy="Static", constraints=on("ghost")))
    assert desk.ledger.nodes.names() == ["ghost", "n1"]


def test_a_node_that_is_gone_is_shown_as_long_as_something_stands_there() -> None:
    desk = Desk("n1", "n2")
    desk.observe(pods=[pod("web", "x:1=5000", at="n1")])
    desk.observe(gone_nodes=["n1", "n2"])
    assert desk.ledger.nodes.names() == ["n1"]
    desk.observe(gone_pods=["uid-demo-web"])
    assert desk.ledger.nodes.names() == []


def test_reservations_of_a_time_without_pods_get_their_deadline_a_few_at_a_time() -> None:
    desk = Desk("n1")
    for number in range(600):
        desk.grant(ask(f"p{number}", f"x:1={5000 + number}", policy="Static"))
    desk.ledger.take_changes()
    desk.ledger.trust_pods(desk.now)
    dated = [len(desk.ledger.take_changes())]
    desk.now += 10
    while desk.ledger.has_more_to_replan:
        desk.ledger.replan()
        dated.append(len(desk.ledger.take_changes()))
    assert dated == [256, 256, 88]
    assert {claim.expires for claim in desk.ledger.claims} == {1000.0 + 45.0}
