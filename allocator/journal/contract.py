"""What a journal keeps and what it promises, whatever it is made of.

Rules:

* The engine says what it decides by the verbs of `Durability`. What a verb writes is the affair of who implements it.
* What is durable is certain; what failed is not there, or becomes certain when `JournalError.until` is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from allocator.core.asks import NotServedError, Refused
from allocator.core.claims import Claim, ClaimId
from hostport.contract import Reason


class JournalError(Exception):
    """The environment's fault: the disk is full, broken, or the file is in use. Nothing of the decision is kept."""

    reason = Reason.JOURNAL_UNAVAILABLE

    until: asyncio.Future[None] | None = None
    """Done when it is certain that nothing is kept; until then its ports count as taken. None: it is certain now."""

    refusal: Refused | None = None
    """What the caller is told instead, where the fault is the caller's after all."""


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


def always() -> bool:
    """For what nobody can cease to want."""
    return True


def unheard(*_: object) -> None:
    """For what nobody asked to be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitMeters:
    """Who is told of each commit: how many submissions it has, and how many seconds it took; and of one that failed."""

    submissions: Callable[[float], object] = unheard
    seconds: Callable[[float], object] = unheard
    failed: Callable[[], object] = unheard


UNMETERED = CommitMeters()


class Durability(Protocol):
    """How the engine makes its decisions durable: a verb for each kind of them.

    Each verb takes effect in the order of the calls, whole or not at all, and returns a future. That resolves to True
    when the decision is durable, to False when it was not wanted any more, and raises JournalError when it could not be
    made durable. `is_wanted` is asked just before the commit: a caller that has gone away gets nothing.
    """

    def grant(self, claim: Claim, answer: Answer | None, is_wanted: Callable[[], bool]) -> asyncio.Future[bool]:
        """A claim is in force from now on, in place of any with its id. `answer`: to its request, if that had an id."""

    def renew(self, claim: Claim) -> asyncio.Future[bool]:
        """A lease that is in force has a new end."""

    def end(self, claim_ids: Sequence[ClaimId], at: float) -> asyncio.Future[bool]:
        """These claims end. `at`: in seconds of the allocator's clock; their answers fade from then on."""

    def record(self, entries: Sequence[Entry], is_wanted: Callable[[], bool] = always) -> asyncio.Future[bool]:
        """Keeps what is true already, or what holds no port: what the cluster changed, answers, what is forgotten.

        Without entries a commit keeps the reading of the clock, and nothing else. What is refused here is true all the
        same, and is recorded again with the next tick: a journal with a bound counts what is granted.
        """


class Journal(Durability):
    """The base of all journals: a kind of journal says what its verbs do, and what of the rest is different with it."""

    kind: str = ""
    """What people are told that it is."""

    path: Path | None = None
    """Its file, where it has one."""

    trouble: str = ""
    """What keeps the journal from being opened, or kept the last commit from being durable. Empty: nothing does."""

    identity: str = ""
    """A random name that stays with the file, so that an allocator can tell whether it has its predecessor's journal.
    Empty: it has none."""

    clock: Callable[[], float | None] = staticmethod(no_clock)
    """The allocator's clock, whose reading is kept with every commit; None: there is none."""

    @property
    def set_aside(self) -> Sequence[str]:
        """Where damaged files went that nobody has acknowledged yet, oldest first: they are told until then."""
        return ()

    @property
    def began_anew_at(self) -> float:
        """When the last of those was set aside, in seconds since the epoch; 0.0: none was. What a predecessor granted
        before that may be missing.
        """
        return 0.0

    async def open(self) -> None:
        """Returns when the journal can be used. Waits for as long as the environment is in the way: see `trouble`.

        Raises:
            JournalInUseError, JournalVersionError: that will not pass by itself.

        """

    def load(self, clock: Callable[[], float | None] = no_clock) -> Kept:
        """What is in force. Called once, when it is open, before any verb. `clock`: see there."""
        self.clock = clock
        return self._kept()

    def _kept(self) -> Kept:
        return Kept()

    def close(self) -> None:
        """Finishes what was submitted, then lets go of the file."""


class NotWantedError(NotServedError):
    """Nobody who asked wanted it any more when it was to be made durable."""

    def __init__(self) -> None:
        super().__init__(Reason.DEADLINE_PASSED, "the deadline passed before the decision was durable")
