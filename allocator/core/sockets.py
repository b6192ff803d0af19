"""What the agent of a node reports: which sockets are open there, and the numbers that outgoing connections take.

Rules:

* A report comes in parts (`SocketChange`), and each says what has opened and closed. With the last part it is whole.
* What an agent said stands until it says otherwise, or the Node is gone.
* A socket that a Pod or a lease of the node declares is its own; any other is a process that holds the number.
* When the claim of a Pod ends, its sockets are *presumed* closed: the agent has not looked since, and is asked to.
  Where it looks later on and does not say that they are closed, or says that they have opened, they are open, and
  somebody else's. Those of a lease stay open: its process need not end with it.

A socket takes about 20 bytes here: nodes have few programs, so that what a socket is besides its number is kept once.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from operator import attrgetter
from typing import cast

import msgspec

from allocator.core.candidates import NodeName
from allocator.core.ports import (
    WILDCARD,
    PortKey,
    Protocol,
    Slot,
    canonical_ip,
    number_of,
    protocol_of,
    slot_of,
    slots_of,
)

STALE_SECONDS = 120.0
"""A report that is older is told of where an answer rests on it."""

SETTLING_SECONDS = 2.0
"""A report that comes so long after the end of a Pod was made after it."""

MOST_LISTENERS = 16_384


class Listener(msgspec.Struct, frozen=True, gc=False):
    """A socket less its number: its address (canonical), the name of its process (empty: not known) and its user."""

    ip: str = WILDCARD
    process: str = ""
    uid: int = 0

    def __str__(self) -> str:
        return f"process {self.process}" if self.process else f"a process of user {self.uid}"


ELSEWHERE = "elsewhere"
"""Stands for the addresses that few nodes have."""

_SHARED = frozenset((WILDCARD, "127.0.0.1", "::1"))


def shared_address(ip: str) -> str:
    """An address that many nodes have, as it is; `ELSEWHERE` for any other."""
    return ip if ip in _SHARED else ELSEWHERE


def has_elsewhere(addresses: AbstractSet[str]) -> bool:
    """Whether one of some addresses is such as few nodes have."""
    return len(addresses) > len(addresses & _SHARED)


def listener(ip: str, process: str, uid: int) -> Listener:
    """The same programs listen on every node, and are one object each."""
    return _kept_once(ip, process, uid) if ip in _SHARED else Listener(ip, _kept_once("", process, uid).process, uid)


@lru_cache(maxsize=MOST_LISTENERS)
def _kept_once(ip: str, process: str, uid: int) -> Listener:
    return Listener(ip, process, uid)


class NodeFacts(msgspec.Struct, frozen=True, gc=False):
    """What the agent says of its node besides sockets.

    ephemeral: the lowest and highest number that outgoing connections take; None: not told. kept: the set of the
    numbers that they do not take all the same (ip_local_reserved_ports). reserves: whether the agent adds to those.
    """

    ephemeral: tuple[int, int] | None = None
    kept: int = 0
    reserves: bool = False


class SocketChange(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A part of a report. What closes is told before what opens; of a slot and an address there is one socket.

    facts: set in the last part.
    """

    node: NodeName
    closed: Sequence[tuple[Slot, str]] = ()
    opened: Sequence[tuple[Slot, Listener]] = ()
    facts: NodeFacts | None = None


class NodeSockets:
    """The open sockets of one node, in order of slots and addresses. Those of one slot have different addresses."""

    __slots__ = ("_since", "_slots", "_sockets", "beside", "facts", "presumed", "reported_at")

    def __init__(self) -> None:
        self._slots = array("I")
        self._sockets: list[Listener] = []
        self._since = array("I")  # in seconds of the clock that the ledger is given
        self.presumed: dict[tuple[Slot, str], tuple[Listener, float]] = {}  # closed, and since when
        self.beside: dict[Slot, set[str]] = {}  # where a number is declared on another address alone; see `SocketIndex`
        self.facts = NodeFacts()
        self.reported_at: float | None = None  # when the last whole report came; None: none has

    def __len__(self) -> int:
        """How many sockets are open."""
        return len(self._slots)

    def __iter__(self) -> Iterator[tuple[Slot, Listener]]:
        """The open sockets."""
        return zip(map(Slot, self._slots), self._sockets, strict=True)

    def told(self) -> Iterator[tuple[Slot, Listener]]:
        """What the agent said is open: those that are presumed to be closed among it."""
        yield from self
        for (slot, _), (socket, _) in self.presumed.items():
            yield slot, socket

    def told_on(self, slot: Slot, ip: str) -> Listener | None:
        """That of what the agent said is open which has a slot and an address; None: there is none."""
        at, is_open = self._place(slot, ip)
        if is_open:
            return self._sockets[at]
        presumed = self.presumed.get((slot, ip))
        return presumed and presumed[0]

    def count_told(self) -> int:
        """How many sockets the agent said are open."""
        return len(self._slots) + len(self.presumed)

    def told_slots(self, less: set[tuple[Slot, str]]) -> set[Slot]:
        """The slots of what the agent said is open, less some of it."""
        slots = self.all_slots()
        slots -= {slot for slot in {slot for slot, _ in less} if all((slot, each.ip) in less for each in self.of(slot))}
        slots |= {slot for slot, ip in self.presumed if (slot, ip) not in less}
        return slots

    def all_slots(self) -> set[Slot]:
        """The slots of the open sockets."""
        return cast("set[Slot]", set(self._slots))  # without a call for each: there may be thousands

    def has(self, slot: Slot) -> bool:
        """Whether a socket of the slot is open, on whatever address."""
        at = bisect_left(self._slots, slot)
        return at < len(self._slots) and self._slots[at] == slot

    def slots(self, low: int, high: int) -> Iterator[Slot]:
        """The slots of the open numbers from low to high, in order."""
        for at in range(bisect_left(self._slots, slot_of(Protocol.TCP, low)), len(self._slots)):
            if number_of(Slot(self._slots[at])) > high:
                return
            yield Slot(self._slots[at])

    def of(self, slot: Slot) -> list[Listener]:
        """The open sockets of a slot."""
        at = bisect_left(self._slots, slot)
        return self._sockets[at : bisect_left(self._slots, slot + 1, at)]

    def is_elsewhere(self, slot: Slot) -> bool:
        """Whether a socket of the slot is open on an address that few nodes have. Three are such that many have."""
        at = bisect_left(self._slots, slot)
        slots, sockets = self._slots[at : at + len(_SHARED) + 1], self._sockets[at : at + len(_SHARED) + 1]
        return any(each == slot and socket.ip not in _SHARED for each, socket in zip(slots, sockets, strict=True))

    def since(self, slot: Slot) -> float | None:
        """When the first socket of a slot was told, in seconds; None: none is open."""
        at = bisect_left(self._slots, slot)
        opened = self._since[at : bisect_left(self._slots, slot + 1, at)]
        return float(min(opened)) if opened else None

    def conflicting(self, key: PortKey) -> list[Listener]:
        """The open sockets that conflict with a port, however its address is spelled."""
        ip, slots = canonical_ip(key.ip), slots_of(key.protocol, key.numbers)
        if ip == WILDCARD:
            return [each for slot in slots for each in self.of(slot)]
        places = [self._place(slot, each) for slot in slots for each in (WILDCARD, ip)]
        return [self._sockets[at] for at, is_open in places if is_open]

    def numbers(self, protocol: Protocol, low: int, high: int) -> int:
        """The open numbers of [low, high], less `low`."""
        numbers, slots = 0, self._slots
        for at in range(bisect_left(slots, slot_of(protocol, low)), len(slots)):
            slot = Slot(slots[at])
            if number_of(slot) > high:
                break
            if protocol_of(slot) is protocol:
                numbers |= 1 << number_of(slot) - low
        return numbers

    def put(self, slot: Slot, socket: Listener, now: float) -> bool:
        """Opens a socket, in place of one with its slot and address; whether there was none."""
        at, is_open = self._place(slot, socket.ip)
        if is_open:
            self._sockets[at] = socket
            return False
        self._slots.insert(at, slot)
        self._sockets.insert(at, socket)
        self._since.insert(at, max(0, int(now)))
        return True

    def take(self, slot: Slot, ip: str) -> Listener | None:
        """Closes a socket, and gives it; None: it is not open."""
        at, is_open = self._place(slot, ip)
        if not is_open:
            return None
        del self._slots[at], self._since[at]
        return self._sockets.pop(at)

    def _place(self, slot: Slot, ip: str) -> tuple[int, bool]:
        """Where a socket is or would be, and whether it is open. One number may be open on thousands of addresses."""
        low = bisect_left(self._slots, slot)
        high = bisect_left(self._slots, slot + 1, low)
        at = bisect_left(self._sockets, ip, low, high, key=_ip)
        return at, at < high and self._sockets[at].ip == ip


_ip = attrgetter("ip")
