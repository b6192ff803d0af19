"""Keeps plans standing as the cluster changes, and notes what went wrong although every decision was right.

Rules:

* A plan is looked at again when a Pod settles where it stands, when its own Pod changes, and when nodes change.
* What stands nowhere is looked at again when a port that it wants is freed. Besides, some of it is looked at on every
  tick: a plan of several ports that has the wanted port may be movable since another of its ports was freed elsewhere.
* One call looks at a bounded number of plans; the rest waits for the next call, between ticks. Plans with the same
  ports and candidates are looked for once: where one of them finds no room, the next one does not either, until
  something changes.
* Who may still find room is never reported as unplaceable: a search that was cut off is repeated with the others that
  stand nowhere.

A change is told through `note`, which puts it in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId, PortRejection, planned
from allocator.core.foreign import ForeignHolder
from allocator.core.index.candidate_sets import CandidateSet
from allocator.core.place.matching import find_node, find_wait, somebody_goes
from allocator.core.place.view import (
    NodeChoice,
    PlacementView,
    Seeker,
    Steps,
    gives_way,
    is_foreign,
    rank_of,
)
from allocator.core.ports import WILDCARD, PortKey, Slot, number_of, protocol_of
from allocator.core.store import ClaimStore
from allocator.core.watch.listening import SilentPort
from allocator.core.watch.node_ports import NodePortConflicts
from allocator.core.watch.rejections import ComparedRejection

LOOKS, LOOK_STEPS = 1_000, 1_000
"""Plans that one call looks at, each a few us where it stands well, and the steps of the searches for the others."""

SETS_OF_A_STEP = 250
"""Wide sets that each change of a plan asks in the time of a step."""

PORT_STEPS, BLOCK_STEPS = 1.0, 3.0
"""Steps to put a port of a plan on another node, and a port of several numbers. The first one costs nothing besides."""

HOLDERS_OF_A_STEP = 25
"""Holders of a port, namesakes among them, that are looked at in the time of a step."""


class IncidentKind(Enum):
    """What can go wrong although every decision was right."""

    UNPLACEABLE = "Unplaceable"  # the scheduler took the last node that was left for the numbers of a Pod
    CONFLICT = "Conflict"  # two settled holders of one port, both granted here: no scheduler was asked, or none knew
    EXTERNAL_CONFLICT = "ExternalConflict"  # likewise, but one of them never asked us
    NOT_LISTENING = "NotListening"  # a Pod that is Ready does not listen on all of its numbers
    NODE_PORT_CONFLICT = "NodePortConflict"  # a Service holds a number of a Pod or a lease
    PORTS_REFUSED = "PortsRefused"  # the kubelet says that ports are not free, or the scheduler in contradiction to us
    BLOCK_SHRUNK = "BlockShrunk"  # the Pod was stored without some numbers of a block


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that people should be told of: the claim, and those that have its ports."""

    kind: IncidentKind
    claim: Claim
    others: tuple[Claim, ...] = ()
    rejection: PortRejection | None = None  # for PORTS_REFUSED
    silent: tuple[SilentPort, ...] = ()  # for NOT_LISTENING
    foreign: tuple[tuple[PortKey, ForeignHolder], ...] = ()  # for NODE_PORT_CONFLICT: ports, and the Service of each


_Wish = tuple[tuple[PortKey, ...], CandidateSet, int | None]
"""Ports, where they may stand, and whom their Pod may preempt."""


class Replanner:
    """The claims whose plans have to be looked at again, and the incidents that came of it."""

    def __init__(self, store: ClaimStore, placing: PlacementView, note: Callable[[Claim], None]) -> None:
        self._store = store
        self._placing = placing
        self._note = note
        self._suspects: dict[ClaimId, None] = {}  # whose plans may not stand any more, the oldest suspicion first
        self._round: list[ClaimId] = []  # those that stand nowhere and are still to be looked at in this round
        self._hopeless: set[_Wish] = set()  # what found no room at `_looked_at`
        self._looked_at = -1  # the value of `changes` for which that holds
        self._incidents: list[Incident] = []
        self.node_ports = NodePortConflicts(store)

    def take_incidents(self) -> list[Incident]:
        """What went wrong since the last call; each incident is given once."""
        incidents, self._incidents = self._incidents, []
        return incidents

    def found_room(self, claim: Claim) -> None:
        """Suspects those who stand nowhere and want a port of a claim that was freed, wherever that stood."""
        for key in claim.keys if self._store.unplanned else ():
            self.suspect(self._store.wanting_any(key))

    def closed(self, slots: Iterable[Slot]) -> None:
        """Suspects those who stand nowhere and want a slot that nothing has open on some node any more."""
        for slot in slots if self._store.unplanned else ():
            self.suspect(self._store.wanting_any(PortKey(WILDCARD, protocol_of(slot), number_of(slot))))

    def opened(self, node: NodeName, slots: Iterable[Slot]) -> None:
        """Suspects the plans on a node with a slot that something has open there now."""
        holders, unsettled = self._store.nodes.at(self._store.nodes.positions[node]).holders_of, self._store.unsettled
        for slot in slots:
            self.suspect(holder for holder in holders(slot) if holder in unsettled)

    def look_around(self, claim: Claim) -> None:
        """After a Pod has been seen: suspects the plans that it displaces, and notes whom it is in conflict with.

        claim: its claim, as it is now.
        """
        if self._store.services.holders or self.node_ports.told:
            self.node_ports.seen(claim.id)
        if not claim.is_settled or claim.node is None:
            self.suspect((claim.id,))
            return
        others = self._placing.ports.blockers(claim.keys, claim.node, frozenset((claim.id,)))
        if not others:  # as of nearly all Pods
            return
        named = self._store.named(claim.owner)
        in_the_way = [other for other in others if other.id not in named]
        self.suspect(other.id for other in in_the_way if not other.is_settled)
        clashes = tuple(other for other in in_the_way if other.is_settled)
        if clashes:
            is_external = any(one.unmanaged for one in (claim, *clashes))
            kind = IncidentKind.EXTERNAL_CONFLICT if is_external else IncidentKind.CONFLICT
            self._incidents.append(Incident(kind, claim, clashes))

    def services_changed(self, slots: Sequence[Slot]) -> None:
        """Services hold some slots that they did not before, or no longer.

        Nobody's plan moves: a node port is in the way on every node.
        """
        if slots:
            self._store.nodes.changes += 1  # readers look again
            self.node_ports.changed(slots)

    def forget(self, claim_id: ClaimId) -> None:
        """The claim has ended."""
        if self.node_ports.told or self.node_ports.due:
            self.node_ports.forget(claim_id)

    def _tell_conflicts(self) -> None:
        for claim, held in self.node_ports.look():
            self._incidents.append(Incident(IncidentKind.NODE_PORT_CONFLICT, claim, foreign=held))

    def shrunk(self, claim: Claim) -> None:
        """Notes an incident: the Pod of a claim, as it is now, was stored without some numbers of a block."""
        self._incidents.append(Incident(IncidentKind.BLOCK_SHRUNK, claim))

    def refused(self, compared: ComparedRejection) -> None:
        """Notes an incident: Kubernetes says that a claim's ports are not free."""
        self._incidents.append(
            Incident(IncidentKind.PORTS_REFUSED, compared.claim, compared.holders, rejection=compared.rejection)
        )

    def suspect_all(self) -> None:
        """Suspects every plan: the nodes have changed."""
        self.suspect(sorted(self._store.unsettled))

    def suspect(self, claim_ids: Iterable[ClaimId]) -> None:
        """Suspects some plans: they are looked at by `replan`."""
        self._suspects.update(dict.fromkeys(claim_ids))

    @property
    def has_more(self) -> bool:
        """Whether there are plans that the last call did not get to."""
        return bool(self._suspects or self.node_ports.due or self.node_ports.slots)

    def replan(self) -> None:
        """Plans anew what stands where it cannot stay (displaced, or its node is no candidate any more) or nowhere."""
        steps = Steps(LOOK_STEPS)
        if self.node_ports.due or self.node_ports.slots:
            self._tell_conflicts()
        for _ in range(LOOKS):
            # A search begins with half of the steps at least: where it is cut off, that is not for what others took.
            if not self._suspects or steps.left < LOOK_STEPS / 2:
                return
            claim_id = next(iter(self._suspects))
            del self._suspects[claim_id]
            self._replan(claim_id, steps)

    def go_round(self) -> None:
        """Looks again at some of those that stand nowhere, whatever was freed; at each of them in some calls."""
        self._round = self._round or sorted(self._store.unplanned, reverse=True)
        steps = Steps(LOOK_STEPS)
        for _ in range(LOOKS):
            if not self._round or steps.are_spent:
                return
            self._replan(self._round.pop(), steps)

    def _replan(self, claim_id: ClaimId, steps: Steps) -> None:
        if claim_id in self._store.unsettled:
            self._replan_one(self._store.claims[claim_id], steps)

    def replan_now(self, claim: Claim) -> None:
        """Plans one claim anew at once: it has just been put where others may stand."""
        self._replan_one(claim, Steps())

    def _replan_one(self, claim: Claim, steps: Steps) -> None:
        steps.spend(len(claim.ports) * (1 + len(self._store.named(claim.owner))) / HOLDERS_OF_A_STEP)
        if claim.node is not None and stays(claim, claim.node, self._placing):
            return
        steps.spend(1 + self._store.sets.wide_count / SETS_OF_A_STEP)
        candidates = self._store.sets.of(claim.constraints)
        rank = rank_of(claim.priority, may_preempt=claim.may_preempt)
        if self._is_hopeless(claim, candidates, rank):
            return
        seeker = Seeker(
            keys=tuple(claim.keys),
            nodes=candidates.nodes,
            exempt=self._store.named(claim.owner) | {claim.id},
            rank=rank,
        )
        choice = find_node(seeker, candidates, self._placing, steps)
        if not choice:
            if self._waits(claim, candidates, seeker):
                return
            choice = find_wait(seeker, self._placing, steps) if somebody_goes(seeker, self._placing) else None
        self._put(claim, candidates, choice, steps)

    def _put(self, claim: Claim, candidates: CandidateSet, choice: NodeChoice | None, steps: Steps) -> None:
        is_proven = not steps.are_spent
        if choice:
            for claim_id, node in (*choice.moves, (claim.id, choice.node)):
                moved = self._store.claims[claim_id]
                steps.spend(_steps_to_move(moved))
                self._note(planned(moved, node))
                self.found_room(moved)
        elif claim.node is not None:
            steps.spend(_steps_to_move(claim))
            self._note(planned(claim, None))
            if candidates.nodes and is_proven:
                self._incidents.append(Incident(IncidentKind.UNPLACEABLE, claim))
            self.found_room(claim)
        elif self._has_no_namesake(claim):
            self._hopeless.add((tuple(claim.keys), candidates, rank_of(claim.priority, may_preempt=claim.may_preempt)))

    def _is_hopeless(self, claim: Claim, candidates: CandidateSet, rank: int | None) -> bool:
        """Whether another claim that stands nowhere, with the same ports and candidates, has just found no room."""
        if self._looked_at != self._store.nodes.changes:
            self._looked_at = self._store.nodes.changes
            self._hopeless.clear()
        if claim.node is not None or not self._has_no_namesake(claim):
            return False
        return (tuple(claim.keys), candidates, rank) in self._hopeless

    def _has_no_namesake(self, claim: Claim) -> bool:
        """Whether no other claim has its name, whose ports would be its own."""
        return len(self._store.named(claim.owner) - {claim.id}) == 0

    def _waits(self, claim: Claim, candidates: CandidateSet, seeker: Seeker) -> bool:
        """Whether those in the way on the claim's node will go before it."""
        if claim.node is None or not self._store.nodes.contains(candidates.nodes, claim.node):
            return False
        if is_foreign(claim.keys, claim.node, self._placing):
            return False
        in_the_way = self._placing.ports.blockers(claim.keys, claim.node, seeker.exempt)
        return all(gives_way(other, seeker.rank) for other in in_the_way)


def _steps_to_move(plan: Claim) -> float:
    blocks = sum([1 for port in plan.ports if port.count > 1])
    return max(0, len(plan.ports) - 1) * PORT_STEPS + blocks * (BLOCK_STEPS - PORT_STEPS)


def stays(claim: Claim, node: NodeName, placing: PlacementView) -> bool:
    """Whether the node is a candidate of the claim and free for it, itself and its namesakes aside."""
    candidates = placing.sets.of(claim.constraints)
    exempt = placing.named(claim.owner) | {claim.id}
    if not placing.nodes.contains(candidates.nodes, node) or placing.ports.blockers(claim.keys, node, exempt):
        return False
    return not is_foreign(claim.keys, node, placing)
