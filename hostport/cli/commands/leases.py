"""`hostport lease`, `renew` and `release`: leases for people and scripts."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import uuid
from typing import Any

import click

from hostport.cli import wording
from hostport.cli.exits import CliError, Exit
from hostport.cli.options import NAMESPACE, Command, Duration, asking
from hostport.cli.printing import Column, Output, is_terminal, output_option, remark, show, show_data
from hostport.cli.session import Session
from hostport.client.asking import Ask, LeasedPort, Port, duration
from hostport.client.errors import LeaseLostError
from hostport.v1 import allocator_pb2 as pb

TTL = "1h"


class WantedPort(click.ParamType[Port]):
    """`[NAME][:NUMBER][/PROTOCOL]`."""

    name = "[NAME][:NUMBER][/PROTOCOL]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Port:
        found = re.fullmatch(r"([a-z][a-z0-9-]*)?(?::([0-9]{1,5}))?(?:/(TCP|UDP|SCTP|tcp|udp|sctp))?", str(value))
        if not value or not found:
            self.fail(f"{value!r} is not a port such as media, media/UDP, :8080 or media:8080/UDP", param, ctx)
        protocol: Any = (found[3] or "TCP").upper()
        return Port(found[1] or "", protocol, int(found[2] or 0))


class Range(click.ParamType[tuple[int, int]]):
    """`LOWEST-HIGHEST`."""

    name = "MIN-MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        found = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", str(value))
        if not found:
            self.fail(f"{value!r} is not a range such as 7000-8000", param, ctx)
        return int(found[1]), int(found[2])


@click.command("lease", cls=Command, context_settings={"allow_interspersed_args": False})
@click.option("--owner", metavar="KIND/NAME", required=True, help="For whom, such as Relay/r1.")
@click.option("--description", metavar="TEXT", default="", help="Who leases, and why.")
@click.option("--port", "ports", multiple=True, type=WantedPort(), help="A port; may be repeated. Without: one, TCP.")
@click.option("--range", "bounds", type=Range(), help="Where numbers are chosen from. Without: 7000-8000.")
@click.option("--node", metavar="NODE", default="", help="On this node. Without: on any.")
@click.option("--ttl", type=Duration(), default=TTL, show_default=True, help="How long it lasts without renewal.")
@click.option("--dry-run", is_flag=True, help="Show what would be granted, and take nothing.")
@click.argument("command", nargs=-1)
@output_option
@asking(NAMESPACE)
async def lease(
    session: Session,
    owner: str,
    description: str,
    ports: tuple[Port, ...],
    bounds: tuple[int, int] | None,
    node: str,
    ttl: float,
    dry_run: bool,  # noqa: FBT001 - click passes options by name
    command: tuple[str, ...],
    output: Output,
) -> int | None:
    r"""Lease ports, or run COMMAND with leased ports.

    Prints the allocation; its id is what renew and release want. With COMMAND (after `--`) the lease is renewed while
    that runs and released when it ends; it finds its numbers in HOSTPORT_PORT (the first), HOSTPORT_<NAME> and the node
    in HOSTPORT_NODE, and gets SIGTERM should the lease be lost. The exit status is that of COMMAND then.

    \b
    Examples:
      hostport lease --owner Relay/r1 --port media/UDP --range 21000-21099
      hostport lease --owner Test/me -- sh -c 'python3 -m http.server $HOSTPORT_PORT'
    """
    ask = Ask(
        owner=owner,
        ports=ports or (Port(),),
        namespace=session.namespace or "",
        description=description,
        range=bounds,
        node=node,
        ttl=ttl,
    )
    try:
        request = ask.request(uuid.uuid4().hex)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if command and dry_run:
        raise click.UsageError("--dry-run runs nothing: leave COMMAND away")
    if command:
        return await _run(session, ask, command)
    request.dry_run = dry_run
    async with session.allocator() as allocator:
        answer: pb.AllocateResponse = await allocator.call("Allocate", request)
    for warning in answer.warnings:
        remark(f"warning: {warning.reason}: {warning.message}")
    _show_lease(output, answer.allocation)
    return None


def _show_lease(output: Output, allocation: pb.Allocation) -> None:
    now = wording.now()
    columns: list[Column[pb.Allocation]] = [
        Column("ALLOCATION", lambda each: each.id or "(dry run)"),
        Column("NODE", lambda each: each.node),
        Column("PORTS", wording.named_ports),
        Column("EXPIRES", lambda each: wording.until(each, now)),
    ]
    show(output, [allocation], columns, name=lambda each: each.id, data=allocation)


async def _run(session: Session, ask: Ask, command: tuple[str, ...]) -> int:
    """Runs a command on leased ports; its exit status, as a shell tells it."""
    lost: list[LeaseLostError] = []

    def end(error: LeaseLostError) -> None:
        lost.append(error)
        process.terminate()

    async with session.allocator() as allocator:
        held = allocator.lease(
            ask.owner,
            *ask.ports,
            namespace=ask.namespace,
            description=ask.description,
            range=ask.range,
            node=ask.node,
            ttl=ask.ttl,
            on_lost=end,
        )
        async with held:
            environ = os.environ | environment(held.node, held.ports)
            try:
                process = await asyncio.create_subprocess_exec(*command, env=environ)
            except OSError as error:
                raise CliError(f"{command[0]} cannot be run: {error.strerror}", Exit.USAGE) from error
            code = await _status(process)
    if lost:
        raise CliError(f"{command[0]} was ended: {lost[0]}")
    return code


async def _status(process: asyncio.subprocess.Process) -> int:
    """Passes our own end on to the command, and waits for it."""
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()
        raise
    return 128 - code if code < 0 else code


def environment(node: str, ports: tuple[LeasedPort, ...]) -> dict[str, str]:
    """The variables that a command finds its numbers in."""
    named = {f"HOSTPORT_{port.name.upper().replace('-', '_')}": str(port.number) for port in ports if port.name}
    return {"HOSTPORT_NODE": node, "HOSTPORT_PORT": str(ports[0].number), **named}


@click.command("renew", cls=Command)
@click.argument("allocation")
@click.option("--ttl", type=Duration(), default=TTL, show_default=True, help="How long it lasts from now on.")
@output_option
@asking()
async def renew(session: Session, allocation: str, ttl: float, output: Output) -> None:
    """Extend the lease ALLOCATION to now + ttl."""
    async with session.allocator() as allocator:
        answer: pb.RenewResponse = await allocator.call("Renew", pb.RenewRequest(id=allocation, ttl=duration(ttl)))
    _show_lease(output, answer.allocation)


@click.command("release", cls=Command)
@click.argument("allocations", metavar="ALLOCATION...", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("-o", "--output", type=click.Choice(["name", "json", "yaml"]), default="name", show_default=True,
              help="What to print.")  # fmt: skip
@asking()
async def release(session: Session, allocations: tuple[str, ...], yes: bool, output: str) -> None:  # noqa: FBT001
    """End leases, or reservations whose Pod does not exist. What is gone is released already.

    On a terminal it asks first.
    """
    if is_terminal() and not yes:
        count = len(allocations)
        await asyncio.to_thread(
            click.confirm, f"Release {allocations[0] if count == 1 else f'{count} allocations'}?", abort=True, err=True
        )
    async with session.allocator() as allocator:
        for allocation in allocations:
            await allocator.call("Release", pb.ReleaseRequest(id=allocation))
            if output == "name":
                click.echo(allocation)
    if output != "name":
        show_data(output, {"released": list(allocations)})
