"""The claims and every index over them. They change together, here and nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from allocator.core.claims import Claim, ClaimId, Owner, PodUid, Shape, State
from allocator.core.occupancy import Occupancy

Index = dict[tuple[str, str], dict[ClaimId, None]]
"""Ids by key, in the order of insertion."""


class Register:
    """What is in force. Readers look at the attributes; writers call the methods."""

    def __init__(self) -> None:
        self.occupancy = Occupancy()
        self.claims: dict[ClaimId, Claim] = {}
        self.by_pod: dict[PodUid, ClaimId] = {}
        self.by_name: Index = {}  # Pods by namespace and name
        self.by_controller: Index = {}  # reservations by namespace and controller uid, oldest first
        self.by_shape: dict[Shape, dict[tuple[int, ...], int]] = {}  # Pods of several ports: numbers, and how often
        self.unsettled: set[ClaimId] = set()
        self.expiring: set[ClaimId] = set()
        self.unplanned: set[ClaimId] = set()  # those of the unsettled that stand nowhere
        self.states: Counter[State] = Counter()  # of what we granted
        self.ranges: Counter[tuple[int, int]] = Counter()  # of what we granted, by the range that it came from
        self.outsider_ports = 0  # held by Pods that we never granted anything

    def named(self, owner: Owner) -> frozenset[ClaimId]:
        """Succession: the claims of Pods with this very namespace and name."""
        name = owner.full_name
        return frozenset(self.by_name.get(name, ())) if name else frozenset()

    def insert(self, claim: Claim) -> None:
        if claim.id in self.claims:
            raise AssertionError(f"claim {claim.id} exists")
        self.claims[claim.id] = claim
        for index, key in self._keys(claim):
            index.setdefault(key, {})[claim.id] = None
        if claim.pod_uid is not None:
            self.by_pod[claim.pod_uid] = claim.id
        if not claim.is_settled:
            self.unsettled.add(claim.id)
            if claim.node is None:
                self.unplanned.add(claim.id)
        if claim.expires is not None:
            self.expiring.add(claim.id)
        self._count_shape(claim, 1)
        self._count(claim, 1)
        self.occupancy.stand(claim)

    def remove(self, claim_id: ClaimId) -> None:
        claim = self.claims[claim_id]
        self.occupancy.leave(claim)
        del self.claims[claim_id]
        for index, key in self._keys(claim):
            del index[key][claim_id]
            if not index[key]:
                del index[key]
        if claim.pod_uid is not None:
            del self.by_pod[claim.pod_uid]
        self.unsettled.discard(claim_id)
        self.unplanned.discard(claim_id)
        self.expiring.discard(claim_id)
        self._count_shape(claim, -1)
        self._count(claim, -1)

    def replace(self, claim: Claim) -> None:
        """The claim in place of the one with its id."""
        self.remove(claim.id)
        self.insert(claim)

    def _count_shape(self, claim: Claim, change: int) -> None:
        if len(claim.ports) < 2 or not claim.owner.is_pod:
            return
        shape, numbers = claim.shape, tuple(port.host_port for port in claim.ports)
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
        if claim.range is not None:
            self.ranges[claim.range] += change
            if not self.ranges[claim.range]:
                del self.ranges[claim.range]

    def _keys(self, claim: Claim) -> Iterator[tuple[Index, tuple[str, str]]]:
        """The indexes that a claim belongs to, with its key in each."""
        owner = claim.owner
        if owner.full_name:
            yield self.by_name, owner.full_name
        if claim.state is State.RESERVED and owner.controller_uid:
            yield self.by_controller, (owner.namespace, owner.controller_uid)
