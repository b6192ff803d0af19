"""What the command line says to every bench."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How often, and how long each time."""

    rounds: int = 5
    seconds: float = 2.0
    warm_up: float = 2.0  # the first 500 requests of a process take up to twice as long as the others
    pods: int = 20_000
    only: tuple[str, ...] = ()  # words in the names of the rows of `stalls` and `parts` that are wanted
