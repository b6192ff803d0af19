"""What the address of a view may say, and the command lines that go with it."""

from __future__ import annotations

import shlex

import pytest

from allocator.core.claims import Claim, ClaimId, ClaimPort, Owner, State
from allocator.core.ports import Protocol
from allocator.page import words
from allocator.page.claims import row, selector
from allocator.page.finding import Question, finder, question
from allocator.page.queries import ClaimsQuery, NodesQuery, QueryError, Sort, claims_query, nodes_query
from allocator.page.strips import Axis
from testing.kit import Desk, ask, lease, on, pod


def test_an_empty_address_asks_for_everything() -> None:
    assert nodes_query(lambda _: "") == NodesQuery()
    assert claims_query(lambda _: "") == ClaimsQuery()
    assert ClaimsQuery(page=3).is_open


def test_every_word_of_the_address_is_understood() -> None:
    given = {
        "range": "7000-7100", "sort": "name", "name": " w1 ", "nodes_page": "2",
        "q": "web", "state": "BOUND", "namespace": "demo", "node": "w1", "page": "3",
    }  # fmt: skip

    assert nodes_query(lambda name: given.get(name, "")) == NodesQuery(
        axis=Axis(7000, 7100), sort=Sort.NAME, text="w1", page=2
    )
    assert claims_query(lambda name: given.get(name, "")) == ClaimsQuery(
        text="web", state="BOUND", namespace="demo", node="w1", page=3
    )


@pytest.mark.parametrize(
    ("word", "value", "says"),
    [
        ("range", "8000-7000", "range is '8000-7000': two numbers in 1..65535"),
        ("range", "0-7000", "range is '0-7000'"),
        ("range", "1-65536", "range is"),
        ("range", "7000", "range is '7000'"),
        ("range", "\u0661-\u0662", "range is"),
        ("sort", "size", "sort is 'size': fullest or name"),
        ("nodes_page", "0", "nodes_page is '0': a number from 1 on"),
        ("page", "-1", "page is '-1'"),
        ("page", "9" * 5000, "page is '999"),
        ("state", "bound", "state is 'bound': one of BOUND, CONFIRMED"),
        ("q", "x" * 254, "q has more than 253 characters"),
        ("namespace", "x" * 254, "namespace has more than 253 characters"),
    ],
)
def test_a_mistake_is_named(word: str, value: str, says: str) -> None:
    parse = nodes_query if word in {"range", "sort", "nodes_page"} else claims_query

    with pytest.raises(QueryError, match="^" + says.replace("..", r"\.\.")) as caught:
        parse(lambda name: value if name == word else "")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("query", "found"),
    [
        pytest.param(ClaimsQuery(), {"web-0", "db-0", "relay"}, id="nothing asked"),
        pytest.param(ClaimsQuery(text="eb-"), {"web-0"}, id="a part of the name"),
        pytest.param(ClaimsQuery(text="shop/web"), {"web-0"}, id="namespace and name"),
        pytest.param(ClaimsQuery(text="7001"), {"db-0"}, id="a number"),
        pytest.param(ClaimsQuery(text="00"), {"web-0", "db-0", "relay"}, id="a part of numbers"),
        pytest.param(ClaimsQuery(text="Service"), {"relay"}, id="the kind"),
        pytest.param(ClaimsQuery(text="n1 7001"), {"db-0"}, id="a node and a number"),
        pytest.param(ClaimsQuery(text=" 7000   web shop "), {"web-0"}, id="words in any order"),
        pytest.param(ClaimsQuery(text="web db"), set(), id="words that no claim has together"),
        pytest.param(ClaimsQuery(text="n1 9000"), set(), id="a number that is held elsewhere"),
        pytest.param(ClaimsQuery(text="7001/tcp"), {"db-0"}, id="a number and its protocol"),
        pytest.param(ClaimsQuery(text="7001/UDP"), set(), id="a number of another protocol"),
        pytest.param(ClaimsQuery(text="n1:7000"), {"web-0"}, id="a node's number"),
        pytest.param(ClaimsQuery(text="n:7001/TCP"), {"db-0"}, id="a number on nodes like that"),
        pytest.param(ClaimsQuery(text="n2:7000"), set(), id="a number of another node"),
        pytest.param(ClaimsQuery(text="70000"), set(), id="no number of a port"),
        pytest.param(ClaimsQuery(namespace="demo"), {"db-0"}, id="the namespace"),
        pytest.param(ClaimsQuery(node="n2"), {"relay"}, id="the node"),
        pytest.param(ClaimsQuery(state="LEASED"), {"relay"}, id="the state"),
        pytest.param(ClaimsQuery(state="RESERVED", text="7000"), {"web-0"}, id="state and number"),
        pytest.param(ClaimsQuery(state="UNPLACEABLE"), set(), id="a state nobody is in"),
        pytest.param(ClaimsQuery(state="OUTSIDER"), set(), id="Pods that are not ours"),
    ],
)
def test_a_filter_selects(query: ClaimsQuery, found: set[str]) -> None:
    desk = Desk("n1", "n2")
    desk.grant(ask("web-0", "a:1", namespace="shop", constraints=on("n1")))
    desk.grant(ask("db-0", "a:1", constraints=on("n1")))
    desk.grant(lease("relay", "a:1=9000", policy="Static", constraints=on("n2")))

    selects = selector(query, desk.ledger.claims.is_unplaceable)

    assert {claim.owner.name for claim in desk.ledger.claims if selects(claim)} == found


def test_a_pod_of_others_is_not_said_to_have_its_network_by_our_annotation() -> None:
    desk = Desk("n1")
    ours = desk.grant(ask("web", "x:80=7000", policy="Static"))
    desk.observe(
        pods=[
            pod("web", "x:80=7000", at="n1", carried_id=ours.id, own_network=True),
            pod("svclb", "x:80=7001", at="n1", own_network=True),
        ]
    )

    rows = [row(claim, desk.ledger, 0.0) for claim in desk.ledger.claims]

    assert {each["owner"]["name"]: (each["state"], each["own_network"]) for each in rows} == {
        "web": ("BOUND", True),
        "svclb": ("OUTSIDER", False),
    }


@pytest.mark.parametrize(
    ("text", "is_meant"), [("20000", True), ("20099/UDP", True), ("20100", False), ("19999", False)]
)
def test_every_number_of_a_block_means_it(text: str, is_meant: bool) -> None:
    claim = Claim(
        id=ClaimId("1"),
        owner=Owner(kind="Relay", name="rtp"),
        state=State.LEASED,
        ports=(ClaimPort(protocol=Protocol.UDP, host_port=20000, count=100),),
        created=0.0,
    )

    assert finder(text)(claim) is is_meant
    assert words.found([claim], 1, "")["text"] == "Relay rtp (LEASED) holds 20000-20099/UDP on no node yet."


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (words.for_nodes(NodesQuery()), "hostport node"),
        (words.for_node("n1"), "hostport node n1"),
        (words.for_port("n1", 53, "UDP"), "hostport who n1 53/UDP"),
        (words.for_claims(ClaimsQuery()), "hostport list -A"),
        (words.for_claims(ClaimsQuery(state="OUTSIDER")), "hostport list -A | grep external"),
        (
            words.for_claims(ClaimsQuery(state="UNPLACEABLE", node="n1")),
            "hostport list -A --node n1 | grep unplaceable",
        ),
        (words.for_decisions(frozenset()), f'{words.LOG} | grep \'"message":"allocate"\''),
        (
            words.for_decisions(frozenset({"refused"})),
            f'{words.LOG} | grep \'"message":"allocate"\' | grep \'"result":"refused"\'',
        ),
        (
            words.for_claims(ClaimsQuery(namespace="demo", node="n1", state="BOUND")),
            "hostport list -n demo --node n1 --state BOUND | grep -v external",
        ),
        (words.for_claims(ClaimsQuery(text="-x $y")), "hostport list -A | grep -F -- -x | grep -F -- '$y'"),
    ],
)
def test_a_view_has_its_command_line(command: str, line: str) -> None:
    assert command == line


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("7050", Question(7050, "", "")),
        ("7050/udp", Question(7050, "UDP", "")),
        ("worker-1 7050", Question(7050, "", "worker-1")),
        ("7050/TCP worker-1", Question(7050, "TCP", "worker-1")),
        ("worker-1:7050", Question(7050, "", "worker-1", is_named_so=True)),
        ("worker-1:7050/UDP", Question(7050, "UDP", "worker-1", is_named_so=True)),
        ("", None),
        ("worker-1", None),
        ("70000", None),
        ("0", None),
        ("7050 7051", None),
        ("worker-1:7050 db", None),
        ("shop web 7050", None),
        ("7050/QUIC", None),
    ],
)
def test_a_search_may_ask_about_one_port(text: str, asked: Question | None) -> None:
    assert question(text) == asked


def test_no_value_leaves_its_place_in_a_command_line() -> None:
    evil = "$(reboot); rm -rf / '\""

    assert shlex.split(words.for_claims(ClaimsQuery(namespace=evil)))[-1] == evil
    assert shlex.split(words.for_nodes(NodesQuery(text=evil)))[-1] == evil
