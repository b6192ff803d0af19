"""`hostport node` and `hostport list -o wide` say where clients outside the cluster dial a node."""

from __future__ import annotations

import pytest
from clikit import Ended, hostport

from allocator.core.addresses import NodeAddress
from allocator.core.admission import LedgerRules
from allocator.core.claims import ClusterChange
from testing.kit import node, pod
from testing.servicekit import Running, Start

ADDRESS = NodeAddress(address="198.51.100.7", ipv4="198.51.100.7")
NODES = """\
NODE   ADDRESS        ALLOCATIONS   PORTS   KNOWN
n1     198.51.100.7   0             0       yes
n2     -              0             0       yes
"""
SAID = "Clients outside the cluster dial it at 198.51.100.7.\nNo host port is held on n1.\n"

BOUND = [pod("web-0", "http:80=7000", at="n1"), pod("web-1", "http:80=7000", at="n2")]


@pytest.fixture
async def service(start: Start) -> Running:
    running = await start(rules=LedgerRules())
    nodes = [node("n1", address=ADDRESS), node("n2")]
    running.engine.maintenance.observe(ClusterChange(nodes=nodes, lists_pods=False))
    return running


async def test_nodes_are_listed_with_their_addresses(service: Running) -> None:
    assert await hostport(service, "node") == Ended(0, NODES)


async def test_a_node_is_shown_with_its_address(service: Running) -> None:
    assert await hostport(service, "node", "n1") == Ended(0, "", SAID)


async def test_a_wide_list_has_the_address_of_each_node(service: Running) -> None:
    service.engine.maintenance.observe(ClusterChange(pods=BOUND))
    ended = await hostport(service, "list", "-o", "wide")
    lines = ended.out.splitlines()
    begin = lines[0].index("ADDRESS")

    assert [line[begin:].split()[0] for line in lines] == ["ADDRESS", "198.51.100.7", "-"]


@pytest.mark.parametrize("wide", [[], ["-o", "json"]], ids=["a table", "JSON"])
async def test_no_other_list_has(service: Running, wide: list[str]) -> None:
    service.engine.maintenance.observe(ClusterChange(pods=BOUND))
    assert "198.51.100.7" not in (await hostport(service, "list", *wide)).out
