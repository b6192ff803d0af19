"""Keeps plans standing as the cluster changes, and notes what went wrong although every decision was right.

A plan is looked at again when a Pod settles where it stands, when its own Pod changes, and when nodes change; what
stands nowhere, whenever something was freed. A change is told through `note`, which puts it in force.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from msgspec.structs import replace

from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId
from allocator.core.occupancy import Scope
from allocator.core.pods import Verdict
from allocator.core.register import Register
from allocator.core.room import World, blockers, find_spot, find_wait, free_nodes, gives_way
from allocator.core.verdicts import Judged


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
        self._suspects: set[ClaimId] = set()  # whose plans may not stand any more
        self._has_new_room = False
        self._incidents: list[Incident] = []

    def take_incidents(self) -> list[Incident]:
        """What went wrong since the last call."""
        incidents, self._incidents = self._incidents, []
        return incidents

    def found_room(self) -> None:
        """Something was freed."""
        self._has_new_room = True

    def look_around(self, claim: Claim) -> None:
        """After a Pod has shown itself: the plans that it displaces, and the settled ones that it clashes with."""
        if not claim.is_settled or claim.node is None:
            self._suspects.add(claim.id)
            return
        exempt = self._register.named(claim.owner) | {claim.id}
        in_the_way = blockers(claim.keys, claim.node, self._world, exempt)
        self._suspects.update(other.id for other in in_the_way if not other.is_settled)
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
        self._suspects |= self._register.unsettled
        self._has_new_room = True

    def mend(self) -> None:
        """Plans anew what stands where it cannot stay (displaced, or its node is no candidate any more) or nowhere."""
        suspects = self._suspects | (self._register.unplanned if self._has_new_room else set())
        self._suspects, self._has_new_room = set(), False
        for claim_id in sorted(suspects & self._register.unsettled):
            self._mend_one(self._register.claims[claim_id])

    def _mend_one(self, claim: Claim) -> None:
        if claim.node is not None and self.stays(claim, claim.node):
            return
        exempt = self._register.named(claim.owner) | {claim.id}
        scope = self._occupancy.scope(claim.constraints)
        keys = tuple(claim.keys)
        spot = find_spot(keys, scope, self._world, exempt)
        if not spot:
            if self._waits(claim, scope, exempt):
                return
            spot = find_wait(keys, scope, self._world, exempt, priority=claim.priority, may_preempt=claim.may_preempt)
        if spot:
            for claim_id, node in (*spot.moves, (claim.id, spot.node)):
                self._note(replace(self._register.claims[claim_id], node=node))
            self._has_new_room = True
        elif claim.node is not None:
            self._note(replace(claim, node=None))
            if scope.nodes:
                self._incidents.append(Incident(IncidentKind.UNPLACEABLE, claim))

    def stays(self, claim: Claim, node: NodeName) -> bool:
        """Whether the node is a candidate of the claim and free for it, itself and its namesakes aside."""
        scope = self._occupancy.scope(claim.constraints)
        exempt = self._register.named(claim.owner) | {claim.id}
        return self._occupancy.contains(free_nodes(claim.keys, scope, self._world, exempt), node)

    def _waits(self, claim: Claim, scope: Scope, exempt: frozenset[ClaimId]) -> bool:
        """Whether those in the way on the claim's node will go before it."""
        if claim.node is None or not self._occupancy.contains(scope.nodes, claim.node):
            return False
        in_the_way = blockers(claim.keys, claim.node, self._world, exempt)
        return all(gives_way(other, claim.priority, may_preempt=claim.may_preempt) for other in in_the_way)
