"""`hostport version`: what runs where, and whether it goes together."""

from __future__ import annotations

from dataclasses import asdict

import click

from hostport.v1 import allocator_pb2 as pb
from hostport.version import VERSION
from hostport_cli import wording
from hostport_cli.options import Command, asking
from hostport_cli.printing import remark, show_data, table
from hostport_cli.session import Session
from hostport_cli.versions import RunningProgram, programs_of, skews


@click.command("version", cls=Command)
@click.option("--client", "is_client_only", is_flag=True, help="Only this program; ask nobody.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True,
              help="What to print.")  # fmt: skip
@asking()
async def version(session: Session, is_client_only: bool, output: str) -> None:  # noqa: FBT001
    """Show the versions of what runs.

    Of this program, the allocator, and the shims that called it lately; with a warning when they are further apart than
    one minor version.
    """
    programs = [RunningProgram("client", VERSION, "")]
    if not is_client_only:
        async with session.allocator() as allocator:
            programs += programs_of(await allocator.call("GetStatus", pb.GetStatusRequest()), wording.now())
    if output == "table":
        table(["COMPONENT", "VERSION", "WHERE"], [[each.component, each.version, each.where] for each in programs])
    else:
        show_data(output, {"programs": [asdict(each) for each in programs]})
    for sentence in skews(programs):
        remark(f"warning: {sentence}")
