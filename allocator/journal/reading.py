"""Reads a journal's file, and proves that it is whole.

Rules:

* Damage is what SQLite or a checksum of ours proves, and nothing else (`DamagedError`). A file that is locked, a disk
  that is full, read-only or broken, a missing right: these are errors of the environment, and say nothing about the
  file. SQLite calls a page malformed that it could not read: `check_readable` tells the two apart.
* The file is whole if SQLite's check finds nothing, every row has its checksum, together they come to what the last
  commit summed up, and no commit is missing.
* A commit is missing where somebody was told of a later one (`PATH.lock`), or where the WAL holds whole commits behind
  a frame that SQLite does not read. One that never returned, and so was never told of, is no loss: the torn tail.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from allocator.core.claims import Claim, ClaimId
from allocator.journal.contract import Answer, JournalVersionError, Kept
from allocator.journal.places import LastTold, extras
from allocator.journal.tables import (
    APPLICATION_ID,
    FIRST_VERSION,
    SCHEMA_VERSION,
    Rows,
    Totals,
    answer_crc,
    claim_crc,
    decode_claim,
    read_totals,
    row_of,
)
from allocator.journal.wal import PAGE_SIZE

SMALLEST_PAGE = 512
_INDEX = struct.Struct("=16xI")  # of the index of a WAL: https://sqlite.org/walformat.html
_READ_CLAIMS = "SELECT seq, id, CAST(body AS BLOB), crc FROM claims"
_READ_ANSWERS = "SELECT seq, request_id, digest, claim_id, response, ended, crc FROM answers ORDER BY seq"
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH})
"""SQLite's codes of damage. SQLITE_ERROR: a statement of ours does not fit what the file says of its tables."""


NOT_OURS = (ValueError, TypeError, AttributeError, struct.error)
"""What comes of reading a row that is not as it was written: a column may have another type, too."""


class DamagedError(Exception):
    """The file is not what we wrote: proven."""


class Content(msgspec.Struct, gc=False):
    """What a whole journal holds."""

    kept: Kept
    rows: Rows
    totals: Totals


@contextmanager
def damage_told_apart() -> Iterator[None]:
    """Raises DamagedError for the errors of SQLite that prove damage; the others are raised as they are."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)  # None: what was read is no text
        if code is None or code & 0xFF in _DAMAGE:
            raise DamagedError(str(error)) from error
        raise


def check_size(path: Path) -> None:
    """Finds the truncations that SQLite passes over.

    It takes what is shorter than its smallest page for a new database, and a last page that is cut for one with zeros.
    The latter is fine while there is a WAL: a crash during a checkpoint leaves it so, and the WAL has the page.

    Raises:
        DamagedError: it was truncated.
        OSError: it cannot be read.

    """
    wal, _ = extras(path)
    try:
        has_wal = wal.stat().st_size > 0  # first: a reader that leaves puts it into the file, and deletes it
    except FileNotFoundError:
        has_wal = False
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(18)
    page_size = max(SMALLEST_PAGE, int.from_bytes(header[16:18], "big"))
    if size < SMALLEST_PAGE or (not has_wal and header.startswith(b"SQLite format 3") and size % page_size):
        raise DamagedError(f"the file has {size} bytes: it was truncated")


def check_readable(path: Path) -> None:
    """Reads database and WAL from end to end. Where a page cannot be read, SQLite calls it malformed, too.

    Raises:
        OSError: they cannot be read, so that nothing is proven.

    """
    for each in (path, extras(path)[0]):
        with suppress(FileNotFoundError), each.open("rb", buffering=0) as file:
            for offset in range(0, os.fstat(file.fileno()).st_size, PAGE_SIZE):
                os.pread(file.fileno(), PAGE_SIZE, offset)


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the schema.

    Raises:
        JournalVersionError: another program's, or one that this program does not know.
        DamagedError: its header says so, but its content is ours.
        sqlite3.Error: it cannot be read.

    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID and FIRST_VERSION <= version <= SCHEMA_VERSION:
        return int(version)
    try:
        with damage_told_apart():
            read_totals(connection)
    except (DamagedError, ValueError) as error:
        if application != APPLICATION_ID:
            raise JournalVersionError(f"{path} is a database of another program: it is left alone") from error
        raise JournalVersionError(
            f"{path} has schema version {version}, this program knows {SCHEMA_VERSION}: run the version that wrote it"
        ) from error
    raise DamagedError(f"its header says version {version} of program {application:#x}, and its content is ours")


def check_pages(connection: sqlite3.Connection) -> None:
    """SQLite's own check, of indexes too.

    Raises:
        DamagedError: it finds something.
        sqlite3.Error: the file cannot be read.

    """
    with damage_told_apart():
        problems = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
    if problems != ["ok"]:
        raise DamagedError("; ".join(problems))


def read_content(connection: sqlite3.Connection) -> Content:
    """Every record, each held against its checksum, and all of them against what the last commit summed up.

    Raises:
        DamagedError: something is not as it was written.
        sqlite3.Error: the file cannot be read.

    """
    rows = Rows()
    with damage_told_apart():
        try:
            totals = read_totals(connection)
            claims, of_claims = _claims(connection, rows)
            answers, of_answers = _answers(connection, rows)
        except NOT_OURS as error:
            raise DamagedError(str(error)) from error
    if len(rows.claims) != len(claims):
        raise DamagedError("two records have one id")
    if (len(claims), len(answers), of_claims + of_answers) != (totals.claims, totals.answers, totals.digest):
        raise DamagedError(
            f"it has {len(claims)} claims and {len(answers)} answers. Its last commit, number {totals.number}, left"
            f" {totals.claims} and {totals.answers}, and not all of them are these"
        )
    return Content(Kept(tuple(claims), tuple(answers), totals.clock), rows, totals)


def _claims(connection: sqlite3.Connection, rows: Rows) -> tuple[list[Claim], int]:
    """The claims, and the sum of their checksums."""
    claims, digest = [], 0
    for seq, claim_id, body, crc in connection.execute(_READ_CLAIMS):
        claim = sound_claim(claim_id, body, crc)
        rows.claims[claim.id] = row_of(seq, crc)
        digest += crc
        claims.append(claim)
    return claims, digest


def _answers(connection: sqlite3.Connection, rows: Rows) -> tuple[list[Answer], int]:
    """The answers, and the sum of their checksums."""
    same = {claim_id: claim_id for claim_id in rows.claims}
    answers, digest = [], 0
    for seq, request_id, told, claim_id, response, ended, crc in connection.execute(_READ_ANSWERS):
        answer = sound_answer(request_id, told, same.get(claim_id, claim_id), response, ended, crc)
        if ended is None:
            rows.add_answer(answer.claim_id, row_of(seq, crc))
        digest += crc
        answers.append(answer)
    return answers, digest


def sound_claim(claim_id: str, body: bytes, crc: int | None) -> Claim:
    """The claim of a row. `crc` is None for rows of the first version, which have none.

    Raises:
        ValueError, or another of `NOT_OURS`: the row is not as it was written.

    """
    if crc is not None and claim_crc(claim_id, body) != crc:
        raise ValueError("the checksum of a claim is wrong")
    claim = decode_claim(body)
    if claim.id != claim_id:
        raise ValueError("a claim has another id than its row")
    return claim


def sound_answer(
    request_id: str, digest: bytes, claim_id: str, response: bytes, ended: float | None, crc: int | None
) -> Answer:
    """The answer of a row. `crc` is None for rows of the first version, which have none.

    Raises:
        ValueError, or another of `NOT_OURS`: the row is not as it was written.

    """
    if crc is not None and answer_crc(request_id, digest, claim_id, response, ended) != crc:
        raise ValueError("the checksum of an answer is wrong")
    return Answer(request_id, digest, ClaimId(claim_id), response, ended)


def check_complete(totals: Totals, told: LastTold | None, behind: int) -> None:
    """Whether a commit is missing that somebody was told of. `behind`: how many of the WAL SQLite does not read.

    Raises:
        DamagedError: one is, or may be.

    """
    is_known = told is not None and told[0] == totals.identity
    if told is not None and is_known and told[1] > totals.number:
        raise DamagedError(f"it ends with commit {totals.number}, and somebody was told of commit {told[1]}")
    # The last commit of the WAL may be one that never returned. Before a second one began the first had.
    if behind > (1 if is_known else 0):
        raise DamagedError(f"behind commit {totals.number} its WAL has {behind} that cannot be read")


class WalIndex:
    """How far SQLite reads the WAL of a connection, once that has read something.

    Closed only after the connection: POSIX drops a process's locks on a file when it closes any descriptor of it.
    """

    def __init__(self, path: Path) -> None:
        _, self._path = extras(path)
        self._descriptor: int | None = None

    def frames(self) -> int:
        """Raises OSError: it cannot be read."""
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return 0
        header = os.pread(self._descriptor, _INDEX.size, 0)
        return int(_INDEX.unpack(header)[0]) if len(header) == _INDEX.size else 0

    def close(self) -> None:
        """Lets go of the file, after the connection has."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
