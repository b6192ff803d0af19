"""The claims and every index over them. They change together, here and nowhere else."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from msgspec.structs import replace

from allocator.core.candidates import Constraints
from allocator.core.claims import Bounds, Claim, ClaimId, Owner, PodUid, Shape, State
from allocator.core.deadlines import Deadlines
from allocator.core.occupancy import Occupancy
from allocator.core.ordered import Ordered
from allocator.core.ports import Slot

Key = tuple[str, str]
"""A namespace and a uid or name."""


class Sum(NamedTuple):
    """How many claims, and how many ports they have."""

    claims: int
    ports: int


NOTHING = Sum(0, 0)


class Register:
    """What is in force. Readers look at the attributes; writers call the methods."""

    def __init__(self) -> None:
        self.occupancy = Occupancy()
        self.claims: dict[ClaimId, Claim] = {}
        self.by_pod: dict[PodUid, ClaimId] = {}
        self._by_name: dict[str, dict[str, tuple[ClaimId, ...]]] = {}  # Pods, by namespace and name: one, two meanwhile
        self._shared: set[Key] = set()  # namespaces and names that several claims have
        self.by_controller: dict[Key, dict[ClaimId, None]] = {}  # reservations, oldest first: there may be many
        self.by_shape: dict[Shape, dict[tuple[int, ...], int]] = {}  # Pods of several ports: numbers, and how often
        self.unsettled: set[ClaimId] = set()
        self.ids: Ordered[ClaimId] = Ordered()
        self.portless: set[ClaimId] = set()  # their Pods have no host port any more: they stand nowhere
        self.leases: dict[ClaimId, None] = {}
        self.leases_end = Deadlines()
        self.others_end = Deadlines()
        self.unplanned: set[ClaimId] = set()  # those of the unsettled that stand nowhere
        self.wanting: dict[Slot, dict[ClaimId, None]] = {}  # the same, by what they want
        self.unplanned_within: Counter[Constraints] = Counter()  # and how many there are for each candidate set
        self.states: Counter[State] = Counter()  # of what we granted
        self.ranges: Counter[Bounds] = Counter()  # of what we granted, by the range that it came from
        self.outsider_ports = 0  # held by Pods that we never granted anything
        self.reserved_in: dict[str, Sum] = {}  # by namespace: reservations of Pods that were not seen
        self.leased_in: dict[str, Sum] = {}

    def named(self, owner: Owner) -> frozenset[ClaimId]:
        """Succession: the claims of Pods with this very namespace and name."""
        if owner.full_name is None:
            return frozenset()
        return frozenset(self._by_name.get(owner.namespace, {}).get(owner.name, ()))

    def shareable(self) -> set[Slot]:
        """The slots that two plans could have on one node: those of claims of one name, or on two addresses."""
        slots = set(self.occupancy.addressed())
        for namespace, name in self._shared:
            for claim_id in self._by_name[namespace][name]:
                claim = self.claims[claim_id]
                slots.update(key.slot for key in claim.keys if not claim.is_settled)
        return slots

    def insert(self, claim: Claim) -> None:
        if claim.id in self.claims:
            raise AssertionError(f"claim {claim.id} exists")
        self.ids.add(claim.id)
        self._insert(claim)

    def _insert(self, claim: Claim) -> None:
        self.claims[claim.id] = claim
        full_name = claim.owner.full_name
        if full_name is not None:
            self._note_name(claim.id, *full_name)
        if controller := _waits_for(claim):
            self.by_controller.setdefault(controller, {})[claim.id] = None
        if claim.pod_uid is not None:
            self.by_pod[claim.pod_uid] = claim.id
        if not claim.is_settled:
            self.unsettled.add(claim.id)
            if claim.node is None:
                self._wait(claim)
        if not claim.ports:
            self.portless.add(claim.id)
        if claim.state is State.LEASED:
            self.leases[claim.id] = None
        self.expect(claim)
        self._count_shape(claim, 1)
        self._count(claim, 1)
        self.occupancy.stand(claim)

    def _note_name(self, claim_id: ClaimId, namespace: str, name: str) -> None:
        names = self._by_name.setdefault(namespace, {})
        others = names.get(name, ())
        names[name] = (*others, claim_id)
        if others:
            self._shared.add((namespace, name))

    def expect(self, claim: Claim) -> None:
        """Its end is told when it is due; also once more, where it was told and did not come about."""
        if claim.expires is not None:
            self._ends(claim).add(claim.id, claim.expires)

    def _ends(self, claim: Claim) -> Deadlines:
        return self.leases_end if claim.state is State.LEASED else self.others_end

    def remove(self, claim_id: ClaimId) -> None:
        self.ids.discard(claim_id)
        self._remove(claim_id)
        del self.claims[claim_id]

    def _remove(self, claim_id: ClaimId) -> None:
        """From every index; `claims` itself is left, since it is large, and made anew where many were deleted."""
        claim = self.claims[claim_id]
        self.occupancy.leave(claim)
        full_name = claim.owner.full_name
        if full_name is not None:
            self._forget_name(claim_id, *full_name)
        if controller := _waits_for(claim):
            del self.by_controller[controller][claim_id]
            if not self.by_controller[controller]:
                del self.by_controller[controller]
        if claim.pod_uid is not None:
            del self.by_pod[claim.pod_uid]
        self.unsettled.discard(claim_id)
        if claim_id in self.unplanned:
            self._wait_no_more(claim)
        self.portless.discard(claim_id)
        self.leases.pop(claim_id, None)
        if claim.expires is not None:
            self._ends(claim).discard(claim_id, claim.expires)
        self._count_shape(claim, -1)
        self._count(claim, -1)

    def replace(self, claim: Claim) -> None:
        """The claim in place of the one with its id. A new end alone touches the index of ends, and no other."""
        old = self.claims[claim.id]
        if replace(claim, expires=old.expires) != old:
            self._remove(claim.id)
            self._insert(claim)
            return
        if old.expires is not None:
            self._ends(old).discard(old.id, old.expires)
        self.claims[claim.id] = claim
        self.expect(claim)
        self.occupancy.exchange(old, claim)

    def _wait(self, claim: Claim) -> None:
        self.unplanned.add(claim.id)
        self.unplanned_within[claim.constraints] += 1
        for key in claim.keys:
            self.wanting.setdefault(key.slot, {})[claim.id] = None

    def _wait_no_more(self, claim: Claim) -> None:
        self.unplanned.discard(claim.id)
        self.unplanned_within[claim.constraints] -= 1
        if not self.unplanned_within[claim.constraints]:
            del self.unplanned_within[claim.constraints]
        for slot in {key.slot for key in claim.keys}:
            del self.wanting[slot][claim.id]
            if not self.wanting[slot]:
                del self.wanting[slot]

    def _forget_name(self, claim_id: ClaimId, namespace: str, name: str) -> None:
        names = self._by_name[namespace]
        left = tuple(each for each in names[name] if each != claim_id)
        if left:
            names[name] = left
            if len(left) == 1:
                self._shared.discard((namespace, name))
            return
        del names[name]
        if not names:
            del self._by_name[namespace]

    def _count_shape(self, claim: Claim, change: int) -> None:
        if len(claim.ports) < 2 or not claim.owner.is_pod:
            return
        shape, numbers = claim.shape, tuple([port.host_port for port in claim.ports])
        counts = self.by_shape.setdefault(shape, {})
        counts[numbers] = counts.get(numbers, 0) + change
        if not counts[numbers]:
            del counts[numbers]
            if not counts:
                del self.by_shape[shape]

    def _count(self, claim: Claim, change: int) -> None:
        if claim.external:
            self.outsider_ports += change * len(claim.ports)
            return
        self.states[claim.state] += change
        if claim.state is State.RESERVED or claim.state is State.LEASED:
            self._count_tenant(claim, change)
        if claim.range is not None:
            self.ranges[claim.range] += change
            if not self.ranges[claim.range]:
                del self.ranges[claim.range]

    def _count_tenant(self, claim: Claim, change: int) -> None:
        sums = self.leased_in if claim.state is State.LEASED else self.reserved_in
        namespace = claim.owner.namespace
        claims, ports = sums.get(namespace, NOTHING)
        if claims + change:
            sums[namespace] = Sum(claims + change, ports + change * len(claim.ports))
        else:
            del sums[namespace]


def _waits_for(claim: Claim) -> Key | None:
    """The controller whose next Pod a reservation may be."""
    if claim.state is not State.RESERVED or not claim.owner.controller_uid:
        return None
    return claim.owner.namespace, claim.owner.controller_uid
