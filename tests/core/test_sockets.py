"""What the agents of nodes report, as holders of numbers: who is refused, who is not, and what becomes of it."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.core.candidates import NodeName
from allocator.core.claims import PodUid
from allocator.core.ports import WILDCARD, PortKey, Protocol, number_of, protocol_of
from hostport.contract import Notice
from testing.kit import Desk, ask, claim_port, lease, node, on, pod, report

N1, N2 = NodeName("n1"), NodeName("n2")


def reported(*reports: Any, nodes: tuple[str, ...] = ("n1", "n2"), **rules: Any) -> Desk:
    desk = Desk(*nodes, **rules)
    desk.observe(reports=reports)
    return desk


# -- decisions


def test_dynamic_avoids_a_number_that_a_process_has_on_one_candidate() -> None:
    desk = reported(report("n1", "sshd:7000"))

    assert desk.numbers(ask("web", "x:1")) == [7001]
    assert desk.numbers(ask("dns", "x:1/UDP")) == [7000], "another protocol is another socket"


def test_dynamic_takes_the_node_without_the_process_where_the_range_has_no_other_number() -> None:
    desk = reported(report("n1", "sshd:7000"))
    claim = desk.grant(ask("web", "x:1", low=7000, high=7000))

    assert (claim.ports[0].host_port, claim.node) == (7000, "n2")


def test_static_stands_on_the_node_where_no_process_has_its_number() -> None:
    desk = reported(report("n1", "sshd:20000"))

    assert desk.grant(ask("web", "x:1=20000", policy="Static")).node == "n2"


def test_static_is_refused_where_processes_have_its_number_on_every_candidate_and_they_are_named() -> None:
    desk = reported(report("n1", "sshd:20000"), report("n2", "nginx:20000@127.0.0.1"))

    assert desk.refusal(ask("web", "x:1=20000", policy="Static")) == {
        "PORT_CONFLICT": (
            "port x (1/TCP) of container c: 20000/TCP is taken on all 2 candidate nodes: n1 by process sshd, n2 by process"
            " nginx. Choose another number or free it"
        )
    }


def test_a_plan_moves_when_a_number_that_is_open_on_another_address_opens_on_all_of_them() -> None:
    desk = reported(*(report(name, "dns:7000@127.0.0.1") for name in ("n1", "n2")))
    assert desk.grant(ask("web", "x:1=7000@10.0.0.2", policy="Static")).node == "n1"

    desk.observe(reports=[report("n1", "sshd:7000")])

    assert [claim.node for claim in desk.ledger.claims] == ["n2"]


def test_a_denial_that_rests_on_an_old_report_says_so() -> None:
    desk = reported(report("n1", ":20000"), nodes=("n1",))
    desk.now += 121
    desk.ledger.pass_time(desk.now)

    (message,) = desk.refusal(ask("web", "x:1=20000", policy="Static")).values()
    assert "n1 by a process of user 0 (as its agent said 2 minutes ago)" in message


def test_a_range_that_processes_of_an_old_report_use_up_is_refused_with_the_age_of_the_report() -> None:
    desk = reported(report("n1", "sshd:7000"), nodes=("n1",))
    desk.now += 600
    desk.ledger.pass_time(desk.now)

    (message,) = desk.refusal(ask("web", "x:1", low=7000, high=7000)).values()
    assert message.endswith("Processes of n1 are among the holders, as its agent said 10 minutes ago")


def test_a_refusal_of_a_block_names_no_socket_that_a_pod_declares() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("a", "x:1=20001", at="n1")])
    desk.observe(reports=[report("n1", "game:20001", "sshd:20005")])

    (message,) = desk.refusal(ask("web", "x:1=20000*10", policy="Static")).values()
    assert "n1 by Pod demo/a, process sshd." in message


def test_a_lease_is_not_granted_on_a_number_that_a_process_has() -> None:
    desk = reported(report("n1", "sshd:20000"))

    assert desk.grant(lease("relay", "x:20000", policy="Passthrough")).node == "n2"
    assert set(desk.refusal(lease("second", "x:20000", policy="Passthrough"))) == {"PORT_CONFLICT"}


def test_a_range_that_processes_use_up_on_every_node_is_exhausted() -> None:
    desk = reported(report("n1", "sshd:7000"), report("n2", "sshd:7000"))

    assert set(desk.refusal(ask("web", "x:1", low=7000, high=7000))) == {"RANGE_EXHAUSTED"}


def test_a_process_on_one_address_leaves_the_others_to_fixed_numbers() -> None:
    desk = reported(report("n1", "dns:53@127.0.0.1"), nodes=("n1",))

    assert desk.refusal(ask("web", "x:1=53@10.0.0.1", policy="Static")) == {}
    assert set(desk.refusal(ask("all", "x:1=53", policy="Static"))) == {"PORT_CONFLICT"}


# -- whose a socket is


def test_a_socket_that_a_pod_of_the_node_declares_is_no_foreign_holder() -> None:
    desk = reported(report("n1", "game:20000"), nodes=("n1",))
    assert desk.ledger.nodes.foreign_on(N1) != []

    desk.observe(pods=[pod("game-0", "x:20000", at="n1")])

    assert desk.ledger.nodes.foreign_on(N1) == []
    assert [claim.owner.name for claim in desk.ledger.nodes.holders(N1, Protocol.TCP, 20000)] == ["game-0"]


def test_a_successor_is_not_refused_for_the_socket_of_its_predecessor() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("game-0", "x:20000", at="n1")])
    desk.observe(reports=[report("n1", "game:20000")])

    assert desk.grant(ask("game-0", "x:1=20000", policy="Static")).node == "n1"


def test_whoever_waits_behind_a_pod_that_terminates_does_not_mind_its_socket() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("old", "x:20000", at="n1", is_terminating=True)])
    desk.observe(reports=[report("n1", "game:20000")])

    assert desk.grant(ask("new", "x:1=20000", policy="Static")).node == "n1"
    assert [str(warning.reason) for warning in desk.warnings] == ["BEHIND_TERMINATING"]


def test_the_socket_of_a_pod_that_is_gone_is_nobodys_until_its_agent_has_looked_again() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("game-0", "x:20000", at="n1", uid="u")], reports=[])
    desk.observe(reports=[report("n1", "game:20000")])
    desk.observe(gone_pods=["u"])
    assert desk.refusal(ask("one", "x:1=20000", policy="Static")) == {}
    assert desk.ledger.nodes.sockets.is_open(N1, Protocol.TCP, 20000) is False

    other = Desk("n1")
    other.observe(pods=[pod("game-0", "x:20000", at="n1", uid="u")])
    other.observe(reports=[report("n1", "game:20000")])
    other.observe(gone_pods=["u"])
    other.now += 10
    other.observe(reports=[report("n1")])  # and it does not say that the socket is closed
    assert set(other.refusal(ask("one", "x:1=20000", policy="Static"))) == {"PORT_CONFLICT"}


def test_a_report_that_was_under_way_when_a_pod_ended_says_nothing_of_its_socket() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("game-0", "x:20000", at="n1", uid="u")])
    desk.observe(reports=[report("n1", "game:20000")])
    desk.observe(gone_pods=["u"])
    desk.now += 1
    desk.observe(reports=[report("n1")])

    assert desk.refusal(ask("one", "x:1=20000", policy="Static")) == {}


# -- what comes and goes


def test_a_plan_moves_off_a_node_where_a_process_takes_its_number() -> None:
    desk = Desk("n1", "n2")
    claim = desk.grant(ask("web", "x:1=20000", policy="Static"))
    assert claim.node == "n1"

    desk.observe(reports=[report("n1", "sshd:20000")])

    moved = desk.ledger.claims.get(claim.id)
    assert moved is not None
    assert moved.node == "n2"


def test_a_claim_that_a_process_leaves_no_node_is_unplaceable_until_the_socket_closes() -> None:
    desk = Desk("n1")
    claim = desk.grant(ask("web", "x:1=20000", policy="Static"))
    desk.observe(reports=[report("n1", "sshd:20000")])
    assert [incident.kind.value for incident in desk.ledger.take_incidents()] == ["Unplaceable"]

    desk.observe(reports=[report("n1", closed=(":20000",))])

    found = desk.ledger.claims.get(claim.id)
    assert found is not None
    assert found.node == "n1"


def test_what_an_agent_said_stands_until_its_node_is_gone() -> None:
    desk = reported(report("n1", "sshd:20000"), nodes=("n1",))
    desk.now += 1e6
    assert set(desk.refusal(ask("web", "x:1=20000", policy="Static"))) == {"PORT_CONFLICT"}

    desk.observe(gone_nodes=[N1])

    assert desk.ledger.nodes.sockets.reported_at(N1) is None
    desk.observe(nodes=[node("n1")])
    assert desk.refusal(ask("web", "x:1=20000", policy="Static")) == {}


def test_a_report_of_a_node_that_is_not_there_is_nothing() -> None:
    desk = reported(report("elsewhere", "sshd:20000"))

    assert list(desk.ledger.nodes.sockets.reporting()) == []
    assert desk.ledger.nodes.names() == ["n1", "n2"]


def test_of_a_number_on_two_addresses_one_may_close() -> None:
    desk = reported(report("n1", "a:20000@127.0.0.1", "b:20000@10.0.0.1"), nodes=("n1",))
    desk.observe(reports=[report("n1", closed=(":20000@127.0.0.1",))])

    assert desk.ledger.nodes.sockets.addresses(N1, Protocol.TCP, 20000) == ["10.0.0.1"]
    assert set(desk.refusal(ask("web", "x:1=20000", policy="Static"))) == {"PORT_CONFLICT"}


def test_a_node_of_which_nothing_was_told_is_not_said_to_have_nothing_open() -> None:
    desk = reported(report("n1"))

    sockets = desk.ledger.nodes.sockets
    assert (sockets.is_open(N1, Protocol.TCP, 80), sockets.is_open(N2, Protocol.TCP, 80)) == (False, None)


# -- outgoing connections


def test_what_one_of_many_nodes_says_that_all_differ_counts_where_it_is_the_candidate() -> None:
    names = [f"n{at}" for at in range(100)]
    desk = Desk(*names)
    desk.observe(reports=[report(name, ephemeral=(7000, 7099), kept=1 << 7000 + at) for at, name in enumerate(names)])

    assert desk.numbers(ask("web", "x:1", constraints=on("n99"), low=7000, high=7099)) == [7099]


def test_dynamic_takes_numbers_outside_the_ephemeral_range_of_its_candidates_first() -> None:
    desk = reported(report("n1", ephemeral=(7000, 7002)))
    assert desk.numbers(ask("one", "x:1", low=7000, high=7003)) == [7003]
    assert desk.numbers(ask("two", "x:1", low=7000, high=7003)) == [7000]


def test_numbers_that_outgoing_connections_never_take_are_as_good_as_others() -> None:
    desk = reported(report("n1", ephemeral=(7000, 7002), kept=1 << 7000))

    assert desk.numbers(ask("one", "x:1", low=7000, high=7003)) == [7000]


@pytest.mark.parametrize("where", ["n1", "n2"])
def test_the_ephemeral_range_of_a_node_that_is_no_candidate_does_not_matter(where: str) -> None:
    desk = reported(report("n1", ephemeral=(7000, 7002)))

    assert desk.numbers(ask("one", "x:1", constraints=on(where))) == [7003 if where == "n1" else 7000]


# -- what always holds

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["open", "close", "pod", "block", "gone", "node", "unnode", "ask"]),
        st.integers(0, 1),
        st.integers(0, 3),
    ),
    max_size=30,
)


@given(EVENTS)
@settings(max_examples=150, deadline=None)
def test_counts_are_those_of_the_sockets_and_claims_whatever_comes_first(events: list[tuple[str, int, int]]) -> None:
    """What is counted on the way is what a new ledger counts that is told the end of it at once."""
    desk = Desk("n0", "n1")
    numbers = range(7000, 7004)
    pods: dict[str, tuple[str, str]] = {}
    opened: dict[str, set[int]] = {"n0": set(), "n1": set()}
    for what, at, n in events:
        name, number = f"n{at}", 7000 + n
        key = f"p{at}{n}"
        if what == "open" and name in opened:
            opened[name].add(number)
            desk.observe(reports=[report(name, f"x:{number}")])
        elif what == "close" and name in opened:
            opened[name].discard(number)
            desk.observe(reports=[report(name, closed=(f":{number}",))])
        elif what in {"pod", "block"} and key not in pods:
            pods[key] = (name, f"x:{number}" + ("*2" if what == "block" else ""))
            desk.observe(pods=[pod(key, pods[key][1], at=name, uid=key)])
        elif what == "gone" and key in pods:
            gone = {number, number + 1} if pods.pop(key)[1].endswith("*2") else {number}
            left = {
                int(text[2:6]) + more for at, text in pods.values() if at == name for more in range(1 + ("*" in text))
            }
            desk.observe(gone_pods=[key])
            if name in opened:
                opened[name] -= gone - left
        elif what == "unnode":
            opened.pop(name, None)
            desk.observe(gone_nodes=[NodeName(name)])
        elif what == "node" and name not in opened:
            opened[name] = set()
            desk.observe(nodes=[node(name)])
        elif what == "ask":
            desk.refusal(ask("probe", "x:1", low=7000, high=7003))  # builds counts
            for claim in list(desk.ledger.claims):
                if claim.owner.name == "probe":
                    desk.ledger.end(claim.id, desk.now)
    fresh = Desk(*opened)
    fresh.observe(pods=[pod(key, text, at=name, uid=key) for key, (name, text) in pods.items()])
    fresh.observe(reports=[report(name, *[f"x:{number}" for number in some]) for name, some in opened.items()])

    def free(desk: Desk) -> list[tuple[str, int]]:
        return [
            (name, number)
            for name in opened
            for number in numbers
            if not desk.refusal(ask("last", "x:1", low=number, high=number, constraints=on(name)))
        ]

    assert free(desk) == free(fresh)


def test_of_two_sockets_on_addresses_of_a_node_one_may_close() -> None:
    desk = reported(report("n1", "a:53@10.0.0.1", "b:53@10.0.0.2"), nodes=("n1",))
    desk.observe(reports=[report("n1", closed=(":53@10.0.0.1",))])

    assert desk.refusal(ask("one", "x:1=53@10.0.0.1", policy="Static")) == {}
    assert set(desk.refusal(ask("two", "x:1=53@10.0.0.2", policy="Static"))) == {"PORT_CONFLICT"}


def test_of_two_nodes_with_a_socket_on_one_address_one_may_close_it() -> None:
    desk = reported(report("n1", "a:53@10.0.0.1"), report("n2", "a:53@10.0.0.1"), nodes=("n1", "n2"))
    asked = ask("one", "x:1=53@10.0.0.1", policy="Static")
    assert set(desk.refusal(asked)) == {"PORT_CONFLICT"}

    desk.observe(reports=[report("n2", closed=(":53@10.0.0.1",))])
    assert desk.grant(asked).node == "n2"


SPELLINGS = {
    "in capitals": ("2001:db8::1", "2001:DB8::1"),
    "with a zero more": ("2001:db8::1", "2001:db8:0::1"),
    "as IPv4 in IPv6": ("10.0.0.1", "::ffff:10.0.0.1"),
    "of loopback": ("::1", "0:0:0:0:0:0:0:1"),
    "of every address": ("10.0.0.1", "0::0"),
}


@pytest.mark.parametrize(("opened", "asked"), SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("port", ["x:1={n}@{ip}", "x:1={n}*4@{ip}"], ids=["number", "block"])
def test_a_process_is_in_the_way_however_its_address_is_spelled(opened: str, asked: str, port: str) -> None:
    desk = reported(report("n1", f"sshd:9102@{opened}"), nodes=("n1",))
    number = 9100 if "*" in port else 9102  # the block is 9100-9103

    (message,) = desk.refusal(ask("web", port.format(n=number, ip=asked), policy="Static")).values()
    assert "process sshd" in message
    assert desk.refusal(ask("web", port.format(n=number, ip="192.0.2.1"), policy="Static")) == {}


EPHEMERAL = {
    "nobody says it": ([], None),
    "both say it": ([report("n1", ephemeral=(100, 200)), report("n2", ephemeral=(300, 400))], ((100, 200), (300, 400))),
    "one says it": ([report("n1", ephemeral=(100, 200))], ((100, 200), (32768, 60999))),
    "less what is kept": (
        [report(name, ephemeral=(100, 200), kept=1 << 150) for name in ("n1", "n2")],
        ((100, 149), (151, 200)),
    ),
    "both reserve": ([report(name, ephemeral=(100, 200), reserves=True) for name in ("n1", "n2")], ()),
}


@pytest.mark.parametrize(("reports", "expected"), EPHEMERAL.values(), ids=EPHEMERAL)
def test_which_numbers_connections_may_take_is_what_the_candidates_say(reports: Any, expected: Any) -> None:
    desk = reported(*reports)
    claim = desk.grant(ask("web", "x:1"))

    assert desk.ledger.drafts.remarks(claim).ephemeral == expected


# -- blocks


def test_a_block_goes_around_a_process_on_any_of_its_numbers() -> None:
    desk = reported(report("n1", "sshd:7005"))

    assert desk.numbers(ask("media", "x:1*8")) == [7008]


def test_a_block_is_refused_where_a_process_has_one_of_its_numbers_and_that_is_named() -> None:
    desk = reported(report("n1", "sshd:20003"), nodes=("n1",))

    (message,) = desk.refusal(ask("media", "x:1=20000*8", policy="Static")).values()
    assert "n1 by process sshd" in message


def test_the_sockets_of_a_block_are_those_of_its_pod() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("media", "x:20000*8", at="n1", uid="u")])
    desk.observe(reports=[report("n1", "sfu:20003", "sfu:20007")])
    assert desk.ledger.nodes.foreign_on(N1) == []

    desk.observe(gone_pods=["u"])
    assert desk.refusal(ask("next", "x:1=20000*8", policy="Static")) == {}


def test_the_plan_of_a_block_moves_off_a_node_where_a_process_takes_one_of_its_numbers() -> None:
    desk = Desk("n1", "n2")
    claim = desk.grant(ask("media", "x:1=20000*8", policy="Static"))
    desk.observe(reports=[report(str(claim.node), "sshd:20005")])

    moved = desk.ledger.claims.get(claim.id)
    assert moved is not None
    assert moved.node not in {None, claim.node}


def test_when_a_block_ends_what_others_have_open_among_its_numbers_stays_counted() -> None:
    desk = Desk("n1")
    desk.refusal(ask("counts", "x:1", low=7000, high=7007))
    desk.observe(pods=[pod("media", "x:7000*8", at="n1", uid="u")])
    desk.observe(reports=[report("n1", "sfu:7003")])
    desk.observe(gone_pods=["u"])
    desk.now += 10
    desk.observe(reports=[report("n1")])

    free = [n for n in range(7000, 7008) if not desk.refusal(ask(f"a{n}", "x:1", low=n, high=n))]
    assert free == [7001, 7002, 7004, 7005, 7006, 7007], "7000 is the first ask's, 7003 a process has"


@pytest.mark.parametrize(
    ("port", "late"),
    [
        ("x:1/UDP=40000", True),
        ("x:1/UDP=32000*1000", True),
        ("x:1/UDP=31000*1000", False),
        ("x:1/UDP=61000", False),
        ("x:1=40000", False),
    ],
)
def test_a_udp_socket_among_the_numbers_of_clients_is_told_late(port: str, late: bool) -> None:
    sockets = reported(report("n1", ephemeral=(32768, 60999))).ledger.nodes.sockets

    assert sockets.may_be_of_a_client(N1, claim_port(port).key) is late
    assert not sockets.may_be_of_a_client(N2, claim_port(port).key), "nobody told which those are"


def test_agents_are_asked_to_look_at_what_is_presumed_closed_until_they_have() -> None:
    desk = reported(report("n1", "web:7000"), report("n2", "web:7000"))
    desk.observe(pods=[pod("a", "x:1=7000", uid="u", at="n1")])
    desk.observe(gone_pods=["u"])
    sockets = desk.ledger.nodes.sockets

    assert sockets.unsettled(desk.now + 1.9) == []
    assert sockets.unsettled(desk.now + 2.0) == sockets.unsettled(desk.now + 3.0) == ["n1"]
    desk.observe(reports=[report("n1", closed=("x:7000",))])
    assert sockets.unsettled(desk.now + 4.0) == []


@pytest.mark.parametrize(
    ("port", "own_network", "socket"),
    [
        pytest.param("x:1=20000@10.0.0.9", False, "dns:20000@127.0.0.1", id="on another address"),
        pytest.param("x:1=20000", True, "sshd:20000", id="of a Pod with its own network"),
    ],
)
def test_a_pod_that_ends_does_not_close_what_it_cannot_have_opened(port: str, own_network: bool, socket: str) -> None:
    desk = Desk("n1")
    claim = desk.grant(ask("game", port, policy="Static"))
    game = pod("game", port, at="n1", uid="game", carried_id=claim.id, own_network=own_network)
    desk.observe(pods=[game], reports=[report("n1", socket)])
    desk.observe(gone_pods=[PodUid("game")])

    assert len(desk.ledger.nodes.foreign_on(N1)) == 1


def test_a_pod_of_others_with_its_own_network_leaves_the_number_to_the_process_that_has_it() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("svclb", "x:80=20000", at="n1", uid="svclb", own_network=True)])
    desk.observe(reports=[report("n1", "sshd:20000")])
    desk.observe(gone_pods=[PodUid("svclb")])

    assert [str(socket) for _, socket, _ in desk.ledger.nodes.foreign_on(N1)] == ["process sshd"]
    assert set(desk.refusal(ask("next", "x:1=20000", policy="Static"))) == {"PORT_CONFLICT"}


def test_a_reservation_that_ends_closes_nothing() -> None:
    desk = reported(report("n1", "dns:20000@127.0.0.1"), nodes=("n1",))
    claim = desk.grant(ask("game", "x:1=20000@10.0.0.9", policy="Static"))
    desk.ledger.end(claim.id, desk.now)

    assert len(desk.ledger.nodes.foreign_on(N1)) == 1


def test_a_lease_that_ends_does_not_end_its_process_which_has_the_number_until_its_agent_says_otherwise() -> None:
    desk = Desk("n1")
    relay = desk.grant(lease("relay", "x:1=20000", policy="Static"))
    desk.observe(reports=[report("n1", "turn:20000")])
    assert desk.ledger.nodes.foreign_on(N1) == []

    desk.ledger.end(relay.id, desk.now)
    desk.now += 3600
    assert [str(socket) for _, socket, _ in desk.ledger.nodes.foreign_on(N1)] == ["process turn"]
    assert set(desk.refusal(ask("next", "x:1=20000", policy="Static"))) == {"PORT_CONFLICT"}
    assert desk.numbers(ask("other", "x:1", low=20000, high=20001)) == [20001]

    desk.observe(reports=[report("n1", closed=("turn:20000",))])
    assert desk.refusal(ask("next", "x:1=20000", policy="Static")) == {}


# -- beside a Pod that has the number on another address


def beside(*nodes: str, **more: Any) -> Desk:
    """A Pod has 20000 on 10.0.0.1 of n1, and sshd on 10.0.0.2."""
    desk = Desk(*(nodes or ("n1",)))
    desk.observe(pods=[pod("game", "x:20000@10.0.0.1", at="n1"), *more.pop("pods", ())])
    desk.observe(reports=[report("n1", "game:20000@10.0.0.1", "sshd:20000@10.0.0.2")])
    return desk


def test_a_process_beside_a_pod_on_another_address_is_nobodys_but_its_own() -> None:
    found = beside().ledger.nodes.foreign_on(N1)

    assert [(str(key), str(socket)) for key, socket, _ in found] == [("20000/TCP on 10.0.0.2", "process sshd")]


def test_a_refusal_names_the_process_beside_a_pod_on_another_address() -> None:
    (message,) = beside().refusal(ask("b", "x:1=20000@10.0.0.2", policy="Static")).values()

    assert "n1 by process sshd" in message


def test_a_pod_that_terminates_elsewhere_does_not_open_the_number_of_a_process() -> None:
    desk = beside(pods=[pod("t", "x:30000", at="n1", is_terminating=True)])

    assert set(desk.refusal(ask("b", "x:1=20000@10.0.0.2", policy="Static"))) == {"PORT_CONFLICT"}


def test_a_pod_is_kept_off_a_process_that_stands_beside_a_pod_on_another_address() -> None:
    desk = beside("n1", "n2")
    desk.grant(ask("b", "x:1=20000@10.0.0.2", policy="Static", can_steer=True))

    assert [warning.reason for warning in desk.warnings] == [Notice.STEERED]


@pytest.mark.parametrize(
    ("sockets", "foreign"),
    [
        pytest.param([":20000@10.0.0.1"], [], id="its own"),
        pytest.param([":20000"], [], id="on every address: it may be its own"),
        pytest.param([":20000@10.0.0.2", ":20000@127.0.0.1"], ["10.0.0.2", "127.0.0.1"], id="two others"),
    ],
)
def test_a_socket_is_a_pods_own_where_their_addresses_meet(sockets: list[str], foreign: list[str]) -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("game", "x:20000@10.0.0.1", at="n1")])
    desk.observe(reports=[report("n1", *sockets)])
    assert [key.ip for key, _, _ in desk.ledger.nodes.foreign_on(N1)] == foreign

    desk.observe(pods=[pod("all", "x:20000", at="n1", uid="all")])
    assert desk.ledger.nodes.foreign_on(N1) == []

    desk.observe(gone_pods=[PodUid("all")])
    desk.now += 2.0
    desk.observe(reports=[report("n1")])
    assert [key.ip for key, _, _ in desk.ledger.nodes.foreign_on(N1)] == foreign

    desk.observe(reports=[report("n1", closed=tuple(sockets))])
    assert desk.ledger.nodes.foreign_on(N1) == []


ADDRESSES = ("", "10.0.0.1", "10.0.0.2", "127.0.0.1")
SOCKETS = tuple(f":{number}{ip and f'@{ip}'}" for number in (20000, 20001) for ip in ADDRESSES)
PODS = tuple(f"x:{20000}{block}{ip and f'@{ip}'}" for block in ("", "*2") for ip in ADDRESSES)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["runs", "goes", "opens", "closes"]), st.integers(0, 7)), max_size=20))
def test_a_socket_is_a_process_where_no_claim_of_the_node_meets_it(steps: list[tuple[str, int]]) -> None:
    desk = Desk("n1", "n2")
    ports, sockets = desk.ledger._store.ports, desk.ledger.nodes.sockets
    for step, at in steps:
        desk.now += 1.0
        match step:
            case "runs":
                text = PODS[at].replace("20000*2", "1=20000*2")
                desk.observe(pods=[pod(f"p{at}", text, at="n1", uid=f"p{at}")])
            case "goes":
                desk.observe(gone_pods=[PodUid(f"p{at}")])
            case "opens":
                desk.observe(reports=[report("n1", SOCKETS[at])])
            case "closes":
                desk.observe(reports=[report("n1", closed=(SOCKETS[at],))])
        declared = [key for claim in desk.ledger._store.claims.values() if claim.is_settled for key in claim.keys]
        opened = [PortKey(s.ip, protocol_of(slot), number_of(slot)) for slot, s in sockets.of(N1) or ()]
        foreign = [key for key in opened if not any(key.conflicts_with(other) for other in declared)]
        assert {key for key, _, _ in desk.ledger.nodes.foreign_on(N1)} == set(foreign)
        for number, ip in product((20000, 20001), (WILDCARD, *ADDRESSES[1:])):
            key = PortKey(ip, Protocol.TCP, number)
            assert bool(ports.foreign(key)) is any(key.conflicts_with(other) for other in foreign), key
