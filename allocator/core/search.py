"""Which numbers Dynamic tries for a Pod, the best first.

1. Those that the Pod had before (the caller knows them): a Pod that returns finds its clients waiting there.
2. The lowest that are free on *every* candidate: nobody stands there with it, and no unsettled claim that has it could
   land there. Whatever node the scheduler picks is then fine.
3. When there are none, those with the most candidates left: free candidates less the unsettled claims that could land
   on them, ties to the lowest. So the capacity of a range is numbers x nodes. For several groups whole tuples that
   claims of the same shape use already come first: tuples that overlap would waste what is left of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest

from allocator.core.asks import Ask
from allocator.core.occupancy import Scope
from allocator.core.policy import Group
from allocator.core.ports import Protocol, lowest
from allocator.core.room import World

MOST_TRIES = 8
"""How many choices of the third kind are tried: the first is right unless candidates differ."""

Numbers = tuple[int, ...]
"""One for each group."""


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
    if previous and _is_allowed(previous, ask, groups, world):
        yield previous
    found = lowest_free(ask, groups, world, lambda p: world.occupancy.taken(scope, p, ask.low, ask.high))
    if found:
        yield found
    else:
        yield from _roomiest(ask, groups, scope, world, used)


def lowest_free(ask: Ask, groups: Sequence[Group], world: World, taken: Callable[[Protocol], int]) -> Numbers:
    """A number for each group, all different; empty when the range has not enough. Bit 0 of a set is `ask.low`."""
    free = usable(ask, world)
    numbers = [group.number for group in groups]
    for number in numbers:
        if ask.low <= number <= ask.high:
            free &= ~(1 << (number - ask.low))
    taken_by: dict[Protocol, int] = {}
    for at, group in enumerate(groups):
        if group.number:
            continue
        here = free
        for member in group.members:
            protocol = ask.ports[member].protocol
            if protocol not in taken_by:
                taken_by[protocol] = taken(protocol)
            here &= ~taken_by[protocol]
        if not here:
            return ()
        found = lowest(here)
        numbers[at] = ask.low + found
        free &= ~(1 << found)
    return tuple(numbers)


def usable(ask: Ask, world: World) -> int:
    """The numbers of the range that are not reserved, less `ask.low`."""
    return ((1 << (ask.high - ask.low + 1)) - 1) & ~(world.reserved >> ask.low)


def _is_allowed(numbers: Numbers, ask: Ask, groups: Sequence[Group], world: World) -> bool:
    """Whether numbers from elsewhere are such as the ask could have got."""
    if len(numbers) != len(groups) or len(set(numbers)) != len(numbers):
        return False
    free = usable(ask, world)
    return all(
        number == group.number if group.number else ask.low <= number <= ask.high and free >> (number - ask.low) & 1
        for number, group in zip(numbers, groups, strict=True)
    )


def _roomiest(
    ask: Ask, groups: Sequence[Group], scope: Scope, world: World, used: Iterable[Numbers]
) -> Iterator[Numbers]:
    """Tuples in use, then the roomiest number for each group by itself; only where there is room at all."""
    rooms: dict[tuple[int, int], int] = {}

    def room(at: int, number: int) -> int:
        """For a group with a number: that of its tightest protocol."""
        if (at, number) not in rooms:
            protocols = {ask.ports[member].protocol for member in groups[at].members}
            rooms[at, number] = min(world.occupancy.room_for(scope, (protocol, number)) for protocol in protocols)
        return rooms[at, number]

    allowed = [numbers for numbers in used if _is_allowed(numbers, ask, groups, world)]
    ranked = [(-min(room(at, number) for at, number in enumerate(numbers)), numbers) for numbers in allowed]
    yield from (numbers for left, numbers in nsmallest(MOST_TRIES, ranked) if left < 0)
    alone = _each_by_itself(ask, groups, world, room)
    if len(groups) == 1:
        yield from ((number,) for number in alone[0])
    elif all(alone.values()):
        yield from _combined(groups, alone)


def _each_by_itself(
    ask: Ask, groups: Sequence[Group], world: World, room: Callable[[int, int], int]
) -> Mapping[int, list[int]]:
    """For each group its roomiest numbers, the best first; enough of them that groups need not share."""
    free = usable(ask, world)
    numbers = [ask.low + at for at in range(ask.high - ask.low + 1) if free >> at & 1]
    best: dict[int, list[int]] = {}
    for at, group in enumerate(groups):
        if group.number:
            best[at] = [group.number]
            continue
        ranked = nsmallest(MOST_TRIES + len(groups), ((-room(at, number), number) for number in numbers))
        best[at] = [number for left, number in ranked if left < 0]
    return best


def _combined(groups: Sequence[Group], alone: Mapping[int, list[int]]) -> Iterator[Numbers]:
    """Tuples of different numbers, each group stepping back from its best one by one."""
    for step in range(MOST_TRIES):
        numbers: list[int] = []
        for at in range(len(groups)):
            left = [number for number in alone[at] if number not in numbers]
            if not left:
                return
            numbers.append(left[min(step, len(left) - 1)])
        yield tuple(numbers)
