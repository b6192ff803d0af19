"""Instructions for one request, counted by callgrind: what a noisy machine changes little.

Only the server that is counted is run by valgrind; what runs beside it keeps its speed. Counting begins when it has
answered some requests, and is of user space alone. Each round has processes of its own: how many requests share a turn
of the event loop and a commit, and how the keys of a map fall, differs from one to the next. Needs valgrind; no row
without it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from bench.measure import Arm, Row, Sample, alternate
from bench.options import Options
from bench.processes import UNDER, ProcessError, Server
from bench.rpc import allocator, call, echo, request
from bench.webhook import Front, ask, certificates, relay, review, shim

CONCURRENCY = 16
MOST_ROUNDS = 3  # each takes a minute
WARM_UP, COUNTED = "--requests=100", "--requests=500"


def instructions(options: Options) -> list[Row]:
    if shutil.which("valgrind") is None:
        return []
    with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name:
        folder = Path(name)
        certificates(folder)
        (folder / "request.bin").write_bytes(request().SerializeToString())
        (folder / "review.json").write_bytes(review())
        with shim(folder) as front:
            ask(front, folder, 1, Options(seconds=0.5, warm_up=0.1), f"--answer={folder / 'answer.json'}")
        return [
            _row(
                options,
                "Allocate: instructions in the allocator, over the echo",
                partial(_rpc, folder, "allocator", allocator),
                partial(_rpc, folder, "bench.echo_server", echo),
            ),
            _row(
                options,
                "webhook: instructions in the shim, over the relay",
                partial(_webhook, folder, "shim", shim),
                partial(_webhook, folder, "bench.relay_server", relay),
            ),
        ]


def _row(options: Options, what: str, ours: Arm, bare: Arm) -> Row:
    of_ours, of_bare = alternate(min(options.rounds, MOST_ROUNDS), ours, bare)
    return Row(bench="instructions", what=what, unit="k", ours=of_ours, bare=of_bare)


def _rpc(folder: Path, module: str, start: Callable[[], AbstractContextManager[tuple[str, Server]]]) -> Sample:
    with _counted(folder, module) as out, start() as (address, process):
        call(address, folder / "request.bin", CONCURRENCY, Options(), WARM_UP)
        _control(process, "--instr=on")
        total = call(address, folder / "request.bin", CONCURRENCY, Options(), COUNTED)["total"]
        return Sample(_thousands(out, process) / total)


def _webhook(folder: Path, module: str, start: Callable[[Path], AbstractContextManager[Front]]) -> Sample:
    with _counted(folder, module) as out, start(folder) as front:
        ask(front, folder, CONCURRENCY, Options(), WARM_UP)
        _control(front.front, "--instr=on")
        total = ask(front, folder, CONCURRENCY, Options(), COUNTED)["total"]
        return Sample(_thousands(out, front.front) / total)


@contextmanager
def _counted(folder: Path, module: str) -> Iterator[Path]:
    out = f"--callgrind-out-file={folder}/callgrind.%p"
    token = UNDER.set({module: ("valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", out)})
    try:
        yield folder
    finally:
        UNDER.reset(token)


def _control(process: Server, *what: str) -> None:
    subprocess.run(["callgrind_control", *what, str(process.pid)], check=True, stdout=subprocess.DEVNULL)


def _thousands(folder: Path, process: Server) -> float:
    """What was counted since it was switched on."""
    _control(process, "--dump")
    (counts,) = folder.glob(f"callgrind.{process.pid}.*")
    totals = re.search(r"^totals: ([0-9]+)$", counts.read_text(), re.MULTILINE)
    if totals is None:
        raise ProcessError(f"{counts} has no totals")
    return int(totals[1]) / 1000
