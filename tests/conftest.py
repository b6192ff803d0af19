"""Settings of every test, and the fixtures that start the service."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings

from allocator.access.guard import Guard
from allocator.core.admission import DEFAULT_SHARES, LedgerRules
from allocator.core.candidates import NodeName
from allocator.core.ports import parse_numbers
from allocator.journal.contract import Journal
from allocator.journal.memory import MemoryJournal
from allocator.journal.sqlite import SqliteJournal
from testing.servicekit import Running, Start

settings.register_profile("default", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("default")


def pytest_configure() -> None:
    """In the background of a shell Ctrl-C is ignored, by us and so by every program that we start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


RULES = LedgerRules(reserved=parse_numbers("22,6443"), shares=DEFAULT_SHARES, implicit_node=NodeName("localhost"))


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a service; `durable=True` on the journal of this test, so that a second start is a restart."""
    running: list[tuple[Running, Journal]] = []

    async def start_one(*, durable: bool = False, rules: LedgerRules = RULES, guard: Guard | None = None) -> Running:
        for earlier, journal in running:
            await earlier.stop()
            journal.close()
        running.clear()
        journal = SqliteJournal(tmp_path / "journal.db").open_now() if durable else MemoryJournal()
        one = Running(journal, rules, guard or Guard())
        running.append((one, journal))
        await one.start()
        return one

    yield start_one
    for one, journal in running:
        await one.stop()
        journal.close()


@pytest.fixture
async def service(start: Start) -> Running:
    return await start()
