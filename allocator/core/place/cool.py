"""What is tried first where something cools: numbers that nobody gave up lately (see `index.cooling`).

It is an order and decides nothing: no plan moves for it, a search that is cut off is given up, and what is not found
here is looked for once more as if nothing cooled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from allocator.core.index.cooling import CoolDown
from allocator.core.place.assignment import roomiest
from allocator.core.place.joint import JointSearch, Stage
from allocator.core.place.view import Demand, Numbers, Steps, free_nodes, open_for_lease

COOL_STEPS = 200
"""Steps of a search for numbers that do not cool."""


def cool_choices(demand: Demand, cooling: CoolDown, used: Sequence[Numbers], steps: Steps) -> Iterator[Numbers]:
    """For a Pod: numbers that cool on no candidate; else some that are free on a candidate where they do not cool.

    Each but those that are free everywhere has such a node now.

    Args:
        demand: what is asked.
        cooling: what cools for it.
        used: the numbers of live claims of the same shape, one for each group.
        steps: what counting may cost.

    """
    found = demand.ask.policy.free_numbers(demand.cooler, steps)
    if found:
        yield found
    if not demand.candidates.nodes:
        return
    for numbers in roomiest(demand.cooler, iter(used)):
        if _cool_nodes(demand, numbers):
            yield numbers
    for numbers, _ in JointSearch(demand, Stage.FREE, Steps(COOL_STEPS), cooling).tuples():
        if _cool_nodes(demand, numbers):
            yield numbers


def _cool_nodes(demand: Demand, numbers: Numbers) -> int:
    """The candidates where the numbers are free together and none of them cools."""
    keys = demand.keys(numbers)
    return demand.unless_cooling(free_nodes(keys, demand.candidates, demand.view, demand.exempt), keys)


def cool_places(demand: Demand, cooling: CoolDown, nodes: int) -> Iterator[tuple[Numbers, int]]:
    """For a lease: numbers that cool on no candidate, and the nodes for them; else some that cool on none of theirs.

    nodes: where its fixed ports may stand.
    """
    steps = Steps(COOL_STEPS)
    numbers = demand.ask.policy.free_numbers(demand.cooler, steps) if demand.is_open else ()
    if numbers:
        yield numbers, nodes
    elif demand.is_open:
        for numbers, some in JointSearch(demand, Stage.LEASE, steps, cooling).tuples():
            keys = demand.keys(numbers)
            here = demand.unless_cooling(open_for_lease(keys, some, demand.view), keys)
            if here:
                yield numbers, here
