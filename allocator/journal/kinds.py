"""The kinds of journals that `--journal` names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from allocator.journal.contract import Journal
from allocator.journal.memory import MemoryJournal
from allocator.journal.sqlite import SqliteJournal

FORMS = ("sqlite:PATH", "memory")
"""The texts that name one, for people."""


def journal_kind(text: str) -> Callable[[], Journal]:
    """What makes the journal that a text names, one of `FORMS`.

    Raises:
        ValueError: it is none of them.

    """
    match text.partition(":"):
        case "sqlite", _, place if place:
            return partial(SqliteJournal, Path(place))
        case "memory", "", _:
            return MemoryJournal
    raise ValueError(f"{text!r} is neither {' nor '.join(FORMS)}")
