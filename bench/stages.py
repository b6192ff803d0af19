"""What the interpreter needs, each stage alone in a loop: CPU in µs of one admission, and of one Pod at start.

The column `bare` is the sum of these stages. What is not here is not ours: gRPC, Tornado, TLS, event loop, disk.
Caches are warm, so that under load each takes up to twice as long.
"""

from __future__ import annotations

import base64
import itertools
import json
import logging
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from allocator.cluster.kubernetes import PODS
from allocator.cluster.sinks import ValueInterner
from allocator.core.admission import LedgerRules
from allocator.core.asks import Ask
from allocator.core.candidates import NodeName
from allocator.core.claims import ClaimId, ClusterChange
from allocator.core.ledger import Ledger
from allocator.journal.contract import Answer, Put
from allocator.journal.sqlite import SqliteJournal
from allocator.wire import digest, encode_response, parse_allocate
from bench.measure import Row, Sample, median
from bench.options import Options
from bench.processes import CHECKOUT
from bench.rpc import SERIAL, request
from bench.webhook import review
from hostport.gathered_logs import GatheringHandler
from hostport.logs import log_event
from hostport.v1 import allocator_pb2 as pb
from shim.admission import allowed
from shim.patch import build_patch
from shim.review import ToAllocate as Asked
from shim.review import parse_review

RECORDED = CHECKOUT / "tests" / "testdata" / "kubernetes" / "objects.json"
TURNS = 2000

Stage = Callable[[], object]


def stages(options: Options) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name, (Path(name) / "log").open("w") as log_file:
        line = _log_line(log_file)
        of_shim = _of_shim() | {"write a log line": line}
        with closing(SqliteJournal(Path(name) / "journal.db").open_now()) as journal:
            of_allocator = _of_allocator(journal) | {"write a log line": line}
            return [
                *_rows("shim", of_shim, options),
                *_rows("allocator", of_allocator, options),
                *_rows("start, a Pod with a host port", _of_start(), options),
            ]


def _rows(program: str, found: dict[str, Stage], options: Options) -> list[Row]:
    taken = {what: [Sample(_cpu(stage)) for _ in range(options.rounds)] for what, stage in found.items()}
    whole = sum(median(samples) for samples in taken.values())
    return [
        Row(bench="stages", what=f"{program}: {what}", unit="µs", ours=samples, bare=[Sample(whole)] * options.rounds)
        for what, samples in taken.items()
    ]


def _cpu(stage: Stage) -> float:
    """Of one turn, in µs."""
    began = time.process_time_ns()
    for _ in range(TURNS):
        stage()
    return (time.process_time_ns() - began) / TURNS / 1000


def _of_shim() -> dict[str, Stage]:
    body = review().replace(SERIAL.encode(), b"0000000001")
    asked = parse_review(body)
    if not isinstance(asked, Asked):
        raise TypeError("the review asks for nothing")
    response = _granted(asked.request)
    ops, warnings = build_patch(asked.pod, response, asked.options)
    return {
        "read the review": lambda: parse_review(body),
        "build the patch": lambda: build_patch(asked.pod, response, asked.options),
        "write the answer": lambda: allowed("uid", ops=ops, warnings=warnings, allocation_id="id"),
    }


def _granted(asked: pb.AllocateRequest) -> pb.AllocateResponse:
    ledger = Ledger(LedgerRules(implicit_node=NodeName("node")))
    claim, warnings = ledger.reserve(parse_allocate(asked), ClaimId("0" * 32), 0.0)
    return pb.AllocateResponse.FromString(encode_response(claim, warnings))


def _of_allocator(journal: SqliteJournal) -> dict[str, Stage]:
    asked = request()
    ask: Ask = parse_allocate(asked)
    ledger, ids = Ledger(LedgerRules(implicit_node=NodeName("node"))), itertools.count(1)
    claim, warnings = ledger.reserve(ask, ClaimId("0" * 32), 0.0)
    encoded, key = encode_response(claim, warnings), digest(asked)
    tables = journal._tables  # noqa: SLF001 - a stage by itself
    connection: sqlite3.Connection = journal._connection  # noqa: SLF001

    def decide() -> None:
        claim_id = ClaimId(f"{next(ids):032x}")
        ledger.reserve(ask, claim_id, 0.0)
        ledger.publish(claim_id)
        ledger.end(claim_id, 0.0)  # or the next one would meet a fuller range

    def record() -> None:
        """In transactions of 20, without their commit, which waits for the disk."""
        serial = next(ids)
        if serial % 20 == 0:
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
        tables.apply(Put(claim))
        tables.apply(Answer(f"request-{serial}", key, claim.id, encoded))

    connection.execute("BEGIN IMMEDIATE")
    return {
        "read the request": lambda: parse_allocate(asked),
        "digest it": lambda: digest(asked),
        "decide, take and end": decide,
        "encode the answer": lambda: encode_response(claim, warnings),
        "rows of the journal": record,
    }


def _of_start() -> dict[str, Stage]:
    """Of a Pod that an API server sent."""
    body = base64.b64decode(json.loads(RECORDED.read_text())["Pod on a node"]["protobuf"])
    shared, sketch = ValueInterner(), PODS.reader.one(body)
    seen, ledger = shared.pod(sketch), Ledger(LedgerRules())

    def take() -> None:
        ledger.observe(ClusterChange(pods=[seen]), now=0.0)
        ledger.observe(ClusterChange(gone_pods=[seen.uid]), now=0.0)  # or nothing would be new the next time

    return {
        "read its protobuf": lambda: PODS.reader.one(body),
        "make a value of it": lambda: shared.pod(sketch),
        "take it into the books, and out": take,
    }


def _log_line(stream: IO[str]) -> Stage:
    log = logging.getLogger("bench.stages")
    log.propagate = False
    log.setLevel(logging.INFO)
    handler = GatheringHandler(stream)  # type: ignore[arg-type]
    log.addHandler(handler)
    fields: dict[str, Any] = {
        "request_id": "0" * 36,
        "allocation_id": "0" * 32,
        "namespace": "demo",
        "name": "distributed-db-0",
        "policy": "DYNAMIC",
        "result": "granted",
        "reason": "",
        "numbers": [10000, 10001],
        "ms": 1.23,
        "detail": "",
    }
    return lambda: log_event(log, "allocate", **fields)
