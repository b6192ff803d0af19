"""A real Prometheus with the alerts of deploy/monitoring, for tests (Debian: the package prometheus).

What the alerts wait for before they fire (`for`) is left out, so that a test takes seconds; tests/monitoring has each
alert with its whole time, by the clock of promtool.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ALERTS = Path(__file__).resolve().parent.parent / "deploy" / "monitoring" / "alerts.yaml"


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that runs, at host:port."""

    address: str

    def ask(self, path: str) -> Any:
        """The data of an answer of its API."""
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}", timeout=30) as response:
            return json.load(response)["data"]

    def firing(self) -> set[str]:
        """Alerts by name."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"}

    def up(self) -> set[str]:
        """Targets that answer, as host:port."""
        return {each["labels"]["instance"] for each in self.ask("targets")["activeTargets"] if each["health"] == "up"}

    def down(self) -> dict[str, str]:
        """What is wrong with the other targets, by host:port."""
        targets = self.ask("targets")["activeTargets"]
        return {each["labels"]["instance"]: each["lastError"] for each in targets if each["health"] != "up"}

    def wait_firing(self, wanted: set[str], *, seconds: float = 60) -> None:
        """Returns when these alerts fire and no other.

        Raises:
            AssertionError: they did not within so many seconds.

        """
        until = time.monotonic() + seconds
        while (found := self.firing()) != wanted:
            assert time.monotonic() < until, f"{found} fire, not {wanted}; {self.down()}"
            time.sleep(0.1)


@contextmanager
def prometheus(folder: Path, discovery: dict[str, Any], *, interval: str) -> Iterator[Prometheus]:
    """Runs one in a folder. `discovery` is what a scrape config says of its targets; `interval` is of scrapes and rules."""
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["spec"]["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        rule["for"] = "0s"
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "hostport", **discovery}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = ["prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data"]
    command += ["--web.listen-address=127.0.0.1:0"]
    log = folder / "prometheus.log"
    with log.open("wb") as sink, subprocess.Popen(command, stderr=sink, stdout=sink, cwd=folder) as process:
        try:
            yield Prometheus(_address(log, process))
        finally:
            process.kill()


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Where it listens, once it is ready.

    Raises:
        AssertionError: it ended, or is not ready within a minute.

    """
    until = time.monotonic() + 60
    while "ready to receive web requests" not in (text := log.read_text(encoding="utf-8")):
        assert process.poll() is None, text
        assert time.monotonic() < until, text
        time.sleep(0.05)
    match = re.search(r"address=(127\S+:[1-9]\d*)", text)
    assert match, text
    return match[1]
