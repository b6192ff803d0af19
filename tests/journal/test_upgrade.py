"""A journal of the first version, as the code of its time wrote it (`version1.sql`), is taken up whole."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from allocator.journal.contract import Answer, JournalError, Kept, Put
from allocator.journal.inspection import check
from allocator.journal.sqlite import SqliteJournal

from .flips import claim

SQL = Path(__file__).with_name("version1.sql").read_text(encoding="utf-8")
KEPT = Kept(
    claims=(claim(0), claim(2), claim(3)),
    answers=tuple(
        Answer(f"request-{n}", b"digest", claim(n).id, bytes([n]) * 90, 5.0 if n == 1 else None) for n in range(4)
    ),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "journal.db")) as connection:
        connection.executescript(SQL)
    return tmp_path / "journal.db"


async def test_a_journal_of_the_first_version_is_upgraded_with_all_that_it_holds(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        ((identity,),) = other.execute("SELECT identity FROM journal")

    journal = SqliteJournal(path).open_now()
    found = journal.load(), journal.identity, journal.set_aside
    assert await journal.record([Put(claim(4))])
    journal.close()

    assert found == (KEPT, identity, [])
    assert [line.partition(":")[0] for line in check(path)] == ["pages and indexes", "records", "commits"]


def test_a_journal_that_cannot_be_upgraded_now_stays_as_it_is(path: Path) -> None:
    """Somebody has locked it: it is upgraded when nobody has."""
    before, journal = path.read_bytes(), SqliteJournal(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="locked"):
            journal.open_now()
    assert path.read_bytes() == before

    journal.open_now()
    assert journal.load() == KEPT
    journal.close()


def test_a_damaged_record_of_the_first_version_is_set_aside_and_the_others_go_on(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"LEASED"', b'"LEESED"', 1))

    journal = SqliteJournal(path).open_now()
    kept, asides = journal.load(), journal.set_aside
    journal.close()

    assert (len(kept.claims), set(kept.claims) <= set(KEPT.claims), len(asides)) == (2, True, 1)
