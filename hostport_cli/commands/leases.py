"""`hostport lease`, `renew` and `release`: leases for people and scripts."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import click

from hostport.client.aio import AsyncClient
from hostport.client.errors import LeaseLostError, NotAllowedError, NotFoundError
from hostport.client.lease_request import LeasedPort, LeaseRequest, Port, duration
from hostport.contract import defaults
from hostport.contract.limits import MOST_NUMBERS
from hostport.v1 import allocator_pb2 as pb
from hostport_cli import wording
from hostport_cli.exits import CliError, Exit
from hostport_cli.options import NAMESPACE, Command, Duration, asking
from hostport_cli.printing import Column, Output, is_terminal, output_option, remark, show, show_data
from hostport_cli.session import Session

TTL = "1h"


class WantedPort(click.ParamType[Port]):
    """`[NAME][:NUMBER][/PROTOCOL]`."""

    name = "[NAME][:NUMBER][/PROTOCOL]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Port:
        """The port that is wanted; TCP where no protocol is named. Fails as click does."""
        found = re.fullmatch(r"([a-z][a-z0-9-]*)?(?::([0-9]{1,5}))?(?:/(TCP|UDP|SCTP|tcp|udp|sctp))?", str(value))
        if not value or not found:
            self.fail(f"{value!r} is not a port such as media, media/UDP, :8080 or media:8080/UDP", param, ctx)
        protocol: Any = (found[3] or "TCP").upper()
        try:
            return Port(found[1] or "", protocol, int(found[2] or 0))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Range(click.ParamType[tuple[int, int]]):
    """`LOWEST-HIGHEST`."""

    name = "MIN-MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """The lowest and the highest number, as written. Fails as click does."""
        found = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", str(value))
        if not found:
            self.fail(f"{value!r} is not a range such as 7000-8000", param, ctx)
        return int(found[1]), int(found[2])


@click.command("lease", cls=Command, context_settings={"allow_interspersed_args": False})
@click.option("--owner", metavar="KIND/NAME", required=True, help="For whom, such as Relay/r1.")
@click.option("--description", metavar="TEXT", default="", help="Who leases, and why.")
@click.option("--port", "ports", multiple=True, type=WantedPort(), help="A port; may be repeated. Without: one, TCP.")
@click.option(
    "--count",
    metavar="N",
    type=click.IntRange(1, MOST_NUMBERS),
    default=1,
    help="How many consecutive numbers each port stands for: a block.",
)
@click.option("--alignment", metavar="N", type=click.IntRange(1, MOST_NUMBERS), default=1,
              help="The first number is a multiple of it: 2 for an even one.")  # fmt: skip
@click.option("--range", "bounds", type=Range(),
              help=f"Where numbers are chosen from. Without: {defaults.MIN_PORT}-{defaults.MAX_PORT}.")  # fmt: skip
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
    count: int,
    alignment: int,
    bounds: tuple[int, int] | None,
    node: str,
    ttl: float,
    dry_run: bool,  # noqa: FBT001 - click passes options by name
    command: tuple[str, ...],
    output: Output,
) -> int | None:
    """Lease ports, or run COMMAND with leased ports.

    Prints the allocation; its id is what renew and release want. With COMMAND (after `--`) the lease is renewed while
    COMMAND runs and released when it ends, and the exit status is that of COMMAND. COMMAND finds its numbers in
    HOSTPORT_PORT (the first) and HOSTPORT_<NAME>, the node in HOSTPORT_NODE, and gets SIGTERM should the lease be lost.
    With --count, HOSTPORT_<NAME>_MIN, _MAX and _COUNT tell the first and the last number, and how many there are.

    \b
    Examples:
      hostport lease --owner Relay/r1 --port media/UDP --range 21000-21099
      hostport lease --owner Relay/r1 --port rtp/UDP --count 100 --alignment 2 --range 20000-29999
      hostport lease --owner Test/me -- sh -c 'python3 -m http.server $HOSTPORT_PORT'
    """  # noqa: D301 - click keeps the lines after its mark
    try:
        wanted = LeaseRequest(
            owner=owner,
            ports=[replace(port, count=count, alignment=alignment) for port in ports or (Port(),)],
            namespace=session.namespace or "",
            description=description,
            range=bounds,
            node=node,
            ttl=ttl,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if command and dry_run:
        raise click.UsageError("--dry-run runs nothing: leave COMMAND away")
    if command:
        _check_variables(wanted.ports)
        return await _run(session, wanted, command)
    request = wanted.request(uuid.uuid4().hex)
    request.dry_run = dry_run
    async with session.allocator() as allocator:
        answer = await allocator.allocate(request)
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


async def _run(session: Session, wanted: LeaseRequest, command: tuple[str, ...]) -> int:
    """Runs a command on leased ports; its exit status, as a shell tells it."""
    lost: list[LeaseLostError] = []

    def end(error: LeaseLostError) -> None:
        lost.append(error)
        process.terminate()

    async with session.allocator() as allocator:
        held = allocator.lease(
            wanted.owner,
            *wanted.ports,
            namespace=wanted.namespace,
            description=wanted.description,
            range=wanted.range,
            node=wanted.node,
            ttl=wanted.ttl,
            on_lost=end,
        )
        async with held:
            environ = os.environ | environment(held.node, held.ports)
            try:
                process = await asyncio.create_subprocess_exec(*command, env=environ)
            except OSError as error:
                raise CliError(f"{command[0]} cannot be run: {error.strerror}", Exit.USAGE) from error
            code = await _exit_status(process)
    if lost:
        raise CliError(f"{command[0]} was ended: {lost[0]}")
    return code


async def _exit_status(process: asyncio.subprocess.Process) -> int:
    """Passes our own end on to the command, and waits for it."""
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()
        raise
    return 128 - code if code < 0 else code


def environment(node: str, ports: Sequence[LeasedPort]) -> dict[str, str]:
    """The variables that a command finds its numbers in."""
    return dict(_variables(node, ports))


def _variables(node: str, ports: Sequence[LeasedPort]) -> Iterator[tuple[str, str]]:
    yield "HOSTPORT_NODE", node
    first = [] if ports[0].name == "port" else [("PORT", ports[0])]
    named = [(port.name.upper().replace("-", "_"), port) for port in ports if port.name]
    for name, port in (*first, *named):
        yield f"HOSTPORT_{name}", str(port.number)
        if port.count > 1:
            yield f"HOSTPORT_{name}_MIN", str(port.number)
            yield f"HOSTPORT_{name}_MAX", str(port.numbers[-1])
            yield f"HOSTPORT_{name}_COUNT", str(port.count)


def _check_variables(ports: Sequence[Port]) -> None:
    """Raises click.UsageError where a command would be told two things by one variable."""
    granted = [LeasedPort(port.name, port.protocol, 1, count=port.count) for port in ports]
    for name, times in Counter(name for name, _ in _variables("", granted)).items():
        if times > 1:
            raise click.UsageError(f"{name} would have two values: name the ports otherwise")


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
@click.option("--ignore-not-found", is_flag=True, help="An allocation that does not exist is no error.")
@click.option("-o", "--output", type=click.Choice(["name", "json", "yaml"]), default="name", show_default=True,
              help="What to print.")  # fmt: skip
@asking()
async def release(
    session: Session,
    allocations: tuple[str, ...],
    yes: bool,  # noqa: FBT001 - click passes options by name
    ignore_not_found: bool,  # noqa: FBT001 - as above
    output: str,
) -> None:
    """End leases, or reservations whose Pod does not exist, and print those that ended.

    On a terminal it asks first. The exit status is 3 where an allocation does not exist, unless --ignore-not-found.
    """
    if is_terminal() and not yes:
        count = len(allocations)
        await asyncio.to_thread(
            click.confirm, f"Release {allocations[0] if count == 1 else f'{count} allocations'}?", abort=True, err=True
        )
    released: list[str] = []
    async with session.allocator() as allocator:
        for allocation in allocations:
            if await _exists(allocator, allocation):
                await allocator.call("Release", pb.ReleaseRequest(id=allocation))
                released.append(allocation)
    if output != "name":
        show_data(output, {"released": released})
    elif released:
        click.echo("\n".join(released))
    missing = [each for each in allocations if each not in released]
    if missing and not ignore_not_found:
        raise CliError(_not_there(missing, is_all=not released), Exit.NOT_FOUND)


async def _exists(allocator: AsyncClient, allocation: str) -> bool:
    """Who may release and not look is believed: Release itself is content with what is gone."""
    try:
        await allocator.call("GetAllocation", pb.GetAllocationRequest(id=allocation))
    except NotFoundError:
        return False
    except NotAllowedError:
        return True
    return True


def _not_there(missing: Sequence[str], *, is_all: bool) -> str:
    nothing = "nothing was released: " if is_all else ""
    there_is = "there is no allocation" if len(missing) == 1 else "there are no allocations"
    return f"{nothing}{there_is} {', '.join(missing)}. `hostport list` shows those that there are"
