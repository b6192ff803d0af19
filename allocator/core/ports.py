"""Port numbers, sets of them as bitmaps, and the one conflict rule.

A set of numbers is an `int` whose bit n says that number n is in the set: union, difference and "lowest free" are then
single operations on machine words, and no dependency is needed. A set that changes is a `NumberSet`, which changes in
place (an int of 65,536 bits would be copied for every port) and is read as an int, as much of it as is asked for.

Longer than 350 lines because numbers, sets of them and counts of them are one representation, the bits of an int.

The conflict rule is the scheduler's (pkg/scheduler/framework, HostPortInfo.CheckConflict): two ports conflict when
protocol and number are equal and either address is the wildcard or both are equal. We treat `::` as the wildcard too,
and compare addresses where the scheduler compares their texts: both are stricter, never laxer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from itertools import zip_longest
from typing import NamedTuple, NewType, TypeVar, cast
from typing import Protocol as Interface

from hostport.contract.limits import HIGHEST_PORT, LOWEST_PORT
from hostport.contract.words import format_run

K = TypeVar("K", bound=Hashable)

WILDCARD = "0.0.0.0"  # noqa: S104 - the scheduler's DefaultBindAllHostIP, nothing is bound here


class Protocol(Enum):
    """core/v1 Protocol."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"

    # Enum's own __hash__ is a Python function over the name; members are singletons, so identity will do.
    __hash__ = object.__hash__


Slot = NewType("Slot", int)
"""A protocol and a number, whatever the address, in one int: half of what a tuple takes, as the key of a map.

A block is one int too: the slot of its first number, with its length less one above `LAST_SLOT`. So a port that stands
for one number is its slot.
"""

LENGTH_BITS = 18
LAST_SLOT = (1 << LENGTH_BITS) - 1
"""What is greater is a block."""

SLOT_STEP = 1 << 2
"""From the slot of a number to that of the next one, of one protocol."""

FIRST_WORD = (1 << 30) - 1
"""The members of a set that lie in its first digit, which is as fast to look at as a small set."""

_ORDER = {protocol: order for order, protocol in enumerate(Protocol)}
_PROTOCOLS = tuple(Protocol)
_ANY = frozenset(("", "::", WILDCARD))


def slot_of(protocol: Protocol, number: int) -> Slot:
    return number << 2 | _ORDER[protocol]  # type: ignore[return-value] # to call Slot takes longer than the rest


def slots_of(protocol: Protocol, numbers: range) -> Sequence[Slot]:
    """The slots of consecutive numbers."""
    return cast("Sequence[Slot]", range(slot_of(protocol, numbers.start), slot_of(protocol, numbers.stop), SLOT_STEP))


def number_of(slot: Slot) -> int:
    return slot >> 2


def protocol_of(slot: Slot) -> Protocol:
    """Of a slot, or of a block."""
    return _PROTOCOLS[slot & 3]


class PortKey(NamedTuple):
    """What conflicts: an address (normalised), a protocol and a number, or a block of so many from that number on."""

    ip: str
    protocol: Protocol
    number: int
    length: int = 1

    @property
    def slot(self) -> Slot:
        """Its protocol and number, or its block."""
        _, protocol, number, length = self
        return length - 1 << LENGTH_BITS | number << 2 | _ORDER[protocol]  # type: ignore[return-value] # as in `slot_of`

    @property
    def numbers(self) -> range:
        """Its numbers."""
        return range(self.number, self.number + self.length)

    def meets(self, other: PortKey) -> bool:
        """Whether both have a number in common under one protocol, whatever the address."""
        return (
            self.number < other.number + other.length
            and other.number < self.number + self.length
            and self.protocol is other.protocol
        )

    def conflicts_with(self, other: PortKey) -> bool:
        """Whether both cannot be had on one node: the conflict rule, for two ports."""
        return self.meets(other) and (self.ip == other.ip or WILDCARD in (self.ip, other.ip))

    def __str__(self) -> str:
        address = "" if self.ip == WILDCARD else f" on {self.ip}"
        return f"{format_run(self.number, self.length)}/{self.protocol.value}{address}"


FEW_PAIRS = 64
"""Pairs of ports that are compared one by one: to sort them by their numbers first takes longer."""


def any_conflict(ports: Collection[PortKey], others: Collection[PortKey]) -> bool:
    """Whether one of some ports conflicts with one of others. It costs what both are together, not each with each."""
    if len(ports) * len(others) <= FEW_PAIRS:
        return any(port.conflicts_with(other) for port in ports for other in others)
    held: dict[Slot, set[str]] = {}
    for other in others:
        for slot in slots_of(other.protocol, other.numbers):
            held.setdefault(slot, set()).add(other.ip)
    for port in ports:
        for slot in slots_of(port.protocol, port.numbers):
            ips = held.get(slot)
            if ips is not None and (port.ip == WILDCARD or port.ip in ips or WILDCARD in ips):
                return True
    return False


def normalise_ip(ip: str) -> str:
    """The address as it counts in a conflict: empty and `::` are the wildcard, and IPv6 is spelled in one way."""
    if ip in _ANY:
        return WILDCARD
    return canonical_ip(ip) if ":" in ip else ip


def canonical_ip(ip: str) -> str:
    """The address, spelled in one way as those of sockets are; a text that is none."""
    return read_ip(ip) or ip


@lru_cache(maxsize=4096)
def read_ip(text: str) -> str | None:
    """An address, spelled in one way; empty is the wildcard. None where it is no address.

    IPv4 in IPv6 is that IPv4 address, and a zone says nothing.
    """
    if text in _ANY:
        return WILDCARD
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return WILDCARD if address.is_unspecified else str(address)


class HeldPort(Interface):
    """What has a protocol, a number and an address on a node."""

    @property
    def protocol(self) -> Protocol: ...

    @property
    def host_port(self) -> int: ...

    @property
    def host_ip(self) -> str: ...

    @property
    def count(self) -> int: ...


def slots_and_addresses(ports: Iterable[HeldPort]) -> list[tuple[Slot, str]]:
    """The slots of some ports, and the blocks of those that have several numbers, each with its address (normalised).

    A slot is one object for all maps that it goes into. Each pair comes once: a socket may have two names.
    """
    keys = [
        (
            port.count - 1 << LENGTH_BITS | port.host_port << 2 | _ORDER[port.protocol],
            normalise_ip(port.host_ip) if port.host_ip else WILDCARD,
        )
        for port in ports
    ]
    return cast("list[tuple[Slot, str]]", keys if len(keys) == 1 else list(dict.fromkeys(keys)))


def span(low: int, high: int) -> int:
    """The set {low, …, high}; empty when low > high."""
    return (1 << (high + 1)) - (1 << low) if low <= high else 0


def set_of(numbers: Iterable[int]) -> int:
    """The set of some numbers."""
    numbers = list(numbers)
    members = bytearray((max(numbers, default=0) >> 3) + 1)  # an int would be copied for each number
    for number in numbers:
        members[number >> 3] |= 1 << (number & 7)
    return int.from_bytes(members, "little")


def take_out(sets: dict[K, int], key: K, members: int) -> None:
    """Takes members out of one of some sets, which is there; an empty one is forgotten."""
    left = sets[key] & ~members
    if left:
        sets[key] = left
    else:
        del sets[key]


def lowest(numbers: int) -> int:
    """The lowest number of a set that is not empty."""
    first = numbers & FIRST_WORD or numbers  # a large set is copied only where that is needed
    return (first & -first).bit_length() - 1


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


_FULL = 0xFF
_FULL_BYTE = bytes((_FULL,))


class NumberSet:
    """A set of numbers that changes. As large as its highest number, an eighth of that in bytes."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, number: int) -> None:
        """Puts a number in, that may be a member already."""
        at = number >> 3
        if at >= len(self._bytes):
            self._bytes.extend(bytes(at + 1 - len(self._bytes)))
        self._bytes[at] |= 1 << (number & 7)

    def discard(self, number: int) -> None:
        """Takes a number out, that need not be a member."""
        at = number >> 3
        if at < len(self._bytes):
            self._bytes[at] &= ~(1 << (number & 7))

    def assign(self, base: int, numbers: int, size: int) -> None:
        """Makes the members of [base, base + size) what a set says, less `base`, whatever they were."""
        first, last, shift = base >> 3, base + size + 7 >> 3, base & 7
        if last > len(self._bytes):
            self._bytes.extend(bytes(last - len(self._bytes)))
        others = int.from_bytes(self._bytes[first:last], "little") & ~((1 << size) - 1 << shift)
        self._bytes[first:last] = (others | numbers << shift).to_bytes(last - first, "little")

    def add_all(self, base: int, numbers: int) -> None:
        """Adds each member of a set, less `base`."""
        if numbers:
            size = numbers.bit_length()
            self.assign(base, self.within(base, base + size - 1) | numbers, size)

    def put(self, base: int, numbers: int, size: int) -> None:
        """Sets the members of [base, base + size), of which there are none so far, in bytes of eight numbers."""
        first, last = base >> 3, base + size >> 3
        if numbers:
            self._bytes.extend(bytes(max(0, last - len(self._bytes))))
            self._bytes[first:last] = numbers.to_bytes(last - first, "little")

    def within(self, low: int, high: int) -> int:
        """The members in [low, high], less `low`: bit 0 says whether `low` is one."""
        found = int.from_bytes(self._bytes[low >> 3 : (high >> 3) + 1], "little") >> (low & 7)
        return found & ((1 << (high - low + 1)) - 1)

    def filled(self, low: int, high: int) -> int:
        """How far it is full from `low` on, towards `high`: so many numbers are members, or a few more."""
        first, last = low >> 3, (high >> 3) + 1
        if first >= len(self._bytes) or self._bytes[first] | (1 << (low & 7)) - 1 != _FULL:
            return 0
        rest = self._bytes[first + 1 : last]
        return (len(rest) - len(rest.lstrip(_FULL_BYTE)) + 1) * 8 - (low & 7)


def parse_numbers(text: str) -> int:
    """The set that `22,2379-2381` names; the empty text names the empty set.

    Raises:
        ValueError: a part is neither a number in 1..65535 nor an ascending pair of such.

    """
    numbers = 0
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not LOWEST_PORT <= low <= high <= HIGHEST_PORT:
            raise ValueError(f"{part!r} is neither a port in 1..65535 nor a range such as 10248-10259")
        numbers |= span(low, high)
    return numbers


def format_numbers(numbers: int) -> str:
    """The inverse of parse_numbers, with ranges as long as they can be."""
    return ",".join([format_run(low, high - low + 1) for low, high in runs_of(numbers)])


def runs_of(numbers: int) -> Iterator[tuple[int, int]]:
    """The members of a set as runs, each with its first and its last number, in order."""
    for run in re.finditer("1+", f"{numbers:b}"[::-1]):  # as in `bits`
        yield run.start(), run.end() - 1


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
        """Adds one to the count of a number."""
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

    def add_all(self, base: int, numbers: int) -> None:
        """Adds one to the count of each member of a set, less `base`."""
        carry, first = numbers << (base & 7), base >> 3
        last = first + (carry.bit_length() + 7 >> 3)
        for plane in self._planes:
            if not carry:
                return
            if last > len(plane):
                plane.extend(bytes(last - len(plane)))
            before = int.from_bytes(plane[first:last], "little")
            plane[first:last] = (before ^ carry).to_bytes(last - first, "little")
            carry &= before
        if carry:
            self._planes.append(bytearray(first) + carry.to_bytes(last - first, "little"))

    def discard_all(self, base: int, numbers: int) -> None:
        """Takes one away from the count of each member of a set, less `base`; none of these is zero."""
        borrow, first = numbers << (base & 7), base >> 3
        last = first + (borrow.bit_length() + 7 >> 3)
        for plane in self._planes:
            if not borrow:
                return
            if last > len(plane):
                plane.extend(bytes(last - len(plane)))
            before = int.from_bytes(plane[first:last], "little")
            plane[first:last] = (before ^ borrow).to_bytes(last - first, "little")
            borrow &= ~before
        if borrow:
            raise AssertionError(f"a count from {base} on is zero")

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

    def members(self, low: int, high: int) -> int:
        """The numbers of [low, high] whose count is not zero, less `low`."""
        numbers, first, last = 0, low >> 3, (high >> 3) + 1
        for plane in self._planes:
            numbers |= int.from_bytes(plane[first:last], "little")
        return numbers >> (low & 7) & (1 << high - low + 1) - 1

    def within(self, low: int, high: int) -> Planes:
        """The counts of [low, high], less `low`: bit 0 of each plane is that of `low`."""
        mask = (1 << (high - low + 1)) - 1
        first, last, shift = low >> 3, (high >> 3) + 1, low & 7
        return [int.from_bytes(plane[first:last], "little") >> shift & mask for plane in self._planes]


BLOCK = 256
"""Numbers that are counted together when one of them is first asked about."""

_WHOLE, _NOTHING = b"\xff" * (BLOCK // 8), bytes(BLOCK // 8)
"""All numbers of a block, and none, as a set in bytes."""


@dataclass(slots=True, eq=False)
class HeldCounts:
    """What is held of one protocol on some nodes: by anybody (`held`, `standing`), and by somebody settled."""

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

    def arrive(self, number: int, *, is_first: bool, is_settled: bool) -> None:
        """A node has a holder more: the first one there, the first settled, or neither. The block is built."""
        if is_first:
            self.held.add(number)
            self.standing.add(number)
        if is_settled:
            self.settled.add(number)

    def count(self, first: int, length: int, *, held: int, settled: int, change: int) -> None:
        """A node has a holder, or somebody settled, more (1) or less (-1) for some of a run of numbers.

        held, settled: these numbers, less the first of the run. Those of blocks that are not built are left out.
        """
        lowest_block, highest_block = first // BLOCK, (first + length - 1) // BLOCK
        if span(lowest_block, highest_block) & ~self.built:
            blocks = [_WHOLE if self.built >> at & 1 else _NOTHING for at in range(lowest_block, highest_block + 1)]
            built = int.from_bytes(b"".join(blocks), "little") >> first - lowest_block * BLOCK
            held, settled = held & built, settled & built
        if not held | settled:
            return
        if change > 0:
            self.held.add_all(first, held)
            self.settled.add_all(first, settled)
            self.standing.add_all(first, held)
        else:
            self.held.discard_all(first, held)
            self.settled.discard_all(first, settled)
            self.standing.assign(first, self.held.members(first, first + length - 1), length)

    def depart(self, number: int, *, is_last: bool, is_settled: bool) -> None:
        """A node has a holder less: the last one there, the last settled, or neither. The block is built."""
        if is_last:
            self.held.discard(number)
            if not self.held.has(number):
                self.standing.discard(number)
        if is_settled:
            self.settled.discard(number)


class GatheredCounts:
    """What one step changes in the counts of several `HeldCounts`, put together, so that each is changed once.

    It is told as one of them would be. Whether a block is built is asked of each at the end.
    """

    __slots__ = ("_first", "_held", "_last", "_settled")
    built = -1

    def __init__(self) -> None:
        self._first, self._last = HIGHEST_PORT, -1
        self._held, self._settled = NumberSet(), NumberSet()

    def _reach(self, first: int, last: int) -> None:
        self._first, self._last = min(self._first, first), max(self._last, last)

    def arrive(self, number: int, *, is_first: bool, is_settled: bool) -> None:
        """As `HeldCounts.arrive`."""
        self._reach(number, number)
        if is_first:
            self._held.add(number)
        if is_settled:
            self._settled.add(number)

    def depart(self, number: int, *, is_last: bool, is_settled: bool) -> None:
        """As `HeldCounts.depart`."""
        self.arrive(number, is_first=is_last, is_settled=is_settled)

    def count(self, first: int, length: int, *, held: int, settled: int, change: int) -> None:
        """As `HeldCounts.count`. The `change` is that of the whole step."""
        self._reach(first, first + length - 1)
        self._held.add_all(first, held)
        self._settled.add_all(first, settled)

    def pass_on(self, counts: Iterable[HeldCounts], change: int) -> None:
        """Changes each of some counts. `change`: 1, what was told has come; -1, it has gone."""
        if self._last < 0:
            return
        held, settled = (each.within(self._first, self._last) for each in (self._held, self._settled))
        for each in counts:
            each.count(self._first, self._last - self._first + 1, held=held, settled=settled, change=change)
