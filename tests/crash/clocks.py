"""What clocks do to leases: a real allocator whose wall clock is set, or which is stopped, while leases run out.

`python -m tests.crash.clocks` runs the long rows (a process that is stopped for a minute) and prints the table of
docs/availability.md; `test_clocks.py` runs short ones. The wall clock is faked by libfaketime (Debian: libfaketime).

Every lease is of one number of its own. Rivals ask for these numbers all along, and holders look after their leases. A
lease has to last for as long as it was granted, plus the time for which the allocator did not answer; then its number
is given to a rival, and not before. Repeating the request of a lease that has ended must be refused.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from allocator.clock import LONGEST_SECONDS
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc

from .server import Server

FIRST = 21_000
POLL_SECONDS = 0.2
SLACK_SECONDS = 0.5
PATIENCE_SECONDS = 10.0
"""A lease may last longer: what was not journalled of the clock, and the time of a start."""


def faketime() -> str:
    """The library that fakes the wall clock; empty where it is not installed."""
    found = (path for root in Path("/").glob("usr/lib*") for path in root.rglob("libfaketimeMT.so.1"))
    return str(next(found, ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long everything takes, in seconds."""

    ttl: float
    stop: float
    leases: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What came of one row."""

    leases: int
    given_twice: int
    ended_early: int
    answered_as_granted: int
    never_ended: int
    shortest: float
    """Seconds that the first lease to end was late."""

    @property
    def is_right(self) -> bool:
        return not (self.given_twice or self.ended_early or self.answered_as_granted or self.never_ended)


class World:
    """An allocator and the wall clock that it sees."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.plan = plan
        self._offset = folder / "offset"
        self.set_to("+0")
        environ = {
            "LD_PRELOAD": faketime(),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.server = Server(folder, environ=environ)

    def set_to(self, offset: str) -> None:
        """Sets the wall clock, such as `+2h`."""
        draft = self._offset.with_suffix(".new")
        draft.write_text(f"{offset}\n", encoding="ascii")
        draft.rename(self._offset)

    async def restart(self, number: signal.Signals, offset: str) -> None:
        self.server.signal(number)
        await self.server.ended()
        self.set_to(offset)
        await self.server.start()
        await self.server.serving()

    async def pause(self, offset: str = "+0") -> None:
        self.server.signal(signal.SIGSTOP)
        await asyncio.sleep(self.plan.stop)
        self.set_to(offset)
        self.server.signal(signal.SIGCONT)


async def _set(world: World, offset: str) -> None:
    world.set_to(offset)


Row = Callable[[World], Awaitable[None]]
ROWS: dict[str, Row] = {
    "nothing": lambda world: _set(world, "+0"),
    "set forward by 2 h while it runs": lambda world: _set(world, "+2h"),
    "set back by 2 h while it runs": lambda world: _set(world, "-2h"),
    "kill -9, started on a clock 2 h ahead": lambda world: world.restart(signal.SIGKILL, "+2h"),
    "kill -9, started on a clock 2 h behind": lambda world: world.restart(signal.SIGKILL, "-2h"),
    "SIGTERM, started on a clock 2 h ahead": lambda world: world.restart(signal.SIGTERM, "+2h"),
    "SIGTERM, started on a clock 2 h behind": lambda world: world.restart(signal.SIGTERM, "-2h"),
    "stopped (SIGSTOP)": lambda world: world.pause(),
    "stopped (SIGSTOP), the clock is 2 h ahead after it": lambda world: world.pause("+2h"),
}


class Watch:
    """Looks after the leases of a row, and lets rivals ask for their numbers."""

    def __init__(self, world: World, stub: Any) -> None:
        self._plan = world.plan
        self._stub = stub
        self._granted: dict[int, tuple[str, float]] = {}  # id, and when it was asked for, by number
        self._ends: dict[int, float] = {}
        self.counts = {"given_twice": 0, "ended_early": 0, "answered_as_granted": 0}

    async def lease(self) -> None:
        for number in range(FIRST, FIRST + self._plan.leases):
            asked = time.monotonic()
            response = await self._stub.Allocate(self._ask(number, "holder", f"q{number}"), wait_for_ready=True)
            self._granted[number] = (response.allocation.id, asked)

    async def see_to_the_end(self, silence: float, counted: float) -> Seen:
        """Until all have ended. `silence`: for how long the allocator did not answer; `counted`: of that, as time."""
        due = {number: asked + self._plan.ttl + silence - counted for number, (_, asked) in self._granted.items()}
        until = max(due.values()) + PATIENCE_SECONDS + silence
        while len(self._ends) < len(due) and time.monotonic() < until:
            for number in due.keys() - self._ends.keys():
                await self._look(number, due[number])
            await asyncio.sleep(POLL_SECONDS)
        late = [end - due[number] for number, end in self._ends.items()]
        return Seen(leases=len(due), never_ended=len(due) - len(late), shortest=min(late, default=0.0), **self.counts)

    async def _look(self, number: int, due: float) -> None:
        claim_id, _ = self._granted[number]
        is_given = await self._succeeds(self._stub.Allocate(self._ask(number, "rival"), timeout=2))
        lives = await self._succeeds(self._stub.GetAllocation(pb.GetAllocationRequest(id=claim_id), timeout=2))
        if lives is None or is_given is None:
            return  # it does not answer
        now = time.monotonic()
        if is_given and lives:
            self.counts["given_twice"] += 1
        if is_given or not lives:
            self._ends[number] = now
            self.counts["ended_early"] += now < due - SLACK_SECONDS
            again = await self._succeeds(self._stub.Allocate(self._ask(number, "holder", f"q{number}"), timeout=2))
            self.counts["answered_as_granted"] += bool(again)

    async def _succeeds(self, call: Any) -> bool | None:
        """None: there is no answer."""
        try:
            await call
        except grpc.aio.AioRpcError as error:
            is_silent = error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
            return None if is_silent else False
        return True

    def _ask(self, number: int, name: str, request_id: str = "") -> pb.AllocateRequest:
        return pb.AllocateRequest(
            owner=pb.Owner(kind="Test", name=name),
            policy=pb.POLICY_STATIC,
            ports=[pb.PortRequest(name="p", host_port=number)],
            ttl=Duration(seconds=int(self._plan.ttl)),
            request_id=request_id,
        )


async def see(row: str, plan: Plan, folder: Path) -> Seen:
    """Runs one row in an empty folder."""
    world = World(folder, plan)
    try:
        await world.server.start()
        await world.server.serving()
        async with grpc.aio.insecure_channel(world.server.address) as channel:
            watch = Watch(world, pb_grpc.AllocatorServiceStub(channel))
            await watch.lease()
            is_paused, began = row.startswith("stopped"), time.monotonic()
            await ROWS[row](world)
            silence = time.monotonic() - began if is_paused or "started" in row else 0.0
            return await watch.see_to_the_end(silence, LONGEST_SECONDS if is_paused else 0.0)
    finally:
        world.server.signal(signal.SIGCONT)
        await world.server.kill()


def main() -> int:
    """Exit status: 0 all rows are right, 1 otherwise, 2 there is no libfaketime."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.clocks", description=__doc__)
    parser.add_argument("--ttl", type=float, default=45.0, help="seconds of each lease (default 45)")
    parser.add_argument("--stop", type=float, default=60.0, help="seconds for which it is stopped (default 60)")
    parser.add_argument("--only", default="", help="rows whose name has this")
    options = parser.parse_args()
    if not faketime():
        sys.stderr.write("there is no libfaketime here: install it (Debian: libfaketime)\n")
        return 2
    sys.stdout.write("| what happens | leases | given twice | ended early | ended later by |\n|---|---|---|---|---|\n")
    is_right = True
    for row in (each for each in ROWS if options.only in each):
        with tempfile.TemporaryDirectory(prefix="hostport-clocks-") as folder:
            seen = asyncio.run(see(row, Plan(ttl=options.ttl, stop=options.stop), Path(folder)))
        is_right &= seen.is_right
        late = f"{max(0.0, seen.shortest):.1f} s or more"
        sys.stdout.write(f"| {row} | {seen.leases} | {seen.given_twice} | {seen.ended_early} | {late} |\n")
        sys.stdout.flush()
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
