"""The last decisions, for the status page: a ring in memory, told of every answer to Allocate in one place.

Telling is cheap: values are taken as they are, nothing is rendered. The ring is bounded in number, and each entry in
size, whatever a caller sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

MOST_DECISIONS = 500
MOST_NUMBERS = 16
MOST_TEXT = 600


class Decision(NamedTuple):
    """One answer to Allocate. `numbers` are the first ones of so many `ports`."""

    number: int  # counts from 1 since the start
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
    """The ring."""

    def __init__(self) -> None:
        self._ring: deque[Decision] = deque(maxlen=MOST_DECISIONS)
        self.total = 0

    def note(
        self,
        *,
        at: float,
        owner: tuple[str, str, str],
        policy: str,
        result: str,
        reason: str,
        detail: str,
        numbers: Sequence[int],
        node: str,
        allocation_id: str,
        seconds: float,
    ) -> None:
        """`owner`: kind, namespace and name."""
        self.total += 1
        kind, namespace, name = owner
        self._ring.append(
            Decision(
                self.total,
                at,
                kind[:MOST_TEXT],
                namespace[:MOST_TEXT],
                name[:MOST_TEXT],
                policy,
                result,
                reason,
                detail[:MOST_TEXT],
                tuple(numbers[:MOST_NUMBERS]),
                len(numbers),
                node,
                allocation_id[:MOST_TEXT],
                seconds,
            )
        )

    def latest(self, most: int, *, results: frozenset[str] = frozenset()) -> list[Decision]:
        """The newest first; with `results` only those."""
        wanted = (one for one in reversed(self._ring) if not results or one.result in results)
        return list(islice(wanted, most))
