"""`hostport node` and `hostport who`: what is held on a node, and who holds one port of it."""

from __future__ import annotations

import re

import click

from hostport.cli import wording
from hostport.cli.options import Command, asking
from hostport.cli.printing import Column, Output, output_option, remark, show
from hostport.cli.session import Session
from hostport.client.aio import AsyncClient
from hostport.v1 import allocator_pb2 as pb

PAGE = 1000

NODES: list[Column[pb.Node]] = [
    Column("NODE", lambda each: each.name),
    Column("ALLOCATIONS", lambda each: str(each.allocation_count)),
    Column("PORTS", lambda each: str(each.held_port_count)),
    Column("KNOWN", lambda each: "yes" if each.known else "no"),
]
HELD: list[Column[pb.HeldPort]] = [
    Column("PORT", wording.port),
    Column("STATE", lambda each: wording.state_name(each.state)),
    Column("HOLDER", lambda each: wording.owner(each.owner, qualified=True)),
    Column("DESCRIPTION", lambda each: each.owner.description, is_wide=True),
    Column("ALLOCATION", lambda each: each.allocation_id, is_wide=True),
]


@click.command("node", cls=Command)
@click.argument("node", required=False)
@output_option
@asking()
async def node(session: Session, node: str | None, output: Output) -> None:
    """Show the port map of NODE, or the nodes.

    Without NODE it lists the nodes, and how much is held on each.

    JSON and YAML are the API's GetNodeResponse or ListNodesResponse. A node is not KNOWN when only Pods or callers name
    it.
    """
    async with session.allocator() as allocator:
        if node is None:
            nodes = await _all_nodes(allocator)
            show(output, nodes, NODES, name=lambda each: each.name, data=pb.ListNodesResponse(nodes=nodes))
            return
        found: pb.GetNodeResponse = await allocator.call("GetNode", pb.GetNodeRequest(name=node))
    if not found.node.known:
        remark(f"There is no Node object {node}: only Pods or callers name it.")
    if not found.ports and output in {"table", "wide"}:
        remark(f"No host port is held on {node}.")
    show(output, list(found.ports), HELD, name=wording.port, data=found)


async def _all_nodes(allocator: AsyncClient) -> list[pb.Node]:
    nodes: list[pb.Node] = []
    request = pb.ListNodesRequest(page_size=PAGE)
    while True:
        page = await allocator.call("ListNodes", request)
        nodes.extend(page.nodes)
        if not page.next_page_token:
            return nodes
        request.page_token = page.next_page_token


class Slot(click.ParamType[tuple[int, str]]):
    """`8080` or `8080/UDP`."""

    name = "PORT[/PROTOCOL]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, str]:
        found = re.fullmatch(rf"([0-9]{{1,5}})(?:/({'|'.join(wording.PROTOCOLS)}))?", str(value).upper())
        if not found or not 1 <= int(found[1]) <= 65535:
            self.fail(f"{value!r} is not a port such as 8080 or 8080/UDP", param, ctx)
        return int(found[1]), found[2] or "TCP"


@click.command("who", cls=Command)
@click.argument("node")
@click.argument("port", type=Slot())
@output_option
@asking()
async def who(session: Session, node: str, port: tuple[int, str], output: Output) -> None:
    """Tell who holds PORT[/PROTOCOL] on NODE, and since when. Without a protocol: TCP.

    JSON and YAML are the API's ExplainPortResponse. A port that is free is not an error.
    """
    number, protocol = port
    request = pb.ExplainPortRequest(node=node, host_port=number, protocol=pb.Protocol.Value(f"PROTOCOL_{protocol}"))
    async with session.allocator() as allocator:
        found: pb.ExplainPortResponse = await allocator.call("ExplainPort", request)
    if not found.holders and output in {"table", "wide"}:
        remark(f"{number}/{protocol} on {node} is free.")
    show(output, list(found.holders), _holders(wording.now()), name=lambda each: each.allocation.id, data=found)


def _holders(now: float) -> list[Column[pb.ExplainPortResponse.Holder]]:
    return [
        Column("HOLDER", lambda each: wording.owner(each.allocation.owner, qualified=True)),
        Column("STATE", lambda each: wording.state(each.allocation)),
        Column("SINCE", lambda each: wording.since(each.since, now)),
        Column("EXPIRES", lambda each: wording.until(each.allocation, now)),
        Column("ALLOCATION", lambda each: each.allocation.id),
        Column("PORTS", lambda each: wording.named_ports(each.allocation), is_wide=True),
        Column("DESCRIPTION", lambda each: each.allocation.owner.description, is_wide=True),
    ]
