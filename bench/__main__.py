"""The command: runs the named benches (all of them by default), prints the table, writes the raw figures."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from bench.decision import decision
from bench.events import events
from bench.instructions import instructions
from bench.measure import Row, machine, markdown, write_json
from bench.memory import memory
from bench.options import Options
from bench.page import page
from bench.pods import pods
from bench.processes import CHECKOUT
from bench.rpc import rpc
from bench.scale import scale
from bench.stages import stages
from bench.webhook import webhook

BENCHES: dict[str, Callable[[Options], list[Row]]] = {
    "rpc": rpc,
    "webhook": webhook,
    "decision": decision,
    "scale": scale,
    "events": events,
    "page": page,
    "memory": memory,
    "pods": pods,
    "stages": stages,
    "instructions": instructions,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="how often ours and bare take turns (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement (default 2)")
    parser.add_argument("--pods", type=int, default=20_000, help="how many Pods fill the API server (default 20,000)")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(BENCHES)
    if unknown:
        parser.error(f"no bench {', '.join(sorted(unknown))}: there are {', '.join(BENCHES)}")
    return run(
        options.names or list(BENCHES), Options(rounds=options.rounds, seconds=options.seconds, pods=options.pods)
    )


def run(names: Sequence[str], options: Options) -> int:
    rows: list[Row] = []
    try:
        for name in names:
            began = time.perf_counter()
            rows += BENCHES[name](options)
            print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    finally:  # one that fails takes nothing from the others
        tell(rows, names, options)
    return 0


def tell(rows: Sequence[Row], names: Sequence[str], options: Options) -> None:
    about = machine()
    path = write_json(rows, asdict(options) | {"names": list(names)})
    print(markdown(rows))
    print(
        f"\n{about['cores']} cores, {about['cpu']}, Python {about['python']}, grpcio {about['packages']['grpcio']}."
        f" Medians of {options.rounds} rounds in turns; spread: where another run would be, by these rounds."
        f"\nRaw figures: {path.relative_to(CHECKOUT)}"
    )


if __name__ == "__main__":
    sys.exit(main())
