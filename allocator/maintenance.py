"""What happens without a request: the cluster changes, time passes, and the journal follows.

`Maintenance` takes what the cluster shows and what time brings. `Changes` journals what no request waits for.

Longer than 350 lines because these two share the rules below.

Rules:

* The ledger is touched from the event loop alone, and what takes long is done in parts, with `go_on` between them.
* What the cluster changes is true already: the journal follows, and is asked again where it fails. A commit for each
  Pod would cost as much as the one that gave the Pod its ports. So changes are saved with the next decision, just
  before it, or with the next tick.
* Of many changes some are journalled at a time (`MOST_SAVED`), the rest after those. So a port may be journalled as
  taken before it is journalled as free. A start that finds both ends the claim whose Pod is gone.
* The ports of what ends are free when the end is durable, not before.
* A turn of the event loop costs no more than `MOST_ENDING` ends begun, and what `freeing` frees.
* A claim whose end is on its way to the journal is not saved again: it must not return.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from allocator.clock import Clock
from allocator.cluster.contract import Watch
from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId, ClusterChange, PodUid, State, weight_of
from allocator.core.ledger import MOST_DUE, Ledger
from allocator.core.sockets import SocketChange
from allocator.core.watch.replanner import Incident, IncidentKind
from allocator.freeing import FreeingQueue
from allocator.idempotency import Answers
from allocator.journal.contract import Drop, Durability, Entry, Forget, Put, unheard
from allocator.slices import MOST_WEIGHT, slices
from hostport.logs import log_event

log = logging.getLogger(__name__)

CLOCK_SECONDS = 5.0  # between two commits that keep the reading of the clock
SCANNED = 8_000  # nodes and numbers a tick: about 2 ms, and 5,000 nodes with 30 numbers each in ten seconds
LISTENERS = 4_000  # numbers a tick that are compared with what is open on their nodes, where agents report: about 10 ms
NODE_WEIGHT, SETS_OF_A_PORT = 32, 16
"""What a changed Node weighs by itself, and how many candidate sets it is held against in the time of a port."""
MOST_ENDING = MOST_DUE
"""Ends of leases that are under way at a time because they are due: each may be an object of the API server."""
MOST_SAVED = 512
"""Ports of claims, and claims, that are journalled at a time because the cluster changed them."""
MOST_SHOWN = 10


class Changes:
    """Journals what no request waits for. `now` gives the time by which claims end, in seconds."""

    def __init__(self, ledger: Ledger, durability: Durability, answers: Answers, now: Callable[[], float]) -> None:
        self.ending: dict[ClaimId, asyncio.Future[bool]] = {}  # the ends that are not durable yet
        self.expired: Counter[State] = Counter()  # since the start, by the state that the claims were in
        self._ledger = ledger
        self._durability = durability
        self._answers = answers
        self._now = now
        self._freeing = FreeingQueue(self._free)
        self._leases_ending = 0  # because they are due
        self.unsaved: dict[ClaimId, Claim | None] = {}  # could not be journalled, and wait for the next tick

    # -- what the cluster changed

    def save(self) -> bool:
        """Journals some changes, first those that could not be journalled the last time; False: there were none.

        What is left follows when that is durable, or with the next tick where it cannot be.
        """
        changes, is_all = self._some_changes()
        entries = self._entries(changes)
        if not entries:
            return bool(changes)  # none, or all of them are ending: then there may be more

        def settle(committed: asyncio.Future[bool]) -> None:
            if not is_durable(committed):
                self.unsaved.update(changes)  # submissions settle in order: what is there is older
            elif not is_all:
                self.save()

        self._durability.record(entries).add_done_callback(settle)
        return True

    def save_all(self) -> None:
        """At the end, when nobody is served any more."""
        for _ in range(len(self.unsaved) + len(self._ledger.unsaved) + 1):
            if not self.save():
                return

    def put_back(self, old: Claim) -> None:
        """What replaced this claim could not be made durable; a change that was saved meanwhile may tell of it."""
        self._ledger.replace(old)
        self.unsaved[old.id] = old

    def _some_changes(self) -> tuple[dict[ClaimId, Claim | None], bool]:
        """Changes that weigh `MOST_SAVED` together, what could not be journalled first; and whether that is all."""
        weight, changes = 0, dict[ClaimId, Claim | None]()
        while self.unsaved and weight < MOST_SAVED:
            claim_id = next(iter(self.unsaved))
            noted = self.unsaved.pop(claim_id)
            claim = None if noted is None else self._ledger.claims.get(claim_id)
            if noted is None or claim is not None:  # else a request has ended it since
                changes[claim_id] = claim
                weight += 1 + (len(claim.ports) if claim else 0)
        if weight >= MOST_SAVED:
            return changes, False
        if self._ledger.unsaved:
            changes |= self._ledger.take_changes(MOST_SAVED - weight)
        return changes, not self._ledger.unsaved

    def _entries(self, changes: dict[ClaimId, Claim | None]) -> list[Entry]:
        """What is journalled of changes: that a claim ended, or how it stands, unless its end is on its way there."""
        at = self._now()
        entries: list[Entry] = []
        for claim_id, claim in changes.items():
            if claim is None:
                entries.append(Drop(claim_id, at))
                self._answers.fade(claim_id, at)
            elif claim.pod_uid is not None or claim_id not in self.ending:
                entries.append(Put(claim))
        return entries

    # -- what ends

    def end(self, claim_ids: Sequence[ClaimId]) -> asyncio.Future[bool]:
        """Ends claims, none of which is ending; the future is that of `Durability.end`, once their ports are free."""
        at = self._now()
        self.save()  # in their order: a change that is journalled after the end would bring the claim back
        committed = self._durability.end(claim_ids, at)
        ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.ending.update(dict.fromkeys(claim_ids, ended))

        def freed() -> None:
            if not ended.done():  # else whoever waited has gone
                ended.set_result(True)

        def settle(committed: asyncio.Future[bool]) -> None:
            if is_durable(committed):
                self._freeing.put(claim_ids, at, freed)
                return
            for claim_id in claim_ids:
                del self.ending[claim_id]
                self._ledger.still_due(claim_id)
            _fail_as(committed, ended)

        committed.add_done_callback(settle)
        return ended

    def _free(self, claim_id: ClaimId, at: float) -> int:
        """The claim's end is durable: its ports are free from here on, not before. Gives what it weighed."""
        del self.ending[claim_id]
        weight = weight_of(self._ledger.claims.get(claim_id))
        self._ledger.end(claim_id, self._now())
        self._answers.fade(claim_id, at)
        return weight

    def end_leases(self, claim_ids: Iterable[ClaimId]) -> None:
        """Somebody has ended these leases, whether or not that is in the journal yet."""
        for claim_id in claim_ids:
            if self._ledger.claims.get(claim_id) is not None and claim_id not in self.ending:
                self.end([claim_id])

    def end_due(self) -> None:
        """Ends some of what is due; what is left, when these ends are durable."""
        room = max(0, MOST_ENDING - self._leases_ending)
        due = [claim for claim in self._ledger.due(self._now(), room) if claim.id not in self.ending]
        if due:
            self.expired.update(claim.state for claim in due)
            shown = [f"{claim.id} ({claim.owner})" for claim in due[:MOST_SHOWN]]
            log_event(log, "expired", count=len(due), allocations=shown)
            self._end_all(due)

    def _end_all(self, due: Sequence[Claim]) -> None:
        """Each lease by itself: its end may take longer than that of others."""
        reservations = [claim.id for claim in due if claim.state is not State.LEASED]
        if reservations:
            self.end(reservations).add_done_callback(self._go_on_ending)
        for claim in due:
            if claim.state is State.LEASED:
                self._leases_ending += 1
                self.end([claim.id]).add_done_callback(self._lease_ended)

    def _lease_ended(self, committed: asyncio.Future[bool]) -> None:
        self._leases_ending -= 1
        if not self._leases_ending:
            self._go_on_ending(committed)

    def _go_on_ending(self, committed: asyncio.Future[bool]) -> None:
        if is_durable(committed):  # else with the next tick
            self.end_due()

    def forget_answers(self) -> None:
        """Forgets some of the answers whose claims ended long ago, here and in the journal."""
        before = self._answers.forget(self._now())
        if before is not None:
            self.save()
            self._durability.record([Forget(before)]).add_done_callback(is_durable)


def is_durable(committed: asyncio.Future[bool]) -> bool:
    """Whether what a verb of `Durability` was told is durable, now that its future is done."""
    return not committed.cancelled() and committed.exception() is None and committed.result()


def _fail_as(committed: asyncio.Future[bool], later: asyncio.Future[bool]) -> None:
    """Settles a future as one of `Durability` that failed; nobody need wait for either."""
    error = None if committed.cancelled() else committed.exception()
    if error is None:
        later.cancel()
    elif not later.done():  # else whoever waited has gone
        later.set_exception(error)
        later.exception()  # else it is told that nobody asked for it


@dataclass(slots=True)
class Surroundings:
    """What the engine finds in its program, each with what stands for it where there is none."""

    watch: Watch | None = None
    """The view of the cluster, where it can be asked."""
    holds_lease: Callable[[], bool] | None = None
    """Whether this allocator is the one that may answer; None: there is no Lease, and no other allocator."""
    who_serves: Callable[[], str] = str
    """Another allocator, while this one stands by; empty: it does not."""
    report: Callable[[Incident], None] = unheard
    """Is told where the ledger and the cluster disagree."""
    report_now: Callable[[NodeName], bool | None] = unheard
    """Asks the agent of a node for a report; gives whether it is connected."""
    decided: Callable[[float], None] = unheard
    """Is told how long a decision took, in seconds."""
    committed: Callable[[float], None] = unheard
    """Is told how long it took then until the decision was durable, in seconds."""


class Maintenance:
    """What the cluster shows, and what time brings. It is the `Observer` of the cluster."""

    def __init__(
        self,
        ledger: Ledger,
        durability: Durability,
        answers: Answers,
        changes: Changes,
        clock: Clock,
        around: Surroundings,
    ) -> None:
        self.incidents: Counter[IncidentKind] = Counter()  # since the start, by kind
        self._ledger = ledger
        self._durability = durability
        self._answers = answers
        self._changes = changes
        self._clock = clock
        self._clock_kept = 0.0  # its reading when it was last journalled for its own sake
        self._around = around
        self._was_silent = False  # about a node port, since another served

    # -- the cluster

    def observe(self, change: ClusterChange) -> None:
        """Takes what changed in the cluster; `Changes.save_all` journals it later."""
        now = self._clock()
        if change.lists_pods:
            self._ledger.trust_pods(now)
        self._ledger.observe(change, now=now)
        self._tell_incidents()

    def known_pods(self) -> Collection[PodUid]:
        """The Pods that hold something."""
        return self._ledger.claims.known_pods()

    def pod_weight(self, uid: PodUid) -> int:
        """What the end of a Pod weighs; see `weight_of`."""
        return weight_of(self._ledger.claims.of_pod(uid))

    def node_weight(self) -> int:
        """What one Node that changed weighs, in ports: it is held against every candidate set that is kept."""
        return NODE_WEIGHT + self._ledger.nodes.candidate_sets // SETS_OF_A_PORT

    def socket_slice(self) -> int:
        """How many sockets of a node are opened or closed in one step: each concerns every candidate set, too."""
        return max(1, MOST_WEIGHT * NODE_WEIGHT // self.node_weight())

    def close_sockets(self, name: NodeName) -> Iterator[None]:
        """Before a Node is told as gone: closes what its agent said is open there, in steps."""
        sockets = self._ledger.nodes.sockets.of(name)
        is_open = [(slot, socket.ip) for slot, socket in sockets] if sockets is not None else []
        for closed in slices(is_open, most=self.socket_slice()):
            self.observe(ClusterChange(reports=(SocketChange(node=name, closed=closed),), lists_pods=False))
            yield

    def proven(self, until: float) -> None:
        """The view of the cluster reaches this far, by the allocator's clock: who existed then has been told."""
        self._ledger.proven(until)

    # -- time

    def look_at_clock(self) -> None:
        """With each tick, also while nothing is served: notices what the wall clock does."""
        self._clock.look()
        self._ledger.ahead = self._clock.ahead

    def tick(self) -> None:
        """Ends what is due, and does a part of all that is done from time to time."""
        now = self._clock()
        self._ledger.pass_time(now)
        if self._was_silent:  # who served may have gone before it saw it
            self._was_silent = False
            self._ledger.find_node_ports_again()
        self._keep_clock(now)
        self._changes.end_due()
        if self._around.watch and self._ledger.claims.awaits_proof(now):
            self._around.watch.hurry()
        self._ledger.look_for_room()
        self._ledger.check_rejections(now)
        self._look_for_listeners(now)
        self._ledger.utilization.step(SCANNED)
        self._changes.forget_answers()
        self._changes.save()
        self._tell_incidents()

    def stand_by(self) -> None:
        """In place of a tick, while another serves: what the cluster changes is followed, and nothing ends."""
        self._ledger.look_for_room()
        self._changes.save()
        self._tell_incidents()

    def go_on(self) -> bool:
        """Goes on with what a tick, or a change of the cluster, did not get to; whether there is more."""
        if self._ledger.has_more_to_replan:
            self._ledger.replan()
            self._tell_incidents()
        return self._ledger.has_more_to_replan

    def _keep_clock(self, now: float) -> None:
        """Journals the clock where something ends by it and nothing else was journalled for a while.

        A start would give back what was not.
        """
        if now - self._clock_kept >= CLOCK_SECONDS and (self._answers.are_fading or self._ledger.claims.has_leases):
            self._clock_kept = now
            self._durability.record([]).add_done_callback(is_durable)

    def _look_for_listeners(self, now: float) -> None:
        """Compares some numbers that are given with what is open, and asks agents where it is in doubt what that is."""
        listening = self._ledger.listening
        found = listening.look(now, LISTENERS)
        self._tell([Incident(IncidentKind.NOT_LISTENING, each.claim, silent=each.ports) for each in found])
        for node in (*listening.take_wanted(), *self._ledger.nodes.sockets.unsettled(now)):
            self._around.report_now(node)

    def _tell_incidents(self) -> None:
        self._tell(self._ledger.take_incidents())

    def _tell(self, incidents: Sequence[Incident]) -> None:
        if self._around.who_serves():  # it sees the same, and tells it
            self._was_silent |= any(each.kind is IncidentKind.NODE_PORT_CONFLICT for each in incidents)
            return
        for incident in incidents:
            self.incidents[incident.kind] += 1
            self._around.report(incident)
