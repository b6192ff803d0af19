"""What README, docs and `make run` tell people to type is typed here, as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.binaries import CHECKOUT
from e2e.processes import Process, wait_for
from e2e.tools import tool
from testing.documented import DocumentedCommand, commands, typed_by

USUAL = {"50051": "grpc", "8081": "allocator http", "8082": "shim http", "8443": "webhook"}
LEASED = "$(hostport lease --owner Relay/documented --port rtp/UDP -o name)"
"""What a command that ends a lease is given."""
ENDLESS = "http.server"
"""What runs until somebody ends it: it is given some seconds."""

HERE = typed_by("tests/e2e")
"""What can be typed beside `make run`. What needs a cluster is typed by tests/helm."""


@dataclass(frozen=True)
class Shown:
    """A `make run` that serves, and what it printed."""

    folder: Path
    text: str
    ports: dict[str, str]  # by the usual one

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        for usual, port in self.ports.items():
            command = re.sub(rf"(127\.0\.0\.1|localhost):{usual}", f"127.0.0.1:{port}", command)
        venv = Path(sys.executable).parent
        named = f"ln -sf {tool('grpcurl')} .local/grpcurl; ln -sfn {venv.parent} .venv; PATH=$PWD/.local:{venv}:$PATH\n"
        named += f"export HOSTPORT_SERVER=127.0.0.1:{self.ports['50051']}\n"
        if ENDLESS in command:
            named += 'hostport() { timeout -s INT 5 hostport "$@" || [ $? = 124 ]; }\n'
        return subprocess.run(
            ["bash", "-ec", named + command], cwd=self.folder, capture_output=True, text=True, timeout=30, check=False
        )


@pytest.fixture(scope="module")
def shown(folder: Path) -> Iterator[Shown]:
    """In a copy, so that a `make run` of the checkout stays what it is."""
    copy = folder / "run"
    for part in ("allocator", "shim", "hostport", "examples"):
        shutil.copytree(CHECKOUT / part, copy / part)
    environ = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = Process(
        "make-run", [sys.executable, str(copy / "examples" / "run.py")], log=folder / "run.log", environ=environ
    )
    text = wait_for(
        "make run", lambda: process.log.read_text(encoding="utf-8"), lambda said: "Ctrl-C" in said, seconds=60
    )
    webhook = re.search(r"https://127\.0\.0\.1:(\d+)/mutate", text)
    grpc = re.search(r"127\.0\.0\.1:(\d+) hostport", text)
    https = re.findall(r"http://127\.0\.0\.1:(\d+)/readyz", text)
    assert webhook and grpc  # noqa: PT018 - narrows both
    ports = dict(zip(("8443", "50051", "8081", "8082"), (webhook[1], grpc[1], *https), strict=True))
    yield Shown(copy, text, ports)
    assert process.stop() == 0


def test_every_command_that_make_run_prints_works(shown: Shown) -> None:
    typed = [each for each in commands(shown.text) if each.startswith(("curl ", "grpcurl "))]
    answers = [shown.type(command) for command in typed]

    assert len(typed) == 5
    assert [(answer.returncode, answer.stderr) for answer in answers] == [(0, "")] * 5
    assert ['"allowed":true' in answers[0].stdout, "readyz check passed" in answers[-1].stdout] == [True, True]
    assert [re.search(r'"host_?[Pp]ort": 10\d\d\d', answer.stdout) is not None for answer in answers[1:3]] == [True] * 2


@pytest.mark.parametrize("command", HERE, ids=lambda command: f"{command.page} {' '.join(command.text.split()[:4])}")
def test_a_documented_command_works_as_it_stands(shown: Shown, command: DocumentedCommand) -> None:
    text = re.sub(r"\bFILE\b", "examples/distributed-db.yaml", command.text)
    answer = shown.type(re.sub(r"\bID\b", LEASED, text))

    assert answer.returncode == 0, f"{command.page}: {command.text}\n{answer.stderr}"
    assert answer.stdout


def test_there_are_documented_commands() -> None:
    assert {command.page for command in HERE} >= {"docs/leasing.md", "docs/quickstart.md", "docs/status-page.md"}
