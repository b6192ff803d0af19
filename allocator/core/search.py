"""Which numbers Dynamic tries for a Pod, the best first.

1. Those that the Pod had before (the caller knows them): a Pod that returns finds its clients waiting there.
2. The lowest that are free on *every* candidate: nobody stands there with it, and no unsettled claim that has it could
   land there. Whatever node the scheduler picks is then fine.
3. When there are none, those with the most candidates left: free candidates less the unsettled claims that could land
   on them, ties to the lowest. So the capacity of a range is numbers x nodes. For several groups whole tuples that
   claims of the same shape use already come first: tuples that overlap would waste what is left of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from heapq import nsmallest

from allocator.core.asks import Ask
from allocator.core.occupancy import Scope
from allocator.core.policy import Group
from allocator.core.ports import Protocol, lowest
from allocator.core.room import World
from allocator.core.slots import bits

MOST_TRIES = 8
"""How many choices of the third kind are tried: the first is right unless candidates differ."""

FIRST_LOOK = 1024
"""How many numbers from the first gap on are looked at first."""

Numbers = tuple[int, ...]
"""One for each group."""

Taken = Callable[[Protocol, int, int], int]
"""The numbers of a protocol from one to another that are not free, less the first."""


def choices(
    ask: Ask, groups: Sequence[Group], scope: Scope, world: World, *, previous: Numbers, used: Iterable[Numbers]
) -> Iterator[Numbers]:
    """Numbers for each group, fixed ones included.

    Args:
        ask: what is asked.
        groups: its port groups, with number 0 where one is wanted.
        scope: the candidates.
        world: what stands where.
        previous: the numbers that the Pod had, or nothing.
        used: the numbers of live claims of the same shape.

    """
    if all(group.number for group in groups):
        yield tuple(group.number for group in groups)
        return
    if previous and _is_allowed(previous, ask, groups, usable(ask, world)):
        yield previous
    found = lowest_free(ask, groups, world, partial(world.occupancy.taken, scope), _gap(ask, groups, scope, world))
    if found:
        yield found
    else:
        yield from _roomiest(ask, groups, scope, world, used)


def _gap(ask: Ask, groups: Sequence[Group], scope: Scope, world: World) -> int:
    """From where on there may be a free number for any group: in a large cluster the bottom of a range is full."""
    protocols = {ask.ports[member].protocol for group in groups if not group.number for member in group.members}
    return min(world.occupancy.gap(scope, protocol, ask.low, world.reserved) for protocol in protocols)


def lowest_free(ask: Ask, groups: Sequence[Group], world: World, taken: Taken, low: int = 0) -> Numbers:
    """A number for each group, all different; empty when the range has not enough. None below `low` is free.

    A few are looked at first: the set of a wide range takes longer than all the rest of a decision.
    """
    low = max(low, ask.low)
    high = low + FIRST_LOOK - 1
    while high < ask.high:
        if found := _lowest_free(ask, groups, world, taken, low, high):
            return found
        high = low + 8 * (high - low)
    return _lowest_free(ask, groups, world, taken, low, ask.high) if low <= ask.high else ()


def _lowest_free(ask: Ask, groups: Sequence[Group], world: World, taken: Taken, low: int, high: int) -> Numbers:
    """The same from `low` to `high`. Bit 0 of a set is `low`."""
    free = _unreserved(low, high, world)
    numbers = [group.number for group in groups]
    for number in numbers:
        if low <= number <= high:
            free &= ~(1 << (number - low))
    taken_by: dict[Protocol, int] = {}
    for at, group in enumerate(groups):
        if group.number:
            continue
        here = free
        for member in group.members:
            protocol = ask.ports[member].protocol
            if protocol not in taken_by:
                taken_by[protocol] = taken(protocol, low, high)
            here &= ~taken_by[protocol]
        if not here:
            return ()
        found = lowest(here)
        numbers[at] = low + found
        free &= ~(1 << found)
    return tuple(numbers)


def usable(ask: Ask, world: World) -> int:
    """The numbers of the range that are not reserved, less `ask.low`."""
    return _unreserved(ask.low, ask.high, world)


def _unreserved(low: int, high: int, world: World) -> int:
    return ((1 << (high - low + 1)) - 1) & ~(world.reserved >> low)


def _is_allowed(numbers: Numbers, ask: Ask, groups: Sequence[Group], free: int) -> bool:
    """Whether numbers from elsewhere are such as the ask could have got; `free` as from `usable`."""
    if len(numbers) != len(groups) or len(set(numbers)) != len(numbers):
        return False
    return all(
        number == group.number if group.number else ask.low <= number <= ask.high and free >> (number - ask.low) & 1
        for number, group in zip(numbers, groups, strict=True)
    )


def _roomiest(
    ask: Ask, groups: Sequence[Group], scope: Scope, world: World, used: Iterable[Numbers]
) -> Iterator[Numbers]:
    """Tuples in use, then the roomiest number for each group by itself; only where there is room at all."""
    free = usable(ask, world)
    numbers = [ask.low + at for at in bits(free)]
    rooms = _rooms(ask, groups, scope, world, numbers)
    index = {number: at for at, number in enumerate(numbers)}

    def room(choice: Numbers) -> int:
        wanted = zip(groups, rooms, choice, strict=True)
        return min(of_group[index[number]] for group, of_group, number in wanted if not group.number)

    allowed = [choice for choice in used if _is_allowed(choice, ask, groups, free)]
    ranked = nsmallest(MOST_TRIES, ((-room(choice), choice) for choice in allowed))
    yield from (choice for left, choice in ranked if left < 0)
    yield from _combined(groups, numbers, rooms)


def _rooms(
    ask: Ask, groups: Sequence[Group], scope: Scope, world: World, numbers: Sequence[int]
) -> list[Sequence[int]]:
    """For each group how much room each number has: that of its tightest protocol. Nothing for fixed groups."""
    of_protocols: dict[frozenset[Protocol], Sequence[int]] = {}
    found: list[Sequence[int]] = []
    for group in groups:
        protocols = frozenset(ask.ports[member].protocol for member in group.members)
        if group.number:
            found.append(())
            continue
        if protocols not in of_protocols:
            each = [world.occupancy.rooms(scope, protocol, numbers) for protocol in protocols]
            of_protocols[protocols] = each[0] if len(each) == 1 else [min(pair) for pair in zip(*each, strict=True)]
        found.append(of_protocols[protocols])
    return found


def _combined(groups: Sequence[Group], numbers: Sequence[int], rooms: Sequence[Sequence[int]]) -> Iterator[Numbers]:
    """Tuples of different numbers, each the roomiest that is left; each next tuple does without those before."""
    spent: set[int] = {group.number for group in groups if group.number}
    for _ in range(MOST_TRIES):
        choice: list[int] = []
        for group, of_group in zip(groups, rooms, strict=True):
            number = group.number or _best(numbers, of_group, spent)
            if not number:
                return
            choice.append(number)
            spent.add(number)
        yield tuple(choice)


def _best(numbers: Sequence[int], rooms: Sequence[int], spent: set[int]) -> int:
    """The number with the most room, the lowest of equals; 0 where none has any."""
    most = max(rooms, default=0)
    while most > 0:
        for number, room in zip(numbers, rooms, strict=True):
            if room == most and number not in spent:
                return number
        most = max((room for room in rooms if room < most), default=0)
    return 0
