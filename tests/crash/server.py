"""The allocator as a process that can be killed and started again at the same address."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

CHECKOUT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0
POLL_SECONDS = 0.01

CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each client, as separate programs have
)


class StartError(Exception):
    """The allocator did not come to serve. Carries the end of its log."""


class Server:
    """One allocator at a time on one journal, in one folder."""

    def __init__(
        self, folder: Path, *, journal: str = "", sabotage: str = "", environ: Mapping[str, str] | None = None
    ) -> None:
        self.address = f"127.0.0.1:{_free_port()}"
        self.log = folder / "allocator.log"
        journal = journal or f"sqlite:{folder / 'journal.db'}"
        self._command = [
            sys.executable,
            *(["-m", "tests.crash.sabotage", sabotage] if sabotage else ["-m", "allocator"]),
            "serve",
            f"--listen={self.address}",
            "--http=127.0.0.1:0",
            "--cluster=none",
            f"--journal={journal}",
        ]
        self._environ = dict(environ or {})
        self._process: asyncio.subprocess.Process | None = None
        self._started = 0.0

    async def start(self) -> None:
        """Starts it, and does not wait."""
        self._started = time.perf_counter()
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=CHECKOUT,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith("HOSTPORT_")}
                | self._environ,
            )

    async def serving(self) -> float:
        """Waits until it serves. Returns the seconds since its start.

        Raises:
            StartError: it ended, or took too long.

        """
        async with grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            while time.perf_counter() - self._started < START_SECONDS:
                if self._process is None or self._process.returncode is not None:
                    raise StartError(f"the allocator ended by itself:\n{self._tail()}")
                with contextlib.suppress(grpc.aio.AioRpcError):
                    reply = await health.Check(
                        health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=START_SECONDS / 10
                    )
                    if reply.status == health_pb2.HealthCheckResponse.SERVING:
                        return time.perf_counter() - self._started
                await asyncio.sleep(POLL_SECONDS)
        raise StartError(f"the allocator did not serve within {START_SECONDS:g} s:\n{self._tail()}")

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to this process alone."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def ended(self) -> None:
        """Returns when it has ended by itself."""
        if self._process is not None:
            await self._process.wait()

    async def kill(self) -> None:
        """kill -9, of this process alone."""
        if self._process is None:
            return
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        self._process = None

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
