"""What a reason and a warning become for one request: the word, and a sentence for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that stands in the way of a request.

    `reason` is a `Reason` or the word of a later version, `field` the field as whoever reads this knows it (empty:
    none), `message` a sentence that says what to do.
    """

    reason: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.field}: {self.message}" if self.field else f"{self.reason}: {self.message}"


@dataclass(frozen=True, slots=True)
class PodWarning:
    """Something that may surprise people later, for a Pod that is admitted: a `Notice`, or a later word."""

    reason: str
    message: str
