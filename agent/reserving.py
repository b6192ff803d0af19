"""Keeps the numbers that are given on a node out of its outgoing connections (`--reserve`).

The kernel gives a number of `ip_local_reserved_ports` to nobody who does not ask for it by name: programs that listen
on theirs can, and outgoing connections never get one. One that has a number already keeps it.

Rules:

* Numbers that may be given next (*upcoming*) are reserved before they are given, those that are given come first.
* What others have written into the list stays: we add to it, and take out what is ours alone.
* A list that lacks a number of ours, though it was there, was written anew by somebody else: all of it is theirs, a
  number of ours that they wrote, too.
* What is ours stands in a file that is written before the list, so that a restart knows it. Where the file is gone,
  all of the list counts as somebody else's.
* At least half of the ephemeral range is left to outgoing connections. Beyond that nothing more is reserved.
* Only numbers of the ephemeral range are reserved: the others no connection gets.
* What is ours by the file need not be kept: a list that cannot be written lacks it. What stands in the list is kept.
* The end of the agent changes nothing, since the Pods go on. `--unreserve` takes out what is ours, and leaves a file
  beside ours: an agent that runs and finds it keeps nothing more. One that is started with `--reserve` removes it.
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
        self._stopped = state.with_suffix(".stopped")
        self._own = self._remembered()
        self._is_listed = False  # whether all of ours stood in the list when that was last written, or read

    @property
    def is_stopped(self) -> bool:
        """Whether somebody wants that nothing more is kept."""
        return self._stopped.exists()

    def stop(self) -> None:
        """Has whoever keeps numbers keep none any more, this process or another one. Raises OSError."""
        self._stopped.touch()

    def resume(self) -> None:
        """Takes back `stop`. Raises OSError."""
        if self.is_stopped:
            self._stopped.unlink(missing_ok=True)

    def others(self) -> frozenset[int]:
        """What somebody else keeps out of outgoing connections. Raises OSError, ValueError."""
        listed = read_list(self._path)
        return listed - self._own_in(listed)

    @property
    def own(self) -> frozenset[int]:
        """What is ours by our file; all of it is kept where `keep` did not fail."""
        return self._own

    def standing(self) -> frozenset[int]:
        """What of it we keep out of outgoing connections: the list has it. Raises OSError, ValueError."""
        return self._own & read_list(self._path)

    def keep(self, given: Iterable[int], upcoming: Iterable[int], ephemeral: Run | None) -> None:
        """Makes our part of the list these numbers, as far as the guard rail lets it.

        Raises:
            OSError: the list, or our file, cannot be written.
            ValueError: the list holds something that we do not understand; it is left alone.

        """
        listed = read_list(self._path)
        own = self._own_in(listed)
        others = listed - own
        wanted, left_out = chosen(given, upcoming, ephemeral, others)
        if wanted == self._own and wanted <= listed:
            self._is_listed = True
            return
        if left_out:
            log_event(log, "too many numbers to reserve", level=logging.WARNING, left_out=left_out, ephemeral=ephemeral)
        self._is_listed = False
        self._remember(own | wanted)  # should we end here, all of it is known to be ours
        write_list(others | wanted, self._path)
        self._remember(wanted)
        self._is_listed = True
        log_event(log, "numbers reserved", own=len(wanted), others=len(others))

    def _own_in(self, listed: frozenset[int]) -> frozenset[int]:
        """What may be ours of a list; nothing where somebody else wrote it anew."""
        return frozenset() if self._is_listed and not self._own <= listed else self._own

    def _remembered(self) -> frozenset[int]:
        try:
            return parse_list(self._state.read_text(encoding="ascii"))
        except FileNotFoundError:
            return frozenset()
        except (OSError, ValueError) as error:
            log_event(log, "what was reserved before is not known", level=logging.WARNING, error=str(error))
            return frozenset()

    def _remember(self, own: frozenset[int]) -> None:
        draft = self._state.with_suffix(f".{os.getpid()}.new")  # `--unreserve` may be at it, too
        with draft.open("w", encoding="ascii") as file:
            file.write(format_list(own) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._state)
        self._own = own
