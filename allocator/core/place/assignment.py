"""Numbers where none of the range is free on every candidate: the roomiest first, and which group gets which.

The roomiest number has the most candidates left: free ones less the unsettled claims that could land on them; ties go
to the lowest. So the capacity of a range is numbers x nodes. For several groups whole tuples that claims of the same
shape use already come first: tuples that overlap would waste what is left of both. This order decides nothing, and
finding nothing by it proves nothing: the proof is `JointSearch`.

Groups that want different numbers get them by a bipartite matching. All groups of a kind want alike, so that kinds are
matched to numbers, each as often as it has groups. Sets of numbers are less the lowest of the range.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import islice

from allocator.core.blocks import spread
from allocator.core.place.packing import Form, begins_of, form_of, largest_first, packed, wants_runs
from allocator.core.place.view import Demand, Kind, Numbers, Steps, key_at, protocols_of
from allocator.core.ports import Planes, bits, count_of, least, lowest

MOST_TRIES = 8
"""How many choices of each kind are tried."""

MOST_COMPARED = 128
"""How many tuples in use are compared."""

MOST_NUMBERS_COMPARED, MOST_NUMBERS_TRIED = 4_096, 1_024
"""How many numbers the tuples in use that are compared have in all, and the choices that are tried of each kind."""

MOST_FORMS = 32
"""Groups of more forms are not given the roomiest numbers: to count for each of them takes long."""


def roomiest(demand: Demand, used: Iterator[Numbers]) -> Iterator[Numbers]:
    """A few choices of a number for each group, fixed ones included: tuples in use, then the roomiest for each.

    used: the numbers of live claims of the same shape, likely ones first.
    """
    kinds = {form_of(kind): kind for kind in set(demand.kinds)}  # one of each form: addresses play no part in this
    if len(kinds) > MOST_FORMS:
        return
    counts = {form: demand.loads_and_stuck(kind) for form, kind in kinds.items()}
    forms, many = list(map(form_of, demand.kinds)), len(demand.kinds)

    def load(numbers: Numbers) -> int:
        chosen = (number for number, group in zip(numbers, demand.groups, strict=True) if not group.number)
        return max(count_of(counts[form][0], n - demand.ask.low) for form, n in zip(forms, chosen, strict=True))

    size = demand.candidates.nodes.bit_count()
    compared = islice(used, min(MOST_COMPARED, MOST_NUMBERS_COMPARED // many + 1))
    allowed = (numbers for numbers in compared if demand.allows(numbers))
    tries = min(MOST_TRIES, MOST_NUMBERS_TRIED // many + 1)
    ranked = nsmallest(tries, ((load(numbers), numbers) for numbers in allowed))
    yield from (numbers for taken, numbers in ranked if taken < size)
    if wants_runs(demand):
        yield from islice(_roomiest_runs(demand, kinds, counts), tries)
        return
    rest = {form: by_load(counts[form][0], demand.usable_by(kinds[form]) & ~counts[form][1]) for form in kinds}
    given: set[int] = set()
    for _ in range(tries):
        chosen: list[int] = []
        for form in forms:
            number = next((number for number in rest[form] if number not in given), None)
            if number is None:
                return
            given.add(number)
            chosen.append(demand.ask.low + number)
        yield demand.numbers(chosen)


def _roomiest_runs(
    demand: Demand, kinds: Mapping[Form, Kind], counts: Mapping[Form, tuple[Planes, int]]
) -> Iterator[Numbers]:
    """The roomiest runs for each group that do not meet, larger groups first, those of the grid first; then others."""
    rest = {}
    for form, kind in kinds.items():
        of_grid, every = begins_of(demand, kind, demand.usable_by(kind))
        rest[form] = of_grid & ~counts[form][1], every & ~counts[form][1]
    of_group = dict(
        zip((at for at, group in enumerate(demand.groups) if not group.number), map(form_of, demand.kinds), strict=True)
    )
    given = 0
    while True:
        numbers = [group.number for group in demand.groups]
        for at in largest_first(demand.groups):
            form, count = of_group[at], demand.groups[at].count
            apart = ~spread(given, count)
            left = rest[form][0] & apart or rest[form][1] & apart
            if not left:
                return
            begin = lowest(least(counts[form][0], left))
            given |= (1 << count) - 1 << begin
            numbers[at] = demand.ask.low + begin
        yield tuple(numbers)


def by_likelihood(demand: Demand, kind: Kind, numbers: int, loads: Planes) -> Iterator[int]:
    """Where runs of a kind may begin in a set: the grid before all others, each the least loaded first.

    loads: what is known of where they begin, see `Demand.loads_and_stuck`.
    """
    grid, every = begins_of(demand, kind, numbers)
    yield from by_load(loads, grid)
    yield from by_load(loads, every & ~grid)


def by_load(loads: Planes, among: int) -> Iterator[int]:
    """Some numbers, those with the smallest count first."""
    while among:
        tier = least(loads, among)
        yield from bits(tier)
        among ^= tier


def matched(kinds: Sequence[Kind], tiers: Sequence[Mapping[Kind, int]]) -> dict[Kind, int]:
    """As many different numbers as can be for groups of some kinds, as a set for each kind.

    Numbers of an earlier tier are taken first. Augmenting paths over kinds: all groups of a kind want alike.
    """
    demands = Counter(kinds)
    taken, allowed = dict.fromkeys(demands, 0), dict.fromkeys(demands, 0)
    for tier in tiers:
        for kind in demands:
            allowed[kind] |= tier[kind]
        for kind, need in demands.items():
            while taken[kind].bit_count() < need and _augmented(kind, taken, allowed):
                pass
    return taken


def _augmented(kind: Kind, taken: dict[Kind, int], allowed: Mapping[Kind, int]) -> bool:
    """Gives a kind one number more, for which others may take another one instead of theirs."""
    used = 0
    for numbers in taken.values():
        used |= numbers
    wants: dict[Kind, Kind | None] = {kind: None}
    queue = deque([kind])
    while queue:
        one = queue.popleft()
        free = allowed[one] & ~used
        if free:
            _hand_on(one, free & -free, wants, taken, allowed)
            return True
        for other, numbers in taken.items():
            if other not in wants and numbers & allowed[one]:
                wants[other] = one
                queue.append(other)
    return False


def _hand_on(
    one: Kind, number: int, wants: Mapping[Kind, Kind | None], taken: dict[Kind, int], allowed: Mapping[Kind, int]
) -> None:
    """Gives a kind a number, and one of its own to the kind that wants it, and so on."""
    while (wanting := wants[one]) is not None:
        given = taken[one] & allowed[wanting]
        given &= -given
        taken[one] ^= given | number
        one, number = wanting, given
    taken[one] |= number


def handed_out(demand: Demand, got: Mapping[Kind, int]) -> list[int]:
    """The numbers that kinds of groups got, for the open groups in port order; empty where one lacks a number."""
    if sum(numbers.bit_count() for numbers in got.values()) < len(demand.kinds):
        return []
    rest = {kind: bits(numbers) for kind, numbers in got.items()}
    return [demand.ask.low + next(rest[kind]) for kind in demand.kinds]


def without_node(demand: Demand) -> Numbers:
    """Numbers for a Pod that fits nowhere now: those that most nodes will have, none that is leased on a candidate or
    that a Service holds.

    Empty where there are not enough.
    """
    if not demand.kinds:
        return demand.numbers(())
    if wants_runs(demand):
        return _runs_without_node(demand)
    tier = {}
    for kind in set(demand.kinds):
        among = demand.usable_by(kind)
        for protocol in protocols_of(kind):
            among &= demand.unleased[protocol]
        likely = by_load(demand.loads_and_stuck(kind)[0], among)
        unleased = (n for n in likely if not demand.is_leased(key_at(kind, demand.ask.low + n)))
        tier[kind] = sum(1 << number for number in islice(unleased, len(demand.kinds)))
    got = matched(demand.kinds, [tier])
    given = handed_out(demand, got)
    return demand.numbers(given) if given else ()


def _runs_without_node(demand: Demand) -> Numbers:
    """The same where a group has several numbers: the first runs, of those that are leased on no candidate."""
    here = {}
    for kind in set(demand.kinds):
        among = demand.usable_by(kind)
        for protocol in protocols_of(kind):
            among &= demand.unleased[protocol]
        grid, every = begins_of(demand, kind, among)
        here[kind] = grid or every
    for given in packed(demand, here, Steps()):
        numbers = demand.numbers(given)
        if not demand.is_leased(demand.keys(numbers)):
            return numbers
    return ()
