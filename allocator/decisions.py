"""The last decisions, for the status page: a ring in memory, told of every answer to Allocate in one place.

Telling is cheap: values are taken as they are, nothing is rendered. The ring is bounded in number. Who tells
(`commands`) bounds each entry in size, whatever a caller sent.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import NamedTuple

MOST_DECISIONS = 500
MOST_NUMBERS = 16
MOST_DETAIL = 600


class Decision(NamedTuple):
    """One answer to Allocate.

    number: counts from 1 since the start. at: by the wall clock, in seconds. detail: its first `MOST_DETAIL`
    characters. numbers: the first `MOST_NUMBERS` of so many `ports`. seconds: how long the answer took.
    """

    number: int
    at: float
    kind: str
    namespace: str
    name: str
    policy: str
    result: str
    reason: str
    detail: str
    numbers: tuple[int, ...]
    ports: int
    node: str
    allocation_id: str
    seconds: float


class Decisions:
    """The ring, and how many there were in all."""

    def __init__(self) -> None:
        self.ring: deque[Decision] = deque(maxlen=MOST_DECISIONS)
        self.total = 0

    def latest(self, most: int, *, results: frozenset[str] = frozenset()) -> list[Decision]:
        """The newest first; with `results` only those."""
        wanted = (one for one in reversed(self.ring) if not results or one.result in results)
        return list(islice(wanted, most))
