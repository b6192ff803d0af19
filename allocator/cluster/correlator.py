"""What is told as Kubernetes Events, and when. Pure: a clock is passed in.

Rules:

* One Event for an object and a reason, and for each kind of those that have kinds: such an Event keeps its first words,
  and its name follows from them, so that another allocator finds it.
* What happens again is counted, and its count is written once a minute at most; where the words have changed
  meanwhile, that is a new Event, as those of an Event cannot change.
* A token bucket bounds the writes of one correlator, so that a bad day of the cluster is not made worse.
* As many objects are remembered as `MOST_SERIES`; what is written is forgotten first, and what still has no room is
  dropped. Nothing here waits for anybody.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from allocator.token_bucket import TokenBucket

REPEAT_SECONDS = 60.0
MOST_SERIES = 2000
BURST = 25.0
WRITES_PER_SECOND = 5.0
LONGEST_NOTE = 1000  # the API server takes 1,024 bytes
LONGEST_STEM = 200  # of an Event's name, which may have 253 characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The object that an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectEvent:
    """Something that people should find at an object: `reason` and `action` in UpperCamelCase, and a sentence.

    `kind` is the word of a warning, each of which is told once; empty for what is none.
    """

    subject: Subject
    reason: str
    action: str
    note: str
    kind: str = ""


@dataclass(slots=True)
class EventSeries:
    """An event and its repetitions: one Event. Times are seconds since the epoch."""

    event: ObjectEvent
    name: str
    first: float
    last: float
    count: int = 1  # seen
    told: int = 0  # written; 0: there is no Event yet
    told_note: str = ""
    written_at: float = float("-inf")

    @property
    def is_pending(self) -> bool:
        return self.told < self.count


class EventCorrelator:
    """Takes what happens, gives what is to be written."""

    def __init__(self) -> None:
        self._series: OrderedDict[tuple[Subject, str, str], EventSeries] = OrderedDict()
        self._writes = TokenBucket(BURST, WRITES_PER_SECOND, 0.0)

    def add(self, event: ObjectEvent, now: float) -> bool:
        """False: there is no room, it is not told."""
        key = (event.subject, event.reason, event.kind)
        series = self._series.get(key)
        if series is not None:
            series.last, series.count = now, series.count + 1
            series.event = series.event if event.kind else event
            self._series.move_to_end(key)
            return True
        if len(self._series) >= MOST_SERIES and not self._forget_one():
            return False
        self._series[key] = EventSeries(event, _event_name(event), now, now)
        return True

    def due(self, now: float) -> Iterator[EventSeries]:
        """What may be written now, oldest first; each takes a token. Call `written` before going on."""
        for series in list(self._series.values()):
            if series.is_pending and series.written_at + REPEAT_SECONDS <= now:
                if self._writes.left(now) < 1:
                    return
                self._writes.take()
                if series.told and series.told_note != series.event.note:
                    series.name, series.first = _event_name(series.event), series.last
                    series.count, series.told = series.count - series.told, 0
                yield series

    def written(self, series: EventSeries, count: int, note: str, now: float) -> None:
        """An Event with this count and these words stands, or cannot be written at all."""
        series.told, series.told_note, series.written_at = count, note, now

    def has_pending(self) -> bool:
        return any(series.is_pending for series in self._series.values())

    def _forget_one(self) -> bool:
        for key, series in self._series.items():
            if not series.is_pending:
                del self._series[key]
                return True
        return False


def _event_name(event: ObjectEvent) -> str:
    subject, kind = event.subject, event.kind
    of_kind = hashlib.sha256(f"{subject.uid} {event.reason} {kind}".encode()).hexdigest()[:16]
    return f"{subject.name[:LONGEST_STEM]}.{of_kind if kind else secrets.token_hex(8)}"
