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

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from msgspec.structs import replace

from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId
from allocator.core.matching import (
    Seeker,
    Spot,
    Steps,
    World,
    blockers,
    find_spot,
    find_wait,
    gives_way,
    rank_of,
    somebody_goes,
)
from allocator.core.pods import Verdict
from allocator.core.ports import PortKey
from allocator.core.register import Register
from allocator.core.scopes import Scope
from allocator.core.verdicts import Judged

LOOKS, LOOK_STEPS = 1_000, 1_000
"""Plans that one call looks at, each a few us where it stands well, and the steps of the searches for the others."""

SCOPES_OF_A_STEP = 250
"""Wide scopes that each change of a plan asks in the time of a step."""

HOLDERS_OF_A_STEP = 25
"""Holders of a port, namesakes among them, that are looked at in the time of a step."""


class IncidentKind(Enum):
    """What can go wrong although every decision was right."""

    UNPLACEABLE = "Unplaceable"  # the scheduler took the last node that was left for the numbers of a Pod
    CONFLICT = "Conflict"  # two settled holders of one port, both granted here: no scheduler was asked, or none knew
    EXTERNAL_CONFLICT = "ExternalConflict"  # likewise, but one of them never asked us
    PORTS_REFUSED = "PortsRefused"  # the kubelet, or the scheduler against our books, says that ports are not free


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that people should be told of: the claim, and those that have its ports."""

    kind: IncidentKind
    claim: Claim
    others: tuple[Claim, ...] = ()
    verdict: Verdict | None = None  # for PORTS_REFUSED


class Upkeep:
    """What has to be looked at again, and how it is mended."""

    def __init__(self, register: Register, world: World, note: Callable[[Claim], None]) -> None:
        self._register = register
        self._world = world
        self._occupancy = register.occupancy
        self._note = note
        self._suspects: dict[ClaimId, None] = {}  # whose plans may not stand any more, the oldest suspicion first
        self._round: list[ClaimId] = []  # those that stand nowhere and are still to be looked at in this round
        self._hopeless: set[tuple[tuple[PortKey, ...], Scope, int | None]] = set()  # found no room at `_looked_at`
        self._looked_at = -1  # the value of `changes` for which that holds
        self._incidents: list[Incident] = []

    def take_incidents(self) -> list[Incident]:
        """What went wrong since the last call."""
        incidents, self._incidents = self._incidents, []
        return incidents

    def found_room(self, claim: Claim) -> None:
        """The ports of a claim were freed, on its node or wherever it could have landed."""
        for key in claim.keys if self._register.unplanned else ():
            self._suspect(self._register.wanting.get(key.slot, ()))

    def look_around(self, claim: Claim) -> None:
        """After a Pod has shown itself: the plans that it displaces, and the settled ones that it clashes with."""
        if not claim.is_settled or claim.node is None:
            self._suspect((claim.id,))
            return
        exempt = self._register.named(claim.owner) | {claim.id}
        in_the_way = blockers(claim.keys, claim.node, self._world, exempt)
        self._suspect(other.id for other in in_the_way if not other.is_settled)
        clashes = tuple(other for other in in_the_way if other.is_settled)
        if clashes:
            is_external = any(one.external for one in (claim, *clashes))
            kind = IncidentKind.EXTERNAL_CONFLICT if is_external else IncidentKind.CONFLICT
            self._incidents.append(Incident(kind, claim, clashes))

    def refused(self, judged: Judged) -> None:
        """Kubernetes says that a claim's ports are not free."""
        self._incidents.append(
            Incident(IncidentKind.PORTS_REFUSED, judged.claim, judged.holders, verdict=judged.verdict)
        )

    def suspect_all(self) -> None:
        self._suspect(sorted(self._register.unsettled))

    def _suspect(self, claim_ids: Iterable[ClaimId]) -> None:
        self._suspects.update(dict.fromkeys(claim_ids))

    @property
    def has_more(self) -> bool:
        """Whether there are plans that the last call did not get to."""
        return bool(self._suspects)

    def mend(self) -> None:
        """Plans anew what stands where it cannot stay (displaced, or its node is no candidate any more) or nowhere."""
        steps = Steps(LOOK_STEPS)
        for _ in range(LOOKS):
            # A search begins with half of the steps at least: where it is cut off, that is not for what others took.
            if not self._suspects or steps.left < LOOK_STEPS / 2:
                return
            claim_id = next(iter(self._suspects))
            del self._suspects[claim_id]
            self._mend(claim_id, steps)

    def go_round(self) -> None:
        """Looks again at some of those that stand nowhere, whatever was freed; at each of them in some calls."""
        self._round = self._round or sorted(self._register.unplanned, reverse=True)
        steps = Steps(LOOK_STEPS)
        for _ in range(LOOKS):
            if not self._round or steps.are_spent:
                return
            self._mend(self._round.pop(), steps)

    def _mend(self, claim_id: ClaimId, steps: Steps) -> None:
        if claim_id in self._register.unsettled:
            self._mend_one(self._register.claims[claim_id], steps)

    def mend_now(self, claim: Claim) -> None:
        """Plans one claim anew at once: it has just been put where others may stand."""
        self._mend_one(claim, Steps())

    def _mend_one(self, claim: Claim, steps: Steps) -> None:
        steps.spend(len(claim.ports) * (1 + len(self._register.named(claim.owner))) / HOLDERS_OF_A_STEP)
        if claim.node is not None and self.stays(claim, claim.node):
            return
        steps.spend(1 + self._occupancy.wide_count / SCOPES_OF_A_STEP)
        scope = self._occupancy.scope(claim.constraints)
        rank = rank_of(claim.priority, may_preempt=claim.may_preempt)
        if self._is_hopeless(claim, scope, rank):
            return
        seeker = Seeker(
            keys=tuple(claim.keys), nodes=scope.nodes, exempt=self._register.named(claim.owner) | {claim.id}, rank=rank
        )
        spot = find_spot(seeker, scope, self._world, steps)
        if not spot:
            if self._waits(claim, scope, seeker):
                return
            spot = find_wait(seeker, self._world, steps) if somebody_goes(seeker, self._world) else None
        self._put(claim, scope, spot, is_proven=not steps.are_spent)

    def _put(self, claim: Claim, scope: Scope, spot: Spot | None, *, is_proven: bool) -> None:
        if spot:
            for claim_id, node in (*spot.moves, (claim.id, spot.node)):
                moved = self._register.claims[claim_id]
                self._note(replace(moved, node=node))
                self.found_room(moved)
        elif claim.node is not None:
            self._note(replace(claim, node=None))
            if scope.nodes and is_proven:
                self._incidents.append(Incident(IncidentKind.UNPLACEABLE, claim))
            self.found_room(claim)
        elif self._has_no_namesake(claim):
            self._hopeless.add((tuple(claim.keys), scope, rank_of(claim.priority, may_preempt=claim.may_preempt)))

    def _is_hopeless(self, claim: Claim, scope: Scope, rank: int | None) -> bool:
        """Whether another claim that stands nowhere, with the same ports and candidates, has just found no room."""
        if self._looked_at != self._occupancy.changes:
            self._looked_at = self._occupancy.changes
            self._hopeless.clear()
        if claim.node is not None or not self._has_no_namesake(claim):
            return False
        return (tuple(claim.keys), scope, rank) in self._hopeless

    def _has_no_namesake(self, claim: Claim) -> bool:
        """Whether no other claim has its name, whose ports would be its own."""
        return len(self._register.named(claim.owner) - {claim.id}) == 0

    def stays(self, claim: Claim, node: NodeName) -> bool:
        """Whether the node is a candidate of the claim and free for it, itself and its namesakes aside."""
        scope = self._occupancy.scope(claim.constraints)
        exempt = self._register.named(claim.owner) | {claim.id}
        if not self._occupancy.contains(scope.nodes, node):
            return False
        return not blockers(claim.keys, node, self._world, exempt)

    def _waits(self, claim: Claim, scope: Scope, seeker: Seeker) -> bool:
        """Whether those in the way on the claim's node will go before it."""
        if claim.node is None or not self._occupancy.contains(scope.nodes, claim.node):
            return False
        in_the_way = blockers(claim.keys, claim.node, self._world, seeker.exempt)
        return all(gives_way(other, seeker.rank) for other in in_the_way)
