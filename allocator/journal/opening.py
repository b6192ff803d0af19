"""Opens a journal's file: makes it, upgrades it, proves that it is whole, or sets it aside and begins anew.

Rules:

* Nothing is touched unless damage is proven (`reading`), by two looks at files that can be read to their end. The
  environment may be in the way: the file is locked, the disk full, read-only or broken. That leaves the files as they
  are, and the opening is tried again until it passes.
* A damaged file is set aside as `PATH.corrupt-<time>`, with its WAL, as it was found. What can be read soundly of it
  is in the new journal (`rescue`), which is whole before anything is renamed.
* A new file is made whole beside its place and then renamed, so that a file in place is never half made: an empty one
  has been truncated.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from allocator.journal.contract import JournalError, JournalInUseError, JournalVersionError
from allocator.journal.places import Lock, draft_of, extras, fresh_aside, is_there, put_aside, sync_folder
from allocator.journal.reading import (
    Content,
    DamagedError,
    WalIndex,
    check_complete,
    check_pages,
    check_readable,
    check_size,
    damage_told_apart,
    read_content,
    version_of,
)
from allocator.journal.rescue import make_in_place, rescue
from allocator.journal.tables import SCHEMA_VERSION, Totals, upgrade
from allocator.journal.wal import read_wal

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 3.0
"""Between two attempts to open the file, doubled each time."""


async def until_open(path: Path, attempt: Callable[[], Awaitable[None]], blocked: Callable[[str], None]) -> None:
    """Repeats an attempt to open a journal for as long as the environment is in the way.

    `blocked` is told what is in the way, after each attempt, and the empty text when nothing is.

    Raises:
        JournalInUseError, JournalVersionError: that will not pass by itself.

    """
    pause, told = FIRST_PAUSE_SECONDS, ""
    while True:
        try:
            await attempt()
        except (JournalInUseError, JournalVersionError):
            raise
        except JournalError as error:
            trouble = str(error)
            blocked(trouble)
            if trouble != told:
                log.warning("%s. Nothing was touched; trying again", error)
                told = trouble
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            continue
        if told:
            log.info("journal %s is open: what was in the way has passed", path)
        blocked("")
        return


@dataclass(frozen=True, slots=True)
class Opened:
    """A journal that is whole, and what it holds."""

    connection: sqlite3.Connection
    index: WalIndex
    content: Content

    def close(self) -> None:
        self.connection.close()
        self.index.close()  # after it: see there


def open_whole(path: Path, lock: Lock) -> Opened:
    """The journal, which is made if there is none, and made anew if it is damaged.

    Raises:
        JournalVersionError: it is not ours to touch.
        JournalError: the environment's fault; nothing was touched.

    """
    try:
        if not is_there(path):
            _make(path)
        try:
            return _open(path, lock)
        except DamagedError:
            return _open(path, lock)  # the new one
    except (sqlite3.Error, OSError, DamagedError) as error:
        raise JournalError(f"journal {path} cannot be opened: {error}") from error


def _make(path: Path) -> None:
    """Without its file a WAL says nothing; SQLite would delete it without a word."""
    if orphans := [extra for extra in extras(path) if is_there(extra)]:
        _begin_anew(path, f"{path} is missing beside {', '.join(map(str, orphans))}")
    else:
        make_in_place(path)


def _open(path: Path, lock: Lock) -> Opened:
    """Raises DamagedError when what was there has been set aside, and a new file is in its place."""
    try:
        check_size(path)
    except DamagedError as damage:
        _begin_anew(path, str(damage))
        raise
    with ExitStack() as stack:
        index = WalIndex(path)
        stack.callback(index.close)
        # Others may read it (`journal dump`, a backup). Whoever locks it is not waited for here.
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        stack.enter_context(closing(connection))
        try:
            content = _looked_twice(connection, index, path, lock)
        except DamagedError as damage:
            _begin_anew(path, str(damage))  # while it is open: SQLite leaves a file that was renamed as it is
            raise
        stack.pop_all()
    return Opened(connection, index, content)


def _looked_twice(connection: sqlite3.Connection, index: WalIndex, path: Path, lock: Lock) -> Content:
    """Damage is what is found twice, in files that can be read: a page that could not be is found once."""
    try:
        return _whole(connection, index, path, lock)
    except DamagedError as damage:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        check_readable(path)
        log.warning("journal %s seems to be damaged (%s): looking once more", path, damage)
    return _whole(connection, index, path, lock)


def _whole(connection: sqlite3.Connection, index: WalIndex, path: Path, lock: Lock) -> Content:
    """Reads before anything is written, also by SQLite."""
    with damage_told_apart():
        connection.execute("BEGIN")
        version = version_of(connection, path)
    # Only now: while something is being read, nobody who leaves can put the WAL's commits into the file and delete it.
    told, wal = lock.last_told(), read_wal(path)
    check_pages(connection)
    behind = wal.commits_behind(index.frames())
    with damage_told_apart():
        connection.execute("COMMIT")
        if version < SCHEMA_VERSION:
            check_complete(Totals(""), told, behind)
            upgrade(connection)
            log.info("journal %s was upgraded from schema version %d to %d", path, version, SCHEMA_VERSION)
    content = read_content(connection)
    check_complete(content.totals, told, behind)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return content


def _begin_anew(path: Path, why: str) -> None:
    draft, aside = draft_of(path), fresh_aside(path)
    rescued = rescue(path, draft)
    put_aside(path, aside)
    draft.rename(path)
    sync_folder(path)
    log.error(
        "journal %s is damaged (%s). It was set aside as %s, and a new one begun with what can be read of it: %s."
        " `python -m allocator journal acknowledge %s` when you know of it",
        path,
        why,
        aside,
        rescued,
        path,
    )
