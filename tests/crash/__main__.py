"""The command: a run with its table, or the proof that every planted fault is found."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .run import Plan, Result, crash
from .sabotage import FAULTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 nothing was violated (or every fault was found), 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="how many kills (default 200)")
    parser.add_argument("--clients", type=int, default=16, help="how many clients (default 16)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="of what clients do and when kills fall")
    parser.add_argument("--journal", default="", help="another journal than a fresh file: memory must fail")
    parser.add_argument("--sabotage", default="", choices=["", *FAULTS], help="plant a fault, which must be found")
    parser.add_argument("--prove", action="store_true", help="plant each fault in turn; each must be found")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds after which the run has failed")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the allocator never outlives us
    if options.prove:
        return prove(options)
    return one_run(options)


def one_run(options: argparse.Namespace) -> int:
    say(f"kill -9 of the allocator, {options.count} times, {options.clients} clients, seed {options.seed}")
    folder = Path(tempfile.mkdtemp(prefix="hostport-crash-"))
    result = _crash(options, folder)
    say(table(result))
    if not result.model.violations:
        shutil.rmtree(folder)
        return 0
    say(report(result, options.seed))
    say(f"\njournal and log: {folder}")
    return 1


def prove(options: argparse.Namespace) -> int:
    """Every fault must be found within a few kills."""
    missed = 0
    for fault in (*FAULTS, "journal memory"):
        options.sabotage, options.journal = (fault, "") if fault in FAULTS else ("", "memory")
        with tempfile.TemporaryDirectory(prefix="hostport-crash-") as folder:
            result = _crash(options, Path(folder))
        found = result.model.violations
        missed += not found
        said = f"found after {result.model.counts.kills} kills: {found[0].text}" if found else "NOT FOUND"
        say(f"{fault}: {said}")
    return 1 if missed else 0


def _crash(options: argparse.Namespace, folder: Path) -> Result:
    plan = Plan(
        kills=options.count,
        clients=options.clients,
        seed=options.seed,
        folder=folder,
        journal=options.journal,
        sabotage=options.sabotage,
        limit=options.limit,
    )
    return asyncio.run(crash(plan))


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the command's output


def table(result: Result) -> str:
    counts, restarts = result.model.counts, [1000 * seconds for seconds in result.restarts] or [0.0]
    rows = {
        "kills": counts.kills,
        "requests": counts.requests,
        "retries until answered": counts.retries,
        "repeated request_ids": counts.repeats,
        "allocations acknowledged": counts.acknowledged,
        "answers on a stream": counts.streamed,
        "denied": counts.denied,
        "renewals acknowledged": counts.renewed,
        "releases acknowledged": counts.released,
        "committed before a kill, answered after it": counts.recovered,
        "leaked (committed, never acknowledged)": counts.leaked,
        "listings compared": counts.listings,
        **{f"starts while the disk was {fault}": times for fault, times in sorted(counts.faults.items())},
        "restart to serving, p50 ms": round(statistics.median(restarts)),
        "restart to serving, max ms": round(max(restarts)),
        "seconds": round(result.seconds),
        "violations": len(result.model.violations),
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value:>9,}" for name, value in rows.items())


def report(result: Result, seed: int) -> str:
    """The violations, and the history of the ports of the first one."""
    violations = result.model.violations
    lines = [f"\nVIOLATED, seed {seed}:", *(f"- {violation.text}" for violation in violations[:20])]
    ports = violations[0].ports
    if ports:
        lines += ["", "history of the ports of the first one:", *result.model.history_of(ports)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
