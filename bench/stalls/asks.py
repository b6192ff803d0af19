"""Rows of asks that are heavy by what they hold: terms, values, ports, bytes, or many asks on one stream."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

from bench.stalls.cluster import LOW, WIDTH
from bench.stalls.messages import affinity, ask, expressions, keep_sets, serial, stream
from bench.turns import CALL_SECONDS, Place, resident_mib
from hostport.v1 import allocator_pb2 as pb

MIB = 1 << 20


def affinity_100(place: Place) -> None:
    """100 affinity terms"""
    _asked(place, ask("terms", affinity(expressions(1, values=2) for _ in range(100))))


def affinity_1000(place: Place) -> None:
    """1,000 affinity terms"""
    _asked(place, ask("terms", affinity(expressions(1, values=2) for _ in range(1000))))


def affinity_expressions(place: Place) -> None:
    """50,000 expressions in one affinity term (900 kB)"""
    _asked(place, ask("expressions", affinity([expressions(50_000, "NotIn")])))


def affinity_values(place: Place) -> None:
    """one NotIn of 130,000 values"""
    _asked(place, ask("values", affinity([expressions(1, "NotIn", values=105_000)])))


def affinity_largest(place: Place) -> None:
    """the most that is accepted: terms of one expression, then expressions of one term, then values"""
    shapes: list[tuple[str, Callable[[int], pb.NodeConstraints]]] = [
        ("terms", lambda n: affinity(expressions(1, values=2) for _ in range(n))),
        ("expressions", lambda n: affinity([expressions(n, "NotIn")])),
        ("values", lambda n: affinity([expressions(1, "NotIn", values=n)])),
    ]
    largest = []
    for what, made in shapes:
        low, high = 0, 1 << 16
        while high - low > 1:
            middle = (low + high) // 2
            is_accepted = place.ask(ask(what, made(middle), dry_run=True)) != "TOO_COMPLEX"
            low, high = (middle, high) if is_accepted else (low, middle)
            if high == 1 << 16 and low > 1 << 12:
                break  # nobody counts
        largest.append((what, low, made))
    with place.measured():
        for what, most, made in largest:
            place.ask(ask(what, made(most)))
    place.remark(", ".join(f"{most:,} {what}" for what, most, _ in largest))


def _asked(place: Place, request: pb.AllocateRequest) -> None:
    with place.measured():
        reason = place.ask(request)
    place.remark(f"{request.ByteSize():,} B" + (f", refused: {reason}" if reason else ""))


def shim_product(place: Place) -> None:
    """512 ports x 5,000 containers through the shim (a dry run of 113 kB)"""
    from hostport.flags import Address  # noqa: PLC0415 - of this row alone
    from shim.runtime import Shim, ShimOptions  # noqa: PLC0415

    nowhere = Address("127.0.0.1", 0)

    async def start() -> Any:
        return Shim(ShimOptions(listen=nowhere, http=nowhere, allocator=Address("127.0.0.1", place.port)))

    shim = place.on_loop(start)
    body = json.dumps(_review(512, 5_000), separators=(",", ":")).encode()
    with place.measured():
        connection = HTTPConnection(shim.address.host, shim.address.port, timeout=CALL_SECONDS)
        connection.request("POST", "/mutate?timeout=30s", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        size = len(answer.read())
    place.remark(f"a review of {len(body):,} B")
    place.bound("answer", size / MIB, 1.0, "MiB")
    place.on_loop(shim.stop)


def _review(ports: int, containers: int) -> dict[str, Any]:
    first = {"name": "c", "ports": [{"name": f"p{at}", "containerPort": 2_000 + at} for at in range(ports)]}
    others = [{"name": f"c{at}"} for at in range(1, containers)]
    annotations = {"hostport.io/enabled": "true", "hostport.io/policy": "Dynamic"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "wide", "namespace": "caller", "annotations": annotations},
        "spec": {"containers": [first, *others]},
    }
    request = {
        "uid": "u",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "caller",
        "operation": "CREATE",
        "dryRun": True,
        "object": pod,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def memory_of_dry_runs(place: Place) -> None:
    """60 different dry runs of a megabyte"""
    reasons: set[str] = set()
    for _ in range(3):
        place.ask(ask("small", dry_run=True))
    before = resident_mib()
    with place.measured():
        for _ in range(60):
            term = expressions(1, "NotIn", values=1)
            term.match_expressions[0].values[:] = [f"{next(serial):010}" * 1000 for _ in range(100)]
            reasons.add(place.ask(ask("large", affinity([term]), dry_run=True)))
    place.remark(" ".join(sorted(filter(None, reasons))) or "accepted")
    place.bound("growth", resident_mib() - before, 50.0, "MiB")


def many_ports(place: Place) -> None:
    """512 ports in a well filled range"""
    ports = [pb.PortRequest(container="c", container_port=1_000 + at) for at in range(512)]
    _asked(place, ask("ports", range=pb.PortRange(min=LOW, max=LOW + WIDTH - 1), ports=ports))


def ports_in_many_sets(place: Place) -> None:
    """512 ports, and 256 blocks of 8, under 64 candidate sets that are kept"""
    keep_sets(place, 64)
    numbers = pb.PortRange(min=40_000, max=60_000)
    singles = [pb.PortRequest(container="c", name=f"p{at}", container_port=1 + at) for at in range(512)]
    blocks = [pb.PortRequest(container="c", name=f"p{at}", container_port=1 + at, count=8) for at in range(256)]
    with place.measured():
        for ports in (singles, blocks):
            place.ask(ask("many", range=numbers, ports=ports))


def fewer_ports(place: Place) -> None:
    """300 ports in a well filled range of 301 numbers"""
    ports = [pb.PortRequest(container="c", container_port=1_000 + at) for at in range(300)]
    _asked(place, ask("ports", range=pb.PortRange(min=LOW, max=LOW + 300), ports=ports))


def stream_of_asks(place: Place) -> None:
    """10,000 asks in one message on one stream"""
    asks = [
        pb.AllocateStreamRequest.Ask(tag=tag, request=pb.AllocateRequest(owner=pb.Owner(kind="Pod"), stride=tag + 1))
        for tag in range(10_000)
    ]
    stream(place, asks)


def stream_of_grants(place: Place) -> None:
    """5,000 asks that are granted, in one message on one stream"""
    asks = []
    for tag in range(5_000):
        request = ask("s", range=None, policy=pb.POLICY_STATIC)
        request.ports[0].host_port = 1_024 + tag
        asks.append(pb.AllocateStreamRequest.Ask(tag=tag, request=request))
    stream(place, asks)


def stream_unread(place: Place) -> None:
    """a stream whose answers are not read: 40 messages of 32 large asks"""
    gate = threading.Event()

    def messages() -> Iterator[pb.AllocateStreamRequest]:
        for _ in range(40):
            request = ask(
                "unread",
                dry_run=True,
                ports=[pb.PortRequest(container="c", container_port=1 + at) for at in range(256)],
            )
            asks = [pb.AllocateStreamRequest.Ask(tag=next(serial), request=request) for _ in range(32)]
            yield pb.AllocateStreamRequest(asks=asks)
        gate.wait(CALL_SECONDS)

    before = resident_mib()
    call = place.stub.AllocateStream(messages(), timeout=CALL_SECONDS)
    with place.measured():
        time.sleep(4)
    place.remark(f"growth {resident_mib() - before:.0f} MiB")
    call.cancel()
    gate.set()
