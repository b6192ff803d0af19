"""The command line as people use it, in this process: what it prints, what it remarks, how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from allocator.core.claims import ClusterChange
from hostport.v1 import allocator_pb2 as pb
from hostport_cli import options
from hostport_cli.__main__ import run
from testing.kit import node, pod
from testing.servicekit import Running

__all__ = ["Ended", "hostport", "hostport_here", "in_loop", "inhabited"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str = ""
    err: str = ""


def hostport_here(*arguments: str, stdin: str = "") -> Ended:
    """Runs a command. Not inside an event loop."""
    with CliRunner().isolation(input=stdin, color=False) as (out, err, _):
        code = run(arguments)
        return Ended(code, out.getvalue().decode(), err.getvalue().decode())


async def in_loop(*arguments: str, stdin: str = "") -> Ended:
    """Runs a command with its work in this event loop."""
    loop = asyncio.get_running_loop()

    def finish(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(options, "finish", finish)
        return await asyncio.to_thread(hostport_here, *arguments, stdin=stdin)


async def hostport(service: Running, *arguments: str, stdin: str = "") -> Ended:
    """Runs a command against a service of this event loop."""
    command, *rest = arguments
    return await in_loop(command, f"--server={service.address}", *rest, stdin=stdin)


async def inhabited(service: Running) -> Running:
    """Three nodes; at second 1000 a Pod with two ports, one of others, a lease, and a reservation."""
    service.engine.maintenance.observe(ClusterChange(nodes=[node("n1"), node("n2"), node("n3")], lists_pods=True))
    stub = service.stub
    bound = (
        await stub.Allocate(
            pb.AllocateRequest(
                owner=pb.Owner(kind="Pod", namespace="demo", name="db-0"),
                policy=pb.POLICY_INDEX,
                index=0,
                range=pb.PortRange(min=10000),
                ports=[
                    pb.PortRequest(container="db", name="primary", container_port=8080),
                    pb.PortRequest(container="db", name="metrics", container_port=9090),
                ],
            )
        )
    ).allocation
    unmanaged_claim = pod("ingress", "c/dns:53/UDP=53", namespace="edge", at="n1", own_network=True)
    seen = pod("db-0", "db/primary:8080=10000", "db/metrics:9090=10100", at="n1", carried_id=bound.id)
    seen = replace(seen, own_network=True, warnings="PORT_MOVED,OLD_NUMBER")
    service.engine.maintenance.observe(ClusterChange(pods=[seen, unmanaged_claim], lists_pods=True))
    await stub.Allocate(
        pb.AllocateRequest(
            owner=pb.Owner(kind="Relay", namespace="media", name="r1", description="of the EU lobby"),
            policy=pb.POLICY_DYNAMIC,
            range=pb.PortRange(min=21000, max=21099),
            ports=[pb.PortRequest(name="rtp", protocol=pb.PROTOCOL_UDP)],
            constraints=pb.NodeConstraints(node_name="n2"),
        )
    )
    await stub.Allocate(
        pb.AllocateRequest(
            owner=pb.Owner(kind="Pod", namespace="demo", generate_name="web-"),
            policy=pb.POLICY_DYNAMIC,
            ports=[pb.PortRequest(container="web", container_port=80)],
        )
    )
    return service
