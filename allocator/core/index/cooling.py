"""Which numbers were given up lately, and on which nodes, so that others get them last.

Clients of a Pod that is gone (UDP, NAT, connection tracking) go on sending to its number for a while, and whoever has
it next gets what was meant for somebody else. So a number *cools down* on the node where it was given up.

Rules:

* Only who was settled gives a number up: a Pod on its node, or a lease. Nobody ever sent to what was merely reserved.
* It is an order, never a verdict: what cools is given where nothing else is free.
* Who had a number gets it back at once.
* Kept in memory alone, for an hour, and of the ports that were given up last: what is forgotten harms nobody.
* A position of a node is not given to another node while a number cools there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import reduce
from itertools import islice
from math import inf
from operator import and_, or_
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from allocator.core.blocks import slots_in
from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId
from allocator.core.index.candidate_sets import CandidateSet
from allocator.core.index.cool_ports import CoolPorts, Place, place_of, position_of
from allocator.core.ports import (
    WILDCARD,
    Planes,
    PortKey,
    Protocol,
    Slot,
    bits,
    least,
    lowest,
    number_of,
    set_of,
    slot_of,
    slots_of,
    span,
)
from hostport.contract.limits import LONGEST_COOL_DOWN

if TYPE_CHECKING:
    from allocator.core.index.ports import NodeTable

MOST_GIVEN_UP = 32_768
"""Ports that are remembered. Each takes about 250 bytes."""

MOST_AT_ONCE = 4_096
"""Ports that are forgotten in one go. What is left cools until the next one."""

MOST_DURATIONS = 8
"""Different cool-downs for which what cools is kept ready. For any other it is gone through what is remembered."""

MOST_LOOKS = 256
"""Numbers of which is asked where they are held, before those are tried that may be free where they do not cool."""

ZERO, ONE = b"01"


class Reuse(Enum):
    """Which of the numbers that are free everywhere a policy that searches gives."""

    LOWEST = "lowest"
    OLDEST = "oldest"
    RANDOM = "random"


class Cooling:
    """What was given up in the last `seconds`."""

    def __init__(self, seconds: float, remembered: OrderedDict[Place, float]) -> None:
        """remembered: when everything that is known was given up, in seconds; the oldest first."""
        self.ports = CoolPorts()
        self._seconds = seconds
        self._remembered = remembered
        self._begun: list[Place] = []  # what `begin` took, the oldest last
        self._at: OrderedDict[Place, float] = OrderedDict()  # what was added later, the oldest first

    def add(self, place: Place, at: float) -> None:
        """A port was given up, later than all that were added before. `at`: in seconds."""
        self._at[place] = at
        self._at.move_to_end(place)
        self.ports.add(place)
        if len(self._at) > MOST_GIVEN_UP:  # what else is too much, `expire` forgets
            self._forget_oldest()

    def begin(self, ports: CoolPorts, since: float) -> None:
        """Takes all that was given up after a time, in seconds. ports: all that is remembered.

        There may be tens of thousands, in one go.
        """
        at = self._remembered
        newest = list(reversed(at))
        count = bisect_left(newest, -since, key=lambda place: -at[place])
        self._begun = newest[:count]
        if 2 * count > len(newest):  # to copy a map takes next to nothing
            self.ports = CoolPorts(ports)
            for place in newest[count:]:
                self.ports.discard(place)
        else:
            for place in self._begun:
                self.ports.add(place)

    def expire(self, now: float) -> None:
        """Forgets what has cooled down by now, and what is remembered no more; `MOST_AT_ONCE` of it at most."""
        for _ in range(MOST_AT_ONCE):
            oldest = self._begun[-1] if self._begun else next(iter(self._at), None)
            is_stale = self._begun and oldest in self._at
            if oldest is None or not (is_stale or now - self._remembered.get(oldest, -inf) >= self._seconds):
                return
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        place = self._begun.pop() if self._begun else self._at.popitem(last=False)[0]
        if place not in self._at:  # else it was given up once more
            self.ports.discard(place)


class GivenUp:
    """The ports that were given up in the last hour, and what of them cools for how long."""

    def __init__(self, nodes: NodeTable) -> None:
        """nodes: those where ports are held."""
        self.keeps_order = False  # whether `oldest_first` is asked
        self.at: OrderedDict[Place, float] = OrderedDict()  # the oldest first
        self._nodes = nodes
        self._given_up = CoolPorts()  # all that is remembered
        self._by_seconds: OrderedDict[float, Cooling] = OrderedDict()  # the one that was asked for last is the last
        self._ends = 0  # claims that gave numbers up, while the order is kept
        self._order: Planes = []  # for each number, which of those was the last to give it up; 0: none was

    def note(self, claim: Claim, name: NodeName | None, now: float) -> None:
        """A claim ends at `now` seconds: its numbers cool on the node where it was settled. None: it was nowhere."""
        if name is None or not self._nodes.is_known(name):
            return  # nobody is placed there
        position = self._nodes.position(name)
        entry = self._nodes.at(position)
        if self.keeps_order:
            self._put_last(claim)
        for slot in _slots(claim):
            place = place_of(slot, position)
            if place not in self.at:
                entry.cooling += 1
                self._given_up.add(place)
            self.at[place] = now
            self.at.move_to_end(place)
            for cooling in self._by_seconds.values():
                cooling.add(place, now)
        self._forget(now)

    def _put_last(self, claim: Claim) -> None:
        """The numbers of a claim were given up last of all."""
        self._ends += 1
        numbers = 0
        for port in claim.ports:
            numbers |= span(port.host_port, port.host_port + (port.count or 1) - 1)
        self._order += [0] * (self._ends.bit_length() - len(self._order))
        for order, plane in enumerate(self._order):
            self._order[order] = plane | numbers if self._ends >> order & 1 else plane & ~numbers

    def cooling(self, seconds: float, now: float) -> Cooling | None:
        """What was given up less than so many seconds before `now`; None where that is nothing."""
        self._forget(now)
        cooling = self._by_seconds.get(seconds)
        if cooling is None:
            cooling = self._by_seconds[seconds] = Cooling(seconds, self.at)
            cooling.begin(self._given_up, now - seconds)
            if len(self._by_seconds) > MOST_DURATIONS:
                self._by_seconds.popitem(last=False)
        self._by_seconds.move_to_end(seconds)
        cooling.expire(now)
        return cooling if cooling.ports.nodes else None

    def oldest_first(self, low: int) -> Callable[[int], int]:
        """What picks one of a set of numbers, less `low`: one that was never given up, else that of longest ago.

        Ties go to the lowest: a claim gives up all of its numbers at once.
        """
        order = [plane >> low for plane in self._order]

        def pick(numbers: int) -> int:
            return lowest(least(order, numbers))

        return pick

    def _forget(self, now: float) -> None:
        """Forgets what was given up an hour ago, and what is too much."""
        at = self.at
        for _ in range(MOST_AT_ONCE):
            if not at or (len(at) <= MOST_GIVEN_UP and now - at[next(iter(at))] < LONGEST_COOL_DOWN):
                return
            place, _ = at.popitem(last=False)
            self._given_up.discard(place)
            position = position_of(place)
            self._nodes.at(position).cooling -= 1
            self._nodes.forget_if_idle(position)


def _slots(claim: Claim) -> Iterator[Slot]:
    """All that a claim holds, each number of its blocks among them."""
    for port in claim.ports:
        yield from slots_in(port.key.slot)


class NumbersHeld(NamedTuple):
    """What is held, for one protocol. taken: the numbers of a range that anybody has on a candidate, less its lowest.

    nodes: where a port is held.
    """

    taken: Callable[[int, int], int]
    nodes: Callable[[PortKey], int]


_Range = tuple[CandidateSet, Protocol, int, int]


class CoolDown:
    """What cools for one ask."""

    def __init__(self, ports: CoolPorts, own: frozenset[int]) -> None:
        """own: numbers that do not cool for the ask, as its owner had them."""
        self._ports = ports
        self._own = own
        # What is known for this ask, which sees one moment.
        self._cool: dict[_Range, tuple[int, int]] = {}
        self._full: dict[_Range, int] = {}

    def unless(self, numbers: Iterable[int]) -> CoolDown:
        """The same, but for some numbers: somebody named them."""
        return CoolDown(self._ports, self._own.union(numbers))

    def numbers(self, candidates: CandidateSet, protocols: Iterable[Protocol], low: int, high: int) -> int:
        """The numbers of [low, high] that cool on any candidate under any of the protocols, as a set."""
        found = 0
        for protocol in protocols:
            found |= self._some_and_every(candidates, protocol, low, high)[0]
        return found << low & ~set_of(self._own)

    def on(self, position: int, protocol: Protocol, low: int, high: int) -> int:
        """The numbers of [low, high] that cool on a node, less `low`."""
        return self._ports.on(position, protocol, low, high) & ~(set_of(self._own) >> low)

    def nodes(self, keys: Iterable[PortKey]) -> int:
        """The nodes where any of the keys cools."""
        found, nodes = 0, self._ports.nodes
        for key in keys:
            for slot in slots_in(key.slot):
                if slot in nodes and number_of(slot) not in self._own:
                    found |= nodes[slot]
        return found

    def full(self, candidates: CandidateSet, protocol: Protocol, low: int, high: int, held: NumbersHeld) -> int:
        """Numbers of [low, high] that on each candidate cool or are held, and cool on one, less `low`.

        Whoever is not found among `MOST_LOOKS` that are held somewhere is not given: it is tried, in vain.
        """
        known = self._full.get((candidates, protocol, low, high))
        if known is not None:
            return known
        everywhere, nodes, own = candidates.nodes, self._ports.nodes, set_of(self._own) >> low
        some, numbers = self._some_and_every(candidates, protocol, low, high)
        numbers &= ~own
        others = held.taken(low, high) & some & ~numbers
        for at in islice(bits(others), MOST_LOOKS):
            left = everywhere if own >> at & 1 else everywhere & ~nodes[slot_of(protocol, low + at)]
            if not left & ~held.nodes(PortKey(WILDCARD, protocol, low + at)):
                numbers |= 1 << at
        self._full[candidates, protocol, low, high] = numbers
        return numbers

    def _some_and_every(self, candidates: CandidateSet, protocol: Protocol, low: int, high: int) -> tuple[int, int]:
        """The numbers of [low, high] that cool on some candidate, and on every one, less `low`; whoever had them."""
        known = self._cool.get((candidates, protocol, low, high))
        if known is not None:
            return known
        if candidates.is_wide:
            found = self._on_wide(candidates, protocol, low, high)
        else:
            numbers = [self._ports.on(position, protocol, low, high) for position in bits(candidates.nodes)]
            found = reduce(or_, numbers, 0), reduce(and_, numbers) if numbers else 0
        self._cool[candidates, protocol, low, high] = found
        return found

    def _on_wide(self, candidates: CandidateSet, protocol: Protocol, low: int, high: int) -> tuple[int, int]:
        """The same where the candidates are many."""
        within, nodes, slots = candidates.nodes, self._ports.nodes, slots_of(protocol, range(low, high + 1))
        # Written as text, in one go: there may be thousands.
        if len(slots) < 2 * len(nodes):
            cool = [nodes.get(slot, 0) & within for slot in reversed(slots)]
            some = bytearray([ONE if there else ZERO for there in cool])
            every = bytearray([ONE if there and there == within else ZERO for there in cool])
        else:
            some, every = bytearray([ZERO]) * len(slots), bytearray([ZERO]) * len(slots)
            for slot in filter(slots.__contains__, nodes):
                there = nodes[slot] & within
                if there:
                    at = high - (slot >> 2)
                    some[at] = ONE
                    every[at] = ONE if there == within else ZERO
        return int(some, 2), int(every, 2)


def by_chance(claim_id: ClaimId) -> Callable[[int], int]:
    """What picks one of a set of numbers by the chance that made an id: the core has no other."""
    seed = crc32(claim_id.encode())

    def pick(numbers: int) -> int:
        nonlocal seed
        seed = crc32(seed.to_bytes(4))
        return member(numbers, seed % numbers.bit_count())

    return pick


def member(numbers: int, rank: int) -> int:
    """The member of a set that has `rank` lower ones; found by halves, whatever the size of the set."""
    base, width = 0, numbers.bit_length()
    while width > 1:
        half = width // 2
        lower = numbers & ((1 << half) - 1)
        count = lower.bit_count()
        if rank < count:
            numbers, width = lower, half
        else:
            numbers, base, width, rank = numbers >> half, base + half, width - half, rank - count
    return base
