"""How long to wait before a request is repeated. Pure."""

from __future__ import annotations

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 10.0


def pause(failures: int, chance: float, *, at_least: float = 0.0) -> float:
    """Seconds to wait after so many failures in a row (1 or more); `chance` is in [0, 1).

    The bound doubles from 0.1 to 10 seconds; half of it is fixed and half is chance, so that clients that failed
    together do not come back together. What the server asked for (Retry-After) is a minimum on top of which the
    chance comes.
    """
    bound = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - 1, 30))
    wait: float = bound * (1 + chance) / 2
    return max(wait, at_least + bound * chance / 2 if at_least else 0.0)
