"""The engine with its leases in a simulated API server, a journal that can be lost, and a clock that tests turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from allocator.app.build import Collaborators, build
from allocator.clock import Clock
from allocator.cluster.lease import Legacy
from allocator.cluster.reflector import WatchTuning
from allocator.core.admission import LedgerRules
from allocator.core.asks import Ask
from allocator.core.claims import Claim, ClaimId, ClusterChange
from allocator.core.ledger import Ledger
from allocator.idempotency import IdempotencyKey
from allocator.journal.contract import Answer, Drop, Entry, Forget, JournalError, Kept, Put, always
from allocator.leases.reconciler import PortLeases
from allocator.slices import at_once
from testing.apiserver import ApiServer, Object
from testing.clock import FunctionClock
from testing.journals import EntryJournal
from testing.kit import lease, node

NODE = "n1"
NUMBER = 21000


class Disk:
    """What outlives a process, unless its node goes."""

    def __init__(self) -> None:
        self.claims: dict[ClaimId, Claim] = {}
        self.answers: list[Answer] = []
        self.clock: float | None = None


class DiskJournal(EntryJournal):
    """A journal on such a disk, that can be full: `is_full`."""

    def __init__(self, disk: Disk) -> None:
        self.identity = f"journal-{id(disk)}"
        self.disk = disk
        self.is_full = False
        self.dies_after_commit = False  # its answer never comes

    def _kept(self) -> Kept:
        return Kept(tuple(self.disk.claims.values()), tuple(self.disk.answers), self.disk.clock)

    def record(self, entries: Sequence[Entry], is_wanted: Callable[[], bool] = always) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self.is_full:
            future.set_exception(JournalError("the disk is full"))
            return future
        is_kept = is_wanted()
        for entry in entries if is_kept else ():
            self._apply(entry)
        self.disk.clock = self.clock()
        if not self.dies_after_commit:
            future.set_result(is_kept)
        return future

    def _apply(self, entry: Entry) -> None:
        disk = self.disk
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


class Allocator:
    """A process: it is killed by `die`, and nothing of it is heard again."""

    def __init__(
        self, server: ApiServer, disk: Disk, *, now: Callable[[], float], ids: count[int], clock: Clock | None = None
    ) -> None:
        self.legacy = Legacy.JOURNAL
        self.may_write = True
        self.inner = DiskJournal(disk)
        self.client = server.client()
        parts = PortLeases(
            self.client,
            self.inner,
            may_write=lambda: self.may_write,
            clock=clock or FunctionClock(now),
        )
        self.durability = parts.durability
        given = Collaborators(
            ledger=Ledger(LedgerRules()),
            journal=self.inner,
            clock=clock or FunctionClock(now),
            new_id=lambda: ClaimId(f"{next(ids):04x}".ljust(32, "0")),
            holds_lease=lambda: self.may_write,
            leases=parts,
        )
        self.engine = build(given).engine
        at_once(self.engine.recovery.restore(self.inner))
        self.cache = parts.cache
        self.reconciler = parts.reconciler(
            self.engine.recovery, legacy=lambda: self.legacy, tuning=WatchTuning(stall_seconds=5.0)
        )
        self._running: list[asyncio.Task[Any]] = []

    async def start(self) -> None:
        self.engine.maintenance.observe(ClusterChange(nodes=[node(NODE), node("n2")], lists_pods=True))
        self._running = [asyncio.create_task(self.reconciler.run(pace_seconds=3600))]
        await asyncio.wait_for(self.reconciler.recover(0, None), 5)
        self.engine.is_serving = True

    async def die(self) -> None:
        """As by kill -9: what is under way is not finished."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.durability.stop()
        await self.client.close()

    async def lease(self, request_id: str = "", *, number: int = NUMBER, name: str = "r1", **more: Any) -> Claim:
        """Leases one number and returns the claim."""
        key = IdempotencyKey(request_id, b"digest") if request_id else None
        ask = lease_ask(number, name, **more)
        encoded = await self.engine.allocate(ask, key=key, encode=encode_response, is_wanted=always)
        claim = self.engine.ledger.claims.get(ClaimId(encoded.response.decode()))
        assert claim is not None
        return claim

    @property
    def held(self) -> set[int]:
        """The numbers that are leased."""
        return {port.host_port for claim in self.engine.recovery.leases() for port in claim.ports}

    @property
    def taken(self) -> set[int]:
        """The numbers that count as taken, also by what is not decided yet."""
        claims = self.engine.ledger._claims.values()
        return {port.host_port for claim in claims for port in claim.ports}


def lease_ask(number: int, name: str, **more: Any) -> Ask:
    return lease(name, f"media:0/UDP={number}", policy="Static", **more)


def encode_response(claim: Claim, *_: object) -> bytes:
    return claim.id.encode()


def shown(server: ApiServer) -> list[Object]:
    """The PortLeases that hold something."""
    return [obj for obj in server.all("portleases") if obj.get("status", {}).get("node")]
