"""How long an Allocate takes while the watch brings 2,000 changes of Pods a second, over the same while it is quiet.

The allocator watches a simulated API server with 5,000 nodes and 50,000 Pods. Everything shares the cores: the
simulator, which makes 3 MB of protobuf a second, the allocator and the client.
"""

from __future__ import annotations

import json
import tempfile
import time
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path

from bench.measure import Arm, Row, Sample, alternate, median
from bench.options import Options
from bench.processes import load
from bench.rpc import ALLOCATE, UNBOUNDED, allocator, request
from testing.simulator import serving

EVENTS = 2_000.0
CONCURRENCY = 4
MOST_ROUNDS = 3


def events(options: Options) -> list[Row]:
    asked = request()
    asked.owner.controller_uid = ""  # Pods of one controller that never appear would be held back
    with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name:
        body = Path(name) / "request.bin"
        body.write_bytes(asked.SerializeToString())
        ours, bare = alternate(min(options.rounds, MOST_ROUNDS), *(_arm(each, body, options) for each in (EVENTS, 0.0)))
    medians = (median(samples, "p50_ms") for samples in (ours, bare))
    return [
        Row(
            bench="events",
            what=f"Allocate, p99, {CONCURRENCY} concurrent, {EVENTS:,.0f} watch events/s over none",
            unit="ms",
            ours=ours,
            bare=bare,
            aim="≤ 3",
            beside="p50 {:.2f}/{:.2f} ms, ".format(*medians) + f"{median(ours, 'events'):,.0f} events/s came through",
        )
    ]


def _arm(rate: float, body: Path, options: Options) -> Arm:
    def arm() -> Sample:
        with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name:
            kubeconfig = Path(name) / "kubeconfig"
            with simulator(rate) as url:
                kubeconfig.write_text(json.dumps(kubeconfig_of(url)))
                flags = ("--cluster=kubernetes", f"--kubeconfig={kubeconfig}", *UNBOUNDED)
                with allocator("sqlite", *flags) as (address, _):
                    begin, before = time.monotonic(), _told(url)
                    report = load(
                        *(f"--address={address}", f"--path={ALLOCATE}", f"--body={body}"),
                        *(f"--concurrency={CONCURRENCY}", f"--seconds={options.seconds}"),
                        f"--warm-up={options.warm_up}",
                    )
                    report["events"] = (_told(url) - before) / (time.monotonic() - begin)
        return Sample(report["p99_ms"], report)

    return arm


def simulator(rate: float) -> AbstractContextManager[str]:
    """An API server in a process of its own; its URL."""
    return serving(nodes=5_000, pods=50_000, events=rate)


def _told(url: str) -> float:
    """How many changes the allocator has taken from the simulator so far."""
    with urllib.request.urlopen(f"{url}/told", timeout=10) as answer:
        return float(answer.read())


def kubeconfig_of(url: str) -> dict[str, object]:
    """How to reach the simulator."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": url}}],
        "users": [{"name": "bench", "user": {}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
    }
