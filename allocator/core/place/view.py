"""What is looked for (`Demand`, `Seeker`), against what (`PlacementView`), and where it is free: numbers, then nodes.

Sets of nodes are integers: bit n is the node at position n of the `NodeTable`. Sets of numbers are integers too: bit 0
is the lowest number of the range.

Rules:

* A holder conflicts with a port whose number and protocol it has on the same address, or where either has no address.
* Who is *exempt* conflicts with nobody: the predecessors of a Pod, and the claim that is itself being placed.
* A *plan* is an unsettled claim on a node: it may be moved. A settled claim stays, unless it will go (`gives_way`).
* A number is free *everywhere* where nobody stands with it on any candidate, and no unsettled claim that has it could
  land there: whatever node the scheduler picks is then fine.
* What a Service holds no ask gets, on any node. It is no reason to move a plan: it would be in the way there as well.
* A lease stands at once, so it avoids every node where an unsettled claim with its port could land.

Nothing here changes anything, but for counts that are kept. Longer than 350 lines because every decision asks for
numbers and for nodes in turn, of one demand and one view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from allocator.core.asks import Ask, PortAsk, PortGroup
from allocator.core.blocks import spread
from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId, Owner
from allocator.core.foreign import ServicePorts
from allocator.core.index.candidate_sets import CandidateSet, CandidateSets, HeldNumbers
from allocator.core.index.cooling import CoolDown
from allocator.core.index.ports import NodeTable, PortIndex
from allocator.core.place.packing import allows_blocks, free_runs, loads_of_runs, wants_runs
from allocator.core.ports import WILDCARD, Planes, PortKey, Protocol, Slot, larger, lowest, normalise_ip, set_of, span
from allocator.core.reserved import ReservedNumbers

MOST_STEPS = 2_000
"""Steps of one ask. A step is a look at one node or at one set of nodes, 10 to 20 us at 5,000 nodes."""

KEYS_OF_A_STEP = 8
"""Ports of a plan, or of an ask, of which it is looked in one step where somebody stays who has them."""

PRIORITIES_OF_A_STEP = 100
"""Priorities of those who stay that are looked at in one step, for each port."""

FIRST_LOOK = 1024
"""How many numbers are looked at first: the set of a wide range takes longer than all the rest of a decision."""

BLOCK_STEPS, NODES_OF_A_STEP = 1.0, 250
"""Steps to count a block of numbers for the first time: up to 0.2 ms at 5,000 nodes where ports have one number."""

MOST_BLOCKS, BLOCKS_OF_A_STEP = 2_000, 33
"""Ports with several numbers that are looked at in one step, one that many nodes have once; as many as may matter."""

NARROW_STEPS = 6.0
"""Steps to go through the nodes of a narrow candidate set, besides."""

Numbers = tuple[int, ...]
"""One for each group."""

Kind = tuple[tuple[Protocol, str, int, int], ...]
"""What makes groups alike: protocols and addresses of their members; how many numbers they have, and the alignment."""

Pick = Callable[[int], int]
"""Chooses one of a set of numbers."""

Move = tuple[ClaimId, NodeName]
"""A plan and the node where it is to stand."""


@dataclass(frozen=True, slots=True)
class PlacementView:
    """What a decision looks at: who holds what, and the operator's rules.

    nodes, ports, sets, numbers: what is held on which node, and in which candidate set. claims: all of them by id.
    named: the claims of Pods with the namespace and name of an owner.
    shareable: the slots that two plans could have on one node, because they have one name or two addresses.
    reserved: the numbers that Dynamic and Index never give.
    discloses_holders: whether messages name holders of other namespaces.
    services: the numbers that Services hold on every node.
    """

    nodes: NodeTable
    ports: PortIndex
    sets: CandidateSets
    numbers: HeldNumbers
    claims: Mapping[ClaimId, Claim]
    named: Callable[[Owner], frozenset[ClaimId]]
    shareable: Callable[[], frozenset[Slot]]
    reserved: ReservedNumbers
    discloses_holders: bool = False
    services: ServicePorts = field(default_factory=ServicePorts)


class NodeChoice(msgspec.Struct, frozen=True, gc=False):
    """A node to stand on, free once the moves are made."""

    node: NodeName
    moves: tuple[Move, ...] = ()


class Steps(msgspec.Struct, gc=False):
    """How much one ask may look at. Once none are left, not finding proves nothing."""

    left: float = MOST_STEPS

    def spend(self, steps: float = 1.0) -> bool:
        """Takes steps off, and says whether any are left."""
        self.left -= steps
        return self.left > 0

    def cut(self) -> None:
        """Spends all that is left: something was left out that would have to be looked at."""
        self.left = 0.0

    @property
    def are_spent(self) -> bool:
        """Whether the search was cut off."""
        return self.left <= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeker:
    """Who needs a node: the ask itself, or a plan that is to be moved.

    keys: its ports. nodes: the set of nodes where it may stand. exempt: claims that do not conflict with it.
    rank: the priority of a Pod that may preempt; None for others. claim: the plan; None for the ask.
    """

    keys: tuple[PortKey, ...]
    nodes: int
    exempt: frozenset[ClaimId] = frozenset()
    rank: int | None = None
    claim: Claim | None = None


@dataclass(eq=False)
class Demand:
    """An ask with its port groups, the candidates where it may land, and the view that decides.

    exempt: claims that do not conflict with it. protocols: of the groups that want a number. is_open: whether any does.
    rank: whom it may preempt. withheld: the set of the numbers that are reserved or avoided by the Pod itself.
    has_leases, has_services, has_sockets: whether there are leases, Services with node ports, and agents that report.
    cooling: what cools for it; None where nothing does. pick: chooses one of the numbers that are free everywhere, from
    their set, less the lowest of the range; None: the lowest.
    """

    ask: Ask
    groups: Sequence[PortGroup]
    candidates: CandidateSet
    view: PlacementView
    exempt: frozenset[ClaimId] = frozenset()
    cooling: CoolDown | None = None
    pick: Pick | None = None
    protocols: frozenset[Protocol] = field(init=False)
    is_open: bool = field(init=False)
    rank: int | None = field(init=False)
    withheld: int = field(init=False)
    has_leases: bool = field(init=False)
    has_services: bool = field(init=False)
    has_sockets: bool = field(init=False)

    def __post_init__(self) -> None:
        ask, ports = self.ask, self.ask.ports
        self.protocols = frozenset(
            [ports[member].protocol for group in self.groups if not group.number for member in group.members]
        )
        self.is_open = bool(self.protocols)
        self.rank = rank_of(ask.priority, may_preempt=ask.may_preempt)
        self.withheld = self.view.reserved.numbers | avoided(ask) if ask.avoid else self.view.reserved.numbers
        self.has_leases = self.view.ports.has_leases
        self.has_sockets = bool(self.view.ports.sockets.entries)
        self.has_services = bool(self.view.services.holders)

    def besides(self, numbers: int) -> Demand:
        """The same demand, were some numbers withheld too: those that are given where nothing else is free."""
        other = self.among(self.candidates)
        other.withheld |= numbers
        return other

    def among(self, candidates: CandidateSet) -> Demand:
        """The same demand on other candidates."""
        return Demand(self.ask, self.groups, candidates, self.view, self.exempt, self.cooling, self.pick)

    @cached_property
    def cooler(self) -> Demand:
        """The same demand, were all numbers withheld that cool on a candidate."""
        ask = self.ask
        cooling = self.cooling.numbers(self.candidates, self.protocols, ask.low, ask.high) if self.cooling else 0
        return self.besides(cooling)

    def unless_cooling(self, nodes: int, keys: Iterable[PortKey]) -> int:
        """Those of some nodes where none of the keys cools."""
        return nodes & ~self.cooling.nodes(keys) if self.cooling else nodes

    @cached_property
    def kinds(self) -> list[Kind]:
        """The kind of each group that wants a number, in port order."""
        return [self._kind(group) for group in self.groups if not group.number]

    def _kind(self, group: PortGroup) -> Kind:
        ports = [self.ask.ports[member] for member in group.members]
        kind = {(p.protocol, normalise_ip(p.host_ip), group.count, group.alignment) for p in ports}
        return tuple(sorted(kind, key=lambda p: (p[0].value, p[1])) if len(kind) > 1 else kind)

    @cached_property
    def fixed(self) -> tuple[tuple[PortAsk, PortKey], ...]:
        """The ports whose numbers are not ours to choose, as they are asked for and as they would be held."""
        ports = self.ask.ports
        return tuple(
            [
                (ports[member], key_of(ports[member], group.number))
                for group in self.groups
                if group.number
                for member in group.members
            ]
        )

    @cached_property
    def usable(self) -> int:
        """The numbers of the range that are neither withheld nor those of the ask's own fixed ports."""
        numbers = self.within_range()
        for group in self.groups:
            if group.number and group.number <= self.ask.high:
                numbers &= ~span(max(0, group.number - self.ask.low), group.number + group.count - 1 - self.ask.low)
        return numbers

    def usable_by(self, kind: Kind) -> int:
        """Those of the usable numbers that no Service holds under any protocol of a kind."""
        numbers = self.usable
        for protocol in protocols_of(kind) if self.has_services else ():
            numbers &= ~self.view.services.within(protocol, self.ask.low, self.ask.high)
        return numbers

    @cached_property
    def unleased(self) -> dict[Protocol, int]:
        """For each protocol that wants a number: those that are not leased, on every address, on any candidate."""
        ports, ask = self.view.ports, self.ask
        return {
            protocol: ~ports.leased_numbers(self.candidates, protocol, ask.low, ask.high) for protocol in self.protocols
        }

    def within_range(self, low: int = 0, high: int = 0) -> int:
        """The numbers of the range, or of a part of it, that are not withheld, less the lowest of them."""
        low, high = low or self.ask.low, high or self.ask.high
        return (2 << high - low) - 1 & ~(self.withheld >> low)

    def numbers(self, chosen: Iterable[int]) -> Numbers:
        """A number for each group, from those for the open ones in port order."""
        rest = iter(chosen)
        return tuple([group.number or next(rest) for group in self.groups])

    def keys(self, numbers: Numbers) -> tuple[PortKey, ...]:
        """The ports with a number for each group, in the order of groups."""
        ports = self.ask.ports
        return tuple(
            [
                key_of(ports[member], number)
                for group, number in zip(self.groups, numbers, strict=True)
                for member in group.members
            ]
        )

    def allows(self, numbers: Numbers) -> bool:
        """Whether a number for each group, from elsewhere, is such as the ask could have got."""
        groups, ask = self.groups, self.ask
        if len(numbers) != len(groups) or len(set(numbers)) != len(numbers) or self.is_of_service(numbers):
            return False
        if wants_runs(self):
            return allows_blocks(self, numbers)
        return all(
            number == group.number
            if group.number
            else ask.low <= number <= ask.high and self.usable >> (number - ask.low) & 1
            for number, group in zip(numbers, groups, strict=True)
        )

    def seeker(self, keys: tuple[PortKey, ...], nodes: int | None = None) -> Seeker:
        """Who looks for a node for these ports, on some of the candidates or on all."""
        within = self.candidates.nodes if nodes is None else nodes
        return Seeker(keys=keys, nodes=within, exempt=self.exempt, rank=self.rank)

    def leased_nodes(self, keys: Iterable[PortKey]) -> int:
        """The candidates on which one of the ports is leased."""
        leased, nodes = self.view.ports.leased, 0
        for key in keys:
            nodes |= leased(key)
        return nodes & self.candidates.nodes

    def foreign_nodes(self, keys: Iterable[PortKey]) -> int:
        """The candidates on which a process has one of the ports."""
        foreign, nodes = self.view.ports.foreign, 0
        for key in keys:
            nodes |= foreign(key)
        return nodes & self.candidates.nodes

    def is_leased(self, keys: Iterable[PortKey]) -> bool:
        """Whether a port is leased on a candidate: the scheduler does not know, and might choose that node."""
        return self.has_leases and self.view.ports.is_leased(keys, self.candidates.nodes)

    def is_fixed_leased(self) -> bool:
        """Whether a port whose number is not ours to choose is leased on a candidate."""
        return bool(self.fixed) and self.is_leased([key for _, key in self.fixed])

    def is_of_service(self, numbers: Numbers) -> bool:
        """Whether a Service holds any of the ports with a number for each group."""
        return self.has_services and bool(self.view.services.holding(self.keys(numbers)))

    def loads_and_stuck(self, kind: Kind) -> tuple[Planes, int]:
        """For each number of the range how many candidates are spoken for, and the numbers that all have settled.

        Of several protocols the busiest counts; of a block its first number has what the whole of it has.
        """
        loads: Planes = []
        stuck = 0
        for protocol in protocols_of(kind):
            found = self.view.numbers.loads_and_stuck(self.candidates, protocol, self.ask.low, self.ask.high)
            loads = larger(loads, found[0]) if loads else found[0]
            stuck |= found[1]
        _, _, length, alignment = kind[0]
        if length == 1:
            return loads, stuck
        return loads_of_runs(loads, length, alignment, self.ask.low, self.ask.high), spread(stuck, length)


def protocols_of(kind: Kind) -> set[Protocol]:
    """The protocols of a kind of groups."""
    return {protocol for protocol, *_ in kind}


def key_at(kind: Kind, number: int) -> tuple[PortKey, ...]:
    """The ports of a group of a kind, on a number or on the block that begins with it."""
    return tuple([PortKey(ip, protocol, number, length) for protocol, ip, length, _ in kind])


def is_anywhere(kind: Kind) -> bool:
    """Whether its ports are on no address in particular, so that any holder of a number conflicts with them."""
    return all(ip == WILDCARD for _, ip, *_ in kind)


def avoided(ask: Ask) -> int:
    """The set of the numbers that the search does not give to this Pod, since its probes or hooks name them."""
    return set_of(ask.avoid) if ask.avoid and ask.policy.is_searched else 0


def key_of(port: PortAsk, number: int) -> PortKey:
    """A port that is asked for, on a number."""
    return PortKey(normalise_ip(port.host_ip) if port.host_ip else WILDCARD, port.protocol, number, port.count)


def rank_of(priority: int, *, may_preempt: bool) -> int | None:
    """The rank of a Pod: whom it may preempt."""
    return priority if may_preempt else None


# -- which numbers are free everywhere


def liked_numbers(demand: Demand, steps: Steps) -> Numbers:
    """The `free_numbers` that the demand's `pick` chooses; the lowest, where it has none or finds nothing."""
    if demand.pick is not None:
        # An order that has to look at the whole range, which may be too much to count: then the lowest will do.
        width = demand.ask.high - demand.ask.low + 1
        found = free_numbers(demand, Steps(), demand.pick, width)
        if found:
            return found
    return free_numbers(demand, steps)


def free_numbers(demand: Demand, steps: Steps, pick: Pick = lowest, first_look: int = FIRST_LOOK) -> Numbers:
    """Numbers that are free on every candidate, all different; empty when the range has not enough.

    Args:
        demand: what is asked.
        steps: what counting may cost. Where they do not suffice nothing is found.
        pick: chooses one of a set of numbers, less the lowest of the range.
        first_look: how many numbers from the lowest are looked at first; then twice as many, and so on.

    """
    outgoing = _outgoing(demand) if demand.view.ports.sockets.outgoing else 0
    found = _free_numbers(demand, steps, pick, first_look, outgoing) if outgoing else ()
    return found or _free_numbers(demand, steps, pick, first_look)


def _outgoing(demand: Demand) -> int:
    """The numbers of the range that outgoing connections may take on a candidate, as far as nodes say."""
    sockets, ask = demand.view.ports.sockets, demand.ask
    return sockets.ephemeral(demand.candidates.nodes) >> ask.low & (2 << ask.high - ask.low) - 1


def _free_numbers(demand: Demand, steps: Steps, pick: Pick, first_look: int, without: int = 0) -> Numbers:
    """The same, `without` some numbers, less the lowest of the range."""
    low, high = demand.ask.low, demand.ask.high
    while True:
        last = min(low + first_look - 1, high)
        taken = _taken(demand, low, last, steps)
        if taken is None:
            return ()
        found = _picked(demand, low, last, taken, pick, without)
        if found or last == high:
            return found
        # Runs, other picks and `without` count from the lowest of the range.
        if pick is lowest and not without and not any(group.is_run for group in demand.groups):
            low = _after(demand, low, last, taken)
        first_look *= 2


def _after(demand: Demand, low: int, last: int, taken: Mapping[Protocol, int]) -> int:
    """Where to look next, after [low, last] with what is `taken` of it: no number before is free for any group."""
    free = 0  # for one group at least
    for numbers in taken.values():
        free |= ~numbers
    if free := free & demand.within_range(low, last):
        return low + lowest(free)
    held, candidates, low, high = demand.view.numbers, demand.candidates, last + 1, demand.ask.high
    filled = [held.filled(candidates, protocol, low, high) for protocol in demand.protocols]
    return min(low + min(filled, default=0), high)


def _taken(demand: Demand, low: int, last: int, steps: Steps) -> dict[Protocol, int] | None:
    """For each protocol that wants a number: those in [low, last] that are not free on every candidate, less `low`.

    None: the steps do not suffice to count them.
    """
    held, candidates = demand.view.numbers, demand.candidates
    taken: dict[Protocol, int] = {}
    for protocol in demand.protocols:
        numbers = held.counted(candidates, protocol, low, last)
        if numbers is None:
            if not are_counted(demand, candidates, low, last, steps):
                return None
            numbers = held.taken(candidates, protocol, low, last)
        if demand.has_services:
            numbers |= demand.view.services.within(protocol, low, last)
        taken[protocol] = numbers
    return taken


def _picked(demand: Demand, low: int, last: int, taken: Mapping[Protocol, int], pick: Pick, without: int) -> Numbers:
    """The same in [low, last], of what is not `taken`."""
    groups, ports = demand.groups, demand.ask.ports
    free, numbers = demand.within_range(low, last), []
    if without:
        free &= ~without
    for group in groups:
        if group.is_run:
            return free_runs(demand, last, taken, pick, without)
        number = group.number
        numbers.append(number)
        if low <= number <= last:
            free &= ~(1 << (number - low))
    for at, group in enumerate(groups):
        if group.number:
            continue
        here = free
        for member in group.members:
            here &= ~taken[ports[member].protocol]
        if not here:
            return ()
        found = pick(here)
        numbers[at] = low + found
        free &= ~(1 << found)  # each group gets a number of its own
    return tuple(numbers)


def are_counted(demand: Demand, candidates: CandidateSet, low: int, high: int, steps: Steps) -> bool:
    """Counts what has not been counted of [low, high] on some candidates; False where the steps do not suffice.

    What was counted is kept, so that the next ask goes on where this one stopped.
    """
    held, nodes = demand.view.numbers, len(demand.view.nodes.entries)
    for protocol in demand.protocols:
        missing = held.missing(candidates, protocol, low, high)
        if not missing:
            continue
        cost = BLOCK_STEPS + min(held.count_blocks(), MOST_BLOCKS) / BLOCKS_OF_A_STEP
        if held.goes_through_nodes(candidates, len(missing)):
            steps.spend(NARROW_STEPS)
        else:
            cost += nodes / NODES_OF_A_STEP
        payable = int(steps.left / cost)
        steps.spend(cost * len(missing))
        held.count(candidates, protocol, missing[:payable])
        if payable < len(missing):
            return False
    return True


# -- who is in the way, and where nobody is


def gives_way(holder: Claim, rank: int | None) -> bool:
    """Whether a holder will go before a Pod of some rank: it terminates, or the scheduler may preempt it."""
    if not holder.is_settled or not holder.owner.is_pod:
        return False
    return holder.is_terminating or (rank is not None and holder.priority < rank)


def is_foreign(keys: Iterable[PortKey], node: NodeName, view: PlacementView) -> bool:
    """Whether a process that nobody declares has one of the keys on a node."""
    ports = view.ports
    if not ports.sockets.entries:
        return False
    only = view.nodes.only(node)
    return any(ports.foreign(key) & only for key in keys)


def free_nodes(
    keys: Iterable[PortKey], candidates: CandidateSet, view: PlacementView, exempt: frozenset[ClaimId]
) -> int:
    """The candidates on which all the keys are free together, whoever is exempt aside."""
    nodes, ports = candidates.nodes, view.ports
    if not exempt:
        return ports.free(keys, nodes)
    for key in keys:
        nodes ^= unless_exempt(key, ports.conflicting(key) & nodes, exempt, view, lambda _: True)
    return nodes


def open_nodes(seeker: Seeker, view: PlacementView, steps: Steps, *, waits: bool) -> int:
    """The nodes of a seeker where nobody stays who is in its way. Plans can be moved.

    waits: whether holders that terminate, or may be preempted, do not stay.
    """
    nodes = seeker.nodes
    steps.spend((len(seeker.keys) - 1) / KEYS_OF_A_STEP)
    for key in seeker.keys:
        if not nodes:
            break
        if waits and seeker.rank is not None:
            steps.spend(view.ports.priorities / PRIORITIES_OF_A_STEP)
        stays = view.ports.staying(key, seeker.rank) if waits else view.ports.settled(key)
        nodes &= ~unless_exempt(key, stays & nodes, seeker.exempt, view, lambda holder: _stays(holder, seeker, waits))
    return nodes


def unplanned(seeker: Seeker, nodes: int, view: PlacementView) -> int:
    """Those of the nodes where no plan is in the seeker's way."""
    for key in seeker.keys:
        planned = view.ports.planned(key) & nodes
        nodes &= ~unless_exempt(key, planned, seeker.exempt, view, lambda holder: not holder.is_settled)
    return nodes


def open_for_lease(keys: Iterable[PortKey], nodes: int, view: PlacementView) -> int:
    """Those of the nodes where nobody has the keys, and where no unsettled claim could land with one of them."""
    for key in keys:
        nodes &= ~(view.ports.settled(key) | view.sets.landable(key))
    return nodes


def _stays(holder: Claim, seeker: Seeker, waits: bool) -> bool:  # noqa: FBT001 - the mode of the search
    return holder.is_settled and not (waits and gives_way(holder, seeker.rank))


def unless_exempt(
    key: PortKey, nodes: int, exempt: frozenset[ClaimId], view: PlacementView, counts: Callable[[Claim], bool]
) -> int:
    """Those of the nodes where somebody who counts is in the key's way and is not exempt.

    nodes: where somebody is in the way, exempt or not. counts: says of a holder whether it is one that matters.
    """
    if not nodes or not exempt:
        return nodes
    # Only where one of the exempt stands can all who are in the way be exempt. No process is.
    foreign = view.ports.foreign(key)
    for name in {view.claims[claim_id].node for claim_id in exempt if claim_id in view.claims}:
        only = view.nodes.only(name) if name is not None else 0
        if only & nodes & ~foreign and name is not None:
            holders = view.ports.holders(name, key)
            if not any(counts(view.claims[holder]) for holder in holders if holder not in exempt):
                nodes &= ~only
    return nodes
