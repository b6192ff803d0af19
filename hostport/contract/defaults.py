"""What is meant where a caller says nothing. Both programs and the client read it here, and no number stands twice."""

from __future__ import annotations

from functools import lru_cache

from hostport.contract.limits import HIGHEST_PORT

MIN_PORT, MAX_PORT = 7000, 8000
"""The range of a Pod or lease that names neither bound."""

RANGE_WIDTH = 1000
"""max-port - min-port where min-port alone is given."""

STRIDE = 100
"""Distance between two port groups of one Pod under a policy that has an index."""

LEASE_SECONDS = 3600.0
"""Time to live of a lease that names none."""

COOL_DOWN_SECONDS = 60.0
"""For how long a number that was given up is left alone, where neither the operator nor who asks says otherwise."""

PAGE_SIZE = 100
"""Entries of one page of a list."""


@lru_cache(maxsize=256)  # the Pods of a workload ask alike
def port_range(low: int, high: int) -> tuple[int, int]:
    """The lowest and the highest number that are meant by these two, of which 0 is unset. It may be inverted."""
    if not low:
        return MIN_PORT, high or MAX_PORT
    return low, high or min(low + RANGE_WIDTH, HIGHEST_PORT)
