"""What a WAL holds, whether or not SQLite would read it (https://sqlite.org/fileformat2.html#the_write_ahead_log).

SQLite reads a WAL up to the first frame whose checksum is wrong, and takes what comes after it for the torn tail of a
commit that never returned. So it does for a bit that was changed in the middle. Behind such a frame there are whole
commits, which were acknowledged: `commits_behind` counts them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from allocator.journal.places import extras

PAGE_SIZE = 4096
"""Of every journal: SQLite's default."""
_HEADER = Struct(">8I")  # magic, version, page size, checkpoint, two salts, two checksums
_FRAME = Struct(">6I")  # page, size of the database in pages if it ends a commit, two salts, two checksums
_FRAME_SIZE = _FRAME.size + PAGE_SIZE
_MAGICS = {0x377F0682: "<I", 0x377F0683: ">I"}


@dataclass(frozen=True, slots=True)
class Frame:
    """One page as a commit left it. `size`: of the database in pages, if the frame ends a commit, else 0."""

    page: int
    size: int
    offset: int  # of the page in the file


@dataclass(frozen=True, slots=True)
class Wal:
    """The frames of the last generation, up to the last one that ends a commit, sound or not."""

    frames: tuple[Frame, ...] = ()
    has_sound_header: bool = True

    def commits_behind(self, frame: int) -> int:
        """How many commits end behind the first `frame` frames."""
        return sum(each.size > 0 for each in self.frames[frame:])

    @property
    def pages(self) -> int:
        """The size of the database after the last commit."""
        return self.frames[-1].size if self.frames else 0


def read_wal(path: Path) -> Wal:
    """The WAL beside a journal's file.

    Raises:
        OSError: it cannot be read.

    """
    wal, _ = extras(path)
    try:
        file = wal.open("rb", buffering=0)
    except FileNotFoundError:
        return Wal()
    with file:
        descriptor = file.fileno()
        header = os.pread(descriptor, _HEADER.size, 0)
        first = os.pread(descriptor, _FRAME.size, _HEADER.size)
        if len(header) < _HEADER.size or len(first) < _FRAME.size:
            return Wal()
        is_sound = _is_sound(header)
        salts = _HEADER.unpack(header)[4:6] if is_sound else _FRAME.unpack(first)[2:4]
        return Wal(_frames(descriptor, salts), is_sound)


def _frames(descriptor: int, salts: tuple[int, ...]) -> tuple[Frame, ...]:
    frames: list[Frame] = []
    whole = 0  # frames up to the last one that ends a commit
    offset, end = _HEADER.size, os.fstat(descriptor).st_size
    while offset + _FRAME_SIZE <= end:
        page, size, *rest = _FRAME.unpack(os.pread(descriptor, _FRAME.size, offset))
        frames.append(Frame(page, size, offset + _FRAME.size))
        if size and tuple(rest[:2]) == salts:  # else of an earlier generation, or its salt itself was changed
            whole = len(frames)
        offset += _FRAME_SIZE
    return tuple(frames[:whole])


def _is_sound(header: bytes) -> bool:
    """Whether SQLite would read the header."""
    magic, _, page_size, _, _, _, *checksum = _HEADER.unpack(header)
    if magic not in _MAGICS or page_size != PAGE_SIZE:
        return False
    one = two = 0
    words = Struct(_MAGICS[magic][0] + "6I").unpack(header[:24])
    for even, odd in zip(words[::2], words[1::2], strict=True):
        one = (one + even + two) & 0xFFFF_FFFF
        two = (two + odd + one) & 0xFFFF_FFFF
    return [one, two] == checksum
