"""Port numbers, sets of them as bitmaps, and the one conflict rule.

A set of numbers is an `int` whose bit n says that number n is in the set: union, difference and "lowest free" are then
single operations on machine words, and no dependency is needed. A set that changes is a `NumberSet`, which changes in
place (an int of 65,536 bits would be copied for every port) and is read as an int, as much of it as is asked for.

The conflict rule is the scheduler's (pkg/scheduler/framework, HostPortInfo.CheckConflict): two ports conflict when
protocol and number are equal and either address is the wildcard or both are equal. We treat `::` as the wildcard too,
which is stricter, never laxer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple, NewType, cast

MIN_PORT = 1
MAX_PORT = 65535
WILDCARD = "0.0.0.0"  # noqa: S104 - the scheduler's DefaultBindAllHostIP, nothing is bound here

# The control plane and the kubelet, etcd, ssh, and what most clusters run on the host network: node-exporter (9100),
# MetalLB (7472, 7946).
DEFAULT_RESERVED = "22,2379-2381,6443,7472,7946,9100,10248-10259"


class Protocol(Enum):
    """core/v1 Protocol."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"

    # Enum's own __hash__ is a Python function over the name; members are singletons, so identity will do.
    __hash__ = object.__hash__


Slot = NewType("Slot", int)
"""A protocol and a number, whatever the address, in one int: half of what a tuple takes, as the key of a map."""

FIRST_WORD = (1 << 30) - 1
"""The members of a set that lie in its first digit, which is as fast to look at as a small set."""

_ORDER = {protocol: order for order, protocol in enumerate(Protocol)}
_PROTOCOLS = tuple(Protocol)


def slot_of(protocol: Protocol, number: int) -> Slot:
    return number << 2 | _ORDER[protocol]  # type: ignore[return-value] # to call Slot takes longer than the rest


def slots_of(protocol: Protocol, numbers: range) -> Sequence[Slot]:
    """The slots of consecutive numbers."""
    low, end = slot_of(protocol, numbers.start), slot_of(protocol, numbers.stop)
    return cast("Sequence[Slot]", range(low, end, slot_of(protocol, 1) - slot_of(protocol, 0)))


def number_of(slot: Slot) -> int:
    return slot >> 2


def protocol_of(slot: Slot) -> Protocol:
    return _PROTOCOLS[slot & 3]


class PortKey(NamedTuple):
    """What conflicts: an address (normalised), a protocol and a number."""

    ip: str
    protocol: Protocol
    number: int

    @property
    def slot(self) -> Slot:
        return slot_of(self.protocol, self.number)

    def conflicts_with(self, other: PortKey) -> bool:
        return (
            self.number == other.number
            and self.protocol is other.protocol
            and (self.ip == other.ip or WILDCARD in (self.ip, other.ip))
        )

    def __str__(self) -> str:
        address = "" if self.ip == WILDCARD else f" on {self.ip}"
        return f"{self.number}/{self.protocol.value}{address}"


def normalise_ip(ip: str) -> str:
    """The address as it counts in a conflict: empty and `::` are the wildcard."""
    return WILDCARD if ip in {"", "::", WILDCARD} else ip


def span(low: int, high: int) -> int:
    """The set {low, …, high}; empty when low > high."""
    return (1 << (high + 1)) - (1 << low) if low <= high else 0


def set_of(numbers: Iterable[int]) -> int:
    """The set of some numbers."""
    members = 0
    for number in numbers:
        members |= 1 << number
    return members


def lowest(numbers: int) -> int:
    """The lowest number of a set that is not empty."""
    first = numbers & FIRST_WORD or numbers  # a large set is copied only where that is needed
    return (first & -first).bit_length() - 1


class NumberSet:
    """A set of numbers that changes. As large as its highest number, an eighth of that in bytes."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, number: int) -> None:
        at = number >> 3
        if at >= len(self._bytes):
            self._bytes.extend(bytes(at + 1 - len(self._bytes)))
        self._bytes[at] |= 1 << (number & 7)

    def discard(self, number: int) -> None:
        at = number >> 3
        if at < len(self._bytes):
            self._bytes[at] &= ~(1 << (number & 7))

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


def parse_numbers(text: str) -> int:
    """The set that `22,2379-2381` names; the empty text names the empty set.

    Raises:
        ValueError: a part is neither a number in 1..65535 nor an ascending pair of such.

    """
    numbers = 0
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not MIN_PORT <= low <= high <= MAX_PORT:
            raise ValueError(f"{part!r} is neither a port in 1..65535 nor a range such as 10248-10259")
        numbers |= span(low, high)
    return numbers


def format_numbers(numbers: int) -> str:
    """The inverse of parse_numbers, with ranges as long as they can be."""
    parts = []
    while numbers:
        low = lowest(numbers)
        length = lowest(~(numbers >> low))
        parts.append(f"{low}-{low + length - 1}" if length > 1 else str(low))
        numbers &= ~span(low, low + length - 1)
    return ",".join(parts)
