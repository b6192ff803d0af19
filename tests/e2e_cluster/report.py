"""The table of faults: what a run measured, kept as JSON and told as Markdown.

    python -m e2e_cluster.report FILE.json    prints the page

A run replaces the rows that it measured, each with its own date.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HEAD = """\
# Faults on real nodes

What clients see while something breaks; [Availability](availability.md) says what to do about it. `make faults` makes
a cluster of three real nodes, installs the operator as [Install](install.md) says, and writes this page;
`make e2e-cluster` fails where a row is over its bound.

{clients} clients create a Pod that asks for a host port (`failurePolicy: Fail`), keep it for 0.1 s, delete it, and so
on, and never ask twice: a failure here is a Pod that a controller would create a moment later. {plain} more create
Pods that ask for nothing. The fault comes {delay} s after the beginning. *p50 / p99* are of successful creations.
*Longest gap* is the longest time without one; `(over)` marks a gap over its bound. One allocator runs where a row
does not say two. *Conflicts* are two live Pods with one node, protocol and port by the API server's own objects.

| fault | seconds | creations | failed | longest gap | bound | p50 / p99 | conflicts | Pods that did not ask: created, failed, p99, slowest | measured |
|---|---|---|---|---|---|---|---|---|---|
"""

TAIL = """\
Measured on: {where}. Control plane, nodes and clients share this machine, so that the latencies say little about
another one. What else runs there counts: while other tests kept both cores busy, the longest gap of a rollout of two
allocators was once 1.03 s, over its bound.
"""


def record(file: Path, row: dict[str, Any]) -> None:
    """Puts the row into the file, in the place of an older one of that name."""
    known: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    fresh = row | {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}
    rows = [fresh if each["fault"] == row["fault"] else each for each in known]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows if fresh in rows else [*rows, fresh], indent=1) + "\n", encoding="utf-8")


def machine() -> str:
    """What the figures depend on most."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return f"{os.cpu_count()} cores ({model}), {memory} GiB"


def page(rows: list[dict[str, Any]], order: list[str]) -> str:
    rows = sorted(rows, key=lambda row: order.index(row["fault"]))
    first = rows[0]
    head = HEAD.format(clients=first["clients"], plain=first["plain_clients"], delay=first["delay"])
    where = sorted({f"{row['cluster']}; {row['machine']}" for row in rows})
    return f"{head}{''.join(map(line_of, rows))}\n{TAIL.format(where=' and '.join(where))}{failures(rows)}"


def line_of(row: dict[str, Any]) -> str:
    asking, plain = row["asking"], row["plain"]
    cells = (
        row["fault"],
        row["seconds"],
        f"{asking['creations']:,}",
        asking["failed"],
        f"{asking['longest_gap']:.1f} s" + (" (over)" if asking["longest_gap"] > row["bound"] else ""),
        f"≤ {row['bound']:g} s",
        f"{asking['p50'] * 1000:.0f} / {asking['p99'] * 1000:.0f} ms",
        len(row["conflicts"]),
        f"{plain['creations']:,}, {plain['failed']}, {plain['p99'] * 1000:.0f} ms, {plain['slowest'] * 1000:.0f} ms",
        row.get("date", ""),
    )
    return f"| {' | '.join(map(str, cells))} |\n"


def failures(rows: list[dict[str, Any]]) -> str:
    """What the API server said, so that nobody has to guess."""
    told = [f"- {row['fault']}, {count} times: {text}" for row in rows for text, count in row["asking"]["errors"]]
    return "\nThe failures, as the API server told them:\n\n" + "\n".join(told) + "\n" if told else ""


def main(file: str) -> None:
    from e2e_cluster.faults import FAULTS

    rows = json.loads(Path(file).read_text(encoding="utf-8"))
    sys.stdout.write(page(rows, [fault.name for fault in FAULTS]))


if __name__ == "__main__":
    main(*sys.argv[1:])
