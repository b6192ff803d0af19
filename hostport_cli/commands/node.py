"""`hostport node` and `hostport who`: what is held on a node, and who holds one port of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import click

from hostport.contract.limits import HIGHEST_PORT, LOWEST_PORT
from hostport.v1 import allocator_pb2 as pb
from hostport_cli import holding, wording
from hostport_cli.commands.listing import all_nodes
from hostport_cli.options import Command, asking
from hostport_cli.printing import Column, Output, output_option, remark, show
from hostport_cli.session import Session


def node_columns(nodes: Sequence[pb.Node], now: float) -> list[Column[pb.Node]]:
    """The columns of a list of nodes; reports and addresses where there are any. `now`: seconds since the epoch."""
    reported: list[Column[pb.Node]] = [
        Column("REPORTED", lambda each: wording.since(each.report.report_time, now) if each.HasField("report") else ""),
        Column("FOREIGN", lambda each: str(each.report.foreign_port_count) if each.HasField("report") else ""),
    ]
    dialled: list[Column[pb.Node]] = [Column("ADDRESS", lambda each: each.address)]
    return [
        Column("NODE", lambda each: each.name),
        *(dialled if any(each.address for each in nodes) else []),
        Column("ALLOCATIONS", lambda each: str(each.allocation_count)),
        Column("PORTS", lambda each: str(each.held_port_count)),
        Column("KNOWN", lambda each: "yes" if each.known else "no"),
        *(reported if any(each.HasField("report") for each in nodes) else []),
    ]


@click.command("node", cls=Command)
@click.argument("node", required=False)
@output_option
@asking()
async def node(session: Session, node: str | None, output: Output) -> None:
    """Show everything that is open or given on NODE; without NODE, list the nodes.

    Of each number or block: who has it, how that is known (by a Pod, a lease, a Service, a process, the list of
    reserved numbers), since when, and whether a program listens on it. Processes and listening are known where the
    node's agent reports. The list of nodes says how much is held on each.

    ADDRESS is what clients outside the cluster dial.

    JSON and YAML are the API's GetNodeResponse or ListNodesResponse. A node is not KNOWN when only Pods or callers name
    it.
    """
    async with session.allocator() as allocator:
        if node is None:
            nodes = await all_nodes(allocator)
            columns = node_columns(nodes, wording.now())
            show(output, nodes, columns, name=lambda each: each.name, data=pb.ListNodesResponse(nodes=nodes))
            return
        found: pb.GetNodeResponse = await allocator.call("GetNode", pb.GetNodeRequest(name=node))
    if not found.node.known:
        remark(f"There is no Node object {node}: only Pods or callers name it.")
    if output in {"table", "wide"}:
        said = holding.report_of(found.node, wording.now())
        where = f"Clients outside the cluster dial it at {found.node.address}." if found.node.address else ""
        for line in (where, said, "" if found.ports else f"No host port is held on {node}."):
            if line:
                remark(line)
    show(
        output,
        holding.rows(found.ports),
        holding.columns(wording.now()),
        name=lambda row: wording.port(row.held),
        data=found,
    )


class Slot(click.ParamType[tuple[int, str]]):
    """`8080` or `8080/UDP`."""

    name = "PORT[/PROTOCOL]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, str]:
        """The number and the protocol, TCP where none is named. Fails as click does."""
        found = re.fullmatch(rf"([0-9]{{1,5}})(?:/({'|'.join(wording.PROTOCOLS)}))?", str(value).upper())
        if not found or not LOWEST_PORT <= int(found[1]) <= HIGHEST_PORT:
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
    if output in {"table", "wide"}:
        for line in remarks(found, f"{number}/{protocol} on {node}"):
            remark(line)
    holders: list[Who] = [*found.holders, *found.foreign]
    show(output, holders, holder_columns(wording.now()), name=lambda each: _allocation_of(each).id, data=found)


Who = pb.ExplainPortResponse.Holder | pb.ForeignHolder
"""One who holds a port: with an allocation, or without."""


def remarks(found: pb.ExplainPortResponse, port: str) -> Iterator[str]:
    """What is said of a port beside its holders. `port`: what it is called."""
    if not found.holders and not found.foreign:
        yield f"{port} is free."
    if found.listening == pb.LISTENING_NO:
        yield "Nothing listens on it."
    elif found.listening == pb.LISTENING_YES:
        yield "A program listens on it."


def holder_columns(now: float) -> list[Column[Who]]:
    """The columns of those who hold a port. `now`: seconds since the epoch."""
    return [
        Column("HOLDER", _holder_in_words),
        Column("STATE", lambda each: wording.state(_allocation_of(each)) if _allocation_of(each).id else ""),
        Column("SINCE", lambda each: "" if isinstance(each, pb.ForeignHolder) else wording.since(each.since, now)),
        Column("EXPIRES", lambda each: wording.until(_allocation_of(each), now) if _allocation_of(each).id else ""),
        Column("ALLOCATION", lambda each: _allocation_of(each).id),
        Column("PORTS", lambda each: wording.named_ports(_allocation_of(each)), is_wide=True),
        Column("DESCRIPTION", lambda each: _allocation_of(each).owner.description, is_wide=True),
    ]


def _allocation_of(who: Who) -> pb.Allocation:
    """Its allocation; an empty one where it has none."""
    return pb.Allocation() if isinstance(who, pb.ForeignHolder) else who.allocation


def _holder_in_words(who: Who) -> str:
    if isinstance(who, pb.ForeignHolder):
        return wording.foreign(who)
    return wording.owner(who.allocation.owner, qualified=True)
