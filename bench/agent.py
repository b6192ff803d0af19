"""What the node agent takes of its node: CPU and memory, over the bounds that we set ourselves.

A network namespace with 1,000 sockets that take what is sent to them and 10,000 connections, an allocator and an agent
with its usual interval on loopback, TLS between them. Needs root, for the namespace; no row without.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from bench.measure import Row, Sample
from bench.options import Options
from bench.processes import CHECKOUT

LISTENERS, CONNECTIONS, SECONDS = 1_000, 10_000, 60.0
MOST_ROUNDS = 3
MOST_CPU, MOST_MEMORY = 0.2, 32.0


def agent(options: Options) -> list[Row]:
    if os.geteuid() != 0:
        print("agent: a network namespace needs root", file=sys.stderr)
        return []
    rounds = [_round() for _ in range(min(options.rounds, MOST_ROUNDS))]
    node = f"{LISTENERS:,} sockets and {CONNECTIONS:,} connections"
    private = "of these its own: " + ", ".join(f"{each['anonymous'] / 1024:.1f}" for each in rounds)
    private += "; PSS: " + ", ".join(f"{each['share'] / 1024:.1f}" for each in rounds)
    rows = (
        ("CPU of the agent", "%", [100 * each["cpu"] for each in rounds], MOST_CPU, ""),
        ("resident memory of the agent", "MiB", [each["resident"] / 1024 for each in rounds], MOST_MEMORY, private),
    )
    return [
        Row(
            bench="agent",
            what=f"{what}, {node}",
            unit=unit,
            ours=[Sample(each) for each in ours],
            bare=[Sample(bound) for _ in ours],
            aim="≤ 1",
            beside=beside,
        )
        for what, unit, ours, bound, beside in rows
    ]


def _round() -> dict[str, float]:
    flags = (f"--listeners={LISTENERS}", f"--connections={CONNECTIONS}", f"--seconds={SECONDS}")
    command = ["unshare", "--net", sys.executable, "-m", "bench.crowded_node", *flags]
    run = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True, timeout=300)
    found: dict[str, float] = json.loads(run.stdout)
    return found
