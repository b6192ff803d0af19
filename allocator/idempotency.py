"""A request that is repeated gets the first answer: from `under_way` before that is durable, from what is kept after.

Rules:

* A request is told by its id, and by a digest of all that it asks: the same id with another digest is a mistake.
* A decision is made durable while anybody who asked for it wants it. One that died because nobody did is no answer to
  whoever asks later.
* Of the answers for one claim the newest are kept, as many as fit into `MOST_ANSWERED`. (The webhooks of one Pod may be
  called again and again.) Whoever repeats an older request is answered anew, about the same claim.
* The answers for a claim fade when it ends, and are forgotten `ANSWER_SECONDS` later, `MOST_FORGOTTEN` at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from allocator.core.asks import NotServedError, Refused
from allocator.core.claims import Claim, ClaimId
from allocator.journal.contract import MOST_FORGOTTEN, Answer, NotWantedError
from allocator.slices import slices
from hostport.contract import Mistake, Reason

ANSWER_SECONDS = 600.0  # how long an answer outlives its claim
MOST_ANSWERED, ANSWER_BYTES = 64 << 10, 400
"""Bytes of the answers that are kept for one claim, and those of each besides the response itself."""


class IdempotencyKey(msgspec.Struct, frozen=True, gc=False):
    """What tells a repeated request: its id, and a digest of everything that it asks."""

    request_id: str
    digest: bytes


class Granted(msgspec.Struct, frozen=True, gc=False):
    """The answer to a request, serialised. `claim`: what was decided; None where the answer is one that was kept."""

    response: bytes
    claim: Claim | None = None


@dataclass(slots=True)
class UnderWay:
    """A request that was decided and is not durable yet: what tells it, and who waits for its answer."""

    digest: bytes = b""
    wanted: list[Callable[[], bool]] = field(default_factory=list)
    waiting: list[asyncio.Future[Granted]] = field(default_factory=list)

    def join(self, is_wanted: Callable[[], bool]) -> asyncio.Future[Granted]:
        """The answer, for one more who wants it."""
        self.wanted.append(is_wanted)
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]

    def is_wanted(self) -> bool:
        """Whether anybody who asked still waits."""
        for each in self.wanted:  # noqa: SIM110 - nearly always one, and a generator takes twice as long
            if each():
                return True
        return False

    def settle(self, outcome: Granted | Refused | NotServedError) -> None:
        """Tells everybody who waits what became of it."""
        for each in self.waiting:
            if each.done():
                continue  # its caller has gone
            if isinstance(outcome, Granted):
                each.set_result(outcome)
            else:
                each.set_exception(outcome)


class Answers:
    """See the module."""

    def __init__(self) -> None:
        self.under_way: dict[str, UnderWay] = {}  # by request_id
        self.kept: dict[str, Answer] = {}  # by request_id
        self._of: dict[ClaimId, tuple[str, ...]] = {}  # request_ids: nearly always one
        self._fading: deque[tuple[float, str]] = deque()  # (when the claim ended, request_id), in that order

    @property
    def are_fading(self) -> bool:
        """Whether any of them will be forgotten."""
        return bool(self._fading)

    # -- requests

    async def join(self, key: IdempotencyKey, is_wanted: Callable[[], bool]) -> Granted | None:
        """The answer that the same request, which is under way, is given; None: it died, and this one may be decided.

        Raises:
            Refused: the id was used for another request, or the decision was not made durable by the caller's fault.
            NotServedError: the decision was not made durable.

        """
        while (under_way := self.under_way.get(key.request_id)) is not None:
            _check_same(key, under_way.digest)
            try:
                return await under_way.join(is_wanted)
            except NotWantedError:
                if not is_wanted():
                    raise
                # Nobody else wanted it: whoever asks now, and does, is no repetition of anything that was answered.
        return None

    def find(self, key: IdempotencyKey) -> Answer | None:
        """The answer that is kept for the same request.

        Raises:
            Refused: the id was used for another request.

        """
        answer = self.kept.get(key.request_id)
        if answer is not None:
            _check_same(key, answer.digest)
        return answer

    def begin(self, key: IdempotencyKey | None) -> UnderWay:
        """A request was decided; without a key nobody can repeat it."""
        under_way = UnderWay(key.digest if key else b"")
        if key:
            self.under_way[key.request_id] = under_way
        return under_way

    def finish(self, key: IdempotencyKey | None, answer: Answer | None) -> None:
        """What `begin` began is under way no more. `answer`: what is kept of it, where it is durable."""
        if key:
            del self.under_way[key.request_id]
        if answer:
            self.remember(answer)

    # -- what is kept

    def restore(self, answers: Sequence[Answer], now: float) -> Iterator[None]:
        """At the start, in steps: takes what a journal kept. `now`: in seconds of the allocator's clock."""
        before = now - ANSWER_SECONDS
        for some in slices(sorted(answers, key=lambda answer: answer.ended or 0.0)):
            for answer in some:
                if answer.ended is not None and answer.ended < before:
                    continue
                self.remember(answer)
                if answer.ended is not None:
                    self._fading.append((answer.ended, answer.request_id))
            yield

    def remember(self, answer: Answer) -> None:
        """Keeps an answer, in place of the oldest for the same claim where they do not fit into their bound."""
        kept, of = self.kept, self._of.get(answer.claim_id)
        kept[answer.request_id] = answer
        if of is None:
            self._of[answer.claim_id] = (answer.request_id,)
            return
        requests = (*(each for each in of if each in kept), answer.request_id)
        size = sum([ANSWER_BYTES + len(kept[each].response) for each in requests])
        while size > MOST_ANSWERED and len(requests) > 1:
            size -= ANSWER_BYTES + len(kept.pop(requests[0]).response)
            requests = requests[1:]
        self._of[answer.claim_id] = requests

    def fade(self, claim_id: ClaimId, at: float) -> None:
        """A claim has ended, in seconds of the allocator's clock: its answers are forgotten some time after that."""
        for request_id in self._of.pop(claim_id, ()):
            self._fading.append((at, request_id))

    def drop(self, claim_id: ClaimId) -> None:
        """A claim was told to nobody: its answers are forgotten at once."""
        for request_id in self._of.pop(claim_id, ()):
            self.kept.pop(request_id, None)

    def forget(self, now: float) -> float | None:
        """Forgets some of those that have faded. Returns before which end; None: there were none."""
        before, forgotten = now - ANSWER_SECONDS, 0
        while self._fading and self._fading[0][0] < before and forgotten < MOST_FORGOTTEN:
            self.kept.pop(self._fading.popleft()[1], None)
            forgotten += 1
        return before if forgotten else None


def _check_same(key: IdempotencyKey, digest: bytes) -> None:
    if key.digest != digest:
        message = f"request_id {key.request_id} was used before with another request. Use a fresh one"
        raise Refused(Mistake(Reason.REQUEST_ID_REUSED, "request_id", message))
