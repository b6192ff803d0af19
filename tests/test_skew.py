"""Programs of the last release and of today work beside each other, and take up each other's journal.

The older ones run from the files of their commit, with the packages of today.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from e2e.processes import wait_until
from google.protobuf import json_format

from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc
from testing.documented import ROOT
from testing.released import extract, released_commit

REVIEWS = sorted((ROOT / "tests" / "testdata" / "admission").glob("*-pod*.json"))
LEASE = pb.AllocateRequest(
    owner=pb.Owner(kind="Relay", name="r1"),
    policy=pb.POLICY_DYNAMIC,
    ports=[pb.PortRequest(name="rtp", protocol=pb.PROTOCOL_UDP)],
    request_id="lease-r1",
)


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs of the last release are."""
    if not (commit := released_commit()):
        pytest.skip("git knows no release here")
    return extract(commit, tmp_path_factory.mktemp("older"), "allocator", "shim", "hostport")


@pytest.fixture
def trees(older: Path) -> dict[str, Path]:
    return {"older": older, "today": ROOT}


@contextmanager
def program(tree: Path, name: str, *flags: str) -> Iterator[tuple[str, str]]:
    """A program that runs from a tree: its own address, and that of its HTTP port."""
    command = [sys.executable, "-m", name, "serve", "--listen=127.0.0.1:0", "--http=127.0.0.1:0", *flags]
    environ = os.environ | {"PYTHONPATH": str(tree)}
    process = subprocess.Popen(command, cwd=tree, env=environ, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"listening on (?:grpc |https?://)(\S+?),? \(?http ([\d.:]+)", line):
                break
        else:
            raise AssertionError("".join(said))
        wait_until(f"{name} to be ready", lambda: is_ready(found[2]))
        yield found[1], found[2]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def is_ready(http: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{http}/readyz", timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        return False


def reviewed(shim: str, review: bytes) -> dict[str, Any]:
    """Whether it was allowed, and the numbers that the patch holds."""
    asking = urllib.request.Request(
        f"http://{shim}/mutate?timeout=5s", data=review, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asking, timeout=10) as answer:
        response = json.load(answer)["response"]
    patch = json.loads(base64.b64decode(response.get("patch", "")) or "[]")
    return {
        "allowed": response["allowed"],
        "numbers": [each["value"] for each in patch if each["path"].endswith("/hostPort")],
    }


def admitted(shim: Path, allocator: Path, journal: Path) -> dict[str, Any]:
    """What the recorded reviews are answered, by the programs of these trees, on a new journal."""
    with (
        program(allocator, "allocator", f"--journal=sqlite:{journal}", "--cluster=none") as (grpc_address, _),
        program(shim, "shim", f"--allocator={grpc_address}") as (webhook, _http),
    ):
        return {path.stem: reviewed(webhook, path.read_bytes()) for path in REVIEWS}


@pytest.mark.parametrize(("shim", "allocator"), [("older", "today"), ("today", "older")])
def test_the_shim_of_one_version_and_the_allocator_of_the_other_give_the_numbers_that_those_of_today_give(
    trees: dict[str, Path], tmp_path: Path, shim: str, allocator: str
) -> None:
    expected = admitted(ROOT, ROOT, tmp_path / "today.db")

    answers = admitted(trees[shim], trees[allocator], tmp_path / "mixed.db")

    assert answers == expected
    assert sum(bool(each["numbers"]) for each in expected.values()) >= 5


def held(allocator: Path, journal: Path, *asks: pb.AllocateRequest) -> dict[str, Any]:
    """What an allocator on this journal holds, once these were granted: claim by id, without what counts time."""
    with (
        program(allocator, "allocator", f"--journal=sqlite:{journal}", "--cluster=none") as (address, _),
        grpc.insecure_channel(address) as channel,
    ):
        stub = pb_grpc.AllocatorServiceStub(channel)
        for ask in asks:
            stub.Allocate(ask, wait_for_ready=True, timeout=10)
        listed = stub.ListAllocations(pb.ListAllocationsRequest(), wait_for_ready=True, timeout=10)
    claims = [json_format.MessageToDict(each) for each in listed.allocations]
    return {each["id"]: {key: each.get(key) for key in ("owner", "state", "node", "ports")} for each in claims}


@pytest.mark.parametrize(("first", "then"), [("older", "today"), ("today", "older")])
def test_the_journal_of_one_version_is_taken_up_whole_by_the_other(
    trees: dict[str, Path], tmp_path: Path, first: str, then: str
) -> None:
    """The schema is one since the first release candidate: docs/upgrade.md has the table."""
    asks = [
        pb.AllocateRequest(
            owner=pb.Owner(kind="Pod", namespace="demo", name=f"web-{number}"),
            policy=pb.POLICY_DYNAMIC,
            ports=[pb.PortRequest(container="c", container_port=8080)],
            request_id=f"web-{number}",
        )
        for number in range(3)
    ]

    before = held(trees[first], tmp_path / "journal.db", LEASE, *asks)
    after = held(trees[then], tmp_path / "journal.db", LEASE, *asks)

    assert len(before) == 4
    assert after == before
