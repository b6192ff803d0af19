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

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
TYPED = ("curl ", "grpcurl ")
USUAL = {"50051": "grpc", "8081": "allocator http", "8082": "shim http", "8443": "webhook"}


def commands(text: str) -> list[str]:
    """The curl and grpcurl commands of a text, those of several lines whole."""
    found: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        command = line.strip()
        if not command.startswith(TYPED):
            continue
        while command.endswith("\\") or command.count("'") % 2:
            command += "\n" + next(lines)
        found.append(command)
    return found


def documented() -> list[tuple[str, str]]:
    blocks = [
        (page.name, block)
        for page in PAGES
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ]
    return [(name, command) for name, block in blocks for command in commands(block) if "127.0.0.1:" in command]


@dataclass(frozen=True)
class Shown:
    """A `make run` that serves, and what it printed."""

    folder: Path
    text: str
    ports: dict[str, str]  # by the usual one

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        for usual, port in self.ports.items():
            command = command.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{port}")
        path = f"{tool('grpcurl').parent}:{os.environ['PATH']}"
        named = f"ln -sf {tool('grpcurl')} .local/grpcurl; PATH=$PWD/.local:{path}\n"
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
    typed = commands(shown.text)
    answers = [shown.type(command) for command in typed]

    assert len(typed) == 5
    assert [(answer.returncode, answer.stderr) for answer in answers] == [(0, "")] * 5
    assert ['"allowed":true' in answers[0].stdout, "readyz check passed" in answers[-1].stdout] == [True, True]
    assert [re.search(r'"host_?[Pp]ort": 10\d\d\d', answer.stdout) is not None for answer in answers[1:3]] == [True] * 2


@pytest.mark.parametrize(
    ("page", "command"), documented(), ids=[f"{page} {at}" for at, (page, _) in enumerate(documented())]
)
def test_a_documented_command_works_as_it_stands(shown: Shown, page: str, command: str) -> None:
    answer = shown.type(command)

    assert (answer.returncode, answer.stderr) == (0, ""), f"{page}: {command}"
    assert answer.stdout


def test_there_are_documented_commands() -> None:
    assert {page for page, _ in documented()} >= {"README.md", "leasing.md"}
