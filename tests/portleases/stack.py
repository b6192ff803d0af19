"""The engine with its leases in a simulated API server, a journal that can be lost, and a clock that tests turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from cluster.apiserver import ApiServer, Object
from kit import lease, node

from allocator.clock import Clock
from allocator.cluster.lease import Legacy
from allocator.cluster.watching import Pace
from allocator.core.asks import Ask, Warned
from allocator.core.claims import Claim, ClaimId
from allocator.core.ledger import Ledger, Rules
from allocator.engine import Engine, RequestMark, always
from allocator.journal.contract import Answer, Drop, Entry, Forget, JournalError, Kept, Put, no_clock
from allocator.portleases.parts import Parts
from allocator.slices import at_once

NODE = "n1"
NUMBER = 21000


class Disk:
    """What outlives a process, unless its node goes."""

    def __init__(self) -> None:
        self.claims: dict[ClaimId, Claim] = {}
        self.answers: list[Answer] = []
        self.clock: float | None = None


class DiskJournal:
    """A journal on such a disk, that can be full: `is_full`."""

    set_aside: Sequence[str] = ()
    began_anew_at = 0.0
    trouble = ""

    def __init__(self, disk: Disk) -> None:
        self.identity = f"journal-{id(disk)}"
        self._disk = disk
        self.clock = no_clock
        self.is_full = False
        self.dies_after_commit = False  # its answer never comes

    async def open(self) -> None:
        pass

    def load(self) -> Kept:
        return Kept(tuple(self._disk.claims.values()), tuple(self._disk.answers), self._disk.clock)

    def submit(self, entries: Sequence[Entry], is_wanted: Callable[[], bool]) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self.is_full:
            future.set_exception(JournalError("the disk is full"))
            return future
        is_kept = is_wanted()
        for entry in entries if is_kept else ():
            self._apply(entry)
        self._disk.clock = self.clock()
        if not self.dies_after_commit:
            future.set_result(is_kept)
        return future

    def _apply(self, entry: Entry) -> None:
        disk = self._disk
        match entry:
            case Put(claim):
                disk.claims[claim.id] = claim
            case Answer():
                disk.answers.append(entry)
            case Drop(claim_id, at):
                disk.claims.pop(claim_id, None)
                disk.answers = [
                    Answer(a.request_id, a.digest, a.claim_id, a.response, at if a.claim_id == claim_id else a.ended)
                    for a in disk.answers
                ]
            case Forget(before):
                disk.answers = [a for a in disk.answers if a.ended is None or a.ended >= before]

    def close(self) -> None:
        pass


class Allocator:
    """A process: it is killed by `die`, and nothing of it is heard again."""

    def __init__(
        self, server: ApiServer, disk: Disk, *, now: Callable[[], float], ids: count[int], clock: Clock | None = None
    ) -> None:
        self.legacy = Legacy.JOURNAL
        self.may_write = True
        self.inner = DiskJournal(disk)
        parts = Parts(
            server.client(),
            self.inner,
            may_write=lambda: self.may_write,
            now=clock or now,
            ahead=lambda: clock.ahead if clock else 0.0,
        )
        self.journal = parts.journal
        self.engine = Engine(
            ledger=Ledger(Rules()),
            journal=self.journal,
            now=clock or now,
            new_id=lambda: ClaimId(f"{next(ids):04x}".ljust(32, "0")),
            clock=clock,
        )
        at_once(self.engine.restore())
        self.engine.holds_lease = lambda: self.may_write
        self.keeper = parts.keeper(self.engine, legacy=lambda: self.legacy)
        self.keeper._follower._pace = Pace(stall_seconds=5.0)
        self._running: list[asyncio.Task[Any]] = []

    async def start(self) -> None:
        self.engine.observe(nodes=[node(NODE), node("n2")], lists_pods=True)
        self._running = [asyncio.create_task(self.keeper.run(pace_seconds=3600))]
        await asyncio.wait_for(self.keeper.recover(0, None), 5)
        self.engine.is_serving = True

    async def die(self) -> None:
        """As by kill -9: what is under way is not finished."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.journal.stop()
        await self.keeper.close()

    async def lease(self, request_id: str = "", *, number: int = NUMBER, name: str = "r1", **more: Any) -> Claim:
        """Leases one number and returns the claim."""
        mark = RequestMark(request_id, b"digest") if request_id else None
        ask = lease_ask(number, name, **more)
        sealed = await self.engine.allocate(ask, mark=mark, seal=seal, is_wanted=always)
        claim = self.engine.ledger.get(ClaimId(sealed.decode()))
        assert claim is not None
        return claim

    @property
    def held(self) -> set[int]:
        """The numbers that are leased."""
        return {port.host_port for claim in self.engine.leases() for port in claim.ports}

    @property
    def taken(self) -> set[int]:
        """The numbers that count as taken, also by what is not decided yet."""
        claims = self.engine.ledger._claims.values()
        return {port.host_port for claim in claims for port in claim.ports}


def lease_ask(number: int, name: str, **more: Any) -> Ask:
    return lease(name, f"media:0/UDP={number}", policy="Static", **more)


def seal(claim: Claim, warnings: Sequence[Warned]) -> bytes:
    return claim.id.encode()


def shown(server: ApiServer) -> list[Object]:
    """The PortLeases that hold something."""
    return [obj for obj in server.all("portleases") if obj.get("status", {}).get("node")]
