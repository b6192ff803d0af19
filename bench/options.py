"""What the command line says to every bench."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How often, and how long each time."""

    rounds: int = 5
    seconds: float = 2.0
    warm_up: float = 0.5
    pods: int = 20_000
