"""How long an Allocate takes while five browsers read the status page of 1,000 nodes and 150,000 Pods, over nobody.

The Pods stand in a cluster file, each with a host port. The readers (`bench.readers`) ask as the page does, each with a
filter of its own, so that each makes the allocator walk over all claims; every Allocate is news to them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.measure import Arm, Row, Sample, alternate, median
from bench.options import Options
from bench.processes import CHECKOUT, ProcessError, free_address
from bench.rpc import UNBOUNDED, allocator, call, request

NODES, PODS = 1_000, 150_000
READERS = 5
CONCURRENCY = 4
LEAST_SECONDS = 8.0  # a few turns of every reader
MOST_ROUNDS = 3


def page(options: Options) -> list[Row]:
    options = Options(rounds=options.rounds, seconds=max(options.seconds, LEAST_SECONDS), warm_up=3.0)
    asked = request()
    asked.owner.controller_uid = ""  # Pods of one controller that never appear would be held back
    with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name:
        body, cluster = Path(name) / "request.bin", Path(name) / "cluster.json"
        body.write_bytes(asked.SerializeToString())
        cluster.write_text(json.dumps({"kind": "List", "items": list(_objects())}))
        ours, bare = alternate(
            min(options.rounds, MOST_ROUNDS), *(_arm(readers, body, cluster, options) for readers in (READERS, 0))
        )
    medians = (median(samples, "p50_ms") for samples in (ours, bare))
    return [
        Row(
            bench="page",
            what=f"Allocate, p99, {CONCURRENCY} concurrent, {READERS} readers of the status page over none",
            unit="ms",
            ours=ours,
            bare=bare,
            aim="≤ 3",
            beside="p50 {:.2f}/{:.2f} ms, ".format(*medians)
            + f"allocator CPU {100 * median(ours, 'cpu'):.0f}/{100 * median(bare, 'cpu'):.0f} %, "
            + f"views p50 {median(ours, 'views_p50_ms'):.0f} ms, longest {median(ours, 'views_max_ms'):.0f} ms",
        )
    ]


def _objects() -> Iterator[object]:
    for number in range(NODES):
        yield {"kind": "Node", "metadata": {"name": f"node-{number}"}}
    for number in range(PODS):
        ports = [{"containerPort": 80, "hostPort": 20000 + number // NODES}]
        yield {
            "kind": "Pod",
            "metadata": {"name": f"pod-{number}", "namespace": f"ns-{number % 97}", "uid": f"uid-{number}"},
            "spec": {"nodeName": f"node-{number % NODES}", "containers": [{"name": "c", "ports": ports}]},
        }


def _arm(readers: int, body: Path, cluster: Path, options: Options) -> Arm:
    def arm() -> Sample:
        http = free_address()
        flags = (f"--cluster=file:{cluster}", f"--http={http}", *UNBOUNDED)
        with allocator("memory", *flags) as (address, process):
            with _reading(http, readers) as report:
                before = process.cpu_seconds()
                figures = call(address, body, CONCURRENCY, options)
                figures["cpu"] = (process.cpu_seconds() - before) / (options.seconds + options.warm_up)
            figures |= {f"views_{name}": value for name, value in report.items()}
        return Sample(figures["p99_ms"], figures)

    return arm


@contextmanager
def _reading(http: str, readers: int) -> Iterator[dict[str, float]]:
    """Readers in a process of their own; filled with their report in the end."""
    report: dict[str, float] = {"views": 0.0, "p50_ms": 0.0, "max_ms": 0.0}
    if not readers:
        yield report
        return
    command = [sys.executable, "-m", "bench.readers", f"--address={http}", f"--readers={readers}"]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield report
        finally:
            output, errors = process.communicate()
    if process.returncode:
        raise ProcessError(f"the readers failed:\n{errors[-2000:]}")
    report |= json.loads(output)
