"""Moves of several plans at once, tried out one after the other: exact, where the steps suffice.

Whoever seeks is put on each of its nodes in turn. The plans in its way there are displaced, and have to be placed in
turn: first whoever has the fewest nodes left. Who has been placed is not displaced again. Where somebody has no node
left, the last one that was placed is put on its next node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from allocator.core.claims import Claim, ClaimId
from allocator.core.place.view import NodeChoice, PlacementView, Seeker, Steps, open_nodes, rank_of, unplanned
from allocator.core.ports import any_conflict, bits, lowest

PORTS_OF_A_STEP, PAIRED_OF_A_STEP = 40, 100
"""Ports of a plan of which it is looked in one step who has them on a node; and ports that are held against others."""

DEEPEST = 200
"""Plans that a search may displace at once."""


def find(root: Seeker, view: PlacementView, steps: Steps, *, waits: bool) -> NodeChoice | None:
    """A node for the seeker, and the moves that free it; None where there is none, or where the steps are spent.

    waits: whether holders that will go are in nobody's way.
    """
    search = _Backtracking(view, steps, waits)
    if not search.settle([root]):
        return None
    (position,) = (at for at, seekers in search.placed.items() for seeker in seekers if seeker is root)
    moves = ((claim.id, view.nodes.name_at(at)) for claim, at in search.moves)
    return NodeChoice(view.nodes.name_at(position), tuple(moves))


@dataclass(slots=True)
class _Backtracking:
    view: PlacementView
    steps: Steps
    waits: bool
    placed: dict[int, list[Seeker]] = field(default_factory=dict)  # by position
    lifted: set[ClaimId] = field(default_factory=set)  # who does not stand any more where the books say
    moves: list[tuple[Claim, int]] = field(default_factory=list)
    opened: dict[str, int] = field(default_factory=dict)  # nodes by claim ("": the ask), as the books are

    def settle(self, pending: list[Seeker]) -> bool:
        """Whether all of them can be placed; if so they are."""
        if not pending:
            return True
        if len(self.lifted) > DEEPEST:
            self.steps.cut()
            return False
        options = [(self._options(seeker), seeker) for seeker in pending]
        nodes, seeker = min(options, key=lambda option: option[0].bit_count())
        rest = [other for other in pending if other is not seeker]
        ways = [(self._in_the_way(seeker, position), position) for position in self._looked_at(nodes, seeker, rest)]
        for displaced, position in sorted(ways, key=lambda way: len(way[0])):
            if not self.steps.spend():
                return False
            self._put(seeker, position, displaced)
            if self.settle([*rest, *map(self._seeker_of, displaced)]):
                return True
            self._take_back(seeker, position, displaced)
        return False

    def _looked_at(self, nodes: int, seeker: Seeker, rest: Sequence[Seeker]) -> Iterable[int]:
        """The nodes to try. For the last one any that is free will do."""
        view = self.view
        free = unplanned(seeker, nodes, view) if not rest else 0
        if free:
            return [lowest(free)]
        self.steps.spend(nodes.bit_count() * (1 / 4 + (len(seeker.keys) - 1) / PORTS_OF_A_STEP))
        return list(bits(nodes)) if not self.steps.are_spent else []

    def _put(self, seeker: Seeker, position: int, displaced: Sequence[Claim]) -> None:
        self.placed.setdefault(position, []).append(seeker)
        self.lifted.update(claim.id for claim in displaced)
        if seeker.claim is not None:
            self.moves.append((seeker.claim, position))

    def _take_back(self, seeker: Seeker, position: int, displaced: Sequence[Claim]) -> None:
        self.placed[position].remove(seeker)
        self.lifted.difference_update(claim.id for claim in displaced)
        if seeker.claim is not None:
            self.moves.pop()

    def _options(self, seeker: Seeker) -> int:
        """The nodes where nobody stays who is in the way, and nobody who has been placed."""
        name = seeker.claim.id if seeker.claim else ""
        nodes = self.opened.get(name)
        if nodes is None:
            nodes = self.opened[name] = open_nodes(seeker, self.view, self.steps, waits=self.waits)
        self.steps.spend(0.3 * len(self.placed))
        for position, others in self.placed.items():
            if nodes >> position & 1 and any(self._conflict(seeker, other) for other in others):
                nodes &= ~(1 << position)
        return nodes

    def _in_the_way(self, seeker: Seeker, position: int) -> list[Claim]:
        """The plans that would have to leave the node."""
        ports, claims = self.view.ports, self.view.claims
        found = {holder: None for key in seeker.keys for holder in ports.holders_at(position, key)}
        return [
            claim
            for claim in map(claims.__getitem__, found)
            if not claim.is_settled and claim.id not in seeker.exempt and claim.id not in self.lifted
        ]

    def _seeker_of(self, claim: Claim) -> Seeker:
        view = self.view
        return Seeker(
            keys=tuple(claim.keys),
            nodes=view.sets.of(claim.constraints).nodes,
            exempt=view.named(claim.owner) | {claim.id},
            rank=rank_of(claim.priority, may_preempt=claim.may_preempt),
            claim=claim,
        )

    def _conflict(self, one: Seeker, other: Seeker) -> bool:
        """Whether two that have been placed could not stand on one node."""
        if (other.claim and other.claim.id in one.exempt) or (one.claim and one.claim.id in other.exempt):
            return False
        self.steps.spend((len(one.keys) + len(other.keys) - 2) / PAIRED_OF_A_STEP)
        return any_conflict(one.keys, other.keys)
