"""Certificates on disk: noticing that they changed, and never asking the terminal for their passwords.

Changes are found by looking: mounted Secrets are swapped by symbolic links, which few watches follow.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
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


def load_pair(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Makes a context show a certificate from memory: the very bytes that were read, and not what a file has by now.

    Raises:
        OSError: they are no certificate and key (ssl.SSLError), or not each other's.

    """
    in_memory = hasattr(os, "memfd_create")  # where there is none, such as on macOS, only its owner can read the file
    with os.fdopen(os.memfd_create("pair"), "w+b") if in_memory else tempfile.NamedTemporaryFile() as file:
        file.write(key + b"\n" + chain)
        file.flush()
        context.load_cert_chain(f"/dev/fd/{file.fileno()}" if in_memory else file.name, password=no_password)
