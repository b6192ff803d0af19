"""What people do with a journal's file: print it, check it, save what can be read of it. The file stays as it is."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from allocator.journal.contract import JournalError
from allocator.journal.places import Lock, asides, draft_of, read_last_told, sync_folder
from allocator.journal.reading import (
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
from allocator.journal.rescue import Rescued, rescue
from allocator.journal.tables import SCHEMA_VERSION
from allocator.journal.wal import read_wal


class DamagedJournalError(JournalError):
    """The file is damaged: proven."""


def dump(path: Path) -> Iterator[dict[str, Any]]:
    """Every record of a journal as JSON objects, without changing the file; it may be in use.

    Raises:
        JournalError: the file is missing, not ours, or damaged.

    """
    with _reading(path) as connection:
        yield {"type": "journal", "schema": version_of(connection, path), "path": str(path)}
        for (body,) in connection.execute("SELECT body FROM claims ORDER BY id"):
            yield {"type": "claim", **json.loads(body)}
        for request_id, claim_id, ended in connection.execute(
            "SELECT request_id, claim_id, ended FROM answers ORDER BY request_id"
        ):
            yield {"type": "answer", "request_id": request_id, "claim_id": claim_id, "ended": ended}


def check(path: Path) -> Iterator[str]:
    """What is sound, a line each, without changing the file; it may be in use.

    Raises:
        DamagedJournalError: something is not.
        JournalError: the file is missing, not ours, or cannot be read now.

    """
    told = read_last_told(path)  # before the rest: commits may be made meanwhile
    with _reading(path) as connection, closing(WalIndex(path)) as index, ExitStack() as stack:
        stack.callback(connection.close)  # before the index: see there
        connection.execute("BEGIN")
        version = version_of(connection, path)
        check_pages(connection)
        behind = read_wal(path).commits_behind(index.frames())
        yield f"pages and indexes: sound, schema version {version}"
        if version < SCHEMA_VERSION:
            yield f"records: without checksums, which come with version {SCHEMA_VERSION} at the next start"
            return
        content = read_content(connection)
        totals = content.totals
        yield f"records: {totals.claims} claims and {totals.answers} answers, each with its checksum"
        check_complete(totals, told, behind)
        yield f"commits: none is missing up to number {totals.number} of journal {totals.identity}"
    for aside in asides(path):
        yield f"set aside and not acknowledged: {aside}"


def salvage(path: Path, target: Path) -> Rescued:
    """Makes a new journal at `target` with what can be read soundly of a damaged one, without changing that.

    Raises:
        JournalError: there is nothing at `path`, something at `target`, or the environment is in the way.

    """
    if not any(each.exists() for each in (path, path.with_name(path.name + "-wal"))):
        raise JournalError(f"no journal at {path}")
    if target.exists():
        raise JournalError(f"{target} exists: name a file that does not")
    try:
        with ExitStack() as stack:
            if path.with_name(path.name + ".lock").exists():
                stack.enter_context(closing(Lock(path)))  # nobody writes meanwhile
            draft = draft_of(target)
            rescued = rescue(path, draft)
            draft.rename(target)
            sync_folder(target)
    except (sqlite3.Error, OSError) as error:
        raise JournalError(f"journal {path} cannot be read, or {target} not be written: {error}") from error
    return rescued


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads."""
    if not path.is_file():
        raise JournalError(f"no journal at {path}")
    try:
        check_size(path)
        address = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection, damage_told_apart():
            yield connection
    except (DamagedError, ValueError) as error:
        try:
            check_readable(path)  # SQLite calls a page malformed that the disk does not give
        except OSError as unread:
            raise _unread(path, unread) from unread
        raise DamagedJournalError(f"journal {path} is damaged: {error}") from error
    except (sqlite3.Error, OSError) as error:
        raise _unread(path, error) from error


def _unread(path: Path, error: Exception) -> JournalError:
    return JournalError(f"journal {path} cannot be read: {error}")
