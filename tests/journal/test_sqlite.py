"""The SQLite journal: what it promises, and what it does with a file that is not whole."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from allocator.core.claims import Claim
from allocator.journal import opening, sqlite
from allocator.journal.contract import Answer, Drop, Entry, Forget, JournalError, JournalVersionError, Kept, Put
from allocator.journal.inspection import dump
from allocator.journal.opening import Opened, open_whole
from allocator.journal.places import Lock, acknowledge
from allocator.journal.reading import DamagedError
from allocator.journal.sqlite import LONELY_TURNS, QUIET_TURNS, SqliteJournal
from allocator.journal.tables import encode_claim
from allocator.journal.wal import Wal, read_wal
from testing.kit import Desk, ask, lease, on


def claims(count: int) -> list[Claim]:
    desk = Desk("n1")
    desk.ledger.trust_pods(0)
    granted = [desk.grant(ask(f"web-{n}", "x:1", "y:53", "z:53/UDP", controller="rs")) for n in range(count - 1)]
    return [*granted, desk.grant(lease("relay", "x:0", constraints=on("n1")))]


CLAIMS = claims(4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


async def write(path: Path, *submissions: list[Entry]) -> None:
    journal = SqliteJournal(path).open_now()
    try:
        for entries in submissions:
            assert await journal.record(entries)
    finally:
        journal.close()


def read(path: Path) -> tuple[Kept, list[Path]]:
    """What a new allocator would find, and where damaged files went."""
    journal = SqliteJournal(path).open_now()
    try:
        return journal.load(), [Path(name) for name in journal.set_aside]
    finally:
        journal.close()


def answer(request_id: str, claim: Claim, *, ended: float | None = None) -> Answer:
    return Answer(request_id, b"digest", claim.id, b"response", ended)


async def test_what_was_submitted_is_there_after_a_restart(path: Path) -> None:
    a, b, c, d = CLAIMS
    await write(path, [Put(a), answer("r1", a)], [Put(b), Put(c)], [Put(d), Drop(b.id, 5.0)])

    assert read(path) == (Kept(claims=(a, c, d), answers=(answer("r1", a),)), [])


def test_a_journal_has_a_name_that_stays_with_the_file(path: Path, tmp_path: Path) -> None:
    names = []
    for file in (path, path, tmp_path / "another.db"):
        journal = SqliteJournal(file).open_now()
        names.append(journal.identity)
        journal.close()

    assert names[0] == names[1] != names[2]
    assert len(names[0]) == 32


async def test_answers_fade_with_their_claim_and_are_forgotten(path: Path) -> None:
    a, b, *_ = CLAIMS
    await write(path, [Put(a), answer("r1", a), Put(b), answer("r2", b)], [Drop(a.id, 5.0), Drop(b.id, 9.0)])
    assert read(path)[0].answers == (answer("r1", a, ended=5.0), answer("r2", b, ended=9.0))

    await write(path, [Forget(before=9.0)])
    assert read(path)[0].answers == (answer("r2", b, ended=9.0),)


async def test_concurrent_submissions_share_commits(path: Path) -> None:
    journal = SqliteJournal(path).open_now()
    commits: list[str] = []
    journal._connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)

    assert all(await asyncio.gather(*(journal.record([Put(CLAIMS[0])]) for _ in range(200))))

    journal.close()
    assert len(commits) < 50


async def test_a_submission_that_is_alone_again_waits_for_fewer_turns_of_the_loop(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "TURN_SECONDS", 60.0)  # every turn is short
    turns: list[int] = []

    class Counting(SqliteJournal):
        def _gather(self, *arguments: Any) -> None:
            turns[-1] += 1
            super()._gather(*arguments)

    journal = Counting(path).open_now()
    for together in (1, 1, 2, 1, 1):
        turns.append(0)
        await asyncio.gather(*(journal.record([Put(CLAIMS[0])]) for _ in range(together)))
    journal.close()

    first, lonely, shared = QUIET_TURNS + 1, LONELY_TURNS + 1, QUIET_TURNS + 1
    assert turns == [first, lonely, shared, first, lonely]


async def test_what_nobody_wants_any_more_is_not_committed(path: Path) -> None:
    journal = SqliteJournal(path).open_now()
    unwanted = journal.record([Put(CLAIMS[0])], lambda: False)
    wanted = journal.record([Put(CLAIMS[1])])
    assert [await unwanted, await wanted] == [False, True]
    journal.close()

    assert read(path)[0].claims == (CLAIMS[1],)


async def test_a_commit_that_fails_keeps_nothing_and_the_next_one_works(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = SqliteJournal(path).open_now()
    (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")  # the disk is full
    huge = Answer("r1", b"", CLAIMS[0].id, b"x" * 1_000_000)
    with caplog.at_level(logging.CRITICAL), pytest.raises(JournalError, match="full"):
        await journal.record([Put(CLAIMS[0]), huge])
    journal._connection.execute("PRAGMA max_page_count = 1000000")
    assert await journal.record([Put(CLAIMS[1])])
    journal.close()

    assert read(path)[0] == Kept(claims=(CLAIMS[1],))


async def test_after_a_commit_that_fails_the_rows_that_it_was_about_are_known_as_they_are(path: Path) -> None:
    """Else the next change of one of them would leave its old row, and the next start would find two."""
    a, b, c, _ = CLAIMS
    journal = SqliteJournal(path).open_now()
    assert await journal.record([Put(a), answer("r1", a), Put(b), answer("r2", b)])
    (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")  # the disk is full
    huge = Answer("r3", b"", c.id, b"x" * 1_000_000)
    with pytest.raises(JournalError, match="full"):
        await journal.record([Drop(a.id, 1.0), Put(b), Put(c), huge])
    journal._connection.execute("PRAGMA max_page_count = 1000000")

    assert await journal.record([Put(a), Put(b), Drop(b.id, 5.0), Put(c)])
    journal.close()

    assert read(path)[0] == Kept(claims=(a, c), answers=(answer("r1", a), answer("r2", b, ended=5.0)))


async def test_what_was_committed_before_a_long_lock_is_whole_after_it(path: Path) -> None:
    first, refused, second = CLAIMS[:3]
    journal = SqliteJournal(path).open_now()
    assert await journal.record([Put(first)])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="locked"):
            await journal.record([Put(refused)])
        other.execute("ROLLBACK")
    assert await journal.record([Put(second)])
    journal.close()

    kept, set_aside = read(path)
    assert (list(kept.claims), set_aside) == ([first, second], [])


async def test_a_journal_has_one_user(path: Path) -> None:
    journal = SqliteJournal(path).open_now()
    with pytest.raises(JournalError, match="in use by another allocator"):
        SqliteJournal(path).open_now()
    journal.close()
    assert read(path) == (Kept(), [])


# -- files that are not whole


@pytest.fixture
async def snapshots(path: Path) -> list[tuple[bytes, bytes]]:
    """(database, WAL) as a power cut would leave them after each of three commits."""
    journal = SqliteJournal(path).open_now()
    journal.load()
    taken = []
    for claim in CLAIMS[:3]:
        await journal.record([Put(claim)])
        taken.append((path.read_bytes(), path.with_name("journal.db-wal").read_bytes()))
    journal.close()
    return taken


def lay(folder: Path, database: bytes, wal: bytes = b"") -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / "journal.db"
    path.write_bytes(database)
    if wal:
        path.with_name("journal.db-wal").write_bytes(wal)
    return path


def test_a_crash_after_a_commit_loses_nothing(tmp_path: Path, snapshots: list[tuple[bytes, bytes]]) -> None:
    for count, (database, wal) in enumerate(snapshots, start=1):
        assert read(lay(tmp_path / "crash", database, wal)) == (Kept(claims=tuple(CLAIMS[:count])), [])


def cuts(size: int) -> Iterator[int]:
    """Every hundredth byte, and those around each page and frame."""
    near = {base + off for base in range(0, size, 4096 + 24) for off in (-1, 0, 1, 24, 32)}
    return (cut for cut in sorted(near | set(range(0, size, 101))) if 0 < cut < size)


def test_a_torn_wal_is_cut_back_to_a_whole_commit(tmp_path: Path, snapshots: list[tuple[bytes, bytes]]) -> None:
    prefixes = [tuple(CLAIMS[:count]) for count in range(4)]
    database, wal = snapshots[-1]
    for cut in cuts(len(wal)):
        kept, aside = read(lay(tmp_path / "torn", database, wal[:cut]))
        assert aside == [], cut
        assert kept.claims in prefixes, cut


def test_junk_behind_the_wal_changes_nothing(tmp_path: Path, snapshots: list[tuple[bytes, bytes]]) -> None:
    database, wal = snapshots[-1]

    assert read(lay(tmp_path / "junk", database, wal + b"junk" * 999)) == (Kept(claims=tuple(CLAIMS[:3])), [])


async def test_a_database_that_was_cut_is_set_aside_and_nothing_unsound_is_taken_from_it(
    tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await write(path, [Put(claim) for claim in CLAIMS])
    whole = path.read_bytes()
    for cut in (0, 1, 50, 100, 1000, 4096, len(whole) - 4096, len(whole) - 1):
        folder = tmp_path / "cut"
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            kept, (aside,) = read(lay(folder, whole[:cut]))
        assert set(kept.claims) <= set(CLAIMS), cut
        assert aside.read_bytes() == whole[:cut], "kept for analysis"
        assert "is damaged" in caplog.text
        assert str(aside) in caplog.text


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        pytest.param(lambda _: b"not a database" * 500, 0, id="another kind of file"),
        pytest.param(lambda whole: b"x" + whole[1:], 4, id="a header that is not SQLite's"),
        pytest.param(lambda whole: whole.replace(b'"RESERVED"', b'"INVENTED"', 1), 3, id="a record that is not ours"),
        pytest.param(lambda whole: whole.replace(b'"host_port":7', b'"host_port":3', 1), 3, id="another number"),
        pytest.param(lambda whole: whole.replace(b"HPRT", b"HPRU"), 4, id="the number of another program"),
        pytest.param(lambda whole: whole[:63] + b"\7" + whole[64:], 4, id="the number of another version"),
        pytest.param(lambda whole: whole[:8192] + b"\xff" * 4096 + whole[12288:], 0, id="a page of noise"),
    ],
)
async def test_a_damaged_database_is_set_aside_and_its_sound_records_go_on(
    path: Path, damage: Callable[[bytes], bytes], left: int
) -> None:
    await write(path, [Put(claim) for claim in CLAIMS])
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)

    kept, asides = read(path)

    assert (len(kept.claims), set(kept.claims) <= set(CLAIMS)) == (left, True)
    assert [aside.read_bytes() for aside in asides] == [damaged]
    assert read(path) == (kept, asides), "the new journal is whole, and the old one stays told"


def test_a_wal_without_its_database_is_set_aside(path: Path) -> None:
    path.with_name("journal.db-wal").write_bytes(b"frames")

    _, (aside,) = read(path)

    assert Path(f"{aside}-wal").read_bytes() == b"frames"


async def test_what_was_set_aside_is_told_until_somebody_acknowledges_it(path: Path) -> None:
    path.write_bytes(b"torn")
    _, (aside,) = read(path)
    path.with_name("journal.db.corrupt-20200101T000000000000Z-wal").write_bytes(b"an older one")
    assert [each.name for each in read(path)[1]] == ["journal.db.corrupt-20200101T000000000000Z", aside.name]

    renamed = acknowledge(path)

    assert read(path)[1] == []
    assert [each.read_bytes() for each in renamed] == [b"an older one", b"torn"]


async def test_a_commit_that_somebody_was_told_of_and_that_is_gone_is_noticed(path: Path) -> None:
    """As where a backup was laid in the place of the journal."""
    await write(path, [Put(CLAIMS[0])])
    backup = path.read_bytes()
    await write(path, [Put(CLAIMS[1])])
    path.write_bytes(backup)

    kept, asides = read(path)

    assert (kept.claims, [aside.read_bytes() for aside in asides]) == ((CLAIMS[0],), [backup])


async def test_a_damaged_journal_begins_anew_with_another_name(path: Path) -> None:
    """So that an allocator does not take it for everything that its predecessor granted."""
    await write(path, [Put(CLAIMS[0])])
    journal = SqliteJournal(path).open_now()
    name = journal.identity
    journal.close()
    path.write_bytes(path.read_bytes().replace(b"RESERVED", b"reserved"))

    journal = SqliteJournal(path).open_now()
    began, aside = journal.began_anew_at, journal.set_aside[0]
    journal.close()

    assert journal.identity != name
    assert began == pytest.approx(Path(aside).stat().st_ctime, abs=5)


async def test_an_answer_whose_claim_is_lost_is_not_repeated(path: Path) -> None:
    a, b, *_ = CLAIMS
    await write(path, [Put(a), answer("r1", a), Put(b), answer("r2", b)])
    path.write_bytes(path.read_bytes().replace(encode_claim(a).encode()[:60], b"x" * 60))

    assert read(path)[0] == Kept(claims=(b,), answers=(answer("r2", b),))


async def test_damage_that_a_second_look_does_not_find_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite calls a page malformed that the disk did not give once."""
    await write(path, [Put(each) for each in CLAIMS])
    looks: list[sqlite3.Connection] = []

    def look(connection: sqlite3.Connection) -> None:
        looks.append(connection)
        if len(looks) == 1:
            raise DamagedError("database disk image is malformed")

    monkeypatch.setattr(opening, "check_pages", look)
    kept, aside = read(path)

    assert (kept.claims, aside) == (tuple(CLAIMS), [])
    assert looks == [looks[0]] * 2, "a connection that is closed puts the WAL into the database"


async def test_a_journal_of_which_nobody_can_tell_whether_it_is_there_is_not_replaced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(path, [Put(each) for each in CLAIMS])

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    journal = SqliteJournal(path)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "exists", lambda _: False)  # as of Python 3.14
        broken.setattr(Path, "stat", fail)
        broken.setattr(Path, "mkdir", lambda *_, **__: None)
        with pytest.raises(JournalError, match="Input/output error"):
            journal.open_now()
    journal.close()

    assert read(path)[0].claims == tuple(CLAIMS)


async def test_a_journal_whose_opening_nobody_waits_for_any_more_can_be_opened_again(path: Path) -> None:
    journal = SqliteJournal(path)
    for _ in range(3):
        opening = asyncio.create_task(journal.open())
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    await journal.open()
    assert await journal.record([Put(CLAIMS[0])])
    journal.close()


async def test_a_journal_that_was_opened_while_nobody_waited_any_more_is_not_opened_twice(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    opened: list[Opened] = []

    def open_slowly(path: Path, lock: Lock) -> Opened:
        begun.set()
        may_end.wait()
        opened.append(open_whole(path, lock))
        return opened[-1]

    monkeypatch.setattr(sqlite, "open_whole", open_slowly)
    journal = SqliteJournal(path)
    first = asyncio.create_task(journal.open())
    await asyncio.to_thread(begun.wait)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    may_end.set()

    await journal.open()
    assert await journal.record([Put(CLAIMS[0])])
    journal.close()

    assert len(opened) == 1, "the connection of each other one would stay open"


def test_the_database_of_another_program_is_left_alone(path: Path) -> None:
    sqlite3.connect(path).executescript("CREATE TABLE precious (x); PRAGMA application_id = 7").connection.close()
    before = path.read_bytes()
    with pytest.raises(JournalVersionError, match="another program"):
        SqliteJournal(path).open_now()

    assert path.read_bytes() == before


def test_a_journal_of_a_newer_version_is_left_alone(path: Path) -> None:
    read(path)
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA user_version = 3; UPDATE journal SET crc = 7")
    connection.close()
    with pytest.raises(JournalVersionError, match="schema version 3"):
        SqliteJournal(path).open_now()


# -- dump


async def test_a_journal_in_use_is_dumped_as_json(path: Path) -> None:
    journal = SqliteJournal(path).open_now()
    await journal.record([Put(CLAIMS[0]), answer("r1", CLAIMS[0])])
    records = [json.loads(json.dumps(record)) for record in dump(path)]
    journal.close()

    assert [record["type"] for record in records] == ["journal", "claim", "answer"]
    assert records[1]["id"] == CLAIMS[0].id
    assert records[2] == {"type": "answer", "request_id": "r1", "claim_id": CLAIMS[0].id, "ended": None}


@pytest.mark.parametrize(("content", "words"), [(None, "no journal at"), (b"", "truncated"), (b"x" * 5000, "damaged")])
def test_what_cannot_be_dumped_is_said(path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(JournalError, match=words):
        list(dump(path))


async def test_a_reader_that_leaves_while_the_journal_is_opened_makes_no_commit_seem_to_miss(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last to leave a database puts its WAL into the file, and deletes it."""
    source = SqliteJournal(path).open_now()
    for claim in CLAIMS:
        await source.record([Put(claim)])
    left_by_a_kill = shutil.copytree(path.parent, path.parent / "copy") / path.name
    source.close()

    def read_wal_while_another_leaves(path: Path) -> Wal:
        wal = read_wal(path)
        with contextlib.closing(sqlite3.connect(path)) as reader:
            reader.execute("SELECT count(*) FROM claims")
        return wal

    monkeypatch.setattr(opening, "read_wal", read_wal_while_another_leaves)

    kept, set_aside = read(left_by_a_kill)

    assert (set(kept.claims), set_aside) == (set(CLAIMS), [])
