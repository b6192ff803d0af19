"""A world: one API server, one disk at a time, and one allocator after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count

import pytest

from allocator.clock import Clock
from allocator.cluster.lease import Legacy
from leases.stack import Allocator, Disk
from testing.apiserver import ApiServer


class World:
    """See the module."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.now = 1_767_225_600.0  # 2026-01-01T00:00:00Z
        self.wall_ahead = 0.0
        self._ids = count(1)
        self._disk = Disk()
        self._alive: list[Allocator] = []

    @property
    def wall(self) -> float:
        """What the wall clock shows."""
        return self.now + self.wall_ahead

    def pass_time(self, seconds: float) -> None:
        """The allocators read their clocks meanwhile."""
        for _ in range(int(seconds)):
            self.now += 1.0
            for one in self._alive:
                one.engine.clock()

    async def allocator(
        self, *, keeps_journal: bool = True, legacy: Legacy | None = None, has_clock: bool = False
    ) -> Allocator:
        """Starts the next allocator; the one before is dead by then. Without its journal it is on another node.

        `has_clock`: it has a clock of its own beside the wall clock; else the latter is its time.
        """
        if not keeps_journal:
            self._disk = Disk()
        clock = Clock(wall=lambda: self.wall, steady=lambda: self.now) if has_clock else None
        one = Allocator(self.server, self._disk, now=lambda: self.now, ids=self._ids, clock=clock)
        one.legacy = legacy or (Legacy.JOURNAL if keeps_journal else Legacy.NOTHING)
        self._alive.append(one)
        await one.start()
        return one

    async def after_death(
        self,
        one: Allocator,
        *,
        keeps_journal: bool = True,
        legacy: Legacy | None = None,
        has_clock: bool = False,
    ) -> Allocator:
        await one.die()
        self._alive.remove(one)
        return await self.allocator(keeps_journal=keeps_journal, legacy=legacy, has_clock=has_clock)

    async def end(self) -> None:
        for one in self._alive:
            await one.die()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    server = ApiServer()
    await server.start()
    world = World(server)
    yield world
    await world.end()
    await server.stop()
