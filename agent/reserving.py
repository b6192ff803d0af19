"""Keeps the numbers that are given on a node out of its outgoing connections (`--reserve`).

The kernel gives a number of `ip_local_reserved_ports` to nobody who does not ask for it by name: programs that listen
on theirs can, and outgoing connections never get one. One that has a number already keeps it.

Rules:

* Numbers that may be given next (*upcoming*) are reserved before they are given, those that are given come first.
* What others have written into the list stays: we add to it, and take out what is ours alone.
* What is ours stands in a file that is written before the list, so that a restart knows it. Where the file is gone,
  all of the list counts as somebody else's.
* At least half of the ephemeral range is left to outgoing connections. Beyond that nothing more is reserved.
* Only numbers of the ephemeral range are reserved: the others no connection gets.
* The end of the agent changes nothing, since the Pods go on. `--unreserve` takes out what is ours.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from agent.ranges import NETWORK, format_list, parse_list, read_list, write_list
from agent.sockets import Run
from hostport.logs import log_event

log = logging.getLogger(__name__)


def chosen(
    given: Iterable[int], upcoming: Iterable[int], ephemeral: Run | None, others: frozenset[int]
) -> tuple[frozenset[int], int]:
    """Which numbers are to be reserved, given ones first; and how many more should be, but for the guard rail."""
    low, high = ephemeral or (0, -1)
    first = sorted(number for number in given if low <= number <= high and number not in others)
    rest = {number for number in upcoming if low <= number <= high and number not in others}
    wanted = [*first, *sorted(rest.difference(first))]
    room = max(0, (high - low + 1) // 2 - sum(1 for number in others if low <= number <= high))
    return frozenset(wanted[:room]), max(0, len(wanted) - room)


class ReservedPorts:
    """The list of a node, and our part of it."""

    def __init__(self, state: Path, path: Path = NETWORK / "ip_local_reserved_ports") -> None:
        """state: where our part is written down. path: the kernel's list."""
        self._path = path
        self._state = state
        self._own = self._remembered()

    def others(self) -> frozenset[int]:
        """What somebody else keeps out of outgoing connections. Raises OSError, ValueError."""
        return read_list(self._path) - self._own

    @property
    def own(self) -> frozenset[int]:
        """What we keep out of outgoing connections, as it was written last."""
        return self._own

    def keep(self, given: Iterable[int], upcoming: Iterable[int], ephemeral: Run | None) -> None:
        """Makes our part of the list these numbers, as far as the guard rail lets it.

        Raises:
            OSError: the list, or our file, cannot be written.
            ValueError: the list holds something that we do not understand; it is left alone.

        """
        listed = read_list(self._path)
        others = listed - self._own
        wanted, left_out = chosen(given, upcoming, ephemeral, others)
        if wanted == self._own and wanted <= listed:
            return
        if left_out:
            log_event(log, "too many numbers to reserve", level=logging.WARNING, left_out=left_out, ephemeral=ephemeral)
        self._remember(self._own | wanted)  # should we end here, all of it is known to be ours
        write_list(others | wanted, self._path)
        self._remember(wanted)
        log_event(log, "numbers reserved", own=len(wanted), others=len(others))

    def _remembered(self) -> frozenset[int]:
        try:
            return parse_list(self._state.read_text(encoding="ascii"))
        except FileNotFoundError:
            return frozenset()
        except (OSError, ValueError) as error:
            log_event(log, "what was reserved before is not known", level=logging.WARNING, error=str(error))
            return frozenset()

    def _remember(self, own: frozenset[int]) -> None:
        draft = self._state.with_suffix(".new")
        with draft.open("w", encoding="ascii") as file:
            file.write(format_list(own) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._state)
        self._own = own
