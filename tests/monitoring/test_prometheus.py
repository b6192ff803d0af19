"""A real Prometheus scrapes real programs with the alerts of deploy/monitoring, and tells which fire (Debian: prometheus).

What the alerts wait for before they fire (`for`) is left out, so that the test takes seconds; test_monitoring.py has
each alert with its whole time, by the clock of promtool.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = yaml.safe_load((ROOT / "deploy" / "monitoring" / "alerts.yaml").read_text(encoding="utf-8"))
PATIENCE_SECONDS = 60
INTERVAL = "200ms"

pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not here (Debian: prometheus)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Watched:
    """Programs of ours by name, and a Prometheus that scrapes where each is or will be."""

    stack: ExitStack
    address: str
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

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}", timeout=5) as response:
            return json.load(response)["data"]

    def firing(self) -> set[str]:
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"}

    def up(self) -> set[str]:
        return {each["labels"]["instance"] for each in self.ask("targets")["activeTargets"] if each["health"] == "up"}

    def wait_firing(self, wanted: set[str]) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while (found := self.firing()) != wanted:
            assert time.monotonic() < until, f"{found} fire, not {wanted}"
            time.sleep(0.1)


def configure(folder: Path, targets: dict[str, str]) -> None:
    groups = RULES["spec"]["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        rule["for"] = "0s"
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")
    config = {
        "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "hostport", "static_configs": [{"targets": list(targets.values())}]}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    targets = {name: f"127.0.0.1:{free_port()}" for name in ("allocator", "allocator-other", "shim")}
    configure(tmp_path, targets)
    command = ["prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data"]
    command += ["--web.listen-address=127.0.0.1:0"]
    with ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path))
        stack.callback(process.kill)
        assert process.stderr
        found = next(match[1] for line in process.stderr if (match := re.search(r"address=(127\S+:[1-9]\d*)", line)))
        next(line for line in process.stderr if "ready to receive web requests" in line)
        yield Watched(stack, found, targets)


def test_a_prometheus_scrapes_both_programs_and_alerts_fire_and_end(watched: Watched) -> None:
    watched.wait_firing({"HostPortNoAllocator", "HostPortNoShim"})

    watched.start("allocator")
    watched.start("shim")
    watched.wait_firing(set())
    assert watched.up() == {watched.targets["allocator"], watched.targets["shim"]}

    watched.start("allocator-other")
    watched.wait_firing({"HostPortTwoAllocators"})
    watched.kill("allocator-other")
    watched.wait_firing(set())

    watched.kill("allocator")
    watched.wait_firing({"HostPortNoAllocator"})
    watched.start("allocator")
    watched.wait_firing(set())

    watched.kill("shim")
    watched.wait_firing({"HostPortNoShim"})
