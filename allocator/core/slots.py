"""Slots (a protocol and a number) and the sets of nodes on which they are held, as bitmaps over node positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from allocator.core.ports import WILDCARD, PortKey, Protocol, lowest

Slot = tuple[Protocol, int]
"""A protocol and a number, whatever the address."""


class NodesBySlot:
    """(protocol, number) → address → set of nodes."""

    __slots__ = ("_by_slot",)

    def __init__(self) -> None:
        self._by_slot: dict[Slot, dict[str, int]] = {}

    def add(self, key: PortKey, position: int) -> None:
        by_ip = self._by_slot.setdefault((key.protocol, key.number), {})
        by_ip[key.ip] = by_ip.get(key.ip, 0) | 1 << position

    def discard(self, key: PortKey, position: int) -> None:
        slot = (key.protocol, key.number)
        by_ip = self._by_slot.get(slot, {})
        nodes = by_ip.get(key.ip, 0) & ~(1 << position)
        if nodes:
            by_ip[key.ip] = nodes
        elif by_ip.pop(key.ip, 0) and not by_ip:
            del self._by_slot[slot]

    def conflicting(self, key: PortKey) -> int:
        """The nodes with a port that conflicts with the key."""
        by_ip = self._by_slot.get((key.protocol, key.number))
        if not by_ip:
            return 0
        if key.ip != WILDCARD:
            return by_ip.get(WILDCARD, 0) | by_ip.get(key.ip, 0)
        return self._union(by_ip)

    def of_slot(self, slot: Slot) -> int:
        """The nodes with this protocol and number on any address."""
        return self._union(self._by_slot.get(slot, {}))

    def slots_on(self, nodes: int) -> Iterator[Slot]:
        """The slots with one of these nodes."""
        return (slot for slot, by_ip in self._by_slot.items() if self._union(by_ip) & nodes)

    @staticmethod
    def _union(by_ip: dict[str, int]) -> int:
        nodes = 0
        for of_ip in by_ip.values():
            nodes |= of_ip
        return nodes


class CountedNodesBySlot(NodesBySlot):
    """Likewise, for what few claims have: a node that several put there stays until each has taken it back."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        super().__init__()
        self._counts: Counter[tuple[PortKey, int]] = Counter()

    def add(self, key: PortKey, position: int) -> None:
        self._counts[key, position] += 1
        super().add(key, position)

    def discard(self, key: PortKey, position: int) -> None:
        self._counts[key, position] -= 1
        if not self._counts[key, position]:
            del self._counts[key, position]
            super().discard(key, position)


def bits(numbers: int) -> Iterator[int]:
    """The members of a set, in order."""
    while numbers:
        yield lowest(numbers)
        numbers &= numbers - 1
