"""`hostport render`: what the webhook would make of manifests. The webhook's own code does it."""

from __future__ import annotations

import sys
from functools import partial

import click
import grpc

from hostport.cli.exits import CliError, Exit
from hostport.cli.options import Command, asking
from hostport.cli.session import Session
from hostport.client.aio import AsyncClient
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse
from shim.client import outcome_of
from shim.outcomes import Refused, Unreachable
from shim.render import PATIENCE, ManifestError, read_pods, render_pods
from shim.settings import NETWORKS


@click.command("render", cls=Command)
@click.option("-f", "--file", "files", metavar="FILE", multiple=True, required=True,
              help="YAML or JSON file, - for stdin; may be repeated.")  # fmt: skip
@click.option("--offline", is_flag=True, help="Ask nobody: an empty cluster of one node.")
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True,
              help="What to print.")  # fmt: skip
@click.option("--default-network", "network", type=click.Choice(list(NETWORKS)), default="Host", show_default=True,
              help="Network of Pods without hostport.io/network, as the shim's flag.")  # fmt: skip
@asking()
async def render(session: Session, files: tuple[str, ...], offline: bool, output: str, network: str) -> int:  # noqa: FBT001
    """Show the Pods of manifests as the webhook would make them. Reserves nothing.

    Denials and warnings go to stderr; the exit status is 1 if a Pod is denied.
    """
    try:
        pods = read_pods(files)
    except (ManifestError, OSError) as error:
        raise CliError(str(error), Exit.USAGE) from error
    shown = partial(render_pods, pods, output=output, out=sys.stdout, err=sys.stderr, own_network=NETWORKS[network])
    if offline:
        try:
            from shim.offline import offline_allocator  # noqa: PLC0415 - where the allocator is not installed
        except ImportError as error:
            raise CliError(f"--offline needs the allocator's package: {error}", Exit.USAGE) from error
        allocate = offline_allocator()
        return await shown(allocate, dry_run=False)
    async with session.allocator() as allocator:
        return await shown(partial(_ask, allocator), dry_run=True)


async def _ask(allocator: AsyncClient, request: AllocateRequest) -> AllocateResponse | Refused | Unreachable:
    """As the shim asks."""
    try:
        answer: AllocateResponse = await allocator.stub().Allocate(request, timeout=PATIENCE, wait_for_ready=True)
    except grpc.aio.AioRpcError as error:
        return outcome_of(error)
    return answer
