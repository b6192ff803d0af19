"""`hostport list` and `hostport watch`: who holds host ports, now and from now on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import click
import grpc
from google.protobuf.json_format import MessageToDict

from hostport.client.aio import AsyncClient
from hostport.client.errors import HostportError, UnavailableError, error_of
from hostport.client.renewal import LONGEST_PAUSE
from hostport.v1 import allocator_pb2 as pb
from hostport_cli import wording
from hostport_cli.options import NAMESPACES, Command, asking
from hostport_cli.printing import Column, Output, output_option, remark, show, styled, visible
from hostport_cli.session import Session

PAGE = 1000
STATES = ("RESERVED", "CONFIRMED", "BOUND", "LEASED")
WATCHED = pb.WatchAllocationsResponse


@click.command("list", cls=Command)
@click.option("--node", metavar="NODE", default="", help="Only what is bound to or planned on this node.")
@click.option("--owner", metavar="NAME", default="", help="Only what an owner of this name holds.")
@click.option("--state", type=click.Choice(STATES, case_sensitive=False), help="Only what is in this state.")
@output_option
@asking(NAMESPACES)
async def list_allocations(session: Session, node: str, owner: str, state: str | None, output: Output) -> None:
    """List who holds host ports: Pods and leases.

    With -o wide, ADDRESS is what clients outside the cluster dial.

    JSON and YAML are the API's ListAllocationsResponse.
    """
    namespace = await session.namespace_or_all()
    request = pb.ListAllocationsRequest(
        node=node,
        namespace=namespace,
        owner_name=owner,
        state=pb.State.Value(f"STATE_{state.upper()}") if state else pb.STATE_UNSPECIFIED,
    )
    async with session.allocator() as allocator:
        found = await all_allocations(allocator, request)
        nodes = await all_nodes(allocator) if found and output == "wide" else []
    found.sort(key=lambda each: (each.owner.namespace, wording.owner(each.owner, qualified=False), each.id))
    if not found and output in {"table", "wide"}:
        remark(f"Nobody holds host ports{f' in namespace {namespace}' if namespace else ''}.")
    show(
        output,
        found,
        columns(
            wording.now(),
            is_mixed=not namespace,
            knows_listening=any(map(wording.listens, found)),
            addresses={each.name: each.address for each in nodes if each.address},
        ),
        name=lambda each: each.id,
        data=pb.ListAllocationsResponse(allocations=found),
    )


async def all_allocations(allocator: AsyncClient, request: pb.ListAllocationsRequest) -> list[pb.Allocation]:
    """Every page."""
    return [each async for page in _pages(allocator, "ListAllocations", request) for each in page.allocations]


async def all_nodes(allocator: AsyncClient) -> list[pb.Node]:
    """Every page."""
    return [each async for page in _pages(allocator, "ListNodes", pb.ListNodesRequest()) for each in page.nodes]


async def _pages(allocator: AsyncClient, method: str, request: Any) -> AsyncIterator[Any]:
    request.page_size = PAGE
    while True:
        page = await allocator.call(method, request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def columns(
    now: float, *, is_mixed: bool, knows_listening: bool = False, addresses: Mapping[str, str] | None = None
) -> list[Column[pb.Allocation]]:
    """The columns of a list of allocations.

    is_mixed: they are of several namespaces. knows_listening: of some it is known whether programs listen.
    addresses: where clients dial nodes, by the names of these.
    """
    dialled = addresses or {}
    address: list[Column[pb.Allocation]] = [Column("ADDRESS", lambda each: dialled.get(each.node, ""), is_wide=True)]
    namespace: list[Column[pb.Allocation]] = [Column("NAMESPACE", lambda each: each.owner.namespace)]
    listening: list[Column[pb.Allocation]] = [Column("LISTENING", wording.listens)]
    return [
        *(namespace if is_mixed else []),
        Column("OWNER", lambda each: wording.owner(each.owner, qualified=False)),
        Column("STATE", wording.state),
        Column("NODE", lambda each: each.node),
        *(address if dialled else []),
        Column("PORTS", wording.ports),
        *(listening if knows_listening else []),
        Column("AGE", lambda each: wording.since(each.create_time, now)),
        Column("EXPIRES", lambda each: wording.until(each, now), is_wide=True),
        Column("NAMES", lambda each: ",".join(port.name or "-" for port in each.ports), is_wide=True),
        Column("NETWORK", wording.network, is_wide=True),
        Column("WARNINGS", lambda each: ",".join(each.warnings), is_wide=True),
        Column("DESCRIPTION", lambda each: each.owner.description, is_wide=True),
        Column("ALLOCATION", lambda each: each.id, is_wide=True),
    ]


@click.command("watch", cls=Command)
@click.option("--node", metavar="NODE", default="", help="Only what is bound to or planned on this node.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True,
              help="Lines for people, or one JSON object (the API's WatchAllocationsResponse) a line.")  # fmt: skip
@asking(NAMESPACES)
async def watch(session: Session, node: str, output: str) -> None:
    """Show who takes and gives up host ports, as it happens.

    Begins with what is held (`has`), then tells what is new or changed (`takes`) and what ended (`frees`). An allocator
    that restarts is waited for. Ctrl-C ends it.
    """
    request = pb.WatchAllocationsRequest(node=node, namespace=await session.namespace_or_all(), batches=True)
    async with session.allocator() as allocator:
        await allocator.call("GetStatus", pb.GetStatusRequest())  # who cannot be reached at all is told so
        while True:
            await _follow(allocator, request, output)


async def _follow(allocator: AsyncClient, request: pb.WatchAllocationsRequest, output: str) -> None:
    """One watch, until it breaks off.

    Raises:
        HostportError: another attempt would not help.

    """
    call: Any = allocator.stub().WatchAllocations(request, wait_for_ready=True)
    try:
        async for message in call:
            for event in events_of(message):
                _tell(event, output)
    except grpc.RpcError as error:
        failure: HostportError = error_of(error)
        if not isinstance(failure, UnavailableError) and failure.reason != "WATCH_BEHIND":
            raise failure from None
        remark(f"watching again: {failure}")
    await asyncio.sleep(LONGEST_PAUSE)


def events_of(message: pb.WatchAllocationsResponse) -> Iterator[pb.WatchAllocationsResponse]:
    """The events of a message, each for itself."""
    further = list(message.further)
    del message.further[:]
    yield message
    yield from further


def _tell(event: Any, output: str) -> None:
    if output == "json":
        click.echo(json.dumps(MessageToDict(event), ensure_ascii=False))
        return
    if event.type == WATCHED.TYPE_SYNCED:
        return
    word, style = {WATCHED.TYPE_SNAPSHOT: ("has", "bold"), WATCHED.TYPE_CHANGED: ("takes", "yellow")}.get(
        event.type, ("frees", "green")
    )
    allocation = event.allocation
    who = wording.owner(allocation.owner, qualified=True)
    where = f" on {allocation.node}" if allocation.node else ""
    what = visible(f"{who}  {wording.ports(allocation)}{where}")
    line = [time.strftime("%H:%M:%S"), styled(word.ljust(5), style), what]
    click.echo("  ".join([*line, wording.state(allocation)]))
