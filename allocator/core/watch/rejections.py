"""What the scheduler and the kubelet say of a Pod's host ports, compared with what is held here.

They know the Pods that exist and nothing else. So a "no free ports" of theirs is *explained* where a holder is known
here: the Pod waits for that holder. One that is not explained means that a holder is not known here, such as a Pod that
we cannot see, or that we have made a mistake.

Rules:

* The kubelet's rejection is final, since the Pod has failed: it is compared at once.
* The scheduler's is compared by how many nodes it names: more than have a holder here is a contradiction. The scheduler
  may know of a binding that we have not seen yet, or of a Pod that has just gone, and it tries again within ten seconds
  of any change. So a contradiction counts when it still stands after fifteen.
* To note a rejection of the scheduler costs nothing. Those that stand are compared later, some of them at a time, in
  turns, as long as they stand. Where many Pods wait, each is compared more seldom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from allocator.core.claims import Claim, ClaimId, PortRejection, RejectedBy
from allocator.core.place.view import PlacementView, free_nodes
from allocator.core.store import ClaimStore

PATIENCE_SECONDS = 15.0
MOST_NODES = 3
"""Nodes whose holders are named for a Pod that has none yet."""


@dataclass(frozen=True, slots=True)
class ComparedRejection:
    """A rejection, and who is known here to hold the ports. Nobody: it is not explained."""

    claim: Claim
    rejection: PortRejection
    holders: tuple[Claim, ...]

    @property
    def is_explained(self) -> bool:
        """Whether a holder is known here."""
        return bool(self.holders)


MOST_COMPARED = 1024
"""Ports that are compared at a time, each Pod counted as four more: a few milliseconds."""


@dataclass(slots=True)
class _Standing:
    rejection: PortRejection
    since: float  # when it last began to contradict what is held here; infinite while it does not
    is_counted: bool = False  # as explained


class PortRejections:
    """The rejections that stand, by claim: no more than there are claims."""

    def __init__(self, store: ClaimStore, placing: PlacementView) -> None:
        self._store = store
        self._placing = placing
        self.standing: dict[ClaimId, _Standing] = {}  # what was compared last at the end
        self._told: set[ClaimId] = set()  # those of them that were told as contradictions
        self.counts: Counter[tuple[RejectedBy, bool]] = Counter()  # by whom, and whether it is explained

    @property
    def contradictions(self) -> int:
        """How many rejections stand that are not explained."""
        return len(self._told)

    def note(self, claim: Claim, rejection: PortRejection | None, now: float) -> ComparedRejection | None:
        """Takes what a Pod's status says now; gives what is new in it and can be compared at once.

        rejection: None where Kubernetes rejects nothing, or no longer.
        """
        standing = self.standing.get(claim.id)
        if rejection == (standing.rejection if standing else None):
            return None
        self.forget(claim.id)
        if rejection is None:
            return None
        if rejection.by is RejectedBy.KUBELET:
            return self._counted(ComparedRejection(claim, rejection, tuple(self._in_the_way(claim))))
        self.standing[claim.id] = _Standing(rejection, now)
        return None

    def forget(self, claim_id: ClaimId) -> None:
        """The claim has ended, or nothing is said of it any more."""
        self.standing.pop(claim_id, None)
        self._told.discard(claim_id)

    def compare(self, now: float) -> Iterator[ComparedRejection]:
        """Compares some of the scheduler's; gives those that were contradictions for long enough, each once."""
        weight = 0
        for claim_id in list(islice(self.standing, MOST_COMPARED)):
            claim, standing = self._store.claims[claim_id], self.standing.pop(claim_id)
            self.standing[claim_id] = standing
            self._compare(claim, standing, now)
            if standing.since > now:
                self._told.discard(claim_id)
            elif standing.since + PATIENCE_SECONDS <= now and claim_id not in self._told:
                self._told.add(claim_id)
                yield self._counted(ComparedRejection(claim, standing.rejection, ()))
            weight += 4 + len(claim.ports)
            if weight >= MOST_COMPARED:
                return

    def _compare(self, claim: Claim, standing: _Standing, now: float) -> None:
        candidates = self._placing.sets.of(claim.constraints)
        taken = candidates.nodes & ~free_nodes(claim.keys, candidates, self._placing, frozenset((claim.id,)))
        if not claim.is_settled and standing.rejection.nodes > taken.bit_count():
            standing.since = min(standing.since, now)
            return
        standing.since = float("inf")
        if not standing.is_counted:
            standing.is_counted = True
            self.counts[RejectedBy.SCHEDULER, True] += 1

    def _in_the_way(self, claim: Claim) -> Iterator[Claim]:
        """Who has the claim's ports: on its node, or on any of its candidates while it has none."""
        if claim.is_settled and claim.node is not None:
            nodes = [claim.node]
        else:
            candidates = self._placing.sets.of(claim.constraints)
            taken = candidates.nodes & ~free_nodes(claim.keys, candidates, self._placing, frozenset((claim.id,)))
            nodes = list(self._placing.nodes.names_of(taken))[:MOST_NODES]
        for node in nodes:
            yield from self._placing.ports.blockers(claim.keys, node, frozenset((claim.id,)))

    def _counted(self, compared: ComparedRejection) -> ComparedRejection:
        self.counts[compared.rejection.by, compared.is_explained] += 1
        return compared
