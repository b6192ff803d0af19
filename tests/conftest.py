"""Settings of every test, and the fixtures that start the service."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis.strategies import none

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


TESTS = Path(__file__).parent
LONGEST = (
    "oracle/test_oracle.py",
    "model/test_model.py",
    "crash/test_clocks.py",
    "test_large_asks.py",
    "core/test_costs.py",
    "crash/test_crash.py",
    "shim/test_review_cost.py",
    "allocator/test_failures.py",
    "allocator/test_program.py",
    "allocator/test_standby.py",
    "core/test_counts.py",
    "cluster/test_scheduler_rule.py",
    "fuzz/test_reviews.py",
    "certificates/test_rollover.py",
    "test_skew.py",
    "test_connections.py",
    "test_again.py",
)
"""The files whose tests take longest together, in the order in which `make test` begins them: the last file that is
begun should be short, since all workers but one wait for it. One that waits stands beside one that computes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts by LONGEST.

    Raises:
        pytest.UsageError: a file of LONGEST is not there.

    """
    if gone := [name for name in LONGEST if not (TESTS / name).exists()]:
        raise pytest.UsageError(f"LONGEST in tests/conftest.py names files that are not there: {', '.join(gone)}")
    ranks = {TESTS / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_collection_finish() -> None:
    """What was collected stays to the end: the garbage collector need not go through it again and again.

    Hypothesis keeps a source of random numbers for each thread, and asks the garbage collector who refers to it. What is
    frozen is not told, so that Hypothesis would warn of a source that nobody keeps. A first test makes it before.
    """
    settings(max_examples=1, database=None)(given(none())(lambda _: None))()
    gc.collect()
    gc.freeze()


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
