"""The processes that are measured and those that measure, on free ports of the loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0  # under callgrind a start takes most of it
LOAD_SECONDS = 600.0  # as long as it takes to fill an API server


UNDER: ContextVar[Mapping[str, Sequence[str]]] = ContextVar("UNDER", default=MappingProxyType({}))
"""The words before a module's command, such as those of a profiler."""


class ProcessError(Exception):
    """A process did not start, or failed. Its notes carry what the servers printed."""


class Server:
    """A process of ours that listens."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.http = ""  # where it tells its metrics, if it does

    def wait_for(self, address: str) -> None:
        """Until somebody accepts connections at an address.

        Raises:
            ProcessError: nobody does.

        """
        host, port = address.rsplit(":", 1)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                return
            time.sleep(0.02)
        raise ProcessError(f"nothing listens on {address}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """It does nothing until the block ends."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_ns(pid: int) -> int:
    """The same in ns, by the clock of the scheduler: of the threads that there are."""
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat"))


@contextlib.contextmanager
def server(folder: Path, module: str, *arguments: str) -> Iterator[Server]:
    """Runs `python -m module arguments` until the block ends; under a tool where UNDER says so."""
    log = folder / f"{module}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*UNDER.get().get(module, ()), sys.executable, "-m", *module.split(), *arguments],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={name: value for name, value in os.environ.items() if not name.startswith("HOSTPORT_")},
        )
    running = Server(process)
    try:
        yield running
    except ProcessError as error:
        error.add_note(f"{module}:\n{log.read_text(errors='replace')[-2000:]}")
        raise
    finally:
        running.stop()


def load(*arguments: str) -> dict[str, float]:
    """Runs the load generator. Returns its report.

    Raises:
        ProcessError: a request failed.

    """
    done = subprocess.run(
        [sys.executable, "-m", "bench.load", *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=LOAD_SECONDS,
        check=False,
    )
    if done.returncode:
        raise ProcessError(f"the load generator failed:\n{done.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
