"""Which numbers groups get where one of them is a block: runs of numbers that do not meet.

Rules:

* A block begins at the lowest number that its alignment allows, or so many times its length above that (the *grid*):
  equal blocks then never leave gaps that are too small for the next one, and behave as single numbers do. Where no run
  of the grid is free, because ports of other sizes lie across it, any run that the alignment allows will do.
* Larger blocks are given before smaller ones, and those before single numbers.
* Sets of numbers are less the lowest of the range; a run is named by the number with which it begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, reduce
from itertools import chain
from typing import TYPE_CHECKING

from allocator.core.blocks import largest_within, multiples, runs, spread
from allocator.core.ports import Planes, Protocol, bits, lowest, span
from hostport.contract.limits import MOST_NUMBERS

if TYPE_CHECKING:
    from allocator.core.asks import PortGroup
    from allocator.core.place.view import Demand, Kind, Numbers, Steps

ROOM_STEPS, LEFT_STEPS = 0.1, 0.2
"""Steps to look whether there is room for one more run; and to take a run from what a kind of groups might get."""


def wants_runs(demand: Demand) -> bool:
    """Whether an open group has several numbers, or may not begin at any."""
    for group in demand.groups:  # noqa: SIM110 - in the way of decisions, and a generator takes twice as long
        if group.is_run and not group.number:
            return True
    return False


def begins(numbers: int, length: int, alignment: int, low: int, high: int) -> tuple[int, int]:
    """Where runs of so many members of a set begin: those of the grid, and all that the alignment allows."""
    every = runs(numbers, length)
    return every & grid(length, alignment, low, high), every & _allowed(alignment, low, high)


@lru_cache(maxsize=256)
def grid(length: int, alignment: int, low: int, high: int) -> int:
    """Where runs of the grid may begin in a range, were it longer."""
    return multiples(-(-length // alignment) * alignment, -low % alignment, high - low + 1)


@lru_cache(maxsize=MOST_NUMBERS)
def _allowed(alignment: int, low: int, high: int) -> int:
    """Where an alignment lets runs begin in a range."""
    return multiples(alignment, -low % alignment, high - low + 1)


@lru_cache(maxsize=256)
def _insides(length: int, alignment: int, low: int, high: int) -> int:
    """The numbers of the runs of the grid, the last one of each aside."""
    return spread(grid(length, alignment, low, high) << length - 2, length - 1)


def loads_of_runs(loads: Planes, length: int, alignment: int, low: int, high: int) -> Planes:
    """For each number the count of the run that begins with it: that of its busiest number.

    Where the numbers of each run of the grid have one count, as where all blocks are equal, theirs will do. Then the
    counts of other runs are too small; they only say what is tried first.
    """
    insides = _insides(length, alignment, low, high) if length > 1 else 0
    for plane in loads:
        if (plane ^ plane >> 1) & insides:
            return largest_within(loads, length)
    return loads


Form = tuple[frozenset[Protocol], int, int]
"""What kinds of groups have in common that differ in their addresses alone: protocols, length, alignment."""


def form_of(kind: Kind) -> Form:
    """The form of a kind."""
    return frozenset([protocol for protocol, *_ in kind]), kind[0][2], kind[0][3]


def begins_of_each(
    demand: Demand, forms: Iterable[Form], numbers_of: Callable[[frozenset[Protocol]], int]
) -> dict[Form, int]:
    """Where runs of each form may begin. numbers_of: gives those of the range that there are for some protocols."""
    low, high = demand.ask.low, demand.ask.high
    fits: dict[tuple[frozenset[Protocol], int], int] = {}
    found: dict[Form, int] = {}
    for form in forms:
        protocols, length, alignment = form
        if (protocols, length) not in fits:
            fits[protocols, length] = runs(numbers_of(protocols), length)
        found[form] = fits[protocols, length] & _allowed(alignment, low, high)
    return found


def begins_of(demand: Demand, kind: Kind, numbers: int) -> tuple[int, int]:
    """The same for a kind of groups of an ask."""
    *_, length, alignment = kind[0]
    return begins(numbers, length, alignment, demand.ask.low, demand.ask.high)


def apart(begin: int, length: int, other: int) -> int:
    """The numbers with which a run of length `other` cannot begin beside a run of some length, as a set."""
    return span(max(0, begin - other + 1), begin + length - 1)


def largest_first(groups: Sequence[PortGroup]) -> list[int]:
    """The positions of the open groups, those with the most numbers first, else in their order."""
    return sorted((at for at, group in enumerate(groups) if not group.number), key=lambda at: -groups[at].count)


def free_runs(
    demand: Demand, last: int, taken: Mapping[Protocol, int], pick: Callable[[int], int], without: int
) -> Numbers:
    """Numbers of [lowest of the range, last] that are free on every candidate; empty where it finds none for a group.

    taken: for each protocol those that are not. pick: chooses one of the numbers with which a run begins. without:
    numbers that are not given.
    """
    ask, groups, numbers = demand.ask, demand.groups, [group.number for group in demand.groups]
    free, length = demand.usable & ~without & span(0, last - ask.low), 0
    fits: dict[tuple[Protocol, ...], int] = {}  # where a run of the length begins, whatever the alignment
    for at in largest_first(groups):
        group, protocols = groups[at], tuple([ask.ports[member].protocol for member in groups[at].members])
        if group.count != length:
            length, fits = group.count, {}
        if protocols not in fits:
            fits[protocols] = runs(reduce(_without, map(taken.__getitem__, protocols), free), length)
        every = fits[protocols] & _allowed(group.alignment, ask.low, last)
        if not every:
            return ()
        begin = pick(every & grid(length, group.alignment, ask.low, last) or every)
        numbers[at] = ask.low + begin
        free &= ~span(begin, begin + length - 1)
        beside = ~apart(begin, length, length)
        for each in fits:
            fits[each] &= beside
    return tuple(numbers)


def _without(numbers: int, others: int) -> int:
    return numbers & ~others


def allows_blocks(demand: Demand, numbers: Numbers) -> bool:
    """Whether a number for each group, from elsewhere, is such as an ask with blocks could have got."""
    left, low = demand.usable, demand.ask.low
    for number, group in zip(numbers, demand.groups, strict=True):
        if group.number:
            if number != group.number:
                return False
            continue
        run = span(number - low, number - low + group.count - 1) if number >= low else 0
        if not run or run & ~left or number % group.alignment:
            return False
        left &= ~run
    return True


def packed(demand: Demand, here: Mapping[Kind, int], steps: Steps) -> Iterator[list[int]]:
    """Every way to give the open groups runs that do not meet, in port order; none where there is none.

    here: for each kind the numbers with which a run may begin. Where the steps are spent there may be others.
    """
    kinds = sorted(Counter(demand.kinds).items(), key=lambda each: -each[0][0][2])
    first = _first_fit(kinds, here)
    ways = (got for got in _ways(kinds, dict(here), steps) if got != first)
    for got in chain([first], ways) if first else ways:
        rest = {kind: iter(begins) for kind, begins in got.items()}
        yield [demand.ask.low + next(rest[kind]) for kind in demand.kinds]


def _first_fit(kinds: Sequence[tuple[Kind, int]], here: Mapping[Kind, int]) -> dict[Kind, list[int]]:
    """The lowest runs for each kind in turn: the first of all ways, found without looking ahead; empty: that fails."""
    got: dict[Kind, list[int]] = {}
    given = 0
    for kind, need in kinds:
        length, mine = kind[0][2], got.setdefault(kind, [])
        begins, end = here[kind] & ~spread(given, length), 0
        for _ in range(need):
            if not begins:
                return {}
            used = lowest(begins) + length
            begins, end = begins >> used, end + used
            mine.append(end - length)
        whole = (1 << length) - 1
        for begin in mine:
            given |= whole << begin
    return got


def _ways(kinds: Sequence[tuple[Kind, int]], here: dict[Kind, int], steps: Steps) -> Iterator[dict[Kind, list[int]]]:
    """Every way, as where the runs of each kind begin, ascending."""
    if not kinds:
        yield {}
        return
    (kind, need), *rest = kinds
    if not steps.spend(ROOM_STEPS * sum(many for _, many in kinds)):
        return
    if any(not has_room(here[other], other[0][2], many) for other, many in kinds):
        return
    if need == 0:
        for got in _ways(rest, here, steps):
            yield {kind: [], **got}
        return
    length = kind[0][2]
    for begin in bits(here[kind]):
        if not steps.spend(max(1.0, LEFT_STEPS * len(here))):
            return
        left = {other: begins & ~apart(begin, length, other[0][2]) for other, begins in here.items()}
        left[kind] &= ~span(0, begin)  # all of a kind want alike: they are given in order
        for got in _ways([(kind, need - 1), *rest], left, steps):
            yield {**got, kind: [begin, *got[kind]]}


def has_room(begins: int, length: int, need: int) -> bool:
    """Whether so many runs of a length by themselves do not meet: the lowest first, which is the most there can be."""
    for _ in range(need):
        if not begins:
            return False
        begins >>= lowest(begins) + length
    return True
