"""The one path on which state changes: decide (the ledger) → make durable (the journal) → publish → reply.

Rules:

* The ledger is touched from the event loop alone, and never across an await: a decision and its taking are one step.
* What was decided is published or aborted by the outcome of its commit, whether or not the caller still waits.
* A repeated request gets the first answer: from `_answers` once it is durable, from `_under_way` before. It is made
  durable while anybody who asked for it wants it; what died because nobody did is no answer to who came too late. What
  has ended is not answered as granted: until its answer is forgotten, the repetition is refused.
* What the cluster changes is true already; the journal follows, and is asked again where it fails. It follows with what
  is journalled next, and before it, or with the next tick: a commit of its own for each Pod would cost as much as the
  one that gave the Pod its ports. Of what changes in masses some is journalled at a time, and the rest after it: then a
  port may be journalled as taken before it is as free. A start that finds both ends the claim whose Pod is gone.
* A claim that is asked for again and again (a Pod whose webhooks are called anew) keeps the newest of its answers, as
  many as fit into a bound in bytes. Whoever repeats an older request is answered anew, about the same claim.
* What ends in masses likewise: a turn of the event loop costs no more than `MOST_ENDING` ends.
* Where it is not certain yet that a decision was not made durable, its ports stay taken until it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import msgspec
from msgspec.structs import replace

from allocator.clock import Clock, Step
from allocator.cluster.contract import PodRef, Watch
from allocator.core.asks import Ask, Mistake, Refused, UndecidedError, Warned
from allocator.core.candidates import Node, NodeName
from allocator.core.claims import Claim, ClaimId, PodUid, State
from allocator.core.ledger import LEASE_SECONDS, MOST_DUE, Ledger, is_over
from allocator.core.pods import Pod
from allocator.core.upkeep import Incident, IncidentKind
from allocator.journal.contract import MOST_FORGOTTEN, Answer, Drop, Entry, Forget, Journal, JournalError, Put, Recorded
from allocator.lines import Lines
from allocator.slices import slices
from hostport.contract import Reason
from hostport.logs import tell

log = logging.getLogger(__name__)

MOST_LOOKS = 16  # holders that are looked up before a denial
STALE_SECONDS = 2.0  # older than that, a view alone is no reason to deny
SIGHT_SECONDS = 2.0  # less than half of what the API server gives a webhook
UNSEEN_SECONDS = 10.0  # a proof takes up to five in a quiet cluster: a view that is older accuses nobody
CLOCK_SECONDS = 5.0  # between two commits that keep the reading of the clock
ANSWER_SECONDS = 600.0  # how long an answer outlives its claim
END_SECONDS = 4.0  # how long a caller waits for an end; an API server that is away must not keep it
SURVEYED = 8_000  # nodes and numbers a tick: about 2 ms, and 5,000 nodes with 30 numbers each in ten seconds
MOST_ANSWERED, ANSWER_BYTES = 64 << 10, 400
"""Bytes of the answers that are kept for one claim, and those of each besides the response itself."""
MOST_SHOWN = 10
NODE_WEIGHT, SETS_OF_A_PORT = 32, 16
"""What a changed Node weighs by itself, and how many candidate sets it is held against in the time of a port."""
MOST_ENDING = MOST_DUE
"""Ends of leases that are under way at a time because they are due: each may be an object of the API server."""
MOST_SAVED = 512
"""Ports of claims, and claims, that are journalled at a time because the cluster changed them."""

Seal = Callable[[Claim, Sequence[Warned]], bytes]
"""Serialises the answer, for the journal and the caller alike."""


class RequestMark(msgspec.Struct, frozen=True, gc=False):
    """What tells a repeated request: its id, and a digest of everything that it asks."""

    request_id: str
    digest: bytes


class UnavailableError(Exception):
    """Our fault, not the caller's: nothing was allocated, and the call may be repeated."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _UnwantedError(UnavailableError):
    """Nobody who asked wanted it any more when it was to be made durable."""

    def __init__(self) -> None:
        super().__init__(Reason.DEADLINE_PASSED, "the deadline passed before the decision was durable")


class _NoLongerFitsError(Refused):
    """A Pod was asked about again, and its claim does not fit what it has become. The claim stands."""

    def __init__(self, claim: Claim, refused: Refused) -> None:
        super().__init__(*refused.mistakes)
        self.claim = claim


@dataclass(slots=True)
class _UnderWay:
    """A request that was decided and is not durable yet: what tells it, and who waits for its answer."""

    digest: bytes = b""
    wanted: list[Callable[[], bool]] = field(default_factory=list)
    waiting: list[asyncio.Future[bytes]] = field(default_factory=list)

    def join(self, is_wanted: Callable[[], bool]) -> asyncio.Future[bytes]:
        """The answer, for one more who wants it."""
        self.wanted.append(is_wanted)
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]

    def is_wanted(self) -> bool:
        return any(each() for each in self.wanted)

    def settle(self, response: bytes, failure: Exception | None) -> None:
        for each in self.waiting:
            if each.done():
                continue  # its caller has gone
            if failure is None:
                each.set_result(response)
            else:
                each.set_exception(failure)


def _unheard(_: object) -> None:
    """Nobody asked to be told."""


def always() -> bool:
    """For submissions that nobody can cease to want."""
    return True


@dataclass(slots=True)
class Meters:
    """Who is told how long the stages of an allocation take, in seconds."""

    decided: Callable[[float], None] = _unheard
    committed: Callable[[float], None] = _unheard


class Engine:
    """Ledger and journal as one.

    `now` gives the time by which claims end, in seconds; `clock` is the clock behind it. Where there is none, it is the
    wall clock, and no journal knows better. `new_id` gives a fresh claim id.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        journal: Journal,
        now: Callable[[], float],
        new_id: Callable[[], ClaimId],
        clock: Clock | None = None,
    ) -> None:
        self.ledger = ledger
        self.journal = journal
        self.now = now
        self._clock = clock
        self._clock_kept = 0.0  # its reading when it was last journalled for its own sake
        self.is_serving = False
        self.watch: Watch | None = None  # the view of the cluster, where it can be asked
        self.holds_lease: Callable[[], bool] = always  # whether we are the one who may answer
        self.who_serves: Callable[[], str] = str  # another allocator, while we stand by; empty: we do not
        self.lease_namespace = ""  # of leases whose owners name none
        self.enforced: dict[str, str] = {}  # Pod Security level by namespace, where it forbids hostNetwork
        self.incidents: Counter[IncidentKind] = Counter()  # since the start, by kind
        self.expired: Counter[State] = Counter()  # since the start, by the state that the claims were in
        self.report: Callable[[Incident], None] = _unheard
        self.meters = Meters()
        self._new_id = new_id
        self._answers: dict[str, Answer] = {}
        self._answers_of: dict[ClaimId, tuple[str, ...]] = {}  # request_ids: nearly always one
        self._fading: deque[tuple[float, str]] = deque()  # (when the claim ended, request_id), in that order
        self._under_way: dict[str, _UnderWay] = {}  # by request_id
        self._ending: dict[ClaimId, asyncio.Future[bool]] = {}
        self._leases_ending = 0  # because they are due
        self._unsaved: dict[ClaimId, Claim | None] = {}
        self._lines = Lines()

    def restore(self) -> Iterator[None]:
        """Takes what the journal kept, once it is open and before anything else, in steps."""
        kept = self.journal.load()
        if self._clock is not None and kept.clock is not None:
            self._clock.resume(kept.clock)
        self.journal.clock = self.now
        for claims in slices(sorted(kept.claims, key=lambda claim: claim.created), lambda claim: len(claim.ports)):
            self.ledger.restore(claims, self.now())
            yield
        before = self.now() - ANSWER_SECONDS
        for answers in slices(sorted(kept.answers, key=lambda answer: answer.ended or 0.0)):
            for answer in answers:
                if answer.ended is not None and answer.ended < before:
                    continue
                self._remember(answer)
                if answer.ended is not None:
                    self._fading.append((answer.ended, answer.request_id))
            yield
        tell(log, "journal read", claims=len(kept.claims), answers=len(kept.answers))

    # -- what people are told of time

    @property
    def ahead(self) -> float:
        """Seconds that the wall clock is ahead of `now`. The same until the wall clock is seen to step."""
        return self._clock.ahead if self._clock else 0.0

    def wall(self) -> float:
        """Seconds since the epoch, by the wall clock."""
        return self._clock.wall() if self._clock else self.now()

    @property
    def clock_steps(self) -> Mapping[Step, int]:
        """How often the wall clock was set, or this process paused, since the start."""
        return self._clock.steps if self._clock else Counter()

    # -- requests

    def check_serving(self) -> None:
        """Raises UnavailableError unless the state is whole and ours to answer for."""
        if not self.is_serving and (other := self.who_serves()):
            raise UnavailableError(Reason.NOT_SERVING, f"this allocator stands by, {other} serves; retry there")
        if not self.is_serving:
            raise UnavailableError(Reason.NOT_SERVING, "the allocator is starting or stopping; retry")
        if not self.holds_lease():
            raise UnavailableError(Reason.NOT_SERVING, "the allocator cannot renew its Lease: another may take over")

    async def allocate(self, ask: Ask, *, mark: RequestMark | None, seal: Seal, is_wanted: Callable[[], bool]) -> bytes:
        """Allocates, durably, or repeats the first answer to the same request.

        Raises:
            Refused: the ask is denied; nothing changed.
            UnavailableError: nothing changed, and the call may be repeated.

        """
        if not is_wanted():
            raise _UnwantedError
        if self.watch is not None and not (mark and self._is_repeated(mark.request_id)):
            await self._first_sight(ask, self.watch, is_wanted)
        try:
            return await self._surely(ask, mark, seal, is_wanted)
        except _NoLongerFitsError as refused:
            # A Pod that is denied after all keeps nothing, unless another call about it was granted meanwhile.
            if self.ledger.get(refused.claim.id) is refused.claim and refused.claim.id not in self._ending:
                self._end([refused.claim.id])
            raise
        finally:
            self.check_serving()  # who has lost the Lease while deciding answers neither yes nor no

    async def _surely(self, ask: Ask, mark: RequestMark | None, seal: Seal, is_wanted: Callable[[], bool]) -> bytes:
        """As `allocate`; a denial is final when those who hold the ports were looked up."""
        try:
            return await self._allocate(ask, mark, seal, is_wanted)
        except Refused as refused:
            if not await self._looked_again(ask, refused):
                raise
            return await self._allocate(ask, mark, seal, is_wanted)

    def _is_repeated(self, request_id: str) -> bool:
        return request_id in self._answers or request_id in self._under_way

    async def _first_sight(self, ask: Ask, watch: Watch, is_wanted: Callable[[], bool]) -> None:
        """Waits, not for long, for the first Pod of an owner that asks again and again, or for any of a full namespace.

        Raises:
            UnavailableError: the namespace has no room, and the view is old: its Pods may be there.

        """
        owner, until = ask.owner, asyncio.get_running_loop().time() + SIGHT_SECONDS
        line = owner.namespace, owner.controller_uid
        await self._lines.wait(line, lambda: is_wanted() and self.ledger.awaits_sight(ask), until)
        await self._lines.wait(owner.namespace, lambda: is_wanted() and self.ledger.is_crowded(ask), until)
        if watch.lag() > UNSEEN_SECONDS and self.ledger.is_crowded(ask):
            message = (
                f"many Pods of namespace {owner.namespace} were admitted and not seen, but the view of the cluster"
            )
            raise UnavailableError(Reason.VIEW_STALE, f"{message} is {watch.lag():.0f} s old: retry")

    async def _looked_again(self, ask: Ask, refused: Refused) -> bool:
        """Before a denial for want of a port: whether those who hold it were looked up, so that asking again is fair.

        Raises:
            UnavailableError: they could not be, and the view is old: a denial might be wrong.

        """
        if self.watch is None or refused.mistakes[0].reason not in {Reason.PORT_CONFLICT, Reason.RANGE_EXHAUSTED}:
            return False
        doubtful = self.ledger.doubtful(ask, MOST_LOOKS)
        if not doubtful:
            return False
        refs = [PodRef(c.owner.namespace, c.owner.name, c.pod_uid) for c in doubtful if c.pod_uid is not None]
        if await self.watch.look(refs, ask.owner.namespace):
            return True
        if self.watch.lag() > STALE_SECONDS:
            message = f"{refused}. But the view of the cluster is {self.watch.lag():.0f} s old: retry"
            raise UnavailableError(Reason.VIEW_STALE, message)
        return False

    async def _allocate(self, ask: Ask, mark: RequestMark | None, seal: Seal, is_wanted: Callable[[], bool]) -> bytes:
        self.check_serving()
        if mark is None:
            return await self._grant(ask, None, seal, is_wanted)
        while mark.request_id in self._under_way:
            under_way = self._under_way[mark.request_id]
            _check_same(mark, under_way.digest)
            try:
                return await under_way.join(is_wanted)
            except _UnwantedError:
                if not is_wanted():
                    raise
            self.check_serving()
        answer = self._answers.get(mark.request_id)
        if answer is not None:
            _check_same(mark, answer.digest)
            self._check_lives(answer)
            return answer.response
        return await self._grant(ask, mark, seal, is_wanted)

    def _check_lives(self, answer: Answer) -> None:
        """Raises Refused where what was granted has ended, or is ending: somebody else may have its ports."""
        claim = self.ledger.get(answer.claim_id)
        if claim is None or answer.claim_id in self._ending or is_over(claim, self.now()):
            message = (
                f"allocation {answer.claim_id}, which was given for this request_id, has ended: it was released, or its"
                " time ran out. Allocate anew, with a fresh request_id"
            )
            raise Refused(Mistake(Reason.ALLOCATION_NOT_FOUND, "request_id", message))

    def preview(self, ask: Ask, seal: Seal) -> bytes:
        """What `allocate` would grant, without an id; nothing is reserved or recorded.

        Raises:
            Refused, UnavailableError: as for `allocate`.

        """
        self.check_serving()
        now = self._decide_at()
        try:
            claim, warnings = self.ledger.take_up(ask, now) or self.ledger.preview(ask, now)
        except UndecidedError as error:
            raise _incomplete(error) from error
        return seal(replace(claim, id=ClaimId("")), warnings)

    def _grant(
        self, ask: Ask, mark: RequestMark | None, seal: Seal, is_wanted: Callable[[], bool]
    ) -> asyncio.Future[bytes]:
        """Decides now; the future is the durable answer."""
        now, began = self._decide_at(), perf_counter()
        old: Claim | None = None
        try:
            taken = self._take_up(ask, now)
            if taken is not None:
                claim, warnings = taken
                old = self.ledger.get(claim.id)
                self.ledger.amend(claim)
            else:
                claim, warnings = self.ledger.reserve(ask, self._new_id(), now)
        except UndecidedError as error:
            raise _incomplete(error) from error
        decided = perf_counter()
        self.meters.decided(decided - began)
        response = seal(claim, warnings)
        answer = Answer(mark.request_id, mark.digest, claim.id, response) if mark else None
        entries: list[Entry] = [Put(claim)] if claim != old else []
        under_way = _UnderWay(mark.digest if mark else b"")
        outcome = under_way.join(is_wanted)
        if mark:
            self._under_way[mark.request_id] = under_way
        committed = self._submit(entries + ([answer] if answer else []), under_way.is_wanted)

        def settle(committed: asyncio.Future[bool]) -> None:
            if mark:
                del self._under_way[mark.request_id]
            failure = _failure(committed)
            self.meters.committed(perf_counter() - decided)
            if failure is None:
                self.ledger.publish(claim.id)
                if answer:
                    self._remember(answer)
            elif old is None:
                _once_certain(committed, lambda: self.ledger.abort(claim.id))
            elif self.ledger.get(claim.id) is claim:
                self._restore_claim(old)
            under_way.settle(response, failure)

        committed.add_done_callback(settle)
        return outcome

    def _take_up(self, ask: Ask, now: float) -> tuple[Claim, Sequence[Warned]] | None:
        """The Pod's own pending claim, if the ask carries it.

        Raises:
            _NoLongerFitsError: it does. The claim stays as it is, since another look may show that the Pod fits.

        """
        claim = self.ledger.get(ClaimId(ask.carried_id))
        if claim is None or claim.id in self._ending:
            return None
        try:
            return self.ledger.take_up(ask, now)
        except Refused as refused:
            raise _NoLongerFitsError(claim, refused) from refused

    async def release(self, claim_id: ClaimId) -> None:
        """Ends an allocation, durably. One that is gone is released already.

        Raises:
            Refused: its Pod lives.
            UnavailableError: the end could not be made durable; the ports are still held.

        """
        self.check_serving()
        if self.ledger.releasable(claim_id) is not None:
            await self._settled(self._ending.get(claim_id) or self._end([claim_id]))

    async def renew(self, claim_id: ClaimId, ttl: float | None) -> Claim:
        """Extends a lease to now + ttl seconds, durably.

        Raises:
            Refused: there is no such lease.
            UnavailableError: the lease keeps its old end.

        """
        self.check_serving()
        if claim_id in self._ending:
            raise Refused(Mistake(Reason.ALLOCATION_NOT_FOUND, "id", f"allocation {claim_id} has just been ended"))
        renewed = self.ledger.renewed(claim_id, ttl or LEASE_SECONDS, self.now())
        old = self.ledger.get(claim_id)
        self.ledger.amend(renewed)
        try:
            await self._settled(self._submit([Put(renewed)], always))
        except (Refused, UnavailableError):
            if old is not None and self.ledger.get(claim_id) is renewed:
                self._restore_claim(old)
            raise
        return renewed

    def _restore_claim(self, old: Claim) -> None:
        """An amendment could not be made durable; a change that was journalled meanwhile may have taken it along."""
        self.ledger.amend(old)
        self._unsaved[old.id] = old

    async def _settled(self, committed: asyncio.Future[bool]) -> None:
        try:
            async with asyncio.timeout(END_SECONDS):
                await asyncio.shield(committed)
        except JournalError as error:
            if error.refusal is not None:
                raise error.refusal from error
            raise UnavailableError(error.reason, _unavailable_text(error)) from error
        except TimeoutError as error:
            message = (
                "the API server does not answer: what was asked is still being tried. Repeat the call to learn of it"
            )
            raise UnavailableError(Reason.LEASE_NOT_STORED, message) from error

    # -- leases that the cluster keeps

    def recover_leases(self, recorded: Sequence[Recorded]) -> Generator[None, None, list[ClaimId]]:
        """Before serving: these are the leases. Returns the ids of those in the books that are not among them.

        In steps. Nobody was told of the latter, or somebody has ended them: the answers to their requests are forgotten
        at once.
        """
        stored = {one.claim.id for one in recorded}
        lost = [claim.id for claim in self.leases() if claim.id not in stored]
        yield
        for some in slices(lost):
            self._journal_recovered([entry for claim_id in some for entry in self._given_up(claim_id)])
            yield
        for these in slices(recorded, lambda one: len(one.claim.ports)):
            self._journal_recovered([entry for one in these for entry in self._taken_back(one)])
            yield
        return lost

    def _journal_recovered(self, entries: Sequence[Entry]) -> None:
        if entries:
            self._submit(entries, always).add_done_callback(_failure)  # the next start would find the same

    def _given_up(self, claim_id: ClaimId) -> Iterator[Entry]:
        self.ledger.end(claim_id)
        for request_id in self._answers_of.pop(claim_id, ()):
            self._answers.pop(request_id, None)
        yield Drop(claim_id, 0.0)

    def _taken_back(self, recorded: Recorded) -> Iterator[Entry]:
        claim, answer = recorded.claim, recorded.answer
        known = self.ledger.get(claim.id)
        if known is None:
            self.ledger.restore([claim], self.now())
            yield Put(claim)
        elif (claim.expires or 0.0) > (known.expires or 0.0):
            longer = replace(known, expires=claim.expires)
            self.ledger.amend(longer)
            yield Put(longer)
        if answer is not None and answer.request_id not in self._answers:
            self._remember(answer)
            yield answer

    def leases(self) -> list[Claim]:
        """The leases in force."""
        return self.ledger.leases()

    def lease_ids(self) -> list[ClaimId]:
        """Those of all leases, of ones that are being granted among them: `lease` says which are in force."""
        return self.ledger.lease_ids()

    def lease(self, claim_id: ClaimId) -> Claim | None:
        """One of them."""
        claim = self.ledger.get(claim_id)
        return claim if claim is not None and claim.state is State.LEASED else None

    def is_known(self, claim_id: ClaimId) -> bool:
        """Whether there is such a claim, also one that is still being decided."""
        return self.ledger.has(claim_id)

    def end_leases(self, claim_ids: Iterable[ClaimId]) -> None:
        """Somebody has ended these, whether or not that is in the journal yet."""
        for claim_id in claim_ids:
            if self.ledger.get(claim_id) is not None and claim_id not in self._ending:
                self._end([claim_id])

    # -- time and the cluster

    def observe(
        self,
        *,
        nodes: Iterable[Node] = (),
        gone_nodes: Iterable[NodeName] = (),
        pods: Iterable[Pod] = (),
        gone_pods: Iterable[PodUid] = (),
        lists_pods: bool,
    ) -> None:
        """What changed in the cluster. `lists_pods`: whether reservations can be confirmed from now on."""
        now = self._decide_at()
        if lists_pods:
            self.ledger.trust_pods(now)
        self.ledger.observe(nodes=nodes, gone_nodes=gone_nodes, pods=pods, gone_pods=gone_pods, now=now)
        self._tell_incidents()

    def known_pods(self) -> Collection[PodUid]:
        """The Pods that hold something."""
        return self.ledger.known_pods()

    def node_weight(self) -> int:
        """What one Node that changed weighs, in ports: it is held against every candidate set that is kept."""
        return NODE_WEIGHT + self.ledger.candidate_sets // SETS_OF_A_PORT

    def enforce(self, levels: Mapping[str, str]) -> None:
        """The namespaces that enforce a Pod Security level which forbids hostNetwork."""
        self.enforced = dict(levels)
        self.ledger.enforce(self.enforced)

    def proven(self, until: float) -> None:
        """The view of the cluster reaches this far: who existed then has been told. In seconds of `now`."""
        self.ledger.proven(until)

    def tick(self) -> None:
        """Ends what is due."""
        now = self.now()
        self._keep_clock(now)
        self._end_due()
        if self.watch and self.ledger.awaits_proof(now):
            self.watch.hurry()
        self.ledger.look_for_room()
        self.ledger.weigh_verdicts(now)
        self.ledger.survey(SURVEYED)
        self._forget_answers(now)
        self.save_changes()
        self._tell_incidents()

    def stand_by(self) -> None:
        """In place of a tick, while another serves: what the cluster changes is followed, and nothing ends."""
        self.ledger.look_for_room()
        self.save_changes()
        self._tell_incidents()

    def see_clock(self) -> None:
        """With each tick, also while nothing is served: notices what the wall clock does."""
        if self._clock is not None:
            self._clock.look()

    def _decide_at(self) -> float:
        """The time of a decision; what it tells people is by the wall clock."""
        self.ledger.ahead = self.ahead
        return self.now()

    def _keep_clock(self, now: float) -> None:
        """Journals the clock where something ends by it and nothing else was journalled for a while.

        A start would give back what was not.
        """
        if now - self._clock_kept >= CLOCK_SECONDS and (self._fading or self.ledger.has_leases):
            self._clock_kept = now
            self.journal.submit([], always).add_done_callback(_failure)

    def go_on(self) -> bool:
        """Goes on with what a tick, or a change of the cluster, did not get to; whether there is more."""
        if self.ledger.has_plans_to_mend:
            self.ledger.mend_plans()
            self._tell_incidents()
        return self.ledger.has_plans_to_mend

    def _end_due(self) -> None:
        """Ends some of what is due; what is left, when these ends are durable."""
        room = max(0, MOST_ENDING - self._leases_ending)
        due = [claim for claim in self.ledger.due(self.now(), room) if claim.id not in self._ending]
        if due:
            self.expired.update(claim.state for claim in due)
            shown = [f"{claim.id} ({claim.owner})" for claim in due[:MOST_SHOWN]]
            tell(log, "expired", count=len(due), allocations=shown)
            self._end_all(due)

    def save_changes(self) -> bool:
        """Journals some of what the cluster changed, and of what could not be journalled the last time.

        What is left follows when that is durable, or with the next tick where it cannot be. False: there was nothing.
        """
        if not (self._unsaved or self.ledger.unsaved):
            return False
        changes, is_all = self._some_changes()
        at = self.now()
        entries: list[Entry] = []
        for claim_id, claim in changes.items():
            if claim is None:
                entries.append(Drop(claim_id, at))
                self._fade(claim_id, at)
            elif (current := self._lasting(claim_id)) is not None:
                entries.append(Put(current))
        if not entries:
            return bool(changes)

        def settle(committed: asyncio.Future[bool]) -> None:
            if _failure(committed) is not None:
                self._unsaved.update(changes)  # submissions settle in order: what is there is older
            elif not is_all:
                self.save_changes()

        self.journal.submit(entries, always).add_done_callback(settle)
        return True

    def save_all_changes(self) -> None:
        """At the end, when nobody is served any more."""
        for _ in range(len(self._unsaved) + self.ledger.unsaved + 1):
            if not self.save_changes():
                return

    def _some_changes(self) -> tuple[dict[ClaimId, Claim | None], bool]:
        """Changes that weigh `MOST_SAVED` together, what could not be journalled first; and whether that is all."""
        weight, changes = 0, dict[ClaimId, Claim | None]()
        while self._unsaved and weight < MOST_SAVED:
            claim_id = next(iter(self._unsaved))
            changes[claim_id] = claim = self._unsaved.pop(claim_id)
            weight += 1 + (len(claim.ports) if claim else 0)
        if weight >= MOST_SAVED:
            return changes, False
        taken = self.ledger.take_changes(MOST_SAVED - weight)
        return changes | taken, not self.ledger.unsaved

    def _end_all(self, due: Sequence[Claim]) -> None:
        """Each lease by itself: its end may take longer than that of others."""
        reservations = [claim.id for claim in due if claim.state is not State.LEASED]
        if reservations:
            self._end(reservations).add_done_callback(self._go_on_ending)
        for claim in due:
            if claim.state is State.LEASED:
                self._leases_ending += 1
                self._end([claim.id]).add_done_callback(self._lease_ended)

    def _lease_ended(self, committed: asyncio.Future[bool]) -> None:
        self._leases_ending -= 1
        if not self._leases_ending:
            self._go_on_ending(committed)

    def _go_on_ending(self, committed: asyncio.Future[bool]) -> None:
        if _failure(committed) is None:  # else with the next tick
            self._end_due()

    def _end(self, claim_ids: Sequence[ClaimId]) -> asyncio.Future[bool]:
        """Ends claims: their ports are free when that is durable, not before."""
        at = self.now()
        committed = self._submit([Drop(claim_id, at) for claim_id in claim_ids], always)
        self._ending.update(dict.fromkeys(claim_ids, committed))

        def settle(committed: asyncio.Future[bool]) -> None:
            is_durable = _failure(committed) is None
            for claim_id in claim_ids:
                del self._ending[claim_id]
                if is_durable:
                    self.ledger.end(claim_id)
                    self._fade(claim_id, at)
                else:
                    self.ledger.still_due(claim_id)

        committed.add_done_callback(settle)
        return committed

    def _submit(self, entries: Sequence[Entry], is_wanted: Callable[[], bool]) -> asyncio.Future[bool]:
        """Journals, after what was changed before."""
        self.save_changes()
        return self.journal.submit(entries, is_wanted)

    def _lasting(self, claim_id: ClaimId) -> Claim | None:
        """The claim as it stands, unless it has ended or its end is on the way to the journal: it must not return."""
        claim = self.ledger.get(claim_id)
        is_ending = claim is not None and claim.pod_uid is None and claim_id in self._ending
        return None if is_ending else claim

    def _tell_incidents(self) -> None:
        incidents = self.ledger.take_incidents()
        if self.who_serves():
            return  # who serves sees the same, and tells it
        for incident in incidents:
            self.incidents[incident.kind] += 1
            self.report(incident)

    @property
    def unsaved(self) -> int:
        """How many changes of the cluster could not be journalled, and wait for the next tick."""
        return len(self._unsaved)

    # -- answers

    def _remember(self, answer: Answer) -> None:
        """Keeps an answer; of those of one claim as many as fit into `MOST_ANSWERED`, the newest in any case."""
        self._answers[answer.request_id] = answer
        earlier = (each for each in self._answers_of.get(answer.claim_id, ()) if each in self._answers)
        kept = (*earlier, answer.request_id)
        size = sum([ANSWER_BYTES + len(self._answers[each].response) for each in kept])
        while size > MOST_ANSWERED and len(kept) > 1:
            size -= ANSWER_BYTES + len(self._answers.pop(kept[0]).response)
            kept = kept[1:]
        self._answers_of[answer.claim_id] = kept

    def _fade(self, claim_id: ClaimId, at: float) -> None:
        for request_id in self._answers_of.pop(claim_id, ()):
            self._fading.append((at, request_id))

    def _forget_answers(self, now: float) -> None:
        before = now - ANSWER_SECONDS
        forgotten = 0
        while self._fading and self._fading[0][0] < before and forgotten < MOST_FORGOTTEN:
            self._answers.pop(self._fading.popleft()[1], None)
            forgotten += 1
        if forgotten:
            self._submit([Forget(before)], always).add_done_callback(_failure)


def _incomplete(error: UndecidedError) -> UnavailableError:
    """A search that was cut off is no answer: the caller asks again."""
    return UnavailableError(Reason.SEARCH_INCOMPLETE, str(error))


def _failure(committed: asyncio.Future[bool]) -> Refused | UnavailableError | None:
    """What a commit came to: None when it is durable."""
    if committed.cancelled():
        return UnavailableError(Reason.NOT_SERVING, "the allocator is stopping; retry")
    error = committed.exception()
    if isinstance(error, Refused):
        return error
    if isinstance(error, JournalError) and error.refusal is not None:
        return error.refusal
    if error is not None:
        reason = error.reason if isinstance(error, JournalError) else Reason.JOURNAL_UNAVAILABLE
        return UnavailableError(reason, _unavailable_text(error))
    if not committed.result():
        return _UnwantedError()
    return None


def _once_certain(committed: asyncio.Future[bool], do: Callable[[], None]) -> None:
    """Does it now, or when it is certain that nothing of a failed submission is kept."""
    error = None if committed.cancelled() else committed.exception()
    until = error.until if isinstance(error, JournalError) else None
    if until is None:
        do()
    else:
        until.add_done_callback(lambda done: None if done.cancelled() else do())


def _unavailable_text(error: BaseException) -> str:
    return f"the decision could not be made durable ({error}); nothing was changed"


def _check_same(mark: RequestMark, digest: bytes) -> None:
    if mark.digest != digest:
        message = f"request_id {mark.request_id} was used before with another request. Use a fresh one"
        raise Refused(Mistake(Reason.REQUEST_ID_REUSED, "request_id", message))
