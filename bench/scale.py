"""From the start of the process to a full view of 5,000 nodes and 150,000 Pods, a fifth of them with host ports.

Ours over two bare clients that only download the same lists, page after page, from a simulated API server: in JSON, as
whoever has no protobuf, and in protobuf, as we do. From a server that answers at once, which no real one does, and from
one that takes 25 ms for each page of 500 Pods in JSON and a third of that in protobuf.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from bench.measure import Row, Sample
from bench.options import Options
from bench.processes import CHECKOUT

SIMULATOR = (sys.executable, "-m", "testing.simulator")
PAGES = (
    (0.0, "an API server that answers at once", ("≤ 0.8", "≤ 1.5")),
    (0.025, "25 ms for each page in JSON", ("≤ 0.6", "≤ 1.2")),
)
MOST_ROUNDS = 3


def scale(options: Options) -> list[Row]:
    return list(_rows(min(options.rounds, MOST_ROUNDS)))


def _rows(rounds: int) -> Iterator[Row]:
    for seconds, what, aims in PAGES:
        figures = [_measure(seconds) for _ in range(rounds)]
        holding = figures[0]["holding_pods"]
        memory = sorted(each["bytes_per_holding_pod"] for each in figures)[len(figures) // 2]
        for encoding, bare, aim in (("JSON", "bare_seconds", aims[0]), ("protobuf", "bare_protobuf_seconds", aims[1])):
            yield Row(
                bench="scale",
                what=f"start to a view of 5,000 nodes and 150,000 Pods, over a download in {encoding}: {what}",
                unit="s",
                ours=[Sample(each["synced_seconds"]) for each in figures],
                bare=[Sample(each[bare]) for each in figures],
                aim=aim,
                beside=f"{memory:,.0f} B for each of {holding:,} Pods with ports, the others included",
            )


def _measure(page_seconds: float) -> dict[str, Any]:
    command = [*SIMULATOR, "measure", f"--page-seconds={page_seconds}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=CHECKOUT)
    return dict(json.loads(done.stdout))
