"""Allocate against a bare echo of the same messages: rate at 50 concurrent, and latency alone.

Every measurement has a fresh process and a fresh journal, so that the range is as full in each: it begins empty, and
what one measurement allocates is a fraction of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.measure import Arm, Row, Sample, alternate, median
from bench.options import Options
from bench.processes import START_SECONDS, Server, free_address, load, server
from bench.tally import TOKEN
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc

ALLOCATE = "/hostport.v1.AllocatorService/Allocate"
WIDE_RANGE = pb.PortRange(min=10000, max=60000)
SERIAL = TOKEN.decode()

UNBOUNDED = ("--namespace-reservations=0", "--namespace-reserved-ports=0")
"""For an allocator that sees Pods, while those that are asked for never appear: a namespace may have 500 such."""


def request() -> pb.AllocateRequest:
    """What the shim asks for a Pod of a ReplicaSet with two ports; TOKEN where requests differ."""
    return pb.AllocateRequest(
        request_id=f"00000000-0000-4000-8000-00{SERIAL}",
        owner=pb.Owner(
            kind="Pod",
            namespace="demo",
            generate_name="distributed-db-5c86cff746-",
            controller_uid="e50c496d-8c49-4371-8b7e-15ed1895bf31",
        ),
        policy=pb.POLICY_DYNAMIC,
        range=WIDE_RANGE,
        stride=100,
        ports=[
            pb.PortRequest(container="node", name="primary", protocol=pb.PROTOCOL_TCP, container_port=8080),
            pb.PortRequest(container="node", name="metrics", protocol=pb.PROTOCOL_TCP, container_port=9090),
        ],
        constraints=pb.NodeConstraints(
            tolerations=[
                pb.Toleration(key="node.kubernetes.io/not-ready", operator="Exists", effect="NoExecute"),
                pb.Toleration(key="node.kubernetes.io/unreachable", operator="Exists", effect="NoExecute"),
            ]
        ),
        may_preempt=True,
    )


@contextmanager
def allocator(journal: str = "sqlite", *cluster: str, address: str = "") -> Iterator[tuple[str, Server]]:
    """A fresh allocator that serves: its address, a free one unless it is given, and its process.

    `cluster`: flags that name one.
    """
    address = address or free_address()
    with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name:
        folder = Path(name)
        kept = f"sqlite:{folder / 'journal.db'}" if journal == "sqlite" else journal
        http = free_address()
        flags = (f"--listen={address}", f"--http={http}", f"--journal={kept}", *(cluster or ("--cluster=none",)))
        with server(folder, "allocator", "serve", *flags) as process:
            process.http = http
            process.wait_for(address)
            wait_until_serving(address)
            yield address, process


@contextmanager
def echo() -> Iterator[tuple[str, Server]]:
    """A fresh echo server, with the answer that an allocator gave: its address and its process."""
    address = free_address()
    with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name:
        answer = Path(name) / "answer.bin"
        answer.write_bytes(_answer())
        with server(Path(name), "bench.echo_server", f"--listen={address}", f"--answer={answer}") as process:
            process.wait_for(address)
            yield address, process


def rpc(options: Options) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name:
        body = Path(name) / "request.bin"
        body.write_bytes(request().SerializeToString())

        def arms(journal: str, concurrency: int, value: str) -> tuple[Arm, Arm]:
            def arm(start: Callable[[], _Running]) -> Arm:
                return lambda: _measure(start, body, concurrency, value, options)

            return arm(lambda: allocator(journal)), arm(echo)

        return [
            _row("Allocate, 50 concurrent, sqlite journal", "/s", "≥ 0.5", options, *arms("sqlite", 50, "rate")),
            _row("Allocate, 50 concurrent, memory journal", "/s", "", options, *arms("memory", 50, "rate")),
            _row("Allocate alone, sqlite journal, p50", "ms", "", options, *arms("sqlite", 1, "p50_ms")),
            _row("Allocate alone, memory journal, p50", "ms", "≤ 1.5", options, *arms("memory", 1, "p50_ms")),
            _commits(body, options),
        ]


def _commits(body: Path, options: Options) -> Row:
    """How many allocations share an fsync of the journal."""

    def measure() -> Sample:
        with allocator() as (address, process):
            call(address, body, 50, options)
            submissions, commits = (process.metric(f"hostport_journal_batch_submissions_{x}") for x in ("sum", "count"))
        return Sample(submissions / commits)

    ours = [measure() for _ in range(options.rounds)]
    what = "allocations for each fsync, 50 concurrent"
    return Row(bench="rpc", what=what, unit="", ours=ours, bare=[Sample(1.0)] * len(ours), aim="≥ 10")


def idle_and_cpu(ours: list[Sample], bare: list[Sample]) -> str:
    """What a reader must know of a rate: whether the generator was the limit, and the servers' CPU for a request."""
    idle = (100 * median(samples, "idle") for samples in (ours, bare))
    cpu = (median(samples, "cpu_us") for samples in (ours, bare))
    return "generator idle {:.0f}/{:.0f} %, CPU {:.0f}/{:.0f} µs".format(*idle, *cpu)


_Running = AbstractContextManager[tuple[str, Server]]


def _row(what: str, unit: str, aim: str, options: Options, ours: Arm, bare: Arm) -> Row:
    of_ours, of_bare = alternate(options.rounds, ours, bare)
    remark = idle_and_cpu(of_ours, of_bare)
    return Row(bench="rpc", what=what, unit=unit, ours=of_ours, bare=of_bare, aim=aim, beside=remark)


def call(address: str, body: Path, concurrency: int, options: Options, *more: str) -> dict[str, float]:
    """Loads a server with Allocate. Returns the generator's report."""
    return load(
        *(f"--address={address}", f"--path={ALLOCATE}", f"--body={body}", f"--concurrency={concurrency}"),
        *(f"--seconds={options.seconds}", f"--warm-up={options.warm_up}", *more),
    )


def _measure(start: Callable[[], _Running], body: Path, concurrency: int, value: str, options: Options) -> Sample:
    with start() as (address, process):
        before = process.cpu_seconds()
        report = call(address, body, concurrency, options)
        report["cpu_us"] = 1e6 * (process.cpu_seconds() - before) / report["total"]
    return Sample(report[value], report)


def _answer() -> bytes:
    with allocator("memory") as (address, _), grpc.insecure_channel(address) as channel:
        return pb_grpc.AllocatorServiceStub(channel).Allocate(request()).SerializeToString()


def wait_until_serving(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for update in health.Watch(health_pb2.HealthCheckRequest(), timeout=START_SECONDS):
            if update.status == health_pb2.HealthCheckResponse.SERVING:
                return
