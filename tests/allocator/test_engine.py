"""What is journalled, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count

import pytest
from kit import ask, pod

from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId, PodUid
from allocator.core.ledger import Ledger, Rules
from allocator.engine import Engine, always
from allocator.journal.contract import Drop, Entry, Put
from allocator.journal.memory import MemoryJournal

NUMBER = "main:80=500"


class Recording(MemoryJournal):
    """What was submitted, in words."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def submit(self, entries: Sequence[Entry], is_wanted: Callable[[], bool]) -> asyncio.Future[bool]:
        self.lines += [_line(entry) for entry in entries]
        return super().submit(entries, is_wanted)


def _line(entry: Entry) -> str:
    match entry:
        case Put(claim):
            return f"{claim.owner.name} {claim.state.name}"
        case Drop(claim_id):
            return f"{claim_id} dropped"
    raise AssertionError(entry)


@pytest.fixture
def journal() -> Recording:
    return Recording()


@pytest.fixture
def engine(journal: Recording) -> Engine:
    ids = count(1)
    ledger = Ledger(Rules(implicit_node=NodeName("localhost")))
    engine = Engine(ledger=ledger, journal=journal, now=lambda: 1000.0, new_id=lambda: ClaimId(f"claim-{next(ids)}"))
    engine.is_serving = True
    return engine


async def grant(engine: Engine, name: str) -> Claim:
    claims: list[Claim] = []

    def seal(claim: Claim, _: object) -> bytes:
        claims.append(claim)
        return b""

    await engine.allocate(ask(name, NUMBER, policy="Static"), mark=None, seal=seal, is_wanted=always)
    return claims[0]


async def test_a_pod_that_comes_into_sight_takes_no_commit_of_its_own_and_is_journalled_with_the_tick(
    engine: Engine, journal: Recording
) -> None:
    claim = await grant(engine, "first")
    engine.observe(pods=[pod("first", NUMBER, carried_id=claim.id, at="localhost")], lists_pods=False)
    assert journal.lines == ["first RESERVED"]

    engine.tick()
    assert journal.lines == ["first RESERVED", "first BOUND"]


async def test_a_port_is_journalled_as_free_before_it_is_journalled_as_taken_again(
    engine: Engine, journal: Recording
) -> None:
    claim = await grant(engine, "first")
    engine.observe(pods=[pod("first", NUMBER, uid="uid-1", carried_id=claim.id, at="localhost")], lists_pods=False)
    engine.observe(gone_pods=[PodUid("uid-1")], lists_pods=False)
    await grant(engine, "second")

    assert journal.lines == ["first RESERVED", "claim-1 dropped", "second RESERVED"]
