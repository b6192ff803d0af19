"""`hostport version`: what runs where, and whether it goes together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import click

from hostport.cli import wording
from hostport.cli.options import Command, asking
from hostport.cli.printing import remark, show_data, table
from hostport.cli.session import Session
from hostport.v1 import allocator_pb2 as pb
from hostport.version import program_version

SHIM = "hostport-shim"


@dataclass(frozen=True, slots=True)
class Program:
    """One that runs somewhere."""

    component: str
    version: str
    where: str


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
    programs = [Program("client", program_version(), "")]
    if not is_client_only:
        async with session.allocator() as allocator:
            programs += programs_of(await allocator.call("GetStatus", pb.GetStatusRequest()), wording.now())
    if output == "table":
        table(["COMPONENT", "VERSION", "WHERE"], [[each.component, each.version, each.where] for each in programs])
    else:
        show_data(output, {"programs": [asdict(each) for each in programs]})
    for sentence in skews(programs):
        remark(f"warning: {sentence}")


def programs_of(status: pb.GetStatusResponse, now: float) -> Iterator[Program]:
    since = wording.since(status.start_time, now)
    yield Program("allocator", status.version, f"cluster {status.cluster}, up {since}")
    for caller in status.callers:
        if caller.program == SHIM:
            called = wording.since(caller.call_time, now)
            yield Program("shim", caller.version, f"{caller.address}, called {called} ago")


def skews(programs: Sequence[Program]) -> list[str]:
    """A sentence for each component that is too far from the allocator, or from us where there is none."""
    base = next((each for each in programs if each.component == "allocator"), programs[0])
    seen = dict.fromkeys((each.component, each.version) for each in programs if are_apart(each.version, base.version))
    return [
        f"the {component} is {version}, the {base.component} {base.version}: only neighbouring minor versions fit"
        for component, version in seen
    ]


def are_apart(one: str, other: str) -> bool:
    """Whether two versions do not go together; what is no version is not judged."""
    numbers = [re.match(r"(\d+)\.(\d+)", each) for each in (one, other)]
    if not (numbers[0] and numbers[1]):
        return False
    (major, minor), (other_major, other_minor) = ((int(n[1]), int(n[2])) for n in numbers if n)
    return major != other_major or abs(minor - other_minor) > 1
