"""What large asks leave behind in both programs: next to nothing, whether they are refused or the largest that are let in.

Real processes, asked over loopback; their resident memory is read from /proc.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from hostport.contract.limits import LARGEST_ANSWER, LONGEST_NAME, MOST_PORTS
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc

ROOT = Path(__file__).resolve().parents[1]
ASKS = 60
MOST_GROWTH = 50  # MiB
PATIENCE = 20.0
MARK = b"NNN"
Json = dict[str, Any]


@contextmanager
def running(log: Path, announced: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A program of ours, and the address that it announces."""
    with log.open("wb") as stderr:
        process = subprocess.Popen([sys.executable, "-m", *arguments], stderr=stderr, cwd=ROOT)
    try:
        until = time.monotonic() + PATIENCE
        while not (found := re.search(announced, log.read_text())):
            assert process.poll() is None and time.monotonic() < until, log.read_text()  # noqa: PT018
            time.sleep(0.05)
        yield process, found[1]
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Json]:
    """An allocator of 1,000 nodes, and a shim that asks it."""
    here = tmp_path_factory.mktemp("large")
    nodes = [
        {"kind": "Node", "metadata": {"name": f"n{at}", "labels": {"kubernetes.io/hostname": f"n{at}", "zone": "a"}}}
        for at in range(1000)
    ]
    (here / "cluster.json").write_text(json.dumps(nodes))
    listen = ("--listen=127.0.0.1:0", "--http=127.0.0.1:0")
    cluster = (f"--cluster=file:{here / 'cluster.json'}", "--journal=memory")
    with running(here / "a.log", r"listening on grpc ([^\s,]+),", "allocator", "serve", *listen, *cluster) as (
        one,
        grpc_,
    ):
        shim = ("shim", "serve", *listen, f"--allocator={grpc_}")
        with running(here / "s.log", r"listening on (http://\S+) \(http ", *shim) as (other, url):
            yield {"allocator": one, "shim": other, "grpc": grpc_, "url": url}


def resident(process: subprocess.Popen[bytes]) -> float:
    """MiB."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def numbered(made: bytes, number: int) -> bytes:
    """A dry run like no other: to make each from the start takes longer than to answer it."""
    return made.replace(MARK, b"%03d" % number)


def request(*, values: int, ports: int = MOST_PORTS) -> pb.AllocateRequest:
    """A dry run with a mark for its number: long names, and as many values as there may be, or more."""
    mark = MARK.decode()
    hosts = [f"host-{mark}-{at:07}" for at in range(values)]
    wanted = pb.NodeRequirement(key="kubernetes.io/hostname", operator="NotIn", values=hosts)
    named = [f"{mark}-{at:0{LONGEST_NAME - 4}}" for at in range(ports)]
    return pb.AllocateRequest(
        owner=pb.Owner(kind="Pod", namespace="demo", name=f"web-{mark}"),
        policy=pb.POLICY_DYNAMIC,
        range=pb.PortRange(min=1, max=65535),
        dry_run=True,
        ports=[pb.PortRequest(container=name, name=name, container_port=at + 1) for at, name in enumerate(named)],
        constraints=pb.NodeConstraints(required_affinity=[pb.NodeTerm(match_expressions=[wanted])]),
    )


@pytest.mark.parametrize(
    ("values", "ports", "code"),
    [
        pytest.param(4096, MOST_PORTS, grpc.StatusCode.OK, id="the largest that is let in"),
        pytest.param(50_000, 1, grpc.StatusCode.INVALID_ARGUMENT, id="a megabyte that is refused"),
    ],
)
def test_sixty_dry_runs_over_grpc_leave_little_behind(
    programs: Json, values: int, ports: int, code: grpc.StatusCode
) -> None:
    made = request(values=values, ports=ports).SerializeToString()
    before = resident(programs["allocator"])
    with grpc.insecure_channel(programs["grpc"]) as channel:
        stub = pb_grpc.AllocatorServiceStub(channel)
        for number in range(ASKS):
            assert stub.Allocate.future(pb.AllocateRequest.FromString(numbered(made, number))).code() is code

    assert resident(programs["allocator"]) - before < MOST_GROWTH


def review(*, values: int, ports: int, size: int) -> bytes:
    """The same to the webhook."""
    mark = MARK.decode()
    asked = request(values=values, ports=ports)
    required = asked.constraints.required_affinity[0].match_expressions[0]
    expression = {"key": required.key, "operator": required.operator, "values": list(required.values)}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    container: Json = {
        "name": "c",
        "ports": [{"name": port.name, "containerPort": port.container_port} for port in asked.ports],
    }
    annotations = {"policy": "Dynamic", "enabled": "true", "min-port": "1", "max-port": "65535", "inject-env": "false"}
    made = {
        "metadata": {"name": f"web-{mark}", "annotations": {f"hostport.io/{k}": v for k, v in annotations.items()}},
        "spec": {
            "containers": [container],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}},
        },
    }
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    uid = f"u-{values}-{mark}"
    body: Json = {"uid": uid, "kind": kind, "operation": "CREATE", "namespace": "demo", "dryRun": True, "object": made}
    sent = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": body})
    return (sent + " " * (size - len(sent))).encode()


@pytest.mark.parametrize(
    ("values", "ports", "size", "is_allowed"),
    [
        pytest.param(4096, 200, 1 << 20, True, id="nearly the largest that is let in"),
        pytest.param(50_000, 1, 1 << 20, False, id="a megabyte that is refused"),
        pytest.param(100_000, 1, 3 << 20, False, id="three megabytes that are refused"),
    ],
)
def test_sixty_dry_runs_through_the_webhook_leave_little_behind(
    programs: Json, values: int, ports: int, size: int, is_allowed: bool
) -> None:
    names, made = ("allocator", "shim"), review(values=values, ports=ports, size=size)
    before = {name: resident(programs[name]) for name in names}
    for number in range(ASKS):
        data, headers = numbered(made, number), {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"{programs['url']}/mutate?timeout=10s", data=data, headers=headers)
        with urllib.request.urlopen(asked, timeout=10) as answer:
            sent = answer.read()
        assert json.loads(sent)["response"]["allowed"] is is_allowed, sent[:500]
        assert len(sent) <= LARGEST_ANSWER

    grown = {name: resident(programs[name]) - before[name] for name in names}
    assert max(grown.values()) < MOST_GROWTH, grown
