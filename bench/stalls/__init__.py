"""What one caller, one Pod or one change of the cluster can cost everybody: the longest turn of the event loop.

5,000 nodes and 150,000 Pods with a host port each, of which 50,000 are ours. Each row is a function: it prepares, and
measures what it names. A row that is refused (`TOO_COMPLEX`) says so; what the refusal cost stands beside it.

The bound of every row: no turn of the loop takes more than 50 ms of its own CPU. Some have a bound besides. A machine
that others share is half as fast for seconds at a time, so a row that breaks a bound is measured again, `TRIES` times
in all: the best of them counts, and all are told. So is what a piece of plain Python takes meanwhile.

Where a row stands:

* `asks`: an ask is heavy by what it holds.
* `searches`: an ask is heavy by what it meets.
* `pods`, `nodes`: the cluster tells a change; `nodes` has the reports of agents as well.
* `leases`: leases, reservations, the journal.
* `blocks`: blocks of ports, numbers that cool.
* `readers`: somebody reads.

`cluster` and `messages` have what rows are made of. `nothing`, with which the others are compared, is here.

Rules for a new row:

* It stands in the module of its topic, and in `ROWS`, which has the order of the table.
* The name of the function is the row's name, as `--only` takes it. Its docstring, of one line, is the cell *input*.
* What prepares comes first. What is measured stands in one `with place.measured()`. `place.remark` tells what came of
  it, `place.bound` a figure that has a bound of its own.
* It has a process of its own (`bench/turns.py`): nothing has to be undone.
* `docs/proof.md` counts the rows. `docs/performance.md` has one run of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from allocator.core.ledger import Ledger
from bench.options import Options
from bench.stalls import asks, blocks, leases, nodes, pods, readers, searches
from bench.stalls.cluster import build
from bench.turns import Place, Stall, measure
from testing.costing import REFERENCE_MILLISECONDS, milliseconds_of_reference

MOST_TURN_MS = 50.0
MOST_ROW_SECONDS = 120.0
TRIES = 3

Row = Callable[[Place], None]


def nothing(place: Place) -> None:
    """nothing, for comparison: a small Allocate alone"""
    with place.measured():
        time.sleep(2)


ROWS: tuple[Row, ...] = (
    nothing,
    asks.affinity_100,
    asks.affinity_1000,
    asks.affinity_expressions,
    asks.affinity_values,
    asks.affinity_largest,
    nodes.selectors_kept,
    nodes.nodes_relisted,
    asks.shim_product,
    asks.memory_of_dry_runs,
    asks.many_ports,
    asks.fewer_ports,
    asks.ports_in_many_sets,
    searches.full_range,
    searches.daemonset,
    searches.first_seen,
    asks.stream_of_asks,
    asks.stream_of_grants,
    asks.stream_unread,
    pods.rejections_by_scheduler,
    pods.rejections_by_kubelets,
    pods.waiting_pods,
    pods.waiting_pairs,
    pods.terminating,
    pods.pods_gone,
    pods.pods_seen,
    pods.large_pods,
    pods.numbers_on_addresses,
    leases.leases,
    leases.leases_end,
    leases.large_leases_end,
    leases.leases_recovered,
    leases.leases_reconciled,
    leases.reservations_dated,
    leases.failed_commit,
    searches.scope_chain,
    nodes.nodes_under_selectors,
    nodes.nodes_of_many_ports,
    nodes.reports,
    nodes.nodes_gone,
    nodes.ranges_first_asked,
    searches.addresses,
    searches.priorities,
    leases.ports_among_leases,
    blocks.blocks_among_cooling,
    blocks.blocks_in_gaps,
    blocks.ports_of_many_kinds,
    blocks.blocks_apart,
    blocks.ports_among_blocks_apart,
    blocks.cool_downs_first_seen,
    searches.full_first_seen,
    readers.list_all,
    readers.list_small,
    readers.list_filtered,
    readers.list_node,
    readers.list_nodes,
    readers.get_node,
    readers.scrape,
    readers.watch,
    readers.watch_single,
)


def stalls(options: Options) -> bool:
    """Measures and prints the table. Whether every bound held."""
    rows = [row for row in ROWS if not options.only or any(word in row.__name__ for word in options.only)]
    ledger, is_fine = build(), True
    print(
        "| row | input | time | longest turn, CPU | worst wait beside | warnings |\n|---|---|---|---|---|---|",
        flush=True,
    )
    speeds = []
    for row in rows:
        speeds.append(milliseconds_of_reference())
        stall = _best(ledger, row)
        broken = _broken(stall)
        is_fine = is_fine and not broken
        print(_line(row, stall, broken), flush=True)
    print(
        f"\nPlain Python that took {REFERENCE_MILLISECONDS:g} ms where the bounds were set took {min(speeds):.0f} to"
        f" {max(speeds):.0f} here."
    )
    return is_fine


def _best(ledger: Ledger, row: Row) -> Stall:
    """The first run of a row that keeps its bounds, or the one with the shortest turn."""
    stalls = []
    for _ in range(TRIES):
        stalls.append(measure(ledger, row, MOST_ROW_SECONDS))
        if not _broken(stalls[-1]):
            break
    best = min(stalls, key=lambda stall: (len(_broken(stall)), stall.longest))
    if len(stalls) > 1:
        turns = ", ".join(f"{1000 * stall.longest:.0f}" for stall in stalls)
        best.warnings.append(f"the best of {turns} ms")
    return best


def _broken(stall: Stall) -> list[str]:
    turn = ["turn"] if 1000 * stall.longest > MOST_TURN_MS else []
    return [*turn, *stall.broken]


def _line(row: Row, stall: Stall, broken: Sequence[str]) -> str:
    cells = [
        row.__name__,
        row.__doc__ or "",
        f"{stall.seconds:.2f} s",
        f"{1000 * stall.longest:.0f} ms",
        f"{1000 * stall.wait:.0f} ms",
        "; ".join([*stall.warnings, *([f"**BROKEN: {', '.join(broken)}**"] if broken else [])]),
    ]
    return f"| {' | '.join(cells)} |"
