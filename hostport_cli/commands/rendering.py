"""`hostport render`: what the webhook would make of manifests. The webhook's own code does it."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import click
import grpc

from hostport.client.aio import AsyncClient
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse
from hostport_cli.exits import CliError, Exit
from hostport_cli.options import Command, asking
from hostport_cli.session import Session
from shim.annotations import NETWORKS
from shim.client import outcome_of
from shim.outcomes import Refusal, Unreachable
from shim.render import PATIENCE, ManifestError, read_files, render_pods


@click.command("render", cls=Command)
@click.option("-f", "--file", "files", metavar="FILE", multiple=True, required=True,
              help="YAML or JSON file, - for stdin; may be repeated.")  # fmt: skip
@click.option("--offline", is_flag=True, help="Ask nobody: an empty cluster of one node.")
@click.option("-n", "--namespace", metavar="NS", default="", help="Of objects that do not say. Without it: default.")
@click.option("-o", "--output", type=click.Choice(["yaml", "json", "diff"]), default="yaml", show_default=True,
              help="What to print.")  # fmt: skip
@click.option("--pod-template", "templates", metavar="PATH", multiple=True,
              help="Pod template in a kind that is not known: spec.groups[].template; may be repeated.")  # fmt: skip
@click.option("--strict", is_flag=True, help="Warnings end in exit status 1 too.")
@click.option("--default-network", "network", type=click.Choice(list(NETWORKS)), default="Host", show_default=True,
              help="Network of Pods without hostport.io/network, as the shim's flag.")  # fmt: skip
@click.option("--steer", type=click.Choice(["true", "false"]), default="true", show_default=True,
              help="Whether Pods are kept off nodes where their numbers are leased, as the shim's flag.")  # fmt: skip
@asking()
async def render(session: Session, files: tuple[str, ...], **options: Any) -> int:
    """Show the Pods of manifests as the webhook would make them. Reserves nothing.

    Denials, warnings, Services that would lead nowhere and a summary go to stderr; the exit status is 1 if a Pod is
    denied, if a kind has Pods that are not known, or if the annotation stands where nobody reads it.
    """
    try:
        read = read_files(files, namespace=session.namespace or "default", templates=options["templates"])
    except (ManifestError, OSError) as error:
        raise CliError(str(error), Exit.USAGE) from error
    shown = partial(
        render_pods,
        read.pods,
        output=options["output"],
        out=sys.stdout,
        err=sys.stderr,
        own_network=NETWORKS[options["network"]],
        steers=options["steer"] == "true",
        services=read.services,
        faults=read.faults,
        is_strict=options["strict"],
        sums_up=True,
    )
    if options["offline"]:
        try:
            from shim.offline import offline_allocator  # noqa: PLC0415 - where the allocator is not installed
        except ImportError as error:
            raise CliError(f"--offline needs the allocator's package: {error}", Exit.USAGE) from error
        allocate = offline_allocator()
        return await shown(allocate, dry_run=False)
    async with session.allocator() as allocator:
        return await shown(partial(_ask_as_shim, allocator), dry_run=True)


async def _ask_as_shim(allocator: AsyncClient, request: AllocateRequest) -> AllocateResponse | Refusal | Unreachable:
    """As the shim asks."""
    try:
        answer: AllocateResponse = await allocator.stub().Allocate(request, timeout=PATIENCE, wait_for_ready=True)
    except grpc.aio.AioRpcError as error:
        return outcome_of(error)
    return answer
