"""What a journal keeps and what it promises, whatever it is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from allocator.core.asks import Refused
from allocator.core.claims import Claim, ClaimId
from hostport.contract import Reason


class JournalError(Exception):
    """The environment's fault: the disk is full, broken, or the file is in use. Nothing of the submission is kept.

    `until`: where that is not certain yet, it is when this is done; until then what was to be kept counts as taken.
    """

    reason = Reason.JOURNAL_UNAVAILABLE
    until: asyncio.Future[None] | None = None
    refusal: Refused | None = None
    """What the caller is told instead, where it is not the environment's fault after all."""


class JournalInUseError(JournalError):
    """The operator's fault: another process has the journal. That does not pass while it lives."""


class JournalVersionError(JournalError):
    """The operator's fault: the file was written by a newer version, or by another program."""


class Put(msgspec.Struct, frozen=True, gc=False):
    """The claim is in force from now on, in place of any with its id."""

    claim: Claim


class Drop(msgspec.Struct, frozen=True, gc=False):
    """The claim has ended at `at`, by the allocator's clock. Its answers fade from then on."""

    claim_id: ClaimId
    at: float


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a request was answered: kept so that its repetition gets the same."""

    request_id: str
    digest: bytes  # of the request, to tell a repetition from a mistake
    claim_id: ClaimId
    response: bytes  # a serialised AllocateResponse
    ended: float | None = None  # when the claim ended, by the allocator's clock


MOST_FORGOTTEN = 1024
"""Answers that are forgotten at a time."""


class Forget(msgspec.Struct, frozen=True, gc=False):
    """Answers of claims that ended before this time are forgotten: the oldest `MOST_FORGOTTEN` of them."""

    before: float


@dataclass(frozen=True, slots=True)
class Recorded:
    """A claim that is in force, and the answer to its request, where that had an id."""

    claim: Claim
    answer: Answer | None


Entry = Put | Drop | Answer | Forget


@dataclass(frozen=True, slots=True)
class Kept:
    """Everything that is in force when a journal is opened."""

    claims: tuple[Claim, ...] = ()
    answers: tuple[Answer, ...] = ()
    clock: float | None = None
    """What the allocator's clock read with the last commit: that from which the ends are counted. None: a new journal,
    or one of a time when ends were those of the wall clock."""


def no_clock() -> float | None:
    """The clock of a journal that nobody gave one."""
    return None


class Journal(Protocol):
    """The seam between the allocator and its journal."""

    @property
    def set_aside(self) -> Sequence[str]:
        """Where damaged files went that nobody has acknowledged yet, oldest first: they are told until then."""

    @property
    def began_anew_at(self) -> float:
        """When the last of those was set aside, in seconds since the epoch; 0.0: none was. What a predecessor granted
        before that may be missing.
        """

    @property
    def trouble(self) -> str:
        """What keeps the journal from being opened, or kept the last commit from being durable. Empty: nothing does."""

    @property
    def identity(self) -> str:
        """A random name that stays with the file, so that an allocator can tell whether it has its predecessor's
        journal. Empty: it has none.
        """

    clock: Callable[[], float | None]
    """The allocator's clock. Its reading is kept with every commit; None: there is none."""

    async def open(self) -> None:
        """Returns when the journal can be used. Waits for as long as the environment is in the way: see `trouble`.

        Raises:
            JournalInUseError, JournalVersionError: that will not pass by itself.

        """

    def load(self) -> Kept:
        """What is in force. Called once, when it is open, before any submission."""

    def submit(self, entries: Sequence[Entry], is_wanted: Callable[[], bool]) -> asyncio.Future[bool]:
        """Makes entries durable, together.

        `is_wanted` is asked just before the commit: a caller that has gone away gets nothing. The future resolves to
        True when the entries are durable and to False when they were not wanted, and raises JournalError when they
        could not be made durable. Without entries a commit keeps the reading of the clock, and nothing else.
        """

    def close(self) -> None:
        """Finishes what was submitted, then lets go of the file."""
