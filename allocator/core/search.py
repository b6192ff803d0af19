"""Which numbers Dynamic gives.

The order in which numbers are tried (`choices`):

1. Those that the Pod had before (the caller knows them): a Pod that returns finds its clients waiting there.
2. The lowest that are free on *every* candidate: nobody stands there with it, and no unsettled claim that has it could
   land there. Whatever node the scheduler picks is then fine.
3. When there are none, those with the most candidates left: free candidates less the unsettled claims that could land
   on them, ties to the lowest. So the capacity of a range is numbers x nodes. For several groups whole tuples that
   claims of the same shape use already come first: tuples that overlap would waste what is left of both.

The order decides nothing. The verdict is `Together`: every number that can still be had is looked for, several of them
together on each single node. Each group gets a number of its own, whatever its protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from heapq import nsmallest
from itertools import islice

from allocator.core.asks import Ask
from allocator.core.claims import ClaimId
from allocator.core.counting import Planes, count_of, larger, least
from allocator.core.matching import Seeker, Steps, World, key_of
from allocator.core.policy import Group
from allocator.core.ports import (
    WILDCARD,
    NumberSet,
    PortKey,
    Protocol,
    Slot,
    lowest,
    normalise_ip,
    number_of,
    protocol_of,
    span,
)
from allocator.core.scopes import Scope
from allocator.core.slots import bits

MOST_TRIES = 8
"""How many choices of the third kind are tried."""

MOST_COMPARED = 128
"""How many tuples in use are compared."""

FIRST_LOOK = 1024
"""How many numbers are looked at first."""

BLOCK_STEPS, NODES_OF_A_STEP = 1.0, 250
"""Steps to count a block of numbers for the first time: up to 0.2 ms at 5,000 nodes."""

NARROW_STEPS = 6.0
"""Steps to go through the nodes of a narrow scope, besides."""

Numbers = tuple[int, ...]
"""One for each group."""

Kind = tuple[tuple[Protocol, str], ...]
"""What makes groups alike: the protocols and addresses of their members."""

Taken = Callable[[Protocol, int, int], int]
"""The numbers of a protocol from one to another that are not free, less the first."""


@dataclass(eq=False)
class Demand:
    """An ask with its port groups, and the scope where it may land.

    exempt: claims that do not conflict with it. rank: whom it may preempt.
    Sets of numbers are less `ask.low`: bit 0 is the lowest number of the range.
    """

    ask: Ask
    groups: Sequence[Group]
    scope: Scope
    world: World
    exempt: frozenset[ClaimId] = frozenset()
    rank: int | None = None
    protocols: frozenset[Protocol] = field(init=False)  # of the groups that want a number
    is_open: bool = field(init=False)  # whether any does

    def __post_init__(self) -> None:
        ports = self.ask.ports
        self.protocols = frozenset(
            [ports[member].protocol for group in self.groups if not group.number for member in group.members]
        )
        self.is_open = bool(self.protocols)

    @cached_property
    def kinds(self) -> list[Kind]:
        """The kind of each group that wants a number, in port order."""
        return [self._kind(group) for group in self.groups if not group.number]

    @cached_property
    def usable(self) -> int:
        """The numbers of the range that are neither reserved nor those of the ask's own fixed ports."""
        numbers = usable(self.ask, self.world)
        for group in self.groups:
            if self.ask.low <= group.number <= self.ask.high:
                numbers &= ~(1 << (group.number - self.ask.low))
        return numbers

    def _kind(self, group: Group) -> Kind:
        ports = [self.ask.ports[member] for member in group.members]
        return tuple(sorted({(p.protocol, normalise_ip(p.host_ip)) for p in ports}, key=lambda p: (p[0].value, p[1])))

    def numbers(self, chosen: Iterable[int]) -> Numbers:
        """A number for each group, from those for the open ones in port order."""
        rest = iter(chosen)
        return tuple([group.number or next(rest) for group in self.groups])

    def keys(self, numbers: Numbers) -> tuple[PortKey, ...]:
        """The ports with their numbers, in the order of groups."""
        ports = self.ask.ports
        return tuple(
            [
                key_of(ports[member], number)
                for group, number in zip(self.groups, numbers, strict=True)
                for member in group.members
            ]
        )

    @cached_property
    def fixed(self) -> tuple[PortKey, ...]:
        """The ports whose numbers are not ours to choose."""
        return tuple(
            key_of(self.ask.ports[member], group.number)
            for group in self.groups
            if group.number
            for member in group.members
        )

    def seeker(self, keys: tuple[PortKey, ...], nodes: int | None = None) -> Seeker:
        """Who looks for a node for these ports."""
        within = self.scope.nodes if nodes is None else nodes
        return Seeker(keys=keys, nodes=within, exempt=self.exempt, rank=self.rank)

    def is_leased(self, keys: Iterable[PortKey]) -> bool:
        """Whether a port is leased on a candidate: the scheduler does not know, and might choose that node."""
        occupancy = self.world.occupancy
        return occupancy.has_leases and any(occupancy.leased(key) & self.scope.nodes for key in keys)

    @cached_property
    def unleased(self) -> dict[Protocol, int]:
        """For each protocol that wants a number: those that are not leased, on every address, on any candidate."""
        occupancy, ask = self.world.occupancy, self.ask
        return {
            protocol: ~occupancy.leased_numbers(self.scope, protocol, ask.low, ask.high) for protocol in self.protocols
        }

    def loads(self, kind: Kind) -> Planes:
        """For each number of the range how much of the scope is spoken for: that of the kind's busiest protocol."""
        return self.loads_and_stuck(kind)[0]

    def loads_and_stuck(self, kind: Kind) -> tuple[Planes, int]:
        """The loads, and the numbers with which for any protocol somebody is settled on each candidate."""
        loads: Planes = []
        stuck = 0
        for protocol in protocols_of(kind):
            found = self.world.occupancy.loads_and_stuck(self.scope, protocol, self.ask.low, self.ask.high)
            loads = larger(loads, found[0]) if loads else found[0]
            stuck |= found[1]
        return loads, stuck

    def on_each_node(self, kind: Kind, which: Callable[[Scope, Protocol, int, int], int]) -> int:
        """The numbers that for any protocol of a kind are taken on each candidate, as `which` says."""
        numbers = 0
        for protocol in protocols_of(kind):
            numbers |= which(self.scope, protocol, self.ask.low, self.ask.high)
        return numbers

    def own(self, kind: Kind) -> int:
        """The numbers that the exempt hold, which count as free where they stand."""
        return self.numbers_of(
            kind, (port.slot for claim_id in self.exempt for port in self.world.claims[claim_id].keys)
        )

    def numbers_of(self, kind: Kind, slots: Iterable[Slot]) -> int:
        """Those of some slots that are of a kind's protocols, as numbers of the range."""
        numbers, protocols, low, high = NumberSet(), protocols_of(kind), self.ask.low, self.ask.high
        for slot in slots:
            if low <= number_of(slot) <= high and protocol_of(slot) in protocols:
                numbers.add(number_of(slot) - low)
        return numbers.within(0, high - low)


def protocols_of(kind: Kind) -> set[Protocol]:
    return {protocol for protocol, _ in kind}


def is_anywhere(kind: Kind) -> bool:
    """Whether its ports are on no address in particular, so that any holder of a number conflicts with them."""
    return all(ip == WILDCARD for _, ip in kind)


def choices(wanted: Demand, *, previous: Numbers, used: Iterator[Numbers], steps: Steps) -> Iterator[Numbers]:
    """Numbers for each group, fixed ones included, the best first; a few, and never a proof.

    Args:
        wanted: what is asked.
        previous: the numbers that the Pod had, or nothing.
        used: the numbers of live claims of the same shape, likely ones first.
        steps: what counting may cost.

    """
    if not wanted.is_open:
        yield wanted.numbers(())
        return
    if previous and _is_allowed(previous, wanted):
        yield previous
    found = lowest_free(wanted, steps)
    if found:
        yield found
    elif wanted.scope.nodes and not steps.are_spent:
        yield from _roomiest(wanted, used)


def are_counted(wanted: Demand, scope: Scope, low: int, high: int, steps: Steps) -> bool:
    """Counts what has not been counted of [low, high]; False where the steps do not suffice: the next ask goes on."""
    occupancy = wanted.world.occupancy
    for protocol in wanted.protocols:
        missing = occupancy.missing(scope, protocol, low, high)
        if not missing:
            continue
        cost = BLOCK_STEPS
        if occupancy.goes_through_nodes(scope, len(missing)):
            steps.spend(NARROW_STEPS)
        else:
            cost += occupancy.positions / NODES_OF_A_STEP
        payable = int(steps.left / cost)
        steps.spend(cost * len(missing))
        occupancy.count(scope, protocol, missing[:payable])
        if payable < len(missing):
            return False
    return True


def lowest_free(wanted: Demand, steps: Steps) -> Numbers:
    """The lowest numbers that are free on every candidate, all different; empty when the range has not enough.

    A few are looked at first: the set of a wide range takes longer than all the rest of a decision.
    """
    low, high, size = wanted.ask.low, wanted.ask.high, FIRST_LOOK
    while True:
        last = min(low + size - 1, high)
        if not are_counted(wanted, wanted.scope, low, last, steps):
            return ()
        found = _lowest_free(wanted.ask, wanted.groups, wanted.world, partial(_taken, wanted), low, last)
        if found or last == high:
            return found
        size *= 2


def _taken(wanted: Demand, protocol: Protocol, low: int, high: int) -> int:
    return wanted.world.occupancy.taken(wanted.scope, protocol, low, high)


def _lowest_free(ask: Ask, groups: Sequence[Group], world: World, taken: Taken, low: int, high: int) -> Numbers:
    """The same from `low` to `high`. Bit 0 of a set is `low`."""
    free = _unreserved(ask, low, high, world)
    numbers = [group.number for group in groups]
    for number in numbers:
        if low <= number <= high:
            free &= ~(1 << (number - low))
    taken_by: dict[Protocol, int] = {}
    for at, group in enumerate(groups):
        if group.number:
            continue
        here = free
        for member in group.members:
            protocol = ask.ports[member].protocol
            if protocol not in taken_by:
                taken_by[protocol] = taken(protocol, low, high)
            here &= ~taken_by[protocol]
        if not here:
            return ()
        found = lowest(here)
        numbers[at] = low + found
        free &= ~(1 << found)
    return tuple(numbers)


def usable(ask: Ask, world: World) -> int:
    """The numbers of the range that are neither reserved nor named by the Pod itself, less `ask.low`."""
    return _unreserved(ask, ask.low, ask.high, world)


def _unreserved(ask: Ask, low: int, high: int, world: World) -> int:
    return span(0, high - low) & ~((world.reserved | ask.avoided) >> low)


def _is_allowed(numbers: Numbers, wanted: Demand) -> bool:
    """Whether numbers from elsewhere are such as the ask could have got."""
    groups, ask = wanted.groups, wanted.ask
    if len(numbers) != len(groups) or len(set(numbers)) != len(numbers):
        return False
    return all(
        number == group.number
        if group.number
        else ask.low <= number <= ask.high and wanted.usable >> (number - ask.low) & 1
        for number, group in zip(numbers, groups, strict=True)
    )


def _roomiest(wanted: Demand, used: Iterator[Numbers]) -> Iterator[Numbers]:
    """Tuples in use, then the roomiest number for each group by itself."""
    loads: dict[Kind, Planes] = {}
    stuck: dict[Kind, int] = {}
    for kind in set(wanted.kinds):
        loads[kind], stuck[kind] = wanted.loads_and_stuck(kind)

    def load(numbers: Numbers) -> int:
        chosen = (number for number, group in zip(numbers, wanted.groups, strict=True) if not group.number)
        return max(count_of(loads[kind], n - wanted.ask.low) for kind, n in zip(wanted.kinds, chosen, strict=True))

    size = wanted.scope.nodes.bit_count()
    allowed = (numbers for numbers in islice(used, MOST_COMPARED) if _is_allowed(numbers, wanted))
    ranked = nsmallest(MOST_TRIES, ((load(numbers), numbers) for numbers in allowed))
    yield from (numbers for taken, numbers in ranked if taken < size)
    rest = {kind: by_load(loads[kind], wanted.usable & ~stuck[kind]) for kind in loads}
    given: set[int] = set()
    for _ in range(MOST_TRIES):
        chosen: list[int] = []
        for kind in wanted.kinds:
            number = next((number for number in rest[kind] if number not in given), None)
            if number is None:
                return
            given.add(number)
            chosen.append(wanted.ask.low + number)
        yield wanted.numbers(chosen)


def by_load(loads: Planes, among: int) -> Iterator[int]:
    """Some numbers, those with the smallest count first."""
    while among:
        tier = least(loads, among)
        yield from bits(tier)
        among ^= tier
