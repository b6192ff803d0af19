"""The webhook against a bare relay: TLS in, one gRPC call out, an answer of the same size.

Ours is one shim and an allocator with its journal on disk; the bare thing is a Tornado TLS handler that calls the echo.
The review is one that an API server sent for a Pod of a StatefulSet, with policy Dynamic over a wide range.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

from bench.measure import Arm, Row, Sample, alternate, median
from bench.options import Options
from bench.processes import CHECKOUT, Server, free_address, load, server
from bench.rpc import SERIAL, WIDE_RANGE, allocator, echo, request

RECORDED = CHECKOUT / "tests" / "testdata" / "admission" / "statefulset-pod-0.json"
PATH = "/mutate?timeout=5s"
CONCURRENCY = 50


@dataclass(frozen=True, slots=True)
class Front:
    """What is loaded: an address, the front process and the one behind it."""

    address: str
    front: Server
    back: Server


def webhook(options: Options) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name:
        files = Path(name)
        certificates(files)
        (files / "review.json").write_bytes(review())
        (files / "request.bin").write_bytes(request().SerializeToString())
        with shim(files) as front:
            ask(front, files, 1, Options(seconds=0.5, warm_up=0.1), f"--answer={files / 'answer.json'}")
        return [
            *_rates(files, options),
            _row("webhook alone, TLS, sqlite journal, p50", "ms", "", 1, files, options, relay),
        ]


def _rates(files: Path, options: Options) -> Iterator[Row]:
    what = f"webhook, TLS, {CONCURRENCY} concurrent, sqlite journal"
    over_relay = _row(what, "/s", "≥ 0.9", CONCURRENCY, files, options, relay)
    yield over_relay
    yield _row(f"{what}, over a handler that asks nobody", "/s", "≥ 0.6", CONCURRENCY, files, options, handler)
    ours, bare = ([Sample(each.beside["back_cpu_us"]) for each in side] for side in (over_relay.ours, over_relay.bare))
    yield Row(
        bench="webhook",
        what="CPU of the allocator for an admission, over the echo",
        unit="µs",
        ours=ours,
        bare=bare,
        beside=f"{1e6 / median(ours):,.0f} admissions/s on one core",
    )


def review() -> bytes:
    """The recorded review as the API server sends it, with a uid and a name of its own for each request."""
    record: dict[str, Any] = json.loads(RECORDED.read_text())
    pod = record["request"]["object"]
    record["request"]["uid"] = f"00000000-0000-4000-8000-00{SERIAL}"
    record["request"]["name"] = pod["metadata"]["name"] = f"distributed-db-{SERIAL}"
    pod["metadata"]["annotations"] |= {
        "hostport.io/policy": "Dynamic",
        "hostport.io/min-port": str(WIDE_RANGE.min),
        "hostport.io/max-port": str(WIDE_RANGE.max),
    }
    return json.dumps(record, separators=(",", ":")).encode()


@contextmanager
def shim(files: Path) -> Iterator[Front]:
    with (
        allocator() as (behind, back),
        _front(files, "shim", "serve", "--http=127.0.0.1:0", f"--allocator={behind}") as (
            address,
            front,
        ),
    ):
        yield Front(address, front, back)


@contextmanager
def relay(files: Path) -> Iterator[Front]:
    parts = (f"--request={files / 'request.bin'}", f"--answer={files / 'answer.json'}")
    with echo() as (behind, back), _front(files, "bench.relay_server", f"--echo={behind}", *parts) as (address, front):
        yield Front(address, front, back)


@contextmanager
def handler(files: Path) -> Iterator[Front]:
    with _front(files, "bench.null_webhook", f"--answer={files / 'answer.json'}") as (address, front):
        yield Front(address, front, front)


@contextmanager
def _front(files: Path, module: str, *arguments: str) -> Iterator[tuple[str, Server]]:
    address = free_address()
    pair = (f"--tls-cert={files / 'tls.crt'}", f"--tls-key={files / 'tls.key'}")
    with server(files, module, *arguments, f"--listen={address}", *pair) as process:
        process.wait_for(address)
        yield address, process


_Start = Callable[[Path], contextlib.AbstractContextManager[Front]]


def _row(what: str, unit: str, aim: str, concurrency: int, files: Path, options: Options, against: _Start) -> Row:
    def arm(start: _Start) -> Arm:
        def measure() -> Sample:
            with start(files) as front:
                report = ask(front, files, concurrency, options)
            return Sample(report["rate" if unit == "/s" else "p50_ms"], report)

        return measure

    ours, bare = alternate(options.rounds, arm(shim), arm(against))
    return Row(bench="webhook", what=what, unit=unit, ours=ours, bare=bare, aim=aim, beside=_remark(ours, bare))


def ask(front: Front, files: Path, concurrency: int, options: Options, *more: str) -> dict[str, float]:
    before = front.front.cpu_seconds(), front.back.cpu_seconds()
    report = load(
        *(
            f"--address={front.address}",
            f"--path={PATH}",
            f"--body={files / 'review.json'}",
            f"--ca={files / 'ca.crt'}",
        ),
        *(f"--concurrency={concurrency}", f"--seconds={options.seconds}", f"--warm-up={options.warm_up}", *more),
    )
    for name, process, since in zip(("cpu_us", "back_cpu_us"), (front.front, front.back), before, strict=True):
        report[name] = 1e6 * (process.cpu_seconds() - since) / report["total"]
    return report


def _remark(ours: list[Sample], bare: list[Sample]) -> str:
    idle, front, back = (
        "/".join(f"{scale * median(samples, name):.0f}" for samples in (ours, bare))
        for name, scale in (("idle", 100), ("cpu_us", 1), ("back_cpu_us", 1))
    )
    return f"generator idle {idle} %, CPU {front} µs, behind it {back} µs"


def certificates(folder: Path) -> None:
    """A CA and a certificate for the loopback, both P-256."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    authority.cert_pem.write_to_path(folder / "ca.crt")
    issued = authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA)
    issued.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    issued.private_key_pem.write_to_path(folder / "tls.key")
