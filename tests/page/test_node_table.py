"""The table of a node on the page: claims, Services, processes, who meets whom, and what the agent said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from allocator.core.addresses import NodeAddress
from allocator.core.candidates import NodeName
from allocator.core.claims import ClusterChange, State
from allocator.core.foreign import ForeignHolder, ForeignKind, NodePort, ObservedService
from allocator.core.ports import WILDCARD, PortKey, Protocol
from allocator.page.node_table import Held, meeting, report_of, rows
from testing.costing import instructions
from testing.kit import Desk, ask, claim_on, lease, node, on, pod, report
from testing.sitekit import Site

N1 = NodeName("n1")


def service(*numbers: int) -> ObservedService:
    ports = tuple(NodePort(protocol=Protocol.TCP, number=number) for number in numbers)
    return ObservedService(namespace="shop", name="web", uid="u", ports=ports)


def inhabited() -> Desk:
    """A Pod that listens, a lease on which nobody does, a plan, a Service on the Pod's number, and a process."""
    desk = Desk("n1")
    bound = desk.grant(ask("web-0", "web:80=31080", policy="Static"))
    desk.grant(lease("relay", "rtp:5004/UDP=7001", policy="Static", constraints=on("n1")))
    desk.grant(ask("later", "web:80=7002", policy="Static"))
    desk.observe(pods=[pod("web-0", "web:80=31080", at="n1", carried_id=bound.id)])
    desk.observe(services=[service(31080)], reports=[report("n1", "nginx:31080", "sshd:22@10.0.0.1", ":2222")])
    return desk


def short(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["number"], row["ip"], row["state"], row["owner"]["name"], row["listening"], row["conflict"])


def test_a_node_is_one_table_of_everything_that_is_open_or_given_there() -> None:
    found, more = rows(inhabited().ledger, N1, 0.0, 100)

    assert list(map(short, found)) == [
        (22, "10.0.0.1", "PROCESS", "sshd", True, False),
        (2222, WILDCARD, "PROCESS", "a process of user 0", True, False),
        (7002, WILDCARD, "RESERVED", "later", None, False),
        (31080, WILDCARD, "BOUND", "web-0", True, True),
        (31080, WILDCARD, "SERVICE", "web", None, True),
        (7001, WILDCARD, "LEASED", "relay", False, False),
    ]
    assert more == 0
    assert found[0]["command"] == "hostport who n1 22/TCP"


def test_a_block_is_one_row_whatever_is_open_in_it() -> None:
    desk = Desk("n1")
    desk.grant(lease("relay", "rtp:1/UDP=20000*100", policy="Static", constraints=on("n1")))
    desk.observe(reports=[report("n1", "rtp:20042/UDP", "other:20100/UDP")])

    found, _ = rows(desk.ledger, N1, 0.0, 100)

    assert [(row["number"], row["last"], row["state"], row["listening"]) for row in found] == [
        (20000, 20099, "LEASED", True),
        (20100, 20100, "PROCESS", True),
    ]


def test_a_long_table_is_cut_and_says_how_much_more_there_is() -> None:
    found, more = rows(inhabited().ledger, N1, 0.0, 2)

    assert ([row["number"] for row in found], more) == ([22, 2222], 4)


PROCESS, KEPT = ForeignHolder(kind=ForeignKind.PROCESS), ForeignHolder(kind=ForeignKind.RESERVED)
CLAIMS = [replace(claim_on(name, "n1"), state=state) for name, state in (("a", State.BOUND), ("b", State.BOUND),
          ("lease", State.LEASED), ("plan", State.RESERVED))]  # fmt: skip
KEYS = st.builds(
    PortKey,
    st.sampled_from([WILDCARD, "10.0.0.1", "10.0.0.2"]),
    st.sampled_from([Protocol.TCP, Protocol.UDP]),
    st.integers(7000, 7006),
    st.sampled_from([1, 1, 3]),
)
WHO = st.sampled_from([*((claim, None) for claim in CLAIMS), (None, PROCESS), (None, KEPT)])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(KEYS, WHO), max_size=12))
def test_those_meet_who_are_there_and_of_whose_numbers_another_one_has_some(listed: list[Any]) -> None:
    held = [Held(key, claim, foreign, None) for key, (claim, foreign) in listed]
    held.sort(key=lambda one: (one.key.protocol.value, one.key.number, one.key.ip))

    assert meeting(held) == {
        at
        for at, one in enumerate(held)
        for place, other in enumerate(held)
        if place != at and one.is_there and other.is_there and one.key.conflicts_with(other.key)
        if one.claim is None or other.claim is not one.claim
    }


def test_one_number_on_many_addresses_costs_no_more_for_each_where_they_are_many() -> None:
    def cost(addresses: int) -> int:
        ips = [WILDCARD, *(f"10.{at >> 8}.{at & 255}.1" for at in range(addresses))]
        held = [Held(PortKey(ip, Protocol.UDP, 123), None, PROCESS, None) for ip in sorted(ips)]
        return instructions(lambda: meeting(held))

    assert cost(1_200) < 5 * cost(300), "four times as many addresses"


REPORTS = {
    "none": ([], None),
    "what it said": (
        [report("n1", "sshd:22", ephemeral=(32768, 60999), reserves=True)],
        {
            "at": "1970-01-01T00:16:40Z",
            "current": True,
            "ephemeral": [32768, 60999],
            "reserves": True,
            "foreign": 1,
        },
    ),
}


@pytest.mark.parametrize(("reports", "expected"), REPORTS.values(), ids=REPORTS)
def test_what_the_agent_said_stands_above_the_table(reports: list[Any], expected: dict[str, Any] | None) -> None:
    desk = Desk("n1")
    desk.observe(reports=reports)

    assert report_of(desk.ledger, N1, 0.0) == expected


async def test_the_page_has_the_table_and_answers_a_search_for_what_no_claim_has(site: Site) -> None:
    site.service.engine.maintenance.observe(ClusterChange(services=[service(31080)]))

    view = await site.view("/nodes/localhost")
    answers = [(await site.view(f"/claims?q=localhost:{number}"))["answer"]["text"] for number in (31080, 31081)]

    assert list(map(short, view["ports"])) == [
        (22, WILDCARD, "KEPT", "nobody who is known", None, False),
        (6443, WILDCARD, "KEPT", "nobody who is known", None, False),
        (31080, WILDCARD, "SERVICE", "web", None, False),
    ]
    assert (view["report"], view["address"]) == (None, "")
    assert answers == [
        "31080 on localhost is held by Service shop/web (node port).",
        "31081 on localhost is free.",
    ]


async def test_the_page_says_where_clients_dial_a_node(site: Site) -> None:
    dialled = node("n1", address=NodeAddress(address="198.51.100.7", ipv4="198.51.100.7"))
    site.service.engine.maintenance.observe(ClusterChange(nodes=[dialled], lists_pods=False))

    assert (await site.view("/nodes/n1"))["address"] == "198.51.100.7"
