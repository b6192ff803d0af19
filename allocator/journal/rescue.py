"""What can be read soundly out of a damaged journal, and a new journal that begins with it.

Rules:

* Only files are read, never by way of SQLite in their place: it would change them. Database and WAL are put together
  page by page into another file, also the frames behind one that SQLite does not read.
* A row is taken if it has its checksum, and only then. It may be older than the damage: held for too long is better
  than given twice.
* An answer whose claim is not among them is left out: "granted" would be said of what nobody holds.
* The new journal has another identity: it is not known to hold everything that its predecessor granted.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allocator.core.claims import Claim
from allocator.journal.contract import Answer, Entry, Kept, Put
from allocator.journal.places import draft_of, extras, is_there, sync_folder
from allocator.journal.reading import NOT_OURS, sound_answer, sound_claim
from allocator.journal.tables import APPLICATION_ID, lay_out, read_totals
from allocator.journal.wal import PAGE_SIZE, Wal, read_wal

_CONSTANTS = {
    0: b"SQLite format 3\0",
    16: PAGE_SIZE.to_bytes(2, "big"),
    18: b"\1\1\0\x40\x20\x20",  # versions (without a WAL), reserved bytes, fractions of a payload
    56: (1).to_bytes(4, "big"),  # UTF-8
    68: APPLICATION_ID.to_bytes(4, "big"),
}
"""What the header of every journal says at these offsets."""


_NOTHING = Kept()


@dataclass(frozen=True, slots=True)
class Rescued:
    """What was read. `expected`: how many claims and answers the last commit left; None: that cannot be read."""

    kept: Kept
    expected: tuple[int, int] | None

    def __str__(self) -> str:
        found = f"{len(self.kept.claims)} claims and {len(self.kept.answers)} answers"
        return (
            f"{found} of {self.expected[0]} and {self.expected[1]}"
            if self.expected
            else f"{found}, of an unknown number"
        )

    @property
    def is_all(self) -> bool:
        """Whether there is as much as there was."""
        return self.expected == (len(self.kept.claims), len(self.kept.answers))


def rescue(path: Path, draft: Path) -> Rescued:
    """Makes a new journal at `draft` with what can be read of the one at `path`, which nobody has open for writing.

    Raises:
        OSError, sqlite3.Error: the environment's fault; nothing is left of the draft.

    """
    pages = draft.with_name(draft.name + "-pages")
    try:
        _put_together(path, pages)
        rescued = _read_rescued(pages)
    finally:
        pages.unlink(missing_ok=True)
    make(draft, rescued.kept)
    return rescued


def make(draft: Path, kept: Kept = _NOTHING) -> None:
    """Makes a journal with these records, and a name of its own, whole and durable.

    Raises:
        OSError, sqlite3.Error: the environment's fault.

    """
    draft.unlink(missing_ok=True)
    entries: list[Entry] = [*map(Put, kept.claims), *kept.answers]
    try:
        with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            lay_out(connection, secrets.token_hex(16), entries, kept.clock)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def make_in_place(path: Path) -> None:
    """An empty journal, in its place only when it is whole.

    Raises:
        OSError, sqlite3.Error: the environment's fault.

    """
    draft = draft_of(path)
    make(draft)
    draft.rename(path)
    sync_folder(path)


def _put_together(path: Path, place: Path) -> None:
    """Database and WAL as one file, whatever their checksums say."""
    wal = read_wal(path)
    if is_there(path):
        shutil.copyfile(path, place)
    with place.open("r+b" if place.exists() else "x+b", buffering=0) as file:
        if wal.frames:
            _apply_wal(wal, path, file.fileno())
            file.truncate(wal.pages * PAGE_SIZE)
        for offset, constant in _CONSTANTS.items():
            os.pwrite(file.fileno(), constant, offset)


def _apply_wal(wal: Wal, path: Path, target: int) -> None:
    """Writes each page of a WAL to its place: the last one of a page stays."""
    name, _ = extras(path)
    with name.open("rb", buffering=0) as source:
        for frame in wal.frames:
            if 1 <= frame.page <= wal.pages:
                page = os.pread(source.fileno(), PAGE_SIZE, frame.offset)
                os.pwrite(target, page, (frame.page - 1) * PAGE_SIZE)


def _read_rescued(place: Path) -> Rescued:
    expected: tuple[int, int] | None = None
    clock: float | None = None
    with closing(sqlite3.connect(f"{place.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        with suppress(sqlite3.Error, ValueError):
            totals = read_totals(connection)
            expected, clock = (totals.claims, totals.answers), totals.clock
        claims = {claim.id: claim for claim in _salvaged_claims(connection)}
        answers = {
            answer.request_id: answer
            for answer in _salvaged_answers(connection)
            if answer.ended is not None or answer.claim_id in claims
        }
        if expected is None:  # what has ended has ended by then; a clock that is behind ends nothing early
            clock = max((answer.ended for answer in answers.values() if answer.ended is not None), default=None)
    return Rescued(Kept(tuple(claims.values()), tuple(answers.values()), clock), expected)


def _salvaged_claims(connection: sqlite3.Connection) -> Iterator[Claim]:
    has_crc = _has_crc(connection, "claims")
    for _, claim_id, body, *crc in _rows(connection, "claims", "id, CAST(body AS BLOB)", has_crc=has_crc):
        with suppress(*NOT_OURS):
            yield sound_claim(claim_id, body, crc[0] if crc else None)


def _salvaged_answers(connection: sqlite3.Connection) -> Iterator[Answer]:
    has_crc = _has_crc(connection, "answers")
    columns = "request_id, digest, claim_id, response, ended"
    for _, request_id, digest, claim_id, response, ended, *crc in _rows(
        connection, "answers", columns, has_crc=has_crc
    ):
        with suppress(*NOT_OURS):
            yield sound_answer(request_id, digest, claim_id, response, ended, crc[0] if crc else None)


def _has_crc(connection: sqlite3.Connection, table: str) -> bool:
    """Whether rows have checksums: those of the first version have none."""
    try:
        return any(column[1] == "crc" for column in connection.execute(f"PRAGMA table_info({table})"))
    except sqlite3.Error:
        return True


def _rows(connection: sqlite3.Connection, table: str, columns: str, *, has_crc: bool) -> list[tuple[Any, ...]]:
    """The rows by number: up to what cannot be read from the first one on, and from the last one back."""
    found: dict[int, tuple[Any, ...]] = {}
    for order in ("ASC", "DESC"):
        query = f"SELECT seq, {columns}{', crc' if has_crc else ''} FROM {table} ORDER BY seq {order}"  # noqa: S608 - ours
        with suppress(sqlite3.Error):
            for row in connection.execute(query):
                found.setdefault(row[0], row)
    return [found[seq] for seq in sorted(found)]
