"""The journal in an SQLite file: one connection, one transaction at a time.

Durability: WAL with synchronous=FULL, so that a commit is on disk when it returns. What several callers submit while a
commit is under way shares the next one (group commit). Rows are put into the transaction on the event loop, which takes
microseconds; only the commit, which waits for the disk, is on a thread. (Rows put there would hand the interpreter lock
to and fro for each of them.) A commit costs as much CPU as several decisions, so that it waits while the loop has other
things to do, which may be decisions that can share it; an idle loop commits at once.

Opening:

* The file is locked (`PATH.lock`, flock) for as long as it is in use: a second allocator on it does not start.
* A new file is made whole beside its place and then renamed, so that a file in place is never half made: an empty one
  has been truncated.
* Before anything is served, the file is checked (quick_check) and every record is read. A file that fails is set aside
  as `PATH.corrupt-<time>`, which is logged; nothing of it is used.
* What SQLite itself drops is the torn tail of its WAL: a commit that had not returned, and so was never answered.

A commit that fails is rolled back and everything submitted with it fails. What is known in memory of the rows is read
again, of those that the commit was about. SQLite may have written its frames all the
same; the next commit overwrites them, and if a crash comes first, a claim that nobody was told of is leaked, not
handed out twice.

SQLite 3.7.0 to 3.51.2 can corrupt a WAL that two connections checkpoint at once; here only one connection ever writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import fcntl
import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import IO, Any

from allocator.journal.contract import (
    MOST_FORGOTTEN,
    Answer,
    Drop,
    Entry,
    Forget,
    JournalError,
    JournalVersionError,
    Kept,
    Put,
    no_clock,
)
from allocator.journal.records import decode_claim, encode_claim

log = logging.getLogger(__name__)

APPLICATION_ID = 0x48505254  # "HPRT", in the header of the file: see file(1)
SCHEMA_VERSION = 1
MAX_WEIGHT = 2048
"""Of what goes into one commit, since its rows are made in one turn of the event loop: some 5 ms."""
ENOUGH = 16
LONGEST_SECONDS = 0.02
"""A commit is begun at the latest with so many submissions, or so long after the first."""
QUIET_TURNS, TURN_SECONDS = 8, 0.00003
"""Turns of the event loop in a row, each shorter than any that does something, after which it counts as idle."""

_SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE journal (identity TEXT NOT NULL);
INSERT INTO journal VALUES (lower(hex(randomblob(16))));
CREATE TABLE claims (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE answers (
    seq INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL, digest BLOB NOT NULL, claim_id TEXT NOT NULL, response BLOB NOT NULL, ended REAL
);
CREATE INDEX answers_by_end ON answers (ended) WHERE ended IS NOT NULL;
"""  # noqa: S608 - constants of this module

_FORGET = "DELETE FROM answers WHERE seq IN (SELECT seq FROM answers WHERE ended < ? ORDER BY ended LIMIT ?)"


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit: of how many submissions, how long it took in seconds, and whether it is durable."""

    submissions: int
    seconds: float
    is_durable: bool


def _unheard(_: Commit) -> None:
    """Nobody asked to be told."""


class _CorruptError(Exception):
    """The file is not what we wrote."""


@dataclass(slots=True)
class _Submission:
    entries: Sequence[Entry]
    is_wanted: Callable[[], bool]
    future: asyncio.Future[bool]
    is_kept: bool = False


class _Committer:
    """The thread on which commits wait for the disk. An executor's futures would cost as much as a commit's rows."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], None]) -> None:
        self._work.put(work)

    def stop(self) -> None:
        """When the work is done."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


class SqliteJournal:
    """See the module. All calls come from one event loop's thread."""

    def __init__(self, path: Path) -> None:
        """Opens the file, makes it, or sets a broken one aside.

        Raises:
            JournalError: another process has it, or it cannot be opened at all.
            JournalVersionError: it is not ours to touch.

        """
        self.path = path
        self.set_aside: str | None = None
        self.on_commit: Callable[[Commit], None] = _unheard
        self.clock = no_clock
        self._lock = _lock(path)
        self._kept = Kept()
        try:
            self._connection = self._open()
        except BaseException:
            self._lock.close()
            raise
        (self.identity,) = self._connection.execute("SELECT identity FROM journal").fetchone()
        self._tables = _Tables(self._connection)
        self._waiting: list[_Submission] = []
        self._is_busy = False  # a batch is gathering its last submissions, or is being committed
        self._committer = _Committer()

    def load(self) -> Kept:
        kept, self._kept = self._kept, Kept()
        return kept

    def submit(self, entries: Sequence[Entry], is_wanted: Callable[[], bool]) -> asyncio.Future[bool]:
        loop = asyncio.get_running_loop()
        submission = _Submission(entries, is_wanted, loop.create_future())
        self._waiting.append(submission)
        if not self._is_busy:
            self._is_busy = True
            self._gather(loop, perf_counter() + LONGEST_SECONDS)
        return submission.future

    def close(self) -> None:
        self._committer.stop()
        if self._waiting:
            batch, self._waiting = self._waiting, []
            _resolve(batch, self._apply(batch) or self._commit())
        self._connection.close()
        self._lock.close()

    # -- opening

    def _open(self) -> sqlite3.Connection:
        try:
            if not self.path.exists():
                # Without its file a WAL says nothing; SQLite would delete it without a word.
                orphans = [extra for extra in _extras(self.path) if extra.exists()]
                if orphans:
                    self._put_aside(f"{self.path} is missing beside {', '.join(map(str, orphans))}")
                _create(self.path)
            try:
                return self._read()
            except _CorruptError as error:
                self._put_aside(str(error))
                _create(self.path)
                return self._read()
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"journal {self.path} cannot be opened: {error}") from error

    def _read(self) -> sqlite3.Connection:
        _check_size(self.path)
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            _check_ours(connection, self.path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("CREATE TABLE IF NOT EXISTS clock (reading REAL)")
            connection.execute("INSERT INTO clock SELECT NULL WHERE NOT EXISTS (SELECT 1 FROM clock)")
            self._kept = _read_all(connection)
        except sqlite3.DatabaseError as error:
            connection.close()
            if isinstance(error, sqlite3.OperationalError) and "unable to open" in str(error):
                raise
            raise _CorruptError(str(error)) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _put_aside(self, why: str) -> None:
        stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S%fZ")
        aside = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
        for path in (self.path, *_extras(self.path)):
            if path.exists():
                path.rename(aside.with_name(aside.name + path.name.removeprefix(self.path.name)))
        self.set_aside = str(aside)
        log.error(
            "journal %s is corrupt (%s). It was set aside as %s and a new one begun: allocations that no Pod of the"
            " cluster records are forgotten. Keep the file for analysis",
            self.path,
            why,
            aside,
        )

    # -- writing

    def _gather(self, loop: asyncio.AbstractEventLoop, until: float, turn: float = 0.0, quiet: int = 0) -> None:
        """Has the batch written when the loop is idle, or when it is enough or late. `turn` is when this one began."""
        now = perf_counter()
        quiet = quiet + 1 if now - turn < TURN_SECONDS else 0
        if quiet == QUIET_TURNS or len(self._waiting) >= ENOUGH or now >= until:
            self._write(loop)
        else:
            loop.call_soon(self._gather, loop, until, now, quiet)

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        """Writes what has gathered, and has it committed; what comes meanwhile gathers for the next time."""
        batch = self._next_batch()
        if not batch:
            self._is_busy = False
            return
        error = self._apply(batch)
        if error is not None:
            self._settle(loop, batch, error)
            return
        began = perf_counter()

        def commit() -> None:
            error = self._commit()
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(committed, error)

        def committed(error: JournalError | None) -> None:
            self.on_commit(Commit(len(batch), perf_counter() - began, is_durable=error is None))
            self._settle(loop, batch, error)

        self._committer.do(commit)

    def _next_batch(self) -> list[_Submission]:
        """The first submissions that wait: one, and as many more as are light enough together."""
        weight = taken = 0
        while taken < len(self._waiting) and weight < MAX_WEIGHT:
            weight += sum(map(_weight, self._waiting[taken].entries))
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch

    def _settle(self, loop: asyncio.AbstractEventLoop, batch: list[_Submission], error: JournalError | None) -> None:
        if error is not None:
            self._roll_back()
        _resolve(batch, error)
        self._gather(loop, perf_counter() + LONGEST_SECONDS)

    def _apply(self, batch: list[_Submission]) -> JournalError | None:
        """Puts a batch into an open transaction: in memory, no fsync."""
        try:
            self._tables.touched.clear()
            self._connection.execute("BEGIN IMMEDIATE")
            for submission in batch:
                submission.is_kept = submission.is_wanted()
                for entry in submission.entries if submission.is_kept else ():
                    self._tables.apply(entry)
            self._connection.execute("UPDATE clock SET reading = ?", (self.clock(),))
        except sqlite3.Error as error:
            return self._failed(error)
        return None

    def _commit(self) -> JournalError | None:
        """On the committing thread, which is the only one to touch the connection until it returns."""
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            return self._failed(error)
        return None

    def _failed(self, error: sqlite3.Error) -> JournalError:
        log.error("journal %s: a batch was not committed: %s", self.path, error)
        return JournalError(f"journal {self.path}: {error}")

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.rollback()
            self._tables.reread_touched()
        except sqlite3.Error:
            log.exception("journal %s: the rollback failed", self.path)


def dump(path: Path) -> Iterator[dict[str, Any]]:
    """Every record of a journal as JSON objects, without changing the file; it may be in use.

    Raises:
        JournalError: the file is missing, not ours, or corrupt.

    """
    if not path.is_file():
        raise JournalError(f"no journal at {path}")
    try:
        _check_size(path)
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            _check_ours(connection, path)
            yield {"type": "journal", "schema": SCHEMA_VERSION, "path": str(path)}
            for (body,) in connection.execute("SELECT body FROM claims ORDER BY id"):
                yield {"type": "claim", **json.loads(body)}
            for request_id, claim_id, ended in connection.execute(
                "SELECT request_id, claim_id, ended FROM answers ORDER BY request_id"
            ):
                yield {"type": "answer", "request_id": request_id, "claim_id": claim_id, "ended": ended}
        finally:
            connection.close()
    except (sqlite3.Error, ValueError, _CorruptError) as error:
        raise JournalError(f"journal {path} is corrupt: {error}") from error


def _resolve(batch: list[_Submission], error: JournalError | None) -> None:
    for submission in batch:
        if submission.future.done():
            continue
        if error is not None:
            submission.future.set_exception(error)
        else:
            submission.future.set_result(submission.is_kept)


class _Tables:
    """The tables, and in memory the row of each key.

    Rows are numbered as they come, so that what is new goes to the last page: a random key in a B-tree would dirty a
    page of its own for each row of a commit. Measured: 15 µs of CPU for a claim with its answer instead of 61.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.touched: dict[str, _Touched] = {}  # since it was cleared, by the id of the claim
        execute = connection.execute
        self._claims: dict[str, int] = dict(execute("SELECT id, seq FROM claims"))
        self._answers: dict[str, tuple[int, ...]] = {}
        same = {claim_id: claim_id for claim_id in self._claims}
        for claim_id, seq in execute("SELECT claim_id, seq FROM answers WHERE ended IS NULL"):
            self._add_answer(same.get(claim_id, claim_id), seq)

    def reread_touched(self) -> None:
        """After a rollback the memory of what was touched is not to be trusted."""
        execute = self._connection.execute
        for claim_id, touched in self.touched.items():
            self._claims.pop(claim_id, None)
            self._answers.pop(claim_id, None)
            for seq in sorted(touched.claims):
                if execute("SELECT 1 FROM claims WHERE seq = ? AND id = ?", (seq, claim_id)).fetchone():
                    self._claims[claim_id] = seq
            for seq in sorted(touched.answers):
                where = "seq = ? AND claim_id = ? AND ended IS NULL"
                if execute(f"SELECT 1 FROM answers WHERE {where}", (seq, claim_id)).fetchone():  # noqa: S608 - ours
                    self._add_answer(claim_id, seq)
        self.touched.clear()

    def _add_answer(self, claim_id: str, seq: int) -> None:
        self._answers[claim_id] = (*self._answers.get(claim_id, ()), seq)

    def _touch(self, claim_id: str) -> _Touched:
        """Notes the rows of a claim as they are before it changes; the new ones are added by who makes them."""
        touched = self.touched.get(claim_id)
        if touched is None:
            touched = self.touched[claim_id] = _Touched()
            if claim_id in self._claims:
                touched.claims.add(self._claims[claim_id])
            touched.answers.update(self._answers.get(claim_id, ()))
        return touched

    def apply(self, entry: Entry) -> None:
        execute = self._connection.execute
        match entry:
            case Put(claim):
                touched = self._touch(claim.id)
                row = (self._claims.get(claim.id), claim.id, encode_claim(claim))
                seq = _row_id(execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", row))
                self._claims[claim.id] = seq
                touched.claims.add(seq)
            case Answer(request_id, digest, claim_id, response, ended):
                touched = self._touch(claim_id)
                answer = (request_id, digest, claim_id, response, ended)
                seq = _row_id(execute("INSERT INTO answers VALUES (NULL, ?, ?, ?, ?, ?)", answer))
                self._add_answer(claim_id, seq)
                touched.answers.add(seq)
            case Drop(claim_id, at):
                self._touch(claim_id)
                execute("DELETE FROM claims WHERE seq = ?", (self._claims.pop(claim_id, None),))
                for seq in self._answers.pop(claim_id, ()):
                    execute("UPDATE answers SET ended = ? WHERE seq = ?", (at, seq))
            case Forget(before):
                execute(_FORGET, (before, MOST_FORGOTTEN))


@dataclass(slots=True)
class _Touched:
    """The rows that a claim and its answers had or got."""

    claims: set[int] = field(default_factory=set)
    answers: set[int] = field(default_factory=set)


def _weight(entry: Entry) -> int:
    """What it costs to put an entry into its table: about as many times 2 µs."""
    match entry:
        case Put(claim):
            return 5 + len(claim.ports)
        case Forget():
            return MOST_FORGOTTEN
    return 3


def _row_id(cursor: sqlite3.Cursor) -> int:
    if cursor.lastrowid is None:
        raise sqlite3.InternalError("an insert gave no row id")
    return cursor.lastrowid


def _create(path: Path) -> None:
    """A new journal, in place only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    connection = sqlite3.connect(draft, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(_SCHEMA)
    connection.close()
    draft.rename(path)


def _check_size(path: Path) -> None:
    """Finds the truncations that SQLite passes over.

    It takes what is shorter than its smallest page for a new database, and a last page that is cut for one with zeros.
    The latter is fine while there is a WAL: a crash during a checkpoint leaves it so, and the WAL has the page.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(18)
    page_size = max(512, int.from_bytes(header[16:18], "big"))
    wal = _extras(path)[0]
    has_wal = wal.exists() and wal.stat().st_size > 0
    if size < 512 or (not has_wal and header.startswith(b"SQLite format 3") and size % page_size):
        raise _CorruptError(f"the file has {size} bytes: it was truncated")


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise JournalVersionError(f"{path} is a database of another program: it is left alone")
    if version != SCHEMA_VERSION:
        raise JournalVersionError(
            f"{path} has schema version {version}, this program knows {SCHEMA_VERSION}: run the version that wrote it"
        )


def _read_all(connection: sqlite3.Connection) -> Kept:
    """Checks the file and reads every record.

    Raises:
        _CorruptError: a check fails, or a record is not one of ours.

    """
    problems = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if problems != ["ok"]:
        raise _CorruptError("; ".join(problems))
    try:
        claims = tuple(decode_claim(body) for (body,) in connection.execute("SELECT body FROM claims ORDER BY id"))
        ids = {claim.id: claim.id for claim in claims}
        if len(ids) < len(claims):
            raise ValueError("two records have one id")
    except ValueError as error:
        raise _CorruptError(str(error)) from error
    if len(list(connection.execute("SELECT identity FROM journal"))) != 1:
        raise _CorruptError("it has no identity")
    answers = tuple(
        Answer(request_id, digest, ids.get(claim_id, claim_id), response, ended)
        for _, request_id, digest, claim_id, response, ended in connection.execute("SELECT * FROM answers ORDER BY seq")
    )
    (reading,) = connection.execute("SELECT reading FROM clock").fetchone()
    return Kept(claims, answers, reading)


def _extras(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _lock(path: Path) -> IO[str]:
    """The lock file, locked until it is closed or the process ends.

    Raises:
        JournalError: another process has it, or it cannot be made.

    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock").open("w")
    except OSError as error:
        raise JournalError(f"journal {path} cannot be locked: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise JournalError(f"journal {path} is in use by another allocator") from error
    return lock
