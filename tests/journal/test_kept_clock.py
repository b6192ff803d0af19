"""The journal keeps the reading of the allocator's clock, and a journal of the time before is taken as it was meant."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from msgspec.structs import replace

from allocator.app.build import Collaborators, build
from allocator.clock import Clock
from allocator.core.admission import LedgerRules
from allocator.core.claims import Claim, ClaimId, ClaimPort, Owner, State
from allocator.core.ledger import Ledger
from allocator.engine import Engine
from allocator.journal.contract import CommitMeters, Drop, Put
from allocator.journal.sqlite import SqliteJournal
from allocator.journal.tables import encode_claim
from allocator.maintenance import CLOCK_SECONDS
from allocator.slices import at_once

WALL = 1_800_000_000.0
LEASE = Claim(
    id=ClaimId("a" * 32),
    owner=Owner(kind="Relay", name="r1"),
    state=State.LEASED,
    ports=(ClaimPort(host_port=7000),),
    created=WALL - 100,
    expires=WALL + 600,
)


class Machine:
    """One allocator after the other on one journal. Its wall clock is set, its steady clock goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.wall, self.steady = WALL, 10.0
        self.commits: list[object] = []

    def start(self) -> tuple[Engine, SqliteJournal]:
        journal = SqliteJournal(self._path, meters=CommitMeters(submissions=self.commits.append)).open_now()
        clock = Clock(wall=lambda: self.wall, steady=lambda: self.steady)
        ids = iter(f"{number:032x}" for number in range(100))
        given = Collaborators(
            ledger=Ledger(LedgerRules()), journal=journal, new_id=lambda: ClaimId(next(ids)), clock=clock
        )
        engine = build(given).engine
        at_once(engine.recovery.restore(journal))
        engine.is_serving = True
        return engine, journal

    def pass_time(self, seconds: float, engine: Engine) -> None:
        for _ in range(int(seconds)):
            self.wall += 1.0
            self.steady += 1.0
            engine.clock()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "journal.db")


def left(engine: Engine) -> list[float]:
    return [round((claim.expires or 0.0) - engine.clock(), 3) for claim in engine.recovery.leases()]


async def test_a_start_goes_on_from_the_reading_of_the_last_commit(machine: Machine) -> None:
    engine, journal = machine.start()
    await journal.record([Put(LEASE)])
    machine.pass_time(100, engine)
    await journal.record([])
    machine.pass_time(3, engine)  # which no commit has kept
    journal.close()
    machine.wall += 7200

    engine, journal = machine.start()

    assert left(engine) == [500.0]
    assert engine.clock.wall() - engine.clock() == pytest.approx(engine.clock.ahead)
    journal.close()


async def test_the_clock_is_kept_while_something_ends_by_it(machine: Machine) -> None:
    engine, journal = machine.start()
    await journal.record([Put(LEASE)])
    journal.close()
    engine, journal = machine.start()
    for _ in range(60):
        machine.pass_time(1, engine)
        engine.maintenance.tick()
    journal.close()

    engine, journal = machine.start()

    assert 540.0 <= left(engine)[0] <= 540.0 + CLOCK_SECONDS
    journal.close()


async def test_nothing_is_written_for_a_clock_that_nobody_waits_for(machine: Machine) -> None:
    engine, journal = machine.start()
    for _ in range(60):
        machine.pass_time(1, engine)
        engine.maintenance.tick()
    await journal.record([Drop(ClaimId("b" * 32), 0.0)])

    assert len(machine.commits) == 1
    journal.close()


FIRST_SCHEMA = """
PRAGMA application_id = 0x48505254;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
CREATE TABLE journal (identity TEXT NOT NULL);
INSERT INTO journal VALUES (lower(hex(randomblob(16))));
CREATE TABLE claims (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE answers (
    seq INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL, digest BLOB NOT NULL, claim_id TEXT NOT NULL, response BLOB NOT NULL, ended REAL
);
CREATE INDEX answers_by_end ON answers (ended) WHERE ended IS NOT NULL;
"""


def write_as_the_first_version(path: Path, claim: Claim) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(FIRST_SCHEMA)
    connection.execute("INSERT INTO claims (id, body) VALUES (?, ?)", (claim.id, encode_claim(claim)))
    connection.close()


OLD = {"time is left": (600.0, 600.0), "it is over": (-600.0, -600.0)}


@pytest.mark.parametrize(("ends_in", "is_left"), OLD.values(), ids=OLD.keys())
async def test_a_journal_of_a_time_without_the_clock_has_what_was_left_by_the_wall_clock(
    machine: Machine, tmp_path: Path, ends_in: float, is_left: float
) -> None:
    """Whose ends were instants of the wall clock. From the first start on they are kept as the others."""
    write_as_the_first_version(tmp_path / "journal.db", replace(LEASE, expires=WALL + ends_in))

    engine, journal = machine.start()
    assert left(engine) == [is_left]
    await journal.record([])
    journal.close()
    machine.wall += 7200
    engine, journal = machine.start()

    assert left(engine) == [is_left]
    journal.close()
