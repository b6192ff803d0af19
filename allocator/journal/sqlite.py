"""The journal in an SQLite file: one connection, one transaction at a time.

Durability: WAL with synchronous=FULL, so that a commit is on disk when it returns. What several callers submit while a
commit is under way shares the next one (group commit). Rows are put into the transaction on the event loop, which takes
microseconds; only the commit, which waits for the disk, is on a thread: rows put there would hand the interpreter lock
to and fro. A commit costs as much CPU as several decisions: it waits while the loop has other things to do.

Opening (`opening.py`) is on that thread, too: whoever asks how we are is answered meanwhile.

* The file is locked (`PATH.lock`, flock) for as long as it is in use: a second allocator on it does not start.
* Before anything is served, the file is proven whole (`reading.py`). One that is damaged is set aside, which is told
  until somebody acknowledges it.
* What SQLite itself drops is the torn tail of its WAL: a commit that had not returned, and so was never answered.

A commit that fails is rolled back and everything submitted with it fails. What memory knows of the rows that it was
about is read again. SQLite may have written its frames all the same: the next commit overwrites them. If a crash comes
first, a claim that nobody was told of is leaked, not handed out twice. While somebody else has locked the file, a batch
waits for `LONGEST_LOCK_SECONDS`, off the loop.

SQLite 3.7.0 to 3.51.2 can corrupt a WAL that two connections checkpoint at once; here only one connection ever writes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter

from allocator.core.claims import Claim, ClaimId
from allocator.journal.contract import (
    MOST_FORGOTTEN,
    UNMETERED,
    Answer,
    CommitMeters,
    Drop,
    Entry,
    Forget,
    Journal,
    JournalError,
    JournalInUseError,
    JournalVersionError,
    Kept,
    Put,
    always,
)
from allocator.journal.opening import open_whole, until_open
from allocator.journal.places import Lock, SetAside, aside_at
from allocator.journal.tables import Tables

log = logging.getLogger(__name__)

MAX_WEIGHT = 2048
"""Of what goes into one commit, since its rows are made in one turn of the event loop: some 5 ms."""
ENOUGH = 16
LONGEST_SECONDS = 0.02
"""A commit is begun at the latest with so many submissions, or so long after the first."""
QUIET_TURNS, LONELY_TURNS, TURN_SECONDS = 8, 2, 0.00003
"""Short turns of the event loop in a row after which it counts as idle; fewer for one that is alone as the last was."""
LOCK_SECONDS, LONGEST_LOCK_SECONDS = 0.02, 1.0
"""A batch that meets somebody's lock is tried again after this, and fails after that: its callers ask again."""


@dataclass(slots=True)
class _Submission:
    entries: Sequence[Entry]
    is_wanted: Callable[[], bool]
    future: asyncio.Future[bool]
    is_kept: bool = False


class _Committer:
    """The thread on which commits wait for the disk. An executor's futures would cost as much as a commit's rows."""

    def __init__(self) -> None:
        self._work = SimpleQueue[Callable[[], None] | None]()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], None]) -> None:
        """Has this done on the thread, after what was given before."""
        self._work.put(work)

    async def done(self, work: Callable[[], None]) -> None:
        """Has this done on the thread, and returns, or raises what it raises, when it is."""
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def run() -> None:
            if not done.set_running_or_notify_cancel():
                return  # nobody waits any more
            try:
                work()
            except Exception as error:  # noqa: BLE001 - raised again, where it is waited for
                done.set_exception(error)
            else:
                done.set_result(None)

        self.do(run)
        await asyncio.wrap_future(done)

    def stop(self) -> None:
        """Ends the thread when what it was given is done."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


class SqliteJournal(Journal):
    """See the module. All calls come from one event loop's thread. `meters` are told of every commit."""

    kind = "sqlite"

    def __init__(self, path: Path, *, meters: CommitMeters = UNMETERED) -> None:
        self.path: Path = path
        self._meters = meters
        self._lock: Lock | None = None
        self._is_open = False
        self._set_aside = SetAside(path)
        self._loaded = Kept()
        self._waiting: list[_Submission] = []
        self._is_busy = False  # a batch is gathering its last submissions, or is being committed
        self._was_alone = False  # the last batch had one submission
        self._committer = _Committer()

    # -- what is known of it

    @property
    def set_aside(self) -> Sequence[str]:
        """See `Journal.set_aside`."""
        return [str(each) for each in self._set_aside.known()]

    @property
    def began_anew_at(self) -> float:
        """See `Journal.began_anew_at`."""
        return max(map(aside_at, self._set_aside.known()), default=0.0)

    def _kept(self) -> Kept:
        kept, self._loaded = self._loaded, Kept()
        return kept

    # -- opening and closing

    async def open(self) -> None:
        """See `Journal.open`. Each attempt is made on the committing thread: others are served meanwhile."""

        def blocked(trouble: str) -> None:
            self.trouble = trouble

        await until_open(self.path, lambda: self._committer.done(self._open), blocked)
        self._set_aside.warn()

    def open_now(self) -> SqliteJournal:
        """Opens it, in one attempt, for those who have no event loop to wait on.

        Raises:
            JournalError: it cannot be opened.

        """
        self._open()
        return self

    def _open(self) -> None:
        if self._is_open:
            return  # by an attempt that had begun when whoever asked for it stopped waiting
        if self._lock is None:
            self._lock = Lock(self.path)
        try:
            opened = open_whole(self.path, self._lock)
        except (JournalInUseError, JournalVersionError):
            self._lock.close()
            self._lock = None
            raise
        self._loaded = opened.content.kept
        self._tables = Tables(opened.connection, opened.content.totals, opened.content.rows)
        self._connection, self._index = opened.connection, opened.index
        self.identity = self._tables.identity
        self._lock.tell(self.identity, self._tables.latest)
        self._is_open = True

    def close(self) -> None:
        """See `Journal.close`. What waits is committed here, on the calling thread."""
        self._committer.stop()
        if self._waiting:
            batch, self._waiting = self._waiting, []
            _resolve(batch, self._failed(self._apply(batch) or self._commit()))
        if self._is_open:
            self._connection.close()
            self._index.close()
        if self._lock is not None:
            self._lock.close()
        self._is_open, self._lock = False, None

    # -- the verbs, and the group commit in which they end

    def grant(self, claim: Claim, answer: Answer | None, is_wanted: Callable[[], bool]) -> asyncio.Future[bool]:
        """See `Durability`: the claim and the answer are in one commit."""
        return self.record([Put(claim)] if answer is None else [Put(claim), answer], is_wanted)

    def renew(self, claim: Claim) -> asyncio.Future[bool]:
        return self.record([Put(claim)])

    def end(self, claim_ids: Sequence[ClaimId], at: float) -> asyncio.Future[bool]:
        return self.record([Drop(claim_id, at) for claim_id in claim_ids])

    def record(self, entries: Sequence[Entry], is_wanted: Callable[[], bool] = always) -> asyncio.Future[bool]:
        """See `Durability`: the entries go into the next commit, with all that is submitted until it begins."""
        loop = asyncio.get_running_loop()
        submission = _Submission(entries, is_wanted, loop.create_future())
        if not self._is_open:
            submission.future.set_exception(JournalError(f"journal {self.path} is not open"))
            return submission.future
        self._waiting.append(submission)
        if not self._is_busy:
            self._is_busy = True
            self._gather(loop, perf_counter() + LONGEST_SECONDS)
        return submission.future

    def _gather(self, loop: asyncio.AbstractEventLoop, until: float, turn: float = 0.0, quiet: int = 0) -> None:
        """Has the batch written when the loop is idle, or when it is enough or late. `turn` is when this one began."""
        now = perf_counter()
        quiet = quiet + 1 if now - turn < TURN_SECONDS else 0
        enough = LONELY_TURNS if self._was_alone and len(self._waiting) == 1 else QUIET_TURNS
        if quiet >= enough or len(self._waiting) >= ENOUGH or now >= until:
            self._write(loop)
        else:
            loop.call_soon(self._gather, loop, until, now, quiet)

    def _write(self, loop: asyncio.AbstractEventLoop, locked_since: float = 0.0) -> None:
        """Writes what has gathered, and has it committed; what comes meanwhile gathers for the next time."""
        batch = self._next_batch()
        if not batch:
            self._is_busy = False
            return
        self._was_alone = len(batch) == 1
        began = perf_counter()
        error = self._apply(batch)
        if _is_lock(error) and began - (locked_since or began) < LONGEST_LOCK_SECONDS:
            self._waiting[:0] = batch
            loop.call_later(LOCK_SECONDS, self._write, loop, locked_since or began)
            return
        if error is not None:
            self._settle(loop, batch, error)
            return

        def commit() -> None:
            error = self._commit()
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(committed, error)

        def committed(error: sqlite3.Error | None) -> None:
            self._meters.submissions(len(batch))
            self._meters.seconds(perf_counter() - began)
            if error is not None:
                self._meters.failed()
            self._settle(loop, batch, error)

        self._committer.do(commit)

    def _next_batch(self) -> list[_Submission]:
        """The first submissions that wait: one, and as many more as are light enough together."""
        weight = taken = 0
        while taken < len(self._waiting) and weight < MAX_WEIGHT:
            weight += sum(map(_weight_of, self._waiting[taken].entries))
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch

    def _settle(self, loop: asyncio.AbstractEventLoop, batch: list[_Submission], error: sqlite3.Error | None) -> None:
        failure = self._failed(error)
        if error is not None:
            try:
                self._tables.roll_back()
            except sqlite3.Error:
                log.exception("journal %s: the rollback failed", self.path)
        _resolve(batch, failure)
        self._is_busy = bool(self._waiting)
        if self._is_busy:
            self._gather(loop, perf_counter() + LONGEST_SECONDS)

    def _apply(self, batch: list[_Submission]) -> sqlite3.Error | None:
        """Puts what is still wanted of a batch into an open transaction: in memory, no fsync."""
        entries: list[Entry] = []
        for submission in batch:
            submission.is_kept = submission.is_wanted is always or submission.is_wanted()
            entries += submission.entries if submission.is_kept else ()
        try:
            self._tables.write(entries, self.clock())
        except sqlite3.Error as error:
            return error
        return None

    def _commit(self) -> sqlite3.Error | None:
        """On the committing thread, which is the only one to touch the connection until it returns."""
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            return error
        if self._lock is not None:
            self._lock.tell(self.identity, self._tables.latest)
        return None

    def _failed(self, error: sqlite3.Error | None) -> JournalError | None:
        """Told in the log when it begins, when it changes and when it has passed."""
        trouble = str(error or "")
        if trouble != self.trouble:
            self.trouble = trouble
            if error is None:
                log.info("journal %s: commits are durable again", self.path)
            else:
                log.error("journal %s: a batch was not committed, nor will be what follows: %s", self.path, error)
        return None if error is None else JournalError(f"journal {self.path}: {error}")


def _weight_of(entry: Entry) -> int:
    """What it costs to put an entry into its table: about as many times 2 µs."""
    if isinstance(entry, Put):
        return 5 + len(entry.claim.ports)
    return MOST_FORGOTTEN if isinstance(entry, Forget) else 3


def _is_lock(error: sqlite3.Error | None) -> bool:
    """Whether somebody else has locked the file."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _resolve(batch: list[_Submission], error: JournalError | None) -> None:
    for submission in (each for each in batch if not each.future.done()):
        if error is not None:
            submission.future.set_exception(error)
        else:
            submission.future.set_result(submission.is_kept)
