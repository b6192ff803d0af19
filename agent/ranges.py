"""The kernel's lists of port numbers: `ip_local_port_range` and `ip_local_reserved_ports`, read and written.

Rules:

* A list is read by one read() that has room for all of it: the kernel gives a second one nothing, and cuts what does
  not fit. Most ways to read a file stop at 8 KiB.
* The kernel takes a page of a list at once. A further write() to the same open file adds to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from agent.sockets import Run

NETWORK = Path("/proc/sys/net/ipv4")
LARGEST_LIST = 1 << 19
"""Bytes: more than a list has in which every second number stands."""


def parse_list(text: str) -> frozenset[int]:
    """The numbers of a list such as `6443,10250-10256`.

    Raises:
        ValueError: it is no such list.

    """
    numbers: set[int] = set()
    for part in text.strip().split(",") if text.strip() else ():
        found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip())
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not low <= high <= 65535:
            raise ValueError(f"{part[:20]!r} is no number and no range of ports")
        numbers.update(range(low, high + 1))
    return frozenset(numbers)


def format_list(numbers: Iterable[int]) -> str:
    """The same as text."""
    return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in runs(numbers))


def runs(numbers: Iterable[int]) -> Iterator[Run]:
    """Numbers, in order and joined where they are consecutive."""
    low = high = -2
    for number in sorted(numbers):
        if number != high + 1:
            if high >= 0:
                yield low, high
            low = number
        high = number
    if high >= 0:
        yield low, high


def spans(numbers: Iterable[int], most: int) -> list[Run]:
    """At most so many ranges that hold all of the numbers, and between them as few others as can be."""
    found = list(runs(numbers))
    widths = sorted((after[0] - before[1] for before, after in pairwise(found)), reverse=True)
    shortest = widths[most - 1] + 1 if len(widths) >= most else 0  # of the gaps that stay
    joined: list[Run] = []
    for low, high in found:
        if joined and low - joined[-1][1] < shortest:
            joined[-1] = (joined[-1][0], high)
        else:
            joined.append((low, high))
    return joined


def read_range(path: Path = NETWORK / "ip_local_port_range") -> Run | None:
    """The numbers that outgoing connections take; None where they cannot be read."""
    try:
        low, high = map(int, path.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return None
    return (low, high) if 1 <= low <= high <= 65535 else None


def read_list(path: Path = NETWORK / "ip_local_reserved_ports") -> frozenset[int]:
    """The numbers of a list.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else.

    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(descriptor, LARGEST_LIST)
    finally:
        os.close(descriptor)
    return parse_list(text.decode("ascii"))


def write_list(numbers: Iterable[int], path: Path = NETWORK / "ip_local_reserved_ports") -> None:
    """Puts other numbers in place of a list.

    Raises:
        OSError: it cannot be written.

    """
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        rest = (format_list(numbers) or "\n").encode("ascii")
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)
