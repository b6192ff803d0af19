"""Child processes and threads that never outlive the tests, and deadlines instead of sleeps."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

GUARD = Path(__file__).resolve().with_name("guard.py")
GRACE = 15.0
POLL = 0.05

log = logging.getLogger(__name__)


class Timeout(AssertionError):  # noqa: N818 - as the standard library's names
    """What was waited for did not happen. The message says what, and what was seen last."""


class Process:
    """A program in a process group of its own, with its output in a file."""

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self._command, self._environ = command, environ
        self.start()

    def start(self) -> None:
        """Starts it, or starts it again when it has ended."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), *self._command],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def stop(self) -> int:
        """Asks politely, then insists. Returns the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.wait()

    def kill(self) -> None:
        """Ends it as a power cut would."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def last_lines(self, count: int = 40) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-count:])

    def wait_until(self, what: str, ready: Callable[[], bool], *, seconds: float = 30) -> None:
        """Waits for the program to become ready.

        Raises:
            Timeout: it ended, or took too long. Its last lines are in the message.

        """

        def ready_or_ended() -> bool:
            return self.exit_code is not None or ready()

        try:
            wait_until(f"{self.name} to be {what}", ready_or_ended, seconds=seconds)
        except Timeout as error:
            raise Timeout(f"{error}\n{self.last_lines()}") from None
        if self.exit_code is not None:
            raise Timeout(f"{self.name} ended with {self.exit_code}:\n{self.last_lines()}")


def wait_until(what: str, is_so: Callable[[], bool], *, seconds: float = 30) -> None:
    """Asks again and again until it is so.

    Raises:
        Timeout: it is not so at the deadline.

    """
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise Timeout(f"waited {seconds:.0f} s for {what}")
        time.sleep(POLL)


def wait_for(what: str, look: Callable[[], T], good: Callable[[T], bool], *, seconds: float = 30) -> T:
    """Looks again and again until what it sees is good, and returns that.

    Raises:
        Timeout: it is not good at the deadline. What was seen last is in the message.

    """
    deadline = time.monotonic() + seconds
    while not good(seen := look()):
        if time.monotonic() > deadline:
            raise Timeout(f"waited {seconds:.0f} s for {what}; last seen: {seen!r}")
        time.sleep(POLL)
    return seen


@contextlib.contextmanager
def repeating(name: str, pace: float, work: Callable[[], None]) -> Iterator[None]:
    """Does the work every so often in a thread of its own; an error of one round does not end the next."""
    stopping = threading.Event()

    def rounds() -> None:
        while not stopping.wait(pace):
            try:
                work()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next round may work
                log.warning("%s: this round failed: %r", name, error)

    thread = threading.Thread(target=rounds, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody had a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
