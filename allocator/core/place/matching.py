"""Room that is made by moving plans.

A plan is only where we think a Pod will land: it may be moved to any candidate of its claim that is free for it. An ask
that finds no free node may still fit after plans have been moved. Rules:

* None is a proof: no way of moving plans makes room. Where the steps are used up before that is known, the caller's
  `Steps` say so, and nobody may be told that a port is taken.
* Moves of one plan after the other are looked for first, breadth first, as the augmenting paths of bipartite matching
  are. Plans that have the same ports and candidates make one cohort and are looked at together, so that it does not
  matter how many there are. Where every claim on the way has one port this finds a way whenever there is one.
* Claims of several ports may have to move several plans at once. What the first search does not find is looked for
  port by port: where one port by itself has no way, all of them together have none. What is left is tried out
  (`backtracking`).
* A plan may *wait*: stand on a node behind holders that will go, because they terminate, or because the scheduler may
  preempt them for a Pod of the plan's priority.
* What is found of a seeker, or of a plan, is found once in a search: its ports may be many.

Longer than 350 lines because a search and what it has looked at are read together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from allocator.core.blocks import first_of, length_of, slots_in
from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId
from allocator.core.index.candidate_sets import CandidateSet
from allocator.core.place import backtracking
from allocator.core.place.view import (
    PRIORITIES_OF_A_STEP,
    Move,
    NodeChoice,
    PlacementView,
    Seeker,
    Steps,
    free_nodes,
    open_nodes,
    unless_exempt,
    unplanned,
)
from allocator.core.ports import LAST_SLOT, WILDCARD, PortKey, Slot, any_conflict, bits, lowest, number_of, protocol_of

SETS_OF_A_STEP = 20
"""Candidate sets with plans that are looked at in one step, to see how far chains could reach."""

PLAN_STEPS, AGAIN_STEPS = 1.5, 0.2
"""Steps to look at one plan that has a port; and to come across it again, by another port or on the way to others."""

LOOKS_OF_A_STEP = 10
"""Cohorts that are looked at in one step."""

PORTS_OF_A_STEP, PAIRED_OF_A_STEP = 20, 100
"""Ports of a plan that are read in one step, when it is first looked at; and ports that are held against others."""


def find_node(seeker: Seeker, candidates: CandidateSet, view: PlacementView, steps: Steps) -> NodeChoice | None:
    """A candidate that is free for the seeker, moving plans if need be.

    None is a proof that there is none, unless the steps are spent.
    """
    nodes = free_nodes(seeker.keys, candidates, view, seeker.exempt) & seeker.nodes
    if nodes:
        return NodeChoice(view.nodes.pick(nodes))
    return find_moves(seeker, view, steps)


def find_moves(seeker: Seeker, view: PlacementView, steps: Steps) -> NodeChoice | None:
    """The same where it is known that no node is free for the seeker as plans stand."""
    return _ChainSearch(view, steps, waits=False, kin=seeker.exempt).find(seeker)


def find_wait(seeker: Seeker, view: PlacementView, steps: Steps) -> NodeChoice | None:
    """A node where all who are in the way will go: by themselves, moving plans if need be, or preempted."""
    return _ChainSearch(view, steps, waits=True, kin=seeker.exempt).find(seeker)


def somebody_goes(seeker: Seeker, view: PlacementView) -> bool:
    """Whether there is a holder at all that a search which waits would overlook: else it finds nothing new.

    Whom a plan may preempt counts too: it could wait there to make room.
    """
    return view.ports.some_leave(highest_rank(seeker, view))


def highest_rank(seeker: Seeker, view: PlacementView) -> int | None:
    """The highest rank of the seeker and of all plans; None where nobody preempts."""
    return max((rank for rank in (seeker.rank, view.sets.highest_rank) if rank is not None), default=None)


_Name = tuple[tuple[PortKey, ...], CandidateSet, int | None]
"""Ports, candidates and rank."""


@dataclass(slots=True, eq=False)
class _Cohort:
    """Plans with the same ports and candidates, and the nodes where they stand."""

    seeker: Seeker
    candidates: CandidateSet
    nodes: int = 0
    twice: int = 0  # where two of them stand: a Pod and its successor
    has_twins: bool = False  # whether one of them shares its name with another claim


@dataclass(slots=True)
class _Link:
    """One step of a chain: who seeks, for whose sake, and where it stands in that one's way."""

    seeker: Seeker
    cohort: _Cohort | None = None
    parent: _Link | None = None
    nodes: int = 0


class _Look:
    """A seeker, the nodes where nobody stays who is in its way, and its ports by slot and block."""

    __slots__ = ("by_slot", "nodes", "seeker")

    def __init__(self, seeker: Seeker, nodes: int) -> None:
        self.seeker, self.nodes = seeker, nodes
        self.by_slot: dict[Slot, list[PortKey]] = {}
        for key in seeker.keys:
            self.by_slot.setdefault(key.slot, []).append(key)

    def keys(self, only: PortKey | None) -> Sequence[PortKey]:
        """All ports, or those with the number of one."""
        return self.seeker.keys if only is None else self.by_slot.get(only.slot, ())

    def addresses(self, only: PortKey | None) -> set[str]:
        """The addresses that these are on, where they are on one."""
        return {key.ip for key in self.keys(only) if key.ip != WILDCARD}


class _ChainSearch:
    """One search. waits: whether holders that will go are in nobody's way. kin: with whom the ask shares a node."""

    def __init__(self, view: PlacementView, steps: Steps, *, waits: bool, kin: frozenset[ClaimId]) -> None:
        self._view = view
        self._steps = steps
        self._waits = waits
        self._kin = kin
        self._cohorts = _Cohorts(view, steps, kin)
        self._looked: dict[int, _Look] = {}  # by the identity of the seeker
        self._blockers: dict[tuple[int, NodeName], list[Claim]] = {}  # of a seeker likewise, on a node

    def find(self, root: Seeker) -> NodeChoice | None:
        """A node for the seeker, and the moves that free it; None as the head of this module says."""
        nodes = self._look_of(root).nodes
        if not nodes or not self._steps.spend():
            return None
        free = unplanned(root, nodes, self._view)
        if free:
            return NodeChoice(self._view.nodes.pick(free))
        if not self._may_have_room(root):
            return None
        choice, is_proof = self._chain(root)
        if choice is not None or is_proof or self._steps.are_spent:
            return choice
        # Where one port by itself has no way, all of them together have none.
        if any(self._chain(root, only=key)[1] for key in root.keys):
            return None
        return backtracking.find(root, self._view, self._steps, waits=self._waits)

    def _look_of(self, seeker: Seeker) -> _Look:
        """What is seen of a seeker, once in a search: nothing changes meanwhile."""
        known = self._looked.get(id(seeker))
        if known is None:
            known = self._looked[id(seeker)] = _Look(
                seeker, open_nodes(seeker, self._view, self._steps, waits=self._waits)
            )
        return known

    def _may_have_room(self, root: Seeker) -> bool:
        """Whether each key is free on any node that a chain of moves could reach: a look at few sets before many nodes.

        It says nothing where two could share a node: claims of one name, or on two addresses.
        """
        ports = self._view.ports
        for key in root.keys:
            if self._cohorts.is_shareable(key.slot) or self._is_of_kin(key):
                continue
            if ports.has_unlike_plans(key):
                continue  # a plan in the way may be moved to where nobody but a third one has its other numbers
            self._steps.spend(len(self._view.sets.surprising) / SETS_OF_A_STEP)
            reach = self._view.sets.reach(key, root.nodes)
            self._steps.spend(ports.priorities / PRIORITIES_OF_A_STEP if self._waits else 0)
            stays = ports.staying(key, highest_rank(root, self._view)) if self._waits else ports.settled(key)
            taken = ports.planned(key) | stays
            if not reach & ~unless_exempt(key, taken & reach, root.exempt, self._view, lambda _: True):
                return False
        return True

    def _is_of_kin(self, key: PortKey) -> bool:
        """Whether a plan that the ask may share a node with has the slot of a key."""
        slots = self._cohorts.slots_of_kin
        return bool(slots) and not slots.isdisjoint(slots_in(key.slot))

    def _chain(self, root: Seeker, only: PortKey | None = None) -> tuple[NodeChoice | None, bool]:
        """Breadth first over plans that stand alone in the way. The second value: whether there is provably no way.

        only: all ports but those that conflict with this key count as free of plans. A way that is missing even then
        is missing with all of them; one that is found says nothing.
        """
        links = deque([_Link(root)])
        visited: set[int] = set()
        addresses = self._look_of(root).addresses(only)
        # Blocks that meet and are not alike do not exclude one another in chains: a third may stand beside both.
        is_proof = (only is not None or len(root.keys) == 1) and not self._view.ports.has_unlike_plans(
            only or root.keys[0]
        )
        while links:
            link = links.popleft()
            if not self._steps.spend():
                return None, False
            nodes = self._look_of(link.seeker).nodes
            in_the_way = list(self._in_the_way(link, nodes, only))
            if self._cohorts.is_cut:
                return None, False
            once = twice = 0
            for cohort, here in in_the_way:
                twice |= once & here | cohort.twice & here
                once |= here
            free = nodes & ~once
            if free:
                return (None, False) if only else (self._unwound(link, free), False)
            is_proof = is_proof and not twice  # where two are in the way both would have to move
            for cohort, here in in_the_way:
                is_proof = is_proof and not cohort.has_twins and (only is not None or len(cohort.seeker.keys) == 1)
                alone = here & ~twice
                if alone and id(cohort) not in visited:
                    visited.add(id(cohort))
                    addresses |= self._look_of(cohort.seeker).addresses(only)
                    if not cohort.candidates.is_single():  # else it stands where it must
                        links.append(_Link(cohort.seeker, cohort, link, alone))
        # Two on different addresses could share a node, so that counting nodes proves nothing.
        return None, is_proof and len(addresses) <= 1

    def _in_the_way(self, link: _Link, nodes: int, only: PortKey | None) -> Iterator[tuple[_Cohort, int]]:
        """The cohorts with plans in a seeker's way, and on which of the nodes."""
        look = self._look_of(link.seeker)
        keys, seen = look.keys(only), set[int]()
        for slot in (only.slot,) if only else look.by_slot:
            is_everywhere = any(key.ip == WILDCARD for key in look.by_slot.get(slot, ()))
            for cohort in self._cohorts.near(slot, nodes):
                if id(cohort) in seen:
                    continue
                seen.add(id(cohort))
                # Who was found by a port that is on every address conflicts with it.
                clash = is_everywhere or self._clashes(keys, cohort)
                here = cohort.nodes & nodes if clash else 0
                here = self._less_exempt(here, cohort, link.seeker)
                if here:
                    yield cohort, here

    def _clashes(self, keys: Sequence[PortKey], cohort: _Cohort) -> bool:
        """Whether one of some ports conflicts with one of a cohort."""
        self._steps.spend((len(keys) + len(cohort.seeker.keys)) / PAIRED_OF_A_STEP)
        return any_conflict(keys, cohort.seeker.keys)

    def _less_exempt(self, nodes: int, cohort: _Cohort, seeker: Seeker) -> int:
        """Those of the nodes where a plan of the cohort is in the seeker's way that is not exempt."""
        for claim_id in seeker.exempt if nodes else ():
            claim = self._view.claims.get(claim_id)
            if claim is None or claim.node is None or claim.is_settled:
                continue
            only = self._view.nodes.only(claim.node)
            if only & nodes and not any(
                self._cohorts.has(cohort, holder) for holder in self._blockers_on(claim.node, seeker)
            ):
                nodes &= ~only
        return nodes

    def _blockers_on(self, node: NodeName, seeker: Seeker) -> list[Claim]:
        """Who is in a seeker's way on a node, found once."""
        known = self._blockers.get((id(seeker), node))
        if known is None:
            self._steps.spend(len(seeker.keys) / PORTS_OF_A_STEP)
            known = self._view.ports.blockers(seeker.keys, node, seeker.exempt)
            self._blockers[id(seeker), node] = known
        return known

    def _unwound(self, link: _Link, free: int) -> NodeChoice | None:
        """The moves of a chain, from its end to the ask; None where it comes to one node twice."""
        nodes = self._view.nodes
        node, used = nodes.pick(free), [nodes.pick(free)]
        moves: list[Move] = []
        while link.cohort is not None and link.parent is not None:
            there = nodes.name_at(lowest(link.nodes))
            in_the_way = self._view.ports.blockers(link.parent.seeker.keys, there, link.parent.seeker.exempt)
            claim = next(claim for claim in in_the_way if self._cohorts.has(link.cohort, claim))
            moves.append((claim.id, node))
            node, link = there, link.parent
            used.append(node)
        return NodeChoice(node, tuple(moves)) if len(set(used)) == len(used) else None


class _Cohorts:
    """The plans that one search has looked at, those with the same ports and candidates together."""

    def __init__(self, view: PlacementView, steps: Steps, kin: frozenset[ClaimId]) -> None:
        self._view = view
        self._steps = steps
        self._kin = kin
        self._by_name: dict[_Name, _Cohort] = {}  # each once, whichever of its slots it was found by
        self._by_slot: dict[Slot, dict[_Cohort, None]] = {}
        self._standing: dict[Slot, dict[int, list[_Cohort]]] = {}  # of those, by position
        self._looked: dict[Slot, int] = {}  # at which nodes, of each slot
        self._counted: set[ClaimId] = set()  # the plans that are in `nodes` of their cohort
        self._sets: dict[int, CandidateSet] = {}  # by the identity of constraints that claims have
        self._of: dict[ClaimId, _Cohort] = {}
        self.is_cut = False  # whether plans were passed over, since the steps were spent

    @cached_property
    def shareable(self) -> frozenset[Slot]:
        """The slots that two plans could have on one node."""
        return self._view.shareable()

    @cached_property
    def slots_of_kin(self) -> set[Slot]:
        """The slots of plans that the ask may share a node with."""
        slots = set[Slot]()
        for claim_id in self._kin:
            claim = self._view.claims.get(claim_id)
            if claim is not None and not claim.is_settled:
                self._steps.spend(len(claim.ports) / PORTS_OF_A_STEP)
                for key in claim.keys:
                    slots.update(slots_in(key.slot))
        return slots

    def is_shareable(self, slot: Slot) -> bool:
        """Whether two plans could have a slot, or a number of a block, on one node."""
        return slot in self.shareable or (slot > LAST_SLOT and not self.shareable.isdisjoint(slots_in(slot)))

    def has(self, cohort: _Cohort, claim: Claim) -> bool:
        """Whether a claim is one of a cohort's plans."""
        return not claim.is_settled and self._cohort_of(claim) is cohort

    def near(self, slot: Slot, nodes: int) -> Iterable[_Cohort]:
        """The cohorts that have a slot, those among them with a plan on one of the nodes. Some more than once."""
        self._look(slot, nodes)
        cohorts, size = self._by_slot[slot], nodes.bit_count()
        self._steps.spend(1 + min(size, len(cohorts)) / LOOKS_OF_A_STEP)
        if size >= len(cohorts):
            return cohorts
        standing = self._standing[slot]
        return [cohort for position in bits(nodes) for cohort in standing.get(position, ())]

    def _look(self, slot: Slot, nodes: int) -> None:
        """Puts the plans that have a slot on some nodes into cohorts. No node is looked at twice for a slot."""
        ports, claims, known = self._view.ports, self._view.claims, self._looked.get(slot, 0)
        alone = (PortKey(WILDCARD, protocol_of(slot), number_of(first_of(slot)), length_of(slot)),)
        new = ports.planned(alone[0]) & nodes & ~known
        self._looked[slot] = known | nodes
        cohorts, standing = self._by_slot.setdefault(slot, {}), self._standing.setdefault(slot, {})
        may_share = new and self.is_shareable(slot)
        for position in bits(new):
            for holder in self._view.nodes.at(position).holders_of(slot):
                if not self._steps.spend(AGAIN_STEPS if holder in self._counted else PLAN_STEPS):
                    self.is_cut = True
                    return
                claim = claims[holder]
                if claim.is_settled:
                    continue
                cohort = self._cohort_of(claim, alone)
                cohort.has_twins |= claim.id in self._kin
                cohorts[cohort] = None
                standing.setdefault(position, []).append(cohort)
                if claim.id in self._counted:
                    continue  # with another of its ports
                self._counted.add(claim.id)
                bit = 1 << position
                cohort.twice |= cohort.nodes & bit
                cohort.nodes |= bit
            if may_share:
                self._note_twins(position, slot)

    def _note_twins(self, position: int, slot: Slot) -> None:
        """Marks the cohorts of the plans on a node that share their name with another claim."""
        for holder in self._view.nodes.at(position).holders_of(slot):
            claim = self._view.claims[holder]
            if not claim.is_settled and len(self._view.named(claim.owner)) > 1:
                self._cohort_of(claim).has_twins = True

    def _cohort_of(self, claim: Claim, alone: tuple[PortKey, ...] = ()) -> _Cohort:
        """The cohort of a plan. alone: the only key of a slot that it has, as nearly all have it."""
        cohort = self._of.get(claim.id)
        if cohort is None:
            self._steps.spend(len(claim.ports) / PORTS_OF_A_STEP)
            is_plain = len(claim.ports) == 1 and not claim.ports[0].host_ip and claim.ports[0].key in alone
            cohort = self._of[claim.id] = self._named(self._name_of(claim, alone if is_plain else None))
        return cohort

    def _named(self, name: _Name) -> _Cohort:
        """The cohort of a name, which is made where it is the first plan of it."""
        cohort = self._by_name.get(name)
        if cohort is None:
            keys, candidates, rank = name
            cohort = self._by_name[name] = _Cohort(Seeker(keys=keys, nodes=candidates.nodes, rank=rank), candidates)
        return cohort

    def _name_of(self, claim: Claim, keys: tuple[PortKey, ...] | None) -> _Name:
        """What the plans of a cohort have in common."""
        candidates = self._sets.get(id(claim.constraints))
        if candidates is None:
            candidates = self._sets[id(claim.constraints)] = self._view.sets.of(claim.constraints)
        keys = keys or tuple([port.key for port in claim.ports])
        return keys, candidates, claim.priority if claim.may_preempt else None
