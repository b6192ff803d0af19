"""The proof for open numbers: whether any of the range are free together on one node.

Rules:

* What is not looked at is told: where the steps are used up, or a count is missing, nothing is proven (`Steps`).
* A Pod has three stages, and each finds all that the one before finds, and more: numbers that are free now, those
  that are free once plans are moved, and those whose holders will go. A lease has one stage (`Stage`).
* For one number, numbers are tried on all candidates. For several, nodes are: those that have enough of them, counted
  for all nodes at once; then which group gets which number on that node, as a matching of kinds of groups to numbers.
  Runs are read from the nodes themselves before, one after the other: from all of them, or a few (`_one_by_one`).

Longer than 350 lines because all stages share what they have looked up, for one number, for several, and for runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import reduce
from heapq import nsmallest
from itertools import combinations, islice
from operator import and_, or_

from allocator.core.blocks import within
from allocator.core.index.candidate_sets import CandidateSet
from allocator.core.index.cooling import CoolDown, NumbersHeld
from allocator.core.index.nodes_by_block import MANY_BLOCKS
from allocator.core.place.assignment import by_likelihood, by_load, handed_out, matched
from allocator.core.place.packing import (
    Form,
    begins_of,
    begins_of_each,
    form_of,
    free_runs,
    grid,
    has_room,
    packed,
    wants_runs,
)
from allocator.core.place.view import (
    Demand,
    Kind,
    Numbers,
    Steps,
    are_counted,
    free_nodes,
    is_anywhere,
    key_at,
    open_for_lease,
    open_nodes,
    protocols_of,
    unplanned,
)
from allocator.core.ports import (
    LAST_SLOT,
    NumberSet,
    Planes,
    PortKey,
    Protocol,
    Slot,
    at_least,
    bits,
    lowest,
    number_of,
    protocol_of,
    set_of,
)

NUMBER_STEPS = 0.2
"""Steps to look up where one number is free."""

BESIDE_STEPS = 0.5
"""Steps more for each where many blocks are held."""

RUN_STEPS = 1.0
"""Steps to look up where a run is free, its numbers aside."""

LOOKS_OF_A_STEP = 100
"""Numbers of a run that are looked at in one step."""

SET_STEPS = 0.4
"""Steps to look at the numbers of one candidate set to which a plan could be moved."""

COUNTED_TOGETHER = 64
"""Numbers after which the nodes that have enough of them are tried."""

QUIET_NODES = 8
"""Nodes that are tried first for runs where there are too many to read each."""

NODE_STEPS, GROUP_STEPS = 1.5, 0.5
"""Steps to read from a node whether there are runs, and to give one to each group: up to 2 ms for 256 of them."""

BEGIN_STEPS, KIND_STEPS, CLEAR_STEPS = 1.0, 4.0, 0.2
"""Steps to see where runs of a form begin; to go through a wide set for one of many kinds; and to see whether a number
is free of plans on one node."""

MOST_KINDS = 3
"""Kinds of groups whose numbers are counted together; of more kinds each is counted by itself, and then tried."""


class Stage(Enum):
    """Who does not count as a holder when a number is said to be free on a node."""

    LEASE = "nothing, and where an unsettled claim could land nothing is free"
    FREE = "nothing"
    MOVING = "plans"
    WAITING = "plans, and holders that will go"


class JointSearch:
    """One stage of the search for one ask. Sets of numbers are less the lowest of the range."""

    def __init__(self, demand: Demand, stage: Stage, steps: Steps, cooling: CoolDown | None = None) -> None:
        """cooling: what counts as held although nobody has it, in a stage that moves nothing."""
        self._demand = demand
        self._cooling = cooling
        self._stage = stage
        self._steps = steps
        self._view = demand.view
        self._low = demand.ask.low
        self._moves_nothing = stage is Stage.FREE or stage is Stage.LEASE
        self._where: dict[Kind, dict[int, int]] = {kind: {} for kind in demand.kinds}
        self._beside = BESIDE_STEPS if self._view.numbers.count_blocks() > MANY_BLOCKS else 0.0
        self._known: dict[tuple[frozenset[Protocol], bool], int] = {}  # what `_numbers` found
        self._begun: dict[tuple[Form, bool], int] = {}  # what `_begins` found
        self._nodes = self._nodes_for(tuple(key for _, key in demand.fixed), demand.candidates.nodes, stage)

    def tuples(self) -> Iterator[tuple[Numbers, int]]:
        """Numbers for each group, fixed ones included, and the set of nodes to try them on; the likely ones first.

        Where the steps are spent, or cut, what was not given may be there as well.
        """
        demand = self._demand
        if self._stage is not Stage.WAITING and self._is_read():
            yield from self._one_by_one()
        if not self._nodes:
            return
        if not self._are_counted():
            self._steps.cut()  # a count is missing: nothing is proven
        elif len(demand.kinds) == 1 and self._stage is not Stage.LEASE:  # a lease takes the first node that has any
            (kind,) = demand.kinds
            for number in self._likely(kind):
                if not self._steps.spend(_number_steps(kind)):
                    return
                chosen = demand.numbers([self._low + number])
                if not demand.is_leased(demand.keys(chosen)):
                    yield chosen, self._nodes
        else:
            for position, is_known in self._roomy_nodes():
                found = self._on(position) if is_known or self._moves_nothing else self._likely_on(position)
                yield from ((demand.numbers(chosen), 1 << position) for chosen in found)

    def _likely(self, kind: Kind) -> Iterator[int]:
        """The numbers that might be had, or those with which runs begin, likely ones first."""
        loads = self._demand.loads_and_stuck(kind)[0]
        if wants_runs(self._demand):
            return by_likelihood(self._demand, kind, self._numbers(kind), loads)
        return by_load(loads, self._numbers(kind))

    def _are_counted(self) -> bool:
        """Counts the range wherever this stage looks; False where the steps do not suffice."""
        demand, ask = self._demand, self._demand.ask
        sets = self._view.sets.reached(demand.candidates) if self._stage is Stage.MOVING else [demand.candidates]
        if not self._steps.spend(SET_STEPS * (len(sets) - 1)):
            return False
        return all(are_counted(demand, candidates, ask.low, ask.high, self._steps) for candidates in sets)

    # -- which numbers can be had at all

    def _numbers(self, kind: Kind) -> int:
        """The numbers of the range that might be had in this stage: of all kinds that are alike in this, found once."""
        name = frozenset(protocols_of(kind)), is_anywhere(kind)
        numbers = self._known.get(name)
        if numbers is None:
            numbers = self._unheld(kind)
            for protocol in name[0] if self._stage is not Stage.LEASE else ():
                numbers &= self._demand.unleased[protocol]
            self._known[name] = numbers
        return numbers

    def _unheld(self, kind: Kind) -> int:
        """The same, leases aside: what nobody has on some node, less whom this stage does not count."""
        demand, held = self._demand, self._view.numbers
        if not is_anywhere(kind):
            return demand.usable_by(kind)  # a holder on another address is not in the way
        match self._stage:
            case Stage.LEASE | Stage.FREE:
                numbers = ~self._on_each_node(kind, held.full)
                if self._cooling:
                    numbers &= ~self._on_each_node(kind, self._full_or_cooling)
            case Stage.MOVING:
                numbers = self._movable(kind)
            case Stage.WAITING:
                numbers = ~self._on_each_node(kind, held.stuck) | self._given_up(kind)
        return demand.usable_by(kind) & (numbers | self._own(kind))

    def _full_or_cooling(self, candidates: CandidateSet, protocol: Protocol, low: int, high: int) -> int:
        """The numbers that cool somewhere, and that elsewhere somebody has."""
        numbers, nodes = self._view.numbers, self._view.ports.conflicting
        held = NumbersHeld(lambda low, high: numbers.taken(candidates, protocol, low, high), nodes)
        return self._cooling.full(candidates, protocol, low, high, held) if self._cooling else 0

    def _movable(self, kind: Kind) -> int:
        """The numbers that are free somewhere, or would be, were a plan moved to where it is free.

        A plan can be moved to any of its candidates, and in turn the plan that stands there. So a number that is held
        on every node of every candidate set that can be reached is not to be had, unless two plans could share a node.
        """
        demand, held, high = self._demand, self._view.numbers, self._demand.ask.high
        numbers, reached = -1, self._view.sets.reached(demand.candidates)
        for protocol in protocols_of(kind):
            free = ~held.full(demand.candidates, protocol, self._low, high)
            for candidates in reached:
                floating = candidates.floating_numbers(protocol, self._low, high)
                free |= floating & ~held.full(candidates, protocol, self._low, high) if floating else 0
            numbers &= free
        numbers |= self._numbers_of(kind, self._view.shareable())
        return numbers & ~self._on_each_node(kind, held.stuck)

    def _given_up(self, kind: Kind) -> int:
        """The numbers that somebody has who will go."""
        ports, demand = self._view.ports, self._demand
        numbers = self._numbers_of(kind, ports.leaving_slots())
        if demand.rank is not None:
            numbers |= self._numbers_of(kind, ports.preemptable_slots(demand.rank))
        return numbers

    def _on_each_node(self, kind: Kind, which: Callable[[CandidateSet, Protocol, int, int], int]) -> int:
        """The numbers that for any protocol of a kind are taken on each candidate, as `which` says of a range."""
        numbers, ask = 0, self._demand.ask
        for protocol in protocols_of(kind):
            numbers |= which(self._demand.candidates, protocol, ask.low, ask.high)
        return numbers

    def _own(self, kind: Kind) -> int:
        """The numbers that the exempt hold, which count as free where they stand."""
        claims = (self._view.claims[claim_id] for claim_id in self._demand.exempt)
        return self._numbers_of(kind, (key.slot for claim in claims for key in claim.keys))

    def _numbers_of(self, kind: Kind, slots: Iterable[Slot]) -> int:
        """Those of some slots and blocks that are of a kind's protocols, as numbers of the range."""
        numbers, protocols, low, high = NumberSet(), protocols_of(kind), self._low, self._demand.ask.high
        of_blocks = 0
        for slot in slots:
            if slot > LAST_SLOT:
                of_blocks |= within(slot, low, high) if protocol_of(slot) in protocols else 0
            elif low <= number_of(slot) <= high and protocol_of(slot) in protocols:
                numbers.add(number_of(slot) - low)
        return numbers.within(0, high - low) | of_blocks

    def _nodes_of(self, kind: Kind, number: int) -> int:
        """The nodes where a number, less the lowest of the range, can be had for a kind of groups."""
        where = self._where[kind]
        known = where.get(number)
        if known is None:
            self._steps.spend(_number_steps(kind) + self._beside)
            keys = key_at(kind, self._low + number)
            is_out = self._stage is not Stage.LEASE and self._demand.is_leased(keys)
            known = 0 if is_out else self._nodes_for(keys, self._nodes, self._stage)
            if self._cooling:
                known &= ~self._cooling.nodes(keys)
            where[number] = known
        return known

    def _nodes_for(self, keys: tuple[PortKey, ...], nodes: int, stage: Stage) -> int:
        """Those of the nodes where the keys can be had in a stage."""
        if stage is Stage.LEASE:
            return open_for_lease(keys, nodes, self._view)
        if stage is Stage.FREE:
            return free_nodes(keys, self._demand.candidates, self._view, self._demand.exempt) & nodes
        return open_nodes(self._demand.seeker(keys, nodes), self._view, self._steps, waits=stage is Stage.WAITING)

    # -- several numbers on one node

    def _is_read(self) -> bool:
        """Whether nodes are read before: for runs, for many kinds, and where the fixed ports leave few nodes."""
        demand = self._demand
        if wants_runs(demand) or len(set(demand.kinds)) > MOST_KINDS:
            return True
        return bool(demand.fixed) and self._nodes.bit_count() <= QUIET_NODES < demand.candidates.nodes.bit_count()

    def _one_by_one(self) -> Iterator[tuple[Numbers, int]]:
        """Runs that are read from one node after the other, where fewest stand first, and no plan is to be moved.

        Numbers of many kinds are read likewise: to count those of each kind by itself takes long, and proves little.

        Where all nodes can be paid for, those that have no room, whatever is moved, are left out of what follows. Else
        a few are looked at, and nothing is proven.
        """
        demand, entries = self._demand, self._view.nodes
        cost, payable = NODE_STEPS + GROUP_STEPS * len(demand.kinds), self._steps.left / 2
        # Else somebody on a node may not be in the way.
        is_exact = not demand.exempt and all(map(is_anywhere, demand.kinds))
        is_proof = is_exact and self._nodes.bit_count() * cost < payable
        if not (is_proof or self._moves_nothing):
            return
        stands = {position: entries.at(position).stands for position in bits(self._nodes)}
        most = len(stands) if is_proof else min(len(stands), QUIET_NODES, max(1, int(payable / cost)))
        self._steps.spend(most * cost)
        for position in nsmallest(most, stands, key=stands.__getitem__):
            ways = self._ways_on(position)
            if ways:
                yield from ((numbers, 1 << position) for numbers in ways)
            elif ways is not None and is_proof:
                self._nodes &= ~(1 << position)

    def _ways_on(self, position: int) -> list[Numbers] | None:
        """A way to give the groups numbers on a node as it is. Empty: there is none. None: it is not known whether."""
        demand = self._demand
        taken = {protocol: self._taken_on(position, protocol) for protocol in demand.protocols}

        def free(protocols: Iterable[Protocol]) -> int:
            return reduce(and_, (~taken[protocol] for protocol in protocols), demand.usable)

        forms = {kind: form_of(kind) for kind in self._where}
        begins = begins_of_each(demand, set(forms.values()), free)
        needs = Counter(forms[kind] for kind in demand.kinds)
        if not all(has_room(begins[form], form[1], need) for form, need in needs.items()):
            return []
        if not self._moves_nothing:
            return None  # there may be one
        found = free_runs(demand, demand.ask.high, taken, lowest, 0)
        here = {kind: begins[form] for kind, form in forms.items()}
        ways = [found] if found else list(map(demand.numbers, islice(packed(demand, here, self._steps), 1)))
        if not ways:
            return None if self._steps.are_spent else []
        return [way for way in ways if self._stage is Stage.LEASE or not demand.is_leased(demand.keys(way))] or None

    def _taken_on(self, position: int, protocol: Protocol) -> int:
        """The numbers of the range that this stage, but for one that waits, does not give on a node; perhaps some more.

        More only to who has exempt claims, or does not want every address.
        """
        demand, view, low, high = self._demand, self._view, self._low, self._demand.ask.high
        held, settled = view.nodes.at(position).numbers(protocol, low, high)
        taken = held if self._moves_nothing else settled
        if demand.has_services:
            taken |= view.services.within(protocol, low, high)
        if self._cooling:
            taken |= self._cooling.on(position, protocol, low, high)
        if self._stage is not Stage.LEASE:
            return taken | ~demand.unleased[protocol]
        for candidates in view.sets.surprising:
            taken |= candidates.floating_numbers(protocol, low, high) if candidates.nodes >> position & 1 else 0
        return taken

    def _roomy_nodes(self) -> Iterator[tuple[int, bool]]:
        """The positions of nodes that have enough numbers for the groups of each kind, and of kinds together.

        The second value says whether all numbers were looked at. Until then one node is given at a time, to be given
        again.
        """
        demands = Counter(self._demand.kinds)
        if len(demands) == 1:
            ((kind, need),) = demands.items()
            for nodes, is_known in self._with_enough([kind], need):
                some = bits(nodes) if is_known else bits(nodes & -nodes)
                yield from ((position, is_known) for position in some)
            return
        most = len(demands) if len(demands) <= MOST_KINDS else 1
        nodes = self._nodes
        for kinds in (some for size in range(1, most + 1) for some in combinations(demands, size)):
            enough = 0
            for enough, _ in self._with_enough(kinds, sum(demands[kind] for kind in kinds)):  # noqa: B007 - the last one
                pass
            nodes &= enough
            if self._steps.are_spent or not nodes:
                return  # not known, or proven
        yield from ((position, True) for position in bits(nodes))

    def _with_enough(self, kinds: Sequence[Kind], need: int) -> Iterator[tuple[int, bool]]:
        """The nodes where so many numbers can be had for any of the kinds: more and more of them, at the end all."""
        numbers_of = {kind: self._begins(kind) for kind in kinds}
        everything = reduce(or_, numbers_of.values())
        planes: Planes = []
        self._steps.spend(KIND_STEPS if len(self._where) > MOST_KINDS else 0)
        for count, number in enumerate(bits(everything), 1):
            nodes = 0
            for kind, numbers in numbers_of.items():  # of one kind it is known: to shift a wide set would copy it
                nodes |= self._nodes_of(kind, number) if numbers is everything or numbers >> number & 1 else 0
            _add(planes, nodes)
            if self._steps.are_spent:
                return
            if count % COUNTED_TOGETHER == 0 and (enough := at_least(planes, need, self._nodes)):
                yield enough, False
        yield at_least(planes, need, self._nodes), True

    def _begins(self, kind: Kind) -> int:
        """The numbers that might be had, or those with which a run of such begins."""
        numbers = self._numbers(kind)
        if not wants_runs(self._demand):
            return numbers
        name = form_of(kind), is_anywhere(kind)
        if name not in self._begun:
            self._steps.spend(BEGIN_STEPS)
            self._begun[name] = begins_of(self._demand, kind, numbers)[1]
        return self._begun[name]

    def _likely_on(self, position: int) -> Iterator[list[int]]:
        """One try on a node: what needs no plan moved, then whatever was looked at so far."""
        here = self._here(position)
        if wants_runs(self._demand):
            yield from islice(self._packed_on(position, here), 1)
            return
        clear = {kind: self._clear(kind, numbers, position) for kind, numbers in here.items()}
        yield from self._given(matched(self._demand.kinds, [clear, here]))

    def _here(self, position: int) -> dict[Kind, int]:
        """The numbers that can be had on a node, of those that were looked at."""
        return {
            kind: set_of([number for number, nodes in where.items() if nodes >> position & 1])
            for kind, where in self._where.items()
        }

    def _on(self, position: int) -> Iterator[list[int]]:
        """Numbers for the open groups on one node, in port order."""
        here = self._here(position)
        if wants_runs(self._demand):
            yield from islice(self._packed_on(position, here), 1 if self._moves_nothing else None)
            return
        if self._moves_nothing:
            yield from self._given(matched(self._demand.kinds, [here]))
            return
        clear = {kind: self._clear(kind, numbers, position) for kind, numbers in here.items()}
        missing = len(self._demand.kinds) - sum(
            got.bit_count() for got in matched(self._demand.kinds, [clear]).values()
        )
        crowded = [(kind, number) for kind, numbers in here.items() for number in bits(numbers & ~clear[kind])]
        # As few as possible from plans is likely to do; but a clear number may be one that a moved plan would need.
        for size in range(missing, len(self._demand.kinds) + 1):
            for moved in combinations(crowded, size):
                if not self._steps.spend():
                    return
                also = dict.fromkeys(here, 0)
                for kind, number in moved:
                    also[kind] |= 1 << number
                yield from self._given(matched(self._demand.kinds, [clear, also]))
        for got in self._every(Counter(self._demand.kinds), here) if crowded else ():
            if not self._steps.spend():
                return
            yield from self._given(got)

    def _packed_on(self, position: int, here: Mapping[Kind, int]) -> Iterator[list[int]]:
        """Ways to give runs on a node: first such as need no plan moved, and of the grid."""
        demand = self._demand
        clear = here
        if not self._moves_nothing:
            clear = {kind: self._clear(kind, numbers, position) for kind, numbers in here.items()}
        of_grid = {
            kind: numbers & grid(kind[0][2], kind[0][3], demand.ask.low, demand.ask.high)
            for kind, numbers in clear.items()
        }
        for some in (of_grid, clear):
            yield from islice(packed(demand, some, self._steps), 1)
        yield from packed(demand, here, self._steps)

    def _every(self, demands: Mapping[Kind, int], here: Mapping[Kind, int]) -> Iterator[dict[Kind, int]]:
        """Every way to give different numbers to all kinds."""
        if not demands:
            yield {}
            return
        (kind, need), *rest = demands.items()
        for chosen in combinations(bits(here[kind]), need):
            numbers = sum(1 << number for number in chosen)
            left = {other: of_other & ~numbers for other, of_other in here.items()}
            for got in self._every(dict(rest), left):
                yield {kind: numbers, **got}

    def _clear(self, kind: Kind, numbers: int, position: int) -> int:
        """Those of the numbers that can be had on a node without moving a plan."""
        clear = 0
        self._steps.spend(numbers.bit_count() * CLEAR_STEPS)
        for number in bits(numbers):
            seeker = self._demand.seeker(key_at(kind, self._low + number), 1 << position)
            if unplanned(seeker, seeker.nodes, self._view):
                clear |= 1 << number
        return clear

    def _given(self, got: Mapping[Kind, int]) -> Iterator[list[int]]:
        """The numbers that kinds of groups got; nothing where one lacks a number."""
        given = handed_out(self._demand, got)
        if given:
            yield given


def _number_steps(kind: Kind) -> float:
    """Steps to look up where a number is free, or a run: each of its numbers may be held by itself."""
    length = kind[0][2]
    return RUN_STEPS + length / LOOKS_OF_A_STEP if length > 1 else NUMBER_STEPS


def _add(planes: Planes, nodes: int) -> None:
    """Counts one more on some nodes."""
    for order, plane in enumerate(planes):
        planes[order], nodes = plane ^ nodes, plane & nodes
        if not nodes:
            return
    if nodes:
        planes.append(nodes)
