"""The command: runs the named benches (all of them by default), prints the table, writes the raw figures.

Exit code 1: a bound of `stalls` was broken.
"""

from __future__ import annotations

import argparse
import compileall
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from bench.agent import agent
from bench.decision import decision
from bench.events import events
from bench.idle import idle
from bench.instructions import instructions
from bench.measure import Row, machine, markdown, write_json
from bench.memory import memory
from bench.options import Options
from bench.page import page
from bench.parts import parts
from bench.pods import pods
from bench.price import price
from bench.processes import CHECKOUT
from bench.rpc import rpc
from bench.scale import scale
from bench.sockets import sockets
from bench.stages import stages
from bench.stalls import stalls
from bench.webhook import webhook

BENCHES: dict[str, Callable[[Options], list[Row]]] = {
    "rpc": rpc,
    "webhook": webhook,
    "decision": decision,
    "scale": scale,
    "events": events,
    "idle": idle,
    "agent": agent,
    "page": page,
    "memory": memory,
    "sockets": sockets,
    "pods": pods,
    "price": price,
    "parts": parts,
    "stages": stages,
    "instructions": instructions,
}

PROGRAMS = ("agent", "allocator", "hostport", "shim", "testing")

STALLS = "stalls"
"""Has a table of its own: bounds, not ratios. The program's exit code says whether they held."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = ", ".join([*BENCHES, STALLS])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {names} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="how often ours and bare take turns (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement (default 2)")
    parser.add_argument("--pods", type=int, default=20_000, help="how many Pods fill the API server (default 20,000)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="WORD",
        help="of `stalls` and `parts`, rows with this in their name",
    )
    given = parser.parse_args(arguments)
    unknown = set(given.names) - {*BENCHES, STALLS}
    if unknown:
        parser.error(f"no bench {', '.join(sorted(unknown))}: there are {names}")
    for program in PROGRAMS:  # as in the images: a start does not compile
        compileall.compile_dir(CHECKOUT / program, quiet=1)
    options = Options(rounds=given.rounds, seconds=given.seconds, pods=given.pods, only=tuple(given.only))
    wanted = given.names or [*BENCHES, STALLS]
    ratios = [name for name in wanted if name != STALLS]
    if ratios:
        run(ratios, options)
    return 0 if STALLS not in wanted or stalls(options) else 1


def run(names: Sequence[str], options: Options) -> None:
    rows: list[Row] = []
    try:
        for name in names:
            began = time.perf_counter()
            rows += BENCHES[name](options)
            print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    finally:  # one that fails takes nothing from the others
        tell(rows, names, options)


def tell(rows: Sequence[Row], names: Sequence[str], options: Options) -> None:
    about = machine()
    path = write_json(rows, asdict(options) | {"names": list(names)})
    rounds = " or ".join(str(number) for number in sorted({len(row.ours) for row in rows}))
    print(markdown(rows))
    print(
        f"\n{about['cores']} cores, {about['cpu']}, Python {about['python']}, grpcio {about['packages']['grpcio']}."
        f" Medians of {rounds} rounds in turns; spread: where another run would be, by these rounds."
        f"\nRaw figures: {path.relative_to(CHECKOUT)}"
    )


if __name__ == "__main__":
    sys.exit(main())
