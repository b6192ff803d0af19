"""The journal in an SQLite file: one connection, one transaction at a time.

Durability: WAL with synchronous=FULL, so that a commit is on disk when it returns. What several callers submit while a
commit is under way shares the next one (group commit). Rows are put into the transaction on the event loop, which takes
microseconds; only the commit, which waits for the disk, is on a thread. (Rows put there would hand the interpreter lock
to and fro for each of them.) A commit costs as much CPU as several decisions, so that it waits while the loop has other
things to do, which may be decisions that can share it; an idle loop commits at once.

Opening (`opening.py`) is on that thread, too: whoever asks how we are is answered meanwhile. The environment may be in
the way: the file is locked, the disk full, read-only or broken. Then the opening is tried again until it is not.

* The file is locked (`PATH.lock`, flock) for as long as it is in use: a second allocator on it does not start.
* Before anything is served, the file is proven whole (`reading.py`). One that is damaged is set aside, which is told
  until somebody acknowledges it.
* What SQLite itself drops is the torn tail of its WAL: a commit that had not returned, and so was never answered.

A commit that fails is rolled back and everything submitted with it fails. What is known in memory of the rows is read
again, of those that the commit was about. SQLite may have written its frames all the
same; the next commit overwrites them, and if a crash comes first, a claim that nobody was told of is leaked, not
handed out twice. While somebody else has locked the file, a batch waits for `LONGEST_LOCK_SECONDS`, off the loop.

SQLite 3.7.0 to 3.51.2 can corrupt a WAL that two connections checkpoint at once; here only one connection ever writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from time import monotonic, perf_counter

from allocator.journal.contract import (
    MOST_FORGOTTEN,
    Entry,
    Forget,
    JournalError,
    JournalInUseError,
    JournalVersionError,
    Kept,
    Put,
    no_clock,
)
from allocator.journal.opening import open_whole
from allocator.journal.places import Lock, aside_at, asides
from allocator.journal.tables import Tables

log = logging.getLogger(__name__)

MAX_WEIGHT = 2048
"""Of what goes into one commit, since its rows are made in one turn of the event loop: some 5 ms."""
ENOUGH = 16
LONGEST_SECONDS = 0.02
"""A commit is begun at the latest with so many submissions, or so long after the first."""
QUIET_TURNS, TURN_SECONDS = 8, 0.00003
"""Turns of the event loop in a row, each shorter than any that does something, after which it counts as idle."""
LOCK_SECONDS, LONGEST_LOCK_SECONDS = 0.02, 1.0
"""A batch that meets somebody's lock is tried again after this, and fails after that: its callers ask again."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 3.0
"""Between two attempts to open the file, doubled each time."""
LOOK_SECONDS = 2.0
"""Between two looks at what was set aside."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit: of how many submissions, how long it took in seconds, and whether it is durable."""

    submissions: int
    seconds: float
    is_durable: bool


def _unheard(_: Commit) -> None:
    """Nobody asked to be told."""


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
        self.path = path
        self.trouble = ""
        self.identity = ""
        self.on_commit: Callable[[Commit], None] = _unheard
        self.clock = no_clock
        self._lock: Lock | None = None
        self._is_open = False
        self._asides: list[Path] = []
        self._looks_again_at = 0.0
        self._kept = Kept()
        self._waiting: list[_Submission] = []
        self._is_busy = False  # a batch is gathering its last submissions, or is being committed
        self._committer = _Committer()

    def load(self) -> Kept:
        kept, self._kept = self._kept, Kept()
        return kept

    def submit(self, entries: Sequence[Entry], is_wanted: Callable[[], bool]) -> asyncio.Future[bool]:
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

    def close(self) -> None:
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

    # -- opening

    async def open(self) -> None:
        pause, told = FIRST_PAUSE_SECONDS, ""
        while True:
            try:
                await self._on_thread(self._open)
            except (JournalInUseError, JournalVersionError):
                raise
            except JournalError as error:
                self.trouble = str(error)
                if self.trouble != told:
                    log.warning("%s. Nothing was touched; trying again", error)
                    told = self.trouble
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            if told:
                log.info("journal %s is open: what was in the way has passed", self.path)
            self.trouble = ""
            self._looks_again_at = 0.0
            self._tell_asides()
            return

    def open_now(self) -> SqliteJournal:
        """Opens it, in one attempt, for those who have no event loop to wait on.

        Raises:
            JournalError: it cannot be opened.

        """
        self._open()
        return self

    async def _on_thread(self, work: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(error: Exception | None) -> None:
            if done.done():
                return  # nobody waits any more
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def run() -> None:
            failure = None
            try:
                work()
            except Exception as error:  # noqa: BLE001 - raised again, where it is waited for
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(settle, failure)

        self._committer.do(run)
        await done

    def _open(self) -> None:
        if self._lock is None:
            self._lock = Lock(self.path)
        try:
            opened = open_whole(self.path, self._lock)
        except (JournalInUseError, JournalVersionError):
            self._lock.close()
            self._lock = None
            raise
        content = opened.content
        self._kept = content.kept
        self._tables = Tables(opened.connection, content.totals, content.rows)
        self._connection, self._index = opened.connection, opened.index
        self.identity = self._tables.identity
        self._lock.tell(self.identity, self._tables.number)
        self._is_open = True

    # -- what was set aside

    @property
    def set_aside(self) -> Sequence[str]:
        now = monotonic()
        if now >= self._looks_again_at:
            self._looks_again_at = now + LOOK_SECONDS
            with contextlib.suppress(OSError):  # what is known stays told
                self._asides = asides(self.path)
        return [str(each) for each in self._asides]

    @property
    def began_anew_at(self) -> float:
        return max(map(aside_at, self._asides), default=0.0) if self.set_aside else 0.0

    def _tell_asides(self) -> None:
        for aside in self.set_aside:
            log.warning(
                "%s was set aside and nobody has acknowledged it: `python -m allocator journal acknowledge %s`",
                aside,
                self.path,
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

    def _write(self, loop: asyncio.AbstractEventLoop, locked_since: float = 0.0) -> None:
        """Writes what has gathered, and has it committed; what comes meanwhile gathers for the next time."""
        batch = self._next_batch()
        if not batch:
            self._is_busy = False
            return
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

    def _settle(self, loop: asyncio.AbstractEventLoop, batch: list[_Submission], error: sqlite3.Error | None) -> None:
        failure = self._failed(error)
        if error is None:
            self._tables.committed()
        else:
            self._roll_back()
        _resolve(batch, failure)
        self._gather(loop, perf_counter() + LONGEST_SECONDS)

    def _apply(self, batch: list[_Submission]) -> sqlite3.Error | None:
        """Puts a batch into an open transaction: in memory, no fsync."""
        try:
            self._tables.begin()
            for submission in batch:
                submission.is_kept = submission.is_wanted()
                for entry in submission.entries if submission.is_kept else ():
                    self._tables.apply(entry)
            self._tables.seal(self.clock())
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
            self._lock.tell(self.identity, self._tables.sealed)
        return None

    def _failed(self, error: sqlite3.Error | None) -> JournalError | None:
        """Told in the log when it begins, when it changes and when it has passed."""
        trouble = "" if error is None else str(error)
        if trouble != self.trouble:
            self.trouble = trouble
            if error is None:
                log.info("journal %s: commits are durable again", self.path)
            else:
                log.error("journal %s: a batch was not committed, nor will be what follows: %s", self.path, error)
        return None if error is None else JournalError(f"journal {self.path}: {error}")

    def _roll_back(self) -> None:
        try:
            self._tables.roll_back()
        except sqlite3.Error:
            log.exception("journal %s: the rollback failed", self.path)


_LOCKS = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


def _is_lock(error: sqlite3.Error | None) -> bool:
    """Whether somebody else has locked the file."""
    return error is not None and getattr(error, "sqlite_errorcode", 0) & 0xFF in _LOCKS


def _resolve(batch: list[_Submission], error: JournalError | None) -> None:
    for submission in batch:
        if submission.future.done():
            continue
        if error is not None:
            submission.future.set_exception(error)
        else:
            submission.future.set_result(submission.is_kept)


def _weight(entry: Entry) -> int:
    """What it costs to put an entry into its table: about as many times 2 µs."""
    match entry:
        case Put(claim):
            return 5 + len(claim.ports)
        case Forget():
            return MOST_FORGOTTEN
    return 3
