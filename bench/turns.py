"""An event loop that measures its turns, and an allocator on it that others call while it is measured.

Rules:

* A turn is one pass of the loop: all that was ready when it began. What it costs is the CPU time of the loop's own
  thread: on a machine that others use the clock on the wall tells of them.
* Each measurement has a process of its own, forked from one that has the cluster in memory: what one leaves behind is
  nothing to the next, and one that takes for ever is ended.
* Beside what is measured somebody asks for one port after the other. The longest time that this one waited is told; it
  is a time of the clock on the wall, and in the same process.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import pickle
import select
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import grpc

from allocator.app.build import Collaborators, build
from allocator.app.lifecycle import TICK_SECONDS
from allocator.app.servers import SERVER_OPTIONS
from allocator.clock import Clock
from allocator.commands import add_to_server
from allocator.core.claims import ClaimId
from allocator.core.ledger import Ledger
from allocator.journal.sqlite import SqliteJournal
from hostport import process
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc
from testing.clock import FunctionClock

T = TypeVar("T")

BESIDE = pb.PortRange(min=45_000, max=65_000)
BESIDE_PAUSE_SECONDS = 0.002
CALL_SECONDS = 50.0
LARGEST_ANSWER = 256 << 20


class TurnLoop(asyncio.SelectorEventLoop):
    """Notes the CPU time of the longest turn since `reset`, and of all of them."""

    longest = 0.0
    spent = 0.0

    def reset(self) -> None:
        self.longest = self.spent = 0.0

    def _run_once(self) -> None:
        began = time.thread_time()
        super()._run_once()  # type: ignore[misc]
        took = time.thread_time() - began
        self.spent += took
        self.longest = max(self.longest, took)


@dataclass(slots=True)
class Stall:
    """What was measured: seconds of the whole, CPU seconds of the longest turn, the longest wait beside it."""

    seconds: float = 0.0
    spent: float = 0.0  # CPU seconds of the loop in that time
    longest: float = 0.0
    wait: float = 0.0
    warnings: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


class Place:
    """An allocator that serves on a loop of its own thread, and what is measured of it."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.loop = TurnLoop()
        self.stall = Stall()
        self.folder = folder
        self.clock_shift = 0.0
        clock, ids = Clock(), count(1)
        self._thread = threading.Thread(target=self.loop.run_forever, name="loop", daemon=True)
        self._thread.start()
        self.journal = SqliteJournal(folder / "journal.db").open_now()
        self.application = build(
            Collaborators(
                ledger=ledger,
                journal=self.journal,
                clock=FunctionClock(lambda: clock() + self.clock_shift),
                new_id=lambda: ClaimId(f"f{next(ids):031x}"),
            )
        )
        self.engine, self.service = self.application.engine, self.application.service
        self.metrics = self.application.metrics
        self.port = self.on_loop(self._start)
        self._channel = grpc.insecure_channel(
            f"127.0.0.1:{self.port}", options=[("grpc.max_receive_message_length", LARGEST_ANSWER)]
        )
        self.stub = pb_grpc.AllocatorServiceStub(self._channel)

    async def _start(self) -> int:
        self.engine.is_serving = True
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        add_to_server(self.service, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self._ticker = asyncio.create_task(self._tick())
        return int(port)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.engine.maintenance.tick()

    def on_loop(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What a function, or a coroutine's, gives when it is run on the loop."""

        async def run() -> Any:
            return await _whatever(work(*arguments))

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result()

    def cpu_ms(self, work: Callable[[int], object], times: int) -> list[float]:
        """The CPU time of some calls on the loop, each in a turn of its own."""

        def timed(number: int) -> float:
            began = time.thread_time()
            work(number)
            return 1000 * (time.thread_time() - began)

        return [float(self.on_loop(timed, number)) for number in range(times)]

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measures what happens in the block, with somebody who asks beside it, and a tick after it."""
        for _ in range(3):
            self.stub.Allocate(_beside(), timeout=CALL_SECONDS)
        time.sleep(2 * TICK_SECONDS)
        self.loop.call_soon_threadsafe(self.loop.reset)
        stop, waits = threading.Event(), [0.0]
        asking = threading.Thread(target=self._ask_beside, args=(stop, waits))
        asking.start()
        began = time.perf_counter()
        try:
            yield
            self.stall.seconds, self.stall.spent = time.perf_counter() - began, self.loop.spent
            time.sleep(1.2 * TICK_SECONDS)
        finally:
            stop.set()
            asking.join()
        self.stall.longest, self.stall.wait = self.loop.longest, max(waits)

    def _ask_beside(self, stop: threading.Event, waits: list[float]) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", options=[("beside", 1)]) as channel:
            stub = pb_grpc.AllocatorServiceStub(channel)
            while not stop.is_set():
                began = time.perf_counter()
                with suppress(grpc.RpcError):  # of a row in which commits fail
                    stub.Allocate(_beside(), timeout=CALL_SECONDS)
                waits.append(time.perf_counter() - began)
                stop.wait(BESIDE_PAUSE_SECONDS)

    def ask(self, request: pb.AllocateRequest) -> str:
        """Allocates. Empty, or the reason of the refusal."""
        try:
            self.stub.Allocate(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            return reason_of(error)
        return ""

    def remark(self, text: str) -> None:
        self.stall.warnings.append(text)

    def bound(self, what: str, value: float, most: float, unit: str) -> None:
        """Tells a figure that has a bound of its own."""
        self.remark(f"{what} {value:.2f} {unit} (≤ {most:g})")
        if value > most:
            self.stall.broken.append(what)


async def _whatever(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


_serial = count()


def _beside() -> pb.AllocateRequest:
    owner = pb.Owner(kind="Pod", namespace="beside", name=f"small-{os.getpid()}-{next(_serial)}")
    ports = [pb.PortRequest(container="c", container_port=80)]
    return pb.AllocateRequest(owner=owner, policy=pb.POLICY_DYNAMIC, range=BESIDE, ports=ports)


def reason_of(error: grpc.RpcError) -> str:
    """The reason of the contract, or the canonical code."""
    from hostport.client.errors import error_of  # noqa: PLC0415 - the client is not needed where nothing is refused

    return error_of(error).reason or error.code().name


def resident_mib() -> float:
    """The memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def measure(ledger: Ledger, row: Callable[[Place], None], most_seconds: float) -> Stall:
    """Runs a row in a fork. One that is not done in time is ended, and its bound counts as broken."""
    out, into = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(out)
        _run(ledger, row, into)
    os.close(into)
    began, body = time.monotonic(), b""
    with os.fdopen(out, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, began + most_seconds - time.monotonic()))[0]:
            chunk = pipe.read(1 << 16)
            if not chunk:
                break
            body += chunk
    if not body:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if not body:
        return Stall(most_seconds, most_seconds, most_seconds, most_seconds, ["not done by then"], ["time"])
    stall: Stall = pickle.loads(body)
    return stall


def _run(ledger: Ledger, row: Callable[[Place], None], into: int) -> None:
    """In the fork: never returns."""
    try:
        gc.enable()
        process.freeze()
        with TemporaryDirectory(prefix="hostport-bench-") as name:
            place = Place(ledger, Path(name))
            try:
                row(place)
            except Exception as error:  # noqa: BLE001 - a row that fails takes nothing from the others
                place.stall.warnings.append(" ".join(f"failed: {error!r}".split())[:200])
                place.stall.broken.append("failed")
            os.write(into, pickle.dumps(place.stall))
    finally:
        os._exit(0)


def median(values: list[float]) -> float:
    return statistics.median(values)
