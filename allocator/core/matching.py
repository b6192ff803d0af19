"""Where claims fit, and how to make room by moving plans.

A plan is only where we think a Pod will land: it may be moved to any candidate of its claim that is free for it. An ask
that finds no free node may still fit after plans have been moved. Rules:

* None is a proof: no way of moving plans makes room. Where the steps are used up before that is known, the caller's
  `Steps` say so, and nobody may be told that a port is taken.
* Moves of one plan after the other are looked for first, breadth first, as in bipartite matching. Plans that have the
  same ports and candidates are looked at together, so that it does not matter how many there are. Where every claim on
  the way has one port this finds a way whenever there is one.
* Claims of several ports may have to move several plans at once. What the first search does not find is looked for
  port by port: where one port by itself has no way, all of them together have none. What is left is tried out.
* A plan may *wait*: stand on a node behind holders that will go, because they terminate, or because the scheduler may
  preempt them for a Pod of the plan's priority.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from allocator.core.asks import PortAsk
from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId, Owner
from allocator.core.occupancy import Occupancy
from allocator.core.ports import WILDCARD, PortKey, Slot, lowest, normalise_ip, number_of, protocol_of
from allocator.core.scopes import Scope
from allocator.core.slots import bits

MOST_STEPS = 2_000
"""Steps of one ask. A step is a look at one node or at one set of nodes, 10 to 20 us at 5,000 nodes."""

PLAN_STEPS = 0.2
"""Steps to look at one plan that has a port."""

PRIORITIES_OF_A_STEP = 100
"""Priorities of those who stay that are looked at in one step, for each port."""

LOOKS_OF_A_STEP = 10
"""Cohorts that are looked at in one step."""

DEEPEST = 200
"""Plans that a search may displace at once."""


@dataclass(frozen=True, slots=True)
class World:
    """What a plan is made against."""

    occupancy: Occupancy
    claims: Mapping[ClaimId, Claim]
    named: Callable[[Owner], frozenset[ClaimId]]  # the claims of Pods with this namespace and name
    shareable: Callable[[], set[Slot]]  # the slots that two plans could have on one node: one name, or two addresses
    reserved: int = 0  # numbers that Dynamic and Index never hand out
    discloses_holders: bool = False  # name holders of other namespaces in messages


Move = tuple[ClaimId, NodeName]
"""A plan and the node where it is to stand."""


class Spot(msgspec.Struct, frozen=True, gc=False):
    """A node to stand on, free once the moves are made."""

    node: NodeName
    moves: tuple[Move, ...] = ()


class Steps:
    """How much one ask may look at."""

    def __init__(self, most: float = MOST_STEPS) -> None:
        self.left = most

    def spend(self, steps: float = 1.0) -> bool:
        """False when there is nothing left to spend."""
        self.left -= steps
        return self.left > 0

    def cut(self) -> None:
        """Something was left out that would have to be looked at."""
        self.left = 0.0

    @property
    def are_spent(self) -> bool:
        """Whether the search was cut off, so that not finding proves nothing."""
        return self.left <= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeker:
    """Who needs a node.

    keys: its ports. nodes: where it may stand. exempt: claims that do not conflict with it.
    rank: the priority of a Pod that may preempt; None for others.
    """

    keys: tuple[PortKey, ...]
    nodes: int
    exempt: frozenset[ClaimId] = frozenset()
    rank: int | None = None
    claim: Claim | None = None  # the plan that is moved; None for the ask itself


# -- who is in the way


def key_of(port: PortAsk, number: int) -> PortKey:
    """A port that is asked for, on a number."""
    return PortKey(normalise_ip(port.host_ip), port.protocol, number)


def gives_way(holder: Claim, rank: int | None) -> bool:
    """Whether a holder will go before a Pod of some rank: it terminates, or the scheduler may preempt it."""
    if not holder.is_settled or not holder.owner.is_pod:
        return False
    return holder.is_terminating or (rank is not None and holder.priority < rank)


def rank_of(priority: int, *, may_preempt: bool) -> int | None:
    """The rank of a Pod: whom it may preempt."""
    return priority if may_preempt else None


def blockers(keys: Iterable[PortKey], node: NodeName, world: World, exempt: frozenset[ClaimId]) -> list[Claim]:
    """Who stands in the way of the keys on a node, each once."""
    found = {holder.id: holder for key in keys for holder in world.occupancy.holders(node, key)}
    return [holder for holder in found.values() if holder.id not in exempt]


def free_nodes(keys: Iterable[PortKey], scope: Scope, world: World, exempt: frozenset[ClaimId]) -> int:
    """The nodes of a scope on which all the keys are free together, whoever is exempt aside."""
    nodes = scope.nodes
    for key in keys:
        blocked = world.occupancy.conflicting(key)
        if not blocked:
            continue
        blocked &= nodes
        if exempt:
            blocked = _unless_exempt(key, blocked, exempt, world, lambda _: True)
        nodes ^= blocked  # all of which are among them
    return nodes


def open_nodes(seeker: Seeker, world: World, steps: Steps, *, waits: bool) -> int:
    """The nodes of a seeker where nobody stays who is in its way. Plans can be moved.

    waits: holders that terminate, or may be preempted, do not stay.
    """
    nodes = seeker.nodes
    for key in seeker.keys:
        if not nodes:
            break
        if waits and seeker.rank is not None:
            steps.spend(world.occupancy.priorities / PRIORITIES_OF_A_STEP)
        stays = world.occupancy.staying(key, seeker.rank) if waits else world.occupancy.settled(key)
        nodes &= ~_unless_exempt(key, stays & nodes, seeker.exempt, world, lambda holder: _stays(holder, seeker, waits))
    return nodes


def unplanned(seeker: Seeker, nodes: int, world: World) -> int:
    """Those of the nodes where no plan is in the seeker's way."""
    for key in seeker.keys:
        planned = world.occupancy.planned(key) & nodes
        nodes &= ~_unless_exempt(key, planned, seeker.exempt, world, lambda holder: not holder.is_settled)
    return nodes


def open_for_lease(keys: Iterable[PortKey], nodes: int, world: World) -> int:
    """Those of the nodes where nobody has the keys, and where no unsettled claim could land with one of them."""
    for key in keys:
        nodes &= ~(world.occupancy.settled(key) | world.occupancy.landable(key))
    return nodes


def _stays(holder: Claim, seeker: Seeker, waits: bool) -> bool:  # noqa: FBT001 - the mode of the search
    return holder.is_settled and not (waits and gives_way(holder, seeker.rank))


def _unless_exempt(
    key: PortKey, nodes: int, exempt: frozenset[ClaimId], world: World, counts: Callable[[Claim], bool]
) -> int:
    """Those of the nodes where somebody who counts is in the key's way and is not exempt."""
    if not nodes or not exempt:
        return nodes
    for name in {world.claims[claim_id].node for claim_id in exempt if claim_id in world.claims}:
        only = world.occupancy.only(name) if name is not None else 0
        if only & nodes and name is not None:
            holders = world.occupancy.holders(name, key)
            if not any(counts(holder) for holder in holders if holder.id not in exempt):
                nodes &= ~only
    return nodes


# -- the search


def find_spot(seeker: Seeker, scope: Scope, world: World, steps: Steps) -> Spot | None:
    """A node of the scope that is free for the seeker, moving plans if need be; None where there is none."""
    nodes = free_nodes(seeker.keys, scope, world, seeker.exempt) & seeker.nodes
    if nodes:
        return Spot(world.occupancy.pick(nodes))
    return find_moves(seeker, world, steps)


def find_moves(seeker: Seeker, world: World, steps: Steps) -> Spot | None:
    """The same where it is known that no node is free for the seeker as plans stand."""
    return _Search(world, steps, waits=False, kin=seeker.exempt).find(seeker)


def find_wait(seeker: Seeker, world: World, steps: Steps) -> Spot | None:
    """A node where all who are in the way will go: by themselves, moving plans if need be, or preempted."""
    return _Search(world, steps, waits=True, kin=seeker.exempt).find(seeker)


def somebody_goes(seeker: Seeker, world: World) -> bool:
    """Whether there is a holder at all that a search which waits would overlook: else it finds nothing new.

    Whom a plan may preempt counts too: it could wait there to make room.
    """
    return world.occupancy.some_leave(highest_rank(seeker, world))


def highest_rank(seeker: Seeker, world: World) -> int | None:
    """The highest rank of the seeker and of all plans; None where nobody preempts."""
    return max((rank for rank in (seeker.rank, world.occupancy.highest_rank) if rank is not None), default=None)


_Name = tuple[tuple[PortKey, ...], Scope, int | None]
"""Ports, candidates and rank."""


@dataclass(slots=True, eq=False)
class _Cohort:
    """Plans with the same ports and candidates, and the nodes where they stand."""

    seeker: Seeker
    scope: Scope
    nodes: int = 0
    twice: int = 0  # where two of them stand: a Pod and its successor
    has_twins: bool = False  # whether one of them shares its name with another claim

    @property
    def name(self) -> _Name:
        """What its plans have in common."""
        return self.seeker.keys, self.scope, self.seeker.rank


@dataclass(slots=True)
class _Link:
    """One step of a chain: who seeks, for whose sake, and where it stands in that one's way."""

    seeker: Seeker
    cohort: _Cohort | None = None
    parent: _Link | None = None
    nodes: int = 0


@dataclass(slots=True)
class _Search:
    """One search. `waits`: whether holders that will go are in nobody's way. `kin`: with whom the ask shares a node."""

    world: World
    steps: Steps
    waits: bool
    kin: frozenset[ClaimId]
    cohorts: dict[Slot, dict[_Cohort, None]] = field(default_factory=dict)  # of plans that were looked at
    cohorts_by_name: dict[_Name, _Cohort] = field(default_factory=dict)  # one, whichever of its slots it has
    looked: dict[Slot, int] = field(default_factory=dict)  # at which nodes, of each slot
    counted: set[ClaimId] = field(default_factory=set)  # the plans that are in `nodes` of their cohort
    scopes: dict[int, Scope] = field(default_factory=dict)  # by the identity of constraints that claims have
    shareable: set[Slot] | None = None
    standing: dict[Slot, dict[int, list[_Cohort]]] = field(default_factory=dict)  # of those, by position

    def find(self, root: Seeker) -> Spot | None:
        nodes = open_nodes(root, self.world, self.steps, waits=self.waits)
        if not nodes or not self.steps.spend():
            return None
        free = unplanned(root, nodes, self.world)
        if free:
            return Spot(self.world.occupancy.pick(free))
        if not self._may_have_room(root):
            return None
        spot, is_proof = self._chain(root)
        if spot is not None or is_proof or self.steps.are_spent:
            return spot
        if any(self._chain(root, only=key)[1] for key in root.keys):
            return None
        return _Trial(self).find(root)

    def _may_have_room(self, root: Seeker) -> bool:
        """Whether each key is free on any node that a chain of moves could reach: a look at few sets before many nodes.

        It says nothing where two could share a node: claims of one name, or on two addresses.
        """
        occupancy, shareable = self.world.occupancy, self._shareable()
        for key in root.keys:
            if key.slot in shareable or self._is_of_kin(key):
                continue
            reach = occupancy.reach(key, root.nodes)
            self.steps.spend(occupancy.priorities / PRIORITIES_OF_A_STEP if self.waits else 0)
            stays = occupancy.staying(key, highest_rank(root, self.world)) if self.waits else occupancy.settled(key)
            taken = occupancy.planned(key) | stays
            if not reach & ~_unless_exempt(key, taken & reach, root.exempt, self.world, lambda _: True):
                return False
        return True

    def _is_of_kin(self, key: PortKey) -> bool:
        kin = (self.world.claims[claim_id] for claim_id in self.kin if claim_id in self.world.claims)
        return any(key.slot == other.slot for claim in kin if not claim.is_settled for other in claim.keys)

    def _chain(self, root: Seeker, only: PortKey | None = None) -> tuple[Spot | None, bool]:
        """Breadth first over plans that stand alone in the way. The second value: whether there is provably no way.

        `only`: all ports but those that conflict with this key count as free of plans. A way that is missing even then
        is missing with all of them; one that is found says nothing.
        """
        links = deque([_Link(root)])
        visited: set[int] = set()
        addresses = _addresses(root, only)
        is_proof = only is not None or len(root.keys) == 1
        while links:
            link = links.popleft()
            if not self.steps.spend():
                return None, False
            nodes = open_nodes(link.seeker, self.world, self.steps, waits=self.waits)
            in_the_way = list(self._in_the_way(link, nodes, only))
            once = twice = 0
            for cohort, here in in_the_way:
                twice |= once & here | cohort.twice & here
                once |= here
            free = nodes & ~once
            if free:
                return (None, False) if only else (self._unwound(link, free), False)
            is_proof = is_proof and not twice
            for cohort, here in in_the_way:
                is_proof = is_proof and not cohort.has_twins and (only is not None or len(cohort.seeker.keys) == 1)
                alone = here & ~twice
                if alone and id(cohort) not in visited:
                    visited.add(id(cohort))
                    addresses |= _addresses(cohort.seeker, only)
                    if not cohort.scope.is_single():  # else it stands where it must
                        links.append(_Link(cohort.seeker, cohort, link, alone))
        # Two on different addresses could share a node, so that counting nodes proves nothing.
        return None, is_proof and len(addresses) <= 1

    def _in_the_way(self, link: _Link, nodes: int, only: PortKey | None) -> Iterator[tuple[_Cohort, int]]:
        """The cohorts with plans in a seeker's way, and on which of the nodes."""
        slots = {only.slot} if only else {key.slot for key in link.seeker.keys}
        seen: set[int] = set()
        for slot in slots:
            for cohort in self._near(slot, nodes):
                if id(cohort) in seen:
                    continue
                seen.add(id(cohort))
                clash = _clashes(link.seeker.keys, cohort.seeker.keys, slots)
                here = cohort.nodes & nodes if clash else 0
                here = self._less_exempt(here, cohort, link.seeker)
                if here:
                    yield cohort, here

    def _less_exempt(self, nodes: int, cohort: _Cohort, seeker: Seeker) -> int:
        for claim_id in seeker.exempt if nodes else ():
            claim = self.world.claims.get(claim_id)
            if claim is None or claim.node is None or claim.is_settled:
                continue
            only = self.world.occupancy.only(claim.node)
            if only & nodes and not any(
                self._is_of(holder, cohort) for holder in blockers(seeker.keys, claim.node, self.world, seeker.exempt)
            ):
                nodes &= ~only
        return nodes

    def _near(self, slot: Slot, nodes: int) -> Iterable[_Cohort]:
        """The cohorts that have a slot, those among them with a plan on one of the nodes. Some more than once."""
        self._look(slot, nodes)
        cohorts, size = self.cohorts[slot], nodes.bit_count()
        self.steps.spend(1 + min(size, len(cohorts)) / LOOKS_OF_A_STEP)
        if size >= len(cohorts):
            return cohorts
        standing = self.standing[slot]
        return [cohort for position in bits(nodes) for cohort in standing.get(position, ())]

    def _look(self, slot: Slot, nodes: int) -> None:
        """Puts the plans that have a slot on some nodes into cohorts. No node is looked at twice for a slot."""
        occupancy, known = self.world.occupancy, self.looked.get(slot, 0)
        new = occupancy.planned_at(slot) & nodes & ~known
        self.looked[slot] = known | nodes
        cohorts, standing = self.cohorts.setdefault(slot, {}), self.standing.setdefault(slot, {})
        may_share = new and slot in self._shareable()
        alone = (PortKey(WILDCARD, protocol_of(slot), number_of(slot)),)
        for position in bits(new):
            self.steps.spend(PLAN_STEPS)
            for claim in occupancy.holders_of(position, slot):
                if claim.is_settled:
                    continue
                cohort = self._cohort_of(claim, alone)
                cohorts[cohort] = None
                standing.setdefault(position, []).append(cohort)
                if claim.id in self.counted:
                    continue  # with another of its ports
                self.counted.add(claim.id)
                bit = 1 << position
                cohort.twice |= cohort.nodes & bit
                cohort.nodes |= bit
            if may_share:
                self._note_twins(position, slot)

    def _note_twins(self, position: int, slot: Slot) -> None:
        for claim in self.world.occupancy.holders_of(position, slot):
            if not claim.is_settled and len(self.world.named(claim.owner)) > 1:
                self.cohorts_by_name[self._name_of(claim)].has_twins = True

    def _cohort_of(self, claim: Claim, alone: tuple[PortKey, ...]) -> _Cohort:
        """The cohort of a plan that has a slot. `alone`: the slot's only key, as nearly all have it."""
        is_plain = len(claim.ports) == 1 and not claim.ports[0].host_ip
        name = self._name_of(claim, alone if is_plain else None)
        cohort = self.cohorts_by_name.get(name)
        if cohort is None:
            keys, scope, rank = name
            cohort = self.cohorts_by_name[name] = _Cohort(Seeker(keys=keys, nodes=scope.nodes, rank=rank), scope)
        cohort.has_twins |= claim.id in self.kin
        return cohort

    def _name_of(self, claim: Claim, keys: tuple[PortKey, ...] | None = None) -> _Name:
        """What the plans of a cohort have in common."""
        scope = self.scopes.get(id(claim.constraints))
        if scope is None:
            scope = self.scopes[id(claim.constraints)] = self.world.occupancy.scope(claim.constraints)
        keys = keys or tuple([port.key for port in claim.ports])
        return keys, scope, claim.priority if claim.may_preempt else None

    def _shareable(self) -> set[Slot]:
        if self.shareable is None:
            self.shareable = self.world.shareable()
        return self.shareable

    def _is_of(self, claim: Claim, cohort: _Cohort) -> bool:
        return not claim.is_settled and self._name_of(claim) == cohort.name

    def _unwound(self, link: _Link, free: int) -> Spot | None:
        """The moves of a chain, from its end to the ask; None where it comes to one node twice."""
        occupancy = self.world.occupancy
        node, used = occupancy.pick(free), [occupancy.pick(free)]
        moves: list[Move] = []
        while link.cohort is not None and link.parent is not None:
            there = occupancy.name_at(lowest(link.nodes))
            in_the_way = blockers(link.parent.seeker.keys, there, self.world, link.parent.seeker.exempt)
            claim = next(claim for claim in in_the_way if self._is_of(claim, link.cohort))
            moves.append((claim.id, node))
            node, link = there, link.parent
            used.append(node)
        return Spot(node, tuple(moves)) if len(set(used)) == len(used) else None


def _addresses(seeker: Seeker, only: PortKey | None) -> set[str]:
    """The addresses that ports are on, where they are on one."""
    return {key.ip for key in seeker.keys if key.ip != WILDCARD and (only is None or key.slot == only.slot)}


def _clashes(keys: Iterable[PortKey], others: Sequence[PortKey], slots: set[Slot]) -> bool:
    return any(key.conflicts_with(other) for key in keys if key.slot in slots for other in others)


@dataclass(slots=True)
class _Trial:
    """Tries out every way to place a seeker and whoever must move for it: exact, where the steps suffice.

    Each is put on a node in turn, first whoever has the fewest nodes left. The plans in its way there are displaced,
    and have to be placed in turn. Who has been placed is not displaced again. Where somebody has no node left, the last
    one that was placed is put on its next node.
    """

    search: _Search
    placed: dict[int, list[Seeker]] = field(default_factory=dict)  # by position
    lifted: set[ClaimId] = field(default_factory=set)  # who does not stand any more where the books say
    moves: list[tuple[Claim, int]] = field(default_factory=list)
    opened: dict[str, int] = field(default_factory=dict)  # nodes by claim ("": the ask), as the books are

    def find(self, root: Seeker) -> Spot | None:
        if not self._settle([root]):
            return None
        (position,) = (at for at, seekers in self.placed.items() for seeker in seekers if seeker is root)
        occupancy = self.search.world.occupancy
        moves = ((claim.id, occupancy.name_at(at)) for claim, at in self.moves)
        return Spot(occupancy.name_at(position), tuple(moves))

    def _settle(self, pending: list[Seeker]) -> bool:
        """Whether all of them can be placed; if so they are."""
        if not pending:
            return True
        if len(self.lifted) > DEEPEST:
            self.search.steps.cut()
            return False
        options = [(self._options(seeker), seeker) for seeker in pending]
        nodes, seeker = min(options, key=lambda option: option[0].bit_count())
        rest = [other for other in pending if other is not seeker]
        ways = [(self._in_the_way(seeker, position), position) for position in self._looked_at(nodes, seeker, rest)]
        for displaced, position in sorted(ways, key=lambda way: len(way[0])):
            if not self.search.steps.spend():
                return False
            self._put(seeker, position, displaced)
            if self._settle([*rest, *map(self._seeker_of, displaced)]):
                return True
            self._take_back(seeker, position, displaced)
        return False

    def _looked_at(self, nodes: int, seeker: Seeker, rest: Sequence[Seeker]) -> Iterable[int]:
        """The nodes to try. For the last one any that is free will do."""
        world = self.search.world
        free = unplanned(seeker, nodes, world) if not rest else 0
        if free:
            return [lowest(free)]
        self.search.steps.spend(nodes.bit_count() / 4)
        return list(bits(nodes)) if not self.search.steps.are_spent else []

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
            nodes = self.opened[name] = open_nodes(
                seeker, self.search.world, self.search.steps, waits=self.search.waits
            )
        self.search.steps.spend(0.3 * len(self.placed))
        for position, others in self.placed.items():
            if nodes >> position & 1 and any(_conflict(seeker, other) for other in others):
                nodes &= ~(1 << position)
        return nodes

    def _in_the_way(self, seeker: Seeker, position: int) -> list[Claim]:
        """The plans that would have to leave the node."""
        occupancy = self.search.world.occupancy
        found = {holder.id: holder for key in seeker.keys for holder in occupancy.holders_at(position, key)}
        return [
            holder
            for holder in found.values()
            if not holder.is_settled and holder.id not in seeker.exempt and holder.id not in self.lifted
        ]

    def _seeker_of(self, claim: Claim) -> Seeker:
        world = self.search.world
        return Seeker(
            keys=tuple(claim.keys),
            nodes=world.occupancy.scope(claim.constraints).nodes,
            exempt=world.named(claim.owner) | {claim.id},
            rank=rank_of(claim.priority, may_preempt=claim.may_preempt),
            claim=claim,
        )


def _conflict(one: Seeker, other: Seeker) -> bool:
    """Whether two that have been placed could not stand on one node."""
    if (other.claim and other.claim.id in one.exempt) or (one.claim and one.claim.id in other.exempt):
        return False
    return any(key.conflicts_with(theirs) for key in one.keys for theirs in other.keys)
