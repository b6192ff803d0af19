"""A scope: the candidate nodes of equal constraints, and which numbers are held there.

What is held is counted in blocks of numbers, each when it is first asked about: a scope that was never seen costs
nothing for numbers that nobody asks for. From then on `Occupancy` keeps the counts of a built block right.

Invariants, of every block that is built: `standing` has exactly the numbers that somebody has on the scope's nodes;
`held` and `settled` count the nodes on which anybody, or somebody settled, has a number. `floating` counts the
unsettled claims of the scope, wherever they are planned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from allocator.core.candidates import Constraints
from allocator.core.counting import CountedNumbers, Planes, count_of, equal
from allocator.core.node_index import Wanted
from allocator.core.ports import WILDCARD, NumberSet, PortKey, Protocol, Slot, number_of, protocol_of, span

BLOCK = 256
"""Numbers that are counted together when one of them is first asked about."""


@dataclass(slots=True, eq=False)
class Cover:
    """What is held of one protocol on a scope's nodes."""

    built: int = 0  # the blocks that are kept, as a set
    standing: NumberSet = field(default_factory=NumberSet)
    held: CountedNumbers = field(default_factory=CountedNumbers)
    settled: CountedNumbers = field(default_factory=CountedNumbers)

    def build(self, first: int, last: int, held: Mapping[int, int], settled: Mapping[int, int]) -> None:
        """Takes the counts of the blocks from one to another.

        held, settled: for each count the numbers that have it, less the lowest of the blocks. A number that several
        counts have has their sum, where no two of them have a bit in common.
        """
        self.built |= span(first, last)
        if not held:
            return
        standing = 0
        for numbers in held.values():
            standing |= numbers
        base, size = first * BLOCK, (last - first + 1) * BLOCK
        self.standing.put(base, standing, size)
        self.held.put(base, held, size)
        self.settled.put(base, settled, size)

    def has_built(self, number: int) -> bool:
        return bool(self.built >> (number // BLOCK) & 1)

    def missing(self, low: int, high: int) -> int:
        """The blocks of [low, high] that are not built yet, as a set."""
        first = low // BLOCK
        return ~(self.built >> first) & (1 << high // BLOCK - first + 1) - 1

    def arrive(self, number: int) -> None:
        """A node of the scope has a holder of the number that had none."""
        self.held.add(number)
        self.standing.add(number)

    def depart(self, number: int) -> None:
        self.held.discard(number)
        if not self.held.has(number):
            self.standing.discard(number)


@dataclass(slots=True, eq=False)
class Scope:
    """The candidate nodes of equal constraints, as a bitmap over node positions."""

    constraints: Constraints
    wanted: Wanted
    nodes: int = 0
    is_large: bool = False  # its constraints take many bytes
    is_wide: bool = False  # found by its nodes; a narrow one is kept with each of its nodes
    covers: dict[Protocol, Cover] = field(default_factory=dict)  # of protocols that were asked about
    floating: dict[Protocol, CountedNumbers] = field(default_factory=dict)
    floats: int = 0  # unsettled claims of the scope
    roaming: int = 0  # those of them that stand nowhere
    addressed: dict[Slot, Counter[str]] = field(default_factory=dict)  # ports of floating claims on one address

    def meets(self, other: Scope) -> bool:
        """Whether a claim of one may land where a claim of the other may. A scope always meets itself."""
        return self is other or self.nodes & other.nodes != 0

    def is_single(self) -> bool:
        """Whether there is one candidate. A wide scope is not looked at: that takes two copies of its nodes."""
        return not self.is_wide and self.nodes & (self.nodes - 1) == 0 and self.nodes != 0

    @property
    def can_surprise(self) -> bool:
        """Whether a claim of the scope may land on a node where it does not stand."""
        return self.floats > 0 and (self.roaming > 0 or not self.is_single())

    def float(self, slot: Slot, ip: str, change: int) -> None:
        """An unsettled claim of the scope has a port more, or less, on an address."""
        counts = self.floating.get(protocol_of(slot))
        if counts is None:
            counts = self.floating[protocol_of(slot)] = CountedNumbers()
        (counts.add if change > 0 else counts.discard)(number_of(slot))
        if ip != WILDCARD:
            addresses = self.addressed.setdefault(slot, Counter())
            addresses[ip] += change
            if not addresses[ip]:
                del addresses[ip]
                if not addresses:
                    del self.addressed[slot]

    def floats_into(self, key: PortKey) -> bool:
        """Whether an unsettled claim of the scope has a port that conflicts with the key."""
        counts = self.floating.get(key.protocol)
        if counts is None or not counts.has(key.number):
            return False
        addresses = self.addressed.get(key.slot)
        if addresses is None or key.ip == WILDCARD or key.ip in addresses:
            return True
        return count_of(counts.within(key.number, key.number), 0) > addresses.total()  # one of them has the wildcard

    def floating_planes(self, protocol: Protocol, low: int, high: int) -> Planes:
        """How many unsettled claims have each number of [low, high], less `low`."""
        counts = self.floating.get(protocol)
        return counts.within(low, high) if counts else []

    def floating_numbers(self, protocol: Protocol, low: int, high: int) -> int:
        """The numbers of [low, high] that an unsettled claim has, less `low`."""
        numbers = 0
        for plane in self.floating_planes(protocol, low, high):
            numbers |= plane
        return numbers

    def on_all(self, planes: Planes, low: int, high: int) -> int:
        """The numbers of [low, high] whose count is that of the scope's nodes, less `low`."""
        return equal(planes, self.nodes.bit_count(), span(0, high - low))
