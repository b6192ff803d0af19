"""What 5,000 agents cost: bytes and CPU for each open socket that they tell, and how much longer a start takes.

A start is that of the whole program, until it serves. Nothing is reported before, but the agents are there, and try to
connect. The streams of the other rows are simulated: each tells one snapshot, by way of `Agents.follow`, as gRPC would
hand it on. A node has 40 sockets on numbers that all nodes have, four of them on an address of its own, and ten on
numbers of its own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from allocator.app.build import Application, Collaborators, build
from allocator.core.admission import LedgerRules
from allocator.core.candidates import Node, NodeName
from allocator.core.claims import ClusterChange
from allocator.core.ledger import Ledger
from allocator.journal.memory import MemoryJournal
from bench.events import kubeconfig_of
from bench.measure import Row, Sample, median
from bench.options import Options
from bench.processes import CHECKOUT, free_address, server
from bench.rpc import wait_until_serving
from bench.webhook import certificates
from hostport.v1 import allocator_pb2 as pb
from testing import simulator
from testing.clock import FunctionClock

MOST_STARTS = 3
SETTLED_SECONDS = 5.0  # the agents have begun to try
PAGE_SECONDS = 0.025  # as `bench.scale` has it
NODES, ALIKE, ON_ADDRESS, OWN = 5_000, 40, 4, 10
PROGRAMS = ("kubelet", "sshd", "containerd", "kube-proxy", "chronyd", "node_exporter", "systemd-resolve", "rpcbind")


def sockets(options: Options) -> list[Row]:
    """All rows. The bound of a socket is 200 bytes, and 20 µs."""
    found = [_measured() for _ in range(options.rounds)]
    return [
        Row(
            bench="sockets",
            what=f"resident bytes for each open socket, {NODES} nodes with {ALIKE + OWN} each",
            unit="B",
            ours=[Sample(each["bytes"]) for each in found],
            bare=[Sample(200) for _ in found],
            aim="≤ 1",
        ),
        Row(
            bench="sockets",
            what="CPU to take a snapshot of each, for each socket",
            unit="µs",
            ours=[Sample(each["microseconds"], {"longest": each["longest_ms"]}) for each in found],
            bare=[Sample(20) for _ in found],
            aim="≤ 1",
        ),
        _start(min(options.rounds, MOST_STARTS)),
    ]


def _start(rounds: int) -> Row:
    with simulator.serving(nodes=NODES, page_seconds=PAGE_SECONDS) as url:
        found = [[_started(url, count) for count in (NODES, 0)] for _ in range(rounds)]
    cpu = median([Sample(crowded["cpu"] - alone["cpu"]) for crowded, alone in found])
    return Row(
        bench="sockets",
        what=f"start of an allocator of {NODES} nodes and 150,000 Pods while their agents connect, over one without",
        unit="s",
        ours=[Sample(crowded["seconds"]) for crowded, _ in found],
        bare=[Sample(alone["seconds"]) for _, alone in found],
        aim="≤ 1.1",
        beside=f"{cpu:.1f} s of CPU more",
    )


def _started(url: str, agents: int) -> dict[str, float]:
    """Seconds until an allocator serves, and its CPU until then."""
    with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name:
        folder = Path(name)
        certificates(folder)
        (folder / "kubeconfig").write_text(json.dumps(kubeconfig_of(url)))
        for_tokens = free_address()
        crowd = (f"--count={agents}", f"--port={for_tokens.rpartition(':')[2]}", f"--ca={folder / 'ca.crt'}")
        with server(folder, "bench.crowd_of_agents", *crowd):
            time.sleep(SETTLED_SECONDS)
            health = free_address()
            began = time.monotonic()
            with server(folder, "allocator", "serve", *_flags(folder, for_tokens, health)) as process:
                process.wait_for(health)
                wait_until_serving(health)
                return {"seconds": time.monotonic() - began, "cpu": process.cpu_seconds()}


def _flags(folder: Path, for_tokens: str, health: str) -> tuple[str, ...]:
    return (
        f"--listen={free_address()}",
        f"--listen-tokens={for_tokens}",
        f"--listen-health={health}",
        f"--http={free_address()}",
        "--agent-account=hostport-system/hostport-agent",
        "--journal=memory",
        "--cluster=kubernetes",
        f"--kubeconfig={folder / 'kubeconfig'}",
        f"--tls-cert={folder / 'tls.crt'}",
        f"--tls-key={folder / 'tls.key'}",
        f"--tls-client-ca={folder / 'ca.crt'}",
    )


def _measured() -> dict[str, float]:
    command = [sys.executable, "-m", "bench.sockets"]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True)
    return {name: float(value) for name, value in json.loads(done.stdout).items()}


def snapshot(number: int, chance: random.Random) -> pb.ReportNodeRequest:
    """The first report of a node."""
    address = f"10.{number >> 8}.{number & 255}.1"
    opened = [
        pb.Socket(
            protocol=pb.PROTOCOL_UDP if at % 5 == 0 else pb.PROTOCOL_TCP,
            port=1000 + at,
            address=address if at < ON_ADDRESS else ("127.0.0.1" if at % 2 else ""),
            process=PROGRAMS[at % len(PROGRAMS)],
        )
        for at in range(ALIKE)
    ]
    opened += [
        pb.Socket(protocol=pb.PROTOCOL_TCP, port=port, process=PROGRAMS[0])
        for port in chance.sample(range(2000, 65_000), OWN)
    ]
    return pb.ReportNodeRequest(
        node=f"node-{number:05}", snapshot=True, opened=opened, ephemeral_range=pb.PortRange(min=32768, max=60999)
    )


async def measure() -> dict[str, float]:
    """How much an allocator of 5,000 nodes grows by their reports, what those take, and its longest turn."""
    given = Collaborators(ledger=Ledger(LedgerRules()), journal=MemoryJournal(), clock=FunctionClock(time.time))
    application = build(given)
    application.engine.is_serving = True
    nodes = [Node(name=NodeName(f"node-{number:05}")) for number in range(NODES)]
    application.engine.maintenance.observe(ClusterChange(nodes=nodes))
    chance = random.Random(1)
    reports = [snapshot(number, chance).SerializeToString() for number in range(NODES)]
    longest = 0.0
    gc.collect()
    before, began = _resident(), time.process_time()
    for raw in reports:
        at = time.process_time()
        await _told(application, raw)
        longest = max(longest, time.process_time() - at)
    took = time.process_time() - began
    gc.collect()
    count = NODES * (ALIKE + OWN)
    return {
        "bytes": (_resident() - before) / count,
        "microseconds": 1e6 * took / count,
        "longest_ms": 1000 * longest,
    }


async def _told(application: Application, raw: bytes) -> None:
    """A stream that tells one report, and ends."""

    async def requests() -> AsyncIterator[pb.ReportNodeRequest]:
        yield pb.ReportNodeRequest.FromString(raw)

    async def send(_: pb.ReportNodeResponse) -> bool:
        return True

    await application.agents.follow(requests(), None, send)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure())))
