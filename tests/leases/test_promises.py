"""Whatever happens in whatever order: what a holder was told is kept, and journal, objects and books end up agreeing."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.core.asks import NotServedError, Refused
from allocator.core.claims import Claim, ClaimId
from leases.conftest import World
from leases.stack import NODE, NUMBER, Allocator, shown
from testing.apiserver import ApiServer, Fail, Fault, Lost
from testing.kit import on
from testing.waiting import until

TTL = 600.0
FAULTS: tuple[tuple[str, Fault] | None, ...] = (
    None,
    None,
    ("create", Lost()),
    ("create", Fail(403)),
    ("patch", Lost()),
    ("patch", Fail(500)),
    ("patch", Fail(403)),
    ("delete", Lost()),
    ("delete", Fail(500)),
)
fault = st.sampled_from(FAULTS)
which = st.integers(0, 2)
step = st.one_of(
    st.tuples(st.just("lease"), which, fault),
    st.tuples(st.just("lease"), which, fault),
    st.tuples(st.just("release"), which, fault),
    st.tuples(st.just("renew"), which, st.sampled_from([TTL / 2, TTL, TTL * 2]), fault),
    st.tuples(st.just("delete"), which),
    st.tuples(st.just("wait"), st.sampled_from([1.0, TTL / 2, TTL, TTL * 3])),
    st.tuples(st.just("reconcile"), fault),
    st.tuples(st.just("restart"), st.booleans()),
)


class Holders:
    """Drives a world, and remembers what holders were told: by number, the lease and until when."""

    def __init__(self, world: World, one: Allocator) -> None:
        self._world = world
        self._one = one
        self._told: dict[int, Claim] = {}

    async def do(self, what: str, *arguments: Any) -> None:
        await getattr(self, f"_{what}")(*arguments)
        await self._quiet()
        self._check()

    def _script(self, fault: tuple[str, Fault] | None) -> None:
        self._world.server.scripts.clear()
        if fault is not None:
            self._world.server.script(f"{fault[0]} portleases", fault[1])

    async def _lease(self, which: int, fault: Any) -> None:
        self._script(fault)
        number = NUMBER + which
        try:
            claim = await self._one.lease(number=number, ttl=TTL, constraints=on(NODE))
        except NotServedError:
            return
        except Refused:
            assert number in self._told, "a number that nobody holds is refused"
            return
        assert number not in self._told, "a number is handed out twice"
        self._told[number] = claim

    async def _release(self, which: int, fault: Any) -> None:
        claim = self._told.pop(NUMBER + which, None)  # who has asked for it counts on it no more
        if claim is not None:
            self._script(fault)
            await self._one.engine.release(claim.id)

    async def _renew(self, which: int, ttl: float, fault: Any) -> None:
        claim = self._told.get(NUMBER + which)
        if claim is not None:
            self._script(fault)
            with contextlib.suppress(NotServedError):
                self._told[NUMBER + which] = await self._one.engine.renew(claim.id, ttl)

    async def _delete(self, which: int) -> None:
        claim = self._told.pop(NUMBER + which, None)
        for obj in shown(self._world.server):
            if claim is not None and obj["spec"]["allocationID"] == claim.id:
                self._world.server.delete("portleases", obj["metadata"]["name"], "lessee")
                await until(lambda: self._one.engine.ledger.claims.get(claim.id) is None, seconds=10, every=0.001)

    async def _wait(self, seconds: float) -> None:
        self._world.now += seconds
        self._one.engine.maintenance.tick()
        now = self._world.now
        self._told = {number: claim for number, claim in self._told.items() if (claim.expires or 0) > now}

    async def _reconcile(self, fault: Any) -> None:
        self._script(fault)
        await self._one.reconciler.reconcile()

    async def _restart(self, keeps_journal: bool) -> None:
        self._world.server.scripts.clear()
        self._one = await self._world.after_death(self._one, keeps_journal=keeps_journal)
        if not keeps_journal:
            # Nobody else knows: who had released it, or let it run out, may find it held again.
            self._one.engine.maintenance.tick()

    async def _quiet(self) -> None:
        await until(lambda: not self._one.durability._tasks, seconds=10, every=0.001)

    def _check(self) -> None:
        held = {claim.id: claim for claim in self._one.engine.recovery.leases()}
        for claim in self._told.values():
            assert claim.id in held
            assert (held[claim.id].expires or 0) >= (claim.expires or 0)

    async def agree(self) -> None:
        self._script(None)
        await self._one.reconciler.reconcile()
        await self._one.reconciler.reconcile()
        leases = {claim.id for claim in self._one.engine.recovery.leases()}
        objects = [ClaimId(obj["spec"]["allocationID"]) for obj in shown(self._world.server)]
        assert sorted(objects) == sorted(leases)
        assert set(self._one.inner.disk.claims) == leases
        assert self._one.taken == self._one.held


async def run(steps: list[Any]) -> None:
    server = ApiServer()
    await server.start()
    world = World(server)
    try:
        holders = Holders(world, await world.allocator())
        for what in steps:
            await holders.do(*what)
        await holders.agree()
    finally:
        await world.end()
        await server.stop()


@settings(max_examples=15, deadline=None)
@given(st.lists(step, max_size=12))
def test_no_promise_is_broken(steps: list[Any]) -> None:
    with patch("allocator.cluster.client.FIRST_PAUSE_SECONDS", 0.002):
        asyncio.run(run(steps))
