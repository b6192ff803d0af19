"""The table of a node on the page: claims, Services, processes, who meets whom, and what the agent said."""

from __future__ import annotations

from typing import Any

import pytest

from allocator.core.addresses import NodeAddress
from allocator.core.candidates import NodeName
from allocator.core.claims import ClusterChange
from allocator.core.foreign import NodePort, ObservedService
from allocator.core.ports import WILDCARD, Protocol
from allocator.page.node_table import report_of, rows
from testing.kit import Desk, ask, lease, node, on, pod, report
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
