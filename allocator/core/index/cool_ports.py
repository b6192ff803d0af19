"""Where numbers cool, kept from both sides: the nodes of each slot, and the numbers of each node."""

from __future__ import annotations

from allocator.core.ports import BLOCK, Protocol, Slot, number_of, slot_of, span, take_out

_POSITION_BITS = 32
_POSITION = (1 << _POSITION_BITS) - 1

_ROW_BYTES = BLOCK // 8

Place = int
"""A slot and the position of a node, in one int."""


def place_of(slot: Slot, position: int) -> Place:
    """The place of a slot on a node."""
    return slot << _POSITION_BITS | position


def position_of(place: Place) -> int:
    """The position of the node."""
    return place & _POSITION


class CoolPorts:
    """Which slots cool on which nodes, kept from both sides: `nodes` by slot, and the numbers of a node in rows.

    A row has the numbers of one protocol on one node that lie in one `BLOCK`, less its first.
    """

    __slots__ = ("nodes", "rows")

    def __init__(self, like: CoolPorts | None = None) -> None:
        """like: has what cools from the beginning on. To copy it takes less than to add all of it."""
        self.nodes: dict[Slot, int] = dict(like.nodes) if like else {}
        self.rows: dict[int, int] = dict(like.rows) if like else {}

    def add(self, place: Place) -> None:
        """Adds a node to those of a slot."""
        slot, position = Slot(place >> _POSITION_BITS), position_of(place)
        self.nodes[slot] = self.nodes.get(slot, 0) | 1 << position
        row = _row_key(position, slot & 3, number_of(slot) // BLOCK)
        self.rows[row] = self.rows.get(row, 0) | 1 << number_of(slot) % BLOCK

    def discard(self, place: Place) -> None:
        """Takes a node out of those of a slot, where it is one."""
        slot, position = Slot(place >> _POSITION_BITS), position_of(place)
        take_out(self.nodes, slot, 1 << position)
        take_out(self.rows, _row_key(position, slot & 3, number_of(slot) // BLOCK), 1 << number_of(slot) % BLOCK)

    def on(self, position: int, protocol: Protocol, low: int, high: int) -> int:
        """The numbers of [low, high] that cool on a node, less `low`."""
        first, last = low // BLOCK, high // BLOCK
        begin, at = _row_key(position, slot_of(protocol, 0), first), self.rows.get
        rows = [at(row, 0).to_bytes(_ROW_BYTES, "little") for row in range(begin, begin + last - first + 1)]
        return int.from_bytes(b"".join(rows), "little") >> low - first * BLOCK & span(0, high - low)


def _row_key(position: int, order: int, block: int) -> int:
    """The key of a row. Those of blocks that follow one another follow one another. order: of the protocol."""
    return (position << 2 | order) << 8 | block
