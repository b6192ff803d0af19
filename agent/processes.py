"""The names of the processes that hold sockets, where the system lets us read them. Elsewhere there is the user."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.sockets import OpenSocket

PROC = Path("/proc")


class ProcessNames:
    """Names by the inode of a socket. They are looked up again for sockets that are new."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._names: dict[int, str] = {}  # empty: it could not be read

    def look(self, sockets: Iterable[OpenSocket]) -> None:
        """Reads the names of those that hold some sockets. To be called before `of`."""
        wanted = {each.inode for each in sockets}
        unknown = wanted - self._names.keys()
        self._names = {inode: name for inode, name in self._names.items() if inode in wanted}
        if unknown:
            self._names |= dict.fromkeys(unknown, "") | dict(self._found(unknown))

    def of(self, socket: OpenSocket) -> str:
        """The name of a process that holds a socket; empty where it is not known."""
        return self._names.get(socket.inode, "")

    def _found(self, inodes: set[int]) -> Iterator[tuple[int, str]]:
        links = {f"socket:[{inode}]": inode for inode in inodes}
        for process in self._proc.iterdir():
            if not process.name.isdigit():
                continue
            # One after the other: a process may have a million descriptors.
            with contextlib.suppress(OSError), os.scandir(process / "fd") as descriptors:  # not ours, or it has ended
                for descriptor in descriptors:
                    inode = links.get(os.readlink(descriptor.path))  # noqa: PTH115 - no object for each
                    if inode is not None:
                        yield inode, (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
