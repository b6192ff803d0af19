"""The kinds of journals that `--journal` names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from allocator.journal.contract import CommitMeters, Journal
from allocator.journal.memory import MemoryJournal
from allocator.journal.sqlite import SqliteJournal

FORMS = ("sqlite:PATH", "memory")
"""The texts that name one, for people."""


def journal_kind(text: str) -> Callable[[CommitMeters], Journal]:
    """What makes the journal that a text names, one of `FORMS`, with the meters that are told of its commits.

    Raises:
        ValueError: it is none of them.

    """
    match text.partition(":"):
        case "sqlite", _, place if place:
            return lambda meters: SqliteJournal(Path(place), meters=meters)
        case "memory", "", _:
            return lambda _: MemoryJournal()
    raise ValueError(f"{text!r} is neither {' nor '.join(FORMS)}")
