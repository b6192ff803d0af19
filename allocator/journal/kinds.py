"""The kinds of journals that `--journal` names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from allocator.journal.contract import Journal
from allocator.journal.memory import MemoryJournal
from allocator.journal.sqlite import SqliteJournal


def journal_kind(text: str) -> Callable[[], Journal]:
    """What makes the journal that a text names, `sqlite:PATH` or `memory`.

    Raises:
        ValueError: it is neither.

    """
    match text.partition(":"):
        case "sqlite", _, place if place:
            return partial(SqliteJournal, Path(place))
        case "memory", "", _:
            return MemoryJournal
    raise ValueError(f"{text!r} is neither sqlite:PATH nor memory")
