"""Where an ask fits, and what is said when it does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from allocator.core.asks import Ask, Refused
from allocator.core.candidates import Constraints, NodeName
from allocator.core.claims import Claim, ClaimId
from allocator.core.foreign import NodePort, ObservedService
from allocator.core.place import view
from allocator.core.place.policies import Dynamic
from allocator.core.place.view import Demand, Numbers, Steps, free_numbers
from allocator.core.ports import Protocol, parse_numbers, set_of
from hostport.contract import Notice
from testing.kit import Desk, ask, lease, node, on, pod


def test_dynamic_takes_the_lowest_numbers_that_are_free() -> None:
    desk = Desk("n1")

    assert desk.numbers(ask("a", "x:1", "y:2", low=7000, high=7010)) == [7000, 7001]
    assert desk.numbers(ask("b", "x:1", low=7000, high=7010)) == [7002]


def test_dynamic_gives_a_group_one_number_that_is_free_for_every_protocol() -> None:
    desk = Desk("n1")
    desk.grant(ask("a", "x:1/UDP=7000", policy="Static"))

    assert desk.numbers(ask("b", "d:53", "e:53/UDP", low=7000, high=7010)) == [7001, 7001]
    assert desk.numbers(ask("c", "d:80", low=7000, high=7010)) == [7000], "TCP is free there"


def test_dynamic_gives_different_numbers_to_different_groups_whatever_their_protocols() -> None:
    assert Desk("n1").numbers(ask("a", "x:1", "y:2/UDP", low=7000, high=7010)) == [7000, 7001]


def test_dynamic_steps_over_reserved_numbers_and_those_that_the_pod_pins() -> None:
    desk = Desk("n1", reserved=parse_numbers("7000,7002"))

    assert desk.numbers(ask("a", "x:1", "y:2=7001", "z:3", low=7000, high=7010)) == [7003, 7001, 7004]


def test_dynamic_takes_a_number_that_is_free_on_every_candidate() -> None:
    desk = Desk("n1", "n2", "n3")
    desk.grant(ask("a", "x:1=7000", policy="Static", constraints=on("n1")))
    desk.grant(ask("b", "x:1=7001", policy="Static", constraints=on("n2")))

    assert desk.numbers(ask("c", "x:1", low=7000, high=7010)) == [7002]
    assert desk.numbers(ask("d", "x:1", low=7000, high=7010, constraints=on("n3"))) == [7000]


def test_dynamic_avoids_a_number_that_an_unsettled_claim_could_bring_to_a_candidate() -> None:
    desk = Desk("n1", "n2")
    roaming = desk.grant(ask("a", "x:1", low=7000, high=7010))
    assert roaming.node == "n1", "planned there, and it could still land on n2"

    assert desk.numbers(ask("b", "x:1", low=7000, high=7010, constraints=on("n2"))) == [7001]


def test_a_bound_pod_no_longer_takes_its_number_elsewhere() -> None:
    desk = Desk("n1", "n2")
    claim = desk.grant(ask("a", "x:1", low=7000, high=7010))
    desk.observe(pods=[pod("a", "x:1=7000", at="n2", carried_id=claim.id)])

    assert desk.numbers(ask("b", "x:1", low=7000, high=7010, constraints=on("n1"))) == [7000]


def test_a_fixed_number_is_planned_on_as_many_nodes_as_there_are() -> None:
    desk = Desk("n1", "n2")
    asks = [ask(name, "x:80=18080", policy="Static", namespace="games") for name in ("a", "b", "c")]

    assert [desk.grant(a).node for a in asks[:2]] == ["n1", "n2"]
    assert desk.refusal(asks[2]) == {
        "PORT_CONFLICT": "port x (80/TCP) of container c: 18080/TCP is taken on all 2 candidate nodes: n1 by Pod games/a,"
        " n2 by Pod games/b. Choose another number or free it"
    }


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (ask("b", "x:80=18080", policy="Index", index=0), "ports[0].host_port"),
        (ask("b", "y:81", "x:80=18080", policy="Dynamic"), "ports[1].host_port"),
        (ask("b", "x:80", policy="Index", index=0, low=18080, high=18090), "ports"),
        (ask("b", "x:80=18080", policy="Static"), "ports"),
    ],
    ids=["pinned under Index", "pinned under Dynamic", "made of the index", "Static"],
)
def test_a_refusal_names_the_field_of_a_number_that_its_author_wrote(asked: Ask, field: str) -> None:
    node_port = NodePort(protocol=Protocol.TCP, number=18080)
    of_service, of_pod = Desk("n1"), Desk("n1")
    of_service.observe(services=[ObservedService(namespace="theirs", name="web", ports=(node_port,))])
    of_pod.grant(ask("a", "x:80=18080", policy="Static"))

    for desk, reason in ((of_service, "HELD_BY_SERVICE"), (of_pod, "PORT_CONFLICT")):
        with pytest.raises(Refused) as refused:
            desk.grant(asked)
        assert [(each.reason, each.field) for each in refused.value.mistakes] == [(reason, field)]


def test_holders_of_another_namespace_are_named_only_where_the_operator_allows_it() -> None:
    asked = ask("b", "x:80=18080", policy="Static", namespace="mine")
    for discloses, words in ((False, "n1 by a Pod of another namespace"), (True, "n1 by Pod theirs/a")):
        desk = Desk("n1", discloses_holders=discloses)
        desk.grant(ask("a", "x:80=18080", policy="Static", namespace="theirs"))

        assert words in desk.refusal(asked)["PORT_CONFLICT"]


def test_all_ports_of_a_pod_are_planned_together_on_one_node() -> None:
    desk = Desk("n1", "n2")
    desk.grant(ask("a", "x:1=5001", policy="Static", constraints=on("n1")))
    desk.grant(ask("b", "x:1=5002", policy="Static", constraints=on("n2")))

    assert desk.refusal(ask("c", "x:1=5001", "y:2=5002", policy="Static")) == {
        "PORT_CONFLICT": "5001/TCP, 5002/TCP are each free somewhere, but not together on one of 2 candidate nodes"
    }


def test_an_exhausted_range_says_how_far_we_looked() -> None:
    desk = Desk("n1", "n2", reserved=parse_numbers("7001"))
    for name in ("a", "b"):
        desk.grant(ask(name, "x:1", low=7000, high=7001))

    assert desk.refusal(ask("c", "x:1", low=7000, high=7001)) == {
        "RANGE_EXHAUSTED": "range 7000-7001 (1 numbers, 7001 reserved) has no number left on any of 2 candidate nodes."
        " Widen the range, or free ports"
    }


def test_addresses_share_a_number_where_the_scheduler_would_let_them() -> None:
    desk = Desk("n1")
    desk.grant(ask("a", "x:80=500@10.0.0.1", policy="Static"))

    assert desk.numbers(ask("b", "x:80=500@10.0.0.2", policy="Static")) == [500]
    assert "PORT_CONFLICT" in desk.refusal(ask("c", "x:80=500", policy="Static"))


# -- leases


def test_a_lease_stands_at_once_and_keeps_pods_off_its_number_on_every_candidate() -> None:
    desk = Desk("n1", "n2")
    held = desk.grant(lease("relay", "x:0=7000", policy="Static", constraints=on("n1")))

    assert (held.node, held.expires) == ("n1", 1000.0 + 3600)
    assert desk.refusal(ask("a", "x:80=7000", policy="Static")) == {
        "HELD_BY_LEASE": "port x (80/TCP) of container c: 7000/TCP is leased: n1 by a lease of another namespace."
        " Choose another number, or keep the Pod off that node"
    }
    assert desk.numbers(ask("b", "x:80=7000", policy="Static", constraints=on("n2"))) == [7000]
    assert desk.numbers(ask("c", "x:1", low=7000, high=7010, constraints=on("n1"))) == [7001]


def test_a_lease_is_not_granted_where_an_unsettled_pod_could_land_with_the_number() -> None:
    desk = Desk("n1", "n2")
    desk.grant(ask("a", "x:80=7000", policy="Static"))

    assert "PORT_CONFLICT" in desk.refusal(lease("relay", "x:0=7000", policy="Static"))
    assert desk.numbers(lease("relay", "x:0", low=7000, high=7010)) == [7001]


@pytest.mark.parametrize("asks", [lease, ask])
def test_an_address_is_the_same_however_it_is_spelled(asks: Callable[..., Ask]) -> None:
    desk = Desk("n1")
    held = desk.grant(lease("relay", "x:1=7000@fd00::1", policy="Static"))
    other = asks("other", "x:1=7000@FD00:0:0::1", policy="Static")

    assert desk.refusal(other)
    desk.ledger.end(held.id, desk.now)
    assert desk.numbers(other) == [7000]


def test_a_lease_looks_at_one_node_after_the_other() -> None:
    desk = Desk("n1", "n2")
    for name in ("n1", "n2"):
        number = 7000 if name == "n1" else 7001
        desk.observe(pods=[pod(name, f"x:{number}", at=name)])

    claim = desk.grant(lease("relay", "x:0", low=7000, high=7001))

    assert (claim.node, claim.ports[0].host_port) == ("n1", 7001)


def test_a_lease_needs_a_node() -> None:
    assert "NODE_NOT_FOUND" in Desk().refusal(lease("relay", "x:0"))


# -- candidates


def test_a_pod_without_candidates_is_admitted_without_a_node_and_warned() -> None:
    desk = Desk("n1")
    claim = desk.grant(ask("a", "x:1", low=7000, high=7010, constraints=Constraints(selector=(("disk", "ssd"),))))

    assert (claim.node, claim.ports[0].host_port) == (None, 7000)
    assert [w.reason for w in desk.warnings] == [Notice.NO_CANDIDATE]
    assert desk.numbers(ask("b", "x:1", low=7000, high=7010, constraints=claim.constraints)) == [7001]


def test_a_cordoned_node_is_planned_on_last() -> None:
    desk = Desk(node("n1", unschedulable=True), "n2")

    assert desk.grant(ask("a", "x:1=5000", policy="Static")).node == "n2"
    assert desk.grant(ask("b", "x:1=5000", policy="Static")).node == "n1"


def test_a_named_node_needs_no_node_object() -> None:
    desk = Desk()

    assert desk.grant(ask("a", "x:1=5000", policy="Static", constraints=on("ghost"))).node == "ghost"
    assert "PORT_CONFLICT" in desk.refusal(ask("b", "x:1=5000", policy="Static", constraints=on("ghost")))


def test_with_one_implicit_node_every_ask_is_about_it() -> None:
    desk = Desk(implicit_node="localhost")
    desk.grant(ask("a", "x:1=5000", policy="Static", constraints=on("n1")))

    assert "PORT_CONFLICT" in desk.refusal(ask("b", "x:1=5000", policy="Static", constraints=on("n2")))


# -- succession


def test_a_successor_holds_its_predecessors_number_beside_it() -> None:
    desk = Desk("n1")
    first = desk.grant(ask("db-0", "x:1=5000", policy="Static"))
    second = desk.grant(ask("db-0", "x:1=5000", policy="Static"))

    assert (first.node, second.node) == ("n1", "n1")
    assert "PORT_CONFLICT" in desk.refusal(ask("db-1", "x:1=5000", policy="Static"))
    desk.ledger.end(first.id, desk.now)
    assert "PORT_CONFLICT" in desk.refusal(ask("db-1", "x:1=5000", policy="Static")), "each ends by itself"
    desk.ledger.end(second.id, desk.now)
    assert desk.numbers(ask("db-1", "x:1=5000", policy="Static")) == [5000]


@pytest.mark.parametrize("name", ["web-", "db-0"], ids=["nameless", "of another namespace"])
def test_only_a_pod_of_the_same_namespace_and_name_succeeds(name: str) -> None:
    desk = Desk("n1")
    desk.grant(ask(name, "x:1=5000", policy="Static"))

    assert "PORT_CONFLICT" in desk.refusal(
        ask(name, "x:1=5000", policy="Static", namespace="demo" if name == "web-" else "other")
    )


def test_a_preview_takes_nothing() -> None:
    desk = Desk("n1")
    before = desk.state()

    previews = [desk.ledger.preview(ask("a", "x:1"), desk.now)[0] for _ in range(2)]

    assert [[p.host_port for p in preview.ports] for preview in previews] == [[7000], [7000]]
    assert desk.state() == before


def test_a_pending_claim_counts_but_is_not_shown() -> None:
    desk = Desk("n1")
    claim, _ = desk.ledger.reserve(ask("a", "x:1=5000", policy="Static"), ClaimId("pending"), desk.now)

    assert (desk.ledger.claims.get(claim.id), list(desk.ledger.claims), desk.ledger.nodes.port_map(NodeName("n1"))) == (
        None,
        [],
        [],
    )
    assert "PORT_CONFLICT" in desk.refusal(ask("b", "x:1=5000", policy="Static"))
    desk.ledger.abort(claim.id)
    assert desk.numbers(ask("b", "x:1=5000", policy="Static")) == [5000]


class Highest(Dynamic):
    """A policy of somebody else's: the highest number that is free on every candidate."""

    def free_numbers(self, demand: Demand, steps: Steps) -> Numbers:
        return free_numbers(demand, steps, lambda free: free.bit_length() - 1, first_look=65535)


def test_a_policy_that_searches_may_like_other_numbers_best() -> None:
    desk = Desk("n1", "n2")

    def highest(asked: Ask) -> Ask:
        return replace(asked, policy=Highest(), low=9000, high=9002)

    assert desk.numbers(highest(ask("a", "x:1", "y:2"))) == [9002, 9001]
    assert desk.numbers(highest(lease("b", "x:1"))) == [9000]
    assert desk.numbers(highest(ask("c", "x:1"))) == [9001]  # free on one of the two
    assert desk.numbers(highest(ask("d", "x:1"))) == [9002]
    assert list(desk.refusal(highest(ask("e", "x:1")))) == ["RANGE_EXHAUSTED"]


# -- how many numbers are looked at


class Looking(Dynamic):
    """As Dynamic, with so many numbers looked at first: with few, a look ends amid those that are taken."""

    def __init__(self, first_look: int) -> None:
        super().__init__()
        self._first_look = first_look

    def free_numbers(self, demand: Demand, steps: Steps) -> Numbers:
        return free_numbers(demand, steps, first_look=self._first_look)


PORTS = st.sampled_from(
    [("x:1",), ("x:1/UDP",), ("x:1", "y:1/UDP"), ("x:1", "y:2"), ("x:1", "y:2/UDP"), ("x:1", "y:2", "z:3")]
)
ASKS = st.tuples(PORTS, st.sampled_from([None, "n1", "n2"]))


@given(withheld=st.sets(st.integers(7000, 7047)), asks=st.lists(ASKS, max_size=40), gone=st.sets(st.integers(0, 39)))
def test_the_same_numbers_are_found_however_few_are_looked_at_first(
    withheld: set[int], asks: list[tuple[tuple[str, ...], str | None]], gone: set[int]
) -> None:
    def given_by(policy: Dynamic) -> list[list[int]]:
        desk = Desk("n1", "n2", reserved=set_of(withheld))
        found: list[list[int]] = []
        claims: dict[int, Claim] = {}
        for at, (ports, only) in enumerate([*asks, *asks]):
            if at == len(asks):
                for which in gone & claims.keys():
                    desk.ledger.end(claims[which].id, desk.now)
            asked = replace(ask(f"p-{at}", *ports, low=7000, high=7047), policy=policy)
            try:
                claims[at] = desk.grant(replace(asked, constraints=on(only)) if only else asked)
            except Refused:
                found.append([])
            else:
                found.append([port.host_port for port in claims[at].ports])
        return found

    assert given_by(Looking(4)) == given_by(Looking(65535))


def test_a_withheld_number_amid_those_that_are_taken_costs_no_look_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of many numbers takes longer than all the rest of a decision."""
    desk, looks = Desk("n1", reserved=parse_numbers("10248-10259")), []
    for number in range(2_000):
        desk.grant(ask(f"p-{number}", "x:1", "y:2", low=10_000, high=60_000))
    look = view._picked

    def counted(demand: Demand, low: int, last: int, *more: object) -> Numbers:
        looks.append((low, last - low + 1))
        return look(demand, low, last, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(view, "_picked", counted)
    desk.grant(ask("one more", "x:1", "y:2", low=10_000, high=60_000))

    assert looks == [(10_000, 1024), (14_008, 2048)]  # eight numbers are told at once
