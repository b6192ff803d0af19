"""The sets of nodes on which slots (a protocol and a number) are held, as bitmaps over node positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from allocator.core.ports import WILDCARD, PortKey, Slot


class NodesBySlot:
    """Slot → address → set of nodes. The wildcard, which nearly all ports have, has a map of its own."""

    __slots__ = ("anywhere", "by_ip")

    def __init__(self) -> None:
        self.anywhere: dict[Slot, int] = {}
        self.by_ip: dict[Slot, dict[str, int]] = {}

    def add(self, slot: Slot, ip: str, node: int) -> None:
        """Adds a node, as a set. Slot and node are the caller's objects: one for all indexes."""
        if ip == WILDCARD:
            self.anywhere[slot] = self.anywhere.get(slot, 0) | node
            return
        by_ip = self.by_ip.setdefault(slot, {})
        by_ip[ip] = by_ip.get(ip, 0) | node

    def discard(self, slot: Slot, ip: str, node: int) -> None:
        if ip == WILDCARD:
            _discard(self.anywhere, slot, node)
            return
        by_ip = self.by_ip.get(slot, {})
        _discard(by_ip, ip, node)
        if not by_ip:
            self.by_ip.pop(slot, None)

    def conflicting(self, key: PortKey) -> int:
        """The nodes with a port that conflicts with the key."""
        return conflicting((self,), key)

    def of_slot(self, slot: Slot) -> int:
        """The nodes with this protocol and number on any address."""
        nodes = self.anywhere.get(slot, 0)
        if self.by_ip:  # hardly ever
            for of_ip in self.by_ip.get(slot, {}).values():
                nodes |= of_ip
        return nodes

    @property
    def lookup(self) -> Callable[[Slot, int], int]:
        """`of_slot` for many slots in a row, while nothing changes; its second argument is 0."""
        return (lambda slot, _: self.of_slot(slot)) if self.by_ip else self.anywhere.get

    def slots(self) -> Iterator[Slot]:
        """The slots with any node."""
        return iter(self.anywhere.keys() | self.by_ip.keys() if self.by_ip else self.anywhere)

    def __len__(self) -> int:
        """How many slots have any node, on the wildcard and on addresses."""
        return len(self.anywhere) + len(self.by_ip)


def conflicting(indexes: Iterable[NodesBySlot], key: PortKey) -> int:
    """The nodes that have a port, in any of the indexes, that conflicts with the key."""
    ip, slot, nodes = key.ip, key.slot, 0
    for index in indexes:
        here = index.anywhere.get(slot, 0)
        if index.by_ip and slot in index.by_ip:
            here |= index.of_slot(slot) if ip == WILDCARD else index.by_ip[slot].get(ip, 0)
        if here:  # to unite a large set with nothing would copy it
            nodes = nodes | here if nodes else here
    return nodes


K = TypeVar("K")


def _discard(sets: dict[K, int], key: K, node: int) -> None:
    """Takes a node out of one of some sets; an empty one is forgotten."""
    nodes = sets.get(key, 0) & ~node
    if nodes:
        sets[key] = nodes
    else:
        sets.pop(key, None)


def bits(numbers: int) -> Iterator[int]:
    """The members of a set, in order.

    Found in its digits: to take one bit after the other from a large set would copy the set each time.
    """
    if not numbers & (numbers - 1):  # one, as is that of a Pod of a DaemonSet, or none
        if numbers:
            yield numbers.bit_length() - 1
        return
    digits = f"{numbers:b}"[::-1]
    at = digits.find("1")
    while at >= 0:
        yield at
        at = digits.find("1", at + 1)
