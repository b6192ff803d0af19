"""The real agent says what is open on this machine as if it were a node, and a real scheduler follows."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import outgoing
from e2e.api import Kubectl
from e2e.binaries import CHECKOUT
from e2e.manifests import hostport, pod, port
from e2e.processes import Process, wait_until
from e2e.product import Product

NODE = "with-agent"
PROMPT = 15.0
STATIC = hostport(policy="Static")


@pytest.fixture
def agent(product: Product) -> Iterator[Process]:
    """One that looks every second. Its node goes with it, so that what it said counts for no other test."""
    product.plane.fleet.add(NODE)
    flags = [f"--node={NODE}", f"--allocator={product.allocator.address}", "--interval=1s"]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT)}
    running = Process(
        "agent", [sys.executable, "-m", "agent", *flags], log=product.plane.logs / "agent.log", environ=environ
    )
    yield running
    running.stop()
    product.plane.fleet.remove(NODE)


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """The number of a socket of this process."""
    with socket.create_server(("", 0)) as door:
        yield door.getsockname()[1]


def wait_until_told(product: Product, number: int, *, is_open: bool = True) -> None:
    wait_until(
        f"{number} to be told {'open' if is_open else 'closed'}",
        lambda: bool(product.allocator.foreign(NODE, number)) == is_open,
        seconds=PROMPT,
    )


def test_a_socket_of_a_process_keeps_a_pod_off_the_node(product: Product, kubectl: Kubectl, agent: Process) -> None:
    with listening() as number:
        wait_until_told(product, number)
        run = kubectl.apply(pod("game", STATIC, port(80, hostPort=number)))
        kubectl("wait", "pod/game", "--for=jsonpath={.status.phase}=Running", "--timeout=20s")
    wait_until_told(product, number, is_open=False)

    assert f"{number}/TCP on {NODE} by process" in " ".join(run.stderr.split())
    assert kubectl.get("pod", "game")["spec"]["nodeName"] != NODE


def test_an_agent_that_is_killed_tells_the_truth_when_it_is_back(product: Product, agent: Process) -> None:
    with listening() as before:
        wait_until_told(product, before)
        agent.kill()
    with listening() as after:
        assert product.allocator.foreign(NODE, before), "what it said stands"
        agent.start()

        wait_until_told(product, after)
        wait_until_told(product, before, is_open=False)


def test_an_allocator_that_restarts_hears_of_all_that_is_open(product: Product, agent: Process) -> None:
    with listening() as number:
        wait_until_told(product, number)
        product.allocator.restart()

        wait_until_told(product, number)


def test_numbers_that_are_reserved_are_taken_by_no_outgoing_connection(tmp_path: Path) -> None:
    command = ["unshare", "--net", sys.executable, outgoing.__file__, str(tmp_path / "reserved")]
    if subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to make a network namespace")

    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, timeout=60, check=True
    )

    counts = json.loads(done.stdout)
    assert (counts["before"] > 0, counts["after"], counts["reserved"]) == (True, [0, 0, 0], 50), counts
