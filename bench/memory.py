"""Resident bytes for each Pod and each claim, over the bound that we set ourselves (the column `bare`).

Pods: the allocator of `bench.scale` with few and with many Pods, all without host ports, or each with one.
Claims: an engine with a journal in memory that grants, each with the answer that is kept for its repetition.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path

from allocator.app.build import Collaborators, build
from allocator.core.admission import LedgerRules
from allocator.core.candidates import NodeName
from allocator.core.claims import ClaimId
from allocator.core.ledger import Ledger
from allocator.idempotency import IdempotencyKey
from allocator.journal.contract import always
from allocator.journal.memory import MemoryJournal
from allocator.wire import digest, encode_response, parse_allocate
from bench.measure import Row, Sample, alternate
from bench.options import Options
from bench.processes import CHECKOUT
from bench.rpc import request
from bench.scale import SIMULATOR
from bench.tally import Template
from hostport.v1 import allocator_pb2 as pb
from testing.clock import FunctionClock

FEW, OTHERS, HOLDERS, CLAIMS = 10_000, 400_000, 50_000, 20_000


def memory(options: Options) -> list[Row]:
    others: list[float] = []
    holders: list[float] = []
    claims: list[float] = []
    for _round in range(options.rounds):  # what libc holds back differs by megabytes from one process to the next
        others.append(_each(OTHERS, one_in=0))
        holders.append(_each(HOLDERS, one_in=1))
        command = [sys.executable, "-m", "bench.memory"]
        done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True)
        claims.append(float(done.stdout))
    return [
        _row("resident bytes for each Pod with a host port", holders, 1000),
        _row("resident bytes for each other Pod", others, 50),
        _row("resident bytes for each claim, its answer included", claims, 600),
        *_imports(options),
    ]


def _imports(options: Options) -> list[Row]:
    """The shim over the libraries that it cannot do without: CPU to import them, and the resident size then."""
    libraries = "grpc.aio, tornado.httpserver, uvloop, hostport.v1.allocator_pb2_grpc"
    ours, bare = alternate(options.rounds, partial(_imported, "shim.__main__"), partial(_imported, libraries))
    sizes, bare_sizes = ([Sample(each.beside["mib"]) for each in side] for side in (ours, bare))
    return [
        Row(bench="memory", what="shim: CPU to import it", unit="ms", ours=ours, bare=bare),
        Row(bench="memory", what="shim: resident once imported", unit="MiB", ours=sizes, bare=bare_sizes),
    ]


def _imported(modules: str) -> Sample:
    # Not ru_maxrss: that is at least what the process was when it was still a copy of this one.
    code = f"import {modules}, time; print(time.process_time(), open('/proc/self/statm').read().split()[1])"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True)
    seconds, pages = done.stdout.split()
    return Sample(1000 * float(seconds), {"mib": int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20})


def _row(what: str, sizes: Sequence[float], bound: float) -> Row:
    ours, bare = [Sample(size) for size in sizes], [Sample(bound) for _ in sizes]
    return Row(bench="memory", what=what, unit="B", ours=ours, bare=bare, aim="≤ 1")


def _each(pods: int, *, one_in: int) -> float:
    """What a Pod adds once there are a few: the first ones find room in what the nodes left behind."""
    return (_grown(pods=pods, one_in=one_in) - _grown(pods=FEW, one_in=one_in)) / (pods - FEW)


def _grown(*, pods: int, one_in: int) -> float:
    """How much the allocator grows by a cluster of 5,000 nodes and some Pods."""
    command = [*SIMULATOR, "measure", f"--pods={pods}", f"--one-in={one_in}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=CHECKOUT)
    figures = json.loads(done.stdout)
    return float(figures["synced_bytes"] - figures["idle_bytes"])


async def _claims() -> float:
    """How much an engine grows by a claim."""
    ids = count()
    ledger = Ledger(LedgerRules(implicit_node=NodeName("node")))
    given = Collaborators(
        ledger=ledger,
        journal=MemoryJournal(),
        clock=FunctionClock(time.time),
        new_id=lambda: ClaimId(f"{next(ids):032x}"),
    )
    engine = build(given).engine
    engine.is_serving = True
    template = Template(request().SerializeToString())

    async def grant(number: int) -> None:
        for _ in range(number):
            asked = pb.AllocateRequest.FromString(template.next())
            key = IdempotencyKey(asked.request_id, digest(asked))
            await engine.allocate(parse_allocate(asked), key=key, encode=encode_response, is_wanted=always)

    await grant(1000)
    before = _resident()
    await grant(CLAIMS)
    return (_resident() - before) / CLAIMS


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(asyncio.run(_claims()))
