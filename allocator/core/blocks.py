"""Blocks: ports that stand for several consecutive numbers, and the runs of a set in which they have room.

Rules:

* A block is one entry wherever it is kept, in one int (`Slot`), however many numbers it has.
* Where a run of so many free numbers begins is found by intersections of the set with itself, shifted: their number
  grows with the logarithm of the length.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from typing import Generic, TypeVar, cast

from allocator.core.ports import (
    LAST_SLOT,
    LENGTH_BITS,
    SLOT_STEP,
    Planes,
    Slot,
    larger,
    number_of,
    span,
)

V = TypeVar("V")


def block_of(first: Slot, length: int) -> Slot:
    """So many consecutive numbers from a slot on; of one number the slot itself."""
    return first | length - 1 << LENGTH_BITS  # type: ignore[return-value] # as in `slot_of`


def first_of(block: Slot) -> Slot:
    """The slot of the first number of a block; of a slot itself."""
    return block & LAST_SLOT  # type: ignore[return-value] # as in `slot_of`


def length_of(block: Slot) -> int:
    """How many numbers a block has; 1 of a slot."""
    return (block >> LENGTH_BITS) + 1


def numbers_of(block: Slot) -> range:
    """The numbers of a block, or that of a slot."""
    number = number_of(first_of(block))
    return range(number, number + length_of(block))


def slots_in(block: Slot) -> Sequence[Slot]:
    """The slots of a block, or a slot itself."""
    first = block & LAST_SLOT  # without calls: a search asks this of thousands of runs
    return cast("Sequence[Slot]", range(first, first + SLOT_STEP * length_of(block), SLOT_STEP))


def within(block: Slot, low: int, high: int) -> int:
    """The numbers of a block that lie in [low, high], less `low`."""
    numbers = numbers_of(block)
    return span(max(numbers.start, low) - low, min(numbers.stop - 1, high) - low)


def runs(numbers: int, length: int) -> int:
    """The members of a set with which a run of so many members begins: log2(length) shifts and intersections."""
    found = 1
    while found < length:
        step = min(found, length - found)
        numbers &= numbers >> step
        found += step
    return numbers


def spread(numbers: int, length: int) -> int:
    """The numbers with which a run of so many numbers begins that meets a member of a set; none below zero."""
    found = 1
    while found < length:
        step = min(found, length - found)
        numbers |= numbers >> step
        found += step
    return numbers


def multiples(step: int, first: int, end: int) -> int:
    """The set {first, first + step, …} of numbers below an end."""
    found = have = 0
    for digit in f"{max(0, -(-(end - first) // step)):b}":  # doubled, which takes less than a division of wide numbers
        found |= found << have * step
        have *= 2
        if digit == "1":
            found |= 1 << have * step
            have += 1
    return found << first


def largest_within(planes: Sequence[int], length: int) -> Planes:
    """For each number the largest count of the run of so many numbers that begins with it."""
    found, largest = 1, list(planes)
    while found < length:
        step = min(found, length - found)
        largest = larger(largest, [plane >> step for plane in largest])
        found += step
    return largest


FEW_BLOCKS = 4
"""Blocks of which no order is kept: it takes more room than they do."""


class BlockMap(Generic[V]):
    """Values by block, and the blocks that have a number in common with another one.

    Those of one protocol and length are kept in order, so that a look finds what it gives and nothing else. A few, as
    most nodes have, are gone through.
    """

    __slots__ = ("_starts", "values")

    def __init__(self) -> None:
        self.values: dict[Slot, V] = {}
        self._starts: dict[Slot, list[Slot]] | None = None  # the first slots, by form, in order; None: they are few

    def __len__(self) -> int:
        return len(self.values)

    def put(self, block: Slot, value: V) -> None:
        """Keeps a value in place of the one that the block had."""
        if block not in self.values and self._starts is not None:
            insort(self._starts.setdefault(_form(block), []), first_of(block))
        self.values[block] = value
        if self._starts is None and len(self.values) > FEW_BLOCKS:
            self._starts = {}
            for each in sorted(self.values):
                self._starts.setdefault(_form(each), []).append(first_of(each))

    def drop(self, block: Slot) -> None:
        """Forgets a block, if it is kept."""
        if self.values.pop(block, None) is None or self._starts is None:
            return
        form, first = _form(block), first_of(block)
        starts = self._starts[form]
        del starts[bisect_left(starts, first)]
        if not starts:
            del self._starts[form]

    def meeting(self, wanted: Slot) -> list[Slot]:
        """The blocks that have a number in common with a slot or block, in no order."""
        if self._starts is None:
            return [block for block in self.values if _meet(block, wanted)]
        found: list[Slot] = []
        first, end = first_of(wanted), first_of(wanted) + (length_of(wanted) << 2)
        for form, starts in self._starts.items():
            if (form ^ first) & 3:
                continue
            begin = bisect_right(starts, first - (length_of(form) << 2))
            found += [start | form & ~3 for start in starts[begin : bisect_left(starts, end)]]  # type: ignore[misc] # see `slot_of`
        return found


def _meet(one: Slot, other: Slot) -> bool:
    """Whether two slots or blocks have a number in common, under one protocol."""
    here, there = one & LAST_SLOT, other & LAST_SLOT
    return not (one ^ other) & 3 and here < there + (length_of(other) << 2) and there < here + (length_of(one) << 2)


def _form(block: Slot) -> Slot:
    """Length and protocol of a block."""
    return block & ~LAST_SLOT | block & 3  # type: ignore[return-value] # as in `slot_of`
