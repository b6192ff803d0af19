"""How full the nodes are, for metrics: a walk over them, a few at a time, so that no decision waits for it.

Bounded: the ranges that most claims come from, and for each a few figures over its nodes; nodes by name are only the
fullest. A number counts as used on a node whoever holds it there, under any protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import combinations

from allocator.core.candidates import NodeName
from allocator.core.claims import Bounds, Claim
from allocator.core.occupancy import Holders
from allocator.core.ports import NumberSet, Slot, span
from allocator.core.register import Register

MOST_RANGES = 10
FULLEST_NODES = 10


@dataclass(frozen=True, slots=True)
class RangeUse:
    """A range on the nodes where anything of it is held: how many of its numbers, less the reserved ones, are used."""

    bounds: Bounds
    size: int
    used: tuple[int, ...]  # for each such node, ascending

    def quantile(self, q: float) -> float:
        """The use of a node, in 0..1, that a share of q of the nodes do not exceed."""
        return self.used[min(len(self.used) - 1, int(q * len(self.used)))] / self.size

    def nodes_up_to(self, ratio: float) -> int:
        return sum(1 for count in self.used if count <= ratio * self.size)


@dataclass(frozen=True, slots=True)
class Picture:
    """What a whole walk has seen. `held_twice`: ports that two settled claims of different Pods have on one node."""

    ranges: tuple[RangeUse, ...] = ()
    fullest: tuple[tuple[float, NodeName, Bounds], ...] = ()
    held_twice: int = 0


@dataclass(slots=True)
class _Walk:
    """A walk under way."""

    ranges: dict[Bounds, int]  # bounds → usable numbers
    position: int = 0
    held_twice: int = 0
    used: dict[Bounds, list[tuple[int, NodeName]]] = field(default_factory=dict)

    def picture(self) -> Picture:
        found = [
            (count / self.ranges[bounds], node, bounds)
            for bounds, counts in self.used.items()
            for count, node in counts
        ]
        return Picture(
            ranges=tuple(
                RangeUse(bounds, self.ranges[bounds], tuple(sorted(count for count, _ in counts)))
                for bounds, counts in self.used.items()
            ),
            fullest=tuple(nlargest(FULLEST_NODES, found)),
            held_twice=self.held_twice,
        )


class Survey:
    """Walks again whenever something came or went; `picture` is that of the last walk that was completed."""

    def __init__(self, register: Register, reserved: int) -> None:
        self._register = register
        self._reserved = reserved
        self._walk: _Walk | None = None
        self._seen = -1  # `changes` of the occupancy when the last walk began
        self.picture = Picture()

    def step(self, most: int) -> None:
        """Looks at nodes until so many of them and of the numbers that they hold have been counted; at one at least."""
        occupancy = self._register.occupancy
        if self._walk is None and self._seen == occupancy.changes:
            return
        walk = self._walk = self._walk or self._begun()
        while most > 0:
            if walk.position >= occupancy.positions:
                self.picture, self._walk = walk.picture(), None
                return
            held = occupancy.held_at(walk.position)
            walk.position += 1
            most -= 1
            if held is not None:
                name, numbers, holders = held
                most -= len(holders)
                self._look(walk, name, numbers, holders)

    def _begun(self) -> _Walk:
        self._seen = self._register.occupancy.changes
        sizes = {
            bounds: (span(*bounds) & ~self._reserved).bit_count()
            for bounds, _ in self._register.ranges.most_common(MOST_RANGES)
        }
        return _Walk({bounds: size for bounds, size in sizes.items() if size})

    def _look(self, walk: _Walk, node: NodeName, numbers: Sequence[NumberSet], holders: Mapping[Slot, Holders]) -> None:
        for low, high in walk.ranges:
            held = 0
            for some in numbers:
                held |= some.within(low, high)
            used = (held & ~(self._reserved >> low)).bit_count()
            if used:
                walk.used.setdefault((low, high), []).append((used, node))
        shared = [(slot, each) for slot, each in holders.items() if len(each) > 1]
        walk.held_twice += sum(1 for slot, each in shared if _is_held_twice(slot, each))


def _is_held_twice(slot: Slot, holders: Holders) -> bool:
    """Whether two who are settled clash. A Pod and its successor of the same name may hold one port for a moment."""
    settled = [claim for claim in holders if claim.is_settled]
    return any(_clash(slot, one, other) for one, other in combinations(settled, 2))


def _clash(slot: Slot, one: Claim, other: Claim) -> bool:
    if one.owner.full_name is not None and one.owner.full_name == other.owner.full_name:
        return False
    mine = [key for key in one.keys if key.slot == slot]
    return any(key.conflicts_with(theirs) for key in mine for theirs in other.keys)


def bands() -> Iterator[float]:
    """The upper bounds by which nodes are counted: tenths of a range, and 95 %."""
    yield from (tenth / 10 for tenth in range(1, 10))
    yield 0.95
    yield 1.0
