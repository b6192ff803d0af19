"""The page of the program as people start it: who reaches it from where, and that a reader does not hold up its end."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(log: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """An allocator that listens on every address: its process, and its http port."""
    command = [
        sys.executable, "-m", "allocator", "serve", "--listen=127.0.0.1:0", "--http=0.0.0.0:0", "--journal=memory", *flags,
    ]  # fmt: skip
    with log.open("wb") as stderr, subprocess.Popen(command, stderr=stderr, cwd=ROOT) as process:
        try:
            found = None
            while not found and process.poll() is None:
                found = re.search(r"http 0\.0\.0\.0:([0-9]+)", log.read_text(encoding="utf-8"))
            assert found, log.read_text(encoding="utf-8")
            yield process, int(found[1])
        finally:
            process.kill()


def own_address() -> str:
    """An address of this machine that is not loopback; no packet is sent."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def status(host: str, port: int, path: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://{host}:{port}{path}", headers=headers), timeout=30
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.skipif(own_address() in {"", "127.0.0.1"}, reason="this machine has no address but loopback")
@pytest.mark.parametrize(
    ("flags", "near", "far"), [([], 200, 403), (["--page=all"], 200, 200), (["--page=off"], 403, 403)], ids=str
)
def test_who_comes_from_elsewhere_needs_page_all(tmp_path: Path, flags: list[str], near: int, far: int) -> None:
    with running(tmp_path / "log", *flags) as (_, port):
        for path in ("/", "/status", "/claims", "/events"):
            assert (status("127.0.0.1", port, path), path) == (near, path)
            assert (status(own_address(), port, path), path) == (far, path)
        assert status(own_address(), port, "/healthz") == 200
        assert status(own_address(), port, "/metrics") == 200
        assert status("127.0.0.1", port, "/claims", Host="rebound.example") == 403


def test_a_name_that_was_given_may_be_asked_for(tmp_path: Path) -> None:
    with running(tmp_path / "log", "--page-hosts=status.example.com") as (_, port):
        assert status("127.0.0.1", port, "/claims", Host="status.example.com") == 200
        assert status("127.0.0.1", port, "/claims", Host="status.example.org") == 403


def test_a_reader_does_not_hold_up_the_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        running(log) as (process, port),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/events", timeout=30) as stream,
    ):
        assert stream.readline() == b"event: status\n"

        process.send_signal(signal.SIGTERM)

        assert process.wait(60) == 0
    lines = log.read_text(encoding="utf-8")
    assert "stopped" in lines
    assert "exception" not in lines.lower()
