"""A tenant holds what its Pods hold: reservations that no Pod has confirmed, and leases, are bounded for each namespace."""

from __future__ import annotations

from typing import Any

import pytest

from allocator.core.admission import HANDFUL, Shares
from allocator.core.asks import Ask, Refused
from allocator.core.claims import Claim
from testing.kit import Desk, ask, lease, node, pod

REFUSERS = (
    "something refuses its Pods after they were admitted here (a quota, Pod Security, another webhook: see the events of"
    " their owners)"
)
REMEDY = (
    "Mend that; each reservation ends when its Pod is seen, or else 45 s after it was made. Or raise"
    " --namespace-reservations and --namespace-reserved-ports"
)


def desk(**shares: int) -> Desk:
    made = unconfirming(**shares)
    made.ledger.trust_pods(made.now)
    return made


def unconfirming(**shares: int) -> Desk:
    return Desk("n1", "n2", shares=Shares(**shares))


def seen(at: Desk, claim: Claim) -> None:
    ports = [f"{p.name}:{p.container_port}={p.host_port}" for p in claim.ports]
    name = claim.owner.name
    at.observe(pods=[pod(name, *ports, namespace=claim.owner.namespace, at="n1", carried_id=claim.id)])


def ports(count: int) -> list[str]:
    return [f"p{number}:{number + 1}" for number in range(count)]


def fill(at: Desk, count: int, *, each: int = 1, namespace: str = "demo") -> list[Claim]:
    return [at.grant(ask(f"w-{n}", *ports(each), namespace=namespace)) for n in range(count)]


@pytest.mark.parametrize(
    ("shares", "has", "more", "reasons"),
    [
        pytest.param({"reservations": 3}, (2, 1), 1, [], id="one below the bound on claims"),
        pytest.param({"reservations": 3}, (3, 1), 1, ["NAMESPACE_BACKLOG"], id="at the bound on claims"),
        pytest.param({"reserved_ports": 10}, (2, 4), 2, [], id="as many ports as the bound"),
        pytest.param({"reserved_ports": 10}, (2, 4), 3, ["NAMESPACE_BACKLOG"], id="one port above the bound"),
        pytest.param({"reserved_ports": 10}, (0, 0), 11, [], id="a Pod above the bound, and nothing outstanding"),
        pytest.param({"reserved_ports": 10}, (1, 1), 11, ["NAMESPACE_BACKLOG"], id="such a Pod, and one outstanding"),
        pytest.param({"reservations": 0, "reserved_ports": 0}, (700, 1), 9, [], id="no bound"),
    ],
)
def test_unconfirmed_reservations_of_a_namespace_are_bounded(
    shares: dict[str, int], has: tuple[int, int], more: int, reasons: list[str]
) -> None:
    at = desk(**shares)
    fill(at, has[0], each=has[1])

    assert list(at.refusal(ask("last", *ports(more)))) == reasons
    assert at.refusal(ask("other", *ports(9), namespace="other")) == {}, "nobody else is concerned"


@pytest.mark.parametrize("controller", ["", "rs-1"], ids=["bare Pods", "with a controller"])
def test_a_controller_makes_no_difference(controller: str) -> None:
    at = desk(reservations=2)
    for number in range(2):
        at.grant(ask(f"w-{number}", "x:1", controller=f"{controller}{number}" if controller else ""))

    assert at.refusal(ask("last", "x:1", controller=controller)) == {
        "NAMESPACE_BACKLOG": "namespace demo has 2 reservations with 2 ports in all that no Pod has confirmed, and at"
        f" most 2 with 500 are allowed: {REFUSERS}, or very many are created at once. {REMEDY}"
    }


@pytest.mark.parametrize("how", ["seen", "aborted", "expired", "released"])
def test_what_is_confirmed_or_ended_makes_room_for_as_much(how: str) -> None:
    at = desk(reservations=3, reserved_ports=9)
    first, *_ = fill(at, 3, each=3)
    assert at.refusal(ask("last", *ports(3))) != {}

    match how:
        case "seen":
            seen(at, first)
        case "aborted":
            at.ledger.abort(first.id)
        case _:
            at.ledger.end(first.id, at.now)

    assert at.refusal(ask("last", *ports(3))) == {}
    assert at.refusal(ask("one-more", "x:1")) != {}


def test_a_burst_whose_pods_are_seen_is_not_held_up() -> None:
    at = desk(reservations=5)

    for number in range(300):
        seen(at, at.grant(ask(f"w-{number}", "x:1")))


def test_where_nobody_can_confirm_nothing_is_bounded() -> None:
    fill(unconfirming(reservations=1, reserved_ports=1), 50)


def test_a_namespace_that_enforces_pod_security_gets_a_handful() -> None:
    at = desk()
    at.ledger.limits.enforce({"demo": "restricted", "other": "baseline"})
    claims = fill(at, HANDFUL.reservations)

    refusal = at.refusal(ask("last", "x:1"))
    assert list(refusal) == ["NAMESPACE_BACKLOG"]
    assert "at most 8 with 64 are allowed, as it enforces Pod Security restricted" in refusal["NAMESPACE_BACKLOG"]

    seen(at, claims[0])
    assert at.refusal(ask("last", "x:1")) == {}, "an exemption denies nobody"
    at.ledger.limits.enforce({})
    assert at.refusal(ask("more", *ports(40))) == {}


def test_a_handful_is_never_more_than_the_flags_say() -> None:
    at = desk(reservations=2)
    at.ledger.limits.enforce({"demo": "baseline"})
    fill(at, 2)

    assert list(at.refusal(ask("last", "x:1"))) == ["NAMESPACE_BACKLOG"]


def test_a_preview_reserves_nothing_and_is_neither_counted_nor_held_back() -> None:
    at = desk(reservations=1)
    for _ in range(5):
        at.ledger.preview(ask("dry", "x:1"), at.now)
    fill(at, 1)

    at.ledger.preview(ask("dry", "x:1"), at.now)


def test_a_pods_own_reservation_seen_again_is_not_held_back() -> None:
    at = desk(reservations=1)
    [claim] = fill(at, 1)
    again = ask("w-0", f"p0:{claim.ports[0].host_port}", host_network=True, carried_id=claim.id)

    assert not at.ledger.limits.is_crowded(again)
    assert at.ledger.drafts.readmit(again, at.now) is not None
    assert at.ledger.limits.is_crowded(ask("w-1", "x:1"))
    assert at.ledger.limits.is_crowded(ask("w-1", "x:1", carried_id="f" * 32)), "an invented id proves nothing"
    assert not at.ledger.limits.is_crowded(ask("w-1", "x:1", namespace="other"))


def test_a_reservation_does_not_grow_past_the_bound_by_being_asked_about_again() -> None:
    """Else a Pod of one port that is refused, and is asked about again with 512, would be a way around it."""
    at = desk(reserved_ports=10)
    first, _ = fill(at, 2)

    def again(count: int) -> Ask:
        grown = [f"q{number}:{20_000 + number}" for number in range(count - 1)]
        return ask("w-0", f"p0:{first.ports[0].host_port}", *grown, host_network=True, carried_id=first.id)

    assert at.ledger.drafts.readmit(again(9), at.now) is not None, "10 ports in all"
    with pytest.raises(Refused, match="2 reservations with 2 ports in all"):
        at.ledger.drafts.readmit(again(10), at.now)
    assert at.ledger.claims.get(first.id) == first


def test_a_pod_that_is_alone_in_its_namespace_grows_as_it_likes() -> None:
    at = desk(reserved_ports=10)
    [first] = fill(at, 1)
    grown = [f"q{number}:{20_000 + number}" for number in range(30)]

    assert at.ledger.drafts.readmit(
        ask("w-0", f"p0:{first.ports[0].host_port}", *grown, host_network=True, carried_id=first.id), at.now
    )


# -- leases


@pytest.mark.parametrize(
    ("bound", "has", "more", "reasons"),
    [
        pytest.param(10, 9, 1, [], id="as many as the bound"),
        pytest.param(10, 9, 2, ["TOO_MANY_LEASES"], id="one above the bound"),
        pytest.param(10, 0, 11, ["TOO_MANY_LEASES"], id="one lease above the bound"),
        pytest.param(0, 600, 9, [], id="no bound"),
    ],
)
def test_leases_of_a_namespace_are_bounded(bound: int, has: int, more: int, reasons: list[str]) -> None:
    at = unconfirming(leases=bound)
    held = [at.grant(lease(f"r-{number}", "x:0")) for number in range(has)]

    assert list(at.refusal(lease("last", *ports(more)))) == reasons
    assert at.refusal(ask("a-pod", *ports(9), namespace="lessee")) == {}
    if reasons and held:
        for _ in range(more - 1):
            at.ledger.end(held.pop().id, at.now)
        assert at.refusal(lease("last", *ports(more))) == {}


def test_a_refused_lease_is_told_the_counts_and_what_to_do() -> None:
    at = desk(leases=2)
    at.grant(lease("r-0", "a:0", "b:0"))

    assert at.refusal(lease("last", "x:0")) == {
        "TOO_MANY_LEASES": "namespace lessee leases 2 ports, this would be 1 more, and at most 2 are allowed. Release"
        " leases that nobody uses, or raise --namespace-leases"
    }


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [("Static", "x:0=6443"), ("Passthrough", "x:6443"), ("Index", "x:0=6443"), ("Dynamic", "x:0=6443")],
    ids=lambda value: value,
)
def test_a_reserved_number_cannot_be_leased_under_any_policy(policy: str, wanted: str) -> None:
    at = Desk(node("n1"), reserved=1 << 6443)
    more: dict[str, Any] = {"index": 0} if policy == "Index" else {}
    asked: Ask = lease("relay", wanted, policy=policy, **more)

    assert at.refusal(asked) == {
        "PORT_RESERVED": f"{asked.ports[0]}: 6443 is reserved in this cluster, and"
        " cannot be leased. Choose another number"
    }


def test_a_pod_may_name_a_reserved_number_as_ever() -> None:
    at = Desk(node("n1"), reserved=1 << 6443)

    assert at.numbers(ask("web", "x:1=6443", policy="Static")) == [6443]
