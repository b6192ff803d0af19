"""The files of a journal: PATH, what SQLite keeps beside it, its lock, and what was set aside.

Rules:

* `PATH.lock` is locked (flock) for as long as the journal is in use. It also says which commit was the last that
  somebody may have been told of. That is written after the commit is durable and not synced: it may be old after a
  power cut, and is never ahead. A journal that is behind it has lost commits.
* What was set aside is told for as long as a file `PATH.corrupt-<time>` is there; `acknowledge` renames it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import logging
import os
from pathlib import Path
from time import monotonic
from zlib import crc32

from allocator.journal.contract import JournalError, JournalInUseError

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Between two looks at what was set aside."""

CORRUPT, ACKNOWLEDGED = ".corrupt-", ".acknowledged-"
_STAMP = "%Y%m%dT%H%M%S%fZ"


def extras(path: Path) -> tuple[Path, Path]:
    """What SQLite keeps beside a file: the WAL, and its index."""
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def is_there(path: Path) -> bool:
    """Whether there is such a file. From Python 3.14 on `Path.exists` says no as well where that cannot be told.

    Raises:
        OSError: it cannot be told.

    """
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def draft_of(path: Path) -> Path:
    """Where a new journal is made, before it is renamed into its place."""
    return path.with_name(path.name + ".new")


def fresh_aside(path: Path) -> Path:
    """Where a damaged file goes now."""
    return path.with_name(path.name + CORRUPT + dt.datetime.now(dt.UTC).strftime(_STAMP))


def put_aside(path: Path, aside: Path) -> None:
    """Renames a file and what SQLite keeps beside it: the file first, since a WAL alone says nothing.

    Raises:
        OSError: it cannot be renamed.

    """
    for each in (path, *extras(path)):
        if is_there(each):
            each.rename(aside.with_name(aside.name + each.name.removeprefix(path.name)))
    sync_folder(path)


def asides(path: Path) -> list[Path]:
    """What was set aside and not acknowledged, oldest first: the name of the database, also where only its WAL is left.

    Raises:
        OSError: the folder cannot be read.

    """
    prefix = path.name + CORRUPT
    return sorted({each.with_name(prefix + each.name.removeprefix(prefix).partition("-")[0]) for each in _files(path)})


def aside_at(aside: Path) -> float:
    """When it was set aside, in seconds since the epoch; 0.0: its name does not say."""
    try:
        return dt.datetime.strptime(aside.name.rpartition(CORRUPT)[2], _STAMP).replace(tzinfo=dt.UTC).timestamp()
    except ValueError:
        return 0.0


def acknowledge(path: Path) -> list[Path]:
    """Whoever runs the allocator knows of what was set aside: it is told no more. The files stay, under another name.

    Returns them as they are called now.

    Raises:
        OSError: one cannot be renamed.

    """
    renamed = []
    for each in sorted(_files(path)):
        name = path.name + ACKNOWLEDGED + each.name.removeprefix(path.name + CORRUPT)
        renamed.append(each.rename(each.with_name(name)))
    return renamed


def _files(path: Path) -> list[Path]:
    if not path.parent.is_dir():
        return []
    return [each for each in path.parent.iterdir() if each.name.startswith(path.name + CORRUPT)]


class SetAside:
    """What was set aside of one journal, looked at again from time to time: somebody may acknowledge it meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: list[Path] = []
        self._looks_again_at = 0.0

    def known(self) -> list[Path]:
        """The names, oldest first. Where the folder cannot be read, what was known stays told."""
        now = monotonic()
        if now >= self._looks_again_at:
            self._looks_again_at = now + LOOK_SECONDS
            with contextlib.suppress(OSError):
                self._known = asides(self._path)
        return self._known

    def warn(self) -> None:
        """Looks again at once, and warns of each in the log."""
        self._looks_again_at = 0.0
        for aside in self.known():
            log.warning(
                "%s was set aside and nobody has acknowledged it: `python -m allocator journal acknowledge %s`",
                aside,
                self._path,
            )


def sync_folder(path: Path) -> None:
    """Makes renames beside a file durable."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """`PATH.lock`, locked until it is closed or the process ends. See the module."""

    def __init__(self, path: Path) -> None:
        """Locks.

        Raises:
            JournalInUseError: another process has it.
            JournalError: it cannot be made.

        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            name = path.with_name(path.name + ".lock")
            self._descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise JournalError(f"journal {path} cannot be locked: {error}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise JournalInUseError(f"journal {path} is in use by another allocator") from error
        except OSError as error:
            os.close(self._descriptor)
            raise JournalError(f"journal {path} cannot be locked: {error}") from error

    def last_told(self) -> LastTold | None:
        """The commit that was the last one to be told of; None: it does not say."""
        return parse_last_told(os.pread(self._descriptor, 256, 0))

    def tell(self, identity: str, number: int) -> None:
        """Says that this commit is durable. An error is none of the journal's: the file then says less."""
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, _lock_line(identity, number), 0)

    def close(self) -> None:
        os.close(self._descriptor)


LastTold = tuple[str, int]
"""The identity of a journal, and the number of a commit."""


def read_last_told(path: Path) -> LastTold | None:
    """What `PATH.lock` says, without locking it; None: nothing."""
    try:
        return parse_last_told(path.with_name(path.name + ".lock").read_bytes()[:256])
    except OSError:
        return None


def parse_last_told(line: bytes) -> LastTold | None:
    """The line of a lock file; None where it is not what `Lock.tell` writes."""
    try:
        identity, number, _ = line.decode("ascii").split(" ")
        return (identity, int(number)) if _lock_line(identity, int(number)) == line else None
    except ValueError:
        return None


def _lock_line(identity: str, number: int) -> bytes:
    """As long for every commit, so that it is overwritten as a whole."""
    text = f"{identity} {number:020d} "
    return f"{text}{crc32(text.encode()):08x}\n".encode()
