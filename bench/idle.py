"""CPU of a program that nobody asks anything, in a cluster where nothing happens, in per cent of a core.

Three programs side by side for a minute: a shim, its allocator, which knows no cluster, and one that follows 5,000
nodes and 50,000 Pods. The column `bare` is the bound that we set ourselves.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from bench.events import kubeconfig_of, simulator
from bench.measure import Row, Sample
from bench.options import Options
from bench.rpc import allocator
from bench.webhook import certificates, shim

SETTLED_SECONDS, SECONDS = 10.0, 60.0  # the clock of the kernel counts hundredths
MOST_ROUNDS = 3
BOUNDS = {"shim": 0.3, "allocator, no cluster": 0.3, "allocator, 5,000 nodes and 50,000 Pods": 1.0}


def idle(options: Options) -> list[Row]:
    rounds = [_round() for _ in range(min(options.rounds, MOST_ROUNDS))]
    return [
        Row(
            bench="idle",
            what=f"CPU while nothing happens: {program}",
            unit="%",
            ours=[Sample(each[program]) for each in rounds],
            bare=[Sample(bound) for _ in rounds],
            aim="≤ 1",
        )
        for program, bound in BOUNDS.items()
    ]


def _round() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name:
        folder = Path(name)
        certificates(folder)
        with shim(folder) as pair, simulator(0.0) as url:
            kubeconfig = folder / "kubeconfig"
            kubeconfig.write_text(json.dumps(kubeconfig_of(url)))
            with allocator("sqlite", "--cluster=kubernetes", f"--kubeconfig={kubeconfig}") as (_, follower):
                time.sleep(SETTLED_SECONDS)
                programs = dict(zip(BOUNDS, (pair.front, pair.back, follower), strict=True))
                before = {program: process.cpu_seconds() for program, process in programs.items()}
                time.sleep(SECONDS)
                return {
                    program: 100 * (process.cpu_seconds() - before[program]) / SECONDS
                    for program, process in programs.items()
                }
