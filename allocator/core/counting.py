"""Counts of many numbers at once, as bit planes.

A count for each of thousands of numbers is a list of sets: bit n of plane i is bit i of the count of number n. To add
two such lists, to compare them, or to find the numbers with the smallest count is then a few operations on large
integers, however many numbers there are. A loop over the numbers would take a microsecond for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

Planes = list[int]
"""Counts: bit n of plane i is bit i of the count of number n. No plane: every count is zero."""


def plus(one: Sequence[int], other: Sequence[int]) -> Planes:
    """The sums of two counts."""
    total: Planes = []
    carry = 0
    for a, b in zip_longest(one, other, fillvalue=0):
        total.append(a ^ b ^ carry)
        carry = a & b | carry & (a ^ b)
    if carry:
        total.append(carry)
    return total


def larger(one: Sequence[int], other: Sequence[int]) -> Planes:
    """For each number the larger one of two counts."""
    pairs = list(zip_longest(one, other, fillvalue=0))
    first, decided = 0, 0
    for a, b in reversed(pairs):
        differs = (a ^ b) & ~decided
        first |= differs & a
        decided |= differs
    return [a & first | b & ~first for a, b in pairs]


def least(planes: Sequence[int], among: int) -> int:
    """Of some numbers those with the smallest count."""
    for plane in reversed(planes):
        fewer = among ^ (among & plane)  # to negate the plane would take two copies more
        if fewer:
            among = fewer
    return among


def equal(planes: Sequence[int], value: int, among: int) -> int:
    """Of some numbers those whose count is the value."""
    if value >> len(planes):
        return 0
    for order in reversed(range(len(planes))):  # the highest first: few numbers have that
        if not among:
            return 0
        having = among & planes[order]
        among = having if value >> order & 1 else among ^ having
    return among


def at_least(planes: Sequence[int], value: int, among: int) -> int:
    """Of some numbers those whose count is the value or more."""
    if value >> len(planes):
        return 0
    more, same = 0, among
    for order in reversed(range(len(planes))):
        if value >> order & 1:
            same &= planes[order]
        else:
            more |= same & planes[order]
            same &= ~planes[order]
    return more | same


def count_of(planes: Sequence[int], number: int) -> int:
    """The count of one number."""
    return sum((plane >> number & 1) << order for order, plane in enumerate(planes))


class CountedNumbers:
    """Counts that change, one for each number. A plane takes an eighth of its highest number in bytes."""

    __slots__ = ("_planes",)

    def __init__(self) -> None:
        self._planes: list[bytearray] = []

    def add(self, number: int) -> None:
        at, bit = number >> 3, 1 << (number & 7)
        for plane in self._planes:
            if at >= len(plane):
                plane.extend(bytes(at + 1 - len(plane)))
            changed = plane[at] = plane[at] ^ bit
            if changed & bit:
                return  # nothing to carry
        plane = bytearray(at + 1)
        plane[at] = bit
        self._planes.append(plane)

    def discard(self, number: int) -> None:
        """Takes one away from a count that is not zero."""
        at, bit = number >> 3, 1 << (number & 7)
        for plane in self._planes:
            if at >= len(plane):
                plane.extend(bytes(at + 1 - len(plane)))
            changed = plane[at] = plane[at] ^ bit
            if not changed & bit:
                return  # nothing to borrow
        raise AssertionError(f"the count of {number} is zero")

    def put(self, base: int, numbers: Mapping[int, int], size: int) -> None:
        """Sets the counts of [base, base + size), which are zero so far, in bytes of eight numbers.

        numbers: for each count the numbers that have it, less `base`.
        """
        first, last = base >> 3, base + size >> 3
        for order in range(max(numbers, default=0).bit_length()):
            bits = 0
            for count, having in numbers.items():
                bits |= having if count >> order & 1 else 0
            if order == len(self._planes):
                self._planes.append(bytearray())
            plane = self._planes[order]
            if bits:
                plane.extend(bytes(max(0, last - len(plane))))
                plane[first:last] = bits.to_bytes(last - first, "little")

    def has(self, number: int) -> bool:
        """Whether the count is above zero."""
        at, bit = number >> 3, 1 << (number & 7)
        for plane in self._planes:  # noqa: SIM110 - in the way of every decision, and a generator takes twice as long
            if at < len(plane) and plane[at] & bit:
                return True
        return False

    def within(self, low: int, high: int) -> Planes:
        """The counts of [low, high], less `low`: bit 0 of each plane is that of `low`."""
        mask = (1 << (high - low + 1)) - 1
        first, last, shift = low >> 3, (high >> 3) + 1, low & 7
        return [int.from_bytes(plane[first:last], "little") >> shift & mask for plane in self._planes]
