"""The claims and every index over them. They change together, here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator

from allocator.core.claims import Claim, ClaimId, PodUid, State
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
        self.unsettled: set[ClaimId] = set()

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

    def replace(self, claim: Claim) -> None:
        """The claim in place of the one with its id."""
        self.remove(claim.id)
        self.insert(claim)

    def _keys(self, claim: Claim) -> Iterator[tuple[Index, tuple[str, str]]]:
        """The indexes that a claim belongs to, with its key in each."""
        owner = claim.owner
        if owner.full_name:
            yield self.by_name, owner.full_name
        if claim.state is State.RESERVED and owner.controller_uid:
            yield self.by_controller, (owner.namespace, owner.controller_uid)
