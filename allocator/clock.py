"""The allocator's time.

The wall clock at the start of the process, carried on by the steady clock: it never steps. A wall clock that is set
forward would end reservations whose Pods may still be stored, and leases that their owners still count on; one that is
set back would keep both. So neither is noticed until the next start, and until then the times that are shown are those
of the old setting.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Called, gives seconds since the epoch."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._offset = wall() - steady()

    def __call__(self) -> float:
        return self._offset + self._steady()
