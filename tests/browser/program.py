"""An allocator as people start it, its log in a file, and where it listens."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from browser.crowd import Crowd

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
POD = "hostport-allocator-7c9f8d6b5-x2x7k"


@dataclass(frozen=True, slots=True)
class Program:
    process: subprocess.Popen[bytes]
    grpc: str
    http: str

    def get(self, path: str) -> Any:
        """A view, as JSON."""
        request = urllib.request.Request(f"http://{self.http}{path}", headers={"Accept": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@contextmanager
def running(folder: Path, *flags: str, http: str = "127.0.0.1:0") -> Iterator[Program]:
    log = folder / "allocator.log"
    command = [
        sys.executable, "-m", "allocator", "serve", "--listen=127.0.0.1:0", f"--http={http}", "--journal=memory", *flags,
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as stderr, subprocess.Popen(command, stderr=stderr, cwd=folder, env=env) as process:
        try:
            yield _listening(process, log)
        finally:
            process.terminate()


def _listening(process: subprocess.Popen[bytes], log: Path) -> Program:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        found = re.search(r"listening on grpc (\S+), http (\S+) from", log.read_text(encoding="utf-8"))
        if found:
            return Program(process, found[1], found[2])
        time.sleep(0.05)
    raise AssertionError(log.read_text(encoding="utf-8"))


@contextmanager
def crowded(folder: Path, *, nodes: int, games: int, outsiders: int = 1) -> Iterator[tuple[Program, Crowd]]:
    """An allocator with a crowd that it has admitted and seen."""
    crowd = Crowd(folder / "cluster.json", nodes=nodes, games=games, outsiders=outsiders)
    crowd.settle_outsiders()
    crowd.write()
    unbounded = ("--namespace-reservations=0", "--namespace-reserved-ports=0")  # it is written when all are admitted
    flags = (f"--cluster=file:{crowd.path.name}", "--reservation-ttl=1h", f"--pod-name={POD}", *unbounded)
    with running(folder, *flags) as program:
        _until(program, lambda status: status["healthy"])
        asyncio.run(crowd.admit(program.grpc))
        _until_seen(program)
        yield program, crowd


def _until(program: Program, holds: Callable[[Any], bool], *, every: float = 0.1) -> None:
    until = time.monotonic() + START_SECONDS
    while not holds(program.get("/status")):
        assert time.monotonic() < until, "the allocator does not come so far"
        time.sleep(every)


def _until_seen(program: Program) -> None:
    """The file is read four times a second: when the books stand still, all of it was seen."""
    before: list[Any] = []

    def stands_still(status: Any) -> bool:
        before.append(status["claims"])
        return bool(status["claims"]["CONFIRMED"]) and before[-2:-1] == before[-1:]

    _until(program, stands_still, every=1.0)
