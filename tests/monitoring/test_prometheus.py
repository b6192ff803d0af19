"""A real Prometheus scrapes real programs, and the alerts of deploy/monitoring fire and end (Debian: prometheus)."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from testing.prometheus import Prometheus, prometheus

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not here (Debian: prometheus)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Programs:
    """Programs of ours by name, each where Prometheus looks for it."""

    stack: ExitStack
    targets: dict[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        program = name.partition("-")[0]
        flags = ["--listen=127.0.0.1:0", f"--http={self.targets[name]}"]
        flags += ["--journal=memory"] if program == "allocator" else []
        command = [sys.executable, "-m", program, "serve", *flags]
        process = self.stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT))
        self.stack.callback(process.kill)
        self.running[name] = process

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()


@pytest.fixture
def programs() -> Iterator[Programs]:
    with ExitStack() as stack:
        yield Programs(stack, {name: f"127.0.0.1:{free_port()}" for name in ("allocator", "allocator-other", "shim")})


@pytest.fixture
def watched(tmp_path: Path, programs: Programs) -> Iterator[Prometheus]:
    discovery = {"static_configs": [{"targets": list(programs.targets.values())}]}
    with prometheus(tmp_path, discovery, interval="200ms") as running:
        yield running


def test_a_prometheus_scrapes_both_programs_and_alerts_fire_and_end(programs: Programs, watched: Prometheus) -> None:
    watched.wait_firing({"HostPortNoAllocator", "HostPortNoShim"})

    programs.start("allocator")
    programs.start("shim")
    watched.wait_firing(set())
    assert watched.up() == {programs.targets["allocator"], programs.targets["shim"]}

    programs.start("allocator-other")
    watched.wait_firing({"HostPortTwoAllocators"})
    programs.kill("allocator-other")
    watched.wait_firing(set())

    programs.kill("allocator")
    watched.wait_firing({"HostPortNoAllocator"})
    programs.start("allocator")
    watched.wait_firing(set())

    programs.kill("shim")
    watched.wait_firing({"HostPortNoShim"})
