"""What the disk does to a start: somebody has locked the journal, or the disk is full, or it is read-only. All of it passes.

The latter two need a file system of our own, which needs root: without, only locks are planted.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

SIZE = 64 << 20
LOCKED, FULL, READ_ONLY = "locked", "full", "read-only"


class Disk:
    """A folder for the journal, on a small file system of its own where that may be mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "disk"
        self.folder.mkdir()
        self._is_mounted = os.geteuid() == 0 and _mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", self.folder)
        self.faults = (LOCKED, FULL, READ_ONLY) if self._is_mounted else (LOCKED,)

    @property
    def journal(self) -> Path:
        return self.folder / "journal.db"

    def close(self) -> None:
        """The allocator has ended. What it left stays for whoever looks for a violation."""
        if self._is_mounted:
            kept = {path.name: path.read_bytes() for path in self.folder.iterdir()}
            subprocess.run(["umount", self.folder], check=False)
            for name, content in kept.items():
                (self.folder / name).write_bytes(content)

    @asynccontextmanager
    async def fault(self, kind: str) -> AsyncIterator[None]:
        if kind == LOCKED:
            with closing(sqlite3.connect(self.journal, isolation_level=None)) as other:
                other.execute("PRAGMA locking_mode = EXCLUSIVE")
                other.execute("BEGIN EXCLUSIVE")
                yield
        elif kind == FULL:
            filler = self.folder / "filler"
            await asyncio.to_thread(_fill, filler)
            yield
            filler.unlink()
        else:
            _mount("-o", "remount,ro", self.folder)
            yield
            _mount("-o", "remount,rw", self.folder)


def _mount(*arguments: str | Path) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for block in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(block))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
