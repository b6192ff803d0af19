"""Certificates on disk: noticing that they changed, and never asking the terminal for their passwords.

Changes are found by looking: mounted Secrets are swapped by symbolic links, which few watches follow.
"""

from __future__ import annotations

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


def no_password() -> str:
    """For keys that want a password: without it OpenSSL would ask the terminal."""
    return ""
