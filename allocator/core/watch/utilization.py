"""How full the nodes are, for metrics: a walk over them, a few at a time, so that no decision waits for it.

Bounded: the ranges that most claims come from, and for each a few figures over its nodes; nodes by name are only the
fullest. A number counts as used on a node whoever holds it there, under any protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import nlargest

from allocator.core.blocks import slots_in
from allocator.core.candidates import NodeName
from allocator.core.claims import Bounds
from allocator.core.index.ports import Holders, NodeEntry
from allocator.core.ports import WILDCARD, Slot, span
from allocator.core.store import ClaimStore

MOST_RANGES = 10
FULLEST_NODES = 10
PORTS_OF_A_BLOCK = 8
"""Ports that take as long to look at as a block does."""


@dataclass(frozen=True, slots=True)
class RangeUtilization:
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
class UtilizationSnapshot:
    """What a whole walk has seen.

    held_twice: ports that two settled claims of different Pods have on one node. foreign: those that processes have.
    """

    ranges: tuple[RangeUtilization, ...] = ()
    fullest: tuple[tuple[float, NodeName, Bounds], ...] = ()
    held_twice: int = 0
    foreign: int = 0


@dataclass(slots=True)
class _Walk:
    """A walk under way."""

    ranges: dict[Bounds, int]  # bounds → usable numbers
    position: int = 0
    held_twice: int = 0
    foreign: int = 0
    used: dict[Bounds, list[tuple[int, NodeName]]] = field(default_factory=dict)

    def snapshot(self) -> UtilizationSnapshot:
        found = [
            (count / self.ranges[bounds], node, bounds)
            for bounds, counts in self.used.items()
            for count, node in counts
        ]
        return UtilizationSnapshot(
            ranges=tuple(
                RangeUtilization(bounds, self.ranges[bounds], tuple(sorted(count for count, _ in counts)))
                for bounds, counts in self.used.items()
            ),
            fullest=tuple(nlargest(FULLEST_NODES, found)),
            held_twice=self.held_twice,
            foreign=self.foreign,
        )


class UtilizationScan:
    """Walks again whenever something came or went; `snapshot` is that of the last walk that was completed."""

    def __init__(self, store: ClaimStore, reserved: int) -> None:
        self._store = store
        self._reserved = reserved
        self._walk: _Walk | None = None
        self._seen = -1  # `changes` of the nodes when the last walk began
        self.snapshot = UtilizationSnapshot()

    def step(self, most: int) -> None:
        """Looks at nodes until so many of them and of the numbers that they hold have been counted; at one at least."""
        nodes = self._store.nodes
        if self._walk is None and self._seen == nodes.changes:
            return
        walk = self._walk = self._walk or self._begun()
        while most > 0:
            if walk.position >= len(nodes.entries):
                self.snapshot, self._walk = walk.snapshot(), None
                return
            entry = nodes.entries[walk.position]
            walk.position += 1
            most -= 1
            if entry is not None and entry.is_shown:
                blocks = PORTS_OF_A_BLOCK * len(entry.blocks) if entry.blocks else 0
                most -= len(entry.holders) + blocks + (len(entry.sockets) if entry.sockets else 0)
                most -= self._look(walk, entry)

    def _begun(self) -> _Walk:
        self._seen = self._store.nodes.changes
        sizes = {
            bounds: (span(*bounds) & ~self._reserved).bit_count()
            for bounds, _ in self._store.ranges.most_common(MOST_RANGES)
        }
        return _Walk({bounds: size for bounds, size in sizes.items() if size})

    def _look(self, walk: _Walk, entry: NodeEntry) -> int:
        """Counts a node; gives how many holders of numbers that several have, and numbers of blocks, were looked at."""
        numbers = entry.held()
        for low, high in walk.ranges:
            held = 0
            for some in numbers:
                held |= some.within(low, high)
            used = (held & ~(self._reserved >> low)).bit_count()
            if used:
                walk.used.setdefault((low, high), []).append((used, entry.node.name))
        walk.foreign += len(entry.foreign()) if entry.sockets else 0
        every = entry.holders if not entry.blocks else self._slots(entry)
        shared = [(slot, each) for slot, each in every.items() if len(each) > 1]
        walk.held_twice += sum(1 for slot, each in shared if self._is_held_twice(entry, slot, each))
        return sum([len(each) for _, each in shared]) + (len(every) if entry.blocks else 0)

    @staticmethod
    def _slots(entry: NodeEntry) -> dict[Slot, Holders]:
        """The holders of each slot of a node with blocks, where there are several."""
        held: dict[Slot, Holders] = {}
        for slot, _ in entry.by_slot():
            if len(entry.holders_of(slot)) > 1:
                held.update({one: entry.holders_of(one) for one in slots_in(slot)})
        return held

    def _is_held_twice(self, entry: NodeEntry, slot: Slot, holders: Holders) -> bool:
        """Whether two who are settled clash. A Pod and its successor may hold one port for a moment."""
        names, first_on = set[object](), dict[str, object]()
        for holder in holders:
            claim = self._store.claims[holder]
            if not claim.is_settled:
                continue
            name = claim.owner.full_name or holder
            names.add(name)
            for ip in entry.addresses_of(holder, slot):
                if first_on.setdefault(ip, name) != name:
                    return True
        return WILDCARD in first_on and len(names) > 1


def bands() -> Iterator[float]:
    """The upper bounds by which nodes are counted: tenths of a range, and 95 %."""
    yield from (tenth / 10 for tenth in range(1, 10))
    yield 0.95
    yield 1.0
