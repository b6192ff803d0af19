"""A world: one API server, one disk at a time, and one allocator after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count

import pytest
from cluster.apiserver import ApiServer

from allocator.cluster.lease import Legacy
from portleases.stack import Allocator, Disk


class World:
    """See the module."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.now = 1_767_225_600.0  # 2026-01-01T00:00:00Z
        self._ids = count(1)
        self._disk = Disk()
        self._alive: list[Allocator] = []

    async def allocator(self, *, keeps_journal: bool = True, legacy: Legacy | None = None) -> Allocator:
        """Starts the next allocator; the one before is dead by then. Without its journal it is on another node."""
        if not keeps_journal:
            self._disk = Disk()
        one = Allocator(self.server, self._disk, now=lambda: self.now, ids=self._ids)
        one.legacy = legacy or (Legacy.JOURNAL if keeps_journal else Legacy.NOTHING)
        self._alive.append(one)
        await one.start()
        return one

    async def after_death(
        self, one: Allocator, *, keeps_journal: bool = True, legacy: Legacy | None = None
    ) -> Allocator:
        await one.die()
        self._alive.remove(one)
        return await self.allocator(keeps_journal=keeps_journal, legacy=legacy)

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
