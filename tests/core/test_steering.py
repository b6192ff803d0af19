"""A Pod with a fixed number is kept off the nodes where somebody holds it whom the scheduler does not know."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.core.asks import Ask, WhenFull
from allocator.core.candidates import ANYWHERE, Constraints, NodeName, Requirement, Term
from allocator.core.claims import ClaimId
from allocator.core.ledger import Ledger
from allocator.journal.tables import decode_claim, encode_claim
from allocator.wire import encode_response
from hostport.contract import Notice
from hostport.contract.limits import MOST_STEERED
from hostport.v1 import allocator_pb2 as pb
from testing.kit import Desk, ask, lease, node, on, pod, report

SSD = Requirement(key="disk", operator="In", values=("ssd",))
ZONE = Requirement(key="zone", operator="Exists")


def off(*names: str) -> tuple[Requirement, ...]:
    return tuple(Requirement(key="metadata.name", operator="NotIn", values=(name,)) for name in names)


def kept_off(*names: str) -> Constraints:
    return Constraints(affinity=(Term(fields=off(*names)),))


def steerable(name: str, *ports: str, policy: str = "Static", **more: Any) -> Ask:
    return ask(name, *ports, policy=policy, **{"can_steer": True} | more)


def leased(*held: str, nodes: tuple[str, ...] = ("n1", "n2", "n3")) -> Desk:
    """Some nodes, and leases written `node=number`."""
    desk = Desk(*nodes)
    for each in held:
        at, _, number = each.partition("=")
        desk.grant(lease(f"l-{each}", f"x:0={number}", policy="Static", constraints=on(at)))
    return desk


def test_a_pod_is_kept_off_the_node_where_its_number_is_leased() -> None:
    desk = leased("n1=7000")

    claim = desk.grant(steerable("a", "x:80=7000"))

    assert (claim.node, claim.constraints) == ("n2", kept_off("n1"))
    (warning,) = desk.warnings
    assert warning.reason == Notice.STEERED
    assert warning.message == (
        "the Pod is kept off nodes where somebody whom the scheduler does not know holds its number: 7000/TCP on n1 by a"
        " lease of another namespace"
    )


@pytest.mark.parametrize(
    ("policy", "port", "more"),
    [
        ("Static", "x:80=7000", {}),
        ("Passthrough", "x:7000", {}),
        ("Index", "x:80", {"low": 7000, "high": 7010, "index": 0}),
        ("Dynamic", "x:80=7000", {"low": 7000, "high": 7010}),
    ],
    ids=["Static", "Passthrough", "Index", "a pinned port of Dynamic"],
)
def test_every_policy_that_fixes_a_number_steers(policy: str, port: str, more: dict[str, int]) -> None:
    claim = leased("n1=7000").grant(steerable("a", port, policy=policy, **more))

    assert (claim.ports[0].host_port, claim.node, claim.constraints) == (7000, "n2", kept_off("n1"))


def test_dynamic_takes_a_number_that_is_leased_nowhere_and_steers_nobody() -> None:
    claim = leased("n1=7000").grant(steerable("a", "x:80", policy="Dynamic", low=7000, high=7010))

    assert (claim.ports[0].host_port, claim.constraints) == (7001, ANYWHERE)


def test_nodes_are_named_in_order_and_for_all_ports_together() -> None:
    desk = leased("n3=7000", "n1=7001", nodes=("n3", "n2", "n1"))

    claim = desk.grant(steerable("a", "x:80=7000", "y:81=7001"))

    assert (claim.node, claim.constraints) == ("n2", kept_off("n1", "n3"))


@pytest.mark.parametrize(
    ("asked", "given_back"),
    [
        (ANYWHERE, kept_off("n1")),
        (
            Constraints(affinity=(Term(expressions=(SSD,)), Term(expressions=(ZONE,), fields=off("n9")))),
            Constraints(
                affinity=(
                    Term(expressions=(SSD,), fields=off("n1")),
                    Term(expressions=(ZONE,), fields=(*off("n9"), *off("n1"))),
                )
            ),
        ),
        (
            Constraints(affinity=(Term(), Term(expressions=(SSD,)))),
            Constraints(affinity=(Term(), Term(expressions=(SSD,), fields=off("n1")))),
        ),
        (
            Constraints(affinity=(Term(expressions=(SSD,), fields=off("n1")), Term(expressions=(ZONE,)))),
            Constraints(
                affinity=(Term(expressions=(SSD,), fields=off("n1")), Term(expressions=(ZONE,), fields=off("n1")))
            ),
        ),
    ],
    ids=["none", "each of several terms", "an empty term matches nothing and stays so", "one that names it already"],
)
def test_each_term_of_the_pod_gets_the_name(asked: Constraints, given_back: Constraints) -> None:
    desk = Desk(*(node(name, labels={"disk": "ssd", "zone": "a"}) for name in ("n1", "n2")))
    desk.grant(lease("l", "x:0=7000", policy="Static", constraints=on("n1")))

    claim = desk.grant(steerable("a", "x:80=7000", constraints=asked))

    assert (claim.node, claim.constraints) == ("n2", given_back)


def test_a_number_that_is_leased_on_every_candidate_is_refused_and_all_are_named() -> None:
    desk = leased("n1=7000", "n2=7000", nodes=("n1", "n2"))

    assert desk.refusal(steerable("a", "x:80=7000", namespace="lessee")) == {
        "HELD_BY_LEASE": "port x (80/TCP) of container c: 7000/TCP is leased on all 2 candidate nodes: n1 by lease"
        f" {1:032x} of Service lessee/l-n1=7000, n2 by lease {2:032x} of Service lessee/l-n2=7000. Choose another"
        " number, or end a lease"
    }


def test_two_numbers_that_leave_no_candidate_between_them_are_refused_each_by_name() -> None:
    desk = leased("n1=7000", "n2=7001", nodes=("n1", "n2"))

    assert desk.refusal(steerable("a", "x:80=7001", "y:81=7000")) == {
        "HELD_BY_LEASE": "port y (81/TCP) of container c: 7000/TCP is leased: n1 by a lease of another namespace, and"
        " no candidate is left for all ports of the Pod. Choose another number, or end a lease"
    }


def test_a_lease_and_a_pod_that_have_all_candidates_are_both_named() -> None:
    desk = leased("n1=7000", nodes=("n1", "n2"))
    desk.grant(ask("b", "x:80=7000", policy="Static", constraints=on("n2")))

    assert desk.refusal(steerable("a", "x:80=7000")) == {
        "PORT_CONFLICT": "port x (80/TCP) of container c: 7000/TCP is taken on all 2 candidate nodes: n1 by a lease of"
        " another namespace, n2 by Pod demo/b. Choose another number or free it"
    }


def test_a_pod_may_wait_for_room_on_the_nodes_that_it_is_not_kept_off() -> None:
    desk = leased("n1=7000", nodes=("n1", "n2"))
    desk.grant(ask("b", "x:80=7000", policy="Static", constraints=on("n2")))

    claim = desk.grant(steerable("a", "x:80=7000", when_full=WhenFull.PENDING))

    assert (claim.node, claim.constraints) == (None, kept_off("n1"))
    assert [each.reason for each in desk.warnings] == [Notice.STEERED, Notice.ALL_FULL]


@pytest.mark.parametrize("count", [MOST_STEERED, MOST_STEERED + 1])
def test_a_pod_is_kept_off_so_many_nodes_and_no_more(count: int) -> None:
    names = [f"n{number:02}" for number in range(count)]
    desk = leased(*(f"{name}=7000" for name in names), nodes=(*names, "z"))

    if count == MOST_STEERED:
        assert desk.grant(steerable("a", "x:80=7000")).constraints == kept_off(*names)
    else:
        message = desk.refusal(steerable("a", "x:80=7000"))["HELD_BY_LEASE"]
        assert message.endswith(
            ". A Pod can be kept off 32 nodes by name, and these are 33. Choose another number, or keep the Pod off"
            " them by a label"
        )


def test_terms_that_would_grow_beyond_what_an_ask_may_say_are_left_alone() -> None:
    terms = tuple(Term(expressions=(SSD,), fields=off(f"x{number}")) for number in range(250))
    desk = Desk(node("n1", labels={"disk": "ssd"}), node("n2", labels={"disk": "ssd"}))
    desk.grant(lease("l", "x:0=7000", policy="Static", constraints=on("n1")))

    message = desk.refusal(steerable("a", "x:80=7000", constraints=Constraints(affinity=terms)))["HELD_BY_LEASE"]

    assert message.endswith(
        ". Its node affinity has no room to keep it off 1 of them. Choose another number, or keep the Pod off them by a"
        " label"
    )


def test_a_pod_of_one_node_cannot_be_steered() -> None:
    only = Constraints(affinity=(Term(fields=(Requirement(key="metadata.name", operator="In", values=("n1",)),)),))

    assert (
        "on the only candidate node"
        in leased("n1=7000").refusal(steerable("a", "x:80=7000", constraints=only))["HELD_BY_LEASE"]
    )


def test_who_asks_for_no_steering_is_refused_as_ever() -> None:
    assert (
        leased("n1=7000")
        .refusal(ask("a", "x:80=7000", policy="Static"))["HELD_BY_LEASE"]
        .endswith(
            "7000/TCP is leased: n1 by a lease of another namespace. Choose another number, or keep the Pod off that node"
        )
    )


def test_a_pod_that_comes_again_with_its_terms_is_told_nothing_twice() -> None:
    desk = leased("n1=7000")
    claim = desk.grant(steerable("a", "x:80=7000"))

    again = steerable("a", "x:80=7000", constraints=claim.constraints, carried_id=claim.id)
    taken = desk.ledger.drafts.readmit(again, desk.now)

    assert taken == (claim, ())


def test_a_pod_that_comes_again_without_its_terms_gets_them_again() -> None:
    desk = leased("n1=7000")
    claim = desk.grant(steerable("a", "x:80=7000"))

    taken = desk.ledger.drafts.readmit(steerable("a", "x:80=7000", carried_id=claim.id), desk.now)

    assert taken is not None
    assert (taken[0], [each.reason for each in taken[1]]) == (claim, [Notice.STEERED])


def test_a_second_lease_is_granted_on_the_node_that_the_pod_is_kept_off_and_nowhere_else() -> None:
    desk = leased("n1=7000", nodes=("n1", "n2"))
    desk.grant(steerable("a", "x:80=7000"))
    desk.ledger.end(ClaimId(f"{1:032x}"), desk.now)

    assert desk.refusal(lease("other", "x:0=7000", policy="Static", constraints=on("n2"))) != {}
    assert desk.grant(lease("other", "x:0=7000", policy="Static")).node == "n1"


def test_a_plan_never_moves_to_a_node_that_the_pod_is_kept_off() -> None:
    desk = leased("n1=7000", nodes=("n1", "n2"))
    claim = desk.grant(steerable("a", "x:80=7000"))
    desk.ledger.end(ClaimId(f"{1:032x}"), desk.now)
    desk.observe(pods=[pod("static", "x:80=7000", at="n2")])

    assert [claim.id for claim in desk.ledger.claims if desk.ledger.claims.is_unplaceable(claim)] == [claim.id]


def test_a_restored_claim_is_kept_off_the_same_nodes() -> None:
    desk = leased("n1=7000", nodes=("n1", "n2"))
    claim = desk.grant(steerable("a", "x:80=7000"))
    restored = Ledger(desk.ledger.rules)
    restored.restore([decode_claim(encode_claim(claim))], desk.now)

    assert list(restored.claims) == [claim]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (ANYWHERE, ["n1", "n3"]),
        (kept_off("n1"), ["n3"]),
        (kept_off("n3", "n1"), []),
    ],
    ids=["all", "those that are new", "none"],
)
def test_the_answer_names_the_nodes_that_the_request_did_not_exclude(asked: Constraints, names: list[str]) -> None:
    request = steerable("a", "x:80=7000", constraints=asked)
    claim = leased("n3=7000", "n1=7000", nodes=("n1", "n2", "n3")).grant(request)

    answer = pb.AllocateResponse.FromString(encode_response(claim, (), asked=asked))

    assert list(answer.avoid_nodes) == names


NODES = ("n1", "n2", "n3", "n4")
REQUIREMENTS = st.sampled_from([SSD, ZONE, *off(*NODES)])
TERMS = st.builds(
    lambda requirements: Term(
        expressions=tuple(each for each in requirements if each.key != "metadata.name"),
        fields=tuple(each for each in requirements if each.key == "metadata.name"),
    ),
    st.lists(REQUIREMENTS, max_size=3),
)


@given(terms=st.lists(TERMS, max_size=3), away=st.sets(st.sampled_from(NODES)), labels=st.booleans())
def test_constraints_that_keep_off_nodes_accept_all_the_others_as_before(
    terms: list[Term], away: set[str], labels: bool
) -> None:
    before = Constraints(affinity=tuple(terms))
    after = before.kept_off(map(NodeName, sorted(away)))

    for name in NODES:
        each = node(name, labels={"disk": "ssd", "zone": "a"} if labels else {})
        assert after.accepts(each) == (before.accepts(each) and name not in away), json.dumps(str(after))
    assert after.kept_off(map(NodeName, sorted(away))) == after


# -- processes


def reported(*held: str, nodes: tuple[str, ...] = ("n1", "n2")) -> Desk:
    """Some nodes, and processes called sshd, written `node=number`."""
    desk = Desk(*nodes)
    for each in held:
        at, _, number = each.partition("=")
        desk.observe(reports=[report(at, f"sshd:{number}")])
    return desk


def test_a_pod_is_kept_off_the_node_where_a_process_has_its_number() -> None:
    desk = reported("n1=7000")

    claim = desk.grant(steerable("a", "x:80=7000"))

    assert (claim.node, claim.constraints) == ("n2", kept_off("n1"))
    (warning,) = desk.warnings
    assert warning.reason == Notice.STEERED
    assert warning.message.endswith("does not know holds its number: 7000/TCP on n1 by process sshd")


def test_a_lease_and_a_process_are_named_in_one_warning() -> None:
    desk = leased("n1=7000", nodes=("n1", "n2", "n3"))
    desk.observe(reports=[report("n3", "sshd:7000")])

    claim = desk.grant(steerable("a", "x:80=7000", namespace="lessee"))

    assert (claim.node, claim.constraints.excluded) == ("n2", frozenset({"n1", "n3"}))
    (warning,) = desk.warnings
    assert warning.message.endswith(f"7000/TCP on n1 by lease {1:032x} of Service lessee/l-n1=7000, n3 by process sshd")


def test_a_dynamic_number_that_a_process_has_somewhere_is_taken_last_and_then_steered() -> None:
    desk = reported("n1=7000", "n2=7001")
    numbers = [desk.grant(steerable(f"a{n}", "x:80", policy="Dynamic", low=7000, high=7002)) for n in range(2)]

    assert [(claim.ports[0].host_port, claim.node, claim.constraints) for claim in numbers] == [
        (7002, "n1", ANYWHERE),
        (7000, "n2", kept_off("n1")),
    ]


@pytest.mark.parametrize("can_steer", [True, False])
def test_a_process_and_a_pod_that_have_all_candidates_are_both_named(can_steer: bool) -> None:
    desk = reported("n1=7000")
    desk.grant(ask("b", "x:80=7000", policy="Static", constraints=on("n2")))

    assert desk.refusal(steerable("a", "x:80=7000", can_steer=can_steer)) == {
        "PORT_CONFLICT": "port x (80/TCP) of container c: 7000/TCP is taken on all 2 candidate nodes: n1 by process"
        " sshd, n2 by Pod demo/b. Choose another number or free it"
    }


def test_a_lease_and_a_process_that_have_all_candidates_are_both_named() -> None:
    desk = leased("n1=7000", nodes=("n1", "n2"))
    desk.observe(reports=[report("n2", "sshd:7000")])

    assert desk.refusal(steerable("a", "x:80=7000"))["PORT_CONFLICT"].startswith(
        "port x (80/TCP) of container c: 7000/TCP is taken on all 2 candidate nodes: n1 by a lease of another"
        " namespace, n2 by process sshd"
    )


def test_a_pod_that_cannot_be_steered_is_admitted_and_told() -> None:
    desk = reported("n1=7000")

    claim = desk.grant(ask("a", "x:80=7000", policy="Static"))

    assert (claim.node, claim.constraints) == ("n2", ANYWHERE)
    assert [(each.reason, each.message) for each in desk.warnings] == [
        (
            Notice.HELD_BY_PROCESS,
            "where the Pod may run a process holds its number, and the scheduler does not know: 7000/TCP on n1 by process sshd",
        )
    ]


def test_a_pod_is_not_kept_off_more_nodes_than_can_be_named_and_is_told() -> None:
    names = [f"n{number:02}" for number in range(MOST_STEERED + 1)]
    desk = reported(*(f"{name}=7000" for name in names), nodes=(*names, "z"))

    claim = desk.grant(steerable("a", "x:80=7000"))

    assert (claim.node, claim.constraints) == ("z", ANYWHERE)
    assert [each.reason for each in desk.warnings] == [Notice.HELD_BY_PROCESS]


ONLY_N1 = Constraints(affinity=(Term(fields=(Requirement(key="metadata.name", operator="In", values=("n1",)),)),))


def test_a_pod_of_a_daemon_set_is_only_warned_of_a_process() -> None:
    desk = reported("n1=7000")

    claim = desk.grant(steerable("a", "x:80=7000", constraints=ONLY_N1))

    assert (claim.node, claim.constraints) == (None, ONLY_N1)
    assert [each.reason for each in desk.warnings] == [Notice.HELD_BY_PROCESS]


def test_a_pod_of_a_daemon_set_gets_free_numbers_beside_the_one_that_a_process_has() -> None:
    desk = reported("n1=7000")
    desk.grant(ask("b", "x:80=7001", policy="Static", constraints=on("n1")))

    pinned = steerable(
        "a", "x:80=7000", "y:81", "z:82", policy="Dynamic", low=7001, high=7003, constraints=ONLY_N1, host_network=False
    )
    claim = desk.grant(pinned)

    assert (claim.node, claim.constraints) == (None, ONLY_N1)
    assert [port.host_port for port in claim.ports] == [7000, 7002, 7003]
    assert [each.reason for each in desk.warnings] == [Notice.HELD_BY_PROCESS]


def test_a_pod_of_a_daemon_set_is_refused_where_its_range_has_too_few_numbers_beside_a_process() -> None:
    desk = reported("n1=7000")
    pinned = steerable("a", "x:80=7000", "y:81", "z:82", policy="Dynamic", low=7001, high=7001, constraints=ONLY_N1)

    assert set(desk.refusal(pinned)) == {"RANGE_EXHAUSTED"}


def test_a_pod_of_a_daemon_set_is_refused_where_a_pod_has_its_number_beside_the_process() -> None:
    desk = reported("n1=7001")
    desk.grant(ask("b", "x:80=7000", policy="Static", constraints=on("n1")))

    assert "PORT_CONFLICT" in desk.refusal(steerable("a", "x:80=7000", "y:81=7001", constraints=ONLY_N1))


def test_a_pod_that_names_its_node_is_refused_where_a_process_has_its_number() -> None:
    assert (
        "n1 by process sshd"
        in reported("n1=7000").refusal(steerable("a", "x:80=7000", constraints=on("n1")))["PORT_CONFLICT"]
    )


def test_a_pod_whose_numbers_processes_have_everywhere_may_wait_for_a_node_without_one() -> None:
    desk = reported("n1=7000", "n2=7000")

    claim = desk.grant(steerable("a", "x:80=7000", when_full=WhenFull.PENDING))
    assert (claim.node, claim.constraints) == (None, kept_off("n1", "n2"))
    assert [each.reason for each in desk.warnings] == [Notice.STEERED, Notice.ALL_FULL]

    desk.observe(nodes=[node("n3")])
    waiting = desk.ledger.claims.get(claim.id)
    assert waiting is not None
    assert waiting.node == "n3"


def test_a_socket_that_a_pod_declares_steers_nobody() -> None:
    desk = reported("n1=7000")
    desk.observe(pods=[pod("b", "x:80=7000", at="n1")])

    claim = desk.grant(steerable("a", "x:80=7000"))

    assert (claim.node, claim.constraints) == ("n2", ANYWHERE)


# -- blocks


@pytest.mark.parametrize(
    ("held", "asked"),
    [("x:0=7003", "x:80=7000*10"), ("x:0=7000*10", "x:80=7003"), ("x:0=7000*10", "x:80=7005*10")],
    ids=["a number of the block", "a block with the number", "a part of a block"],
)
def test_a_pod_is_kept_off_the_node_where_a_part_of_its_block_is_leased(held: str, asked: str) -> None:
    desk = Desk("n1", "n2")
    desk.grant(lease("relay", held, policy="Static", constraints=on("n1")))

    claim = desk.grant(steerable("a", asked))

    assert (claim.node, claim.constraints) == ("n2", kept_off("n1"))


def test_a_pod_is_kept_off_the_node_where_a_process_has_a_number_of_its_block() -> None:
    desk = reported("n1=7009")

    claim = desk.grant(steerable("a", "x:80=7000*10"))

    assert (claim.node, claim.constraints) == ("n2", kept_off("n1"))
    assert desk.warnings[0].message.endswith("7000-7009/TCP on n1 by process sshd")


def test_a_number_of_a_block_that_a_pod_declares_steers_nobody() -> None:
    desk = Desk("n1", "n2")
    desk.observe(pods=[pod("b", "x:80=7000*10", at="n1")], reports=[report("n1", "sfu:7009")])

    claim = desk.grant(steerable("a", "x:80=7009"))

    assert (claim.node, claim.constraints) == ("n2", ANYWHERE)
