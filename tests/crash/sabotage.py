"""The allocator with one fault planted in it: a test that cannot fail proves nothing.

`python -m tests.crash.sabotage FAULT serve …` is `python -m allocator serve …` with that fault.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from allocator.__main__ import main
from allocator.core.claims import Claim
from allocator.core.index.ports import PortIndex
from allocator.journal.contract import Answer, Drop, Entry, Put, always
from allocator.journal.sqlite import SqliteJournal

BEHIND_SECONDS = 0.01

_record = SqliteJournal.record


def reply_before_commit() -> None:
    """Answers at once, and commits a moment later: what a missing wait for the fsync would do."""
    commit: Callable[..., Any] = SqliteJournal._commit

    def late(self: SqliteJournal) -> Any:
        time.sleep(BEHIND_SECONDS)
        return commit(self)

    def record(
        self: SqliteJournal, entries: Sequence[Entry], is_wanted: Callable[[], bool] = always
    ) -> asyncio.Future[bool]:
        _record(self, entries, is_wanted)
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        future.set_result(True)
        return future

    _replace(_commit=late, record=record)


def forget_answers() -> None:
    """Journals claims without the answers: a repeated request_id is then a new request after a crash."""
    _without(Answer)


def forget_releases() -> None:
    """Journals no end: what was released is back after a crash."""
    _without(Drop)


def forget_claims() -> None:
    """Journals answers without their claims: what was granted is gone after a crash."""
    _without(Put)


def blind_restart() -> None:
    """Restores the claims and not their ports: numbers are handed out twice after a crash."""
    stand = PortIndex.stand

    def stand_if_new(self: PortIndex, claim: Claim, *, is_settled: bool) -> None:
        if claim.created > started:
            stand(self, claim, is_settled=is_settled)

    started = time.time()
    PortIndex.stand = stand_if_new  # type: ignore[method-assign]
    PortIndex.leave = _leave_if_there(PortIndex.leave)  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], None]] = {
    fault.__name__.replace("_", "-"): fault
    for fault in (reply_before_commit, forget_answers, forget_releases, forget_claims, blind_restart)
}


def _without(kind: type[Entry]) -> None:
    def record(
        self: SqliteJournal, entries: Sequence[Entry], is_wanted: Callable[[], bool] = always
    ) -> asyncio.Future[bool]:
        return _record(self, [entry for entry in entries if not isinstance(entry, kind)], is_wanted)

    _replace(record=record)


def _leave_if_there(leave: Callable[..., None]) -> Callable[..., None]:
    def leave_if_there(self: PortIndex, claim: Claim, *, is_settled: bool) -> None:
        try:
            leave(self, claim, is_settled=is_settled)
        except (KeyError, ValueError):
            return

    return leave_if_there


def _replace(**methods: Callable[..., Any]) -> None:
    for name, method in methods.items():
        setattr(SqliteJournal, name, method)


if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
