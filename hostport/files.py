"""Certificates on disk: reading them, and noticing that they changed.

Changes are found by looking: mounted Secrets are swapped by symbolic links, which few watches follow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path


class FileWatch:
    """Some files as they were when last looked at."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether any file is another one than at the last call."""
        before, self._seen = self._seen, self._look()
        return self._seen != before

    def forget(self) -> None:
        """Makes the next call say that something changed."""
        self._seen = ()

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_identity, self._paths))


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def read_all(first: Path, more: Iterable[Path] = ()) -> bytes:
    """A file and others after it; of the others what is absent is left out.

    Raises:
        OSError: the first cannot be read, or one of the others is there and cannot be.

    """
    parts = [first.read_bytes()]
    for path in more:
        with contextlib.suppress(FileNotFoundError):
            parts.append(path.read_bytes())
    return b"\n".join(parts)
