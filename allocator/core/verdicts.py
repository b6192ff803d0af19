"""What the scheduler and the kubelet say of a Pod's host ports, held against the books.

They know the Pods that exist and nothing else. So a "no free ports" of theirs that the books explain is how things are:
the Pod waits for those holders. One that the books do not explain means that somebody is outside the books: a Pod that
we cannot see, or a mistake of ours.

The kubelet's word is final, and is judged at once: the Pod has failed. The scheduler's is judged by how many nodes it
names: more than the books know to be taken is a contradiction. It may have thought of a binding that we have not seen
yet, or of a Pod that has just gone, and it thinks again within ten seconds of any change; so a contradiction counts
when it still stands after fifteen.

To hear the scheduler costs nothing: what it says is weighed later, some of it at a time, in turns and again and again
as long as it stands. Where many Pods wait, each is weighed more seldom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from allocator.core.claims import Claim, ClaimId
from allocator.core.matching import World, blockers, free_nodes
from allocator.core.pods import Judge, Verdict
from allocator.core.register import Register

PATIENCE_SECONDS = 15.0
MOST_NODES = 3
"""Nodes whose holders are named for a Pod that has none yet."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict beside the books: who holds the ports there. Nobody: it is not explained."""

    claim: Claim
    verdict: Verdict
    holders: tuple[Claim, ...]

    @property
    def is_explained(self) -> bool:
        return bool(self.holders)


MOST_WEIGHED = 1024
"""Ports that are weighed at a time, each Pod counted as four more: a few milliseconds."""


@dataclass(slots=True)
class _Heard:
    verdict: Verdict
    since: float  # when the books last began to contradict it; infinite while they do not
    is_counted: bool = False  # as explained


class Verdicts:
    """The verdicts that stand, by claim: no more than there are claims."""

    def __init__(self, register: Register, world: World) -> None:
        self._register = register
        self._world = world
        self._heard: dict[ClaimId, _Heard] = {}  # what was weighed last at the end
        self._told: set[ClaimId] = set()  # those of them that were told not to be explained
        self.counts: Counter[tuple[Judge, bool]] = Counter()  # by whom, and whether the books explain it

    @property
    def contradictions(self) -> int:
        """How many verdicts stand that the books do not explain."""
        return len(self._told)

    def hear(self, claim: Claim, verdict: Verdict | None, now: float) -> Judged | None:
        """What a Pod's status says now; what is new in it and can be judged at once."""
        heard = self._heard.get(claim.id)
        if verdict == (heard.verdict if heard else None):
            return None
        self.forget(claim.id)
        if verdict is None:
            return None
        if verdict.by is Judge.KUBELET:
            return self._counted(Judged(claim, verdict, tuple(self._in_the_way(claim))))
        self._heard[claim.id] = _Heard(verdict, now)
        return None

    def forget(self, claim_id: ClaimId) -> None:
        """The claim has ended, or nothing is said of it any more."""
        self._heard.pop(claim_id, None)
        self._told.discard(claim_id)

    def unexplained(self, now: float) -> Iterator[Judged]:
        """Weighs some of the scheduler's verdicts. Those that were contradicted for long enough come, each once."""
        weight = 0
        for claim_id in list(islice(self._heard, MOST_WEIGHED)):
            claim, heard = self._register.claims[claim_id], self._heard.pop(claim_id)
            self._heard[claim_id] = heard
            self._weigh(claim, heard, now)
            if heard.since > now:
                self._told.discard(claim_id)
            elif heard.since + PATIENCE_SECONDS <= now and claim_id not in self._told:
                self._told.add(claim_id)
                yield self._counted(Judged(claim, heard.verdict, ()))
            weight += 4 + len(claim.ports)
            if weight >= MOST_WEIGHED:
                return

    def _weigh(self, claim: Claim, heard: _Heard, now: float) -> None:
        scope = self._world.occupancy.scope(claim.constraints)
        taken = scope.nodes & ~free_nodes(claim.keys, scope, self._world, frozenset((claim.id,)))
        if not claim.is_settled and heard.verdict.nodes > taken.bit_count():
            heard.since = min(heard.since, now)
            return
        heard.since = float("inf")
        if not heard.is_counted:
            heard.is_counted = True
            self.counts[Judge.SCHEDULER, True] += 1

    def _in_the_way(self, claim: Claim) -> Iterator[Claim]:
        """Who has the claim's ports: on its node, or on any of its candidates while it has none."""
        occupancy = self._world.occupancy
        if claim.is_settled and claim.node is not None:
            nodes = [claim.node]
        else:
            scope = occupancy.scope(claim.constraints)
            taken = scope.nodes & ~free_nodes(claim.keys, scope, self._world, frozenset((claim.id,)))
            nodes = list(occupancy.names_of(taken))[:MOST_NODES]
        for node in nodes:
            yield from blockers(claim.keys, node, self._world, frozenset((claim.id,)))

    def _counted(self, judged: Judged) -> Judged:
        self.counts[judged.verdict.by, judged.is_explained] += 1
        return judged
